//! Picks the rows of the ledger that count: each event once, in the order of event ids.
//!
//! Ids are hashes, so equal ranges of them hold about equally many rows; one range is held at a time and
//! sorted. The order says which units of a graduated price an event's tokens are, whatever order files and
//! rows come in and however often a row was delivered.

use std::collections::{BTreeSet, HashMap};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// A range of ids, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    from: u128,
    to: u128,
}

impl Range {
    /// Ranges, in rising order, of which each holds about `rows_max` of `rows` rows at most.
    pub(super) fn split(rows: u64, rows_max: u64) -> impl Iterator<Item = Range> {
        let parts = u128::from(rows.div_ceil(rows_max.max(1)).max(1));
        let width = u128::MAX / parts;
        (0..parts).map(move |part| Range {
            from: part * width + u128::from(part > 0),
            to: if part + 1 == parts {
                u128::MAX
            } else {
                (part + 1) * width
            },
        })
    }

    fn contains(self, id: Uuid) -> bool {
        (self.from..=self.to).contains(&id.as_u128())
    }
}

/// The rows of one range, and the terms of all ranges so far.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) terms: Vec<Terms>,
    /// Terms by their bytes, so that they are made for the first event only.
    index: HashMap<Box<[u8]>, u32>,
    pub(super) events: Vec<Event>,
    scratch: Vec<u8>,
}

impl Held {
    /// Reads the rows in `range`, sorts them and drops what does not count. `booked` gives `event_id` and
    /// `payload_hash` of what earlier closes counted, and is read only if there are late rows.
    pub(super) fn read(
        &mut self,
        range: Range,
        period: Period,
        ledger: &Rows<'_>,
        booked: &Rows<'_>,
        counts: &mut Counts,
    ) -> Result<(), CloseError> {
        self.events.clear();
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
                let event = columns.view(row).map_err(failed)?;
                if range.contains(event.event_id) {
                    self.take(&event, row, period)?;
                }
            }
        }
        counts.rows += self.events.len() as u64;
        self.events.sort_unstable();
        let booked = self.booked(period, booked)?;
        self.settle(&booked, period, counts);
        Ok(())
    }

    fn take(&mut self, event: &EventView<'_>, row: usize, period: Period) -> Result<(), CloseError> {
        let hash = payload_digest(event, &mut self.scratch);
        let terms = self.intern(event, row, period)?;
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
        });
        Ok(())
    }

    fn intern(&mut self, event: &EventView<'_>, row: usize, period: Period) -> Result<u32, CloseError> {
        write_key(event, &mut self.scratch);
        if let Some(index) = self.index.get(self.scratch.as_slice()) {
            return Ok(*index);
        }
        let index = self.terms.len() as u32;
        self.terms.push(Terms::of(event, row, period)?);
        self.index.insert(self.scratch.as_slice().into(), index);
        Ok(index)
    }

    pub(super) fn terms_of(&self, event: &Event) -> &Terms {
        &self.terms[event.terms as usize]
    }

    /// The payload with which an earlier close counted an id that is late here.
    fn booked(&self, period: Period, booked: &Rows<'_>) -> Result<HashMap<Uuid, String>, CloseError> {
        let late = self.events.iter().filter(|event| self.terms_of(event).period < period);
        let late: BTreeSet<Uuid> = late.map(|event| event.id).collect();
        let mut found = HashMap::new();
        if late.is_empty() {
            return Ok(found);
        }
        for batch in booked() {
            let what = "the rated rows of an earlier month";
            let batch = batch.map_err(|source| CloseError::Io { what, source })?;
            let (ids, hashes) = (text(&batch, "event_id"), text(&batch, "payload_hash"));
            let columns = ids.and_then(|ids| Ok((ids, hashes?)));
            let (ids, hashes) = columns.map_err(|source| CloseError::Row { what, source })?;
            for (id, hash) in ids.iter().zip(hashes) {
                if let Some(id) = id.and_then(|id| id.parse().ok()).filter(|id| late.contains(id)) {
                    found.insert(id, hash.unwrap_or_default().to_owned());
                }
            }
        }
        Ok(found)
    }

    /// Of the rows of one id the first counts, if its hash is true and no earlier close counted it.
    fn settle(&mut self, booked: &HashMap<Uuid, String>, period: Period, counts: &mut Counts) {
        let events = std::mem::take(&mut self.events);
        let mut kept: Vec<Event> = Vec::with_capacity(events.len());
        for event in events {
            let last = kept
                .last()
                .filter(|last| last.id == event.id)
                .map(|last| hex::encode(last.hash));
            let counted = last.as_ref().or_else(|| booked.get(&event.id));
            let same_result = kept
                .last()
                .is_none_or(|last| last.id != event.id || last.result_id == event.result_id);
            match counted {
                _ if event.belied => {
                    self.refuse(&event, "its payload_hash is not that of its fields", counts);
                }
                None => {
                    counts.events += 1;
                    counts.late += u64::from(self.terms_of(&event).period < period);
                    kept.push(event);
                }
                Some(hash) if *hash == hex::encode(event.hash) && same_result => counts.repeated += 1,
                Some(_) => {
                    let reason = "another row of this event, with other fields or of another result, came before";
                    self.refuse(&event, reason, counts);
                }
            }
        }
        self.events = kept;
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
