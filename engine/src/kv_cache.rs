//! Which blocks of the KV cache are free. The blocks' contents belong to `kernels`.

/// A fixed number of blocks, each in one pair of hands at a time.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Vec<u32>,
    total: usize,
    block_len: usize,
}

impl BlockPool {
    pub(crate) fn new(total: usize, block_len: usize) -> BlockPool {
        BlockPool {
            free: (0..total as u32).rev().collect(),
            total,
            block_len,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn block_len(&self) -> usize {
        self.block_len
    }

    /// Blocks that hold so many positions.
    pub(crate) fn blocks_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.block_len)
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(crate) fn give_back(&mut self, blocks: &mut Vec<u32>) {
        self.free.append(blocks);
        debug_assert!(self.free.len() <= self.total, "a block was given back twice");
    }
}
