//! Crashes and lost replies at every point where a worker talks to its store.
//!
//! A store that fails on command stands between committer and objects. Whatever it does, a worker that
//! comes afterwards must find or make exactly one result row and one billing row of every request.

mod behaviour;
mod faulty;

use std::sync::atomic::Ordering;
use std::time::Duration;

use behaviour::{ZONE, assert_exactly_once, chunk, commit, committer, data_files, log_entries, partition};
use faulty::{Failure, Faulty};
use pipeline::chunk::Chunk;
use pipeline::committer::{CommitError, CommitSettings, Committer, Recovered};
use pipeline::sink::Table;
use pipeline::store::Store;

const TO: i64 = 12;

/// A worker's life from its start: recovers two partitions, then commits chunks of both until they end.
async fn work(store: Store, worker_id: &str, step: i64) -> Result<(), CommitError> {
    let settings = CommitSettings {
        intents_per_checkpoint: 2,
        ..CommitSettings::default()
    };
    let worker = Committer::open(store, ZONE, worker_id, settings).await?;
    let mut ends = Vec::new();
    for number in 0..2 {
        let id = partition(number);
        let Recovered { watermark, seen, .. } = worker.recover(&id).await?;
        let from = watermark.unwrap_or(0);
        assert_eq!(seen.len() as i64, from, "one request batch per offset");
        ends.push((id, from));
    }
    while ends.iter().any(|&(_, from)| from < TO) {
        let mut group = Vec::new();
        for (id, from) in ends.iter_mut().filter(|(_, from)| *from < TO) {
            let sealed = worker.seal(&chunk(id, *from, (*from + step).min(TO))).await?;
            *from = sealed.to();
            group.push(sealed);
        }
        worker.apply(&group).await?;
    }
    Ok(())
}

/// Dies at every write there is, in both ways, then another worker with other chunk sizes goes on.
async fn die_at_every_write(failure: Failure) {
    let mut deaths = 0;
    for writes in 0.. {
        let store = Store::open("memory://").unwrap();
        let (dying, faulty) = Faulty::dying(&store, writes, failure);
        let died = work(dying, "dying", 5).await;
        let untouched = faulty.failures.load(Ordering::SeqCst) == 0;
        if !untouched {
            deaths += 1;
        }
        work(store.clone(), "next", 3).await.unwrap();
        assert_exactly_once(&store, &[(partition(0), TO), (partition(1), TO)]).await;
        if untouched {
            died.unwrap();
            break;
        }
    }
    // Two tables made; three rounds of eight data files, two intents and two commits; dedup keys of both.
    assert!(deaths >= 2 + 3 * 12 + 2, "{deaths}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_write_of_its_life_loses_and_doubles_nothing() {
    die_at_every_write(Failure::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_write_of_its_life_loses_and_doubles_nothing() {
    die_at_every_write(Failure::ReplyLost).await;
}

/// Commits `[0, 4)`, with the first write to `path_part` failing as told, and expects it to work out.
async fn survives(path_part: &'static str, failure: Failure) -> (Store, Vec<bool>) {
    let store = Store::open("memory://").unwrap();
    let (unreliable, faulty) = Faulty::once(&store, path_part, failure);
    let worker = committer(&unreliable, "worker").await;
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    faulty.arm(0);
    let mut adopted = Vec::new();
    for (from, to) in [(0, 2), (2, 4)] {
        adopted.push(commit_through(&worker, &chunk(&id, from, to)).await);
    }
    assert_eq!(faulty.failures.load(Ordering::SeqCst), 1);
    assert_exactly_once(&store, &[(id, 4)]).await;
    (store, adopted)
}

/// As a worker does: after an outage, again with the same chunk.
async fn commit_through(worker: &Committer, chunk: &Chunk) -> bool {
    for _ in 0..3 {
        let sealed = match worker.seal(chunk).await {
            Err(error) if error.is_transient() => continue,
            sealed => sealed.unwrap(),
        };
        worker.apply(std::slice::from_ref(&sealed)).await.unwrap();
        return sealed.is_adopted();
    }
    panic!("three outages")
}

#[tokio::test(flavor = "multi_thread")]
async fn seal_with_a_lost_reply_is_still_ours() {
    for failure in [Failure::ReplyLost, Failure::Refused] {
        let (store, adopted) = survives("_intents", failure).await;
        assert_eq!(adopted, [false, false], "{failure:?}");
        assert_eq!(
            data_files(&store).await,
            8,
            "two chunks, two tables, two partition values each"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_with_a_lost_reply_is_not_made_twice() {
    for (path_part, table) in [
        ("results/_delta_log", Table::Results),
        ("billing_events/_delta_log", Table::BillingEvents),
    ] {
        for failure in [Failure::ReplyLost, Failure::Refused] {
            let (store, _) = survives(path_part, failure).await;
            assert_eq!(log_entries(&store, table).await, 3, "{table:?} {failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_that_failed_leaves_no_files() {
    let (store, _) = survives("/part-", Failure::Refused).await;
    assert_eq!(data_files(&store).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn seal_given_up_on_is_found_when_tried_again() {
    let store = Store::open("memory://").unwrap();
    let (unreliable, faulty) = Faulty::once(&store, "_intents", Failure::ReplyLost);
    let settings = CommitSettings {
        seal_age_max: Duration::ZERO,
        ..CommitSettings::default()
    };
    let worker = Committer::open(unreliable, ZONE, "worker", settings).await.unwrap();
    let id = partition(0);
    worker.recover(&id).await.unwrap();
    faulty.arm(0);
    let error = worker.seal(&chunk(&id, 0, 3)).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let sealed = commit(&worker, &chunk(&id, 0, 3)).await;
    assert!(
        sealed.is_adopted(),
        "the first attempt stands, under a nonce that nobody remembers"
    );
    assert_exactly_once(&store, &[(id, 3)]).await;
}
