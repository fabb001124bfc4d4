//! One pass over the directory tree: every entry, every chain, every slot that is no longer in use.
//!
//! Every cluster is followed once, whatever the links say, so a hostile volume costs no more than its
//! own size.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    Fat,
    boot::Root,
    format::{MAX_DIRECTORY_LEN, long, slot},
    name::{Raw, byte, checksum, is_long, piece, short_bytes, short_name, word},
    table::{Bits, Link, Table},
};
use crate::{
    bytes::all_zero,
    error::{At, Error, Result},
    text::{Name, WinPath},
    volume::widths::{narrow, wide},
};

/// Windows opens no path of more than 260 characters on FAT.
const MAX_DEPTH: u32 = 256;
/// Entries and remains of entries that are kept in memory.
const MAX_ENTRIES: usize = 4_000_000;
/// Most problems that are listed one by one.
const MAX_PROBLEMS: usize = 100;
/// Bytes of a directory that are read at a time.
const PIECE: u64 = 1 << 16;

/// A file or directory. Its id is the number of its short entry's slot: the volume offset over 32.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The id; 0 is the root.
    pub(super) id: u64,
    /// Index of its directory.
    pub(super) parent: usize,
    /// How many directories are above.
    pub(super) depth: u32,
    /// The long name, if it has one.
    pub(super) long: Option<Name>,
    /// The slot of the short entry.
    pub(super) raw: Raw,
    /// All its slots in order, the short entry last.
    pub(super) slots: Box<[u64]>,
    /// Its chain, if it could be followed to its end.
    pub(super) sound: bool,
}

impl Node {
    /// Whether it is a directory.
    #[must_use]
    pub(super) fn is_directory(&self) -> bool {
        self.id == 0 || byte(&self.raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0
    }

    /// Whether it is the label of the volume, which is no file.
    #[must_use]
    pub(super) fn is_label(&self) -> bool {
        self.id != 0 && byte(&self.raw, slot::ATTRIBUTES) & slot::LABEL != 0
    }

    /// Length in bytes.
    #[must_use]
    pub(super) fn len(&self) -> u64 {
        match self.is_directory() {
            true => 0,
            false => len_of(&self.raw).into(),
        }
    }

    /// The name to show.
    #[must_use]
    pub(super) fn name(&self) -> Name {
        self.long.clone().unwrap_or_else(|| short_name(&self.raw))
    }

    /// Every name.
    #[must_use]
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.long.clone().into_iter().collect();
        names.push(short_name(&self.raw));
        names
    }
}

/// Slots that nothing uses any more, and what can be read of them.
#[derive(Clone, Debug)]
pub(super) struct Stale {
    /// The slots in order.
    pub(super) slots: Box<[u64]>,
    /// The long name, if there is a piece of it.
    pub(super) long: Name,
    /// The short entry, if it is there; its first byte is lost.
    pub(super) short: Option<Raw>,
}

/// What the pass saw.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The root, then everything below.
    pub(super) nodes: Vec<Node>,
    /// Which node has an id.
    index: HashMap<u64, usize>,
    /// What is left of deleted entries.
    pub(super) stale: Vec<Stale>,
    /// Structure that is broken, one line each.
    pub(super) problems: Vec<String>,
    /// How many problems there were.
    pub(super) problem_count: u64,
    /// The clusters of directories: first byte of a range, its length, and whose it is.
    pub(super) directories: BTreeMap<u64, (u64, usize)>,
    /// Clusters that some file or directory owns.
    pub(super) owned: u64,
}

/// The first cluster that an entry names.
#[must_use]
pub(super) fn first_cluster(fat: &Fat, raw: &Raw) -> u32 {
    let low = u32::from(word(raw, slot::CLUSTER_LOW));
    match fat.geometry.width {
        super::boot::Width::Bits32 => {
            low | u32::from(word(raw, slot::CLUSTER_HIGH)).wrapping_shl(16)
        }
        _ => low,
    }
}

/// The length that an entry names.
#[must_use]
pub(super) fn len_of(raw: &Raw) -> u32 {
    let low = u32::from(word(raw, slot::FILE_LEN));
    let high = u32::from(word(raw, slot::FILE_LEN.saturating_add(2)));
    low | high.wrapping_shl(16)
}

