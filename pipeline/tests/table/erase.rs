//! Erasing: what it says, under deaths and lost replies, and with inputs of jobs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use object_store::ObjectStoreExt;
use pipeline::store::Store;
use pipeline::tables::Tables;
use pipeline::upkeep::erase::inputs::Inputs;
use serde_json::json;

use super::world::{World, die_at_every_write};
use crate::behaviour::{ZONE, assert_erased, chunk, commit, committer, erase, job, mixed, partition, subject};
use crate::common::Run;
use crate::faulty::{Failure, Faulty};

#[tokio::test(flavor = "multi_thread")]
async fn erasing_says_what_it_did_and_twice_is_once() {
    let world = World::new().await;
    let job = job(&partition(0)).to_string();
    let arguments = ["erase", "--tenant", "acme", "--job", job.as_str()];
    let count = |run: &Run, what: &str| -> u64 {
        let line = run.stdout.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().parse().unwrap()
    };
    let counts = |run: &Run| {
        [
            "rows that lose their texts",
            "files written anew",
            "files with such texts deleted",
            "files of inputs deleted",
        ]
        .map(|what| run.stdout.lines().find(|line| line.starts_with(what)).unwrap())
        .map(|line| line.split_whitespace().next_back().unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(
        count(
            &world.bitnet(&["erase", "--tenant", "globex"]),
            "rows that lose their texts"
        ),
        0
    );
    let inputs = world.path("_inputs").join(&job);
    fs::create_dir_all(&inputs).unwrap();
    fs::write(inputs.join("part-000000.parquet"), "texts").unwrap();

    let planned = world.bitnet(&[&arguments[..], &["--dry-run"]].concat());
    let title = format!("Would be erased in zone eu: texts of tenant acme, job {job}\n");
    assert!(planned.succeeded().starts_with(&title), "{}", planned.stdout);
    assert_eq!(counts(&planned), [12, 4, 4, 1]);
    assert!(inputs.join("part-000000.parquet").exists());
    let erased = world.bitnet(&arguments);
    assert!(erased.succeeded().ends_with("cannot be read.\n"), "{}", erased.stdout);
    assert_eq!(counts(&erased), [12, 4, 4, 1]);
    assert!(!inputs.join("part-000000.parquet").exists());
    assert_eq!(counts(&world.bitnet(&arguments)), [0, 0, 0, 0]);
    assert_erased(&world.store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    world.bitnet(&["check"]).succeeded();

    // Whose inputs these are only the broker could tell.
    let unknown = world.path("_inputs/job-unknown");
    fs::create_dir_all(&unknown).unwrap();
    fs::write(unknown.join("part-000000.parquet"), "texts").unwrap();
    world
        .bitnet(&["erase", "--tenant", "acme"])
        .failed(69, &["cannot reach Kafka"]);
    assert_eq!(world.bitnet(&["erase", "--tenant", ""]).code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_that_was_killed_at_a_write_is_ended_by_the_next() {
    let erase = async |store: Store| erase(&store, false, Timestamp::now()).await;
    let check = async |store: &Store| assert_erased(store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    let deaths = die_at_every_write(erase, check).await;
    assert_eq!(deaths, 2 * 5, "four files and a log entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_log_entry_keeps_the_new_files() {
    for failure in [Failure::Refused, Failure::ReplyLost] {
        let world = World::new().await;
        let (unreliable, faulty) = Faulty::once(&world.store, "results/_delta_log", failure);
        faulty.arm(0);
        let erased = erase(&unreliable, false, Timestamp::now()).await.unwrap();
        assert_eq!(
            (faulty.failures.load(Ordering::SeqCst), erased.rows, erased.rewritten),
            (1, 12, 4)
        );
        assert_erased(&world.store, &[chunk(&partition(0), 0, 4), mixed()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_go_with_the_job_that_they_are_of() {
    let world = World::new().await;
    let shared = job(&partition(2));
    for folder in [
        job(&partition(0)).as_str(),
        shared.as_str(),
        "mine",
        "theirs",
        "nobodys",
    ] {
        let place = world
            .store
            .path(&format!("{ZONE}/_inputs/{folder}/part-000000.parquet"));
        world.store.objects().put(&place, "texts".into()).await.unwrap();
    }
    let tables = Tables::open(&world.store, ZONE).await.unwrap();
    let mut subject = subject();
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!(inputs.its.iter().collect::<Vec<_>>(), [job(&partition(0)).as_str()]);
    assert_eq!((inputs.unknown.len(), inputs.left.len()), (0, 0));

    subject.job = None;
    let mut inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!((inputs.its.len(), inputs.unknown.len()), (2, 3));
    let record = |tenant: &str| {
        let record = json!({
            "schema": "bitnet.job.v1", "job_id": "any", "tenant_id": tenant, "project_id": "search",
            "residency_zone": ZONE, "model": "m", "endpoint": "/v1/completions", "service_tier": "batch",
            "desired": "run", "requests_total": 1, "batch_count": 1, "submitted_at": "2026-11-24T01:00:00Z",
        });
        schemas::job::decode(record.to_string().as_bytes()).unwrap()
    };
    let records = BTreeMap::from([
        ("mine".to_owned(), record("acme")),
        ("theirs".to_owned(), record("globex")),
    ]);
    inputs.attribute(ZONE, &subject, &records);
    assert_eq!((inputs.its.len(), inputs.left.len()), (3, 1));
    assert!(inputs.left[0].path.ends_with("nobodys") && inputs.left[0].reason.contains("--job nobodys"));
    assert_eq!(inputs.erase(&world.store, ZONE, true).await.unwrap(), 3);
    assert_eq!(inputs.erase(&world.store, ZONE, false).await.unwrap(), 3);
    assert_eq!(inputs.erase(&world.store, ZONE, false).await.unwrap(), 0);
    assert!(world.path("_inputs/theirs/part-000000.parquet").exists());

    // A job that two tenants call theirs.
    let worker = committer(&world.store, "worker").await;
    worker.recover(&partition(1)).await.unwrap();
    let mut theirs = chunk(&partition(1), 0, 1);
    theirs.outcomes.truncate(1);
    theirs.outcomes[0].result.job_id = shared.clone();
    theirs.outcomes[0].result.tenant_id = "globex".parse().unwrap();
    commit(&worker, &theirs).await;
    let place = world
        .store
        .path(&format!("{ZONE}/_inputs/{shared}/part-000000.parquet"));
    world.store.objects().put(&place, "texts".into()).await.unwrap();
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert!(
        inputs.left[0]
            .reason
            .starts_with("belongs to acme/search and globex/search alike"),
        "{inputs:?}"
    );
    subject.project = Some("other".parse().unwrap());
    let inputs = Inputs::find(&world.store, ZONE, &tables, &subject).await.unwrap();
    assert_eq!((inputs.its.len(), inputs.left.len()), (0, 0), "of another project");
}
