//! One node of an index B+tree as a list of entries: taken apart from bytes, put together again.
//!
//! Facts: facts/ntfs.md 1.1 (node header, entry, order). Pure: bytes in, bytes out.

use std::cmp::Ordering;

use crate::{
    bytes::{View, put, zero},
    error::{Error, Result},
};

/// Length of a node header and of an END entry without a child.
pub(super) const HEADER_LEN: usize = 16;
const HAS_CHILD: u16 = 1;
const END: u16 = 2;
const NODE_HAS_CHILDREN: u8 = 1;
/// Position of the key inside an entry.
pub(super) const KEY_AT: usize = 0x10;
/// Position of the name inside a `$FILE_NAME` key.
const NAME_AT: usize = 0x42;

/// The order of an index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order<'a> {
    /// `$I30`: names folded by the volume's own `$UpCase`, ties by raw units.
    Names(&'a [u16]),
    /// `$O`, `$R`, `$Q`: 32-bit numbers.
    Numbers,
}

impl Order<'_> {
    /// Compares two keys.
    pub(super) fn compare(self, a: &[u8], b: &[u8]) -> Result<Ordering> {
        match self {
            Self::Numbers => {
                let (a, _) = a.as_chunks::<4>();
                let (b, _) = b.as_chunks::<4>();
                let number = |chunk: &[u8; 4]| u32::from_le_bytes(*chunk);
                Ok(a.iter().map(number).cmp(b.iter().map(number)))
            }
            Self::Names(upcase) => {
                let (a, b) = (name_of(a)?, name_of(b)?);
                let fold = |pair: &[u8; 2]| {
                    let unit = u16::from_le_bytes(*pair);
                    upcase.get(usize::from(unit)).copied().unwrap_or(unit)
                };
                let raw = |pair: &[u8; 2]| u16::from_le_bytes(*pair);
                Ok(a.iter()
                    .map(fold)
                    .cmp(b.iter().map(fold))
                    .then_with(|| a.iter().map(raw).cmp(b.iter().map(raw))))
            }
        }
    }
}

/// The name's unit pairs of a `$FILE_NAME` key.
fn name_of(key: &[u8]) -> Result<&[[u8; 2]]> {
    let view = View::new(key, "index key");
    let units = usize::from(view.u8(0x40)?);
    let (pairs, _) = view.get(NAME_AT, units.saturating_mul(2))?.as_chunks::<2>();
    Ok(pairs)
}

/// An entry without its child pointer; length field and flags are those of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// Takes the bytes of a leaf entry.
    #[cfg(test)]
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Overwrites bytes.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        put(&mut self.0, at, bytes, "index entry")
    }

    /// Bytes in a leaf.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key.
    pub(super) fn key(&self) -> Result<&[u8]> {
        let view = View::new(&self.0, "index entry");
        view.get(KEY_AT, usize::from(view.u16(0xA)?))
    }

    /// The file reference of a directory entry.
    pub(super) fn reference(&self) -> Result<u64> {
        View::new(&self.0, "index entry").u64(0)
    }

    /// The data of a view index entry.
    pub(super) fn data(&self) -> Result<&[u8]> {
        let view = View::new(&self.0, "index entry");
        view.get(usize::from(view.u16(0)?), usize::from(view.u16(2)?))
    }
}

/// A node in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The keys, in order.
    pub(super) entries: Vec<Entry>,
    /// VCNs of the children: none in a leaf, else one more than keys.
    pub(super) children: Vec<u64>,
}

/// A node as read, with what its header said.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    /// The content.
    pub(super) node: Node,
    /// Position of the first entry, from the node header.
    pub(super) first: usize,
    /// End of the last entry, from the node header.
    pub(super) used: usize,
    /// What the header calls allocated.
    pub(super) allocated: usize,
}

fn bad(view: &View<'_>, at: usize, what: impl std::fmt::Display) -> Error {
    Error::malformed(format!("{}: {what} at +{at:#x}", view.what()))
}

/// Length as the format's fields need it.
fn number(value: u32) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::limit("index node: length"))
}

