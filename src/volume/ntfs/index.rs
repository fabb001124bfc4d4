//! Indexes (B+trees): nodes and entries, reading blocks, walking, looking a name up. Read only.

use std::collections::BTreeSet;

use super::{
    Ntfs,
    attribute::{Attribute, FileName, title},
    file::File,
    format::{code, index},
    record::{Fixup, undo_fixup},
    stream::{Content, Stream},
};
use crate::{
    bytes::View,
    error::{At, Error, Result},
    text::Name,
    units::{MftReference, Vcn},
    volume::widths::{index as index_of, narrow, sum},
};

/// Deeper trees do not exist (ten levels hold 10^15 names); they only serve to exhaust a stack
/// (CVE-2026-46570).
pub const MAX_DEPTH: usize = 32;

/// The name of a directory's index.
pub const DIRECTORY_INDEX: &str = "$I30";

/// A node header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHeader {
    /// Offset of the first entry from the node header.
    pub first_entry: usize,
    /// Bytes in use from the node header on.
    pub used: usize,
    /// Bytes that may be used from the node header on.
    pub allocated: usize,
    /// Flags.
    pub flags: u8,
}

impl NodeHeader {
    /// Whether every entry has a child.
    #[must_use]
    pub fn has_children(&self) -> bool {
        self.flags & index::HAS_CHILDREN != 0
    }
}

/// An entry, as offsets into the buffer it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset of the entry.
    pub offset: usize,
    /// Its bytes.
    pub len: usize,
    /// The file (directories); data offset and length in views.
    pub reference: MftReference,
    /// Offset of the key.
    pub key_offset: usize,
    /// Bytes of the key; 0 in the END entry.
    pub key_len: usize,
    /// Flags.
    pub flags: u16,
    /// The child node's VCN.
    pub child: Option<Vcn>,
}

impl Entry {
    /// Whether this is the END entry.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.flags & index::ENTRY_END != 0
    }

    /// The key, out of the buffer the entry was parsed from.
    pub fn key<'a>(&self, buffer: &'a [u8]) -> Result<&'a [u8]> {
        View::new(buffer, "index entry").get(self.key_offset, self.key_len)
    }
}

/// A parsed node; its last entry is the END entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where its header stands in the buffer.
    pub header_offset: usize,
    /// The header.
    pub header: NodeHeader,
    /// All entries, END included.
    pub entries: Vec<Entry>,
}

/// Parses the node whose header stands at `header_offset`, and everything in it: `used` within
/// `allocated` within the buffer, entries back to back up to `used`, keys inside their entries,
/// exactly one END, child flags as the node says.
pub fn parse_node(buffer: &[u8], header_offset: usize) -> Result<Node> {
    let view = View::new(buffer, "index node");
    let room = buffer.len().saturating_sub(header_offset);
    let head = view.sub(
        header_offset,
        room.min(index::NODE_LEN),
        "index node header",
    )?;
    let header = NodeHeader {
        first_entry: index_of(head.u32(index::FIRST_ENTRY)?),
        used: index_of(head.u32(index::USED)?),
        allocated: index_of(head.u32(index::ALLOCATED)?),
        flags: head.u8(index::NODE_FLAGS)?,
    };
    if header.allocated > room
        || header.used > header.allocated
        || header.first_entry > header.used
        || header.first_entry < index::NODE_LEN
        || !header.first_entry.is_multiple_of(8)
    {
        return Err(Error::malformed(format!(
            "index node: first entry <= used <= allocated <= {room} expected, found {} / {} / {}",
            header.first_entry, header.used, header.allocated
        )));
    }
    let end = header_offset.saturating_add(header.used);
    let mut at = header_offset.saturating_add(header.first_entry);
    let mut entries = Vec::new();
    // Bounded: every entry is at least 16 bytes of the buffer.
    loop {
        let entry = parse_entry(view, at, end)
            .map_err(|e| e.at("index node offset", format_args!("{at:#x}")))?;
        if entry.child.is_some() != header.has_children() {
            return Err(Error::malformed(format!(
                "index entry: children {} expected as the node says, found otherwise",
                if header.has_children() {
                    "everywhere"
                } else {
                    "nowhere"
                }
            ))
            .at("index node offset", format_args!("{at:#x}")));
        }
        at = at.saturating_add(entry.len);
        let is_end = entry.is_end();
        entries.push(entry);
        if is_end {
            break;
        }
    }
    if at != end {
        return Err(Error::malformed(format!(
            "index node: END at the end of the used part ({end:#x}) expected, found it before {at:#x}"
        )));
    }
    Ok(Node {
        header_offset,
        header,
        entries,
    })
}