impl Walk {
    pub(super) fn problem(&mut self, line: impl FnOnce() -> String) {
        self.problem_count = self.problem_count.saturating_add(1);
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(line());
        }
    }

    /// Walks the whole volume.
    pub(super) fn take(fat: &Fat) -> Result<Self> {
        let mut walk = Walk::default();
        let mut seen = Bits::new(&fat.geometry)?;
        let mut table = Table::new(fat);
        walk.nodes.push(Node {
            id: 0,
            parent: 0,
            depth: 0,
            long: None,
            raw: [0; slot::LEN],
            slots: Box::default(),
            sound: true,
        });
        let mut queue = VecDeque::from([0_usize]);
        while let Some(index) = queue.pop_front() {
            let ranges = walk.directory_ranges(fat, index, &mut table, &mut seen)?;
            let from = walk.nodes.len();
            let mut reader = Reader::new(&mut walk, index, false);
            reader.read(fat, &ranges)?;
            for child in from..walk.nodes.len() {
                walk.visit(fat, child, &mut table, &mut seen, &mut queue)?;
            }
        }
        walk.owned = seen.count();
        let ids = walk.nodes.iter().enumerate();
        walk.index = ids.map(|(index, node)| (node.id, index)).collect();
        walk.deleted_directories(fat, &mut table, &mut seen)?;
        Ok(walk)
    }

    /// Where a directory's slots lie.
    fn directory_ranges(
        &mut self,
        fat: &Fat,
        index: usize,
        table: &mut Table<'_>,
        seen: &mut Bits,
    ) -> Result<Vec<(u64, u64)>> {
        let first = match (index, fat.geometry.root) {
            (0, Root::Fixed(at, len)) => {
                self.directories.insert(at, (len, 0));
                return Ok(vec![(at, len)]);
            }
            (0, Root::Chain(first)) => first,
            _ => match self.nodes.get(index) {
                Some(node) => first_cluster(fat, &node.raw),
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
        for (at, len) in chain.ranges(&fat.geometry) {
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
        table: &mut Table<'_>,
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
        let (first, len) = (first_cluster(fat, &node.raw), node.len());
        let found = if first == 0 {
            (len > 0).then(|| format!("file: a cluster for {len} bytes expected, found none"))
        } else {
            let chain = table.chain(first, seen)?;
            let room = chain.clusters.saturating_mul(fat.geometry.cluster_len);
            chain.problem.or_else(|| {
                (room < len).then(|| {
                    format!("chain: clusters for {len} bytes expected, found {room} bytes")
                })
            })
        };
        if let Some(found) = found {
            let path = self.path(index);
            if let Some(node) = self.nodes.get_mut(index) {
                node.sound = false;
            }
            self.problem(|| format!("{path}: {found}"));
        }
        Ok(())
    }

    /// Deleted directories whose first cluster is free and still one: its slots are stale.
    fn deleted_directories(
        &mut self,
        fat: &Fat,
        table: &mut Table<'_>,
        seen: &mut Bits,
    ) -> Result<()> {
        let mut next = 0;
        while let Some(stale) = self.stale.get(next) {
            next = next.saturating_add(1);
            let Some(raw) = stale.short else { continue };
            let first = first_cluster(fat, &raw);
            let is_directory = byte(&raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0;
            if !is_directory || !fat.geometry.has(first) || table.link(first)? != Link::Free {
                continue;
            }
            let at = fat.geometry.offset_of(first);
            let mut head = [0; slot::LEN];
            if fat.device.read_at(at, &mut head).is_err()
                || !head.starts_with(b".          ")
                || seen.set(first)
            {
                continue;
            }
            let len = fat.geometry.cluster_len.min(MAX_DIRECTORY_LEN);
            Reader::new(self, 0, true).read(fat, &[(at, len)])?;
        }
        Ok(())
    }

    /// The path of a node.
    #[must_use]
    pub(super) fn path(&self, index: usize) -> WinPath {
        let mut names = Vec::new();
        let mut at = index;
        while let Some(node) = self.nodes.get(at).filter(|node| node.id != 0) {
            names.push(node.name());
            at = node.parent;
        }
        names.reverse();
        WinPath(names)
    }

    /// Which node has this id.
    #[must_use]
    pub(super) fn find(&self, id: u64) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// The directory that a byte of the volume is in.
    #[must_use]
    pub(super) fn directory_at(&self, offset: u64) -> Option<usize> {
        let (start, (len, index)) = self.directories.range(..=offset).next_back()?;
        (offset.saturating_sub(*start) < *len).then_some(*index)
    }
}

/// A slot with its number.
type Slot = (u64, Raw);

/// Takes the slots of one directory apart.
struct Reader<'a> {
    walk: &'a mut Walk,
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
    fn new(walk: &'a mut Walk, directory: usize, dead: bool) -> Self {
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

    fn read(&mut self, fat: &Fat, ranges: &[(u64, u64)]) -> Result<()> {
        let mut buffer = Vec::new();
        for (at, len) in ranges {
            let mut done = 0;
            while done < *len {
                let take = len.saturating_sub(done).min(PIECE);
                buffer.resize(narrow(take, "directory")?, 0);
                let place = at.saturating_add(done);
                fat.device
                    .read_at(place, &mut buffer)
                    .at("volume offset", format!("{place:#x}"))?;
                let (slots, _) = buffer.as_chunks::<{ slot::LEN }>();
                for (i, raw) in slots.iter().enumerate() {
                    self.slot((place >> 5).saturating_add(wide(i)), raw);
                }
                done = done.saturating_add(take);
            }
        }
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
        let depth = self
            .walk
            .nodes
            .get(self.directory)
            .map_or(0, |node| node.depth);
        if self.walk.nodes.len() >= MAX_ENTRIES {
            self.walk
                .problem(|| format!("volume: at most {MAX_ENTRIES} entries expected, found more"));
            return;
        }
        self.walk.nodes.push(Node {
            id: number,
            parent: self.directory,
            depth: depth.saturating_add(1),
            long: name.filter(|name| !name.units().is_empty()),
            raw: *raw,
            slots: slots.into_boxed_slice(),
            sound: true,
        });
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
        if self.walk.stale.len() >= MAX_ENTRIES {
            self.walk.problem(|| {
                format!("volume: at most {MAX_ENTRIES} deleted entries expected, found more")
            });
            return;
        }
        let mut slots: Vec<u64> = pieces.iter().map(|(number, _)| *number).collect();
        slots.extend(short.iter().map(|(number, _)| *number));
        self.walk.stale.push(Stale {
            slots: slots.into_boxed_slice(),
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
