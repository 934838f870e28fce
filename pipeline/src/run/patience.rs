//! Trying again what an outage stopped.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries until it works, fails for another reason than an outage, or `give_up` is past.
pub(super) async fn patiently<T, E: Display, F: Future<Output = Result<T, E>>>(
    give_up: Instant,
    is_outage: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    loop {
        match attempt().await {
            Err(error) if is_outage(&error) && Instant::now() < give_up => {
                tracing::warn!(%error, "an outage; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}
