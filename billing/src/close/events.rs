//! Picks the rows of the ledger that count: each event once, in the order of event ids.
//!
//! The order says which units of a graduated price an event's tokens are, whatever order files and rows come in
//! and however often a row was delivered. Rows are sorted in a temporary file, so memory does not grow with them.

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;

use arrow::array::{Array, AsArray, RecordBatch};
use schemas::billing::EventKind;
use schemas::columns::ReadError;
use schemas::ids::{ProjectId, TenantId};
use schemas::request::ServiceTier;
use schemas::view::{EventColumns, EventView};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CloseError, Rows};
use crate::event::{is_hash, payload_digest};
use crate::period::Period;
use crate::sorted::{SortError, Sorted, Sorter, front, take_if};

/// How many rows that do not count are listed; all are counted.
const SHOWN_MAX: usize = 100;

/// What many events have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Terms {
    pub(super) tenant: TenantId,
    pub(super) project: ProjectId,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) model_id: String,
    pub(super) tier: ServiceTier,
    pub(super) currency: String,
    pub(super) price_book: String,
    pub(super) price_version: String,
    pub(super) contract_version: Option<String>,
    pub(super) period: Period,
    /// Why it is not charged; none if it is.
    pub(super) free: Option<String>,
}

/// One row of the ledger, without what closing does not need. Sorts by id, and of one id by which counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) id: Uuid,
    /// Its `payload_hash` is not that of its fields.
    belied: bool,
    ingested_us: i64,
    pub(super) hash: [u8; 32],
    result_id: Uuid,
    pub(super) time_us: i64,
    pub(super) terms: u32,
    pub(super) meters: [i64; 4],
    kind: u8,
    pub(super) corrects: Option<Uuid>,
}

/// A row that is in no total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Its id.
    pub event_id: Uuid,
    /// Which row of `results` it is for.
    pub result_id: Uuid,
    /// Whom it would have charged.
    pub tenant_id: TenantId,
    /// Why it does not count.
    pub reason: String,
}

/// How the rows of the ledger were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rows read.
    pub rows: u64,
    /// Events that count here.
    pub events: u64,
    /// Those of them that belong to an earlier month.
    pub late: u64,
    /// Further rows of events that count here or in an earlier close, with the same payload.
    pub repeated: u64,
    /// Rows in no total.
    pub quarantined: u64,
    /// The first hundred of them, by id.
    pub quarantine: BTreeSet<Refused>,
}

/// The rows of a month while they are read.
struct Reading {
    period: Period,
    terms: Vec<Terms>,
    /// Terms by their bytes, so that they are made for the first event only.
    index: HashMap<Box<[u8]>, u32>,
    events: Sorter<Event>,
    /// Ids of events of earlier months.
    late: Sorter<Uuid>,
    scratch: Vec<u8>,
}

/// The rows of a month.
pub(super) struct Held {
    period: Period,
    pub(super) terms: Vec<Terms>,
    events: Sorted<Event>,
    /// Id and `payload_hash` of events that are late here and that an earlier close counted.
    booked: Sorted<(Uuid, String)>,
}

impl Held {
    /// Reads the rows. `booked` gives `event_id` and `payload_hash` of what earlier closes counted, and is read
    /// only if there are late rows. Beyond about `run_bytes`, rows are on disk.
    pub(super) fn read(
        period: Period,
        ledger: &Rows<'_>,
        booked: &Rows<'_>,
        run_bytes: usize,
    ) -> Result<Held, CloseError> {
        let mut reading = Reading {
            period,
            terms: Vec::new(),
            index: HashMap::new(),
            events: Sorter::new(run_bytes),
            late: Sorter::new(run_bytes),
            scratch: Vec::new(),
        };
        for batch in ledger() {
            let batch = batch.map_err(|source| CloseError::Io {
                what: "billing_events",
                source,
            })?;
            let failed = |source| CloseError::Row {
                what: "billing_events",
                source,
            };
            let columns = EventColumns::of(&batch).map_err(failed)?;
            for row in 0..batch.num_rows() {
                reading.take(&columns.view(row).map_err(failed)?, row)?;
            }
        }
        Ok(Held {
            period,
            terms: reading.terms,
            events: Sorted::of([reading.events]),
            booked: found(&Sorted::of([reading.late]), booked, run_bytes)?,
        })
    }

    pub(super) fn terms_of(&self, event: &Event) -> &Terms {
        &self.terms[event.terms as usize]
    }

