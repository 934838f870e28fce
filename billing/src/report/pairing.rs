//! Pairs rows of `results` with the usage rows of `billing_events`, by result id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::RecordBatch;
use schemas::billing::{self, BillingRow, EventKind};
use schemas::ids::{JobId, TenantId};
use schemas::result::{self, ResultRow, Status};
use uuid::Uuid;

use super::compare::{differences, fingerprint, is_sound, repeats};
use super::lines::{self, Group, Groups, Meters};
use super::reconcile::{Expected, Finding};
use super::window::Window;
use super::{ReportError, Table};
use crate::contract::Contracts;
use crate::event::usage_row;
use crate::price_book::PriceBook;

/// How many faulty ids are looked at again.
const SHOWN_MAX: usize = 100;

/// Rows of one id that are looked at again, on each side.
const ROWS_SHOWN_MAX: usize = 2;

/// Both tables, and what the results are rated with.
pub(crate) struct Pairing<'a> {
    pub(crate) results: &'a Table<'a>,
    pub(crate) events: &'a Table<'a>,
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
    /// Results of each job that was asked for; a repeated delivery answers no request.
    pub(crate) of_job: BTreeMap<(TenantId, JobId), u64>,
    /// Ids at fault.
    pub(crate) faulty: u64,
    /// The first hundred of them.
    pub(crate) shown: BTreeSet<Uuid>,
}

/// What is known of one result id.
#[derive(Default)]
struct Pair {
    results: u32,
    events: u32,
    /// Hash of what the ledger row must be, and of what it is.
    expected: [u8; 16],
    found: [u8; 16],
    /// The ledger row contradicts itself.
    unsound: bool,
    group: u32,
    meters: Meters,
    /// Index of its job among those asked for.
    job: Option<u32>,
}

impl Pairing<'_> {
    /// Every id of both tables, at most `ids_max` at a time.
    pub(crate) fn all(&self, expected: &Expected, ids_max: usize) -> Result<Paired, ReportError> {
        let jobs: HashMap<&(TenantId, JobId), u32> = expected.keys().zip(0..).collect();
        let mut paired = Paired::default();
        let mut window = Window::all();
        loop {
            let mut round = Round::default();
            window.read("results", self.results, "result_id", |window, batch| {
                for row in result_rows(batch)?.iter().filter(|row| window.contains(row.result_id)) {
                    let job = jobs.get(&(row.tenant_id.clone(), row.job_id.clone()));
                    round.take_result(
                        &self.expected(row, false)?,
                        job.filter(|_| row.status != Status::Duplicate),
                    );
                }
                window.shrink(&mut round.pairs, ids_max);
                Ok(())
            })?;
            window.read("billing_events", self.events, "result_id", |window, batch| {
                for row in usage_rows(batch)?.iter().filter(|row| window.contains(row.result_id)) {
                    round.take_event(row);
                }
                window.shrink(&mut round.pairs, ids_max);
                Ok(())
            })?;
            round.close(&mut paired, expected)?;
            match window.next() {
                Some(next) => window = next,
                None => return Ok(paired),
            }
        }
    }

    /// Reads the rows of `ids` once more, and says what is wrong with each.
    pub(crate) fn explain(&self, ids: &BTreeSet<Uuid>) -> Result<Vec<Finding>, ReportError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows: BTreeMap<Uuid, Rows> = BTreeMap::new();
        Window::all().read("results", self.results, "result_id", |_, batch| {
            for row in result_rows(batch)?
                .into_iter()
                .filter(|row| ids.contains(&row.result_id))
            {
                rows.entry(row.result_id).or_default().results.take(row);
            }
            Ok(())
        })?;
        Window::all().read("billing_events", self.events, "result_id", |_, batch| {
            for row in usage_rows(batch)?
                .into_iter()
                .filter(|row| ids.contains(&row.result_id))
            {
                rows.entry(row.result_id).or_default().events.take(row);
            }
            Ok(())
        })?;
        rows.into_iter().map(|(id, rows)| self.finding(id, rows)).collect()
    }

    fn finding(&self, result_id: Uuid, rows: Rows) -> Result<Finding, ReportError> {
        let names = |tenant: &TenantId, job: &JobId, request: &str| format!("{tenant} {job} {request}");
        let of_result = |row: &ResultRow| names(&row.tenant_id, &row.job_id, row.custom_id.as_str());
        let of_event = |row: &BillingRow| names(&row.tenant_id, &row.job_id, row.custom_id.as_str());
        if let ([result], [event]) = (&rows.results.first[..], &rows.events.first[..])
            && (rows.results.count, rows.events.count) == (1, 1)
        {
            let fields = differences(&self.expected(result, repeats(event))?, event);
            return Ok(Finding::Differs {
                result_id,
                request: of_result(result),
                fields,
            });
        }
        let request = rows.results.first.first().map(of_result);
        let request = request
            .or_else(|| rows.events.first.first().map(of_event))
            .unwrap_or_default();
        Ok(Finding::Unpaired {
            result_id,
            request,
            results: rows.results.count,
            events: rows.events.count,
        })
    }

    /// What the ledger must say of a result.
    fn expected(&self, row: &ResultRow, repeats: bool) -> Result<BillingRow, ReportError> {
        usage_row(row, repeats, self.book, self.contracts, row.finished_at).map_err(|source| ReportError::Rate {
            result_id: row.result_id,
            source,
        })
    }
}

