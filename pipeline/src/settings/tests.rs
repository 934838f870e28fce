use std::ffi::OsString;
use std::io::Write;

use super::*;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Settings::load_with(Some(written.path()), environment)
}

/// The error must say `expected`, all of it, and offer a remedy.
fn refused(file: &str, environment: &[(&str, &str)], expected: &[&str]) {
    let error = load(file, environment).expect_err("these settings must be refused");
    let said = format!("{error} / {}", error.remedy());
    for part in expected {
        assert!(said.contains(part), "{said:?} does not mention {part:?}");
    }
}

#[test]
fn defaults_stand_alone() {
    let settings = Settings::load_with(None, []).unwrap();
    assert_eq!(settings.kafka.bootstrap_servers, "localhost:9092");
    assert_eq!(
        settings.worker.lanes,
        [ServiceTier::Interactive, ServiceTier::Standard, ServiceTier::Batch]
    );
    assert_eq!(settings.models.dir, None);
    assert!(!settings.worker.id.is_empty());
    assert_eq!(settings.request_topic(ServiceTier::Batch), "bitnet.requests.local.bulk");
}

#[test]
fn environment_overrides_file_overrides_defaults() {
    let file = "[kafka]\ngroup_id = 'from-file'\nbootstrap_servers = 'from-file:1'\n[flush]\nage_max = '2m'";
    let settings = load(
        file,
        &[
            ("BITNET__KAFKA__GROUP_ID", "from-env"),
            ("BITNET__FLUSH__ROWS_MAX", "7"),
        ],
    )
    .unwrap();
    assert_eq!(settings.kafka.group_id, "from-env");
    assert_eq!(settings.kafka.bootstrap_servers, "from-file:1");
    assert_eq!(settings.flush.age_max, Duration::from_secs(120));
    assert_eq!(settings.flush.rows_max.get(), 7);
    assert_eq!(settings.kafka.topic_epoch, 1);
}

#[test]
fn lanes_are_read_from_a_list_and_from_text() {
    let only_bulk = [ServiceTier::Batch];
    assert_eq!(load("[worker]\nlanes = ['bulk']", &[]).unwrap().worker.lanes, only_bulk);
    let lanes = load("", &[("BITNET__WORKER__LANES", "bulk, standard,bulk")])
        .unwrap()
        .worker
        .lanes;
    assert_eq!(lanes, [ServiceTier::Batch, ServiceTier::Standard]);
}

#[test]
fn a_property_means_the_same_in_every_form() {
    let quoted = load("[kafka.properties]\n'security.protocol' = 'SSL'", &[]).unwrap();
    let nested = load("[kafka.properties]\nsecurity.protocol = 'SSL'", &[]).unwrap();
    let dotted = load("", &[("BITNET__KAFKA__PROPERTIES__security.protocol", "SSL")]).unwrap();
    let shouted = load("", &[("BITNET__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SSL")]).unwrap();
    for settings in [quoted, nested, dotted, shouted] {
        assert_eq!(
            settings.kafka.properties.iter().collect::<Vec<_>>(),
            [("security.protocol", "SSL")]
        );
    }
    let typed = load(
        "[kafka.properties]\n'socket.keepalive.enable' = true\n'fetch.wait.max.ms' = 5",
        &[],
    )
    .unwrap();
    let typed: Vec<_> = typed.kafka.properties.iter().collect();
    assert_eq!(typed, [("fetch.wait.max.ms", "5"), ("socket.keepalive.enable", "true")]);
}

#[test]
fn environment_replaces_a_property_of_the_file() {
    let file = "[kafka.properties]\n'ssl.key.password' = 'a'\n'client.rack' = 'x'";
    let settings = load(file, &[("BITNET__KAFKA__PROPERTIES__SSL_KEY_PASSWORD", "b")]).unwrap();
    let read: Vec<_> = settings.kafka.properties.iter().collect();
    assert_eq!(read, [("client.rack", "x"), ("ssl.key.password", "b")]);
}

