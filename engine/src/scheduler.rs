//! Who computes what in the next step. Pure: it knows numbers of tokens and blocks, and no token or tensor.
//!
//! One order rules everything: priority first, then time of arrival. Every running entry with a single token to compute
//! (a text being written) gets it, then the rest of the budget goes to prompts in pieces, then to the queue. When blocks
//! run out, the last in the order gives all of its own back and is computed again later. The first in the order can
//! therefore always go on, and since it fits the cache alone, it ends: nothing waits for ever.

use std::collections::{BTreeMap, HashMap};

use crate::job::{JobId, Priority};
use crate::kv_cache::BlockPool;

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// At least `sequences_max`, so that every running text gets its next token.
    pub(crate) tokens_per_step_max: usize,
    pub(crate) sequences_max: usize,
}

/// All entries, the blocks they hold, and their order.
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: BTreeMap<Rank, Entry>,
    running: BTreeMap<Rank, Entry>,
    ranks: HashMap<JobId, Rank>,
    arrivals: u64,
}

/// Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Priority,
    arrival: u64,
}

#[derive(Debug)]
struct Entry {
    id: JobId,
    /// Tokens there are to compute.
    known: usize,
    /// Tokens computed, whose keys and values lie in `blocks`.
    computed: usize,
    blocks: Vec<u32>,
}

/// Tokens `start..start + len` of a job are computed in this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: JobId,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// One step.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) grants: Vec<Grant>,
    pub(crate) preempted: usize,
    budget: usize,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, pool: BlockPool) -> Scheduler {
        let (waiting, running, ranks) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        Scheduler {
            limits,
            pool,
            waiting,
            running,
            ranks,
            arrivals: 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// The most positions that one job may have.
    pub(crate) fn positions_max(&self) -> usize {
        self.pool.total() * self.pool.block_len()
    }

    /// Puts a new job in the queue, with so many tokens to compute. It must never have more than
    /// [`positions_max`](Self::positions_max).
    pub(crate) fn submit(&mut self, id: JobId, priority: Priority, known: usize) {
        let rank = Rank {
            priority,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.ranks.insert(id, rank);
        self.waiting.insert(
            rank,
            Entry {
                id,
                known,
                computed: 0,
                blocks: Vec::new(),
            },
        );
    }

    /// Forgets a job and frees its blocks.
    pub(crate) fn remove(&mut self, id: JobId) {
        let Some(rank) = self.ranks.remove(&id) else { return };
        self.waiting.remove(&rank);
        if let Some(mut entry) = self.running.remove(&rank) {
            self.pool.give_back(&mut entry.blocks);
        }
    }

    /// The job's first `computed` tokens are done, and there are `known` in all.
    pub(crate) fn advance(&mut self, id: JobId, computed: usize, known: usize) {
        if let Some(entry) = self.ranks.get(&id).and_then(|rank| self.running.get_mut(rank)) {
            (entry.computed, entry.known) = (computed, known);
        }
    }

    /// The blocks of a running job, from its first position on.
    pub(crate) fn blocks(&self, id: JobId) -> &[u32] {
        self.ranks
            .get(&id)
            .and_then(|rank| self.running.get(rank))
            .map_or(&[], |entry| &entry.blocks)
    }

    /// Decides the next step.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut plan = Plan {
            budget: self.limits.tokens_per_step_max,
            ..Plan::default()
        };
        for single in [true, false] {
            let ranks: Vec<Rank> = self.running.keys().copied().collect();
            for rank in ranks {
                self.continue_running(rank, single, &mut plan);
            }
        }
        if plan.preempted == 0 {
            self.admit(&mut plan);
        }
        plan
    }

    /// Grants a running entry its tokens, if it has just one left to compute or not, as `single` says.
    fn continue_running(&mut self, rank: Rank, single: bool, plan: &mut Plan) {
        let Some(entry) = self.running.get(&rank) else { return }; // preempted meanwhile
        let missing = entry.known - entry.computed;
        if (missing == 1) != single {
            return;
        }
        let wanted = entry.computed + missing.min(plan.budget);
        let has_room =
            |scheduler: &Scheduler| scheduler.pool.blocks_for(wanted) <= scheduler.running[&rank].blocks.len();
        while !has_room(self) {
            if let Some(block) = self.pool.take() {
                self.running.get_mut(&rank).expect("still running").blocks.push(block);
            } else if let Some(last) = self.running.keys().next_back().copied().filter(|last| *last > rank) {
                self.preempt(last, plan);
            } else {
                break; // those ahead of it need their blocks
            }
        }
        let entry = &self.running[&rank];
        let end = wanted.min(entry.blocks.len() * self.pool.block_len());
        plan.grant(entry.id, entry.computed, end.saturating_sub(entry.computed));
    }

    /// Starts entries of the queue while there is room, in their order: none overtakes.
    fn admit(&mut self, plan: &mut Plan) {
        while plan.budget > 0 {
            let Some((&rank, entry)) = self.waiting.first_key_value() else {
                return;
            };
            let blocks = self.pool.blocks_for(entry.known);
            if !self.make_room(rank, blocks, plan) {
                return;
            }
            let mut entry = self.waiting.remove(&rank).expect("just seen");
            entry.blocks.extend((0..blocks).filter_map(|_| self.pool.take()));
            plan.grant(entry.id, 0, entry.known.min(plan.budget));
            self.running.insert(rank, entry);
        }
    }

    /// Frees a place and `blocks` for an entry of the queue, at the cost of entries of lower priority if need be, or
    /// says that it cannot be done. One block for each running entry stays free, so that the newcomer is not thrown out
    /// again by the next texts that grow.
    fn make_room(&mut self, rank: Rank, blocks: usize, plan: &mut Plan) -> bool {
        let lower = |other: &Rank| other.priority > rank.priority;
        let (mut sequences, mut free) = (self.running.len(), self.pool.free());
        let mut victims = Vec::new();
        let mut candidates = self.running.iter().rev().filter(|(other, _)| lower(other));
        let enough = |sequences: usize, free: usize| {
            sequences < self.limits.sequences_max && free >= blocks + if sequences == 0 { 0 } else { sequences }
        };
        while !enough(sequences, free) {
            let Some((victim, entry)) = candidates.next() else {
                return false;
            };
            (sequences, free) = (sequences - 1, free + entry.blocks.len());
            victims.push(*victim);
        }
        for victim in victims {
            self.preempt(victim, plan);
        }
        true
    }

    /// Back into the queue at its old place, to be computed again from the start.
    fn preempt(&mut self, rank: Rank, plan: &mut Plan) {
        let Some(mut entry) = self.running.remove(&rank) else {
            return;
        };
        plan.revoke(entry.id);
        plan.preempted += 1;
        self.pool.give_back(&mut entry.blocks);
        entry.computed = 0;
        self.waiting.insert(rank, entry);
    }
}

impl Plan {
    fn grant(&mut self, id: JobId, start: usize, len: usize) {
        if len > 0 {
            self.budget -= len;
            self.grants.push(Grant { id, start, len });
        }
    }

    fn revoke(&mut self, id: JobId) {
        if let Some(at) = self.grants.iter().position(|grant| grant.id == id) {
            self.budget += self.grants.remove(at).len;
        }
    }
}

#[cfg(test)]
mod tests;
