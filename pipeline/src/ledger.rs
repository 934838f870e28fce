//! Puts finished rows back into Kafka order, one partition at a time.
//!
//! A slot is reserved when a message arrives and filled when its answers are ready. Only the filled
//! prefix leaves, so every chunk covers one unbroken range of offsets. A slot holds its message's
//! permit; the permit returns only when the chunk is in the tables, which bounds all that is in flight.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use schemas::ids::DedupKey;
use tokio::sync::OwnedSemaphorePermit;

use crate::chunk::{Chunk, Outcome, PartitionId};

/// Names a slot for as long as its partition stays with us; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

/// When a partition's finished rows become a chunk.
#[derive(Debug, Clone, Copy)]
pub struct FlushLimits {
    /// At this many rows.
    pub rows_max: usize,
    /// Once the oldest finished message is this old.
    pub age_max: Duration,
}

/// How one partition's rows leave.
#[derive(Debug, Clone, Copy)]
pub struct Flush {
    /// Bounds of a chunk.
    pub limits: FlushLimits,
    /// What else makes one due.
    pub when: When,
}

/// What makes a chunk due besides the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing.
    Limits,
    /// Everything in flight has finished: nothing more will come.
    Complete,
    /// Anything has finished: the worker may not live to see more.
    Finished,
}

/// Every partition that is ours, with what is in flight in it.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: BTreeMap<PartitionId, Partition>,
    homes: HashMap<SlotId, PartitionId>,
    next_slot: u64,
}

#[derive(Debug)]
struct Partition {
    /// One past the last offset handed out in a chunk.
    from: i64,
    slots: VecDeque<Slot>,
    /// First delivery of every request batch, in chunks or in flight.
    seen: HashMap<DedupKey, i64>,
    /// A chunk is on its way to the tables; the next one waits for it.
    committing: bool,
}

#[derive(Debug)]
struct Slot {
    id: SlotId,
    offset: i64,
    content: Content,
    finished_at: Option<Instant>,
    first_delivery_of: Option<DedupKey>,
    /// None where no message stands.
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Content {
    /// Not yet known how many rows it has.
    Reading,
    Rows {
        outcomes: Vec<Option<Outcome>>,
        missing: usize,
    },
    DeadLetter,
}

impl Ledger {
    /// Takes a partition that starts at `from` and has seen `seen` (request batch to offset).
    pub fn assign(&mut self, partition: PartitionId, from: i64, seen: HashMap<DedupKey, i64>) {
        let new = Partition {
            from,
            slots: VecDeque::new(),
            seen,
            committing: false,
        };
        self.partitions.insert(partition, new);
    }

    /// Forgets a partition; what is still in flight in it will be dropped when it comes back.
    pub fn release(&mut self, partition: &PartitionId) {
        let Some(gone) = self.partitions.remove(partition) else {
            return;
        };
        for slot in gone.slots {
            self.homes.remove(&slot.id);
        }
    }

    /// Drops the messages from the first unfinished one on, so that what is left can leave at once.
    pub fn drop_unfinished(&mut self, partition: &PartitionId) {
        let Some(kept) = self.partitions.get_mut(partition) else {
            return;
        };
        let finished = kept.slots.iter().take_while(|slot| slot.finished_at.is_some()).count();
        for slot in kept.slots.drain(finished..) {
            self.homes.remove(&slot.id);
        }
    }

    /// Reserves the place of the message at `offset`, which must lie behind all earlier ones.
    ///
    /// `None` if the partition is not ours (any more).
    pub fn reserve(&mut self, partition: &PartitionId, offset: i64, permit: OwnedSemaphorePermit) -> Option<SlotId> {
        let home = self.partitions.get_mut(partition)?;
        let last = home.last();
        assert!(offset > last, "offset {offset} of {partition} came after {last}");
        let id = SlotId(self.next_slot);
        self.next_slot += 1;
        home.slots.push_back(Slot {
            id,
            offset,
            content: Content::Reading,
            finished_at: None,
            first_delivery_of: None,
            permit: Some(permit),
        });
        self.homes.insert(id, partition.clone());
        Some(id)
    }

