//! Choosing matches by price: all candidates of a chunk are gathered once, then the cheapest way through is taken
//! for given symbol prices, as often as the prices get better by it.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)] // hot loop; positions stay below the data length, nodes and candidate ends are sized by it

use super::matches::{Recent, Step, agree};
use std::ops::Range;

/// Prices are in these fractions of a bit.
pub(super) const BIT: u32 = 32;
/// Chunks above this are parsed without: trees and nodes would take too much memory and time.
pub(super) const MOST: usize = 1 << 17;
const NONE: u32 = u32::MAX;
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const BITS2: u32 = 16;
const BITS3: u32 = 15;
const BITS4: u32 = 15;

/// What the format allows and how hard to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) shortest: usize,
    pub(super) longest: usize,
    pub(super) farthest: usize,
    /// A match this long is taken without looking further.
    pub(super) nice: usize,
    pub(super) depth: u32,
}

/// Matches at each position: strictly longer and farther ones.
#[derive(Default)]
pub(super) struct Candidates {
    list: Vec<(u32, u32)>,
    ends: Vec<u32>,
}

impl Candidates {
    fn at(&self, at: usize) -> &[(u32, u32)] {
        let begin = match at {
            0 => 0,
            _ => self.ends[at - 1],
        };
        &self.list[begin as usize..self.ends[at] as usize]
    }
}

/// Finds the nearest match of each length: binary trees of positions by what follows them, one per hash of four bytes.
#[derive(Default)]
pub(super) struct Trees {
    heads2: Vec<u32>,
    heads3: Vec<u32>,
    heads4: Vec<u32>,
    children: Vec<[u32; 2]>,
}

impl Trees {
    pub(super) fn gather(&mut self, data: &[u8], limits: &Limits, found: &mut Candidates) {
        for (heads, bits) in [
            (&mut self.heads2, BITS2),
            (&mut self.heads3, BITS3),
            (&mut self.heads4, BITS4),
        ] {
            heads.clear();
            heads.resize(1 << bits, NONE);
        }
        self.children.clear();
        self.children.resize(data.len(), [NONE; 2]);
        found.list.clear();
        found.ends.clear();
        let mut at = 0usize;
        while at < data.len() {
            let before = found.list.len();
            self.enter(data, at, limits, &mut found.list);
            let mut skip = 1;
            if let Some((len, offset)) = found.list[before..].last_mut()
                && *len as usize >= limits.nice
            {
                let most = (data.len() - at).min(limits.longest);
                *len = agree(data, at - *offset as usize, at, most) as u32;
                skip = *len as usize;
            }
            let end = found.list.len();
            found.ends.push(end as u32);
            for inside in at + 1..at + skip {
                self.enter(data, inside, limits, &mut found.list);
                found.list.truncate(end);
                found.ends.push(end as u32);
            }
            at += skip;
        }
    }

    fn enter(&mut self, data: &[u8], at: usize, limits: &Limits, list: &mut Vec<(u32, u32)>) {
        let rest = &data[at..];
        let Some(four) = rest.first_chunk::<4>() else {
            return;
        };
        let limit = rest.len().min(limits.nice);
        let word = u64::from(u32::from_le_bytes(*four));
        let slot2 = (word & 0xFFFF) as usize;
        let slot3 = ((word << 40).wrapping_mul(SPREAD) >> (64 - BITS3)) as usize;
        let slot4 = (word.wrapping_mul(SPREAD) >> (64 - BITS4)) as usize;
        let near2 = std::mem::replace(&mut self.heads2[slot2], at as u32);
        let near3 = std::mem::replace(&mut self.heads3[slot3], at as u32);
        let mut node = std::mem::replace(&mut self.heads4[slot4], at as u32);
        let mut best = limits.shortest - 1;
        for near in [near2, near3] {
            if near != NONE && best < 3 && at - near as usize <= limits.farthest {
                let len = agree(data, near as usize, at, limit);
                if len > best {
                    best = len;
                    list.push((len as u32, at as u32 - near));
                }
            }
        }
        // hang the tree of this hash below the new root, left what sorts before it, right what after
        let (mut left, mut right) = ((at, 0), (at, 1));
        let (mut left_len, mut right_len) = (0usize, 0usize);
        for _ in 0..limits.depth {
            if node == NONE {
                break;
            }
            let there = node as usize;
            let sure = left_len.min(right_len);
            let len = sure + agree(data, there + sure, at + sure, limit - sure);
            if len > best && at - there <= limits.farthest {
                best = len;
                list.push((len as u32, (at - there) as u32));
            }
            let own = self.children[there];
            if len >= limit {
                self.children[left.0][left.1] = own[0];
                self.children[right.0][right.1] = own[1];
                return;
            }
            if data[there + len] < data[at + len] {
                self.children[left.0][left.1] = node;
                left = (there, 1);
                node = own[1];
                left_len = len;
            } else {
                self.children[right.0][right.1] = node;
                right = (there, 0);
                node = own[0];
                right_len = len;
            }
        }
        self.children[left.0][left.1] = NONE;
        self.children[right.0][right.1] = NONE;
    }
}