    /// Hands over the events that count, in the order of their ids: of the rows of one id the first, if its hash is
    /// true and no earlier close counted it.
    pub(super) fn settle(&self, mut take: impl FnMut(Event) -> Result<(), CloseError>) -> Result<Counts, CloseError> {
        let mut counts = Counts::default();
        let mut booked = self.booked.iter().peekable();
        let mut last: Option<Event> = None;
        for event in self.events.iter() {
            let event = event?;
            counts.rows += 1;
            let before = last.filter(|last| last.id == event.id);
            let counted = match before {
                Some(last) => Some(hex::encode(last.hash)),
                None => hash_of(&mut booked, event.id)?,
            };
            let same_result = before.is_none_or(|last| last.result_id == event.result_id);
            match counted {
                _ if event.belied => {
                    self.refuse(&event, "its payload_hash is not that of its fields", &mut counts);
                }
                None => {
                    counts.events += 1;
                    counts.late += u64::from(self.terms_of(&event).period < self.period);
                    last = Some(event);
                    take(event)?;
                }
                Some(hash) if hash == hex::encode(event.hash) && same_result => counts.repeated += 1,
                Some(_) => {
                    let reason = "another row of this event, with other fields or of another result, came before";
                    self.refuse(&event, reason, &mut counts);
                }
            }
        }
        Ok(counts)
    }

    fn refuse(&self, event: &Event, reason: &str, counts: &mut Counts) {
        counts.quarantined += 1;
        counts.quarantine.insert(Refused {
            event_id: event.id,
            result_id: event.result_id,
            tenant_id: self.terms_of(event).tenant.clone(),
            reason: reason.to_owned(),
        });
        if counts.quarantine.len() > SHOWN_MAX {
            counts.quarantine.pop_last();
        }
    }
}

/// The payload with which an earlier close counted each of the ids.
fn found(late: &Sorted<Uuid>, booked: &Rows<'_>, run_bytes: usize) -> Result<Sorted<(Uuid, String)>, CloseError> {
    let what = "the rated rows of an earlier month";
    let mut found = Sorter::new(run_bytes);
    let mut late = late.iter().peekable();
    while late.peek().is_some() {
        let some = late.by_ref().take((run_bytes / size_of::<Uuid>()).max(1));
        let some: Vec<Uuid> = some.collect::<Result<_, _>>()?;
        for batch in booked() {
            let batch = batch.map_err(|source| CloseError::Io { what, source })?;
            let (ids, hashes) = (text(&batch, "event_id"), text(&batch, "payload_hash"));
            let columns = ids.and_then(|ids| Ok((ids, hashes?)));
            let (ids, hashes) = columns.map_err(|source| CloseError::Row { what, source })?;
            for (id, hash) in ids.iter().zip(hashes) {
                let id = id.and_then(|id| id.parse::<Uuid>().ok());
                if let Some(id) = id.filter(|id| some.binary_search(id).is_ok()) {
                    found.push((id, hash.unwrap_or_default().to_owned()))?;
                }
            }
        }
    }
    Ok(Sorted::of([found]))
}

/// The hash that goes with an id, where ids only rise.
fn hash_of(
    booked: &mut Peekable<impl Iterator<Item = Result<(Uuid, String), SortError>>>,
    id: Uuid,
) -> Result<Option<String>, SortError> {
    while take_if(booked, |(next, _)| *next < id)?.is_some() {}
    let next = front(booked)?;
    Ok(next.filter(|(next, _)| *next == id).map(|(_, hash)| hash.clone()))
}

impl Reading {
    fn take(&mut self, event: &EventView<'_>, row: usize) -> Result<(), CloseError> {
        let hash = payload_digest(event, &mut self.scratch);
        let terms = self.intern(event, row)?;
        if self.terms[terms as usize].period < self.period {
            self.late.push(event.event_id)?;
        }
        self.events.push(Event {
            id: event.event_id,
            belied: !is_hash(event.payload_hash, &hash),
            ingested_us: event.ingested_at.as_microsecond(),
            hash,
            result_id: event.result_id,
            time_us: event.event_time.as_microsecond(),
            terms,
            meters: [
                event.input_uncached_tokens,
                event.input_cached_tokens,
                event.output_tokens,
                event.requests,
            ],
            kind: EventKind::ALL
                .iter()
                .position(|kind| *kind == event.event_kind)
                .unwrap_or(0) as u8,
            corrects: event.corrects_event_id,
        })?;
        Ok(())
    }

    fn intern(&mut self, event: &EventView<'_>, row: usize) -> Result<u32, CloseError> {
        write_key(event, &mut self.scratch);
        if let Some(index) = self.index.get(self.scratch.as_slice()) {
            return Ok(*index);
        }
        let index = self.terms.len() as u32;
        self.terms.push(Terms::of(event, row, self.period)?);
        self.index.insert(self.scratch.as_slice().into(), index);
        Ok(index)
    }
}

