//! The demo's documents, and the two files they are submitted as.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{Exit, Failure};
use crate::models::BUNDLED;

const BUNDLED_DOCUMENTS: &str = include_str!("../../../demo/documents/documents.jsonl");
/// Marks a folder as one that a demo may replace.
const MARK: &str = ".bitnet-demo";

/// One record to be labelled.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Document {
    /// Its `custom_id`.
    pub(super) id: String,
    /// What the model reads.
    pub(super) prompt: String,
    /// What is true.
    pub(super) label: Option<String>,
    /// What the reference implementation answers.
    pub(super) expected: Option<String>,
}

/// The 2,500 records in the binary.
pub(super) fn bundled() -> Vec<Document> {
    parse("bundled documents", BUNDLED_DOCUMENTS).expect("the bundled documents are valid")
}

/// Reads a file of documents.
pub(super) fn read(file: &Path) -> Result<Vec<Document>, Failure> {
    let place = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::new(Exit::BadInput, format!("cannot read {place}: {error}"))
            .help("give --documents a UTF-8 JSONL file")
    })?;
    parse(&place, &text)
}

fn parse(place: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let help = "each line is an object with id and prompt, and optionally label and expected";
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let documents: Result<Vec<Document>, Failure> = lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                Failure::new(Exit::BadInput, format!("{place}, line {}: {error}", number + 1)).help(help)
            })
        })
        .collect();
    match documents {
        Ok(documents) if documents.is_empty() => {
            Err(Failure::new(Exit::BadInput, format!("{place} holds no documents")).help(help))
        }
        documents => documents,
    }
}

/// Empties what an earlier demo left in `dir` and gives the folder of the object store.
pub(super) fn prepare_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("cannot prepare {}: {error}", dir.display()))
            .help("give --dir a folder that can be written")
    };
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !dir.join(MARK).exists() {
        let problem = format!("{} holds files that no demo made", dir.display());
        return Err(
            Failure::new(Exit::Usage, problem).help("give --dir an empty folder, or one that does not exist yet")
        );
    }
    let store = dir.join("store");
    if store.exists() {
        fs::remove_dir_all(&store).map_err(failed)?;
    }
    fs::create_dir_all(&store).map_err(failed)?;
    fs::write(dir.join(MARK), "").map_err(failed)?;
    store.canonicalize().map_err(failed)
}

/// Writes the lines that OpenAI's Batch API takes.
pub(super) fn write_lines(path: &Path, documents: &[Document], template: &Value) -> Result<PathBuf, Failure> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for document in documents {
        let mut body = template.clone();
        body["model"] = json!(BUNDLED);
        body["prompt"] = json!(document.prompt);
        let line = json!({ "custom_id": document.id, "method": "POST", "url": "/v1/completions", "body": body });
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    Ok(path.to_owned())
}

/// Writes a Parquet file with the columns `id` and `prompt`.
pub(super) fn write_parquet(path: &Path, documents: &[Document]) -> Result<PathBuf, Failure> {
    let column = |text: fn(&Document) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(documents.iter().map(text)))
    };
    let columns = [
        ("id", column(|document| &document.id)),
        ("prompt", column(|document| &document.prompt)),
    ];
    let failed = |error: parquet::errors::ParquetError| Failure::new(Exit::Internal, error);
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| failed(error.into()))?;
    let mut writer = ArrowWriter::try_new(fs::File::create(path)?, batch.schema(), None).map_err(failed)?;
    writer.write(&batch).and_then(|()| writer.close()).map_err(failed)?;
    Ok(path.to_owned())
}
