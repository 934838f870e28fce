//! Which blocks of the KV cache are free, which are held, and which keep a prompt's beginning for others to share.
//! The blocks' contents belong to `kernels`.

use std::collections::{BTreeMap, HashMap};

use crate::prefix::PrefixHash;

/// A fixed number of blocks. A block is held by one job, or by several once it has a name; a named block that nobody
/// holds keeps its contents until its place is needed, the least recently held first.
#[derive(Debug)]
pub(crate) struct BlockPool {
    block_len: usize,
    blocks: Vec<Block>,
    /// Blocks whose contents nobody wants.
    free: Vec<u32>,
    /// Named blocks that nobody holds, by when they were let go.
    idle: BTreeMap<u64, u32>,
    by_name: HashMap<PrefixHash, u32>,
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    name: Option<PrefixHash>,
    /// Its key in [`BlockPool::idle`].
    idle_since: u64,
}

impl BlockPool {
    pub(crate) fn new(total: usize, block_len: usize) -> BlockPool {
        BlockPool {
            block_len,
            blocks: vec![Block::default(); total],
            free: (0..total as u32).rev().collect(),
            idle: BTreeMap::new(),
            by_name: HashMap::new(),
            clock: 0,
        }
    }

    /// Blocks that [`take`](Self::take) can give.
    pub(crate) fn free(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn block_len(&self) -> usize {
        self.block_len
    }

    /// Blocks that hold so many positions.
    pub(crate) fn blocks_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.block_len)
    }

    /// A block to write to.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop().or_else(|| {
            let (_, block) = self.idle.pop_first()?;
            let name = self.blocks[block as usize].name.take();
            self.by_name.remove(&name.expect("an idle block has a name"));
            Some(block)
        })?;
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    /// The blocks of the longest beginning of `names` that is kept, now held by the caller too. They are not to be
    /// written to.
    pub(crate) fn share(&mut self, names: &[PrefixHash]) -> Vec<u32> {
        let kept = names.iter().map_while(|name| self.by_name.get(name).copied());
        let blocks: Vec<u32> = kept.collect();
        for &at in &blocks {
            let block = &mut self.blocks[at as usize];
            if block.holders == 0 {
                self.idle.remove(&block.idle_since);
            }
            block.holders += 1;
        }
        blocks
    }

    /// Names a held block whose contents are complete, unless another one has the name already.
    pub(crate) fn name(&mut self, block: u32, name: PrefixHash) {
        if self.blocks[block as usize].name.is_none() && !self.by_name.contains_key(&name) {
            self.blocks[block as usize].name = Some(name);
            self.by_name.insert(name, block);
        }
    }

    /// Nobody but the caller holds the block.
    pub(crate) fn is_own(&self, block: u32) -> bool {
        self.blocks[block as usize].holders == 1
    }

    /// Lets go of a job's blocks. The last ones go first, so that the beginning of a prompt is kept longest.
    pub(crate) fn give_back(&mut self, blocks: &mut Vec<u32>) {
        while let Some(at) = blocks.pop() {
            let block = &mut self.blocks[at as usize];
            block.holders = block.holders.checked_sub(1).expect("a block is given back once");
            match (block.holders, block.name) {
                (0, Some(_)) => {
                    self.clock += 1;
                    block.idle_since = self.clock;
                    self.idle.insert(self.clock, at);
                }
                (0, None) => self.free.push(at),
                _ => {}
            }
        }
    }

    /// Holders of all blocks together, counted anew, and blocks that nobody holds.
    #[cfg(test)]
    pub(crate) fn census(&self) -> (usize, usize) {
        let held = self.blocks.iter().map(|block| block.holders as usize).sum();
        let unheld = self.blocks.iter().filter(|block| block.holders == 0).count();
        (held, unheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::prefix_hashes;

    fn names(tokens: &[u32]) -> Vec<PrefixHash> {
        prefix_hashes(tokens, 1).collect()
    }

    #[test]
    fn a_kept_prefix_is_shared_and_the_least_recently_held_makes_room() {
        let mut pool = BlockPool::new(4, 16);
        let (left, right) = (names(&[1, 2]), names(&[7]));
        let mut first: Vec<u32> = [pool.take(), pool.take()].into_iter().flatten().collect();
        first
            .iter()
            .zip(&left)
            .for_each(|(block, name)| pool.name(*block, *name));
        let mut second = vec![pool.take().unwrap()];
        pool.name(second[0], right[0]);

        let shared = pool.share(&left);
        assert_eq!(shared, first);
        assert_eq!(pool.free(), 1);
        pool.give_back(&mut first);
        assert_eq!(pool.free(), 1, "the other still holds them");
        pool.give_back(&mut second);
        pool.give_back(&mut shared.clone());
        assert_eq!((pool.free(), pool.census()), (4, (0, 4)));

        pool.take();
        assert_eq!(pool.share(&right).len(), 1, "a block without a name goes first");
        pool.take();
        assert_eq!(
            pool.share(&left),
            shared[..1],
            "then the end of the prefix let go first"
        );
        assert_eq!(pool.free(), 0);
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn a_name_belongs_to_one_block() {
        let mut pool = BlockPool::new(2, 16);
        let name = names(&[5])[0];
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        pool.name(first, name);
        pool.name(second, name);
        assert_eq!(pool.share(&[name]), [first]);
        pool.give_back(&mut vec![second]);
        assert_eq!(pool.take(), Some(second), "the second is free at once");
    }
}
