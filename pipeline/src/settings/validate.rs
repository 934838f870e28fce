//! What types cannot say: names that become topics and folders, and durations that must nest.

use super::{Settings, SettingsError};

/// Properties that the exactly-once path depends on, and where to set what they stand for.
const OURS: [(&str, &str); 13] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("group.id", "set kafka.group_id"),
    ("session.timeout.ms", "set kafka.session_timeout"),
    ("max.poll.interval.ms", "set kafka.poll_interval_max"),
    ("delivery.timeout.ms", "set kafka.delivery_timeout"),
    (
        "statistics.interval.ms",
        "leave it out: the reader learns from statistics where partitions end",
    ),
    ("enable.auto.commit", "leave it out: progress lives in the tables"),
    ("enable.auto.offset.store", "leave it out: progress lives in the tables"),
    ("auto.offset.reset", "leave it out: progress lives in the tables"),
    ("isolation.level", "leave it out: only committed messages are read"),
    ("enable.idempotence", "leave it out: producers are idempotent"),
    ("acks", "leave it out: producers wait for all replicas"),
];

/// The first thing that cannot work.
pub(super) fn check(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        kafka, store, worker, ..
    } = settings;
    filled(
        "kafka.bootstrap_servers",
        &kafka.bootstrap_servers,
        "write host:port, comma-separated",
    )?;
    filled(
        "kafka.group_id",
        &kafka.group_id,
        "write the name of the workers' consumer group",
    )?;
    store_uri(&store.uri)?;
    for (key, value) in [
        ("worker.id", &worker.id),
        ("worker.region", &worker.region),
        ("worker.residency_zone", &worker.residency_zone),
    ] {
        name(key, value)?;
    }
    if worker.lanes.is_empty() {
        let remedy = "name at least one of interactive, standard, bulk";
        return Err(refuse("worker.lanes", "[]", "reads nothing", remedy));
    }
    if worker.drain_budget >= kafka.poll_interval_max / 2 {
        let shown = format!("{:?}", worker.drain_budget);
        let problem = format!(
            "is not well under kafka.poll_interval_max ({:?})",
            kafka.poll_interval_max
        );
        return Err(refuse(
            "worker.drain_budget",
            &shown,
            &problem,
            "stay below half of kafka.poll_interval_max",
        ));
    }
    for (property, value) in kafka.properties.iter() {
        if let Some((_, remedy)) = OURS.iter().find(|(ours, _)| *ours == property) {
            let problem = format!("sets {property}, which is not free to choose");
            return Err(refuse("kafka.properties", value, &problem, remedy));
        }
    }
    Ok(())
}

fn filled(key: &'static str, value: &str, remedy: &str) -> Result<(), SettingsError> {
    if value.trim().is_empty() {
        return Err(refuse(key, value, "is empty", remedy));
    }
    Ok(())
}

fn store_uri(uri: &str) -> Result<(), SettingsError> {
    let remedy = "write file:///dir or s3://bucket/prefix";
    if let Some((_, rest)) = uri.split_once("://")
        && rest.split('/').next().is_some_and(|host| host.contains('@'))
    {
        let remedy = "give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Err(refuse("store.uri", "(hidden)", "holds credentials", remedy));
    }
    match uri.split_once("://") {
        Some(("file", path)) if !path.is_empty() => Ok(()),
        Some(("s3", rest)) if rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()) => Ok(()),
        _ => Err(refuse("store.uri", uri, "is neither a folder nor a bucket", remedy)),
    }
}

/// Becomes part of a topic's name or of a path.
fn name(key: &'static str, value: &str) -> Result<(), SettingsError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&value.len()) && value.chars().all(fits) && !value.starts_with('.') {
        return Ok(());
    }
    Err(refuse(
        key,
        value,
        "cannot be part of a topic's name or of a path",
        "use 1 to 64 of a-z A-Z 0-9 - _ .",
    ))
}

fn refuse(key: &'static str, value: &str, problem: &str, remedy: &str) -> SettingsError {
    SettingsError::Value {
        key,
        value: value.to_owned(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}
