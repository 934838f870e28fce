//! `bitnet demo` as a newcomer runs it.

use std::path::Path;
use std::process::{Command, Output};

fn demo(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command
        .arg("demo")
        .arg("--dir")
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn every_answer_is_the_references_and_the_books_reconcile() {
    let dir = tempfile::tempdir().unwrap();
    let run = demo(dir.path(), &[]);
    let (out, log) = (
        String::from_utf8(run.stdout).unwrap(),
        String::from_utf8(run.stderr).unwrap(),
    );
    assert!(run.status.success(), "{out}{log}");
    for said in [
        "2044 of 2500 labels, 81.8 %",
        "2500 of 2500 answers are those of transformers in float32",
        "EUR",
        "USD",
        "Reconciled",
    ] {
        assert!(out.contains(said), "{said:?} is not in:\n{out}{log}");
    }
}

#[test]
fn own_documents_are_scored_and_a_second_demo_replaces_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.jsonl");
    std::fs::write(
        &file,
        "{\"id\": \"a\", \"prompt\": \"Package: python3-x\\nSection:\", \"label\": \"python\"}\n",
    )
    .unwrap();
    for _ in 0..2 {
        let run = demo(&dir.path().join("demo"), &["--documents", file.to_str().unwrap()]);
        let out = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success() && out.contains("1 of 1 labels"), "{out}");
    }
}

#[test]
fn folder_that_no_demo_made_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let run = demo(dir.path(), &[]);
    assert_eq!(run.status.code(), Some(2));
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(log.contains("no demo made") && log.contains("help:"), "{log}");
}

#[test]
fn faulty_documents_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.jsonl");
    for (text, place) in [
        ("", "holds no documents"),
        ("{\"id\": \"a\", \"prompt\": \"b\"}\n{\"id\": 7}\n", "line 2"),
    ] {
        std::fs::write(&file, text).unwrap();
        let run = demo(&dir.path().join("demo"), &["--documents", file.to_str().unwrap()]);
        let log = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(65), "{log}");
        assert!(log.contains(place), "{log}");
    }
}
