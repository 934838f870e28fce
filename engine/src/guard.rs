//! Calls into libraries that may panic on what a model or a request brings along.
//!
//! Such a panic spoils its call, and with it the request or the model, but nothing else. A panic hook runs before the
//! call hears of it, though, so one that ends the process must ask [`is_guarded`] first.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Guarded calls that this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A library panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

/// True while this thread is inside a library call whose panics are caught and reported as an error. A panic hook
/// leaves those alone.
pub fn is_guarded() -> bool {
    DEPTH.get() > 0
}

/// Runs a library call that works on this thread alone. What it changes must not be used after it panicked.
pub(crate) fn guard<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    DEPTH.set(DEPTH.get() + 1);
    let returned = catch_unwind(AssertUnwindSafe(call));
    DEPTH.set(DEPTH.get() - 1);
    returned.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_guarded_inside_a_call_alone() {
        assert!(!is_guarded());
        let inside = guard(|| {
            assert_eq!(guard(|| panic!("on purpose")), Err::<(), _>(Panicked));
            let elsewhere = std::thread::spawn(is_guarded).join().unwrap();
            (is_guarded(), elsewhere)
        });
        assert_eq!(inside, Ok((true, false)));
        assert!(!is_guarded());
    }
}