#[derive(Default)]
struct Round {
    pairs: HashMap<Uuid, Pair>,
    groups: Vec<Group>,
    group_of: HashMap<Group, u32>,
}

impl Round {
    fn take_result(&mut self, expected: &BillingRow, job: Option<&u32>) {
        let group = Group::of(expected);
        let next = self.groups.len() as u32;
        let group = *self.group_of.entry(group.clone()).or_insert_with(|| {
            self.groups.push(group);
            next
        });
        let pair = self.pairs.entry(expected.result_id).or_default();
        pair.results = pair.results.saturating_add(1);
        pair.expected = fingerprint(expected);
        pair.group = group;
        pair.meters = Meters::of(expected);
        pair.job = job.copied();
    }

    fn take_event(&mut self, event: &BillingRow) {
        let pair = self.pairs.entry(event.result_id).or_default();
        pair.events = pair.events.saturating_add(1);
        pair.found = fingerprint(event);
        pair.unsound |= !is_sound(event);
    }

    fn close(self, paired: &mut Paired, expected: &Expected) -> Result<(), ReportError> {
        let mut of_job = vec![0_u64; expected.len()];
        for (id, pair) in &self.pairs {
            paired.results += u64::from(pair.results > 0);
            paired.events += u64::from(pair.events > 0);
            if pair.results > 0 {
                lines::add(&mut paired.groups, &self.groups[pair.group as usize], pair.meters)?;
            }
            if let Some(job) = pair.job {
                of_job[job as usize] += 1;
            }
            let agrees = (pair.results, pair.events) == (1, 1) && pair.expected == pair.found && !pair.unsound;
            if !agrees {
                paired.faulty += 1;
                paired.shown.insert(*id);
                if paired.shown.len() > SHOWN_MAX {
                    paired.shown.pop_last();
                }
            }
        }
        for (job, count) in expected.keys().zip(of_job) {
            *paired.of_job.entry(job.clone()).or_default() += count;
        }
        Ok(())
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

/// Reads only what is needed: answers and embeddings stay where they are.
fn result_rows(batch: &RecordBatch) -> Result<Vec<ResultRow>, ReportError> {
    let schema = batch.schema();
    let needed = result::required_columns();
    let columns = (0..schema.fields().len()).filter(|index| needed.contains(&schema.field(*index).name().as_str()));
    let batch = batch.project(&columns.collect::<Vec<_>>());
    let batch = batch.map_err(|source| ReportError::Table {
        table: "results",
        source: source.into(),
    })?;
    result::from_batch(&batch).map_err(|source| ReportError::Row {
        table: "results",
        source,
    })
}

fn usage_rows(batch: &RecordBatch) -> Result<Vec<BillingRow>, ReportError> {
    let rows = billing::from_batch(batch);
    let mut rows = rows.map_err(|source| ReportError::Row {
        table: "billing_events",
        source,
    })?;
    rows.retain(|row| row.event_kind == EventKind::Usage);
    Ok(rows)
}
