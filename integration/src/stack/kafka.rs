//! One Apache Kafka node, its topics, and messages in and out by clients that are not our workers.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::process::output_of;
use super::{Process, free_port, installed, run_folder, shared};
use crate::wait;

const START_MAX: Duration = Duration::from_secs(90);
const REPLY_MAX: Duration = Duration::from_secs(30);
const PROPERTIES: &str = include_str!("../../stack/kafka.properties");

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    _process: Process,
    port: u16,
    folder: PathBuf,
}

/// What a consumer sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Partition it lies in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The key; empty if there is none.
    pub key: Vec<u8>,
    /// The payload; empty if there is none.
    pub payload: Vec<u8>,
}

impl Kafka {
    /// The broker of this test process, with the topics that all workers share.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        shared(&SHARED, || {
            let kafka = Kafka::start()?;
            kafka.create_topics(&["bitnet.jobs"], 1, &[("cleanup.policy", "compact")])?;
            kafka.create_topics(&["bitnet.job-events", "bitnet.dead-letters"], 1, &[])?;
            Ok(kafka)
        })
    }

    /// Starts a broker with no topics.
    fn start() -> Result<Kafka> {
        let folder = run_folder("kafka")?;
        let (port, controller_port) = (free_port()?, free_port()?);
        let properties = PROPERTIES
            .replace("@client_port@", &port.to_string())
            .replace("@controller_port@", &controller_port.to_string())
            .replace("@data@", &folder.join("data").to_string_lossy());
        let file = folder.join("server.properties");
        fs::write(&file, properties)?;

        let cluster = output_of(java("kafka.tools.StorageTool")?.arg("random-uuid"))?;
        let cluster = cluster.lines().last().context("no cluster id")?.to_owned();
        output_of(
            java("kafka.tools.StorageTool")?
                .args(["format", "-t", &cluster, "-c"])
                .arg(&file),
        )?;
        let mut process = Process::start("kafka", java("kafka.Kafka")?.arg(&file), &folder)?;
        process.wait_for_port(port, START_MAX)?;
        Ok(Kafka {
            _process: process,
            port,
            folder,
        })
    }

    /// `127.0.0.1:<port>`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Makes topics; `settings` are topic settings such as `("cleanup.policy", "compact")`.
    pub fn create_topics(&self, names: &[&str], partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let topics: Vec<NewTopic> = names
            .iter()
            .map(|name| NewTopic {
                name,
                num_partitions: partitions,
                replication: TopicReplication::Fixed(1),
                config: settings.to_vec(),
            })
            .collect();
        let options = AdminOptions::new()
            .operation_timeout(Some(REPLY_MAX))
            .request_timeout(Some(REPLY_MAX));
        for result in runtime()?.block_on(admin.create_topics(&topics, &options))? {
            if let Err((topic, code)) = result {
                bail!("cannot create topic {topic}: {code}");
            }
        }
        Ok(())
    }

    /// Publishes lines of text with Kafka's own console producer; `messages` are (key, payload), neither with
    /// a tab or a line end in it.
    pub fn console_produce(&self, topic: &str, messages: &[(String, String)]) -> Result<()> {
        let mut command = java("org.apache.kafka.tools.ConsoleProducer")?;
        command.args(["--bootstrap-server", &self.bootstrap(), "--topic", topic]);
        command.args([
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "key.separator=\t",
        ]);
        command.args(["--command-property", "acks=all"]);
        let mut producer = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = producer.stdin.take().context("no standard input")?;
        for (key, payload) in messages {
            ensure!(
                !format!("{key}{payload}").contains(['\t', '\n']),
                "a tab or line end in {key}"
            );
            writeln!(input, "{key}\t{payload}")?;
        }
        drop(input);
        let output = producer.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        // It exits with 0 even after a message was refused.
        ensure!(
            output.status.success() && !errors.contains("ERROR"),
            "console producer: {errors}"
        );
        Ok(())
    }

    /// Publishes one message of any bytes.
    pub fn produce(&self, topic: &str, key: &[u8], payload: &[u8]) -> Result<Message> {
        let producer: FutureProducer = self.client().create()?;
        let record = FutureRecord::to(topic).key(key).payload(payload);
        let sent = runtime()?
            .block_on(producer.send(record, REPLY_MAX))
            .map_err(|(error, _)| error)?;
        Ok(Message {
            partition: sent.partition,
            offset: sent.offset,
            key: key.to_vec(),
            payload: payload.to_vec(),
        })
    }

    /// Sends each message in a transaction of its own, every other one aborted first.
    pub fn produce_in_transactions(&self, topic: &str, messages: &[(String, String)]) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap())
            .set("transactional.id", topic)
            .create()?;
        producer.init_transactions(REPLY_MAX)?;
        for (at, (key, payload)) in messages.iter().enumerate() {
            let tries = if at % 2 == 0 { 2 } else { 1 };
            for attempt in (0..tries).rev() {
                producer.begin_transaction()?;
                let record = BaseRecord::to(topic).key(key).payload(payload);
                producer.send(record).map_err(|(error, _)| error)?;
                producer.flush(REPLY_MAX)?;
                match attempt {
                    0 => producer.commit_transaction(REPLY_MAX)?,
                    _ => producer.abort_transaction(REPLY_MAX)?,
                }
            }
        }
        Ok(())
    }

    /// Every message of a topic from its first to its last one now, partition by partition.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Message>> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "read-all")
            .set("enable.auto.commit", "false")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), REPLY_MAX)?;
        let mut messages = Vec::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (first, end) = consumer.fetch_watermarks(topic, partition.id(), REPLY_MAX)?;
            let mut from = TopicPartitionList::new();
            from.add_partition_offset(topic, partition.id(), Offset::Offset(first))?;
            consumer.assign(&from)?;
            let mut next = first;
            while next < end {
                let message = consumer
                    .poll(REPLY_MAX)
                    .with_context(|| format!("{topic} ends at {next}"))??;
                next = message.offset() + 1;
                messages.push(Message {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().unwrap_or_default().to_vec(),
                    payload: message.payload().unwrap_or_default().to_vec(),
                });
            }
        }
        Ok(messages)
    }

    /// Waits, with Kafka's own group tool, until `members` members of `group` hold partitions.
    pub fn wait_for_members(&self, group: &str, members: usize, limit: Duration) -> Result<()> {
        wait::until(&format!("{members} members with partitions in {group}"), limit, || {
            let mut command = java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
            command.args([
                "--bootstrap-server",
                &self.bootstrap(),
                "--group",
                group,
                "--describe",
                "--members",
            ]);
            // The group may not be there yet, which the tool calls an error.
            let table = output_of(&mut command).unwrap_or_default();
            fs::write(self.folder.join(format!("members-of-{group}")), &table)?;
            Ok((members_with_partitions(&table) == members).then_some(()))
        })
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }
}

/// Rows of the group tool's table whose `#PARTITIONS` is not 0.
fn members_with_partitions(table: &str) -> usize {
    let mut rows = table.lines().filter(|line| !line.trim().is_empty());
    let Some(column) = rows
        .next()
        .and_then(|heads| heads.split_whitespace().position(|head| head == "#PARTITIONS"))
    else {
        return 0;
    };
    rows.filter(|row| row.split_whitespace().nth(column).is_some_and(|count| count != "0"))
        .count()
}

fn java(class: &str) -> Result<Command> {
    let mut command = Command::new("java");
    command
        .args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(installed()?.join("kafka-libs/*"))
        .arg(class);
    Ok(command)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
