//! Who computes what in the next step. Pure: it knows numbers of tokens and blocks, and no token or tensor.
//!
//! One order rules everything: by the amount of work that was done when a job arrived, later priorities being put back
//! by a fixed amount. So an urgent job overtakes what arrived shortly before it, and nothing is overtaken for ever.
//! Every running entry with a single token to compute (a text being written) gets it, then the rest of the budget goes
//! to prompts in pieces, then to the queue. When blocks run out, the last in the order gives all of its own back and is
//! computed again later. The first in the order can therefore always go on, and since it fits the cache alone, it ends.

use std::collections::{BTreeMap, HashMap};

use crate::job::{JobId, Priority};
use crate::kv_cache::BlockPool;
use crate::prefix::PrefixHash;

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// At least `sequences_max`, so that every running text gets its next token.
    pub(crate) tokens_per_step_max: usize,
    pub(crate) sequences_max: usize,
    /// Tokens of work by which each priority stands behind the one before it.
    pub(crate) ageing_tokens: u64,
}

/// All entries, the blocks they hold, and their order.
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: BTreeMap<Rank, Entry>,
    running: BTreeMap<Rank, Entry>,
    ranks: HashMap<JobId, Rank>,
    arrivals: u64,
    /// Tokens granted so far: the only clock.
    work: u64,
}

/// Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The work done at arrival, plus the priority's part.
    due: u64,
    arrival: u64,
    priority: Priority,
}

#[derive(Debug)]
struct Entry {
    id: JobId,
    /// Tokens there are to compute.
    known: usize,
    /// Tokens computed, whose keys and values lie in `blocks`.
    computed: usize,
    blocks: Vec<u32>,
    prefix: Prefix,
}

/// What a job's prompt has in common with others.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    /// Names of the prompt's first blocks, those that nothing is written to once they are computed.
    pub(crate) names: Vec<PrefixHash>,
    /// How many of them need not be computed if they are kept.
    pub(crate) reusable: usize,
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
    /// Tokens that were found in the cache instead of computed.
    pub(crate) cached: usize,
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
            work: 0,
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
    pub(crate) fn submit(&mut self, id: JobId, priority: Priority, known: usize, prefix: Prefix) {
        let put_back = self.limits.ageing_tokens.saturating_mul(priority as u64);
        let rank = Rank {
            due: self.work.saturating_add(put_back),
            arrival: self.arrivals,
            priority,
        };
        self.arrivals += 1;
        self.ranks.insert(id, rank);
        let entry = Entry {
            id,
            known,
            computed: 0,
            blocks: Vec::new(),
            prefix,
        };
        self.waiting.insert(rank, entry);
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
            entry.name_blocks(&mut self.pool, computed);
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
        self.work += plan.tokens() as u64;
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
            let total = self.pool.blocks_for(entry.known);
            let mut blocks = self.pool.share(&entry.prefix.names[..entry.prefix.reusable]);
            let found = blocks.len() * self.pool.block_len();
            if !self.make_room(rank, total - blocks.len(), plan) {
                self.pool.give_back(&mut blocks);
                return;
            }
            let mut entry = self.waiting.remove(&rank).expect("just seen");
            blocks.extend((blocks.len()..total).filter_map(|_| self.pool.take()));
            (entry.blocks, entry.computed) = (blocks, found);
            let len = (entry.known - found).min(plan.budget);
            plan.cached += found;
            plan.grant(entry.id, found, len);
            // Named before they are computed: a step computes a layer's keys and values of all its rows before any of
            // them is read, so those admitted next share them, and none of this plan's newcomers is pushed out in it.
            entry.name_blocks(&mut self.pool, found + len);
            self.running.insert(rank, entry);
        }
    }

    /// Frees a place and `blocks` for an entry of the queue, at the cost of later entries of lower priority if need be,
    /// or says that it cannot be done. One block for each running entry stays free, so that the newcomer is not thrown
    /// out again by the next texts that grow.
    fn make_room(&mut self, rank: Rank, blocks: usize, plan: &mut Plan) -> bool {
        let gives_way = |other: &Rank| other.priority > rank.priority && *other > rank;
        let (mut sequences, mut free) = (self.running.len(), self.pool.free());
        let mut victims = Vec::new();
        let mut candidates = self.running.iter().rev().filter(|(other, _)| gives_way(other));
        let enough = |sequences: usize, free: usize| {
            sequences < self.limits.sequences_max && free >= blocks + if sequences == 0 { 0 } else { sequences }
        };
        while !enough(sequences, free) {
            let Some((victim, entry)) = candidates.next() else {
                return false;
            };
            let own = entry.blocks.iter().filter(|block| self.pool.is_own(**block)).count();
            (sequences, free) = (sequences - 1, free + own);
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

impl Entry {
    /// Names the blocks that are whole once `computed` tokens are.
    fn name_blocks(&self, pool: &mut BlockPool, computed: usize) {
        let whole = self.computed / pool.block_len()..computed / pool.block_len();
        for (block, name) in self
            .blocks
            .iter()
            .zip(&self.prefix.names)
            .take(whole.end)
            .skip(whole.start)
        {
            pool.name(*block, *name);
        }
    }
}

impl Plan {
    /// Tokens granted.
    pub(crate) fn tokens(&self) -> usize {
        self.grants.iter().map(|grant| grant.len).sum()
    }

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
