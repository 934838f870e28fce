//! Fetches the requests that a message only points at.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use schemas::ids::CustomId;
use schemas::request::{ClaimCheck, Request};
use sha2::{Digest, Sha256};
use url::Url;

use crate::store::{Store, is_outage};

/// Rows decoded at a time, so that a file of few bytes and huge texts is noticed early.
const BATCH_ROWS: usize = 64;

/// What a claim check's file may not exceed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimCheckLimits {
    /// Bytes of the file, and of all its texts together.
    pub bytes_max: u64,
    /// Rows of the row groups named.
    pub rows_max: usize,
}

/// Why a claim check gives no requests.
#[derive(Debug, thiserror::Error)]
pub enum ClaimCheckError {
    /// The file is not what the message says; the message ends as a dead letter.
    #[error("input {uri}: {problem}")]
    Invalid {
        /// The file.
        uri: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The store did not answer; the same message may succeed later.
    #[error("cannot read input {uri}")]
    Store {
        /// The file.
        uri: String,
        /// What the store said.
        source: object_store::Error,
    },
}

/// Reads the requests of `check`: one per row, in file order.
///
/// # Errors
/// See [`ClaimCheckError`].
pub async fn read(
    store: &Store,
    check: &ClaimCheck,
    limits: ClaimCheckLimits,
) -> Result<Vec<Request>, ClaimCheckError> {
    let file = fetch(store, check, limits.bytes_max).await?;
    let uri = check.uri.clone();
    let check = check.clone();
    tokio::task::spawn_blocking(move || rows(file, &check, limits))
        .await
        .expect("reading a Parquet file does not panic")
        .map_err(|problem| ClaimCheckError::Invalid { uri, problem })
}

/// Only files below `store.uri` are read: a message must not make a worker open anything else.
async fn fetch(store: &Store, check: &ClaimCheck, bytes_max: u64) -> Result<Bytes, ClaimCheckError> {
    let invalid = |problem: String| ClaimCheckError::Invalid {
        uri: check.uri.clone(),
        problem,
    };
    let url = Url::parse(&check.uri).map_err(|error| invalid(format!("not a URI: {error}")))?;
    let relative = url.as_str().strip_prefix(store.url().as_str());
    let relative = relative.ok_or_else(|| invalid(format!("must lie below {}", store.url())))?;
    let relative = Path::from_url_path(relative).map_err(|error| invalid(error.to_string()))?;
    let path = store.path(relative.as_ref());
    let explain = |source: object_store::Error| match source {
        source if is_outage(&source) => ClaimCheckError::Store {
            uri: check.uri.clone(),
            source,
        },
        source => invalid(error_chain(&source)),
    };
    let found = store.objects().get(&path).await.map_err(explain)?;
    if found.meta.size > bytes_max {
        return Err(invalid(format!(
            "has {} bytes, at most {bytes_max} are allowed",
            found.meta.size
        )));
    }
    found.bytes().await.map_err(explain)
}

fn rows(file: Bytes, check: &ClaimCheck, limits: ClaimCheckLimits) -> Result<Vec<Request>, String> {
    let found = hex::encode(Sha256::digest(&file));
    if !found.eq_ignore_ascii_case(&check.sha256) {
        return Err(format!("SHA-256 is {found}, but the message says {}", check.sha256));
    }
    let unreadable = |error: ParquetError| format!("not a readable Parquet file: {error}");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
    let groups = builder.metadata().num_row_groups();
    let mut rows = 0_usize;
    for &group in &check.row_groups {
        if group as usize >= groups {
            return Err(format!("row group {group} does not exist, the file has {groups}"));
        }
        let count = builder.metadata().row_group(group as usize).num_rows();
        rows = rows.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
    }
    if rows > limits.rows_max {
        return Err(format!(
            "the row groups have {rows} rows, at most {} are allowed",
            limits.rows_max
        ));
    }
    let columns = [check.columns.custom_id.as_str(), check.columns.text.as_str()];
    for column in columns {
        match builder.schema().field_with_name(column).map(|field| field.data_type()) {
            Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {}
            Ok(other) => return Err(format!("column {column:?} must hold text, but holds {other}")),
            Err(_) => return Err(format!("there is no column {column:?}")),
        }
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let groups = check.row_groups.iter().map(|&group| group as usize).collect();
    let reader = builder
        .with_projection(mask)
        .with_row_groups(groups)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(unreadable)?;
    let (mut requests, mut bytes) = (Vec::with_capacity(rows), 0_u64);
    for batch in reader {
        let batch = batch.map_err(|error| format!("not a readable Parquet file: {error}"))?;
        let [ids, texts] = columns.map(|column| texts(&batch[column]));
        for (id, text) in ids.into_iter().zip(texts) {
            let row = requests.len();
            let id = id.ok_or_else(|| format!("row {row}: custom_id is null"))?;
            let custom_id = CustomId::try_from(id).map_err(|error| format!("row {row}: {error}"))?;
            let text = text.unwrap_or_default();
            bytes = bytes.saturating_add(text.len() as u64);
            if bytes > limits.bytes_max {
                return Err(format!(
                    "the texts have more than the {} bytes that are allowed",
                    limits.bytes_max
                ));
            }
            requests.push(Request {
                custom_id,
                body: check.body(&text),
            });
        }
    }
    Ok(requests)
}

fn texts(column: &dyn Array) -> Vec<Option<String>> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    match column.data_type() {
        DataType::LargeUtf8 => column.as_string::<i64>().iter().map(owned).collect(),
        DataType::Utf8View => column.as_string_view().iter().map(owned).collect(),
        _ => column.as_string::<i32>().iter().map(owned).collect(),
    }
}

/// The error with everything behind it, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
