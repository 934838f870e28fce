//! Pairs rows of `results` with the usage rows of `billing_events`, by result id.
//!
//! Each row becomes 16 bytes: a key of its result id, and a hash of what the ledger must say of the result,
//! or of what it says. Sorted, both tables must be the same list with no key twice. Where they are not, the
//! first rows are read once more, whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use jiff::Timestamp;
use schemas::billing::{self, BillingRow, EventKind};
use schemas::columns::ReadError;
use schemas::ids::{JobId, TenantId};
use schemas::result::{self, ResultRow, Status};
use schemas::view::{EventColumns, EventView, ResultColumns, ResultView};
use uuid::Uuid;

use super::ReportError;
use super::compare::{differences, fingerprint, is_sound, repeats};
use super::ledger::{self, Ledger, Pass};
use super::reconcile::{Expected, Finding};
use super::sums::{By, Groups, Sums};
use super::table::{Table, fold, key};
use crate::contract::Contracts;
use crate::event::{usage_row, usage_view};
use crate::period::usage_period;
use crate::price_book::PriceBook;
use crate::sorted::{SortError, Sorted, Sorter, front, take_if};

/// How many faulty ids are looked at again.
pub(crate) const SHOWN_MAX: usize = 100;

/// Rows of one id that are looked at again, on each side.
const ROWS_SHOWN_MAX: usize = 2;

/// Both tables, and what the results are rated with.
pub(crate) struct Pairing<'a> {
    pub(crate) results: &'a dyn Table,
    pub(crate) events: &'a dyn Table,
    pub(crate) book: &'a PriceBook,
    pub(crate) contracts: &'a Contracts,
}

/// What the pairing found.
#[derive(Default)]
pub(crate) struct Paired {
    /// Ids in `results`.
    pub(crate) results: u64,
    /// Result ids in `billing_events`.
    pub(crate) events: u64,
    /// What the results are charged for.
    pub(crate) groups: Groups,
    /// The ledger's sums.
    pub(crate) ledger: Ledger,
    /// Results of each job that was asked for; a repeated delivery answers no request.
    pub(crate) of_job: Expected,
    /// Rows of `billing_events` that are no usage.
    pub(crate) corrections: u64,
    /// How many ids are at fault.
    pub(crate) faulty: u64,
    /// Keys of the first hundred of them, in order.
    pub(crate) shown: BTreeSet<u64>,
}

