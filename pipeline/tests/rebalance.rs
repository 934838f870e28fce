//! Workers come and go; every request still ends in one row of each table.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use pipeline::cli::worker;
use pipeline::progress::Progress;
use pipeline::run::{self, RunError};
use pipeline::settings::Settings;
use support::World;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 4;
const BATCHES: u32 = 60;
const ROWS: u32 = 10;

struct Running {
    stop: watch::Sender<bool>,
    progress: watch::Receiver<Progress>,
    ended: JoinHandle<Result<(), RunError>>,
}

async fn start(settings: Settings, drain: bool) -> Running {
    let parts = worker::parts(&settings, drain).await.unwrap();
    let (progress, seen) = watch::channel(Progress::default());
    let (stop, stopping) = watch::channel(false);
    Running {
        stop,
        progress: seen,
        ended: tokio::spawn(run::run(parts, stopping, progress)),
    }
}

async fn publish_job(world: &World) {
    publish(world, "job").await;
}

async fn publish_more(world: &World) {
    publish(world, "more").await;
}

async fn publish(world: &World, job: &str) {
    for seq in 0..BATCHES {
        let prompts: Vec<_> = (0..ROWS)
            .map(|row| {
                (
                    format!("{seq}-{row}"),
                    format!("Package: package-{seq}-{row}\nSection:"),
                )
            })
            .collect();
        let prompts: Vec<_> = prompts
            .iter()
            .map(|(id, prompt)| (id.as_str(), prompt.as_str()))
            .collect();
        world.publish_batch(seq as i32 % PARTITIONS, job, seq, &prompts).await;
    }
}

async fn assert_exactly_once(world: &World) {
    let (results, billing) = world.rows().await;
    let expected = (BATCHES * ROWS) as usize;
    assert_eq!((results.len(), billing.len()), (expected, expected));
    let ids: BTreeSet<_> = results.iter().map(|row| row.custom_id.clone()).collect();
    let events: BTreeSet<_> = billing.iter().map(|event| event.event_id).collect();
    assert_eq!((ids.len(), events.len()), (expected, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_worker_hands_over_to_the_next() {
    let world = World::new(PARTITIONS);
    publish_job(&world).await;
    let mut first = start(world.settings_of("first"), false).await;
    first
        .progress
        .wait_for(|progress| progress.rows_ended >= 50)
        .await
        .unwrap();
    first.stop.send_replace(true);
    first.ended.await.unwrap().unwrap();
    world.drain("second").await.unwrap();
    assert_exactly_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_dies_is_replaced_without_a_lost_or_doubled_row() {
    let world = World::new(PARTITIONS);
    publish_job(&world).await;
    let mut first = start(world.settings_of("first"), false).await;
    first
        .progress
        .wait_for(|progress| progress.rows_ended >= 50)
        .await
        .unwrap();
    first.ended.abort();
    world.drain("second").await.unwrap();
    assert_exactly_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_member_takes_its_share_while_the_first_runs() {
    let world = World::new(PARTITIONS);
    let first = start(world.settings_of("first"), false).await;
    let second = start(world.settings_of("second"), false).await;
    publish_job(&world).await;
    let total = u64::from(BATCHES * ROWS);
    let (a, b) = (first.progress.clone(), second.progress.clone());
    tokio::time::timeout(Duration::from_secs(60), async {
        while a.borrow().rows_committed + b.borrow().rows_committed < total {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("both together commit everything");
    for worker in [first, second] {
        worker.stop.send_replace(true);
        worker.ended.await.unwrap().unwrap();
    }
    assert_exactly_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_that_went_away_and_comes_back_is_read_on() {
    let world = World::new(PARTITIONS);
    let first = start(world.settings_of("first"), false).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    publish_job(&world).await;
    let second = start(world.settings_of("second"), false).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    second.ended.abort();
    publish_more(&world).await;
    let progress = first.progress.clone();
    tokio::time::timeout(Duration::from_secs(40), async {
        loop {
            let (results, _) = world.rows().await;
            if results.len() == 2 * (BATCHES * ROWS) as usize {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("stuck at {:?}", progress.borrow()));
    first.stop.send_replace(true);
    first.ended.await.unwrap().unwrap();
    let (results, billing) = world.rows().await;
    let places: BTreeSet<_> = results
        .iter()
        .map(|row| (row.position.clone(), row.batch_index))
        .collect();
    let events: BTreeSet<_> = billing.iter().map(|event| event.event_id).collect();
    let expected = 2 * (BATCHES * ROWS) as usize;
    assert_eq!((results.len(), places.len()), (expected, expected));
    assert_eq!((billing.len(), events.len()), (expected, expected));
}