fn parse_entry(view: View<'_>, at: usize, end: usize) -> Result<Entry> {
    let room = end.saturating_sub(at);
    let head = view.sub(at, room.min(index::KEY), "index entry header")?;
    let len = usize::from(head.u16(index::ENTRY_LEN)?);
    let key_len = usize::from(head.u16(index::KEY_LEN)?);
    let flags = head.u16(index::ENTRY_FLAGS)?;
    let child_len = if flags & index::ENTRY_HAS_CHILD != 0 {
        8
    } else {
        0
    };
    let is_end = flags & index::ENTRY_END != 0;
    let key_room = len.checked_sub(index::KEY.saturating_add(child_len));
    if len > room || !len.is_multiple_of(8) || key_room.is_none() {
        return Err(Error::malformed(format!(
            "index entry: length of 16 to {room}, a multiple of 8, expected, found {len}"
        )));
    }
    if is_end && key_len != 0 && key_room.is_none_or(|room| key_len > room) {
        return Err(Error::malformed(
            "index entry: END without a key expected, found one",
        ));
    }
    if !is_end && (key_len == 0 || key_room.is_none_or(|room| key_len > room)) {
        return Err(Error::malformed(format!(
            "index entry: a key inside {len} bytes expected, found one of {key_len}"
        )));
    }
    let child = if child_len == 0 {
        None
    } else {
        Some(Vcn(view.u64(at.saturating_add(len).saturating_sub(8))?))
    };
    Ok(Entry {
        offset: at,
        len,
        reference: MftReference(head.u64(index::ENTRY_REFERENCE)?),
        key_offset: at.saturating_add(index::KEY),
        key_len: if is_end { 0 } else { key_len },
        flags,
        child,
    })
}

/// An index block read from the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its own VCN.
    pub vcn: Vcn,
    /// All its bytes, update sequence undone.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub node: Node,
}

/// An index of a file: its root and where its blocks are.
#[derive(Clone, Debug)]
pub struct Index {
    /// The file that has the index.
    pub file: MftReference,
    /// Its name: `$I30`, `$O` ...
    pub name: Name,
    /// The $INDEX_ROOT attribute.
    pub root_attribute: Attribute,
    /// The $INDEX_ROOT value.
    pub root: Vec<u8>,
    /// What is in the root.
    pub root_node: Node,
    /// Code of the indexed attribute: 0x30 in a directory, 0 in a view.
    pub indexed_code: u32,
    /// Collation rule.
    pub collation: u32,
    /// Bytes a block.
    pub block_len: u32,
    /// Bytes of a VCN.
    pub vcn_unit: u32,
    /// $INDEX_ALLOCATION.
    pub allocation: Option<Stream>,
    /// $BITMAP.
    pub bitmap: Option<Stream>,
}

/// A name found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The file it names.
    pub reference: MftReference,
    /// The key.
    pub name: FileName,
    /// The block it stands in; `None`: the root.
    pub block: Option<Vcn>,
    /// Offset of the entry in the block or in the root's value.
    pub offset: usize,
}

/// What a walk goes on with after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Skip the entry and what is below it.
    Skip,
    /// Visit what is below, then take the entry.
    Take,
    /// Visit what is below, then leave the node.
    Last,
}

/// Gets an entry, the buffer it stands in and its block (`None`: the root).
pub type Take<'t> = dyn FnMut(&[u8], &Entry, Option<Vcn>) -> Result<()> + 't;

/// Looks at a key.
type Judge<'j> = dyn FnMut(&[u8]) -> Result<Step> + 'j;

/// A walk under way.
struct Walk<'w, 'f> {
    index: &'w Index,
    ntfs: &'w Ntfs,
    judge: &'w mut Judge<'f>,
    take: &'w mut Take<'f>,
    seen: BTreeSet<u64>,
}