impl Pairing<'_> {
    /// Every id of both tables; at most about `run_bytes` are held of each kind of what grows with the rows.
    pub(crate) fn all(&self, expected: &Expected, run_bytes: usize) -> Result<Paired, ReportError> {
        let mut paired = Paired::default();
        let (mut results, mut sums) = (Vec::new(), Vec::new());
        for side in self.read_results(expected, run_bytes)? {
            results.push(side.pairs);
            sums.push(side.sums.finish()?);
            for (job, count) in side.of_job {
                *paired.of_job.entry(job).or_default() += count;
            }
        }
        let (mut events, mut unsound, mut passes) = (Vec::new(), Vec::new(), Vec::new());
        for side in self.read_events(run_bytes)? {
            events.push(side.pairs);
            unsound.push(side.unsound);
            passes.push(side.pass);
            paired.corrections += side.corrections;
        }
        paired.groups = Groups::of(sums);
        paired.ledger = ledger::count(passes, self.events, run_bytes, By::default(), &is_usage)?;
        paired.compare(&Sorted::of(results), &Sorted::of(events), &Sorted::of(unsound))?;
        Ok(paired)
    }

    fn read_results(&self, expected: &Expected, run_bytes: usize) -> Result<Vec<ResultSide>, ReportError> {
        let mut asked: HashMap<&str, HashMap<&str, &(TenantId, JobId)>> = HashMap::new();
        for job in expected.keys() {
            asked.entry(job.0.as_str()).or_default().insert(job.1.as_str(), job);
        }
        fold(
            "results",
            self.results,
            &ResultColumns::NAMES,
            || ResultSide::new(run_bytes),
            |side, batch| {
                each_result(batch, |row| {
                    let job = asked.get(row.tenant_id).and_then(|jobs| jobs.get(row.job_id));
                    if let Some(job) = job.filter(|_| row.status != Status::Duplicate) {
                        *side.of_job.entry((*job).clone()).or_default() += 1;
                    }
                    let period = side.months.period(row.finished_at);
                    let event = usage_view(row, false, self.book, self.contracts, period);
                    let event = event.map_err(|source| ReportError::Rate {
                        result_id: row.result_id,
                        source,
                    })?;
                    side.pairs.push(pair(&event, &mut side.scratch))?;
                    side.sums.add(&event)
                })
            },
        )
    }

    fn read_events(&self, run_bytes: usize) -> Result<Vec<EventSide>, ReportError> {
        fold(
            "billing_events",
            self.events,
            &EventColumns::names(),
            || EventSide::new(run_bytes),
            |side, batch| {
                ledger::each(batch, |row| {
                    if !is_usage(row) {
                        side.corrections += 1;
                        return Ok(());
                    }
                    side.pairs.push(pair(row, &mut side.scratch))?;
                    if !side.pass.take(row)? || !is_sound(row) {
                        side.unsound.push(key(row.result_id))?;
                    }
                    Ok(())
                })
            },
        )
    }

    /// Reads the rows of the first hundred ids at fault once more, and says what is wrong with each.
    pub(crate) fn explain(&self, paired: &Paired) -> Result<Vec<Finding>, ReportError> {
        let keys = &paired.shown;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let results = fold(
            "results",
            self.results,
            &result::required_columns(),
            Vec::new,
            |rows, batch| {
                let mut found = Vec::new();
                each_result(batch, |row| {
                    found.push(keys.contains(&key(row.result_id)));
                    Ok(())
                })?;
                rows.extend(of_rows("results", batch, &found, result::from_batch)?);
                Ok(())
            },
        )?;
        let events = fold(
            "billing_events",
            self.events,
            &EventColumns::names(),
            Vec::new,
            |rows, batch| {
                let mut found = Vec::new();
                ledger::each(batch, |row| {
                    found.push(is_usage(row) && keys.contains(&key(row.result_id)));
                    Ok(())
                })?;
                rows.extend(of_rows("billing_events", batch, &found, billing::from_batch)?);
                Ok(())
            },
        )?;
        let mut rows: BTreeMap<Uuid, Rows> = BTreeMap::new();
        for row in results.into_iter().flatten() {
            rows.entry(row.result_id).or_default().results.take(row);
        }
        for row in events.into_iter().flatten() {
            rows.entry(row.result_id).or_default().events.take(row);
        }
        let findings = rows.into_iter().map(|(id, rows)| self.finding(id, rows));
        findings.filter_map(Result::transpose).collect()
    }

    /// What is wrong with the rows of one result; nothing if only its key was that of another one.
    fn finding(&self, result_id: Uuid, rows: Rows) -> Result<Option<Finding>, ReportError> {
        let names = |tenant: &TenantId, job: &JobId, request: &str| format!("{tenant} {job} {request}");
        let of_result = |row: &ResultRow| names(&row.tenant_id, &row.job_id, row.custom_id.as_str());
        let of_event = |row: &BillingRow| names(&row.tenant_id, &row.job_id, row.custom_id.as_str());
        if let ([result], [event]) = (&rows.results.first[..], &rows.events.first[..])
            && (rows.results.count, rows.events.count) == (1, 1)
        {
            let expected = usage_row(
                result,
                repeats(&event.view()),
                self.book,
                self.contracts,
                event.ingested_at,
            );
            let expected = expected.map_err(|source| ReportError::Rate { result_id, source })?;
            let fields = differences(&expected.view(), &event.view());
            let request = of_result(result);
            return Ok((!fields.is_empty()).then_some(Finding::Differs {
                result_id,
                request,
                fields,
            }));
        }
        let request = rows.results.first.first().map(of_result);
        let request = request
            .or_else(|| rows.events.first.first().map(of_event))
            .unwrap_or_default();
        Ok(Some(Finding::Unpaired {
            result_id,
            request,
            results: rows.results.count,
            events: rows.events.count,
        }))
    }
}

fn is_usage(row: &EventView<'_>) -> bool {
    row.event_kind == EventKind::Usage
}

/// The key of a row's result id, and behind it the hash of the row.
fn pair(row: &EventView<'_>, scratch: &mut Vec<u8>) -> u128 {
    pair_of(key(row.result_id)) | u128::from(fingerprint(row, scratch))
}

fn pair_of(key: u64) -> u128 {
    u128::from(key) << 64
}

fn key_of(pair: u128) -> u64 {
    (pair >> 64) as u64
}

/// What one thread has read of `results`.
struct ResultSide {
    pairs: Sorter<u128>,
    sums: Sums,
    of_job: Expected,
    months: Months,
    scratch: Vec<u8>,
}

