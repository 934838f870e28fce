//! Wall time, or the time for which this thread was on a CPU.
//!
//! On a machine that others use too, only the second repeats; it says nothing about more than one thread.

use std::sync::OnceLock;
use std::time::Instant;

/// What times a case and the limits beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Time as it passes.
    Wall,
    /// Time of this thread on a CPU.
    Thread,
}

impl Clock {
    /// The name on the command line and in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Clock::Wall => "wall",
            Clock::Thread => "thread",
        }
    }

    /// The clock of this name.
    pub(crate) fn named(name: &str) -> Option<Clock> {
        [Clock::Wall, Clock::Thread]
            .into_iter()
            .find(|clock| clock.name() == name)
    }

    /// Seconds since some moment.
    pub(crate) fn now(self) -> f64 {
        static START: OnceLock<Instant> = OnceLock::new();
        match self {
            Clock::Wall => START.get_or_init(Instant::now).elapsed().as_secs_f64(),
            Clock::Thread => thread_seconds(),
        }
    }
}

#[cfg(target_os = "linux")]
fn thread_seconds() -> f64 {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: on 64-bit Linux a `timespec` is two 64-bit integers.
    let result = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the system has no clock of threads");
    time[0] as f64 + time[1] as f64 * 1e-9
}

#[cfg(not(target_os = "linux"))]
fn thread_seconds() -> f64 {
    panic!("the clock of threads is Linux's")
}
