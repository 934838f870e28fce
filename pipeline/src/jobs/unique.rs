//! Is every `custom_id` of a job there once? Eight bytes a request, for jobs of many millions.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The ids seen so far, as hashes.
#[derive(Debug, Default)]
pub struct Unique(HashSet<u64>);

impl Unique {
    /// False if the id may have been seen before. Different ids share a hash once in 2⁶⁴, so the caller
    /// looks again before it says so.
    pub fn is_new(&mut self, custom_id: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        custom_id.hash(&mut hasher);
        self.0.insert(hasher.finish())
    }
}