impl ResultSide {
    fn new(run_bytes: usize) -> Self {
        ResultSide {
            pairs: Sorter::new(run_bytes),
            sums: Sums::by(By::default(), 2 * run_bytes),
            of_job: Expected::new(),
            months: Months::default(),
            scratch: Vec::new(),
        }
    }
}

/// What one thread has read of `billing_events`.
struct EventSide {
    pairs: Sorter<u128>,
    /// Keys of rows that contradict themselves.
    unsound: Sorter<u64>,
    corrections: u64,
    pass: Pass,
    scratch: Vec<u8>,
}

impl EventSide {
    fn new(run_bytes: usize) -> Self {
        EventSide {
            pairs: Sorter::new(run_bytes),
            unsound: Sorter::new(run_bytes),
            corrections: 0,
            pass: Pass::new(By::default(), run_bytes),
            scratch: Vec::new(),
        }
    }
}

/// The last month that was asked for; rows of one month mostly lie together.
#[derive(Default)]
struct Months {
    day: Option<i64>,
    period: String,
}

impl Months {
    fn period(&mut self, time: Timestamp) -> &str {
        let day = time.as_second().div_euclid(86_400);
        if self.day != Some(day) {
            self.period = usage_period(time);
            self.day = Some(day);
        }
        &self.period
    }
}

impl Paired {
    /// Walks along both lists of pairs, key by key.
    fn compare(
        &mut self,
        results: &Sorted<u128>,
        events: &Sorted<u128>,
        unsound: &Sorted<u64>,
    ) -> Result<(), ReportError> {
        let (mut results, mut events) = (results.iter().peekable(), events.iter().peekable());
        let mut unsound = unsound.iter().map(|key| Ok(pair_of(key?))).peekable();
        while let Some(first) = [front(&mut results)?, front(&mut events)?, front(&mut unsound)?]
            .into_iter()
            .flatten()
            .min()
        {
            let key = key_of(*first);
            let (of_results, of_events) = (Run::take(&mut results, key)?, Run::take(&mut events, key)?);
            self.results += u64::from(of_results.count > 0);
            self.events += u64::from(of_events.count > 0);
            let is_sound = Run::take(&mut unsound, key)?.count == 0;
            if of_results.count != 1 || of_results != of_events || !is_sound {
                self.faulty += 1;
                if self.shown.len() < SHOWN_MAX {
                    self.shown.insert(key);
                }
            }
        }
        Ok(())
    }
}

/// The pairs of one key: how many, and the first.
#[derive(PartialEq, Eq)]
struct Run {
    count: u64,
    first: Option<u128>,
}

impl Run {
    /// Takes from the front of `pairs` those with `key`.
    fn take(pairs: &mut Peekable<impl Iterator<Item = Result<u128, SortError>>>, key: u64) -> Result<Run, SortError> {
        let mut run = Run { count: 0, first: None };
        while let Some(pair) = take_if(pairs, |pair| key_of(*pair) == key)? {
            run.count += 1;
            run.first.get_or_insert(pair);
        }
        Ok(run)
    }
}

/// All rows of one id.
#[derive(Default)]
struct Rows {
    results: Sample<ResultRow>,
    events: Sample<BillingRow>,
}

/// The first few rows, and how many there are.
struct Sample<T> {
    first: Vec<T>,
    count: u32,
}

impl<T> Default for Sample<T> {
    fn default() -> Self {
        Sample {
            first: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Sample<T> {
    fn take(&mut self, row: T) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < ROWS_SHOWN_MAX {
            self.first.push(row);
        }
    }
}

fn each_result(
    batch: &RecordBatch,
    mut take: impl FnMut(&ResultView<'_>) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let failed = |source| ReportError::Row {
        table: "results",
        source,
    };
    let columns = ResultColumns::of(batch).map_err(failed)?;
    (0..batch.num_rows()).try_for_each(|row| take(&columns.view(row).map_err(failed)?))
}

/// The marked rows of a batch, whole.
fn of_rows<T>(
    table: &'static str,
    batch: &RecordBatch,
    marked: &[bool],
    read: fn(&RecordBatch) -> Result<Vec<T>, ReadError>,
) -> Result<Vec<T>, ReportError> {
    let rows = filter_record_batch(batch, &BooleanArray::from(marked.to_vec()));
    let rows = rows.map_err(|source| ReportError::Table {
        table,
        source: source.into(),
    })?;
    read(&rows).map_err(|source| ReportError::Row { table, source })
}
