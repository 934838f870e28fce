//! What a worker has done so far, for progress bars and logs.

/// A snapshot of the counters; each only grows, but for the last two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are in both tables.
    pub rows_committed: u64,
    /// Requests that have ended, committed or not.
    pub rows_ended: u64,
    /// Those of them that did not end well.
    pub rows_failed: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Tokens computed, prompts and answers together.
    pub tokens: u64,
    /// Engine steps.
    pub steps: u64,
    /// Sequences of all steps together; divided by `steps`, the mean batch.
    pub sequences: u64,
    /// Sequences in the last batch.
    pub batch_sequences: usize,
    /// Requests admitted and not ended.
    pub requests_in_flight: usize,
}
