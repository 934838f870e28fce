//! The arithmetic of one step: from the tokens of its members to what each learns from them.

use std::ops::Range;

use kernels::float::KvCache;
use rayon::prelude::*;

use crate::batch::Batch;
use crate::model::{Model, Workspace};
use crate::sampler::Sampler;
use crate::scheduler::{Grant, Scheduler};
use crate::sequence::{Sequence, Wanted};

/// Rows that the LM head takes at once, at least and at most: many share one pass over its weights, and their logits
/// are kept.
const HEAD_ROWS: (usize, usize) = (16, 256);

/// The parts of a step, in their order. Head and sampling take turns where there are many rows, and scheduling comes
/// last, too: what was learned is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Deciding who computes what, and settling what became of it.
    Scheduling,
    /// The transformer's layers.
    Layers,
    /// The LM head: logits of the rows wanted.
    Head,
    /// From logits to tokens, and to their texts.
    Sampling,
}

/// A job in this step, taken out of the engine's hands.
pub(crate) struct Member {
    pub(crate) grant: Grant,
    pub(crate) sequence: Sequence,
    /// The first token of its answer was written.
    pub(crate) wrote_first: bool,
    /// Its rows among those wanted.
    rows: Range<usize>,
}

/// Memory that every step uses again.
pub(crate) struct Work {
    batch: Batch,
    space: Workspace,
    /// `[rows that the LM head takes at once, vocabulary]`
    logits: Vec<f32>,
}

impl Member {
    pub(crate) fn new(grant: Grant, sequence: Sequence) -> Member {
        Member {
            grant,
            sequence,
            wrote_first: false,
            rows: 0..0,
        }
    }

    /// Takes the logits `[any, vocabulary]` of its next rows.
    fn take(&mut self, model: &Model, sampler: &mut Sampler, logits: &mut [f32]) {
        for logits in logits.chunks_exact_mut(model.vocabulary()) {
            self.wrote_first |= self.sequence.take_logits(model, sampler, logits);
        }
    }
}

impl Work {
    pub(crate) fn new(model: &Model, sequences_max: usize) -> Work {
        let head_rows = sequences_max.clamp(HEAD_ROWS.0, HEAD_ROWS.1);
        Work {
            batch: Batch::default(),
            space: Workspace::default(),
            logits: vec![0.0; head_rows * model.vocabulary()],
        }
    }

    /// Puts the tokens of all members in the batch, in the order of what is [wanted](Wanted) of them.
    pub(crate) fn fill_batch(&mut self, members: &mut [Member], scheduler: &Scheduler) {
        members.sort_by_key(|member| member.sequence.wanted());
        self.batch.clear();
        for Member {
            grant, sequence, rows, ..
        } in members
        {
            let tokens = &sequence.tokens()[grant.start..grant.start + grant.len];
            let (first, from, blocks) = (
                self.batch.wanted.len(),
                sequence.wanted_from(),
                scheduler.blocks(grant.id),
            );
            *rows = first..first + self.batch.push(tokens, grant.start, from, blocks);
        }
    }

    /// Runs the batch and hands every wanted row to its member.
    pub(crate) fn compute(
        &mut self,
        model: &Model,
        members: &mut [Member],
        cache: &mut KvCache,
        ended: &mut (dyn FnMut(Phase) + Send),
    ) {
        let (forward, vocabulary) = (model.forward(), model.vocabulary());
        let size = forward.config.hidden;
        let hidden = forward.run(&self.batch, cache, &mut self.space);
        ended(Phase::Layers);
        let rows_max = self.logits.len() / vocabulary;
        for group in members.chunk_by_mut(|a, b| a.sequence.wanted() == b.sequence.wanted()) {
            let rows = group[0].rows.start..group[group.len() - 1].rows.end;
            let wanted = group[0].sequence.wanted();
            if wanted == Wanted::HiddenState {
                for Member { sequence, rows, .. } in group {
                    let hidden = &hidden[rows.start * size..rows.end * size];
                    hidden.chunks_exact(size).for_each(|row| sequence.take_hidden(row));
                }
                continue;
            }
            for start in rows.clone().step_by(rows_max) {
                let part = start..rows.end.min(start + rows_max);
                let hidden = &hidden[part.start * size..part.end * size];
                let logits = &mut self.logits[..part.len() * vocabulary];
                match wanted {
                    Wanted::LargestLogit => forward.largest_logits(hidden, logits),
                    _ => forward.logits(hidden, logits),
                }
                ended(Phase::Head);
                hand_out(model, group, part, logits);
                ended(Phase::Sampling);
            }
        }
    }
}

/// Gives each of the rows `part` to its member, all members at once; those of one member come in their order.
fn hand_out(model: &Model, members: &mut [Member], part: Range<usize>, mut logits: &mut [f32]) {
    let mut turns = Vec::with_capacity(members.len());
    for member in members {
        let own = member.rows.start.max(part.start)..member.rows.end.min(part.end);
        if let Some(own) = logits.split_off_mut(..own.len() * model.vocabulary()) {
            turns.push((member, own));
        }
    }
    let sampler = || Sampler::new(model.forward().kernel);
    turns
        .into_par_iter()
        .for_each_init(sampler, |sampler, (member, logits)| member.take(model, sampler, logits));
}
