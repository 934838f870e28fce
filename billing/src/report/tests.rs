//! Reports stay the same however little of their rows is held, and in whatever order these come.

use arrow::array::RecordBatch;
use proptest::prelude::*;
use schemas::billing::BillingRow;
use schemas::{billing as events, result as results};

use super::corrections;
use super::invoiced::Invoiced;
use super::ledger;
use super::lines::Rating;
use super::pairing::Pairing;
use super::reconcile::Expected;
use super::sums::By;
use super::table::InMemory;
use super::usage::UsageReport;
use crate::common::{book, contracts, event, kept, lines, result};
use crate::correct::{Change, Correction, rows as correction_rows};

/// Everything is held.
const ALL: usize = 1 << 20;

fn batches(rows: &[BillingRow]) -> Vec<RecordBatch> {
    rows.chunks(7).map(|rows| events::to_batch(rows).unwrap()).collect()
}

const BY_DAY: By = By {
    day: true,
    project: true,
    region: true,
};

fn report(rows: &[BillingRow], run_bytes: usize) -> UsageReport<'static> {
    let ledger = ledger::read(&InMemory(batches(rows)), run_bytes, BY_DAY, &|_| true).unwrap();
    let rating = Rating {
        book: kept(book()),
        contracts: kept(contracts()),
        invoiced: kept(Invoiced::default()),
    };
    UsageReport::new(ledger, BY_DAY, rating).unwrap()
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
fn little_memory_gives_the_same_report() {
    let rows = ledger_rows();
    let whole = report(&rows, ALL);
    assert_eq!((whole.events, whole.repeated, whole.quarantine.rows), (20, 3, 1));
    // What was taken back was of a day, and no line of no day stands for it.
    assert!(
        lines(&whole)
            .iter()
            .all(|line| line.part.day.is_some() && line.quantity > 0)
    );
    for run_bytes in [0, 8, 16, 56, 2_000] {
        let part = report(&rows, run_bytes);
        assert_eq!(
            (lines(&part), &part.totals),
            (lines(&whole), &whole.totals),
            "{run_bytes}"
        );
        assert_eq!(
            (part.events, part.repeated, &part.quarantine),
            (20, 3, &whole.quarantine)
        );
    }
}

#[test]
fn little_memory_pairs_the_same_rows() {
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
    let groups = |paired: &super::pairing::Paired| paired.groups.iter().collect::<Result<Vec<_>, _>>().unwrap();
    let whole = pairing.all(&expected, ALL).unwrap();
    assert_eq!(
        (whole.results, whole.events, whole.faulty, whole.shown.len()),
        (40, 39, 2, 2)
    );
    assert_eq!(whole.of_job, expected);
    for run_bytes in [0, 16, 48, 320] {
        let paired = pairing.all(&expected, run_bytes).unwrap();
        assert_eq!((paired.results, paired.events, paired.faulty), (40, 39, 2));
        assert_eq!((&paired.shown, &paired.of_job), (&whole.shown, &expected));
        assert_eq!(groups(&paired), groups(&whole));
    }
}

#[test]
fn little_memory_checks_the_same_corrections() {
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
    let check = |rows: &[BillingRow], run_bytes| {
        let checked = corrections::check(&InMemory(batches(rows)), 20, run_bytes).unwrap();
        let mut found: Vec<_> = checked.shown.iter().map(|finding| finding.to_string()).collect();
        found.sort();
        (checked.counts, checked.more, found)
    };
    let (counts, more, found) = check(&rows, ALL);
    assert_eq!(
        (counts.reversals, counts.replacements, counts.adjustments, more),
        (10, 10, 0, 0)
    );
    assert!(found.is_empty(), "{found:?}");
    // One reversal is lost, and one replacement has tokens that its hash does not know of.
    rows[39].output_tokens += 5;
    rows.remove(24);
    let whole = check(&rows, ALL);
    assert_eq!(whole.2.len(), 2, "{whole:?}");
    for run_bytes in [0, 16, 48, 5_000] {
        assert_eq!(check(&rows, run_bytes), whole, "{run_bytes}");
    }
}

proptest! {
    #[test]
    fn order_and_repetition_change_no_total(
        order in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(0..24_usize, 0..10),
        run_bytes in 0..500_usize,
    ) {
        let rows = ledger_rows();
        let shuffled: Vec<_> = order.iter().chain(&again).map(|index| rows[*index].clone()).collect();
        let (before, after) = (report(&rows, ALL), report(&shuffled, run_bytes));
        prop_assert_eq!(lines(&before), lines(&after));
        prop_assert_eq!(before.totals, after.totals);
        prop_assert_eq!(before.quarantine.shown, after.quarantine.shown);
    }
}
