//! Rules that keep the code base as ARCHITECTURE.md describes it, checked from `cargo metadata` and the files.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use integration::stack::repository;
use serde_json::{Value, json};

/// Lines that a source file has at most.
const LINES_MAX: usize = 600;

/// Who may use whom, of ours.
const ARROWS: [(&str, &[&str]); 6] = [
    ("kernels", &[]),
    ("engine", &["kernels"]),
    ("schemas", &[]),
    ("billing", &["schemas"]),
    ("pipeline", &["schemas", "engine", "billing"]),
    ("integration", &["kernels", "engine", "schemas", "billing", "pipeline"]),
];

/// What a package never sees, not even through others.
const NEVER: [(&str, &[&str]); 4] = [
    (
        "kernels",
        &["tokio", "serde", "tokenizers", "arrow", "rdkafka", "object_store"],
    ),
    (
        "engine",
        &[
            "tokio",
            "rdkafka",
            "arrow",
            "parquet",
            "object_store",
            "jiff",
            "reqwest",
        ],
    ),
    ("schemas", &["tokio", "rdkafka", "object_store", "parquet", "reqwest"]),
    (
        "billing",
        &["rdkafka", "object_store", "delta_kernel", "reqwest", "tokenizers"],
    ),
];

/// The only outside package that `kernels` uses.
const KERNELS_USE: &str = "rayon";

/// Two versions of one of these would not understand each other's types.
const ONE_VERSION: [&str; 6] = [
    "arrow",
    "arrow-array",
    "arrow-schema",
    "parquet",
    "object_store",
    "delta_kernel",
];

#[test]
fn packages_use_only_those_they_may() {
    for package in members() {
        let name = text(&package["name"]);
        let allowed = ARROWS
            .iter()
            .find(|(user, _)| *user == name)
            .unwrap_or_else(|| panic!("who may {name} use?"))
            .1;
        for used in array(&package["dependencies"]).iter().map(|used| text(&used["name"])) {
            let ours = ARROWS.iter().any(|(member, _)| *member == used);
            assert!(!ours || allowed.contains(&used), "{name} must not use {used}");
        }
    }
}

#[test]
fn packages_never_see_what_is_not_theirs() {
    for (package, never) in NEVER {
        let seen = dependencies(package, &[]);
        let found: Vec<_> = never.iter().filter(|name| seen.contains(**name)).collect();
        assert!(
            found.is_empty(),
            "{package} sees {found:?}; `cargo tree -p {package} -i NAME` shows how"
        );
    }
    let kernels = dependencies("kernels", &["--depth", "1"]);
    assert_eq!(kernels, BTreeSet::from(["kernels".to_owned(), KERNELS_USE.to_owned()]));
}

#[test]
fn arrow_parquet_and_object_store_have_one_version() {
    let metadata = metadata();
    for name in ONE_VERSION {
        let of_name = array(&metadata["packages"])
            .iter()
            .filter(|package| package["name"] == name);
        let versions: Vec<&str> = of_name.map(|package| text(&package["version"])).collect();
        assert_eq!(versions.len(), 1, "{name}: {versions:?}");
    }
}

#[test]
fn every_workspace_dependency_has_a_reason_and_a_user() {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("Cargo.toml");
    let used: BTreeSet<String> = members()
        .iter()
        .flat_map(|package| array(&package["dependencies"]).clone())
        .map(|used| text(&used["name"]).to_owned())
        .collect();
    let section = manifest.split("[workspace.dependencies]").nth(1).expect("a section");
    for line in section.lines().take_while(|line| !line.starts_with('[')) {
        let Some((name, rest)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        assert!(used.contains(name), "no package uses {name}");
        assert!(
            rest.contains("path = ") || rest.contains(" # "),
            "why do we use {name}? say it in a comment behind it"
        );
    }
}

#[test]
fn source_files_are_short() {
    for (path, content) in files(&["rs", "py", "sh"]) {
        let lines = content.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines, at most {LINES_MAX} are allowed",
            path.display()
        );
    }
}

#[test]
fn unsafe_code_is_in_kernels_alone_and_explained() {
    let keyword = concat!("un", "safe");
    for (path, content) in files(&["rs"]) {
        let code = content.lines().map(|line| line.split("//").next().unwrap_or_default());
        let words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        let used = words.into_iter().any(|word| word == keyword);
        let kernels = path.starts_with("kernels");
        assert!(!used || kernels, "{} uses {keyword} code", path.display());
        assert!(
            !used || content.contains("// SAFETY:"),
            "{} does not say why it is sound",
            path.display()
        );
    }
    for package in members().iter().filter(|package| package["name"] != "kernels") {
        let shipped = |target: &&Value| target["kind"] == json!(["lib"]) || target["kind"] == json!(["bin"]);
        for target in array(&package["targets"]).iter().filter(shipped) {
            let root = text(&target["src_path"]);
            let content = fs::read_to_string(root).expect(root);
            assert!(content.contains("#![forbid(unsafe_code)]"), "{root} does not forbid it");
        }
    }
}

#[test]
fn no_file_names_a_place_on_some_machine() {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("bash", "_jobs"),
        concat!("/ho", "me/"),
    ];
    for (path, content) in files(&[]) {
        for place in places {
            assert!(!content.contains(place), "{} contains {place}", path.display());
        }
    }
}

/// Tracked and new text files whose names end with one of `endings`, all if there are none; paths from the root.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let listed = output(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]));
    let wanted = |path: &PathBuf| {
        let ending = path.extension().unwrap_or_default();
        endings.is_empty() || endings.iter().any(|wanted| *wanted == ending)
    };
    let paths = listed.lines().map(PathBuf::from).filter(wanted);
    // A file deleted but not yet committed is still listed; binary files are not text.
    let found: Vec<_> = paths
        .filter_map(|path| Some((fs::read_to_string(repository().join(&path)).ok()?, path)))
        .collect();
    assert!(!found.is_empty(), "no files {endings:?}; is this a git checkout?");
    found.into_iter().map(|(content, path)| (path, content)).collect()
}

/// What a package is built from, itself included, with its own features and not the whole workspace's.
fn dependencies(package: &str, options: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            package,
        ])
        .args(options);
    output(&mut command)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn members() -> Vec<Value> {
    let metadata = metadata();
    let ids = array(&metadata["workspace_members"]);
    array(&metadata["packages"])
        .iter()
        .filter(|package| ids.contains(&package["id"]))
        .cloned()
        .collect()
}

fn metadata() -> Value {
    let json = output(Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]));
    serde_json::from_str(&json).expect("cargo metadata prints JSON")
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(repository()).output().expect("it runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("it prints text")
}

#[track_caller]
fn array(value: &Value) -> &Vec<Value> {
    value.as_array().expect("an array")
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}
