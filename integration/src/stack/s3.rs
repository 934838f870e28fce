//! An S3 server (versitygw) over a local folder, which tests may look into while workers write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;

use super::{Process, free_port, installed, run_folder, shared};

const START_MAX: Duration = Duration::from_secs(30);
const ACCESS_KEY: &str = "integration";
const SECRET_KEY: &str = "integration-secret";

/// A running S3 server.
#[derive(Debug)]
pub struct S3 {
    _process: Process,
    port: u16,
    folder: PathBuf,
}

/// A bucket of its own for one test.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// `s3://<bucket>`.
    pub uri: String,
    /// Where the server keeps the bucket's objects, one file each.
    pub folder: PathBuf,
    /// What S3 clients read from the environment.
    pub env: Vec<(&'static str, String)>,
}

impl S3 {
    /// The server of this test process.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    pub fn shared() -> &'static S3 {
        static SHARED: OnceLock<S3> = OnceLock::new();
        shared(&SHARED, S3::start)
    }

    /// Starts a server with no buckets.
    fn start() -> Result<S3> {
        let folder = run_folder("s3")?;
        let data = folder.join("data");
        fs::create_dir(&data)?;
        let port = free_port()?;
        let mut command = Command::new(installed()?.join("versitygw"));
        command
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY)
            .args(["--port", &format!("127.0.0.1:{port}"), "posix"])
            .arg(&data);
        let mut process = Process::start("s3", &command, &folder)?;
        process.wait_for_port(port, START_MAX)?;
        Ok(S3 {
            _process: process,
            port,
            folder: data,
        })
    }

    /// Makes a bucket; `name` has 3 to 63 lower-case letters, digits and dashes.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder)?;
        Ok(Bucket {
            uri: format!("s3://{name}"),
            folder,
            env: env_at(self.port),
        })
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Bucket {
    /// The same bucket, reached through another port.
    pub fn through(&self, port: u16) -> Bucket {
        Bucket {
            env: env_at(port),
            ..self.clone()
        }
    }

    /// The objects below `prefix` whose names end with `suffix`, as paths, sorted.
    pub fn objects(&self, prefix: &str, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.folder.join(prefix), suffix, &mut found);
        found.sort();
        found
    }
}

fn env_at(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ]
}

/// Files may come and go while this looks; a folder that is not there has none.
fn collect(folder: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, suffix, found);
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
}