impl Walk<'_, '_> {
    fn node(&mut self, buffer: &[u8], node: &Node, block: Option<Vcn>, depth: usize) -> Result<()> {
        let at_file = |e: Error| e.at("file record", self.index.file.record());
        if depth > MAX_DEPTH {
            return Err(at_file(Error::limit(format!(
                "index: at most {MAX_DEPTH} levels expected, found more"
            ))));
        }
        for entry in &node.entries {
            let step = if entry.is_end() {
                Step::Last
            } else {
                (self.judge)(entry.key(buffer)?)?
            };
            if step == Step::Skip {
                continue;
            }
            if let Some(child) = entry.child {
                if !self.seen.insert(child.get()) {
                    return Err(Error::malformed(
                        "index: every block reached once expected, found one reached twice",
                    )
                    .at("index block", child)
                    .at("file record", self.index.file.record()));
                }
                let below = self.index.read_block(self.ntfs, child)?;
                self.node(
                    &below.bytes,
                    &below.node,
                    Some(child),
                    depth.saturating_add(1),
                )?;
            }
            if step == Step::Last {
                break;
            }
            (self.take)(buffer, entry, block)?;
        }
        Ok(())
    }
}

impl Index {
    /// Opens an index of a file; `None` if it has none of that name.
    pub fn open(ntfs: &Ntfs, file: &File, name: &str) -> Result<Option<Self>> {
        let wanted = Name::new(name);
        let at_file = |e: Error| {
            e.at("index", &wanted)
                .at("file record", file.reference.record())
        };
        let Some(root_attribute) = file.attribute(code::INDEX_ROOT, name) else {
            return Ok(None);
        };
        let root = file.value(root_attribute).map_err(at_file)?.to_vec();
        let view = View::new(&root, "$INDEX_ROOT");
        let block_len = view.u32(index::ROOT_BLOCK_LEN).map_err(at_file)?;
        let cluster_len = ntfs.geometry.cluster_len;
        // Up to the largest cluster; a multiple of the fixup stride.
        if !block_len.is_power_of_two() || !(512..=2 << 20).contains(&block_len) {
            return Err(at_file(Error::malformed(format!(
                "$INDEX_ROOT: a block of 512 bytes to 2 MiB expected, found {block_len}"
            ))));
        }
        let root_node = parse_node(&root, index::ROOT_NODE).map_err(at_file)?;
        let allocation = file
            .stream_named(code::INDEX_ALLOCATION, &wanted)
            .map_err(at_file)?;
        if allocation.as_ref().is_some_and(Stream::is_resident) {
            return Err(at_file(Error::malformed(
                "$INDEX_ALLOCATION: clusters expected, found a resident value",
            )));
        }
        // A length that only holes or repeated clusters back would cost time for nothing.
        if let Some(stream) = &allocation
            && (stream.has_holes() || stream.data_len > ntfs.device.len())
        {
            return Err(at_file(Error::malformed(format!(
                "$INDEX_ALLOCATION: real clusters for {} bytes expected, found holes",
                stream.data_len
            ))));
        }
        Ok(Some(Self {
            file: file.reference,
            indexed_code: view.u32(index::ROOT_CODE).map_err(at_file)?,
            collation: view.u32(index::ROOT_COLLATION).map_err(at_file)?,
            block_len,
            vcn_unit: if block_len >= cluster_len {
                cluster_len
            } else {
                index::SMALL_UNIT
            },
            root_attribute: root_attribute.clone(),
            root_node,
            allocation,
            bitmap: file.stream_named(code::BITMAP, &wanted).map_err(at_file)?,
            name: wanted,
            root,
        }))
    }

    /// Bytes of $INDEX_ALLOCATION.
    #[must_use]
    pub fn allocation_len(&self) -> u64 {
        self.allocation.as_ref().map_or(0, |stream| stream.data_len)
    }

    /// Where a block starts in $INDEX_ALLOCATION; it must lie inside.
    pub fn block_offset(&self, vcn: Vcn) -> Result<u64> {
        let offset =
            crate::volume::widths::product(vcn.get(), u64::from(self.vcn_unit), "index block")?;
        let end = sum(offset, u64::from(self.block_len), "index block")?;
        if end > self.allocation_len() || !offset.is_multiple_of(u64::from(self.block_len)) {
            return Err(Error::malformed(format!(
                "index block: a VCN inside {} expected, found {vcn}",
                title(code::INDEX_ALLOCATION, &self.name)
            ))
            .at("file record", self.file.record()));
        }
        Ok(offset)
    }

