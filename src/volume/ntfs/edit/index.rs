//! One index of one file: read whole, checked whole, edited in memory, written back, slack wiped.
//!
//! Facts: facts/ntfs.md 1.1, 1.2 and the refusal table of 2. An index that is not sound in itself
//! (order, reachability, bitmap, update sequences) is refused, never repaired.

use std::collections::BTreeMap;

use super::{
    node::{BLOCK_HEADER_AT, Node, Order, Parsed, build_block, parse_block},
    place::{edit_record, read, read_record, write, write_stream, zero},
    record::{room_for, set_value, zero_tail},
    tree::{Path, Tree},
};
use crate::{
    bytes::{View, put},
    error::{Error, Kind, Result},
    text::Name,
    volume::{
        ntfs::{
            Attribute, File, Fixup, Ntfs, Stream, apply_fixup,
            attribute::title,
            format::{code, fixup, index},
            undo_fixup,
        },
        widths::{index as len_of, narrow, product, wide},
    },
};

/// Bound of an index in memory: two million names.
const MAX_INDEX_LEN: u64 = 1 << 30;
/// Position of the update sequence array in a new block.
const NEW_ARRAY_AT: usize = 0x28;

/// What a name of a file in its parent's index is.
pub(super) struct Index<'a> {
    vol: &'a Ntfs,
    order: Order<'a>,
    name: Name,
    title: String,
    /// The record that holds `$INDEX_ROOT`, and the attribute's id there.
    root_record: u64,
    root_id: u16,
    /// Bytes of the root before its node header.
    root_head: Vec<u8>,
    file: u64,
    block_len: usize,
    /// Bytes a VCN of this index stands for.
    unit: u64,
    allocation: Option<Allocation>,
    tree: Tree,
    /// Of every block in use: position of its first entry.
    firsts: BTreeMap<u64, usize>,
}

struct Allocation {
    stream: Stream,
    blocks: u64,
}

/// Adds what is known of the place, and makes every doubt a refusal.
fn doubt(error: Error, title: &str, file: u64) -> Error {
    let kind = match error.kind() {
        Kind::Malformed | Kind::Unsupported => Kind::Refused,
        other => other,
    };
    error
        .into_kind(kind)
        .at("index", title)
        .at("file record", file)
}

impl<'a> Index<'a> {
    /// Reads and checks the whole index `name` of a file.
    pub(super) fn open(vol: &'a Ntfs, file: &File, name: &str, order: Order<'a>) -> Result<Self> {
        let shown = title(code::INDEX_ROOT, &Name::new(name));
        Self::open_raw(vol, file, name, order)
            .map_err(|e| doubt(e, &shown, file.reference.record()))
    }

    fn open_raw(vol: &'a Ntfs, file: &File, name: &str, order: Order<'a>) -> Result<Self> {
        let title_of = |code| title(code, &Name::new(name));
        let root = the_attribute(file, code::INDEX_ROOT, name)?;
        let record = read_record(vol, root.record)?;
        let value = root.value(&record.bytes)?;
        let view = View::new(value, "index root");
        let collation = view.u32(index::ROOT_COLLATION)?;
        let names = matches!(order, Order::Names(_));
        if names && collation != index::COLLATION_FILE_NAME {
            return Err(Error::malformed(format!(
                "index root: collation 1 expected, found {collation}"
            )));
        }
        let block_len = len_of(view.u32(index::ROOT_BLOCK_LEN)?);
        let usual = len_of(vol.geometry().index_len);
        if (names && block_len != usual)
            || !block_len.is_power_of_two()
            || !(512..=usual.max(65536)).contains(&block_len)
        {
            return Err(Error::malformed(format!(
                "index root: blocks of {usual} bytes expected, found {block_len}"
            )));
        }
        let root_head = view.get(0, index::ROOT_NODE)?.to_vec();
        let room = value.len().saturating_sub(index::ROOT_NODE);
        let parsed = Node::parse(view.get(index::ROOT_NODE, room)?, "index root")?;
        if parsed.used != parsed.allocated
            || parsed.used != room
            || parsed.first != super::node::HEADER_LEN
        {
            return Err(Error::malformed(format!(
                "index root: entries from 0x10 to {room:#x} expected, found {:#x} to {:#x} of {:#x}",
                parsed.first, parsed.used, parsed.allocated
            )));
        }
        let cluster = u64::from(vol.geometry().cluster_len);
        let unit = if wide(block_len) >= cluster {
            cluster
        } else {
            u64::from(index::SMALL_UNIT)
        };
        let stream = file.stream_named(code::INDEX_ALLOCATION, &Name::new(name))?;
        let bitmap = file.stream_named(code::BITMAP, &Name::new(name))?;
        let allocation = match (&stream, &bitmap) {
            (None, None) => None,
            (Some(stream), Some(_)) => Some(allocation_of(stream, block_len)?),
            (Some(_), None) | (None, Some(_)) => {
                return Err(Error::malformed(format!(
                    "index: {} and {} together expected, found one of them",
                    title_of(code::INDEX_ALLOCATION),
                    title_of(code::BITMAP)
                )));
            }
        };
        let mut index = Self {
            vol,
            order,
            name: Name::new(name),
            title: title_of(code::INDEX_ROOT),
            root_record: root.record,
            root_id: root.id,
            root_head,
            file: file.reference.record(),
            block_len,
            unit,
            allocation,
            tree: Tree::default(),
            firsts: BTreeMap::new(),
        };
        let root_room = room_for(&record.bytes, root)?
            .saturating_sub(index::ROOT_NODE.saturating_add(super::node::HEADER_LEN));
        index.load(parsed.node, root_room)?;
        if let Some(bitmap) = &bitmap {
            index.check_bitmap(&vol.read_whole(bitmap)?)?;
        }
        Ok(index)
    }

