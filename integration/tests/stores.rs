//! What storage relies on, on a real S3 server: the suite that `pipeline/tests/storage.rs` runs on memory and
//! on disk.

#![forbid(unsafe_code)]

#[path = "../../pipeline/tests/behaviour/mod.rs"]
mod behaviour;

use std::sync::Arc;

use integration::stack::S3;
use object_store::aws::AmazonS3Builder;
use pipeline::store::Store;

/// One test on S3 for each behaviour, each in a bucket of its own.
macro_rules! on_s3 {
    ($($behaviour:ident $(($extra:expr))?),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $behaviour() {
            behaviour::$behaviour(s3(stringify!($behaviour)) $(, $extra)?).await;
        })+
    };
}

on_s3!(
    eight_writers_race_one_intent(100),
    eight_committers_race_one_partition,
    chunks_become_rows,
    sealed_chunks_are_applied_by_whoever_comes_next,
    checkpoints_carry_watermarks_and_dedup_keys,
    files_are_replaced_under_a_worker,
    texts_are_erased_under_a_worker,
    vacuum_keeps_what_anyone_needs,
    files_are_compacted_under_a_worker,
);

#[tokio::test(flavor = "multi_thread")]
async fn the_start_up_check_passes() {
    s3("the-start-up-check")
        .check()
        .await
        .expect("this server keeps the promise");
}

/// A new bucket on the shared server.
fn s3(name: &str) -> Store {
    let name = name.replace('_', "-");
    let bucket = S3::shared().bucket(&name).expect("a new bucket");
    // The same builder as Store::open uses, but with settings that are not the process's environment.
    let builder = bucket.env.iter().fold(
        AmazonS3Builder::new().with_bucket_name(&name),
        |builder, (key, value)| builder.with_config(key.to_ascii_lowercase().parse().expect("a setting of S3"), value),
    );
    let objects = builder.build().expect("an S3 client");
    Store::open(&bucket.uri)
        .expect("a store")
        .with_objects(Arc::new(objects))
}
