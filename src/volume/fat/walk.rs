//! One pass over the directory tree: every entry, every chain, every slot that is no longer in use.
//!
//! Every cluster is followed once, whatever the links say, so a hostile volume costs no more than its
//! own size.

use std::collections::VecDeque;

use super::{
    Fat, FatFormat,
    boot::{Root, Width},
    format::{MAX_DIRECTORY_LEN, long, slot},
    name::{checksum, is_long, piece, short_bytes, short_name},
    short,
    table::{Bits, Link},
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
    text::Name,
    volume::{
        clusters::{self, Raw, Table, Walk, byte, dword, each_slot, word},
        widths::wide,
    },
};

/// Windows opens no path of more than 260 characters on FAT.
const MAX_DEPTH: u32 = 256;
/// What a short entry says, and the long name before it. A file's id is the number of the short entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The long name, if it has one.
    pub(super) long: Option<Name>,
    /// The slot of the short entry.
    pub(super) raw: Raw,
}

impl clusters::Entry for Entry {
    fn is_directory(&self) -> bool {
        byte(&self.raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0
    }

    fn is_label(&self) -> bool {
        byte(&self.raw, slot::ATTRIBUTES) & slot::LABEL != 0
    }

    fn data_len(&self) -> u64 {
        dword(&self.raw, slot::FILE_LEN).into()
    }

    fn names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.long.clone().into_iter().collect();
        names.push(short_name(&self.raw));
        names
    }
}

impl Entry {
    /// The first cluster that it names.
    #[must_use]
    pub(super) fn first_cluster(&self, width: Width) -> u32 {
        first_cluster(width, &self.raw)
    }
}

/// What can be read of a deleted entry.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The long name, if there is a piece of it.
    pub(super) long: Name,
    /// The short entry, if it is there; its first byte is lost.
    pub(super) short: Option<Raw>,
}

/// What the pass saw besides the tree.
#[derive(Debug, Default)]
pub struct Seen {
    /// Clusters that some file or directory owns.
    pub(super) owned: u64,
}

/// The first cluster that an entry names.
fn first_cluster(width: Width, raw: &Raw) -> u32 {
    let low = u32::from(word(raw, slot::CLUSTER_LOW));
    match width {
        Width::Bits32 => low | u32::from(word(raw, slot::CLUSTER_HIGH)).wrapping_shl(16),
        _ => low,
    }
}

/// Walks the whole volume.
pub(super) fn take(fat: &Fat) -> Result<Walk<FatFormat>> {
    let mut walk = Walk::new(Entry {
        long: None,
        raw: [0; slot::LEN],
    });
    let mut seen = Bits::new(&fat.geometry.heap)?;
    let mut table = Table::new(fat);
    let mut queue = VecDeque::from([0_usize]);
    while let Some(index) = queue.pop_front() {
        let ranges = walk.directory_ranges(fat, index, &mut table, &mut seen)?;
        let from = walk.nodes.len();
        Reader::new(&mut walk, index, false).read(fat, &ranges)?;
        for child in from..walk.nodes.len() {
            walk.visit(fat, child, &mut table, &mut seen, &mut queue)?;
        }
    }
    walk.seen.owned = seen.count();
    walk.number();
    walk.deleted_directories(fat, &mut table, &mut seen)?;
    Ok(walk)
}

impl Walk<FatFormat> {
    /// Where a directory's slots lie.
    fn directory_ranges(
        &mut self,
        fat: &Fat,
        index: usize,
        table: &mut Table<'_, FatFormat>,
        seen: &mut Bits,
    ) -> Result<Vec<(u64, u64)>> {
        let first = match (index, fat.geometry.root) {
            (0, Root::Fixed(at, len)) => {
                self.directories.insert(at, (len, 0));
                return Ok(vec![(at, len)]);
            }
            (0, Root::Chain(first)) => first,
            _ => match self.nodes.get(index) {
                Some(node) => node.entry.first_cluster(fat.geometry.width),
                None => return Err(Error::internal("FAT: a directory's number")),
            },
        };
        let chain = table.chain(first, seen)?;
        if let Some(problem) = &chain.problem {
            if let Some(node) = self.nodes.get_mut(index) {
                node.sound = false;
            }
            let path = self.path(index);
            self.problem(|| format!("directory {path}: {problem}"));
        }
        let mut rest = MAX_DIRECTORY_LEN;
        let mut ranges = Vec::new();
        for (at, len) in chain.ranges(&fat.geometry.heap) {
            self.directories.insert(at, (len, index));
            let len_read = len.min(rest);
            rest = rest.saturating_sub(len_read);
            if len_read < len {
                let path = self.path(index);
                self.problem(|| {
                    format!(
                        "directory {path}: at most {MAX_DIRECTORY_LEN} bytes expected, found \
                         {} clusters (volume offset {at:#x})",
                        chain.clusters
                    )
                });
            }
            ranges.push((at, len_read));
            if rest == 0 {
                break;
            }
        }
        Ok(ranges)
    }