impl Terms {
    fn of(event: &EventView<'_>, row: usize, period: Period) -> Result<Self, CloseError> {
        let of = event.usage_period.parse::<Period>().ok().filter(|of| *of <= period);
        let of = of.ok_or_else(|| CloseError::Period {
            event_id: event.event_id,
            found: event.usage_period.to_owned(),
            period,
        })?;
        let invalid = |column, problem: String| CloseError::Row {
            what: "billing_events",
            source: ReadError::Value { row, column, problem },
        };
        let tenant = event.tenant_id.parse::<TenantId>();
        let project = event.project_id.parse::<ProjectId>();
        let free = event.nonbillable_reason.unwrap_or("no_reason_given");
        Ok(Terms {
            tenant: tenant.map_err(|error| invalid("tenant_id", error.to_string()))?,
            project: project.map_err(|error| invalid("project_id", error.to_string()))?,
            region: event.region.to_owned(),
            zone: event.residency_zone.to_owned(),
            model_id: event.model_id.to_owned(),
            tier: event.service_tier,
            currency: event.billing_currency.to_owned(),
            price_book: event.price_book_id.to_owned(),
            price_version: event.price_version.to_owned(),
            contract_version: event.contract_version.map(str::to_owned),
            period: of,
            free: (!event.billable).then(|| free.to_owned()),
        })
    }
}

/// Bytes that differ where terms do: 0xFF, which no text holds, stands behind each text.
fn write_key(event: &EventView<'_>, key: &mut Vec<u8>) {
    key.clear();
    let texts = [
        event.tenant_id,
        event.project_id,
        event.region,
        event.residency_zone,
        event.model_id,
        event.service_tier.as_str(),
        event.billing_currency,
        event.price_book_id,
        event.price_version,
        event.contract_version.unwrap_or_default(),
        event.usage_period,
        event.nonbillable_reason.unwrap_or_default(),
    ];
    for text in texts {
        key.extend_from_slice(text.as_bytes());
        key.push(0xff);
    }
    key.push(u8::from(event.billable) + 2 * u8::from(event.contract_version.is_some()));
}

impl Event {
    pub(super) fn kind(&self) -> EventKind {
        EventKind::ALL[usize::from(self.kind)]
    }
}

fn text<'a>(batch: &'a RecordBatch, column: &'static str) -> Result<&'a arrow::array::StringArray, ReadError> {
    let array = batch.column_by_name(column).ok_or(ReadError::Missing { column })?;
    array.as_string_opt::<i32>().ok_or_else(|| ReadError::Type {
        column,
        found: array.data_type().clone(),
        expected: arrow::datatypes::DataType::Utf8,
    })
}

#[cfg(test)]
mod tests {
    use schemas::billing::{BillingRow, to_batch};

    use super::*;
    use crate::close::Batches;
    use crate::common::closing::{event, period};

    fn settled(ledger: &[BillingRow], booked: &RecordBatch, run_bytes: usize) -> (Vec<Uuid>, Counts) {
        let batches = || -> Batches<'_> { Box::new(ledger.chunks(7).map(|rows| Ok(to_batch(rows).unwrap()))) };
        let earlier = || -> Batches<'_> { Box::new([Ok(booked.clone())].into_iter()) };
        let held = Held::read(period("2026-11"), &batches, &earlier, run_bytes).unwrap();
        let mut ids = Vec::new();
        let counts = held.settle(|event| {
            ids.push(event.id);
            Ok(())
        });
        (ids, counts.unwrap())
    }

    #[test]
    fn little_memory_settles_the_same_events() {
        let of = |month: &str, n| event("acme", n, month, "debian-sections", [n, 0, 0]);
        let mut rows: Vec<_> = (0..20)
            .map(|n| of("2026-11", n))
            .chain((20..30).map(|n| of("2026-10", n)))
            .collect();
        let booked = to_batch(&rows[20..25]).unwrap();
        // Of one that was booked comes another payload, and two rows of this month come again.
        rows[22].output_tokens = 5;
        rows[22].payload_hash = crate::event::payload_hash(&rows[22]);
        rows.extend([rows[3].clone(), rows[3].clone(), rows[11].clone()]);
        let (ids, counts) = settled(&rows, &booked, 1 << 20);
        assert!(ids.is_sorted());
        assert_eq!((ids.len(), counts.rows, counts.events, counts.late), (25, 33, 25, 5));
        assert_eq!((counts.repeated, counts.quarantined), (7, 1));
        for run_bytes in [0, 16, 300, 3_000] {
            assert_eq!(
                settled(&rows, &booked, run_bytes),
                (ids.clone(), counts.clone()),
                "{run_bytes}"
            );
        }
    }
}
