//! Reports stay the same however small the window of ids is, and in whatever order the rows come.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use proptest::prelude::*;
use schemas::billing::BillingRow;
use schemas::{billing as events, result as results};

use super::corrections;
use super::invoiced::Invoiced;
use super::ledger;
use super::pairing::Pairing;
use super::reconcile::Expected;
use super::sums::By;
use super::table::{Batches, InMemory, Table};
use super::usage::{UsageReport, from_ledger};
use crate::correct::{Change, Correction, rows as correction_rows};
use common::{book, contracts, event, result};

fn batches(rows: &[BillingRow]) -> Vec<RecordBatch> {
    rows.chunks(7).map(|rows| events::to_batch(rows).unwrap()).collect()
}

fn report(rows: &[BillingRow], ids_max: u64) -> UsageReport {
    let ledger = ledger::read(&InMemory(batches(rows)), ids_max, By::default(), &|_| true).unwrap();
    from_ledger(ledger, By::default(), &book(), &contracts(), &Invoiced::default()).unwrap()
}

/// Twenty events of three tenants; some rows come again, and one event has a second payload.
fn ledger_rows() -> Vec<BillingRow> {
    let mut rows: Vec<_> = (0..20)
        .map(|n| event(&result(["acme", "globex", "stranger"][n as usize % 3], n)))
        .collect();
    rows.extend([rows[3].clone(), rows[3].clone(), rows[11].clone()]);
    let mut other = result("acme", 6);
    other.output_tokens = 1_000_000;
    other.finished_at = "2026-11-24T09:00:00Z".parse().unwrap();
    rows.push(event(&other));
    rows
}

#[test]
fn a_small_window_reads_more_often_and_gives_the_same_report() {
    let rows = ledger_rows();
    let whole = report(&rows, u64::MAX);
    assert_eq!((whole.events, whole.repeated, whole.quarantine.rows), (20, 3, 1));
    for ids_max in [0, 1, 2, 7, 19, 24] {
        assert_eq!(report(&rows, ids_max), whole, "{ids_max}");
    }
    // Ids that came once are read once, in as many windows as they need; here four came more often.
    let once: Vec<_> = rows[..20]
        .iter()
        .filter(|row| row.custom_id.as_str() != "row-6")
        .cloned()
        .collect();
    for (ids_max, readings) in [(19, 1), (5, 4), (1, 19)] {
        let table = Counted(InMemory(batches(&once)), AtomicUsize::new(0));
        ledger::read(&table, ids_max, By::default(), &|_| true).unwrap();
        assert_eq!(table.1.into_inner(), readings * table.0.pieces(), "{ids_max}");
    }
}

/// Counts the pieces that were read.
struct Counted(InMemory, AtomicUsize);

impl Table for Counted {
    fn rows(&self) -> u64 {
        self.0.rows()
    }

    fn pieces(&self) -> usize {
        self.0.pieces()
    }

    fn read(&self, piece: usize, columns: &[&'static str]) -> Batches {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(piece, columns)
    }
}

#[test]
fn a_small_window_pairs_the_same_rows() {
    let (book, contracts) = (book(), contracts());
    let all: Vec<_> = (0..40).map(|n| result(["acme", "globex"][n as usize % 2], n)).collect();
    let mut ledger: Vec<_> = all.iter().map(event).collect();
    ledger.remove(9);
    ledger[20].output_tokens += 1;
    let of_results = InMemory(all.chunks(9).map(|rows| results::to_batch(rows).unwrap()).collect());
    let of_events = InMemory(batches(&ledger));
    let pairing = Pairing {
        results: &of_results,
        events: &of_events,
        book: &book,
        contracts: &contracts,
    };
    let acme = (all[0].tenant_id.clone(), all[0].job_id.clone());
    let expected: Expected = [(acme, 20)].into();
    let whole = pairing.all(&expected, u64::MAX).unwrap();
    assert_eq!((whole.results, whole.events, whole.faulty.len()), (40, 39, 2));
    assert_eq!(whole.of_job, expected);
    for ids_max in [1, 3, 39] {
        let paired = pairing.all(&expected, ids_max).unwrap();
        assert_eq!((paired.results, paired.events), (40, 39));
        assert_eq!(
            (paired.faulty, paired.groups, paired.of_job),
            (whole.faulty.clone(), whole.groups.clone(), expected.clone())
        );
    }
}

#[test]
fn a_small_window_checks_the_same_corrections() {
    let mut rows: Vec<_> = (0..20).map(|n| event(&result("acme", n))).collect();
    for n in 0..10 {
        let change = Change::Replace([n, 0, 0]);
        let (event_id, reason) = (rows[n as usize].event_id, "wrong".to_owned());
        let correction = Correction {
            event_id,
            change,
            reason,
        };
        let made = correction_rows(&rows[n as usize], &correction, "2026-11-25T00:00:00Z".parse().unwrap());
        rows.extend(made.unwrap());
    }
    let check = |rows: &[BillingRow], rows_max| {
        let checked = corrections::check(&InMemory(batches(rows)), 20, rows_max).unwrap();
        let mut found: Vec<_> = checked.shown.iter().map(|finding| finding.to_string()).collect();
        found.sort();
        (checked.counts, checked.more, found)
    };
    let (counts, more, found) = check(&rows, u64::MAX);
    assert_eq!(
        (counts.reversals, counts.replacements, counts.adjustments, more),
        (10, 10, 0, 0)
    );
    assert!(found.is_empty(), "{found:?}");
    // One reversal is lost, and one replacement has tokens that its hash does not know of.
    rows[39].output_tokens += 5;
    rows.remove(24);
    let whole = check(&rows, u64::MAX);
    assert_eq!(whole.2.len(), 2, "{whole:?}");
    for rows_max in [0, 1, 3, 19] {
        assert_eq!(check(&rows, rows_max), whole, "{rows_max}");
    }
}

proptest! {
    #[test]
    fn order_and_repetition_change_no_total(
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(0..24_usize, 0..10),
        ids_max in 1..30_u64,
    ) {
        let rows = ledger_rows();
        let shuffled: Vec<_> = order.iter().chain(&again).map(|index| rows[*index].clone()).collect();
        let (before, after) = (report(&rows, u64::MAX), report(&shuffled, ids_max));
        prop_assert_eq!(before.lines, after.lines);
        prop_assert_eq!(before.totals, after.totals);
        prop_assert_eq!(before.quarantine.shown, after.quarantine.shown);
    }
}