/// What things cost.
pub(super) trait Prices {
    fn literal(&self, byte: u8) -> u32;
    /// Row of an offset in the prices by length, and what its raw bits cost. Rows 0..3 are the recent offsets.
    fn explicit(&self, offset: u32) -> (usize, u32);
    fn match_of(&self, row: usize, len: usize) -> u32;
}

/// Price by information content of each symbol; a little more than the rarest for those not seen yet.
pub(super) fn prices(counts: &[u32], out: &mut [u32]) {
    let total: u32 = counts.iter().sum();
    let all = (total.max(2) as f32).log2();
    for (price, &count) in out.iter_mut().zip(counts) {
        let seen = match count {
            0 => -1.0,
            _ => (count as f32).log2(),
        };
        *price = ((all - seen).clamp(1.0, 16.0) * BIT as f32) as u32;
    }
}

/// The cheapest way to a position: its last item.
#[derive(Clone, Copy)]
struct Node<R> {
    price: u32,
    /// 0: a literal.
    len: u32,
    offset: u32,
    repeat: Option<u8>,
    recent: R,
}

pub(super) struct Chooser<R> {
    nodes: Vec<Node<R>>,
    items: Vec<(u32, u32, Option<u8>)>,
}

impl<R: Recent + Copy> Chooser<R> {
    pub(super) fn new() -> Self {
        Chooser {
            nodes: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Appends the cheapest steps for `range` to `steps`. `also` may name one more offset to try per position (0: none).
    #[allow(clippy::too_many_arguments)] // all of them only borrowed parts of the encoder
    pub(super) fn choose<P: Prices>(
        &mut self,
        data: &[u8],
        range: Range<usize>,
        found: &Candidates,
        also: &[u32],
        limits: &Limits,
        prices: &P,
        recent: &mut R,
        steps: &mut Vec<Step>,
    ) {
        let Range { start, end } = range;
        let size = end - start;
        let nodes = &mut self.nodes;
        nodes.clear();
        nodes.resize(
            size + 1,
            Node {
                price: u32::MAX,
                len: 0,
                offset: 0,
                repeat: None,
                recent: *recent,
            },
        );
        nodes[0].price = 0;
        let mut at = start;
        while at < end {
            let here = at - start;
            let node = nodes[here];
            let mut then = node.recent;
            if here > 0 {
                then = nodes[here - node.len.max(1) as usize].recent;
                if node.len > 0 {
                    then.take(at - node.len as usize, at, node.repeat, node.offset);
                }
                nodes[here].recent = then;
            }
            let price = node.price;
            let most = (end - at).min(limits.longest);
            let mut jump = 1usize;

            let next = &mut nodes[here + 1];
            let literal = price + prices.literal(data[at]);
            if literal < next.price {
                (next.price, next.len) = (literal, 0);
            }
            let mut offer = |nodes: &mut [Node<R>],
                             row: usize,
                             lens: Range<usize>,
                             offset: u32,
                             repeat: Option<u8>,
                             raw: u32| {
                // the longest alone is enough of a long one
                let from = if lens.end > limits.nice && lens.end > jump {
                    jump = lens.end - 1;
                    lens.end - 1
                } else {
                    lens.start
                };
                let price = price + raw;
                for (len, next) in (from..).zip(&mut nodes[here + from..here + lens.end]) {
                    let total = price + prices.match_of(row, len);
                    if total < next.price {
                        next.price = total;
                        next.len = len as u32;
                        next.offset = offset;
                        next.repeat = repeat;
                    }
                }
            };
            for (which, offset) in then.offered(at).into_iter().enumerate() {
                if offset != 0 && offset as usize <= at {
                    let len = agree(data, at - offset as usize, at, most);
                    if len >= limits.shortest {
                        let lens = limits.shortest..len + 1;
                        offer(nodes, which, lens, offset, Some(which as u8), 0);
                    }
                }
            }
            let mut shortest = limits.shortest;
            for &(len, offset) in found.at(at) {
                let len = (len as usize).min(most);
                if len < shortest {
                    break;
                }
                let (row, raw) = prices.explicit(offset);
                offer(nodes, row, shortest..len + 1, offset, None, raw);
                shortest = len + 1;
            }
            if let Some(&offset) = also.get(at)
                && offset != 0
            {
                let len = agree(data, at - offset as usize, at, most);
                if len >= limits.shortest {
                    let (row, raw) = prices.explicit(offset);
                    let lens = limits.shortest..len + 1;
                    offer(nodes, row, lens, offset, None, raw);
                }
            }
            at += jump;
        }

        self.items.clear();
        let mut at = size;
        while at > 0 {
            let node = &nodes[at];
            self.items.push((node.len, node.offset, node.repeat));
            at -= node.len.max(1) as usize;
        }
        let mut literals = 0;
        for &(len, offset, repeat) in self.items.iter().rev() {
            if len == 0 {
                literals += 1;
                continue;
            }
            steps.push(Step {
                literals,
                len,
                offset,
                repeat,
            });
            recent.take(0, 0, repeat, offset);
            literals = 0;
        }
        if literals > 0 {
            steps.push(Step {
                literals,
                ..Step::default()
            });
        }
    }
}