    /// Follows a new entry's chain, or puts a directory into the queue.
    fn visit(
        &mut self,
        fat: &Fat,
        index: usize,
        table: &mut Table<'_, FatFormat>,
        seen: &mut Bits,
        queue: &mut VecDeque<usize>,
    ) -> Result<()> {
        let Some(node) = self.nodes.get(index) else {
            return Ok(());
        };
        if node.is_label() {
            return Ok(());
        }
        if node.is_directory() {
            if node.depth < MAX_DEPTH {
                queue.push_back(index);
            } else {
                let at = node.id.saturating_mul(wide(slot::LEN));
                self.problem(|| {
                    format!(
                        "directory: at most {MAX_DEPTH} levels expected, found more (volume \
                         offset {at:#x})"
                    )
                });
            }
            return Ok(());
        }
        let (first, len) = (
            node.entry.first_cluster(fat.geometry.width),
            node.data_len(),
        );
        let mut met = None;
        let found = if first == 0 {
            (len > 0).then(|| format!("file: a cluster for {len} bytes expected, found none"))
        } else {
            let chain = table.chain(first, seen)?;
            let room = chain.room(&fat.geometry.heap);
            met = chain.met;
            chain
                .problem
                .or_else(|| (room < len).then(|| short(len, room)))
        };
        if let Some(found) = found {
            let path = self.path(index);
            if let Some(node) = self.nodes.get_mut(index) {
                node.sound = false;
            }
            let other = match met {
                Some(cluster) => self.holder(table, cluster, index)?,
                None => String::new(),
            };
            self.problem(|| format!("{path}{other}: {found}"));
        }
        Ok(())
    }

    /// Deleted directories whose first cluster is free and still one: its slots are stale.
    fn deleted_directories(
        &mut self,
        fat: &Fat,
        table: &mut Table<'_, FatFormat>,
        seen: &mut Bits,
    ) -> Result<()> {
        let mut next = 0;
        while let Some(stale) = self.stale.get(next) {
            next = next.saturating_add(1);
            let Some(raw) = stale.remains.short else {
                continue;
            };
            let first = first_cluster(fat.geometry.width, &raw);
            let is_directory = byte(&raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0;
            if !is_directory || !fat.geometry.heap.has(first) || table.link(first)? != Link::Free {
                continue;
            }
            let at = fat.geometry.heap.offset_of(first);
            let mut head = [0; slot::LEN];
            if fat.device.read_at(at, &mut head).is_err()
                || !head.starts_with(b".          ")
                || seen.set(first)
            {
                continue;
            }
            let len = fat.geometry.heap.cluster_len.min(MAX_DIRECTORY_LEN);
            Reader::new(self, 0, true).read(fat, &[(at, len)])?;
        }
        Ok(())
    }
}

/// A slot with its number.
type Slot = (u64, Raw);

/// Takes the slots of one directory apart.
struct Reader<'a> {
    walk: &'a mut Walk<FatFormat>,
    directory: usize,
    /// Nothing in it is in use.
    dead: bool,
    /// Pieces of a long name that are waiting for their short entry.
    pieces: Vec<Slot>,
    /// The same, of a deleted one.
    deleted: Vec<Slot>,
    ended: bool,
    count: u64,
}

impl<'a> Reader<'a> {
    fn new(walk: &'a mut Walk<FatFormat>, directory: usize, dead: bool) -> Self {
        Self {
            walk,
            directory,
            dead,
            pieces: Vec::new(),
            deleted: Vec::new(),
            ended: false,
            count: 0,
        }
    }

