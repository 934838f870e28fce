//! What was measured, as lines and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::limits::Limit;

/// One case.
pub(crate) struct Measured {
    name: String,
    limit: Limit,
    seconds: f64,
    gmacs: f64,
    gigabytes: f64,
    limit_giga: f64,
    percent: f64,
    percent_range: (f64, f64),
}

impl Measured {
    /// From rounds of seconds a run and the limit measured beside it. Everything is the median of the rounds.
    pub(crate) fn new(name: String, limit: Limit, macs: f64, bytes: f64, rounds: &[(f64, f64)]) -> Measured {
        let sorted = |value: &dyn Fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |values: &[f64]| values[values.len() / 2];
        let seconds = median(&sorted(&|round| round.0));
        let done = if limit == Limit::Memory { bytes } else { macs };
        let percents = sorted(&|(seconds, limit)| done / seconds / limit * 100.0);
        Measured {
            name,
            limit,
            seconds,
            gmacs: macs / seconds / 1e9,
            gigabytes: bytes / seconds / 1e9,
            limit_giga: median(&sorted(&|round| round.1)) / 1e9,
            percent: median(&percents),
            percent_range: (percents[0], percents[percents.len() - 1]),
        }
    }
}

/// Prints what the columns are.
pub(crate) fn head(options: &Options) {
    println!("{}, {} threads, kernel {}", cpu(), options.threads, options.kernel);
    println!("{:<44} {:>10} {:>9} {:>7}  of the limit", "", "ms", "GMAC/s", "GB/s");
}

/// Prints one case.
pub(crate) fn line(m: &Measured) {
    let Measured {
        name,
        limit,
        percent,
        percent_range: (low, high),
        limit_giga,
        ..
    } = m;
    let (ms, gmacs, gigabytes) = (m.seconds * 1e3, m.gmacs, m.gigabytes);
    print!("{name:<44} {ms:>10.3} {gmacs:>9.1} {gigabytes:>7.2}  ");
    println!(
        "{percent:>5.1} % ({low:.0} to {high:.0}) of {} {limit_giga:.1}",
        limit.name()
    );
}

/// All cases as one JSON object.
pub(crate) fn json(options: &Options, results: &[Measured]) -> String {
    let unix_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let cases: Vec<String> = results.iter().map(case).collect();
    format!(
        "{{\n  \"cpu\": {:?}, \"threads\": {}, \"kernel\": \"{}\", \"rounds\": {}, \"unix_time\": {unix_time},\n  \
         \"cases\": [\n{}\n  ]\n}}\n",
        cpu(),
        options.threads,
        options.kernel,
        options.rounds,
        cases.join(",\n")
    )
}

fn case(m: &Measured) -> String {
    let Measured {
        name,
        limit,
        seconds,
        gmacs,
        gigabytes,
        limit_giga,
        percent,
        percent_range: (low, high),
    } = m;
    format!(
        "    {{\"name\": \"{name}\", \"seconds\": {seconds:.6e}, \"gmacs\": {gmacs:.2}, \"gigabytes\": {gigabytes:.3}, \
         \"limit\": \"{}\", \"limit_giga\": {limit_giga:.2}, \"percent\": {percent:.1}, \"percent_low\": {low:.1}, \
         \"percent_high\": {high:.1}}}",
        limit.name()
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
