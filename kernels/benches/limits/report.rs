//! What was measured, as lines and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cases::Work;
use crate::contention::Contended;
use crate::limits::{Limits, Unit};
use crate::{Options, Results};

/// One round of a case.
pub(crate) struct Round {
    /// Of one run.
    pub(crate) seconds: f64,
    pub(crate) limits: Limits,
    /// The same on one thread, where more than one is timed.
    pub(crate) of_one: Option<OfOne>,
}

/// What one thread takes for a run, and what limits it.
pub(crate) struct OfOne {
    pub(crate) seconds: f64,
    pub(crate) limits: Limits,
}

/// One case: medians of its rounds.
pub(crate) struct Measured {
    name: String,
    seconds: f64,
    gmacs: f64,
    gigabytes: f64,
    limit_gmacs: f64,
    limit_gigabytes: f64,
    /// The time that the limits allow, in percent of the time taken.
    percent: Spread,
    /// The nearest limit, and how many 10⁹ multiply-adds or bytes a second it is.
    limit: (&'static str, f64),
    /// What the kernel does from L1, in 10⁹ multiply-adds a second.
    cached_gmacs: Option<f64>,
    /// What tile registers can do, in 10⁹ multiply-adds a second, and the percentage with it in place of the int8 peak.
    tiles: Option<(f64, Spread)>,
    /// How many times faster all threads are than one, and how many times the limits allow.
    scaling: Option<(Spread, Spread)>,
}

/// Median, least and most.
#[derive(Clone, Copy)]
pub(crate) struct Spread(pub(crate) [f64; 3]);

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Spread([values[values.len() / 2], values[0], values[values.len() - 1]])
    }

    fn median(self) -> f64 {
        self.0[0]
    }
}

impl Measured {
    /// From rounds, at least one.
    pub(crate) fn new(name: String, unit: Unit, work: Work, rounds: &[Round]) -> Measured {
        let spread = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
        let some = |value: &dyn Fn(&Round) -> Option<f64>| -> Option<Spread> {
            let values: Option<Vec<f64>> = rounds.iter().map(value).collect();
            values.map(|values| Spread::of(values.into_iter()))
        };
        let (macs, bytes) = (work.macs as f64, work.bytes as f64);
        let allowed = |peak: f64, limits: &Limits| {
            let cached = limits.cached_macs.map_or(0.0, |cached| macs / cached);
            (macs / peak).max(bytes / limits.bytes).max(cached)
        };
        let percent = |peak: f64, round: &Round| allowed(peak, &round.limits) / round.seconds * 100.0;
        let faster = |round: &Round| Some(round.of_one.as_ref()?.seconds / round.seconds);
        let may_be_faster = |round: &Round| {
            let one = &round.of_one.as_ref()?.limits;
            Some(allowed(one.macs, one) / allowed(round.limits.macs, &round.limits))
        };
        let seconds = spread(&|round| round.seconds).median();
        let limit_gmacs = spread(&|round| round.limits.macs).median() / 1e9;
        let limit_gigabytes = spread(&|round| round.limits.bytes).median() / 1e9;
        let cached_gmacs = some(&|round| round.limits.cached_macs).map(|cached| cached.median() / 1e9);
        let limits = [
            (bytes / limit_gigabytes, ("memory read", limit_gigabytes)),
            (macs / limit_gmacs, (unit.name(), limit_gmacs)),
            (
                macs / cached_gmacs.unwrap_or(f64::INFINITY),
                ("unpacking in L1", cached_gmacs.unwrap_or_default()),
            ),
        ];
        let nearest = limits.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b));
        let tile_percent = some(&|round| round.limits.tile_macs.map(|peak| percent(peak, round)));
        let tile_gmacs = some(&|round| round.limits.tile_macs.map(|peak| peak / 1e9));
        Measured {
            name,
            seconds,
            gmacs: macs / seconds / 1e9,
            gigabytes: bytes / seconds / 1e9,
            limit_gmacs,
            limit_gigabytes,
            percent: spread(&|round| percent(round.limits.macs, round)),
            limit: nearest.map(|(_, limit)| limit).unwrap_or_default(),
            cached_gmacs,
            tiles: tile_gmacs.map(Spread::median).zip(tile_percent),
            scaling: some(&faster).zip(some(&may_be_faster)),
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
    let (Spread([percent, low, high]), (limit, giga)) = (m.percent, m.limit);
    print!(
        "{:<44} {:>10.3} {:>9.1} {:>7.2}  ",
        m.name,
        m.seconds * 1e3,
        m.gmacs,
        m.gigabytes
    );
    print!("{percent:>5.1} % ({low:.0} to {high:.0}) of {limit} {giga:.1}");
    if let Some(cached) = m.cached_gmacs {
        print!(", {cached:.0} GMAC/s in L1");
    }
    if let Some((gmacs, Spread([percent, ..]))) = m.tiles {
        print!(", {percent:.1} % with AMX's {gmacs:.0}");
    }
    if let Some((Spread([scaling, low, high]), Spread([allowed, ..]))) = m.scaling {
        print!(", {scaling:.2} x one thread ({low:.2} to {high:.2}; the limit {allowed:.2} x)");
    }
    println!();
}

/// All cases as one JSON object.
pub(crate) fn json(options: &Options, results: &Results) -> String {
    let unix_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let cases: Vec<String> = results.cases.iter().map(case).collect();
    let contention: Vec<String> = results.contention.iter().map(Contended::json).collect();
    format!(
        "{{\n  \"cpu\": {:?}, \"threads\": {}, \"kernel\": \"{}\", \"clock\": \"{}\", \"rounds\": {}, \
         \"unix_time\": {unix_time},\n  \
         \"cases\": [\n{}\n  ],\n  \"contention\": [\n{}\n  ]\n}}\n",
        cpu(),
        options.threads,
        options.kernel,
        options.clock.name(),
        options.rounds,
        cases.join(",\n"),
        contention.join(",\n"),
    )
}

fn case(m: &Measured) -> String {
    let (limit, _) = m.limit;
    let mut json = format!(
        "    {{\"name\": \"{}\", \"seconds\": {:.6e}, \"gmacs\": {:.2}, \"gigabytes\": {:.3}, \"limit\": \"{limit}\", \
         \"limit_gmacs\": {:.1}, \"limit_gigabytes\": {:.2}, {}",
        m.name,
        m.seconds,
        m.gmacs,
        m.gigabytes,
        m.limit_gmacs,
        m.limit_gigabytes,
        fields("percent", m.percent, 1),
    );
    if let Some(cached) = m.cached_gmacs {
        json += &format!(", \"cached_gmacs\": {cached:.1}");
    }
    if let Some((gmacs, percent)) = m.tiles {
        json += &format!(", \"tile_gmacs\": {gmacs:.1}, {}", fields("tile_percent", percent, 1));
    }
    if let Some((scaling, limit)) = m.scaling {
        json += &format!(
            ", {}, {}",
            fields("scaling", scaling, 3),
            fields("limit_scaling", limit, 3)
        );
    }
    json + "}"
}

/// A spread as three fields of an object.
pub(crate) fn fields(name: &str, Spread([median, low, high]): Spread, digits: usize) -> String {
    format!("\"{name}\": {median:.digits$}, \"{name}_low\": {low:.digits$}, \"{name}_high\": {high:.digits$}")
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
