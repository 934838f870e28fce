//! What scripts hold on to: the exit code of every mistake, and a text with place, value and remedy.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{bitnet, demo, line};
use serde_json::json;

/// Nothing listens there.
const NO_BROKER: [(&str, &str); 2] = [
    ("BITNET__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ("BITNET__KAFKA__START_TIMEOUT", "1s"),
];

fn good() -> String {
    line(
        "a",
        "/v1/completions",
        json!({ "model": "debian-sections", "prompt": "x" }),
    )
}

/// `submit` refuses this file before it looks for a broker.
#[track_caller]
fn file_refused(name: &str, content: &[u8], more: &[&str], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    fs::write(&file, content).unwrap();
    let args = [&["submit", file.to_str().unwrap(), "--tenant", "acme"], more].concat();
    let run = bitnet(&args, &NO_BROKER);
    run.failed(65, parts);
    assert!(run.stderr.contains(name), "{:?} does not name the file", run.stderr);
}

#[test]
fn unknown_settings_are_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bitnet.toml");
    fs::write(&file, "[kafka]\nbrokers = 'x'").unwrap();
    let file = file.to_str().unwrap();
    bitnet(&["--config", file, "config", "check"], &[]).failed(2, &[file, "brokers", "bootstrap_servers"]);
    let run = bitnet(&["config", "check"], &[("BITNET__FLUSH__ROWS_MAX", "lots")]);
    run.failed(2, &["flush.rows_max", "lots", "BITNET__FLUSH__ROWS_MAX"]);
    bitnet(&["--config", "/nonexistent.toml", "config", "check"], &[]).failed(2, &["/nonexistent.toml"]);
    assert_eq!(bitnet(&["config", "chekc"], &[]).code, 2);
    bitnet(&["--log", "=,=", "config", "check"], &[]).failed(2, &["log filter"]);
    bitnet(&["config", "check"], &[("BITNET__MODELS__DIR", "/nonexistent")]).failed(2, &["models.dir", "/nonexistent"]);
}

