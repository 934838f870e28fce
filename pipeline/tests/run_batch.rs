//! `bitnet run-batch` on the bundled model: right answers, in order, whatever stands between them.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Run, bitnet, demo, documents, line};
use serde_json::{Value, json};

fn run_batch(dir: &Path, input: &[u8], more: &[&str]) -> (Run, Vec<Value>) {
    let (from, to) = (dir.join("in.jsonl"), dir.join("out.jsonl"));
    fs::write(&from, input).unwrap();
    let mut args = vec!["run-batch", "-i", from.to_str().unwrap(), "-o", to.to_str().unwrap()];
    args.extend(more);
    let run = bitnet(&args, &[]);
    let lines = fs::read_to_string(&to).unwrap_or_default();
    (
        run,
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    )
}

fn completion(custom_id: &str, prompt: &str) -> String {
    line(
        custom_id,
        "/v1/completions",
        json!({ "prompt": prompt, "max_tokens": 6, "temperature": 0, "stop": "\n" }),
    )
}

#[test]
fn answers_are_the_expected_ones_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let documents = documents(100);
    let input: Vec<_> = documents.iter().map(|(id, prompt, _)| completion(id, prompt)).collect();
    let (run, lines) = run_batch(dir.path(), input.join("\n").as_bytes(), &[]);
    run.succeeded();
    assert!(
        run.stderr.contains("100 requests: 100 answered, 0 failed"),
        "{}",
        run.stderr
    );
    assert_eq!(lines.len(), documents.len());
    for (line, (id, _, expected)) in lines.iter().zip(&documents) {
        assert_eq!(line["custom_id"], json!(id));
        assert_eq!(line["error"], Value::Null);
        assert_eq!(line["response"]["status_code"], 200);
        let text = line["response"]["body"]["choices"][0]["text"].as_str().unwrap();
        assert_eq!(text.trim(), expected, "{id}");
    }
}

#[test]
fn bad_lines_get_error_objects_and_all_others_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (id, prompt, expected) = documents(1).remove(0);
    let good = completion(&id, &prompt);
    let bad: [(&str, Vec<u8>); 9] = [
        ("invalid_json_line", b"{\"custom_id\": \"x\", ".to_vec()),
        ("invalid_encoding", b"\xc3\x28".to_vec()),
        ("line_too_long", vec![b'a'; 10 << 20]),
        ("invalid_url", line("x", "/v1/poems", json!({})).into_bytes()),
        ("invalid_json_line", good.replace("custom_id", "customid").into_bytes()),
        (
            "model_not_found",
            line("x", "/v1/completions", json!({ "model": "gpt-4", "prompt": "a" })).into_bytes(),
        ),
        (
            "unknown_parameter",
            line("x", "/v1/completions", json!({ "prompt": "a", "promt": 1 })).into_bytes(),
        ),
        (
            "invalid_value",
            line("x", "/v1/completions", json!({ "prompt": 7 })).into_bytes(),
        ),
        (
            "context_length_exceeded",
            completion("x", &"word ".repeat(20_000)).into_bytes(),
        ),
    ];
    let mut input = Vec::new();
    for (_, line) in &bad {
        input.extend([line.as_slice(), b"\n", good.as_bytes(), b"\n"].concat());
    }
    let (run, lines) = run_batch(dir.path(), &input, &[]);
    run.succeeded();
    assert!(
        run.stderr.contains("18 requests: 9 answered, 9 failed"),
        "{}",
        run.stderr
    );
    for (pair, (code, _)) in lines.chunks(2).zip(&bad) {
        let error = &pair[0]["response"]["body"]["error"];
        assert_eq!(error["code"], json!(code), "{error}");
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
        assert_eq!(
            pair[1]["response"]["body"]["choices"][0]["text"]
                .as_str()
                .unwrap()
                .trim(),
            expected
        );
    }
}