    /// The number of a block, which is its bit in $BITMAP.
    #[must_use]
    pub fn block_number(&self, vcn: Vcn) -> u64 {
        vcn.get()
            .saturating_mul(u64::from(self.vcn_unit))
            .checked_div(u64::from(self.block_len))
            .unwrap_or(0)
    }

    /// The raw bytes of a block, as they stand on the device.
    pub fn read_block_raw(&self, ntfs: &Ntfs, vcn: Vcn) -> Result<Vec<u8>> {
        let Some(allocation) = &self.allocation else {
            return Err(Error::malformed(format!(
                "index node: a child needs {}, found none",
                title(code::INDEX_ALLOCATION, &self.name)
            ))
            .at("file record", self.file.record()));
        };
        let offset = self.block_offset(vcn)?;
        let mut bytes = vec![0; narrow(u64::from(self.block_len), "index block")?];
        ntfs.read_pieces(allocation, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads and parses a block: magic, update sequence, own VCN, the node.
    pub fn read_block(&self, ntfs: &Ntfs, vcn: Vcn) -> Result<Block> {
        let mut bytes = self.read_block_raw(ntfs, vcn)?;
        self.parse_block(vcn, &mut bytes)
            .map(|node| Block { vcn, bytes, node })
            .at("index block", vcn)
            .at("file record", self.file.record())
    }

    fn parse_block(&self, vcn: Vcn, bytes: &mut [u8]) -> Result<Node> {
        if !bytes.starts_with(&index::BLOCK_MAGIC) {
            return Err(Error::malformed(format!(
                "index block: INDX expected, found {}",
                hex::encode(bytes.get(..4).unwrap_or_default())
            )));
        }
        match undo_fixup(bytes) {
            Fixup::Valid => {}
            Fixup::Crc4 => {
                return Err(Error::unsupported(format!(
                    "index block: an update sequence expected, found {}",
                    Fixup::Crc4.name()
                )));
            }
            other => {
                return Err(Error::malformed(format!(
                    "index block: a valid update sequence expected, found {}",
                    other.name()
                )));
            }
        }
        let view = View::new(bytes, "index block");
        let own = view.u64(index::BLOCK_VCN)?;
        if own != vcn.get() {
            return Err(Error::malformed(format!(
                "index block: own VCN {vcn} expected, found {own:#x}"
            )));
        }
        let node = parse_node(bytes, index::BLOCK_NODE)?;
        let whole = bytes.len().checked_sub(index::BLOCK_NODE);
        // The first entry must lie behind the update sequence array.
        let array_end =
            usize::from(view.u16(4)?).saturating_add(usize::from(view.u16(6)?).saturating_mul(2));
        if Some(node.header.allocated) != whole
            || node.header.first_entry.saturating_add(index::BLOCK_NODE) < array_end
        {
            return Err(Error::malformed(format!(
                "index block: a node filling {} bytes behind {array_end:#x} expected, found {} at {:#x}",
                bytes.len(),
                node.header.allocated,
                node.header.first_entry
            )));
        }
        Ok(node)
    }

    /// Walks in order; `judge` says for each key what to do, `take` gets each taken entry with its
    /// buffer and block.
    fn visit(
        &self,
        ntfs: &Ntfs,
        judge: &mut Judge<'_>,
        take: &mut Take<'_>,
    ) -> Result<BTreeSet<u64>> {
        let mut walk = Walk {
            index: self,
            ntfs,
            judge,
            take,
            seen: BTreeSet::new(),
        };
        walk.node(&self.root, &self.root_node, None, 0)?;
        Ok(walk.seen)
    }

    /// Every entry in order, with the buffer it stands in and its block (`None`: the root).
    /// Returns the VCNs of all blocks reached.
    pub fn walk(&self, ntfs: &Ntfs, take: &mut Take<'_>) -> Result<BTreeSet<u64>> {
        self.visit(ntfs, &mut |_| Ok(Step::Take), take)
    }

    /// All entries of a directory whose name is `name` when folded: usually none or one, several
    /// in a directory where case matters.
    pub fn find_name(&self, ntfs: &Ntfs, name: &[u16]) -> Result<Vec<Hit>> {
        let mut hits = Vec::new();
        self.visit(
            ntfs,
            &mut |key| {
                let key = FileName::parse(key)?;
                Ok(match ntfs.upcase.compare_folded(key.name.units(), name) {
                    std::cmp::Ordering::Less => Step::Skip,
                    std::cmp::Ordering::Equal => Step::Take,
                    std::cmp::Ordering::Greater => Step::Last,
                })
            },
            &mut |buffer, entry, block| {
                hits.push(Hit {
                    reference: entry.reference,
                    name: FileName::parse(entry.key(buffer)?)?,
                    block,
                    offset: entry.offset,
                });
                Ok(())
            },
        )?;
        Ok(hits)
    }

    /// The $BITMAP's bytes; empty if there is none.
    pub fn read_bitmap(&self, ntfs: &Ntfs) -> Result<Vec<u8>> {
        self.bitmap
            .as_ref()
            .map_or_else(|| Ok(Vec::new()), |stream| ntfs.read_whole(stream))
    }

    /// Where the root's value lies: record and offset in the record.
    #[must_use]
    pub fn root_place(&self) -> (u64, usize) {
        match self.root_attribute.body {
            super::attribute::Body::Resident { value_offset, .. } => {
                (self.root_attribute.record, value_offset)
            }
            super::attribute::Body::NonResident { .. } => (self.root_attribute.record, 0),
        }
    }

    /// Whether the index's blocks are all in clusters, and how many there are.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        match self.allocation.as_ref().map(|stream| &stream.content) {
            Some(Content::Runs(_)) => self
                .allocation_len()
                .checked_div(u64::from(self.block_len))
                .unwrap_or(0),
            _ => 0,
        }
    }
}

