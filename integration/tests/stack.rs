//! The stack itself: what the other tests rely on.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use integration::stack::{Kafka, Process, S3, Signal, SlowLink, run_folder};
use integration::wait;

const SOON: Duration = Duration::from_secs(15);

#[test]
fn what_kafkas_own_producer_writes_is_read_back() -> Result<()> {
    let kafka = Kafka::shared();
    kafka.create_topics(&["stack-test"], 3, &[])?;
    let sent: Vec<(String, String)> = (0..100)
        .map(|n| (format!("key {n}"), format!("{{\"n\": {n}}}")))
        .collect();
    kafka.console_produce("stack-test", &sent)?;
    kafka.produce("stack-test", b"\xff", b"\xfe\x00 not text")?;

    let mut read: Vec<(Vec<u8>, Vec<u8>)> = kafka
        .read_all("stack-test")?
        .into_iter()
        .map(|message| (message.key, message.payload))
        .collect();
    let mut expected: Vec<(Vec<u8>, Vec<u8>)> = sent
        .into_iter()
        .map(|(key, payload)| (key.into_bytes(), payload.into_bytes()))
        .collect();
    expected.push((b"\xff".to_vec(), b"\xfe\x00 not text".to_vec()));
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
    Ok(())
}

#[test]
fn a_topic_that_exists_is_not_made_again() -> Result<()> {
    let kafka = Kafka::shared();
    kafka.create_topics(&["made-once"], 1, &[])?;
    let error = kafka
        .create_topics(&["made-once"], 1, &[])
        .expect_err("it exists")
        .to_string();
    assert!(error.contains("made-once"), "{error}");
    Ok(())
}

#[test]
fn a_cut_link_refuses_and_a_mended_one_answers() -> Result<()> {
    let link = SlowLink::to(S3::shared().port())?;
    let answers = || std::net::TcpStream::connect(("127.0.0.1", link.port())).is_ok();
    assert!(answers());
    link.set_cut(true)?;
    assert!(!answers());
    link.set_cut(false)?;
    assert!(answers());
    Ok(())
}

#[test]
fn a_process_ends_with_its_owner_even_when_frozen() -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$; exec sleep 1000"]);
    let mut process = Process::start("sleeper", &command, &run_folder("sleeper")?)?;
    let pid = wait::until("its process id", SOON, || Ok(process.log().trim().parse::<u32>().ok()))?;
    let place = format!("/proc/{pid}");
    assert!(Path::new(&place).exists());
    process.signal(Signal::Stop)?;
    drop(process); // closes the supervisor's standard input, as the end of this test process would
    assert!(!Path::new(&place).exists());
    Ok(())
}

#[test]
fn exit_status_and_signals_are_told() -> Result<()> {
    let folder = run_folder("statuses")?;
    let mut command = Command::new("sh");
    command.args(["-c", "exit 75"]);
    assert_eq!(Process::start("exits", &command, &folder)?.wait(SOON)?, 75);

    let mut command = Command::new("sleep");
    command.arg("1000");
    for (signal, status) in [(Signal::Kill, 137), (Signal::Term, 143)] {
        let mut process = Process::start("sleeps", &command, &folder)?;
        process.signal(signal)?;
        assert_eq!(process.wait(SOON)?, status);
    }
    Ok(())
}
