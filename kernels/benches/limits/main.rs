//! How close each kernel comes to this machine's limits, measured in the same run.
//!
//! `cargo bench -p kernels -- [--threads N] [--kernel NAME] [--clock wall|thread] [--rounds N] [--only TEXT]
//! [--json FILE]`
//!
//! Every case is timed in rounds, and each round first times the machine: its peak of integer or float multiply-adds
//! and the rate at which it reads memory, and for a single token also how fast its kernel is on a matrix in L1. What
//! these allow for a case, as a percentage of the time it took, is what it is judged by; since a noisy neighbour slows both, the median over the rounds holds. Outputs are checked too.
//! More threads than one are compared with one in the same rounds, and as many as there are cores beside a process that
//! keeps a core busy.

mod clock;
mod limits;
mod cached;
mod cases;
mod head;
mod contention;
mod report;

use kernels::Kernel;

use crate::cases::Bench;
use crate::clock::Clock;
use crate::contention::Contended;
use crate::report::Measured;

/// Everything that was measured.
#[derive(Default)]
struct Results {
    cases: Vec<Measured>,
    contention: Vec<Contended>,
}

fn main() {
    if std::env::args().any(|arg| arg == contention::SPIN) {
        contention::spin();
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(2);
        }
    };
    let results = pool(options.threads).install(|| Bench::new(&options).run());
    if let Some(file) = &options.json {
        let json = report::json(&options, &results);
        if let Err(error) = std::fs::write(file, json) {
            eprintln!("cannot write {file}: {error}");
            std::process::exit(1);
        }
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().expect("a thread pool starts")
}

/// What the command line asks for.
struct Options {
    threads: usize,
    kernel: Kernel,
    clock: Clock,
    rounds: usize,
    only: String,
    json: Option<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = Kernel::from_env().map_err(|error| error.to_string())?;
        let mut options = Options {
            threads,
            kernel,
            clock: Clock::Wall,
            rounds: 15,
            only: String::new(),
            json: None,
        };
        while let Some(arg) = args.next() {
            if arg == "--bench" {
                continue; // cargo's own
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            let number = || value.parse().map_err(|_| format!("{arg} {value}: not a number"));
            match arg.as_str() {
                "--threads" => options.threads = number()?,
                "--rounds" => options.rounds = number()?.max(1),
                "--clock" => {
                    options.clock = Clock::named(&value).ok_or_else(|| format!("--clock {value}: wall or thread"))?;
                }
                "--kernel" => options.kernel = Kernel::named(&value).map_err(|error| error.to_string())?,
                "--only" => options.only = value,
                "--json" => options.json = Some(value),
                _ => return Err(format!("{arg} is unknown, see benches/limits/main.rs")),
            }
        }
        if options.clock == Clock::Thread && options.threads != 1 {
            return Err("--clock thread times one thread: add --threads 1".to_owned());
        }
        Ok(options)
    }
}
