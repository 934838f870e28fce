//! The `bitnet` program as operators run it: settings in the environment, signals, exit codes, files.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::stack::{Bucket, Kafka, Process, S3, repository, run_folder, target};

/// Request topics of one region, in the order of the lanes' names.
const LANES: [&str; 3] = ["interactive", "standard", "bulk"];
/// A worker that was killed leaves its group after so long.
const SESSION_TIMEOUT: &str = "6s";

/// How a Kafka consumer group is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Members elect a leader, which assigns.
    Classic,
    /// The broker assigns (KIP-848).
    Consumer,
}

/// Topics, a bucket and settings of one test's own, on the shared servers.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The bucket that holds the tables.
    pub bucket: Bucket,
    /// Region of the request topics, and name of the consumer group.
    pub name: String,
    folder: PathBuf,
    env: Vec<(String, String)>,
}

impl Deployment {
    /// Makes the three request topics with `partitions` each, and the bucket. `name` must suit both.
    pub fn new(name: &str, partitions: i32, protocol: GroupProtocol) -> Result<Deployment> {
        let topics = LANES.map(|lane| format!("bitnet.requests.{name}.{lane}"));
        Kafka::shared().create_topics(&topics.each_ref().map(String::as_str), partitions, &[])?;
        let bucket = S3::shared().bucket(name)?;
        let mut deployment = Deployment {
            bucket,
            name: name.to_owned(),
            folder: run_folder(name)?,
            env: Vec::new(),
        };
        deployment.set("KAFKA__BOOTSTRAP_SERVERS", &Kafka::shared().bootstrap());
        deployment.set("KAFKA__GROUP_ID", name);
        match protocol {
            GroupProtocol::Classic => deployment.set("KAFKA__SESSION_TIMEOUT", SESSION_TIMEOUT),
            GroupProtocol::Consumer => {
                deployment.set("KAFKA__PROPERTIES__GROUP_PROTOCOL", "consumer");
                // Of each lane a like share for every worker, as in docker-compose.yml.
                deployment.set("KAFKA__PROPERTIES__GROUP_REMOTE_ASSIGNOR", "range");
            }
        }
        deployment.set("WORKER__REGION", name);
        deployment.set("WORKER__RESIDENCY_ZONE", Self::ZONE);
        deployment.set("WORKER__THREADS", "1");
        let uri = deployment.bucket.uri.clone();
        deployment.set("STORE__URI", &uri);
        Ok(deployment)
    }

    /// The residency zone of every deployment.
    pub const ZONE: &str = "eu";

    /// Overrides a setting, e.g. `("FLUSH__ROWS_MAX", "20")`.
    pub fn set(&mut self, key: &str, value: &str) {
        self.env.push((format!("BITNET__{key}"), value.to_owned()));
    }

    /// The same deployment whose programs reach the bucket through another port.
    pub fn through(&self, port: u16) -> Deployment {
        Deployment {
            bucket: self.bucket.through(port),
            ..self.clone()
        }
    }

    /// The topic of the lane that most tests use.
    pub fn topic(&self) -> String {
        format!("bitnet.requests.{}.standard", self.name)
    }

    /// A folder for this test's own files.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Starts `bitnet worker`; `name` is its id in the group.
    pub fn start_worker(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command(&["worker"])?;
        command.args(arguments).env("BITNET__WORKER__ID", name);
        Process::start(name, &command, &self.folder)
    }

    /// Runs `bitnet worker --drain` to its end, which must be a success.
    pub fn drain(&self, name: &str, limit: Duration) -> Result<()> {
        let mut worker = self.start_worker(name, &["--drain"])?;
        let status = worker.wait(limit)?;
        ensure!(status == 0, "exit status {status}; {}", worker.log_end());
        Ok(())
    }

    /// Runs `bitnet` to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(arguments).current_dir(&self.folder);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.envs(self.bucket.env.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }
}

/// `bitnet` in the release profile, built by the first caller.
pub fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let target = target()?;
    let built = BUILT.get_or_init(|| {
        // With a test among the targets the features are those of `cargo test --workspace`, which runs this:
        // nothing is built a second time.
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--workspace", "--bin", "bitnet", "--test", "tidy"])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(repository())
            .status()
            .is_ok_and(|status| status.success())
    });
    ensure!(built, "cannot build the program bitnet");
    Ok(target.join("release/bitnet"))
}
