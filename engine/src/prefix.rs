//! Names for the beginnings of prompts: one for each whole block, a hash of every token up to the block's end.
//!
//! Equal names mean equal tokens and so, bit for bit, equal keys and values. SHA-256, so that nobody can make a prompt
//! that passes for another's. The same names settle which tokens are billed as cached: see [`count_cached`].

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::job::Job;

/// Tokens in a block as bills count them; a block of the KV cache may hold more.
const BILLED_BLOCK_LEN: usize = 16;

/// SHA-256 over the name of the block before and the tokens of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PrefixHash([u8; 32]);

/// The names of the whole blocks of `tokens`, in order.
pub(crate) fn prefix_hashes(tokens: &[u32], block_len: usize) -> impl Iterator<Item = PrefixHash> + '_ {
    tokens
        .chunks_exact(block_len)
        .scan(PrefixHash([0; 32]), |before, block| {
            let mut hash = Sha256::new_with_prefix(before.0);
            for token in block {
                hash.update(token.to_le_bytes());
            }
            *before = PrefixHash(hash.finalize().into());
            Some(*before)
        })
}

/// Settles how many input tokens of each job of a group count as cached: the whole blocks of 16 at its start that an
/// earlier job of the group starts with too. What must be computed for its own sake never counts: the prompt's last
/// token, and a prompt that is averaged or whose log-probabilities are asked for.
///
/// It follows from the group alone, and not from what some worker's cache held at some moment, so a group that is
/// computed again is billed the same. What was really found in the cache is in
/// [`StepReport::cached`](crate::StepReport::cached).
pub fn count_cached<'a>(group: impl IntoIterator<Item = &'a mut Job>) {
    let mut seen = HashSet::new();
    for job in group {
        let known = prefix_hashes(&job.prompt[..job.wanted_from()], BILLED_BLOCK_LEN)
            .take_while(|name| seen.contains(name))
            .count();
        job.cached_tokens = known * BILLED_BLOCK_LEN;
        seen.extend(prefix_hashes(&job.prompt, BILLED_BLOCK_LEN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_everything_before_it() {
        let tokens: Vec<u32> = (0..40).collect();
        let names: Vec<_> = prefix_hashes(&tokens, 16).collect();
        assert_eq!(names.len(), 2, "what is left over has no name");
        let mut other = tokens.clone();
        other[3] = 99;
        let others: Vec<_> = prefix_hashes(&other, 16).collect();
        assert!(names[0] != others[0] && names[1] != others[1]);
        assert_eq!(
            prefix_hashes(&tokens[16..], 16).next(),
            prefix_hashes(&tokens[16..], 16).next()
        );
        assert_ne!(prefix_hashes(&tokens[16..], 16).next(), Some(names[1]));
    }
}
