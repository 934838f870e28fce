//! A year of business, reported on and recomputed by others. `BITNET_YEAR_EVENTS` says how many requests it
//! has: 100,000 by default; `make bench-finance` makes ten million.

#![forbid(unsafe_code)]

#[path = "finance/year.rs"]
mod year;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::bitnet::binary;
use integration::stack::{installed, repository, target};
use serde::Deserialize;

use year::Year;

const EVENTS: u64 = 100_000;

/// Rules of `focus-validator` 2.2.1 that no file can keep: of the first two, one demands an `InvoiceId` on every
/// row and the other none; the third demands that every `Purchase` costs nothing.
const KNOWN_DEFECTS: [&str; 3] = ["InvoiceId-C-004-C", "InvoiceId-C-005-C", "EffectiveCost-C-005-C"];

/// How a command of `bitnet` ran.
struct Ran {
    took: Duration,
    /// Most memory it held, in MiB.
    peak_mib: u64,
    code: Option<i32>,
    output: String,
}

/// A year of so many requests, made once.
async fn year(events: u64) -> Result<Year> {
    Year::make(&target()?.join(format!("finance/{events}")), events).await
}

fn bitnet(year: &Year, arguments: &[&str]) -> Result<Ran> {
    let started = Instant::now();
    let mut child = Command::new(binary()?)
        .args(arguments)
        .env("BITNET__STORE__URI", year.store())
        .env("BITNET__WORKER__RESIDENCY_ZONE", Year::ZONE)
        .env("BITNET__BILLING__PRICES", year.prices())
        .env("BITNET__BILLING__CONTRACTS", year.contracts())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let watched = thread::spawn(move || {
        let mut peak = 0;
        while let Some(kib) = fs::read_to_string(&status).ok().as_deref().and_then(high_water) {
            peak = kib.max(peak);
            thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().context("piped")?, &mut output)?;
    let code = child.wait()?.code();
    let ran = Ran {
        took: started.elapsed(),
        peak_mib: watched.join().unwrap_or_default() / 1024,
        code,
        output,
    };
    eprintln!(
        "bitnet {}: {:.1} s, {} MiB at most",
        arguments.join(" "),
        ran.took.as_secs_f64(),
        ran.peak_mib
    );
    Ok(ran)
}

/// `VmHWM` in KiB; none when the process is gone.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a command that must succeed.
fn done(year: &Year, arguments: &[&str]) -> Result<Ran> {
    let ran = bitnet(year, arguments)?;
    ensure!(
        ran.code == Some(0),
        "{arguments:?} ended with {:?}: {}",
        ran.code,
        ran.output
    );
    Ok(ran)
}

/// What `duckdb_usage.py` found.
#[derive(Debug, Deserialize)]
struct Compared {
    compared: u64,
    billed: std::collections::BTreeMap<String, String>,
    differing: Vec<String>,
}

fn compare_in_duckdb(year: &Year, csv: &Path) -> Result<Compared> {
    let output = Command::new(installed()?.join("python/bin/python"))
        .arg(repository().join("integration/readers/duckdb_usage.py"))
        .arg(year.folder.join("store").join(Year::ZONE))
        .args([&year.prices(), &year.contracts(), &csv.to_owned()])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn out(year: &Year, name: &str) -> PathBuf {
    year.folder.join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_reconciles_and_its_charges_are_those_of_an_independent_recomputation() -> Result<()> {
    let events = std::env::var("BITNET_YEAR_EVENTS").map_or(Ok(EVENTS), |text| text.parse())?;
    let started = Instant::now();
    let year = year(events).await?;
    eprintln!(
        "a year of {} requests: made in {:.1} s",
        year.events,
        started.elapsed().as_secs_f64()
    );

    let csv = out(&year, "usage.csv");
    let path = csv.to_str().context("UTF-8")?;
    done(&year, &["report", "usage", "--format", "csv", "-o", path])?;
    let compared = compare_in_duckdb(&year, &csv)?;
    assert!(compared.differing.is_empty(), "{:?}", compared.differing);
    assert!(compared.compared > 1_000, "{compared:?}");
    assert_eq!(compared.billed.keys().collect::<Vec<_>>(), ["EUR", "JPY", "KWD", "USD"]);

    let reconciled = done(&year, &["report", "reconcile"])?;
    assert!(reconciled.output.contains("Reconciled"), "{}", reconciled.output);

    let file = out(&year, "focus.parquet");
    let path = file.to_str().context("UTF-8")?;
    let month = [
        "report",
        "focus",
        "--month",
        Year::LAST,
        "--format",
        "parquet",
        "-o",
        path,
    ];
    done(&year, &month)?;
    let failing = focus_failures(&file)?;
    let known = |rule: &String| KNOWN_DEFECTS.contains(&rule.as_str());
    assert!(failing.iter().all(known), "{failing:?}");
    Ok(())
}

/// The rules of FOCUS 1.2 that the file does not keep, as `focus-validator` says.
fn focus_failures(file: &Path) -> Result<Vec<String>> {
    let output = Command::new(installed()?.join("focus/bin/python"))
        .arg(repository().join("integration/readers/focus_check.py"))
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
