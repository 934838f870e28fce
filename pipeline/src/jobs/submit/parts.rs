//! Rows of a Parquet job, stored as small files that messages point at.

use object_store::ObjectStoreExt;
use schemas::request::{ClaimCheck, ClaimCheckColumns};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Input, JobSpec, SubmitError};
use crate::jobs::columns::{self, Row};
use crate::settings::Settings;
use crate::store::Store;

/// Where the parts of one job go.
pub(super) struct Parts {
    store: Store,
    /// Relative to the store; ends in a slash.
    folder: String,
    columns: ClaimCheckColumns,
    template: Value,
}

impl Parts {
    /// None if the requests travel in the messages.
    pub(super) async fn open(settings: &Settings, spec: &JobSpec, input: &Input) -> Result<Option<Parts>, SubmitError> {
        let Input::Parquet { columns, template, .. } = input else {
            return Ok(None);
        };
        let store = Store::open(&settings.store.uri)?;
        let patience = settings.store.start_timeout;
        let silent = |_| SubmitError::StoreSilent {
            uri: settings.store.uri.clone(),
            patience,
        };
        tokio::time::timeout(patience, store.check()).await.map_err(silent)??;
        let folder = format!("{}/_inputs/{}/", settings.worker.residency_zone, spec.job_id);
        Ok(Some(Parts {
            store,
            folder,
            columns: columns.clone(),
            template: template.clone(),
        }))
    }

    /// Stores the rows as one file, and says how to find it.
    pub(super) async fn store(&self, batch_seq: u32, rows: &[Row]) -> Result<ClaimCheck, SubmitError> {
        let relative = format!("{}part-{batch_seq:06}.parquet", self.folder);
        let uri = format!("{}{relative}", self.store.url());
        let file = columns::part(rows, &self.columns).map_err(|error| SubmitError::Input {
            place: uri.clone(),
            problem: error.to_string(),
        })?;
        let sha256 = hex::encode(Sha256::digest(&file));
        let stored = self.store.objects().put(&self.store.path(&relative), file.into()).await;
        stored.map_err(|source| SubmitError::Upload {
            uri: uri.clone(),
            source,
        })?;
        let (columns, template) = (self.columns.clone(), self.template.clone());
        Ok(ClaimCheck {
            uri,
            sha256,
            row_groups: vec![0],
            columns,
            template,
        })
    }
}