#[test]
fn usable_settings_are_0_and_secrets_stay_hidden() {
    let secret = [
        ("BITNET__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
        ("BITNET__WORKER__REGION", "eu-west"),
    ];
    let run = bitnet(&["config", "show"], &secret);
    let shown = run.succeeded();
    assert!(
        shown.contains("region = \"eu-west\"") && shown.contains("sasl.password"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"));
    assert!(
        bitnet(&["config", "check"], &[])
            .succeeded()
            .contains("debian-sections")
    );
}

#[test]
fn unreachable_broker_is_69_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.jsonl");
    fs::write(&file, good()).unwrap();
    let start = Instant::now();
    let said = ["127.0.0.1:1", "kafka.bootstrap_servers"];
    bitnet(&["submit", file.to_str().unwrap(), "--tenant", "acme"], &NO_BROKER).failed(69, &said);
    bitnet(&["jobs", "list"], &NO_BROKER).failed(69, &said);
    bitnet(&["jobs", "show", "x"], &NO_BROKER).failed(69, &said);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_worker_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("file://{}", dir.path().display());
    let worker = |more: &[(&str, &str)]| bitnet(&["worker", "--drain"], &[&NO_BROKER[..], more].concat());
    worker(&[("BITNET__STORE__URI", &store)]).failed(69, &["127.0.0.1:1", "kafka.bootstrap_servers"]);
    worker(&[("BITNET__STORE__URI", "file:///proc/bitnet")]).failed(69, &["store.uri", "/proc/bitnet"]);
    let models = [
        ("BITNET__STORE__URI", store.as_str()),
        ("BITNET__MODELS__DIR", "/nonexistent"),
    ];
    worker(&models).failed(2, &["models.dir", "/nonexistent"]);
}

#[test]
fn a_property_that_librdkafka_refuses_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.jsonl");
    fs::write(&file, good()).unwrap();
    let wrong = [("BITNET__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "carrier-pigeon")];
    let run = bitnet(&["submit", file.to_str().unwrap(), "--tenant", "acme"], &wrong);
    run.failed(2, &["kafka.properties", "carrier-pigeon"]);
}

#[test]
fn bad_jsonl_is_65_with_its_line() {
    let two = |second: &[u8]| [good().as_bytes(), b"\n", second].concat();
    file_refused("empty.jsonl", b"", &[], &["empty"]);
    file_refused("blank.jsonl", b"\n  \n", &[], &["empty"]);
    file_refused(
        "long.jsonl",
        &two(&vec![b'x'; 10 << 20]),
        &[],
        &["line 2", "10485760 bytes", "limits.message_bytes_max"],
    );
    file_refused(
        "latin1.jsonl",
        &two(b"{\"custom_id\": \"\xe9\"}"),
        &[],
        &["line 2", "byte 16", "UTF-8"],
    );
    file_refused(
        "twice.jsonl",
        &two(good().as_bytes()),
        &[],
        &["line 2", "\"a\"", "line 1"],
    );
    file_refused("cut.jsonl", &two(b"{\"custom_id\": \"b\""), &[], &["line 2", "column"]);
    file_refused(
        "field.jsonl",
        &two(good().replace("method", "verb").as_bytes()),
        &[],
        &["line 2", "unknown field `verb`"],
    );
    let chat = good()
        .replace("\"a\"", "\"b\"")
        .replace("completions", "chat/completions");
    file_refused(
        "mixed.jsonl",
        &two(chat.as_bytes()),
        &[],
        &["line 2", "/v1/chat/completions"],
    );
    file_refused(
        "model.jsonl",
        good().as_bytes(),
        &["--model", "other"],
        &["line 1", "debian-sections", "other"],
    );
}

#[test]
fn a_missing_file_is_65_and_a_wrong_command_line_is_2() {
    let submit = |args: &[&str]| bitnet(&[&["submit", "--tenant", "acme"], args].concat(), &NO_BROKER);
    submit(&["/nonexistent.jsonl"]).failed(65, &["/nonexistent.jsonl", "cannot be opened"]);
    submit(&["a.jsonl", "b.parquet"]).failed(2, &["both kinds"]);
    submit(&["a.jsonl", "--batch-size", "0"]).failed(2, &["batch size", "limits.requests_per_batch_max"]);
    submit(&["a.parquet"]).failed(2, &["--endpoint"]);
    submit(&["a.parquet", "--endpoint", "/v1/score"]).failed(2, &["--template"]);
    submit(&["a.jsonl", "--job-id", "../up"]).failed(2, &["../up", "folder"]);
}

#[test]
fn bad_parquet_is_65() {
    let more = ["--model", "m", "--endpoint", "/v1/completions"];
    file_refused(
        "no.parquet",
        b"not parquet at all",
        &more,
        &["not a readable Parquet file"],
    );
    let documents = fs::read(demo("documents/documents.parquet")).unwrap();
    file_refused(
        "cut.parquet",
        &documents[..documents.len() / 2],
        &more,
        &["not a readable Parquet file"],
    );
    file_refused(
        "columns.parquet",
        &documents,
        &more,
        &["custom_id", "--column custom_id=", "prompt"],
    );
}

#[test]
fn a_template_without_text_is_2() {
    let documents = demo("documents/documents.parquet");
    let args = [
        "submit",
        documents.to_str().unwrap(),
        "--tenant",
        "acme",
        "--model",
        "m",
        "--endpoint",
        "/v1/completions",
    ];
    let more = [
        "--column",
        "custom_id=id",
        "--column",
        "text=prompt",
        "--template",
        "{\"prompt\": \"hi\"}",
    ];
    bitnet(&[&args[..], &more].concat(), &NO_BROKER).failed(2, &["template", "{{text}}"]);
}

fn submit_parquet(environment: &[(&str, &str)]) -> common::Run {
    let documents = demo("documents/documents.parquet");
    let args = [
        "submit",
        documents.to_str().unwrap(),
        "--tenant",
        "acme",
        "--model",
        "m",
        "--endpoint",
        "/v1/completions",
    ];
    let columns = ["--column", "custom_id=id", "--column", "text=prompt"];
    bitnet(&[&args[..], &columns].concat(), &[&NO_BROKER[..], environment].concat())
}

#[test]
fn a_store_that_cannot_be_written_is_69() {
    // Nobody can make a directory there, root included.
    submit_parquet(&[("BITNET__STORE__URI", "file:///proc/bitnet")]).failed(69, &["store.uri", "/proc/bitnet"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let uri = format!("file://{}/below", file.path().display());
    submit_parquet(&[("BITNET__STORE__URI", &uri)]).failed(69, &["store.uri", &uri]);
}

#[test]
fn a_missing_bucket_is_69() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let body = "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
        let (length, mut request) = (body.len(), [0; 16_384]);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut request);
            let head =
                format!("HTTP/1.1 404 Not Found\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n");
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}");
        }
    });
    let run = submit_parquet(&[
        ("BITNET__STORE__URI", "s3://nowhere/prefix"),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ]);
    run.failed(69, &["s3://nowhere/prefix", "bucket"]);
}

