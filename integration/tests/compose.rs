//! `docker-compose.yml` and `Dockerfile`: loaded by the Compose project's own library, run as far as that goes
//! without a docker daemon, and held against the program's settings.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use integration::bitnet::binary;
use integration::stack::{installed, repository, run_folder};
use serde_json::Value;

/// Everything the workers read and write.
const TOPICS: [(&str, &str); 6] = [
    ("bitnet.requests.local.interactive", "--partitions 8"),
    ("bitnet.requests.local.standard", "--partitions 8"),
    ("bitnet.requests.local.bulk", "--partitions 8"),
    ("bitnet.jobs", "--partitions 1 --config cleanup.policy=compact"),
    ("bitnet.job-events", "--partitions 1"),
    ("bitnet.dead-letters", "--partitions 1"),
];

#[test]
fn a_misspelt_key_is_refused_so_the_check_means_something() -> Result<()> {
    let file = fs::read_to_string(repository().join("docker-compose.yml"))?;
    let broken = run_folder("compose")?.join("docker-compose.yml");
    fs::write(&broken, file.replace("healthcheck:", "healthchek:"))?;
    let output = load(&broken.to_string_lossy())?;
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("healthchek"), "{error}");
    Ok(())
}

#[test]
fn every_service_waits_for_what_it_needs() -> Result<()> {
    let compose = compose()?;
    for (service, condition) in [
        (
            "/services/worker-1/depends_on/topics/condition",
            "service_completed_successfully",
        ),
        ("/services/worker-1/depends_on/s3/condition", "service_healthy"),
        (
            "/services/worker-2/depends_on/topics/condition",
            "service_completed_successfully",
        ),
        ("/services/worker-2/depends_on/s3/condition", "service_healthy"),
        ("/services/topics/depends_on/kafka/condition", "service_healthy"),
        (
            "/services/s3/depends_on/bucket/condition",
            "service_completed_successfully",
        ),
    ] {
        assert_eq!(
            compose.pointer(service).and_then(Value::as_str),
            Some(condition),
            "{service}"
        );
    }
    for service in ["kafka", "s3"] {
        let test = compose.pointer(&format!("/services/{service}/healthcheck/test"));
        assert!(
            test.is_some(),
            "{service} has no health check, so nobody can wait for it"
        );
    }
    Ok(())
}

#[test]
fn ports_are_open_to_this_machine_only() -> Result<()> {
    let compose = compose()?;
    let services = compose["services"].as_object().context("services")?;
    for (name, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name}: {port}");
        }
    }
    Ok(())
}

#[test]
fn the_topics_script_makes_every_topic() -> Result<()> {
    let compose = compose()?;
    let topics = &compose["services"]["topics"];
    assert_eq!(topics["entrypoint"], serde_json::json!(["/bin/sh", "-euc"]));
    // Compose turns `$$` into `$` only when it starts the container, so the loader may leave it.
    let script = topics["command"][0].as_str().context("a script")?.replace("$$", "$");
    let printed = script.replace("/opt/kafka/bin/kafka-topics.sh", "echo");
    let output = Command::new("/bin/sh").args(["-euc", &printed]).output()?;
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout)?;
    let expected: Vec<String> = TOPICS
        .iter()
        .map(|(name, rest)| format!("--bootstrap-server kafka:19092 --create --if-not-exists --topic {name} {rest}"))
        .collect();
    assert_eq!(made.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn the_program_accepts_every_workers_settings() -> Result<()> {
    let compose = compose()?;
    for service in ["worker-1", "worker-2", "submit", "report"] {
        let environment: BTreeMap<String, String> =
            serde_json::from_value(compose["services"][service]["environment"].clone())?;
        let output = Command::new(binary()?)
            .args(["config", "show"])
            .envs(&environment)
            .output()?;
        ensure!(
            output.status.success(),
            "{service}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let shown = String::from_utf8(output.stdout)?;
        for (key, value) in environment.iter().filter(|(key, _)| key.starts_with("BITNET__")) {
            assert!(
                shown.contains(&format!("\"{value}\"")),
                "{key} of {service} has no effect:\n{shown}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_servers_are_those_that_the_tests_run_on() -> Result<()> {
    let compose = compose()?;
    let pom = fs::read_to_string(repository().join("integration/stack/kafka-pom.xml"))?;
    let install = fs::read_to_string(repository().join("integration/stack/install.sh"))?;
    let version = |service: &str| {
        let image = compose["services"][service]["image"].as_str().unwrap_or_default();
        image
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .trim_start_matches('v')
            .to_owned()
    };
    assert!(pom.contains(&format!("<version>{}</version>", version("kafka"))));
    assert!(install.contains(&format!("go_tool versitygw {} ", version("s3"))));
    Ok(())
}

#[test]
fn the_image_builds_the_program_that_is_tested() -> Result<()> {
    let dockerfile = fs::read_to_string(repository().join("Dockerfile"))?;
    let builds: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("RUN cargo "))
        .collect();
    assert_eq!(builds, ["build --release --locked --package pipeline --bin bitnet"]);
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(repository())
        .output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let pipeline = packages
        .iter()
        .find(|package| package["name"] == "pipeline")
        .context("no package pipeline")?;
    let mut programs = pipeline["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["kind"][0] == "bin");
    assert!(programs.any(|program| program["name"] == "bitnet"));
    for line in [
        "USER bitnet",
        "ENTRYPOINT [\"bitnet\"]",
        "COPY --from=build /build/target/release/bitnet /usr/local/bin/bitnet",
    ] {
        assert!(
            dockerfile.lines().any(|found| found == line),
            "the Dockerfile lacks {line}"
        );
    }
    Ok(())
}

/// The file as Compose understands it.
fn compose() -> Result<Value> {
    let output = load("docker-compose.yml")?;
    ensure!(
        output.status.success(),
        "docker-compose.yml: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn load(file: &str) -> Result<Output> {
    let mut command = Command::new(installed()?.join("compose-config"));
    command.args(["-format", "json", file]).current_dir(repository());
    Ok(command.output()?)
}
