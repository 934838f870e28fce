//! Waiting with a bound.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short, so that a process can be stopped between two of its writes.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until `condition` gives a value.
///
/// # Errors
/// Those of `condition`, and one that names `what` once `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(LOOK_EVERY);
    }
}
