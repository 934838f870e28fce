//! Upkeep of the tables moves files and takes texts away, and no report may show it.

use std::fs;

use anyhow::Result;

use super::store::{Books, CLOSED, OPEN};
use super::{books, plant};

/// Everything that is printed of the books.
fn printed(books: &Books) -> Result<Vec<String>> {
    let reports: [&[&str]; 6] = [
        &["report", "usage", "--by", "project,region,day", "--format", "csv"],
        &["report", "usage"],
        &["report", "invoice", "--month", CLOSED],
        &["report", "focus", "--month", CLOSED],
        &["report", "reconcile"],
        &["billing", "verify"],
    ];
    reports.iter().map(|report| books.printed(report)).collect()
}

/// Erasing is what a data protection officer asks for: nothing in the store says what a tenant asked or was
/// answered. Its name is in none of the tables in the first place: a tenant id is a pseudonym.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_a_tenants_content_changes_no_total() -> Result<()> {
    let books = books().await.copy()?;
    let before = printed(&books)?;
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
    assert_eq!(printed(&books)?, before);
    books.printed(&["table", "check"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacting_changes_no_report_and_no_month_that_is_closed_before_or_after() -> Result<()> {
    let plain = books().await.copy()?;
    plain.close(OPEN, "2026-12-04T00:00:00Z").await?;
    let both = printed(&plain)?;

    let books = books().await.copy()?;
    let before = printed(&books)?;
    let files = |month: &str| Ok::<_, anyhow::Error>(plant::ledger_files(&books, month)?.len());
    let (closed, open) = (files(CLOSED)?, files(OPEN)?);
    for told in [" files of ", ": 0 files of 0 B became 0\n"] {
        let compacted = books.printed(&["table", "compact"])?;
        assert!(
            compacted.lines().all(|line| format!("{line}\n").contains(told)),
            "{compacted}"
        );
    }
    // Small files stay until vacuum.
    assert_eq!((files(CLOSED)?, files(OPEN)?), (closed, open + 1));
    books.printed(&["table", "check"])?;
    assert_eq!(printed(&books)?, before);
    books.close(OPEN, "2026-12-04T00:00:00Z").await?;
    assert_eq!(printed(&books)?, both);
    Ok(())
}

/// A month may be locked between the moment at which compaction looks for locks and that of its log entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_is_locked_while_it_is_compacted_charges_nothing_twice() -> Result<()> {
    let plain = books().await.copy()?;
    plain.close(OPEN, "2026-12-04T00:00:00Z").await?;
    let expected = printed(&plain)?;

    let books = books().await.copy()?;
    let (month, aside) = (books.path("_billing/periods"), books.path("aside"));
    fs::rename(&month, &aside)?;
    books.printed(&["table", "compact", "--month", CLOSED, "--table", "billing_events"])?;
    fs::rename(&aside, &month)?;
    let check = books.printed(&["table", "check"])?;
    let ledger = check
        .lines()
        .find(|line| line.contains("billing_events"))
        .unwrap_or_default();
    let locked = ledger.split_whitespace().nth(6);
    assert!(locked.is_some_and(|count| count != "0"), "{check}");
    books.close(OPEN, "2026-12-04T00:00:00Z").await?;
    assert_eq!(printed(&books)?, expected);
    Ok(())
}