/// Whether bit `number` of a bitmap is set; `None` behind its end.
#[must_use]
pub fn bit(bitmap: &[u8], number: u64) -> Option<bool> {
    let byte = usize::try_from(number.wrapping_shr(3)).ok()?;
    let mask = 1u8.wrapping_shl(u32::try_from(number & 7).ok()?);
    bitmap.get(byte).map(|byte| byte & mask != 0)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    fn node() -> Vec<u8> {
        let mut n = vec![0u8; 16];
        n[0] = 16;
        let mut key = vec![0u8; 24];
        key[0] = 30;
        key[8] = 24;
        key[10] = 4;
        key[16] = b'k';
        n.extend(key);
        let mut end = vec![0u8; 16];
        end[8] = 16;
        end[12] = 2;
        n.extend(end);
        let used = n.len() as u8;
        n[4] = used;
        n[8] = used;
        n
    }

    #[test]
    fn a_node_parses() {
        let n = node();
        let parsed = parse_node(&n, 0).unwrap();
        assert_eq!(parsed.entries.len(), 2);
        assert_eq!(parsed.entries[0].key(&n).unwrap(), b"k\0\0\0");
        assert!(parsed.entries[1].is_end());
    }

    #[test]
    fn lying_nodes_are_refused() {
        for (at, value) in [
            (0, 0u8),
            (0, 17),
            (0, 0xFF),
            (4, 0xFF),
            (4, 8),
            (4, 40),
            (8, 0xFF),
            (8, 8),
            (12, 1),
            (24, 0),
            (24, 7),
            (24, 0xF8),
            (25, 0xFF),
            (26, 0),
            (26, 9),
            (28, 1),
            (28, 2),
            (48, 0),
            (52, 0),
            (52, 3),
        ] {
            let mut n = node();
            n[at] = value;
            assert!(parse_node(&n, 0).is_err(), "{at} {value}");
        }
        assert!(parse_node(&node(), 60).is_err());
        assert!(parse_node(&[], 0).is_err());
    }

    #[test]
    fn bits_count_from_the_lowest() {
        assert_eq!(bit(&[0x02, 0x80], 1), Some(true));
        assert_eq!(bit(&[0x02, 0x80], 15), Some(true));
        assert_eq!(bit(&[0x02, 0x80], 16), None);
    }
}