    /// Bytes from a new block's node header to its first entry.
    fn new_first(&self) -> usize {
        let strides = self.block_len.checked_div(fixup::STRIDE).unwrap_or(0);
        NEW_ARRAY_AT
            .saturating_add(strides.saturating_add(1).saturating_mul(2))
            .checked_next_multiple_of(8)
            .unwrap_or(usize::MAX)
            .saturating_sub(BLOCK_HEADER_AT)
    }

    fn load(&mut self, root: Node, root_room: usize) -> Result<()> {
        let owned = self.allocation.as_ref().map_or(0, |a| a.blocks);
        let mut root = root;
        for child in &mut root.children {
            *child = self.block_of(*child)?;
        }
        let mut firsts = BTreeMap::new();
        let mut tree = Tree::new(root, owned, 0, root_room);
        tree.load(|block| {
            let parsed = self.read_block(block)?;
            let mut node = parsed.node;
            for child in &mut node.children {
                *child = self.block_of(*child)?;
            }
            firsts.insert(block, parsed.first);
            Ok(node)
        })?;
        let first = firsts
            .values()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.new_first());
        tree.set_block_room(
            self.block_len
                .saturating_sub(BLOCK_HEADER_AT)
                .saturating_sub(first),
        );
        tree.check_order(self.order)?;
        self.tree = tree;
        self.firsts = firsts;
        Ok(())
    }

    /// The number of the block at a VCN.
    fn block_of(&self, vcn: u64) -> Result<u64> {
        let offset = product(vcn, self.unit, "index VCN")?;
        let len = wide(self.block_len);
        match (offset.checked_rem(len), offset.checked_div(len)) {
            (Some(0), Some(block)) => Ok(block),
            _ => Err(Error::malformed(format!(
                "index: VCN {vcn:#x} at a block expected, found inside one"
            ))),
        }
    }

    fn vcn_of(&self, block: u64) -> Result<u64> {
        product(block, wide(self.block_len), "index block")?
            .checked_div(self.unit)
            .ok_or_else(|| Error::internal("index: VCN unit"))
    }

    fn blocks_of(&self) -> Result<&Stream> {
        self.allocation
            .as_ref()
            .map(|allocation| &allocation.stream)
            .ok_or_else(|| Error::malformed("index: children without $INDEX_ALLOCATION"))
    }

    fn raw_block(&self, block: u64) -> Result<Vec<u8>> {
        let len = wide(self.block_len);
        let offset = product(block, len, "index block")?;
        read(self.vol, self.blocks_of()?, offset, len, "index block")
    }

    fn sound_block(&self, block: u64) -> Result<Vec<u8>> {
        let mut bytes = self.raw_block(block)?;
        match undo_fixup(&mut bytes) {
            Fixup::Valid => Ok(bytes),
            other => Err(Error::malformed(format!(
                "index block {block}: a valid update sequence expected, found {}",
                other.name()
            ))),
        }
    }

    fn read_block(&self, block: u64) -> Result<Parsed> {
        parse_block(&self.sound_block(block)?, self.vcn_of(block)?)
    }

    /// A bit for every reachable block and no other.
    fn check_bitmap(&self, bits: &[u8]) -> Result<()> {
        let want = self.bits(bits.len())?;
        match want.iter().zip(bits).position(|(want, have)| want != have) {
            None => Ok(()),
            Some(byte) => Err(Error::malformed(format!(
                "index bitmap: a bit for every reachable block and no other expected, found \
                 otherwise at byte {byte:#x}"
            ))),
        }
    }

    /// The bitmap as it has to be, `len` bytes of it.
    fn bits(&self, len: usize) -> Result<Vec<u8>> {
        let mut bits = vec![0_u8; len];
        for block in self.tree.used_blocks() {
            let byte = narrow(block >> 3, "index bitmap")?;
            let bit = 1_u8.checked_shl(u32::try_from(block & 7).unwrap_or(0));
            let place = bits.get_mut(byte).zip(bit);
            let (place, bit) = place.ok_or_else(|| {
                Error::malformed(format!("index bitmap: a bit for block {block} expected"))
            })?;
            *place |= bit;
        }
        Ok(bits)
    }

    /// Number of entries.
    pub(super) fn count(&self) -> Result<usize> {
        Ok(self.tree.entries()?.len())
    }

    /// The tree.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The way to the entry with exactly this key, if there is one.
    pub(super) fn find(&self, key: &[u8]) -> Result<Option<Path>> {
        self.tree.find(self.order, key)
    }

    /// Removes the entry with this key from memory.
    pub(super) fn remove(&mut self, key: &[u8]) -> Result<()> {
        match self.tree.remove(self.order, key) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::internal("index: the entry is gone already")),
            Err(error) => Err(doubt(error, &self.title, self.file)),
        }
    }

    /// Overwrites bytes of an entry outside its key.
    pub(super) fn patch(&mut self, path: &Path, at: usize, bytes: &[u8]) -> Result<()> {
        self.tree.patch(path, at, bytes)
    }

    /// Writes what changed and wipes all slack of the index; says how many stale bytes went.
    pub(super) fn commit(self) -> Result<u64> {
        let mut wiped = 0_u64;
        if let Some(root) = self.tree.changes().root {
            wiped = wiped.saturating_add(self.write_root(root)?);
        }
        if self.allocation.is_some() {
            wiped = wiped.saturating_add(self.write_blocks()?);
            self.write_bits()?;
        }
        Ok(wiped)
    }

    fn write_root(&self, root: &Node) -> Result<u64> {
        let mut node = root.clone();
        for child in &mut node.children {
            *child = self.vcn_of(*child)?;
        }
        let mut value = self.root_head.clone();
        value.extend_from_slice(&node.build(super::node::HEADER_LEN, None)?);
        edit_record(self.vol, self.root_record, |bytes, attributes| {
            let root = attributes
                .iter()
                .find(|a| a.id == self.root_id && a.code == code::INDEX_ROOT)
                .ok_or_else(|| Error::internal("index root: it has gone"))?;
            set_value(bytes, root, &value)
        })
    }

    fn write_blocks(&self) -> Result<u64> {
        let Some(allocation) = &self.allocation else {
            return Ok(0);
        };
        let changes = self.tree.changes();
        let changed: BTreeMap<u64, &Node> = changes.blocks.iter().copied().collect();
        let used: std::collections::BTreeSet<u64> = self.tree.used_blocks().collect();
        let len = wide(self.block_len);
        let mut wiped = 0_u64;
        for block in 0..allocation.blocks {
            let offset = product(block, len, "index block")?;
            if let Some(node) = changed.get(&block) {
                let (bytes, stale) = self.built(block, node)?;
                wiped = wiped.saturating_add(stale);
                write(self.vol, &allocation.stream, offset, &bytes, "index block")?;
            } else if used.contains(&block) {
                let mut bytes = self.sound_block(block)?;
                let used = parse_block(&bytes, self.vcn_of(block)?)?.used;
                let tail = BLOCK_HEADER_AT.saturating_add(used);
                let stale = zero_tail(&mut bytes, tail, "index block")?;
                if stale != 0 {
                    wiped = wiped.saturating_add(stale);
                    apply_fixup(&mut bytes)?;
                    write(self.vol, &allocation.stream, offset, &bytes, "index block")?;
                }
            } else {
                let stale = zero(self.vol, &allocation.stream, offset, len)?;
                wiped = wiped.saturating_add(stale);
            }
        }
        let end = product(allocation.blocks, len, "index block")?;
        let tail = allocation.stream.allocated.saturating_sub(end);
        Ok(wiped.saturating_add(zero(self.vol, &allocation.stream, end, tail)?))
    }

    /// A changed block's bytes, ready to be written, and how many stale bytes it had behind its
    /// old entries.
    fn built(&self, block: u64, node: &Node) -> Result<(Vec<u8>, u64)> {
        let mut node = node.clone();
        for child in &mut node.children {
            *child = self.vcn_of(*child)?;
        }
        let mut bytes;
        let first;
        let mut stale = 0;
        if let Some(old) = self.firsts.get(&block) {
            bytes = self.sound_block(block)?;
            first = *old;
            let used = parse_block(&bytes, self.vcn_of(block)?)?.used;
            stale = zero_tail(
                &mut bytes,
                BLOCK_HEADER_AT.saturating_add(used),
                "index block",
            )?;
        } else {
            let what = "index block";
            bytes = vec![0; self.block_len];
            first = self.new_first();
            let strides = self.block_len.checked_div(fixup::STRIDE).unwrap_or(0);
            let count = u16::try_from(strides.saturating_add(1)).unwrap_or(0);
            let at = u16::try_from(NEW_ARRAY_AT).unwrap_or(0);
            put(&mut bytes, 0, &index::BLOCK_MAGIC, what)?;
            put(&mut bytes, fixup::ARRAY_OFFSET, &at.to_le_bytes(), what)?;
            put(&mut bytes, fixup::ARRAY_COUNT, &count.to_le_bytes(), what)?;
            put(
                &mut bytes,
                index::BLOCK_VCN,
                &self.vcn_of(block)?.to_le_bytes(),
                what,
            )?;
        }
        build_block(&mut bytes, &node, first)?;
        apply_fixup(&mut bytes)?;
        Ok((bytes, stale))
    }

    /// Writes the bitmap if it is no longer right. Read anew: the root before it in the same
    /// record may have moved it.
    fn write_bits(&self) -> Result<()> {
        let file = self.vol.file(self.file)?;
        let Some(bitmap) = file.stream_named(code::BITMAP, &self.name)? else {
            return Err(Error::internal("index bitmap: it has gone"));
        };
        let old = self.vol.read_whole(&bitmap)?;
        let new = self.bits(old.len())?;
        if new != old {
            write_stream(self.vol, &bitmap, 0, &new, "index bitmap")?;
        }
        Ok(())
    }
}