    /// Finishes the offsets before `end` that no message came for: control records, and gaps.
    pub fn skip_to(&mut self, partition: &PartitionId, end: i64, now: Instant) {
        let Some(home) = self.partitions.get_mut(partition) else {
            return;
        };
        if end - 1 > home.last() {
            let id = SlotId(self.next_slot);
            self.next_slot += 1;
            home.slots.push_back(Slot {
                id,
                offset: end - 1,
                content: Content::Rows {
                    outcomes: Vec::new(),
                    missing: 0,
                },
                finished_at: Some(now),
                first_delivery_of: None,
                permit: None,
            });
            self.homes.insert(id, partition.clone());
        }
    }

    /// Records that the slot's message carries this batch; gives the offset of an earlier delivery.
    pub fn first_delivery(&mut self, slot: SlotId, key: DedupKey) -> Option<i64> {
        let home = self.partitions.get_mut(self.homes.get(&slot)?)?;
        if let Some(&earlier) = home.seen.get(&key) {
            return Some(earlier);
        }
        let place = home.slots.iter_mut().find(|other| other.id == slot)?;
        place.first_delivery_of = Some(key);
        home.seen.insert(key, place.offset);
        None
    }

    /// Tells how many rows the slot's message ends in. Zero rows finish it at once.
    pub fn expect_rows(&mut self, slot: SlotId, rows: usize, now: Instant) {
        self.update(slot, now, |content| {
            *content = Content::Rows {
                outcomes: (0..rows).map(|_| None).collect(),
                missing: rows,
            };
        });
    }

    /// Fills one row. False if the slot is gone: its partition went to another worker.
    pub fn fill(&mut self, slot: SlotId, row: usize, outcome: Outcome, now: Instant) -> bool {
        self.update(slot, now, |content| {
            let Content::Rows { outcomes, missing } = content else {
                panic!("row {row} of a slot without rows")
            };
            assert!(outcomes[row].replace(outcome).is_none(), "row {row} answered twice");
            *missing -= 1;
        })
    }

    /// Finishes the slot as a dead letter, which is on its topic already. Its batch may come again, mended.
    pub fn fill_dead_letter(&mut self, slot: SlotId, now: Instant) -> bool {
        if let Some(home) = self.homes.get(&slot).and_then(|home| self.partitions.get_mut(home))
            && let Some(place) = home.slots.iter_mut().find(|place| place.id == slot)
            && let Some(key) = place.first_delivery_of.take()
        {
            home.seen.remove(&key);
        }
        self.update(slot, now, |content| *content = Content::DeadLetter)
    }

    fn update(&mut self, slot: SlotId, now: Instant, change: impl FnOnce(&mut Content)) -> bool {
        let Some(home) = self.homes.get(&slot).and_then(|home| self.partitions.get_mut(home)) else {
            return false;
        };
        let first = home.slots.front().map_or(0, |front| front.id.0);
        let at = home.slots.binary_search_by_key(&slot, |other| other.id);
        let place = &mut home.slots[at.unwrap_or_else(|_| panic!("slot {slot:?} is not in its home from {first}"))];
        change(&mut place.content);
        if place.content.is_finished() {
            place.finished_at = Some(now);
        }
        true
    }

    /// Takes every chunk that is due by `flush`, partition by partition. A partition gives none while an
    /// earlier one is on its way.
    pub fn due(
        &mut self,
        now: Instant,
        flush: impl Fn(&PartitionId) -> Flush,
    ) -> Vec<(Chunk, Vec<OwnedSemaphorePermit>)> {
        let mut chunks = Vec::new();
        for (id, partition) in &mut self.partitions {
            let count = partition.due_slots(now, flush(id));
            if count == 0 {
                continue;
            }
            let mut permits = Vec::with_capacity(count);
            let mut chunk = Chunk {
                partition: id.clone(),
                from: partition.from,
                to: partition.slots[count - 1].offset + 1,
                outcomes: Vec::new(),
                dedup_keys: Vec::new(),
                dead_letters: Vec::new(),
            };
            for slot in partition.slots.drain(..count) {
                self.homes.remove(&slot.id);
                permits.extend(slot.into_chunk(&mut chunk));
            }
            partition.from = chunk.to;
            partition.committing = true;
            chunks.push((chunk, permits));
        }
        chunks
    }

