//! How good the answers are: against the known labels, and against the reference implementation.

use std::collections::HashMap;

use arrow::array::AsArray;
use futures::TryStreamExt;

use super::documents::Document;
use crate::cli::Failure;
use crate::settings::Settings;
use crate::sink::Table;
use crate::store::Store;
use crate::tables::Tables;

/// Measured with scikit-learn on the same prompts; see the model card.
const BASELINE: &str = "a TF-IDF bag of words with a linear SVM: 85.2 % of all held-out records";

/// Two lines of verdict, read back from `results`.
pub(super) async fn of(settings: &Settings, documents: &[Document], bundled: bool) -> Result<String, Failure> {
    let store = Store::open(&settings.store.uri)?;
    let tables = Tables::open(&store, &settings.worker.residency_zone).await?;
    let mut answers: HashMap<String, String> = HashMap::new();
    let mut batches = tables.scan(Table::Results, &["custom_id", "output_text"], None).await?;
    while let Some(batch) = batches.try_next().await? {
        let (ids, texts) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for (id, text) in ids.iter().zip(texts) {
            answers.insert(
                id.unwrap_or_default().to_owned(),
                text.unwrap_or_default().trim().to_owned(),
            );
        }
    }
    let count = |truth: fn(&Document) -> Option<&String>| {
        let known = documents
            .iter()
            .filter_map(|document| Some((document, truth(document)?)));
        known.fold((0_u32, 0_u32), |(right, all), (document, truth)| {
            (right + u32::from(answers.get(&document.id) == Some(truth)), all + 1)
        })
    };
    let mut lines = Vec::new();
    let (right, all) = count(|document| document.label.as_ref());
    if all > 0 {
        let baseline = if bundled {
            format!(" ({BASELINE})")
        } else {
            String::new()
        };
        let percent = 100.0 * f64::from(right) / f64::from(all);
        lines.push(format!("Accuracy  {right} of {all} labels, {percent:.1} %{baseline}"));
    }
    let (same, all) = count(|document| document.expected.as_ref());
    if all > 0 {
        lines.push(format!(
            "Exactness {same} of {all} answers are those of transformers in float32"
        ));
    }
    Ok(lines.join("\n"))
}