/// The one attribute with this code and name; two pieces of a root are a contradiction.
fn the_attribute<'f>(file: &'f File, code: u32, name: &str) -> Result<&'f Attribute> {
    let name = Name::new(name);
    let mut found = file
        .attributes
        .iter()
        .filter(|a| a.code == code && a.name == name);
    match (found.next(), found.next()) {
        (Some(attribute), None) => Ok(attribute),
        (None, _) => Err(Error::malformed(format!(
            "file: {} expected, found none",
            title(code, &name)
        ))),
        (Some(_), Some(_)) => Err(Error::malformed(format!(
            "file: one {} expected, found several",
            title(code, &name)
        ))),
    }
}

fn allocation_of(stream: &Stream, block_len: usize) -> Result<Allocation> {
    let len = wide(block_len);
    if stream.is_resident() || stream.flags != 0 || stream.has_holes() {
        return Err(Error::malformed(
            "$INDEX_ALLOCATION: plain clusters expected, found something else",
        ));
    }
    if stream.initialised != stream.data_len || stream.data_len > MAX_INDEX_LEN {
        return Err(Error::malformed(format!(
            "$INDEX_ALLOCATION: {} initialised bytes expected, found {}",
            stream.data_len, stream.initialised
        )));
    }
    Ok(Allocation {
        blocks: stream.data_len.checked_div(len).unwrap_or(0),
        stream: stream.clone(),
    })
}
