//! Products beside another process that keeps one core busy: their speed falls in proportion, not to a tenth.
//!
//! Both processes and all threads share the cores, so with two of them a product keeps between a half and two thirds of its
//! speed. What waits by spinning, or hands out work that waits for the slowest, keeps much less.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::cases::time;
use crate::clock::Clock;
use crate::report::{self, Spread};

/// The argument with which this program is the other process.
pub(crate) const SPIN: &str = "--spin";
/// The least time that a round takes: many times what a scheduler lets a thread run.
const ROUND_MIN_SECONDS: f64 = 0.25;

/// A product alone and beside a process that spins.
pub(crate) struct Contended {
    name: String,
    seconds: f64,
    /// The time alone, as a part of the time beside the process.
    speed: Spread,
}

impl Contended {
    /// Measures in rounds, alone and not in turns.
    pub(crate) fn measure(name: String, rounds: usize, mut run: impl FnMut()) -> Contended {
        let rounds: Vec<(f64, f64)> = (0..rounds)
            .map(|_| {
                let alone = time(Clock::Wall, ROUND_MIN_SECONDS, &mut run);
                let _spinner = Spinner::start();
                (alone, time(Clock::Wall, ROUND_MIN_SECONDS, &mut run))
            })
            .collect();
        let contended = Contended {
            name,
            seconds: Spread::of(rounds.iter().map(|round| round.0)).0[0],
            speed: Spread::of(rounds.iter().map(|(alone, beside)| alone / beside)),
        };
        let Spread([speed, low, high]) = contended.speed;
        println!(
            "{:<44} {:>10.3}  {speed:.2} ({low:.2} to {high:.2}) of the speed beside a process that spins",
            contended.name,
            contended.seconds * 1e3
        );
        contended
    }

    pub(crate) fn json(&self) -> String {
        let speed = report::fields("speed_beside_a_process", self.speed, 3);
        format!(
            "    {{\"name\": \"{}\", \"seconds_alone\": {:.6e}, {speed}}}",
            self.name, self.seconds
        )
    }
}

/// A process that keeps one core busy until it is dropped.
struct Spinner(Child);

impl Spinner {
    fn start() -> Spinner {
        let program = std::env::current_exe().expect("a program knows its path");
        let child = Command::new(program).arg(SPIN).stdin(Stdio::piped()).spawn();
        Spinner(child.expect("this program starts again"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }
}

/// What the other process does: it spins, and ends when the bench does.
pub(crate) fn spin() -> ! {
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}
