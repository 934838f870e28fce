//! One message at a time, from the broker to both tables.

mod support;

use std::time::Duration;

use pipeline::chunk::PartitionId;
use pipeline::committer::{CommitSettings, Committer};
use pipeline::store::Store;
use schemas::request::ServiceTier;
use schemas::result::Status;
use support::{World, batch};

const PROMPT: &str = "Package: qapt-utils\nDepends: kde-thumbnailer-deb, plasma-runner-installer, qapt-batch, \
                      qapt-deb-installer\nRecommends: gstreamer-qapt\nSection:";

#[tokio::test(flavor = "multi_thread")]
async fn one_request_becomes_one_result_and_one_billing_event() {
    let world = World::new(1);
    world.publish_batch(0, "job-1", 0, &[("qapt-utils", PROMPT)]).await;
    let progress = world.drain("w").await.unwrap();
    let (results, billing) = world.rows().await;
    assert_eq!((results.len(), billing.len(), progress.rows_committed), (1, 1, 1));
    let (result, event) = (&results[0], &billing[0]);
    assert_eq!(
        (result.status, result.output_text.as_deref().map(str::trim)),
        (Status::Ok, Some("kde"))
    );
    assert_eq!(event.result_id, result.result_id);
    assert_eq!(
        event.input_uncached_tokens + event.input_cached_tokens,
        result.input_tokens
    );
    assert_eq!(event.output_tokens, result.output_tokens);
    assert!(event.billable && result.first_token_at.is_some() && result.model_digest.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn second_delivery_of_a_batch_is_a_duplicate_without_charge() {
    let world = World::new(1);
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    world.drain("w1").await.unwrap();
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    world.drain("w2").await.unwrap();
    let (results, billing) = world.rows().await;
    let statuses: Vec<_> = results.iter().map(|row| row.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Duplicate, Status::Duplicate]);
    assert_eq!(
        billing.iter().map(|event| event.billable).collect::<Vec<_>>(),
        [true, false, false]
    );
    let mut ids: Vec<_> = billing.iter().map(|event| event.event_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "every event has an id of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on() {
    let world = World::new(1);
    world.publish(0, b"\xff\xfe not a batch").await;
    world.publish(0, b"").await;
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    let progress = world.drain("w").await.unwrap();
    let (results, _) = world.rows().await;
    assert_eq!((progress.dead_letters, results.len()), (2, 1));
    assert_eq!(results[0].position.offset, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_faulty_request_gets_its_own_error_row() {
    let world = World::new(1);
    let long = "word ".repeat(2000);
    let mut faulty = batch(
        "job-1",
        0,
        &[("good", PROMPT), ("long", &long), ("good", PROMPT), ("odd", PROMPT)],
    );
    faulty.requests.as_mut().unwrap()[3].body["temprature"] = 1.into();
    world.publish(0, &serde_json::to_vec(&faulty).unwrap()).await;
    let mut unknown = batch("job-2", 0, &[("a", PROMPT)]);
    unknown.model = "gpt-5".to_owned();
    world.publish(0, &serde_json::to_vec(&unknown).unwrap()).await;
    let mut elsewhere = batch("job-3", 0, &[("a", PROMPT)]);
    elsewhere.residency_zone = "mars".to_owned();
    world.publish(0, &serde_json::to_vec(&elsewhere).unwrap()).await;
    let mut late = batch("job-4", 0, &[("a", PROMPT)]);
    late.deadline = Some("2026-11-24T02:00:00Z".parse().unwrap());
    world.publish(0, &serde_json::to_vec(&late).unwrap()).await;
    world.drain("w").await.unwrap();

    let (results, billing) = world.rows().await;
    let ends: Vec<_> = results
        .iter()
        .map(|row| (row.status, row.error_code.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        ends,
        [
            (Status::Ok, ""),
            (Status::Error, "context_length_exceeded"),
            (Status::Error, "duplicate_custom_id"),
            (Status::Error, "unknown_parameter"),
            (Status::Error, "model_not_found"),
            (Status::Error, "residency_zone_mismatch"),
            (Status::Expired, "deadline_exceeded"),
        ]
    );
    assert!(results[3].error_message.as_ref().unwrap().contains("temprature"));
    assert_eq!(billing.iter().filter(|event| event.billable).count(), 1);
}

/// Takes the partition over `times` times, as workers that are killed before they commit anything.
async fn die_at_the_start(world: &World, times: u32) {
    let store = Store::open(&world.settings.store.uri).unwrap();
    let zone = &world.settings.worker.residency_zone;
    let partition = PartitionId {
        topic: world.settings.request_topic(ServiceTier::Batch),
        epoch: 1,
        partition: 0,
    };
    for attempt in 1..=times {
        let dying = Committer::open(store.clone(), zone, "dying", CommitSettings::default())
            .await
            .unwrap();
        assert_eq!(dying.recover(&partition).await.unwrap().attempts, attempt);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_at_which_workers_died_is_taken_message_by_message() {
    let world = World::new(1);
    for seq in 0..20 {
        world
            .publish_batch(0, "job-1", seq, &[(&format!("r{seq}"), PROMPT)])
            .await;
    }
    die_at_the_start(&world, 4).await;
    world.drain("w").await.unwrap();
    let (results, billing) = world.rows().await;
    assert_eq!((results.len(), billing.len()), (20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_kills_worker_after_worker_is_set_aside_alone() {
    let world = World::new(1);
    for seq in 0..5 {
        world
            .publish_batch(0, "job-1", seq, &[(&format!("r{seq}"), PROMPT)])
            .await;
    }
    die_at_the_start(&world, 6).await;
    let progress = world.drain("w").await.unwrap();
    let (results, _) = world.rows().await;
    let offsets: Vec<_> = results.iter().map(|row| row.position.offset).collect();
    assert_eq!((progress.dead_letters, offsets), (1, vec![1, 2, 3, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_is_stopped_before_it_commits_counts_as_no_death() {
    let world = World::new(1);
    // The mock broker lets a new group wait 3 s before it assigns.
    world.serve("idle", Duration::from_secs(5)).await.unwrap();
    die_at_the_start(&world, 1).await;
}
