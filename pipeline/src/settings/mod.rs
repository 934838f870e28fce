//! Every setting, typed, checked once before anything starts.
//!
//! `config/default.toml` in the binary, then the file of `--config`, then `BITNET__SECTION__KEY` from
//! the environment. The merged settings are read after each layer, so an error names the layer that
//! brought it. Each part of the program is handed its own section and nothing else.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, FileFormat};
use schemas::request::ServiceTier;
use serde::{Deserialize, Serialize};

pub mod environment;
pub mod error;
pub mod properties;
mod lanes;
mod validate;

pub use error::SettingsError;
pub use properties::KafkaProperties;

const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// All settings in force. Serialising hides secrets.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The broker and how to talk to it.
    pub kafka: KafkaSettings,
    /// Where tables and intents lie.
    pub store: StoreSettings,
    /// Where models lie.
    pub models: ModelsSettings,
    /// Who this worker is and what it reads.
    pub worker: WorkerSettings,
    /// Compute and memory of the engine.
    pub engine: EngineSettings,
    /// When rows become files.
    pub flush: FlushSettings,
    /// What a submission may not exceed.
    pub limits: LimitsSettings,
    /// Prices and contracts.
    pub billing: BillingSettings,
}

/// `[kafka]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// Consumer group of the workers.
    pub group_id: String,
    /// Which life of the request topics this is; raised when they were deleted and made again.
    pub topic_epoch: u32,
    /// Request batches that one worker holds at most, from read to committed.
    pub in_flight_max: NonZeroUsize,
    /// How long to wait for the broker's first answer.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    /// How long a producer keeps trying to deliver a message.
    #[serde(with = "humantime_serde")]
    pub delivery_timeout: Duration,
    /// How long a member may miss heartbeats. Only for classic groups; the broker decides for new ones.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// How long a member may go without polling.
    #[serde(with = "humantime_serde")]
    pub poll_interval_max: Duration,
    /// librdkafka properties, passed through.
    pub properties: KafkaProperties,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// `file:///dir` or `s3://bucket/prefix`.
    pub uri: String,
    /// How long to wait for the store's first answer.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    /// How long the store may be away while running.
    #[serde(with = "humantime_serde")]
    pub outage_max: Duration,
}

/// `[models]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelsSettings {
    /// Each subfolder is a model, named by the folder; unset: the bundled demo model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

/// `[worker]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    /// Unique in the group; host name and process id unless set.
    #[serde(default = "host_and_process")]
    pub id: String,
    /// Third part of the request topics' names.
    pub region: String,
    /// Whose data this worker may hold; first folder below `store.uri`.
    pub residency_zone: String,
    /// Which lanes are read, named by the tier that each carries.
    #[serde(with = "lanes")]
    pub lanes: Vec<ServiceTier>,
    /// Compute threads; 0 is one per core.
    pub threads: usize,
    /// How long in-flight work may take to finish when partitions are revoked or a stop is asked.
    #[serde(with = "humantime_serde")]
    pub drain_budget: Duration,
}

/// `[engine]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Tokens computed in one step.
    pub tokens_per_step_max: NonZeroUsize,
    /// Sequences that run at once.
    pub sequences_max: NonZeroUsize,
    /// Bytes of the key-value pool, allocated once per model.
    pub kv_bytes_max: NonZeroUsize,
}

/// `[flush]`: when a partition's finished rows become a file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlushSettings {
    /// Flush at this many rows.
    pub rows_max: NonZeroU32,
    /// Flush once the oldest row is this old.
    #[serde(with = "humantime_serde")]
    pub age_max: Duration,
}

/// `[limits]`: enforced when a job is submitted and again when a message is read.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSettings {
    /// Bytes of one Kafka message, and so of one line of a submitted file.
    pub message_bytes_max: NonZeroUsize,
    /// Requests in one message.
    pub requests_per_batch_max: NonZeroUsize,
    /// Rows of the Parquet file that a message points at.
    pub claim_check_rows_max: NonZeroUsize,
    /// Bytes of that file.
    pub claim_check_bytes_max: NonZeroU64,
}

/// `[billing]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BillingSettings {
    /// Price book; unset: the bundled example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<PathBuf>,
    /// Contracts; unset: the bundled examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contracts: Option<PathBuf>,
}

impl Settings {
    /// Defaults, then `file`, then this process's environment; read once and checked.
    pub fn load(file: Option<&Path>) -> Result<Settings, SettingsError> {
        Self::load_with(file, std::env::vars_os())
    }

    /// As [`Settings::load`], with the environment given.
    pub fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, SettingsError> {
        let mut builder = Config::builder().add_source(config::File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
                path: path.to_owned(),
                source,
            })?;
            builder = builder.add_source(config::File::from_str(&text, FileFormat::Toml));
            read(builder.clone(), &format!("file {}", path.display()))?;
        }
        let layer = environment::Layer::of(environment)?;
        let settings = read(builder.add_source(layer), "the environment")?;
        validate::check(&settings)?;
        Ok(settings)
    }

    /// The topic that carries requests of `tier` in this region.
    pub fn request_topic(&self, tier: ServiceTier) -> String {
        format!("bitnet.requests.{}.{}", self.worker.region, tier.lane())
    }
}

fn read(builder: config::ConfigBuilder<config::builder::DefaultState>, place: &str) -> Result<Settings, SettingsError> {
    builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|source| SettingsError::refused(place, &source))
}

fn host_and_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let host = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(48);
    format!("{}-{}", host.collect::<String>(), std::process::id())
}

#[cfg(test)]
mod tests;
