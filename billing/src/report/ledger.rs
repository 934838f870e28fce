//! Reads `billing_events` so that each event counts once, in whatever order and however often its row is
//! there.
//!
//! Of rows with one id but different payloads or results the one ingested first counts, because a month
//! that is closed must not change; the others are quarantined, and so is a row that its own hash belies.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use schemas::billing::{self, BillingRow};
use schemas::ids::TenantId;
use uuid::Uuid;

use super::lines::{self, Group, Groups, Meters};
use super::window::Window;
use super::{ReportError, Table};
use crate::event::payload_hash;

/// How many quarantined payloads are listed; all their rows are counted.
const SHOWN_MAX: usize = 100;

/// A payload that is in no total.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// The id of its rows.
    pub event_id: Uuid,
    /// Which row of `results` it is for.
    pub result_id: Uuid,
    /// Whom it would have charged.
    pub tenant: TenantId,
    /// When the first of its rows was made.
    pub ingested_at: Timestamp,
    /// The first half of its `payload_hash`.
    pub payload_hash: String,
    /// Why it does not count.
    pub reason: &'static str,
}

/// The rows that are in no total.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// How many.
    pub rows: u64,
    /// The first hundred of their payloads, by id.
    pub shown: BTreeSet<Quarantined>,
}

/// The ledger's sums.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) groups: Groups,
    /// Events that count.
    pub(crate) events: u64,
    /// Rows of an event that counts already, with the same payload.
    pub(crate) repeated: u64,
    pub(crate) quarantine: Quarantine,
}

/// Reads the rows that `wanted` wants; the others are as if they were not there.
pub(crate) fn read(
    events: &Table<'_>,
    ids_max: usize,
    wanted: impl Fn(&BillingRow) -> bool,
) -> Result<Ledger, ReportError> {
    let mut ledger = Ledger::default();
    let mut window = Window::all();
    loop {
        let mut round = Round::default();
        window.read("billing_events", events, "event_id", |window, batch| {
            let rows = billing::from_batch(batch);
            let rows = rows.map_err(|source| ReportError::Row {
                table: "billing_events",
                source,
            })?;
            rows.iter()
                .filter(|row| window.contains(row.event_id) && wanted(row))
                .for_each(|row| round.take(row));
            window.shrink(&mut round.held, ids_max);
            round.others.retain(|id, _| window.contains(*id));
            Ok(())
        })?;
        round.close(&mut ledger)?;
        match window.next() {
            Some(next) => window = next,
            None => return Ok(ledger),
        }
    }
}

/// All rows of one event with one payload and result.
#[derive(Clone, Copy)]
struct Payload {
    hash: [u8; 16],
    result_id: Uuid,
    /// The hash is not that of the row's fields.
    belied: bool,
    group: u32,
    meters: Meters,
    /// Of the first of the rows, in microseconds.
    ingested_at: i64,
    rows: u32,
}

#[derive(Default)]
struct Round {
    /// The payload of each event that was met first.
    held: HashMap<Uuid, Payload>,
    /// Its other payloads, which few events have.
    others: HashMap<Uuid, Vec<Payload>>,
    groups: Vec<Group>,
    group_of: HashMap<Group, u32>,
}

impl Round {
    fn take(&mut self, row: &BillingRow) {
        let mut hash = [0; 16];
        // A text that is not hexadecimal leaves zeros, and is not the row's hash in any case.
        let text = row.payload_hash.get(..32).unwrap_or_default();
        hex::decode_to_slice(text, &mut hash).unwrap_or_default();
        let payload = Payload {
            hash,
            result_id: row.result_id,
            belied: payload_hash(row) != row.payload_hash,
            group: self.group(Group::of(row)),
            meters: Meters::of(row),
            ingested_at: row.ingested_at.as_microsecond(),
            rows: 1,
        };
        let first = self.held.entry(row.event_id).or_insert(Payload { rows: 0, ..payload });
        if first.is_like(&payload) {
            return first.join(&payload);
        }
        let others = self.others.entry(row.event_id).or_default();
        match others.iter_mut().find(|other| other.is_like(&payload)) {
            Some(other) => other.join(&payload),
            None => others.push(payload),
        }
    }

    fn group(&mut self, group: Group) -> u32 {
        if let Some(index) = self.group_of.get(&group) {
            return *index;
        }
        let index = self.groups.len() as u32;
        self.groups.push(group.clone());
        self.group_of.insert(group, index);
        index
    }

    fn close(mut self, ledger: &mut Ledger) -> Result<(), ReportError> {
        for (id, first) in &self.held {
            let mut payloads = self.others.remove(id).unwrap_or_default();
            payloads.push(*first);
            payloads.sort_by_key(|payload| (payload.belied, payload.ingested_at, payload.hash, payload.result_id));
            let counted = payloads.first().filter(|payload| !payload.belied);
            if let Some(payload) = counted {
                lines::add(&mut ledger.groups, &self.groups[payload.group as usize], payload.meters)?;
                ledger.events += 1;
                ledger.repeated += u64::from(payload.rows - 1);
            }
            for payload in payloads.iter().skip(counted.iter().len()) {
                ledger
                    .quarantine
                    .add(*id, payload, &self.groups[payload.group as usize]);
            }
        }
        Ok(())
    }
}

impl Payload {
    fn is_like(&self, other: &Payload) -> bool {
        (self.hash, self.result_id, self.belied) == (other.hash, other.result_id, other.belied)
    }

    fn join(&mut self, other: &Payload) {
        self.rows = self.rows.saturating_add(other.rows);
        self.ingested_at = self.ingested_at.min(other.ingested_at);
    }
}

impl Quarantine {
    fn add(&mut self, event_id: Uuid, payload: &Payload, group: &Group) {
        self.rows += u64::from(payload.rows);
        self.shown.insert(Quarantined {
            event_id,
            result_id: payload.result_id,
            tenant: group.tenant.clone(),
            ingested_at: Timestamp::from_microsecond(payload.ingested_at).unwrap_or_default(),
            payload_hash: hex::encode(payload.hash),
            reason: match payload.belied {
                true => "its payload_hash is not that of its fields",
                false => "another row of this event, with other fields or of another result, came before",
            },
        });
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_last();
        }
    }
}