    fn read(mut self, fat: &Fat, ranges: &[(u64, u64)]) -> Result<()> {
        each_slot(&fat.device, ranges, |number, raw| {
            self.slot(number, raw);
            true
        })?;
        self.drop_pieces();
        self.drop_deleted();
        Ok(())
    }

    fn slot(&mut self, number: u64, raw: &Raw) {
        let position = self.count;
        self.count = self.count.saturating_add(1);
        let first = byte(raw, 0);
        if first == 0 {
            self.ended = true;
        }
        if self.ended || self.dead {
            self.drop_pieces();
            if first != 0 || !all_zero(raw) {
                self.remains(number, raw);
            } else {
                self.drop_deleted();
            }
            return;
        }
        if first == slot::DELETED {
            self.drop_pieces();
            match all_zero(raw.get(1..).unwrap_or_default()) {
                true => self.drop_deleted(),
                false => self.remains(number, raw),
            }
            return;
        }
        self.drop_deleted();
        if is_long(raw) {
            self.piece(number, raw);
            return;
        }
        let is_dot = position < 2
            && self.directory != 0
            && matches!(&short_bytes(raw), b".          " | b"..         ")
            && byte(raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0;
        if is_dot {
            self.drop_pieces();
            return;
        }
        let pieces = std::mem::take(&mut self.pieces);
        let sum = checksum(&short_bytes(raw));
        let complete = pieces.last().is_some_and(|(_, last)| {
            byte(last, 0) & !long::LAST == 1 && byte(last, long::CHECKSUM) == sum
        });
        let mut slots: Vec<u64> = Vec::new();
        let mut name = None;
        if complete {
            name = Some(name_of(&pieces));
            slots.extend(pieces.iter().map(|(number, _)| *number));
        } else {
            self.bury(pieces, None);
        }
        slots.push(number);
        let entry = Entry {
            long: name.filter(|name| !name.units().is_empty()),
            raw: *raw,
        };
        let slots = slots.into_boxed_slice();
        self.walk.keep(number, self.directory, slots, true, entry);
    }

    /// A piece of a long name that is in use, if it goes on where the one before it ended.
    fn piece(&mut self, number: u64, raw: &Raw) {
        let order = byte(raw, 0);
        let count = order & !long::LAST;
        let fits = match self.pieces.last() {
            _ if order & long::LAST != 0 => {
                self.drop_pieces();
                (1..=long::MAX_PIECES).contains(&count)
            }
            Some((_, before)) => {
                byte(before, 0) & !long::LAST == count.saturating_add(1)
                    && count > 0
                    && byte(before, long::CHECKSUM) == byte(raw, long::CHECKSUM)
            }
            None => false,
        };
        if !fits {
            self.drop_pieces();
            self.bury(vec![(number, *raw)], None);
            return;
        }
        self.pieces.push((number, *raw));
    }

    /// Pieces without a short entry: no name of anything.
    fn drop_pieces(&mut self) {
        let pieces = std::mem::take(&mut self.pieces);
        self.bury(pieces, None);
    }

    /// A slot that is not in use and holds something.
    fn remains(&mut self, number: u64, raw: &Raw) {
        if !is_long(raw) {
            let pieces = std::mem::take(&mut self.deleted);
            self.bury(pieces, Some((number, *raw)));
            return;
        }
        let sum = byte(raw, long::CHECKSUM);
        let other = |(_, before): &Slot| byte(before, long::CHECKSUM) != sum;
        if self.deleted.last().is_some_and(other)
            || self.deleted.len() >= usize::from(long::MAX_PIECES)
        {
            self.drop_deleted();
        }
        self.deleted.push((number, *raw));
    }

    fn drop_deleted(&mut self) {
        let pieces = std::mem::take(&mut self.deleted);
        self.bury(pieces, None);
    }

    fn bury(&mut self, pieces: Vec<Slot>, short: Option<Slot>) {
        if pieces.is_empty() && short.is_none() {
            return;
        }
        let numbers = pieces.iter().chain(&short).map(|(number, _)| *number);
        self.walk.bury(numbers.collect(), || Remains {
            long: name_of(&pieces),
            short: short.map(|(_, raw)| raw),
        });
    }
}

/// The name that pieces make, the last of which stands first.
fn name_of(pieces: &[Slot]) -> Name {
    Name(
        pieces
            .iter()
            .rev()
            .flat_map(|(_, raw)| piece(raw))
            .collect(),
    )
}