#[test]
fn secrets_are_never_printed() {
    let file = "[kafka.properties]\n'sasl.password' = 'hunter2'\n'sasl.username' = 'hunter2'\n\
                'ssl.key.pem' = 'hunter2'\n'sasl.mechanism' = 'SCRAM-SHA-512'";
    let settings = load(file, &[]).unwrap();
    let shown = toml::to_string(&settings).unwrap();
    assert!(shown.contains("SCRAM-SHA-512"), "{shown}");
    assert!(!shown.contains("hunter2") && !format!("{settings:?}").contains("hunter2"));
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let settings = load("[worker]\nlanes = ['bulk']\n[models]\ndir = '/srv/models'", &[]).unwrap();
    let shown = toml::to_string(&settings).unwrap();
    let again = load(&shown, &[]).unwrap();
    assert_eq!(toml::to_string(&again).unwrap(), shown);
}

#[test]
fn unknown_keys_are_refused_with_their_place() {
    refused(
        "[kafka]\nbootstrap = 'x'",
        &[],
        &["file /", "unknown field `bootstrap`", "bootstrap_servers", "kafka"],
    );
    refused("[kafak]\ngroup_id = 'x'", &[], &["unknown field `kafak`", "kafka"]);
    refused("top = 1", &[], &["unknown field `top`"]);
    refused(
        "",
        &[("BITNET__KAFKA__GROUPID", "x")],
        &["the environment", "unknown field `groupid`", "group_id"],
    );
    refused("", &[("BITNET__NOPE", "x")], &["BITNET__NOPE", "BITNET__SECTION__KEY"]);
    refused("", &[("BITNET__KAFKA[9999999999]__X", "x")], &["names no setting"]);
}

#[test]
fn wrong_values_are_refused_with_key_and_value() {
    refused(
        "",
        &[("BITNET__FLUSH__ROWS_MAX", "many")],
        &["flush.rows_max", "many", "BITNET__FLUSH__ROWS_MAX"],
    );
    refused(
        "",
        &[("BITNET__FLUSH__ROWS_MAX", "0")],
        &["flush.rows_max", "0", "nonzero"],
    );
    refused(
        "",
        &[("BITNET__ENGINE__SEQUENCES_MAX", "-4")],
        &["engine.sequences_max", "-4"],
    );
    refused("[flush]\nage_max = 'soon'", &[], &["flush.age_max", "soon"]);
    refused(
        "[worker]\nlanes = ['fast']",
        &[],
        &["worker.lanes", "fast", "interactive"],
    );
    refused("[worker]\nlanes = []", &[], &["worker.lanes", "at least one"]);
    refused("[worker]\nregion = 'a/b'", &[], &["worker.region", "a/b"]);
    refused("[worker]\nresidency_zone = '..'", &[], &["worker.residency_zone", ".."]);
    refused(
        "[worker]\ndrain_budget = '10m'",
        &[],
        &["worker.drain_budget", "600s", "kafka.poll_interval_max"],
    );
    refused(
        "[store]\nuri = 'gs://bucket'",
        &[],
        &["store.uri", "gs://bucket", "s3://bucket/prefix"],
    );
    refused(
        "[store]\nuri = 's3://key:word@bucket'",
        &[],
        &["store.uri", "AWS_ACCESS_KEY_ID"],
    );
    refused(
        "[kafka]\nbootstrap_servers = ' '",
        &[],
        &["kafka.bootstrap_servers", "is empty"],
    );
    refused(
        "[kafka.properties]\n'enable.auto.commit' = true",
        &[],
        &["enable.auto.commit", "leave it out"],
    );
    refused("[kafka.properties]\n'a.b' = '1'\na.b = '2'", &[], &["a.b", "twice"]);
}

#[test]
fn the_example_for_the_compose_file_can_be_loaded() {
    let settings = load(include_str!("../../../config/local.toml"), &[]).unwrap();
    assert_eq!(settings.store.uri, "s3://bitnet-data");
    assert_eq!(
        settings.kafka.properties.iter().collect::<Vec<_>>(),
        [("group.protocol", "consumer")]
    );
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused() {
    refused("[kafka", &[], &["file /"]);
    let missing = Settings::load_with(Some(Path::new("/nonexistent/bitnet.toml")), []).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/bitnet.toml"), "{missing}");
}
