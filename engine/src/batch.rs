//! One step's tokens, flat, and which rows of them belong to whom.

use std::ops::Range;

/// What one forward pass computes. Reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// `[rows]`
    pub(crate) tokens: Vec<u32>,
    /// `[rows]`
    pub(crate) positions: Vec<u32>,
    pub(crate) spans: Vec<Span>,
    /// The blocks of all spans, one span after another.
    pub(crate) blocks: Vec<u32>,
    /// Rows whose hidden states are wanted, ascending.
    pub(crate) wanted: Vec<usize>,
}

/// Rows of one sequence; their positions follow one another.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) rows: Range<usize>,
    /// Where its blocks lie in [`Batch::blocks`].
    pub(crate) blocks: Range<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
        self.blocks.clear();
        self.wanted.clear();
    }

    /// Adds `tokens` of one sequence, the first at `position`; hidden states are wanted from position `wanted_from` on.
    /// Returns how many rows that makes.
    pub(crate) fn push(&mut self, tokens: &[u32], position: usize, wanted_from: usize, blocks: &[u32]) -> usize {
        let (row, block) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.positions
            .extend((position..position + tokens.len()).map(|position| position as u32));
        self.blocks.extend_from_slice(blocks);
        let skipped = wanted_from.saturating_sub(position).min(tokens.len());
        self.wanted.extend(row + skipped..row + tokens.len());
        self.spans.push(Span {
            rows: row..self.tokens.len(),
            blocks: block..self.blocks.len(),
        });
        tokens.len() - skipped
    }
}
