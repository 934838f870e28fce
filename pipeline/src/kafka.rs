//! librdkafka's properties, from the settings.
//!
//! `kafka.properties.*` pass through and win, except over what exactly-once rests on.

use rdkafka::config::ClientConfig;

use crate::settings::KafkaSettings;

/// Properties of every client: servers and whatever the operator passes through.
pub fn client(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap_servers)
        .set("client.id", "bitnet");
    for (name, value) in settings.properties.iter() {
        config.set(name, value);
    }
    config
}

/// Properties of a producer that loses and doubles nothing.
pub fn producer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = client(settings);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", settings.delivery_timeout.as_millis().to_string());
    config
}

/// Properties of a worker's consumer.
///
/// The tables say where to start, so nothing is committed or reset on its own. Classic groups rebalance
/// cooperatively; with `group.protocol = "consumer"` (KIP-848) the broker decides, and librdkafka
/// refuses the classic properties.
pub fn consumer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    let new_protocol = settings
        .properties
        .iter()
        .any(|(name, value)| name == "group.protocol" && value == "consumer");
    if !new_protocol {
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", settings.session_timeout.as_millis().to_string());
    }
    // Read-ahead; what is in flight beyond it is bounded by the permits.
    config
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.wait.max.ms", "100");
    for (name, value) in client(settings).config_map() {
        config.set(name, value);
    }
    config
        .set("group.id", &settings.group_id)
        .set(
            "max.poll.interval.ms",
            settings.poll_interval_max.as_millis().to_string(),
        )
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // Where partitions end, and whether any broker is up; see `source`.
        .set("statistics.interval.ms", "1000");
    config
}
