//! What erasing leaves of a tenant, and of the books.

use anyhow::Result;

use super::store::CLOSED;
use super::{books, plant};

/// Erasing is what a data protection officer asks for: nothing in the store says what a tenant asked or was
/// answered. Its name is in none of the tables in the first place: a tenant id is a pseudonym.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_a_tenants_content_changes_no_total() -> Result<()> {
    let books = books().await.copy()?;
    let csv = ["report", "usage", "--by", "project,region,day", "--format", "csv"];
    let reports: [&[&str]; 6] = [
        &csv,
        &["report", "usage"],
        &["report", "invoice", "--month", CLOSED],
        &["report", "focus", "--month", CLOSED],
        &["report", "reconcile"],
        &["billing", "verify"],
    ];
    let printed = || -> Result<Vec<String>> { reports.iter().map(|report| books.printed(report)).collect() };
    let before = printed()?;
    let (acme, globex) = (
        plant::mentions(&books, "Dear Ms acme")?,
        plant::mentions(&books, "Dear Ms globex")?,
    );
    assert!(acme > 0 && globex > 0);
    let erase = ["table", "erase", "--tenant", "acme"];
    for rows in [acme, 0] {
        let told = books.printed(&erase)?;
        let line = told
            .lines()
            .find(|line| line.starts_with("rows that lose their texts "));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {rows}"))), "{told}");
    }
    assert_eq!(plant::mentions(&books, "Dear Ms acme")?, 0);
    assert_eq!(plant::mentions(&books, "Dear Ms globex")?, globex);
    assert_eq!(printed()?, before);
    books.printed(&["table", "check"])?;
    Ok(())
}
