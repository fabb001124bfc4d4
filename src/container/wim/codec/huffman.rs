//! Canonical prefix codes: decoding tables, code lengths from frequencies, codewords.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; indices are masked to the table or bounded by the length counts

use super::Fault;

/// Longest codeword of any WIM code (LZX; the others stop at 15).
pub(super) const LONGEST: usize = 16;

/// Decoding table: `SIZE` = 2^`BITS` direct entries (symbol << 4 | length, 0 = not direct), and for
/// longer codewords a search by length over the canonical order.
pub(super) struct Table<const BITS: u32, const SIZE: usize> {
    direct: Box<[u16; SIZE]>,
    order: Vec<u16>,
    /// Per length: one past its last codeword, first codeword (both left-aligned to 16 bits), rank of the first.
    end: [u32; LONGEST + 1],
    first: [u32; LONGEST + 1],
    rank: [u32; LONGEST + 1],
}

impl<const BITS: u32, const SIZE: usize> Table<BITS, SIZE> {
    pub(super) fn new() -> Self {
        Table {
            direct: Box::new([0; SIZE]),
            order: Vec::new(),
            end: [0; LONGEST + 1],
            first: [0; LONGEST + 1],
            rank: [0; LONGEST + 1],
        }
    }

    /// Builds from code lengths (each <= 16, fewer than 4096 symbols). An incomplete code is accepted:
    /// its holes are faults only when met. An oversubscribed one is refused.
    pub(super) fn build(&mut self, lens: &[u8]) -> Result<(), Fault> {
        let mut count = [0u32; LONGEST + 1];
        for &len in lens {
            count[usize::from(len).min(LONGEST)] += 1;
        }
        let mut at = 0u32;
        let mut rank = 0u32;
        let mut next = [0u32; LONGEST + 1];
        for len in 1..=LONGEST {
            self.first[len] = at;
            self.rank[len] = rank;
            next[len] = rank;
            at += count[len] << (LONGEST - len);
            rank += count[len];
            self.end[len] = at;
        }
        if at > 1 << LONGEST {
            return Err(Fault::BadCode);
        }
        self.order.clear();
        self.order.resize(rank as usize, 0);
        for (symbol, &len) in lens.iter().enumerate() {
            if len != 0 {
                let slot = &mut next[usize::from(len).min(LONGEST)];
                self.order[*slot as usize] = symbol as u16;
                *slot += 1;
            }
        }
        let mut filled = 0usize;
        let mut symbols = self.order.iter();
        for (len, &count) in count.iter().enumerate().take(BITS as usize + 1).skip(1) {
            let width = SIZE >> len;
            for &symbol in symbols.by_ref().take(count as usize) {
                self.direct[filled..filled + width].fill(symbol << 4 | len as u16);
                filled += width;
            }
        }
        self.direct[filled..].fill(0);
        Ok(())
    }

    /// Symbol and length of the codeword at the top of `window`.
    #[inline(always)]
    pub(super) fn look(&self, window: u64) -> Result<(u32, u32), Fault> {
        let entry = self.direct[(window >> (64 - BITS)) as usize & (SIZE - 1)];
        if entry != 0 {
            return Ok((u32::from(entry >> 4), u32::from(entry & 15)));
        }
        self.look_long(window)
    }

    #[cold]
    fn look_long(&self, window: u64) -> Result<(u32, u32), Fault> {
        let key = (window >> 48) as u32;
        for len in BITS as usize + 1..=LONGEST {
            if key < self.end[len] {
                let rank = self.rank[len] + ((key - self.first[len]) >> (LONGEST - len));
                return Ok((u32::from(self.order[rank as usize]), len as u32));
            }
        }
        Err(Fault::BadCode)
    }
}

/// Works out code lengths; keeps its scratch space.
#[derive(Default)]
pub(super) struct Planner {
    /// Frequency << 32 | symbol, rising.
    leaves: Vec<u64>,
    /// Weights of inner nodes, which come out in rising order by themselves.
    nodes: Vec<u32>,
    /// How many inner nodes had a parent when each of them was made.
    adopted: Vec<u16>,
    bucket: Vec<u32>,
}

/// Frequencies below this are sorted by counting.
const SMALL: usize = 512;
/// Weights above this count as this.
const HEAVIEST: u32 = u32::MAX - 1;

impl Planner {
    /// Fills `lens` (0 for unused symbols), none above `limit`. Fewer than 65,536 symbols.
    ///
    /// LZMS makes this exact: symbols in (frequency, symbol) order, a leaf goes before an inner node of the
    /// same weight, and the rarest symbols of that order get the longest codewords.
    pub(super) fn lengths(&mut self, freqs: &[u32], limit: usize, lens: &mut [u8]) {
        lens.fill(0);
        self.sort(freqs);
        let used = self.leaves.len();
        if used == 0 {
            return;
        }
        if used == 1 {
            // no one-symbol codes: they get a neighbour, so that the code is complete
            let symbol = self.leaves[0] as u32 as usize;
            lens[symbol] = 1;
            if let Some(other) = lens.get_mut(usize::from(symbol == 0)) {
                *other = 1;
            }
            return;
        }
        self.grow();
        let mut counts = self.levels();
        shorten(&mut counts, limit);
        let mut symbols = self.leaves.iter();
        for len in (1..=limit).rev() {
            for &leaf in symbols.by_ref().take(counts[len]) {
                lens[leaf as u32 as usize] = len as u8;
            }
        }
    }

