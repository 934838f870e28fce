//! Partitions at which workers have died: fewer messages at a time, then the one that does it is set aside.

use std::collections::VecDeque;

use super::{Loop, Unread};
use crate::chunk::PartitionId;

/// From so many attempts on, a partition is taken carefully; chance and operators kill workers too.
const CAREFUL_FROM: u32 = 3;
/// Messages at a time at the first careful attempt; a quarter of it at each further one.
const MESSAGES_FIRST: usize = 16;
/// At this attempt the first message becomes a dead letter: the two before it had that message alone.
const DEAD_LETTER_AT: u32 = 7;
/// Offsets after which a partition that goes well is trusted again.
const TRUST_AFTER: i64 = 64;

/// A partition that is taken carefully.
pub(super) struct Careful {
    attempts: u32,
    messages_max: usize,
    trusted_at: i64,
    held: VecDeque<Unread>,
}

impl Loop {
    /// Decides how a partition that starts at `from` is taken.
    pub(super) fn take_carefully(&mut self, partition: &PartitionId, from: i64, attempts: u32) {
        self.careful.remove(partition);
        let Some(further) = attempts.checked_sub(CAREFUL_FROM) else {
            return;
        };
        let messages_max = (MESSAGES_FIRST >> (2 * further).min(usize::BITS - 1)).max(1);
        tracing::warn!(%partition, from, attempts, messages_max, "workers have ended here; going on carefully");
        let trusted_at = from.saturating_add(TRUST_AFTER);
        let careful = Careful {
            attempts,
            messages_max,
            trusted_at,
            held: VecDeque::new(),
        };
        self.careful.insert(partition.clone(), careful);
    }

    /// Takes a message that was read: at once, in its turn, or not at all.
    pub(super) fn take(&mut self, partition: &PartitionId, unread: Unread) {
        let Some(careful) = self.careful.get_mut(partition) else {
            return self.queue(unread);
        };
        if careful.attempts >= DEAD_LETTER_AT {
            let attempts = std::mem::replace(&mut careful.attempts, CAREFUL_FROM);
            let others = attempts - 1;
            let error =
                format!("{others} workers ended while they had this message; it is set aside for the others' sake");
            return self.send_dead_letter(unread.origin, error, attempts);
        }
        careful.held.push_back(unread);
    }

    /// Lets held messages go on, as far as the bounds allow.
    pub(super) fn release_held(&mut self) {
        let mut free = Vec::new();
        for (partition, careful) in &mut self.careful {
            let working = self.ledger.in_flight(partition).saturating_sub(careful.held.len());
            let room = careful.messages_max.saturating_sub(working).min(careful.held.len());
            free.extend(careful.held.drain(..room));
        }
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

    fn queue(&mut self, unread: Unread) {
        self.unread
            .entry(unread.batch.service_tier)
            .or_default()
            .push_back(unread);
    }
}
