//! Inputs of jobs: the rows of Parquet files that messages point at, in a folder for each job.
//!
//! A folder's name is a job's id and says nothing of tenants. The results of the job tell, or its record.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use futures::TryStreamExt;
use object_store::path::Path;
use schemas::job::Job;

use super::{Left, Subject};
use crate::sink::Table;
use crate::store::Store;
use crate::tables::{Equals, Tables};
use crate::upkeep::UpkeepError;
use crate::upkeep::files::delete;

/// Jobs with inputs in a zone, by whom they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Those of the subject alone.
    pub its: BTreeSet<String>,
    /// Those of which no result tells whose they are.
    pub unknown: BTreeSet<String>,
    /// Those that cannot be erased.
    pub left: Vec<Left>,
}

impl Inputs {
    /// Looks for folders, and for results of their jobs.
    ///
    /// # Errors
    /// See [`UpkeepError`].
    pub async fn find(store: &Store, zone: &str, tables: &Tables, subject: &Subject) -> Result<Inputs, UpkeepError> {
        let mut inputs = Inputs {
            unknown: folders(store, zone).await?,
            ..Inputs::default()
        };
        if let Some(job) = &subject.job {
            inputs.unknown.retain(|folder| folder == job.as_str());
        }
        if inputs.unknown.is_empty() {
            return Ok(inputs);
        }
        for (job, owners) in owners(tables, subject, &inputs.unknown).await? {
            let its = owners.iter().filter(|owner| owner.is_of(subject)).count();
            inputs.unknown.remove(&job);
            if its == owners.len() {
                inputs.its.insert(job);
            } else if its > 0 {
                let others: Vec<String> = owners
                    .iter()
                    .map(|one| format!("{}/{}", one.tenant, one.project))
                    .collect();
                inputs.left.push(Left {
                    path: folder(zone, &job),
                    reason: format!("belongs to {} alike; take its rows out by hand", others.join(" and ")),
                });
            }
        }
        Ok(inputs)
    }

    /// Tells whose the unknown ones are by the records of their jobs. One without a record is taken if the subject
    /// names the job.
    pub fn attribute(&mut self, zone: &str, subject: &Subject, records: &BTreeMap<String, Job>) {
        for job in std::mem::take(&mut self.unknown) {
            match records.get(&job) {
                Some(record) => {
                    let owner = Owner {
                        tenant: record.tenant_id.to_string(),
                        project: record.project_id.to_string(),
                    };
                    if owner.is_of(subject) {
                        self.its.insert(job);
                    }
                }
                None if subject.job.is_some() => {
                    self.its.insert(job);
                }
                None => self.left.push(Left {
                    path: folder(zone, &job),
                    reason: format!(
                        "is of a job that was never submitted to its end, so nothing says whose it is; if it is of \
                         {0}, erase it: bitnet table erase --tenant {0} --job {job}",
                        subject.tenant
                    ),
                }),
            }
        }
    }

    /// Deletes the inputs of the subject's jobs, and says how many files they are; in a dry run it only counts.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erase(&self, store: &Store, zone: &str, dry_run: bool) -> Result<u64, UpkeepError> {
        let mut files = 0;
        for job in &self.its {
            let directory = store.path(&folder(zone, job));
            let listed = store.objects().list(Some(&directory)).map_ok(|meta| meta.location);
            let places: Result<Vec<Path>, _> = listed.try_collect().await;
            let places = places.map_err(|source| UpkeepError::store(&directory, source))?;
            files += places.len() as u64;
            if !dry_run {
                delete(store, places).await?;
            }
        }
        Ok(files)
    }
}

/// Who has rows of a job.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    tenant: String,
    project: String,
}

impl Owner {
    fn is_of(&self, subject: &Subject) -> bool {
        let is_project = |project: &schemas::ids::ProjectId| project.as_str() == self.project;
        subject.tenant.as_str() == self.tenant && subject.project.as_ref().is_none_or(is_project)
    }
}

fn folder(zone: &str, job: &str) -> String {
    format!("{zone}/_inputs/{job}")
}

async fn folders(store: &Store, zone: &str) -> Result<BTreeSet<String>, UpkeepError> {
    let directory = store.path(&folder(zone, ""));
    let listed = store.objects().list_with_delimiter(Some(&directory)).await;
    let folders = listed
        .map_err(|source| UpkeepError::store(&directory, source))?
        .common_prefixes;
    Ok(folders
        .iter()
        .filter_map(|path| path.filename().map(str::to_owned))
        .collect())
}

/// Who has rows of these jobs.
async fn owners(
    tables: &Tables,
    subject: &Subject,
    jobs: &BTreeSet<String>,
) -> Result<BTreeMap<String, BTreeSet<Owner>>, UpkeepError> {
    const COLUMNS: [&str; 3] = ["job_id", "tenant_id", "project_id"];
    let filter = subject.job.as_ref().map(|job| Equals {
        column: "job_id".to_owned(),
        value: job.to_string(),
    });
    let mut owners: BTreeMap<String, BTreeSet<Owner>> = BTreeMap::new();
    let mut batches = tables.scan(Table::Results, &COLUMNS, filter.as_ref()).await?;
    while let Some(batch) = batches.try_next().await? {
        let [job_ids, tenants, projects] = [0, 1, 2].map(|column| batch.column(column).as_string::<i32>());
        for row in (0..batch.num_rows()).filter(|row| jobs.contains(job_ids.value(*row))) {
            let owner = Owner {
                tenant: tenants.value(row).to_owned(),
                project: projects.value(row).to_owned(),
            };
            owners.entry(job_ids.value(row).to_owned()).or_default().insert(owner);
        }
    }
    Ok(owners)
}
