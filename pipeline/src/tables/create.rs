//! Makes a table: the first entry of its log, put-if-absent like every other.
//!
//! Reader version 1 and writer version 2 mean no deletion vectors and no column mapping, so that every
//! Delta reader works. The entry is written here because the kernel has no public way to partition a
//! new table. Format: Delta protocol, "Actions".

use arrow::datatypes::Schema;
use delta_kernel::KernelError;
use delta_kernel::engine::arrow_conversion::TryFromArrow;
use delta_kernel::schema::StructType;
use futures::TryStreamExt;
use object_store::PutMode;
use object_store::path::Path;
use serde_json::json;
use ulid::Ulid;

use super::{DeltaTable, TableError};
use crate::sink::Table;

/// Opens the table, or makes it first. A table that stands there already must have our columns.
pub(super) async fn create_if_missing(table: &DeltaTable) -> Result<(), TableError> {
    let root = Path::from_url_path(table.url.path()).map_err(|e| table.failed(e.into()))?;
    let log = root.join("_delta_log");
    let store_failed = |source| table.failed(KernelError::ObjectStore(source));
    // Any entry will do: the first ones may have been cleaned away behind a checkpoint.
    if table
        .store
        .objects()
        .list(Some(&log))
        .try_next()
        .await
        .map_err(store_failed)?
        .is_none()
    {
        let entry = first_entry(table.table, &delta_schema(table)?).map_err(|e| table.failed(e))?;
        let path = log.join("00000000000000000000.json");
        match table
            .store
            .objects()
            .put_opts(&path, entry.into(), PutMode::Create.into())
            .await
        {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(source) => return Err(store_failed(source)),
        }
    }
    let snapshot = table.snapshot().await?;
    let ours = delta_schema(table)?;
    let theirs = snapshot.schema();
    for field in ours.fields() {
        let reason = match theirs.field(field.name()) {
            None => format!(
                "it has no column {}; add it (ALTER TABLE … ADD COLUMN) or use another zone",
                field.name()
            ),
            Some(found) if found.data_type() != field.data_type() => format!(
                "its column {} is {}, but must be {}; use another zone",
                field.name(),
                found.data_type(),
                field.data_type()
            ),
            Some(_) => continue,
        };
        return Err(TableError::Schema {
            url: table.url.clone(),
            reason,
        });
    }
    Ok(())
}

fn delta_schema(table: &DeltaTable) -> Result<StructType, TableError> {
    let arrow_schema = table.table.arrow_schema();
    let schema: &Schema = &arrow_schema;
    StructType::try_from_arrow(schema).map_err(|source| table.failed(source.into()))
}

fn first_entry(table: Table, schema: &StructType) -> Result<String, KernelError> {
    let now = jiff::Timestamp::now().as_millisecond();
    let schema = serde_json::to_string(schema)?;
    let mut configuration = json!({ "delta.dataSkippingStatsColumns": table.stats_columns().join(",") });
    if table == Table::BillingEvents {
        configuration["delta.appendOnly"] = json!("true");
    }
    let actions = [
        json!({ "commitInfo": { "timestamp": now, "operation": "CREATE TABLE", "engineInfo": "bitnet" } }),
        json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }),
        json!({ "metaData": {
            "id": schemas::ids::uuid_of("table", &[&Ulid::generate().to_bytes()]),
            "name": table.name(),
            "format": { "provider": "parquet", "options": {} },
            "schemaString": schema,
            "partitionColumns": [table.partition_column()],
            "configuration": configuration,
            "createdTime": now,
        } }),
    ];
    Ok(actions.map(|action| action.to_string()).join("\n"))
}