    /// Makes the inner nodes, each of the two lightest that have no parent. Which queues they come from is
    /// chance: it is reckoned without a branch.
    fn grow(&mut self) {
        let inner = self.leaves.len() - 1;
        self.nodes.clear();
        self.nodes.resize(inner + 2, u32::MAX);
        self.adopted.clear();
        self.adopted.resize(inner, 0);
        // behind the last of either queue comes what is heavier than all
        self.leaves.extend([u64::MAX; 2]);
        let (leaves, nodes) = (&self.leaves[..], &mut self.nodes[..]);
        let (mut leaf, mut node) = (0usize, 0usize);
        for (made, adopted) in self.adopted.iter_mut().enumerate() {
            *adopted = node as u16;
            let [one, two] = [leaves[leaf], leaves[leaf + 1]].map(|leaf| (leaf >> 32) as u32);
            let [first, second] = [nodes[node], nodes[node + 1]];
            let (leaf_pair, node_pair) = (two <= first, second < one);
            let left = if node_pair { second } else { one };
            let right = if leaf_pair { two } else { first };
            nodes[made] = left.saturating_add(right).min(HEAVIEST);
            leaf += 1 + usize::from(leaf_pair) - usize::from(node_pair);
            node += 1 + usize::from(node_pair) - usize::from(leaf_pair);
        }
        self.leaves.truncate(inner + 1);
    }

    /// How many leaves there are at each depth. Nodes made later lie no deeper, so those of each level stand
    /// in a row; both children of each are on the next, so the leaves are what its inner nodes leave over.
    fn levels(&self) -> [usize; 64] {
        let mut counts = [0; 64];
        let mut end = self.adopted.len();
        let mut start = end - 1;
        for (depth, count) in counts.iter_mut().enumerate().skip(1) {
            // u32 weights do not make trees as deep as that
            let next = match depth {
                62.. => 0,
                _ => usize::from(self.adopted[start]),
            };
            *count = ((end - start) * 2).saturating_sub(start - next);
            (start, end) = (next, start);
            if start == end {
                break;
            }
        }
        counts
    }

    /// Used symbols by (frequency, symbol).
    fn sort(&mut self, freqs: &[u32]) {
        self.bucket.clear();
        self.bucket.resize(SMALL + 1, 0);
        for &freq in freqs {
            self.bucket[(freq as usize).min(SMALL)] += 1;
        }
        self.bucket[0] = 0;
        let mut total = 0;
        for slot in &mut self.bucket {
            let count = *slot;
            *slot = total;
            total += count;
        }
        let big = self.bucket[SMALL] as usize;
        self.leaves.clear();
        self.leaves.resize(total as usize, 0);
        for (symbol, &freq) in freqs.iter().enumerate() {
            if freq != 0 {
                let slot = &mut self.bucket[(freq as usize).min(SMALL)];
                self.leaves[*slot as usize] = u64::from(freq.min(HEAVIEST)) << 32 | symbol as u64;
                *slot += 1;
            }
        }
        self.leaves[big..].sort_unstable();
    }
}

/// Brings counts per length under `limit`, keeping the code complete.
fn shorten(counts: &mut [usize; 64], limit: usize) {
    if counts[limit + 1..].iter().all(|&count| count == 0) {
        return;
    }
    for len in limit + 1..64 {
        counts[limit] += std::mem::take(&mut counts[len]);
    }
    let space = 1u64 << limit;
    let mut asked: u64 = (1..=limit)
        .map(|len| (counts[len] as u64) << (limit - len))
        .sum();
    // each step lengthens one shorter codeword by a bit and hangs a longest one beside it
    while asked > space {
        let Some(len) = (1..limit).rev().find(|&len| counts[len] > 0) else {
            return;
        };
        counts[len] -= 1;
        counts[len + 1] += 2;
        counts[limit] -= 1;
        asked -= 1;
    }
}

/// Canonical codewords for `lens`.
pub(super) fn codewords(lens: &[u8], words: &mut [u16]) {
    let mut next = [0u32; LONGEST + 2];
    let mut count = [0u32; LONGEST + 1];
    for &len in lens {
        count[usize::from(len)] += 1;
    }
    count[0] = 0;
    for len in 1..=LONGEST {
        next[len + 1] = (next[len] + count[len]) << 1;
    }
    for (word, &len) in words.iter_mut().zip(lens) {
        let slot = &mut next[usize::from(len)];
        *word = *slot as u16;
        if len != 0 {
            *slot += 1;
        }
    }
}
