//! Partitions at which workers have died: fewer messages at a time, then the one that does it is set aside.
//!
//! Only one such partition works at a time, so that an innocent one is not blamed for its neighbour.

use std::collections::VecDeque;
use std::time::Instant;

use super::patience::patiently;
use super::{Loop, RunError, Unread};
use crate::chunk::PartitionId;
use crate::committer::CommitError;

/// From so many deaths on, a partition is taken carefully; chance and operators kill workers too.
const CAREFUL_FROM: u32 = 2;
/// Messages at a time after that many deaths; a quarter of it after each further one.
const MESSAGES_FIRST: usize = 16;
/// After so many deaths the first message becomes a dead letter; the last ones had it alone.
const DEAD_LETTER_FROM: u32 = 9;
/// Offsets after which a partition that goes well is trusted again.
const TRUST_AFTER: i64 = 64;

/// A partition whose note is taken, or why not.
pub(super) type NoteDone = (PartitionId, Result<(), CommitError>);

/// A partition that is taken carefully.
pub(super) struct Careful {
    deaths: u32,
    messages_max: usize,
    trusted_at: i64,
    held: VecDeque<Unread>,
}

impl Loop {
    /// Decides how a partition that starts at `from` is taken.
    pub(super) fn take_carefully(&mut self, partition: &PartitionId, from: i64, deaths: u32) {
        let Some(further) = deaths.checked_sub(CAREFUL_FROM) else {
            return;
        };
        let messages_max = (MESSAGES_FIRST >> (2 * further).min(usize::BITS - 1)).max(1);
        tracing::warn!(%partition, from, deaths, messages_max, "workers have died here; going on carefully");
        let careful = Careful {
            deaths,
            messages_max,
            trusted_at: from.saturating_add(TRUST_AFTER),
            held: VecDeque::new(),
        };
        self.careful.insert(partition.clone(), careful);
    }

    /// Takes a message that was read: at once, in its turn, or not at all.
    pub(super) fn take(&mut self, partition: &PartitionId, unread: Unread) {
        let Some(careful) = self.careful.get_mut(partition) else {
            return self.queue(unread);
        };
        if careful.deaths >= DEAD_LETTER_FROM {
            let deaths = std::mem::replace(&mut careful.deaths, CAREFUL_FROM);
            let error =
                format!("{deaths} workers died while they had this message; it is set aside so that the rest goes on");
            return self.send_dead_letter(unread.origin, error, deaths);
        }
        careful.held.push_back(unread);
    }

    /// Lets held messages of one partition go on, as far as its bound allows.
    pub(super) fn release_held(&mut self) {
        let working = self
            .careful
            .iter_mut()
            .find(|(partition, _)| self.ledger.in_flight(partition) > 0);
        let Some((partition, careful)) = working else { return };
        let busy = self.ledger.in_flight(partition).saturating_sub(careful.held.len());
        let room = careful.messages_max.saturating_sub(busy).min(careful.held.len());
        let free: Vec<_> = careful.held.drain(..room).collect();
        for unread in free {
            self.queue(unread);
        }
    }

    /// A partition that got this far without harm is trusted again.
    pub(super) fn trust(&mut self, partition: &PartitionId, watermark: i64) {
        if self
            .careful
            .get(partition)
            .is_some_and(|careful| watermark >= careful.trusted_at)
        {
            let careful = self.careful.remove(partition);
            for unread in careful.into_iter().flat_map(|careful| careful.held) {
                self.queue(unread);
            }
        }
    }

    /// Lets a message go on to admission, once it is noted that it may be this worker's death.
    fn queue(&mut self, unread: Unread) {
        let partition = unread.origin.partition();
        if self.untried.remove(&partition) {
            let committer = self.committer.clone();
            let give_up = Instant::now() + self.limits.outage_max;
            self.noting.insert(partition.clone(), vec![unread]);
            self.notes.spawn(async move {
                let noted = patiently(give_up, CommitError::is_transient, || committer.risk(&partition)).await;
                (partition, noted)
            });
        } else if let Some(waiting) = self.noting.get_mut(&partition) {
            waiting.push(unread);
        } else {
            self.unread
                .entry(unread.batch.service_tier)
                .or_default()
                .push_back(unread);
        }
    }

    /// The note is taken: its partition's messages go on.
    pub(super) fn on_noted(&mut self, (partition, noted): NoteDone) -> Result<(), RunError> {
        noted.map_err(RunError::Commit)?;
        for unread in self.noting.remove(&partition).into_iter().flatten() {
            self.queue(unread);
        }
        Ok(())
    }
}
