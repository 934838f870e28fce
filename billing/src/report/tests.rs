//! Reports stay the same however small the window of ids is, and in whatever order the rows come.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::cell::Cell;

use arrow::array::RecordBatch;
use proptest::prelude::*;
use schemas::billing::BillingRow;
use schemas::{billing as events, result as results};

use super::in_memory;
use super::ledger;
use super::pairing::Pairing;
use super::reconcile::Expected;
use super::usage::{UsageReport, from_ledger};
use common::{book, contracts, event, result};

fn batches(rows: &[BillingRow]) -> Vec<RecordBatch> {
    rows.chunks(7).map(|rows| events::to_batch(rows).unwrap()).collect()
}

fn report(rows: &[BillingRow], ids_max: usize) -> UsageReport {
    let ledger = ledger::read(&in_memory(batches(rows)), ids_max, |_| true).unwrap();
    from_ledger(ledger, &book(), &contracts()).unwrap()
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
    let whole = report(&rows, usize::MAX);
    assert_eq!((whole.events, whole.repeated, whole.quarantine.rows), (20, 3, 1));
    for ids_max in [0, 1, 2, 7, 19, 20] {
        assert_eq!(report(&rows, ids_max), whole, "{ids_max}");
    }
    let readings = Cell::new(0);
    let table = || {
        readings.set(readings.get() + 1);
        in_memory(batches(&rows))()
    };
    ledger::read(&table, 20, |_| true).unwrap();
    assert_eq!(readings.get(), 1);
    ledger::read(&table, 5, |_| true).unwrap();
    assert!((4..=20).contains(&readings.get()), "{}", readings.get());
}

#[test]
fn a_small_window_pairs_the_same_rows() {
    let (book, contracts) = (book(), contracts());
    let all: Vec<_> = (0..40).map(|n| result(["acme", "globex"][n as usize % 2], n)).collect();
    let mut ledger: Vec<_> = all.iter().map(event).collect();
    ledger.remove(9);
    ledger[20].output_tokens += 1;
    let of_results = in_memory(all.chunks(9).map(|rows| results::to_batch(rows).unwrap()).collect());
    let of_events = in_memory(batches(&ledger));
    let pairing = Pairing {
        results: &of_results,
        events: &of_events,
        book: &book,
        contracts: &contracts,
    };
    let acme = (all[0].tenant_id.clone(), all[0].job_id.clone());
    let expected: Expected = [(acme, 20)].into();
    let whole = pairing.all(&expected, usize::MAX).unwrap();
    assert_eq!(
        (whole.results, whole.events, whole.faulty, whole.shown.len()),
        (40, 39, 2, 2)
    );
    assert_eq!(whole.of_job, expected);
    for ids_max in [1, 3, 39] {
        let paired = pairing.all(&expected, ids_max).unwrap();
        assert_eq!((paired.results, paired.events, paired.faulty), (40, 39, 2));
        assert_eq!(
            (paired.shown, paired.groups, paired.of_job),
            (whole.shown.clone(), whole.groups.clone(), expected.clone())
        );
    }
}

proptest! {
    #[test]
    fn order_and_repetition_change_no_total(
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(0..24_usize, 0..10),
        ids_max in 1..30_usize,
    ) {
        let rows = ledger_rows();
        let shuffled: Vec<_> = order.iter().chain(&again).map(|index| rows[*index].clone()).collect();
        let (before, after) = (report(&rows, usize::MAX), report(&shuffled, ids_max));
        prop_assert_eq!(before.lines, after.lines);
        prop_assert_eq!(before.totals, after.totals);
        prop_assert_eq!(before.quarantine.shown, after.quarantine.shown);
    }
}
