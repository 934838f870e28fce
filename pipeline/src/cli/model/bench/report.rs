//! What was measured, as lines and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use engine::{Footprint, Model};
use serde_json::{Value, json};

use super::Case;
use super::machine::Limits;

/// One round of a case.
pub(super) struct Round {
    /// Of one step.
    pub(super) seconds: f64,
    /// Positions that the tokens of a step see, together.
    pub(super) contexts: usize,
    pub(super) limits: Limits,
}

/// A case: medians over its rounds.
pub(super) struct Measured {
    case: Case,
    seconds: f64,
    /// Tokens a second: median, least, most.
    rate: [f64; 3],
    /// The time that the limits allow, in percent of the time taken: median, least, most.
    percent: [f64; 3],
    /// Whether memory is the nearer limit.
    memory_bound: bool,
    limits: Limits,
}

impl Measured {
    pub(super) fn new(case: Case, footprint: &Footprint, rounds: &[Round]) -> Measured {
        let spread = |value: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            [values[values.len() / 2], values[0], values[values.len() - 1]]
        };
        let allowed = |round: &Round| {
            let [multiply, memory] = allowed(case, footprint, round);
            multiply.max(memory)
        };
        let tokens = case.tokens() as f64;
        let middle = &rounds[rounds.len() / 2];
        let [multiply, memory] = self::allowed(case, footprint, middle);
        Measured {
            case,
            seconds: spread(&|round| round.seconds)[0],
            rate: spread(&|round| tokens / round.seconds),
            percent: spread(&|round| allowed(round) / round.seconds * 100.0),
            memory_bound: memory > multiply,
            limits: Limits {
                int8: spread(&|round| round.limits.int8)[0],
                f32: spread(&|round| round.limits.f32)[0],
                bytes: spread(&|round| round.limits.bytes)[0],
            },
        }
    }

    fn limit(&self) -> &'static str {
        if self.memory_bound {
            "memory read"
        } else {
            "multiply-adds"
        }
    }
}

/// The seconds that multiplying and reading memory take at least: every ternary weight for each token and every weight of
/// the head for each row wanted in int8, attention in f32; each weight is read once, and each key and value.
fn allowed(case: Case, footprint: &Footprint, round: &Round) -> [f64; 2] {
    let limits = round.limits;
    let int8 = case.tokens() as u64 * footprint.ternary_weights + case.rows() as u64 * footprint.head_weights;
    let f32 = round.contexts as u64 * footprint.position_macs;
    // A prompt's own keys and values are read from the cache by each tile of queries; once is the least.
    let positions = if let Case::Prompt(_) = case {
        case.tokens()
    } else {
        round.contexts
    };
    let bytes = footprint.ternary_bytes + footprint.head_bytes + positions as u64 * footprint.position_bytes;
    [
        int8 as f64 / limits.int8 + f32 as f64 / limits.f32,
        bytes as f64 / limits.bytes,
    ]
}

pub(super) fn head(model: &Model, name: &str, threads: usize) {
    println!("{}, {threads} threads, kernel {}, {name}", cpu(), model.kernel_name());
    println!(
        "{:<18} {:>10} {:>10}   {:<22} of the limit, measured in the same rounds",
        "", "ms a step", "tokens/s", "least to most"
    );
}

pub(super) fn line(measured: &Measured) {
    let ([rate, low, high], [percent, from, to]) = (measured.rate, measured.percent);
    let limit = if measured.memory_bound {
        format!("memory read {:.1} GB/s", measured.limits.bytes / 1e9)
    } else {
        format!("int8 peak {:.0} GMAC/s", measured.limits.int8 / 1e9)
    };
    println!(
        "{:<18} {:>10.1} {:>10.1}   {:<22} {percent:.0} % ({from:.0} to {to:.0}) of {limit}",
        measured.case.name(),
        measured.seconds * 1e3,
        rate,
        format!("{low:.1} to {high:.1}"),
    );
}

pub(super) fn json(model: &Model, name: &str, threads: usize, measured: &[Measured]) -> String {
    let unix_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let cases: Vec<Value> = measured.iter().map(case).collect();
    let record = json!({
        "cpu": cpu(), "threads": threads, "kernel": model.kernel_name(), "model": name, "unix_time": unix_time,
        "cases": cases,
    });
    format!("{record:#}\n")
}

fn case(measured: &Measured) -> Value {
    let [rate, low, high] = measured.rate;
    let [percent, percent_low, percent_high] = measured.percent;
    let rounded = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
    json!({
        "name": measured.case.name(),
        "step_seconds": rounded(measured.seconds, 6),
        "tokens_per_second": rounded(rate, 2),
        "tokens_per_second_low": rounded(low, 2),
        "tokens_per_second_high": rounded(high, 2),
        "limit": measured.limit(),
        "percent": rounded(percent, 1),
        "percent_low": rounded(percent_low, 1),
        "percent_high": rounded(percent_high, 1),
        "int8_gmacs": rounded(measured.limits.int8 / 1e9, 1),
        "f32_gmacs": rounded(measured.limits.f32 / 1e9, 1),
        "memory_gigabytes": rounded(measured.limits.bytes / 1e9, 2),
    })
}

/// The processor's name, with family and model, which cloud machines leave more telling than the name.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| key.trim() == name)
            .map_or("?", |(_, value)| value.trim())
    };
    let (family, model) = (field("cpu family"), field("model"));
    format!("{} (family {family}, model {model})", field("model name"))
}