    /// The partition's chunk is in the tables up to `to`.
    pub fn committed(&mut self, partition: &PartitionId) {
        if let Some(partition) = self.partitions.get_mut(partition) {
            partition.committing = false;
        }
    }

    /// Everything before this offset is in the tables; none while that changes, or if the partition is not ours.
    pub fn watermark(&self, partition: &PartitionId) -> Option<i64> {
        self.partitions
            .get(partition)
            .filter(|partition| !partition.committing)
            .map(|partition| partition.from)
    }

    /// The messages up to `end` have all arrived.
    pub fn reaches(&self, partition: &PartitionId, end: i64) -> bool {
        self.partitions
            .get(partition)
            .is_some_and(|partition| partition.last() + 1 >= end)
    }

    /// Messages in flight.
    pub fn in_flight(&self, partition: &PartitionId) -> usize {
        self.partitions
            .get(partition)
            .map_or(0, |partition| partition.slots.len())
    }

    /// Whether the partition is ours.
    pub fn has(&self, partition: &PartitionId) -> bool {
        self.partitions.contains_key(partition)
    }

    /// Nothing in flight and nothing on its way to the tables.
    pub fn is_settled(&self, partition: &PartitionId) -> bool {
        self.partitions
            .get(partition)
            .is_none_or(|partition| partition.slots.is_empty() && !partition.committing)
    }

    /// [`Ledger::is_settled`] of every partition.
    pub fn is_all_settled(&self) -> bool {
        self.partitions
            .values()
            .all(|partition| partition.slots.is_empty() && !partition.committing)
    }

    /// Every partition that is ours.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionId> {
        self.partitions.keys()
    }

    /// Whether the slot is still waited for.
    pub fn holds(&self, slot: SlotId) -> bool {
        self.homes.contains_key(&slot)
    }
}

impl Partition {
    /// The last offset that is accounted for.
    fn last(&self) -> i64 {
        self.slots.back().map_or(self.from - 1, |slot| slot.offset)
    }

    /// How many slots of the finished prefix are due.
    fn due_slots(&self, now: Instant, flush: Flush) -> usize {
        if self.committing {
            return 0;
        }
        let (mut count, mut rows, mut aged) = (0, 0, false);
        for slot in &self.slots {
            let Some(finished_at) = slot.finished_at else { break };
            count += 1;
            rows += slot.content.rows();
            aged |= now.duration_since(finished_at) >= flush.limits.age_max;
            if rows >= flush.limits.rows_max {
                return count;
            }
        }
        let due = match flush.when {
            When::Limits => aged,
            When::Complete => aged || count == self.slots.len(),
            When::Finished => true,
        };
        if due { count } else { 0 }
    }
}

impl Slot {
    fn into_chunk(self, chunk: &mut Chunk) -> Option<OwnedSemaphorePermit> {
        chunk
            .dedup_keys
            .extend(self.first_delivery_of.map(|key| (key, self.offset)));
        match self.content {
            Content::Reading => unreachable!("only finished slots become a chunk"),
            Content::Rows { outcomes, .. } => chunk.outcomes.extend(outcomes.into_iter().flatten()),
            Content::DeadLetter => chunk.dead_letters.push(self.offset),
        }
        self.permit
    }
}

impl Content {
    fn is_finished(&self) -> bool {
        match self {
            Content::Reading => false,
            Content::Rows { missing, .. } => *missing == 0,
            Content::DeadLetter => true,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Content::Rows { outcomes, .. } => outcomes.len(),
            Content::Reading | Content::DeadLetter => 0,
        }
    }
}

#[cfg(test)]
mod tests;
