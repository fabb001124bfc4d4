//! Index B+trees, built bottom up from sorted entries.

use super::geometry::Geometry;
use crate::support::put;

/// A finished tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The entries of the root node, END included.
    pub(super) root: Vec<u8>,
    /// The root has children.
    pub(super) large: bool,
    /// The entries of every block, in order of their numbers.
    pub(super) blocks: Vec<Node>,
}

/// One index block.
#[derive(Debug)]
pub(super) struct Node {
    entries: Vec<u8>,
    inner: bool,
}

/// How full the tree's nodes may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Per cent of a block.
    pub block: usize,
    /// Bytes of entries the root keeps at most.
    pub root: usize,
}

impl Default for Fill {
    fn default() -> Self {
        Self {
            block: 100,
            root: usize::MAX,
        }
    }
}

/// An entry and the block before it.
type Keyed<'a> = (&'a [u8], Option<u64>);

/// A directory or view entry (without child) around a key.
pub(super) fn file_entry(reference: u64, key: &[u8]) -> Vec<u8> {
    let len = (16 + key.len()).next_multiple_of(8);
    let mut e = vec![0; len];
    put::u64(&mut e, 0, reference);
    put::u16(&mut e, 8, u16::try_from(len).unwrap());
    put::u16(&mut e, 10, u16::try_from(key.len()).unwrap());
    put::bytes(&mut e, 16, key);
    e
}

/// A view index entry: key and data.
pub(super) fn view_entry(key: &[u8], data: &[u8]) -> Vec<u8> {
    let data_at = 16 + key.len();
    let len = (16 + key.len() + data.len()).next_multiple_of(8);
    let mut e = vec![0; len];
    put::u16(&mut e, 0, u16::try_from(data_at).unwrap());
    put::u16(&mut e, 2, u16::try_from(data.len()).unwrap());
    put::u16(&mut e, 8, u16::try_from(len).unwrap());
    put::u16(&mut e, 10, u16::try_from(key.len()).unwrap());
    put::bytes(&mut e, 16, key);
    put::bytes(&mut e, 16 + key.len(), data);
    e
}

fn emit(out: &mut Vec<u8>, entry: &[u8], child: Option<u64>) {
    let at = out.len();
    out.extend(entry);
    if let Some(child) = child {
        out.extend(child.to_le_bytes());
        let len = put::get16(out, at + 8) + 8;
        let flags = put::get16(out, at + 12) | 1;
        put::u16(out, at + 8, len);
        put::u16(out, at + 12, flags);
    }
}

/// The END entry, as a leaf has it.
const END: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 2, 0, 0, 0];

fn node(keys: &[Keyed<'_>], end_child: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    for (entry, child) in keys {
        emit(&mut out, entry, *child);
    }
    emit(&mut out, &END, end_child);
    out
}

fn cost(key: &Keyed<'_>) -> usize {
    key.0.len() + if key.1.is_some() { 8 } else { 0 }
}

/// Builds the tree of `entries` (sorted): all in the root if that fits `flat` bytes, else in blocks
/// under a root of at most `root` bytes.
pub(super) fn build(
    g: &Geometry,
    entries: &[Vec<u8>],
    flat: usize,
    root: usize,
    fill: Fill,
) -> Tree {
    let block = (block_len(g) - first_entry(g)) * fill.block / 100;
    let mut level: Vec<Keyed<'_>> = entries.iter().map(|e| (e.as_slice(), None)).collect();
    let mut end_child = None;
    let mut blocks: Vec<Node> = Vec::new();
    loop {
        let end = if end_child.is_some() { 24 } else { 16 };
        let len: usize = level.iter().map(cost).sum::<usize>() + end;
        let limit = if end_child.is_some() { root } else { flat };
        if len <= limit && len <= fill.root.max(24) || entries.is_empty() {
            return Tree {
                root: node(&level, end_child),
                large: end_child.is_some(),
                blocks,
            };
        }
        let mut upper: Vec<Keyed<'_>> = Vec::new();
        let mut from = 0;
        loop {
            let mut to = from;
            let mut used = end;
            while to < level.len() && used + cost(&level[to]) <= block {
                used += cost(&level[to]);
                to += 1;
            }
            assert!(to > from, "an entry does not fit an index block");
            // The separator must leave at least one key for the last block.
            if to + 1 == level.len() {
                to -= 1;
            }
            assert!(to > from, "index blocks are too small for these entries");
            let number = g.index_vcn(blocks.len() as u64);
            let inner = end_child.is_some();
            if to >= level.len() {
                blocks.push(Node {
                    entries: node(&level[from..], end_child),
                    inner,
                });
                end_child = Some(number);
                break;
            }
            let separator = level[to];
            blocks.push(Node {
                entries: node(&level[from..to], separator.1),
                inner,
            });
            upper.push((separator.0, Some(number)));
            from = to + 1;
        }
        level = upper;
    }
}

fn block_len(g: &Geometry) -> usize {
    usize::try_from(g.index).unwrap()
}

/// Offset of the first entry in a block.
fn first_entry(g: &Geometry) -> usize {
    (0x28 + 2 * (block_len(g) / 512 + 1)).next_multiple_of(8)
}

/// The value of `$INDEX_ROOT`.
pub(super) fn root_value(g: &Geometry, indexed: u32, collation: u32, tree: &Tree) -> Vec<u8> {
    let mut v = vec![0; 32];
    put::u32(&mut v, 0, indexed);
    put::u32(&mut v, 4, collation);
    put::u32(&mut v, 8, u32::try_from(g.index).unwrap());
    v[12] = u8::try_from(g.index_vcn(1)).unwrap();
    put::u32(&mut v, 16, 16);
    let used = u32::try_from(16 + tree.root.len()).unwrap();
    put::u32(&mut v, 20, used);
    put::u32(&mut v, 24, used);
    v[28] = u8::from(tree.large);
    v.extend(&tree.root);
    v
}

/// The bytes of block `number`, before protection; `slack` goes behind the last entry.
pub(super) fn block(g: &Geometry, number: u64, node: &Node, slack: &[u8]) -> Vec<u8> {
    let mut b = vec![0; block_len(g)];
    let first = first_entry(g);
    put::bytes(&mut b, 0, b"INDX");
    put::u16(&mut b, 4, 0x28);
    put::u16(&mut b, 6, u16::try_from(block_len(g) / 512 + 1).unwrap());
    put::u64(&mut b, 16, g.index_vcn(number));
    put::u32(&mut b, 24, u32::try_from(first - 24).unwrap());
    put::u32(
        &mut b,
        28,
        u32::try_from(first - 24 + node.entries.len()).unwrap(),
    );
    put::u32(&mut b, 32, u32::try_from(block_len(g) - 24).unwrap());
    b[36] = u8::from(node.inner);
    put::bytes(&mut b, first, &node.entries);
    put::bytes(&mut b, first + node.entries.len() + 8, slack);
    b
}

/// Room for slack in block `node`.
pub(super) fn slack_room(g: &Geometry, node: &Node) -> usize {
    (block_len(g) - first_entry(g) - node.entries.len()).saturating_sub(8)
}