impl Node {
    /// Whether it has no children.
    pub(super) fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }

    /// Bytes of entries including END.
    pub(super) fn entries_len(&self) -> usize {
        let child = if self.is_leaf() { 0_usize } else { 8 };
        self.entries
            .iter()
            .map(|entry| entry.len().saturating_add(child))
            .fold(HEADER_LEN.saturating_add(child), usize::saturating_add)
    }

    /// Takes a node apart; `bytes` begin at the node header and end with its room.
    pub(super) fn parse(bytes: &[u8], what: &'static str) -> Result<Parsed> {
        let view = View::new(bytes, what);
        let first = number(view.u32(0)?)?;
        let used = number(view.u32(4)?)?;
        let allocated = number(view.u32(8)?)?;
        let inner = view.u8(0xC)? & NODE_HAS_CHILDREN != 0;
        if first % 8 != 0 || first < HEADER_LEN || first > used || used > allocated {
            return Err(bad(
                &view,
                0,
                format_args!(
                    "entries {first:#x}, used {used:#x} and allocated {allocated:#x} in order \
                     expected, found otherwise"
                ),
            ));
        }
        if allocated > view.len() {
            return Err(bad(
                &view,
                8,
                format_args!(
                    "allocated length up to {:#x} expected, found {allocated:#x}",
                    view.len()
                ),
            ));
        }
        let area = View::new(view.get(0, used)?, what);
        let mut node = Node::default();
        let mut at = first;
        loop {
            let len = usize::from(area.u16(at.saturating_add(8))?);
            let key_len = usize::from(area.u16(at.saturating_add(0xA))?);
            let flags = area.u16(at.saturating_add(0xC))?;
            let has_child = flags & HAS_CHILD != 0;
            if has_child != inner {
                return Err(bad(&view, at, "entry and node disagree about children"));
            }
            let child_len = if has_child { 8_usize } else { 0 };
            let entry = area.sub(at, len, what)?;
            let body = len
                .checked_sub(child_len)
                .filter(|body| len % 8 == 0 && *body >= HEADER_LEN)
                .ok_or_else(|| bad(&view, at, format_args!("bad entry length {len}")))?;
            if has_child {
                node.children.push(entry.u64(body)?);
            }
            let next = at.saturating_add(len);
            if flags & END != 0 {
                if next != used {
                    return Err(bad(&view, at, "END entry before the end of the node"));
                }
                return Ok(Parsed {
                    node,
                    first,
                    used,
                    allocated,
                });
            }
            if key_len == 0 || KEY_AT.saturating_add(key_len) > body {
                return Err(bad(
                    &view,
                    at,
                    format_args!("key of {key_len} bytes in an entry of {len}"),
                ));
            }
            let mut bytes = entry.get(0, body)?.to_vec();
            let leaf_len =
                u16::try_from(body).map_err(|_| Error::internal("index entry: length"))?;
            put(&mut bytes, 8, &leaf_len.to_le_bytes(), what)?;
            put(&mut bytes, 0xC, &(flags & !HAS_CHILD).to_le_bytes(), what)?;
            node.entries.push(Entry(bytes));
            at = next;
        }
    }

    /// Bytes from the node header to the end of the last entry, with entries from `first` on.
    /// `allocated` is `None` in a root, where it equals the used length.
    pub(super) fn build(&self, first: usize, allocated: Option<usize>) -> Result<Vec<u8>> {
        let what = "index node";
        let used = first.saturating_add(self.entries_len());
        if allocated.is_some_and(|room| used > room) {
            return Err(Error::internal("index node: entries do not fit"));
        }
        let field =
            |value: usize| u32::try_from(value).map_err(|_| Error::internal("index node: length"));
        let mut out = vec![0; first];
        put(&mut out, 0, &field(first)?.to_le_bytes(), what)?;
        put(&mut out, 4, &field(used)?.to_le_bytes(), what)?;
        put(
            &mut out,
            8,
            &field(allocated.unwrap_or(used))?.to_le_bytes(),
            what,
        )?;
        let inner = !self.is_leaf();
        if inner && self.children.len() != self.entries.len().saturating_add(1) {
            return Err(Error::internal(
                "index node: keys and children do not match",
            ));
        }
        put(&mut out, 0xC, &[u8::from(inner)], what)?;
        let end = {
            let mut bytes = vec![0; HEADER_LEN];
            put(&mut bytes, 8, &[16], what)?;
            put(&mut bytes, 0xC, &END.to_le_bytes(), what)?;
            Entry(bytes)
        };
        let mut children = self.children.iter();
        for entry in self.entries.iter().chain(std::iter::once(&end)) {
            let mut bytes = entry.0.clone();
            if inner {
                let child = children
                    .next()
                    .ok_or_else(|| Error::internal("index node: child missing"))?;
                let flags = View::new(&bytes, what).u16(0xC)? | HAS_CHILD;
                bytes.extend_from_slice(&child.to_le_bytes());
                let len = u16::try_from(bytes.len())
                    .map_err(|_| Error::internal("index entry: length"))?;
                put(&mut bytes, 8, &len.to_le_bytes(), what)?;
                put(&mut bytes, 0xC, &flags.to_le_bytes(), what)?;
            }
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }
}

