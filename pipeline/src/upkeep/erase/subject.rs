//! Whose texts are erased, and how they show in the rows of `results`.

use arrow::array::{AsArray, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{and, is_not_null, nullif, or};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;
use futures::TryStreamExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use schemas::ids::{JobId, ProjectId, TenantId};
use schemas::result::CONTENT_COLUMNS;

use super::super::reading;
use crate::chunk::PartitionId;
use crate::store::Store;
use crate::tables::{TableError, open_file};

/// Where a row's message stood.
const POSITION: [&str; 4] = ["kafka_topic", "kafka_epoch", "kafka_partition", "kafka_offset"];

/// A tenant, or one of its projects or jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Whose.
    pub tenant: TenantId,
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only of this job.
    pub job: Option<JobId>,
}

/// A file that holds texts of a subject.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Rows with texts.
    pub(super) rows: u64,
    /// Where the first of them stood.
    pub(super) partition: PartitionId,
    pub(super) offset: i64,
}

impl Subject {
    /// What a file of `results` holds of it; none if there are no texts.
    pub(super) async fn look(&self, store: &Store, place: &Path, size: u64) -> Result<Option<Held>, TableError> {
        let failed = |source| TableError::file(place, source);
        let reader = open_file(store, place, size, reading()).await?;
        let columns = self
            .columns()
            .map(|(name, _)| name)
            .chain(POSITION)
            .chain(CONTENT_COLUMNS);
        let mask = ProjectionMask::columns(reader.parquet_schema(), columns);
        let mut batches = reader.with_projection(mask).build().map_err(failed)?;
        let mut held: Option<Held> = None;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            let found = self.held(&batch).map_err(|error| failed(error.into()))?;
            held = match (held, found) {
                (Some(held), Some(found)) => Some(Held {
                    rows: held.rows + found.rows,
                    ..held
                }),
                (held, found) => held.or(found),
            };
        }
        Ok(held)
    }

    /// The rows without the texts of those that are its.
    pub(super) fn without_texts(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let its = self.rows(batch)?;
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let columns = columns.map(
            |(field, column)| match CONTENT_COLUMNS.contains(&field.name().as_str()) {
                true => nullif(column, &its),
                false => Ok(column.clone()),
            },
        );
        RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
    }

    fn held(&self, batch: &RecordBatch) -> Result<Option<Held>, ArrowError> {
        let mut has_text = BooleanArray::from(vec![false; batch.num_rows()]);
        for column in CONTENT_COLUMNS.iter().filter_map(|name| batch.column_by_name(name)) {
            has_text = or(&has_text, &is_not_null(column)?)?;
        }
        let held = and(&self.rows(batch)?, &has_text)?;
        let Some(first) = held.iter().position(|held| held == Some(true)) else {
            return Ok(None);
        };
        let column = |name| Ok::<_, ArrowError>(batch.column(batch.schema().index_of(name)?).clone());
        let [topic, epoch, partition, offset] = POSITION;
        Ok(Some(Held {
            rows: held.true_count() as u64,
            partition: PartitionId {
                topic: column(topic)?.as_string::<i32>().value(first).to_owned(),
                epoch: column(epoch)?.as_primitive::<Int32Type>().value(first).unsigned_abs(),
                partition: column(partition)?.as_primitive::<Int32Type>().value(first),
            },
            offset: column(offset)?.as_primitive::<Int64Type>().value(first),
        }))
    }

    /// Which rows are its.
    fn rows(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let mut its = BooleanArray::from(vec![true; batch.num_rows()]);
        for (name, value) in self.columns() {
            let column = batch.column(batch.schema().index_of(name)?);
            its = and(&its, &cmp::eq(column, &Scalar::new(StringArray::from(vec![value])))?)?;
        }
        Ok(its)
    }

    /// The columns that tell, each with its value.
    pub fn columns(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let project = self.project.iter().map(|project| ("project_id", project.as_str()));
        let job = self.job.iter().map(|job| ("job_id", job.as_str()));
        std::iter::once(("tenant_id", self.tenant.as_str()))
            .chain(project)
            .chain(job)
    }
}