fn run_batch(model: &Path) -> common::Run {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs::write(&input, good()).unwrap();
    let args = [
        "run-batch",
        "-i",
        input.to_str().unwrap(),
        "-o",
        output.to_str().unwrap(),
    ];
    let run = bitnet(&[&args[..], &["--model", model.to_str().unwrap()]].concat(), &[]);
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["in.jsonl"], "a failed run leaves nothing behind");
    run
}

fn copy_of_the_model(dir: &Path) -> PathBuf {
    let copy = dir.join("copied");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(demo("model/debian-sections")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn unknown_model_is_2_and_names_those_there_are() {
    run_batch(Path::new("gpt-4")).failed(2, &["gpt-4", "debian-sections"]);
}

#[test]
fn damaged_model_is_65_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = copy_of_the_model(dir.path());
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    run_batch(&model).failed(65, &["model.safetensors"]);
    fs::write(&weights, &whole[..4]).unwrap();
    run_batch(&model).failed(65, &["model.safetensors"]);
    fs::write(&weights, [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()).unwrap();
    run_batch(&model).failed(65, &["model.safetensors"]);
    fs::write(&weights, mislabelled(&whole)).unwrap();
    run_batch(&model).failed(65, &["model.safetensors"]);
    fs::remove_file(&weights).unwrap();
    run_batch(&model).failed(65, &["model.safetensors"]);
    fs::write(&weights, whole).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    run_batch(&model).failed(65, &["config.json"]);
}

/// The packed weights under another type of the same size.
fn mislabelled(whole: &[u8]) -> Vec<u8> {
    let header = usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    let text = std::str::from_utf8(&whole[8..8 + header]).unwrap();
    assert!(text.contains("\"U8\""));
    [
        &whole[..8],
        text.replace("\"U8\"", "\"I8\"").as_bytes(),
        &whole[8 + header..],
    ]
    .concat()
}

#[test]
fn unreadable_input_of_run_batch_is_65() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, output) = (dir.path().join("empty.jsonl"), dir.path().join("out.jsonl"));
    fs::write(&empty, "\n").unwrap();
    let run = |input: &str, output: &str| bitnet(&["run-batch", "-i", input, "-o", output], &[]);
    let (empty, output) = (empty.to_str().unwrap(), output.to_str().unwrap());
    run("/nonexistent.jsonl", output).failed(65, &["/nonexistent.jsonl"]);
    run(empty, output).failed(65, &["empty.jsonl", "empty"]);
    run(empty, "/nonexistent/out.jsonl").failed(2, &["/nonexistent/out.jsonl"]);
    assert!(!Path::new(output).exists());
}
