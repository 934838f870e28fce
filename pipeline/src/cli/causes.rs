//! Which exit code and remedy each part's errors come to.

use super::{Exit, Failure};
use crate::jobs::publish::PublishError;
use crate::jobs::submit::SubmitError;
use crate::models::ModelsError;
use crate::settings::SettingsError;
use crate::store::StoreError;
use crate::tables::TableError;
use crate::upkeep::UpkeepError;

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        let remedy = error.remedy();
        Failure::new(Exit::Usage, error).help(remedy)
    }
}

impl From<ModelsError> for Failure {
    fn from(error: ModelsError) -> Failure {
        let (exit, remedy) = match &error {
            ModelsError::Dir { .. } => (Exit::Usage, "point models.dir at a folder whose subfolders are models"),
            ModelsError::Unknown { .. } => (
                Exit::Usage,
                "name one of them, or put the model's folder into models.dir",
            ),
            ModelsError::Load { .. } => (
                Exit::BadInput,
                "fetch the model's files again; nothing of it was loaded",
            ),
            ModelsError::Unpack { .. } => (Exit::Internal, "it is written to TMPDIR for a moment; make room there"),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let (exit, remedy) = match &error {
            StoreError::Uri { .. } => (Exit::Usage, "correct store.uri"),
            StoreError::Unconditional { .. } => (Exit::Usage, "choose a store that honours If-None-Match"),
            StoreError::Directory { .. } => (Exit::Unreachable, "name a directory that can be made, in store.uri"),
            StoreError::MissingBucket { .. } => (Exit::Unreachable, "create the bucket, or correct store.uri"),
            StoreError::Denied { .. } => (
                Exit::Unreachable,
                "let this user or these AWS_* credentials write there",
            ),
            StoreError::Unreachable { .. } => (Exit::Unreachable, "check AWS_ENDPOINT_URL and that the store is up"),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Failure {
        let (exit, remedy) = match &error {
            TableError::Missing { .. } => (Exit::BadInput, "nothing was committed there yet"),
            TableError::Schema { .. } => (Exit::BadInput, "name a table of this version of bitnet"),
            TableError::Gone { .. } => (
                Exit::Outage,
                "run again; if that says the same, the file is lost, and `bitnet table check` names every such file",
            ),
            error if error.is_outage() => (Exit::Outage, "check that the store is up, and run again"),
            _ => (
                Exit::Internal,
                "the table may be damaged; other readers, such as DuckDB, can tell",
            ),
        };
        Failure::new(exit, error).help(remedy)
    }
}

impl From<UpkeepError> for Failure {
    fn from(error: UpkeepError) -> Failure {
        match error {
            UpkeepError::Table(error) => error.into(),
            UpkeepError::Period(error) => error.into(),
            error if error.is_outage() => {
                Failure::new(Exit::Outage, error).help("check that the store is up, and run again")
            }
            UpkeepError::Intent(_) => {
                Failure::new(Exit::CheckFailed, error).help("without it nobody knows which files are needed")
            }
            UpkeepError::Store { .. } | UpkeepError::Stage(_) => {
                Failure::new(Exit::Internal, error).help("let this user list, read, write and delete there")
            }
            UpkeepError::Commit(_) | UpkeepError::Rewrite { .. } => {
                Failure::new(Exit::Internal, error).help("`bitnet table check` says whether files are damaged")
            }
        }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Failure {
        match &error {
            PublishError::Settings(_) => {
                Failure::new(Exit::Usage, error).help("correct kafka.properties; `bitnet config show` prints them")
            }
            PublishError::Unreachable { .. } => Failure::new(Exit::Unreachable, error).help(
                "check kafka.bootstrap_servers and that the broker is up; kafka.start_timeout is how long to wait",
            ),
            PublishError::MissingTopic { topic, servers } => {
                let compacted = if topic == crate::jobs::submit::JOBS_TOPIC {
                    " --config cleanup.policy=compact"
                } else {
                    ""
                };
                let create = format!(
                    "create it: kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} --partitions 8{compacted}"
                );
                Failure::new(Exit::Usage, error).help(create)
            }
            PublishError::Send { .. } => Failure::new(Exit::Outage, error).help("check the broker and run again"),
        }
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Failure {
        match error {
            SubmitError::Store(error) => error.into(),
            SubmitError::Publish(error) => error.into(),
            SubmitError::Input { .. } => Failure::new(Exit::BadInput, error).help("correct the file; nothing was sent"),
            SubmitError::Spec { .. } => Failure::new(Exit::Usage, error).help("`bitnet submit --help` has examples"),
            SubmitError::Changed { .. } => {
                Failure::new(Exit::BadInput, error).help("submit again once nobody writes to the files")
            }
            SubmitError::StoreSilent { .. } => Failure::new(Exit::Unreachable, error).help(
                "check store.uri, AWS_ENDPOINT_URL and that the store is up; store.start_timeout is how long to wait",
            ),
            SubmitError::Upload { .. } => Failure::new(Exit::Outage, error).help("check the store and run again"),
        }
    }
}