#[test]
fn every_endpoint_is_answered_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let chat = json!({ "messages": [{ "role": "user", "content": "Package: vim" }], "max_tokens": 4 });
    let score = json!({ "prompt": "Package: vim\nSection:", "choices": [" editors", " games"] });
    let input = [
        line("c", "/v1/chat/completions", chat),
        line("e", "/v1/embeddings", json!({ "input": "Package: vim" })),
        line("s", "/v1/score", score),
    ];
    let (run, lines) = run_batch(dir.path(), input.join("\n").as_bytes(), &[]);
    run.succeeded();
    let bodies: Vec<_> = lines.iter().map(|line| &line["response"]["body"]).collect();
    assert_eq!(bodies[0]["object"], "chat.completion", "{lines:?}");
    assert_eq!(bodies[1]["data"][0]["embedding"].as_array().unwrap().len(), 256);
    assert!(bodies[2]["choices"][0]["logprob"].as_f64().unwrap() < 0.0);
}

#[test]
fn a_stop_signal_is_128_more_and_leaves_nothing_behind() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
        let (id, prompt, _) = documents(1).remove(0);
        let long = completion(&id, &prompt)
            .replace("\"max_tokens\":6", "\"max_tokens\":100")
            .replace("\"stop\":\"\\n\",", "");
        fs::write(&from, format!("{long}\n").repeat(20_000)).unwrap();
        let args = ["run-batch", "-i", from.to_str().unwrap(), "-o", to.to_str().unwrap()];
        let mut running = common::command(&args, &[]).stderr(Stdio::piped()).spawn().unwrap();
        let partial = dir.path().join("out.jsonl.partial");
        while !partial.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &running.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        assert_eq!(running.wait().unwrap().code(), Some(code), "SIG{signal}");
        assert!(!partial.exists() && !to.exists());
    }
}

#[test]
fn a_folder_and_a_name_in_models_dir_choose_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let (id, prompt, _) = documents(1).remove(0);
    let input = completion(&id, &prompt);
    let folder = demo("model/debian-sections");
    let (by_folder, first) = run_batch(dir.path(), input.as_bytes(), &["--model", folder.to_str().unwrap()]);
    by_folder.succeeded();
    let (by_name, second) = run_batch(dir.path(), input.as_bytes(), &["--model", "debian-sections"]);
    by_name.succeeded();
    let text = |lines: &[Value]| lines[0]["response"]["body"]["choices"].clone();
    assert_eq!(text(&first), text(&second));
}

/// A tokenizer whose decoder panics on a text of nothing but one `A`.
#[test]
fn a_panic_inside_a_library_costs_its_request_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(demo("model/debian-sections")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let path = model.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let strip = json!({ "type": "Strip", "content": "A", "start": 0, "stop": 2 });
    tokenizer["decoder"] = json!({ "type": "Sequence", "decoders": [tokenizer["decoder"], strip] });
    fs::write(&path, tokenizer.to_string()).unwrap();

    let (id, prompt, expected) = documents(1).remove(0);
    let letter = tokenizer["model"]["vocab"]["A"].to_string();
    let bad = json!({ "prompt": prompt, "max_tokens": 4, "logit_bias": { letter: 100 } });
    let input = [
        completion("before", &prompt),
        line("bad", "/v1/completions", bad),
        completion(&id, &prompt),
    ];
    let (run, lines) = run_batch(
        dir.path(),
        input.join("\n").as_bytes(),
        &["--model", model.to_str().unwrap()],
    );
    run.succeeded();
    let error = &lines[1]["response"]["body"]["error"];
    assert_eq!(error["code"], "tokenizer_failed", "{error}");
    assert!(error["message"].as_str().unwrap().contains("tokenizer.json"), "{error}");
    for line in [&lines[0], &lines[2]] {
        let text = line["response"]["body"]["choices"][0]["text"].as_str().unwrap();
        assert_eq!(text.trim(), expected);
    }
    assert!(run.stderr.contains("a library panicked"), "{}", run.stderr);
    assert!(!run.stderr.contains("bug in bitnet"), "{}", run.stderr);
}
