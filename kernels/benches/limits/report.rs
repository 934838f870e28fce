//! What was measured, as lines and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::cases::Work;
use crate::limits::{Limits, Unit};

/// One case: medians of its rounds.
pub(crate) struct Measured {
    name: String,
    unit: Unit,
    seconds: f64,
    gmacs: f64,
    gigabytes: f64,
    limit_gmacs: f64,
    limit_gigabytes: f64,
    /// The time that the limits allow, in percent of the time taken: median, least, most.
    percent: [f64; 3],
    /// Whether memory is the nearer limit.
    memory_bound: bool,
}

impl Measured {
    /// From rounds of seconds a run and the limits measured beside it.
    pub(crate) fn new(name: String, unit: Unit, work: Work, rounds: &[(f64, Limits)]) -> Measured {
        let sorted = |value: &dyn Fn(&(f64, Limits)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |values: &[f64]| values[values.len() / 2];
        let (macs, bytes) = (work.macs as f64, work.bytes as f64);
        let percents = sorted(&|(seconds, limits)| (macs / limits.macs).max(bytes / limits.bytes) / seconds * 100.0);
        let seconds = median(&sorted(&|round| round.0));
        let limit_gmacs = median(&sorted(&|round| round.1.macs)) / 1e9;
        let limit_gigabytes = median(&sorted(&|round| round.1.bytes)) / 1e9;
        Measured {
            name,
            unit,
            seconds,
            gmacs: macs / seconds / 1e9,
            gigabytes: bytes / seconds / 1e9,
            limit_gmacs,
            limit_gigabytes,
            percent: [median(&percents), percents[0], percents[percents.len() - 1]],
            memory_bound: bytes / limit_gigabytes > macs / limit_gmacs,
        }
    }

    fn limit(&self) -> (&'static str, f64) {
        if self.memory_bound {
            ("memory read", self.limit_gigabytes)
        } else {
            (self.unit.name(), self.limit_gmacs)
        }
    }
}

/// Prints what the columns are.
pub(crate) fn head(options: &Options) {
    let Options {
        threads, kernel, clock, ..
    } = options;
    println!("{}, {threads} threads, kernel {kernel}, {} time", cpu(), clock.name());
    println!("{:<44} {:>10} {:>9} {:>7}  of the limit", "", "ms", "GMAC/s", "GB/s");
}

/// Prints one case.
pub(crate) fn line(m: &Measured) {
    let ([percent, low, high], (limit, giga)) = (m.percent, m.limit());
    print!(
        "{:<44} {:>10.3} {:>9.1} {:>7.2}  ",
        m.name,
        m.seconds * 1e3,
        m.gmacs,
        m.gigabytes
    );
    println!("{percent:>5.1} % ({low:.0} to {high:.0}) of {limit} {giga:.1}");
}

/// All cases as one JSON object.
pub(crate) fn json(options: &Options, results: &[Measured]) -> String {
    let unix_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let cases: Vec<String> = results.iter().map(case).collect();
    format!(
        "{{\n  \"cpu\": {:?}, \"threads\": {}, \"kernel\": \"{}\", \"clock\": \"{}\", \"rounds\": {}, \
         \"unix_time\": {unix_time},\n  \
         \"cases\": [\n{}\n  ]\n}}\n",
        cpu(),
        options.threads,
        options.kernel,
        options.clock.name(),
        options.rounds,
        cases.join(",\n")
    )
}

fn case(m: &Measured) -> String {
    let ([percent, low, high], (limit, _)) = (m.percent, m.limit());
    format!(
        "    {{\"name\": \"{}\", \"seconds\": {:.6e}, \"gmacs\": {:.2}, \"gigabytes\": {:.3}, \"limit\": \"{limit}\", \
         \"limit_gmacs\": {:.1}, \"limit_gigabytes\": {:.2}, \
         \"percent\": {percent:.1}, \"percent_low\": {low:.1}, \"percent_high\": {high:.1}}}",
        m.name, m.seconds, m.gmacs, m.gigabytes, m.limit_gmacs, m.limit_gigabytes,
    )
}

/// The processor's name, with family and model, which cloud machines leave more telling than the name.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info
            .lines()
            .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split(':').nth(1))
            .map_or("?", str::trim)
            .to_owned()
    };
    format!(
        "{} (family {}, model {})",
        field("model name"),
        field("cpu family"),
        field("model")
    )
}