/// Position of the node header in an INDX block.
pub(super) const BLOCK_HEADER_AT: usize = 0x18;

/// Takes an INDX block (update sequence undone) apart, checking what a node alone can tell.
pub(super) fn parse_block(block: &[u8], vcn: u64) -> Result<Parsed> {
    let what = "index block";
    let view = View::new(block, what);
    let say = |text: String| Err(Error::malformed(format!("{what}: {text}")));
    if view.get(0, 4)? != b"INDX" {
        return say(format!(
            "signature INDX expected, found {:02x?}",
            view.get(0, 4)?
        ));
    }
    if view.u64(0x10)? != vcn {
        return say(format!("VCN {vcn} expected, found {}", view.u64(0x10)?));
    }
    let room = view.len().saturating_sub(BLOCK_HEADER_AT);
    let parsed = Node::parse(view.get(BLOCK_HEADER_AT, room)?, what)?;
    let sequence_end =
        usize::from(view.u16(4)?).saturating_add(usize::from(view.u16(6)?).saturating_mul(2));
    if parsed.allocated != room {
        return say(format!(
            "allocated {room:#x} expected, found {:#x}",
            parsed.allocated
        ));
    }
    if BLOCK_HEADER_AT.saturating_add(parsed.first) < sequence_end {
        return say("entries overlap the update sequence".to_owned());
    }
    Ok(parsed)
}

/// Puts a node into a block that keeps its header; everything behind the entries becomes zero.
pub(super) fn build_block(block: &mut [u8], node: &Node, first: usize) -> Result<()> {
    let what = "index block";
    let room = block.len().saturating_sub(BLOCK_HEADER_AT);
    let bytes = node.build(first, Some(room))?;
    // The update sequence lies between node header and first entry: leave it.
    let (head, entries) = bytes
        .split_at_checked(first)
        .ok_or_else(|| Error::internal("index block: header"))?;
    put(
        block,
        BLOCK_HEADER_AT,
        View::new(head, what).get(0, HEADER_LEN)?,
        what,
    )?;
    let at = BLOCK_HEADER_AT.saturating_add(first);
    put(block, at, entries, what)?;
    let end = at.saturating_add(entries.len());
    let rest = block.len().saturating_sub(end);
    zero(block, end, rest, what)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::panic
    )]
    use super::*;

    /// A directory entry with this name.
    pub(in super::super) fn entry(name: &str, reference: u64) -> Entry {
        let units: Vec<u16> = name.encode_utf16().collect();
        let key = 0x42 + units.len() * 2;
        let len = (16 + key).next_multiple_of(8);
        let mut bytes = vec![0; len];
        bytes[..8].copy_from_slice(&reference.to_le_bytes());
        bytes[8..10].copy_from_slice(&(len as u16).to_le_bytes());
        bytes[10..12].copy_from_slice(&(key as u16).to_le_bytes());
        bytes[16 + 0x40] = units.len() as u8;
        bytes[16 + 0x41] = 3;
        for (i, unit) in units.iter().enumerate() {
            bytes[16 + 0x42 + 2 * i..][..2].copy_from_slice(&unit.to_le_bytes());
        }
        Entry::new(bytes)
    }

    #[test]
    fn a_node_survives_the_round_trip() {
        let node = Node {
            entries: vec![entry("a", 1), entry("bb", 2)],
            children: vec![7, 8, 9],
        };
        let bytes = node.build(16, None).unwrap();
        let parsed = Node::parse(&bytes, "test").unwrap();
        assert_eq!(parsed.node, node);
        assert_eq!(parsed.used, bytes.len());
        assert_eq!(bytes.len(), 16 + node.entries_len());
    }

    #[test]
    fn hostile_nodes_are_errors() {
        let good = Node {
            entries: vec![entry("a", 1), entry("bb", 2)],
            children: Vec::new(),
        }
        .build(16, None)
        .unwrap();
        for at in 0..good.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(parsed) = Node::parse(&bytes, "test") {
                    for entry in &parsed.node.entries {
                        let _ = (entry.key(), entry.reference(), entry.data());
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_ordered_folded_then_raw() {
        let upcase: Vec<u16> = (0..=u16::MAX).map(crate::text::ascii_upcase).collect();
        let order = Order::Names(&upcase);
        let compare = |a: &str, b: &str| {
            order
                .compare(entry(a, 1).key().unwrap(), entry(b, 1).key().unwrap())
                .unwrap()
        };
        assert_eq!(compare("case", "CASE"), Ordering::Greater);
        assert_eq!(compare("a", "B"), Ordering::Less);
        assert_eq!(compare("a", "aa"), Ordering::Less);
        assert_eq!(compare("x", "x"), Ordering::Equal);
    }
}
