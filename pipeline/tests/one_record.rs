//! One message at a time, from the broker to both tables.

mod support;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
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

/// An intent stays for ever, and nobody can tell whose words it would keep.
#[tokio::test(flavor = "multi_thread")]
async fn intents_do_not_quote_what_could_not_be_read() {
    let world = World::new(1);
    let faulty = br#"{"schema": "bitnet.request_batch.v1", "batch_seq": "Dear Ms acme"}"#;
    let error = schemas::request::decode(faulty, &schemas::request::Limits::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("Dear Ms acme"), "{error}");
    world.publish(0, faulty).await;
    assert_eq!(world.drain("w").await.unwrap().dead_letters, 1);
    let store = Store::open(&world.settings.store.uri).unwrap();
    let listed = store.objects().list(Some(&store.path("local/_intents")));
    let mut intents = listed.try_collect::<Vec<_>>().await.unwrap();
    intents.retain(|meta| meta.location.as_ref().ends_with("00000.json"));
    assert_eq!(intents.len(), 1);
    let intent = store
        .objects()
        .get(&intents[0].location)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let intent = String::from_utf8(intent.to_vec()).unwrap();
    assert!(
        intent.contains("bitnet.dead-letters") && !intent.contains("Dear Ms"),
        "{intent}"
    );
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

fn partition(world: &World) -> PartitionId {
    PartitionId {
        topic: world.settings.request_topic(ServiceTier::Batch),
        epoch: 1,
        partition: 0,
    }
}

/// Takes the partition over `times` times, as workers that die with its first message.
async fn die_at_the_start(world: &World, times: u32) {
    let store = Store::open(&world.settings.store.uri).unwrap();
    let (zone, partition) = (&world.settings.worker.residency_zone, partition(world));
    for before in 0..times {
        let dying = Committer::open(store.clone(), zone, "dying", CommitSettings::default())
            .await
            .unwrap();
        assert_eq!(dying.recover(&partition).await.unwrap().deaths, before);
        dying.risk(&partition).await.unwrap();
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
    die_at_the_start(&world, 9).await;
    let progress = world.drain("w").await.unwrap();
    let (results, _) = world.rows().await;
    let offsets: Vec<_> = results.iter().map(|row| row.position.offset).collect();
    assert_eq!((progress.dead_letters, offsets), (1, vec![1, 2, 3, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_dies_idle_is_held_against_no_message() {
    let world = World::new(1);
    let store = Store::open(&world.settings.store.uri).unwrap();
    for _ in 0..12 {
        let dying = Committer::open(store.clone(), "local", "dying", CommitSettings::default())
            .await
            .unwrap();
        dying.recover(&partition(&world)).await.unwrap();
    }
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    let progress = world.drain("w").await.unwrap();
    assert_eq!((progress.dead_letters, progress.rows_committed), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_message_larger_than_a_producer_sends_by_default_is_a_dead_letter() {
    let world = World::new(1);
    world.publish(0, &vec![b'x'; 3_000_000]).await;
    world.publish_batch(0, "job-1", 0, &[("a", PROMPT)]).await;
    let progress = world.drain("w").await.unwrap();
    assert_eq!((progress.dead_letters, progress.rows_committed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_model_spoils_only_its_own_requests() {
    let mut world = World::new(1);
    let models = tempfile::tempdir().unwrap();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/model/debian-sections");
    for name in ["debian-sections", "damaged"] {
        std::fs::create_dir(models.path().join(name)).unwrap();
        for file in std::fs::read_dir(bundled).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), models.path().join(name).join(file.file_name())).unwrap();
        }
    }
    let weights = models.path().join("damaged/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    world.settings.models.dir = Some(models.path().to_owned());
    let mut damaged = batch("job-1", 0, &[("a", PROMPT)]);
    damaged.model = "damaged".to_owned();
    world.publish(0, &serde_json::to_vec(&damaged).unwrap()).await;
    world.publish_batch(0, "job-2", 0, &[("a", PROMPT)]).await;
    world.drain("w").await.unwrap();
    let (results, billing) = world.rows().await;
    assert_eq!(results[0].error_code.as_deref(), Some("model_unusable"));
    assert!(results[0].error_message.as_ref().unwrap().contains("model.safetensors"));
    assert_eq!((results[1].status, billing[0].billable), (Status::Ok, false));
}
