//! One pass over the directory tree: every entry set, every allocation, every slot that is no longer
//! in use; and whether the bitmap agrees.
//!
//! Every cluster is given to one owner, whatever the links say, so a hostile volume costs no more than
//! its own size.

use std::collections::VecDeque;

use sha1::{Digest, Sha1};

use super::{
    Exfat, ExfatFormat,
    entry::{Set, allocation, name_of},
    format::{MAX_DIRECTORY_LEN, bitmap, slot, stream, upcase},
    table::Allocation,
    upcase::Upcase,
};
use crate::{
    bytes::all_zero,
    error::Result,
    text::Name,
    volume::{
        clusters::{
            self, Chain, PIECE, Raw, Run, System, Table, Taken, Walk, byte, dword, each_slot,
            qword, word,
        },
        widths::{narrow, wide},
    },
};

/// Windows opens no path of more than 32,767 characters; nobody nests so deep.
const MAX_DEPTH: u32 = 1024;
/// What an entry set says. A file's id is the number of its file entry, the first of the set.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name, clusters, length.
    pub(super) set: Set,
    /// A digest of all its slots.
    pub(super) digest: [u8; 16],
}

impl clusters::Entry for Entry {
    fn is_directory(&self) -> bool {
        self.set.is_directory()
    }

    fn data_len(&self) -> u64 {
        self.set.data.len
    }

    /// What was never written is zeros (section 7.6.5).
    fn valid(&self) -> u64 {
        self.set.valid
    }

    fn names(&self) -> Vec<Name> {
        vec![self.set.name.clone()]
    }
}

/// What can be read of a deleted entry set.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The name, as far as it is there.
    pub(super) name: Name,
    /// The deleted directory's clusters, if it was one.
    directory: Option<Allocation>,
    /// Behind the end of its directory nothing is marked.
    pub(super) behind_end: bool,
}

/// What the pass saw besides the tree.
#[derive(Debug, Default)]
pub struct Seen {
    /// A digest of the entries that are in use and are no files: label, bitmap, table.
    pub(super) fixed_sum: u128,
    /// Clusters that some file, directory or structure owns.
    pub(super) taken: Taken,
    /// The active allocation bitmap: its clusters and its length.
    pub(super) bitmap: Option<(Chain, u64)>,
    /// Which names are the same.
    pub(super) upcase: Upcase,
    /// Clusters that the bitmap has as taken.
    pub(super) used: u64,
    /// Those of them that nobody owns, bad ones left out.
    pub(super) lost: u64,
}

/// Sixteen bytes of a digest of slots.
fn digest_of(slots: &[(u64, Raw)]) -> [u8; 16] {
    let mut hash = Sha1::new();
    for (number, raw) in slots {
        hash.update(number.to_le_bytes());
        hash.update(raw);
    }
    let digest: [u8; 20] = hash.finalize().into();
    std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0))
}

/// Walks the whole volume.
pub(super) fn take(exfat: &Exfat) -> Result<Walk<ExfatFormat>> {
    let mut walk = Walk::new(Entry {
        set: Set {
            name: Name::default(),
            attributes: slot::DIRECTORY,
            data: Allocation::default(),
            valid: 0,
            extra: Vec::new(),
            problem: None,
        },
        digest: [0; 16],
    });
    let mut table = Table::new(exfat);
    let root = table.root()?;
    walk.find_systems(exfat, &root, &mut table)?;
    let mut queue = VecDeque::from([(0_usize, root)]);
    while let Some((index, chain)) = queue.pop_front() {
        let ranges = walk.enter(exfat, index, &chain);
        let from = walk.nodes.len();
        Reader::new(&mut walk, index, false).read(exfat, &ranges)?;
        for child in from..walk.nodes.len() {
            walk.visit(&mut table, child, &mut queue)?;
        }
    }
    walk.number();
    walk.compare_bitmap(exfat, &mut table)?;
    walk.deleted_directories(exfat)?;
    Ok(walk)
}

impl Walk<ExfatFormat> {
    /// Gives a chain's clusters to somebody; says whether all of them were free, and which were.
    fn own(
        &mut self,
        exfat: &Exfat,
        chain: &Chain,
        index: usize,
        who: &dyn Fn(&Self) -> String,
    ) -> (bool, Chain) {
        let mut own = Chain::default();
        if let Some(problem) = &chain.problem {
            let who = who(self);
            self.problem(|| format!("{who}: {problem}"));
        }
        let mut sound = chain.problem.is_none();
        for run in &chain.runs {
            if let Some(other) = self.seen.taken.take(*run) {
                sound = false;
                let who = who(self);
                let holder = self.holder(&mut Table::new(exfat), other, index);
                let holder = holder.unwrap_or_default();
                self.problem(|| {
                    format!(
                        "{who}{holder}: clusters of its own expected, found cluster {other}, which is in \
                         use already (volume offset {:#x})",
                        exfat.geometry.heap.offset_of(other)
                    )
                });
            } else {
                own.clusters = own.clusters.saturating_add(run.count.into());
                own.runs.push(*run);
            }
        }
        (sound, own)
    }

    /// The bitmap and the table: every name and every free cluster is judged by them.
    fn find_systems(
        &mut self,
        exfat: &Exfat,
        root: &Chain,
        table: &mut Table<'_, ExfatFormat>,
    ) -> Result<()> {
        let (mut bitmaps, mut tables) = (Vec::new(), Vec::new());
        each_slot(
            &exfat.device,
            &limited(root.ranges(&exfat.geometry.heap)),
            |_, raw| {
                match byte(raw, 0) {
                    0 => return false,
                    slot::BITMAP => bitmaps.push(*raw),
                    slot::UPCASE => tables.push(*raw),
                    _ => {}
                }
                bitmaps.len().max(tables.len()) < 3
            },
        )?;
        let fats = exfat.geometry.fats;
        let numbers: Vec<u64> = bitmaps
            .iter()
            .map(|raw| u64::from(byte(raw, bitmap::FLAGS) & 1))
            .collect();
        if numbers.iter().copied().ne(0..fats) {
            self.problem(|| {
                format!(
                    "root directory: allocation bitmaps 0 to {} expected, found {numbers:?}",
                    fats.saturating_sub(1)
                )
            });
        }
        let clusters = exfat.geometry.heap.cluster_count;
        for (raw, number) in bitmaps.iter().zip(&numbers) {
            let of = allocation(raw, 0);
            let chain = table.chain(of)?;
            self.own(exfat, &chain, 0, &|_| "allocation bitmap".to_owned());
            if of.len != clusters.div_ceil(8) {
                self.problem(|| {
                    format!(
                        "allocation bitmap: {} bytes for {clusters} clusters expected, found {}",
                        clusters.div_ceil(8),
                        of.len
                    )
                });
            } else if *number == exfat.geometry.active && chain.problem.is_none() {
                self.seen.bitmap = Some((chain.clone(), of.len));
            }
            self.systems.push(System {
                name: "allocation bitmap",
                chain,
            });
        }
        match tables.as_slice() {
            [raw] => {
                let of = allocation(raw, 0);
                let chain = table.chain(of)?;
                self.own(exfat, &chain, 0, &|_| "up-case table".to_owned());
                match read_upcase(exfat, &chain, of.len, dword(raw, upcase::CHECKSUM))? {
                    Ok(table) => self.seen.upcase = table,
                    Err(what) => self.problem(|| format!("up-case table: {what}")),
                }
                self.systems.push(System {
                    name: "up-case table",
                    chain,
                });
            }
            _ => self.problem(|| {
                format!(
                    "root directory: 1 up-case table expected, found {}",
                    tables.len()
                )
            }),
        }
        Ok(())
    }

    /// Takes a directory's clusters; where its slots lie.
    fn enter(&mut self, exfat: &Exfat, index: usize, chain: &Chain) -> Vec<(u64, u64)> {
        // Somebody else's clusters hold no entries of this directory.
        let (sound, chain) = self.own(exfat, chain, index, &|walk| {
            format!("directory {}", walk.path(index))
        });
        if let Some(node) = self.nodes.get_mut(index) {
            node.sound &= sound;
        }
        let ranges = chain.ranges(&exfat.geometry.heap);
        for (at, len) in &ranges {
            self.directories.insert(*at, (*len, index));
        }
        let kept = limited(ranges);
        let len = chain.room(&exfat.geometry.heap);
        if len > MAX_DIRECTORY_LEN {
            let path = self.path(index);
            self.problem(|| {
                format!("directory {path}: at most {MAX_DIRECTORY_LEN} bytes expected, found {len}")
            });
        }
        kept
    }

    /// Takes a new entry's clusters, or puts a directory into the queue.
    fn visit(
        &mut self,
        table: &mut Table<'_, ExfatFormat>,
        index: usize,
        queue: &mut VecDeque<(usize, Chain)>,
    ) -> Result<()> {
        let exfat = table.volume();
        let Some(node) = self.nodes.get(index) else {
            return Ok(());
        };
        let (id, depth, data) = (node.id, node.depth, node.entry.set.data);
        let is_directory = node.is_directory();
        let extra = node.entry.set.extra.clone();
        if let Some(problem) = node.entry.set.problem.clone() {
            let path = self.path(index);
            let at = id.saturating_mul(wide(slot::LEN));
            self.problem(|| format!("{path}: entry set: {problem} (volume offset {at:#x})"));
        }
        let cluster_len = exfat.geometry.heap.cluster_len;
        if is_directory && data.len.checked_rem(cluster_len) != Some(0) {
            let path = self.path(index);
            self.problem(|| {
                format!(
                    "directory {path}: whole clusters of {cluster_len} bytes expected, found {}",
                    data.len
                )
            });
        }
        let mut sound = true;
        for more in extra {
            let chain = table.chain(more)?;
            sound &= self
                .own(exfat, &chain, index, &|walk| walk.path(index).to_string())
                .0;
        }
        let chain = table.chain(data)?;
        if is_directory && depth >= MAX_DEPTH {
            let at = id.saturating_mul(wide(slot::LEN));
            self.problem(|| {
                format!(
                    "directory: at most {MAX_DEPTH} levels expected, found more (volume offset \
                     {at:#x})"
                )
            });
        } else if is_directory {
            queue.push_back((index, chain));
        } else {
            sound &= self
                .own(exfat, &chain, index, &|walk| walk.path(index).to_string())
                .0;
        }
        if let Some(node) = self.nodes.get_mut(index) {
            node.sound &= sound;
        }
        Ok(())
    }

    /// What is owned has to be taken in the bitmap; what is taken and not owned is counted.
    fn compare_bitmap(&mut self, exfat: &Exfat, table: &mut Table<'_, ExfatFormat>) -> Result<()> {
        let Some((chain, len)) = self.seen.bitmap.clone() else {
            return Ok(());
        };
        let heap = &exfat.geometry.heap;
        let owned: Vec<(u32, u32)> = self.seen.taken.runs().collect();
        let mut runs = owned.iter().copied().peekable();
        let (mut used, mut lost, mut free_and_owned) = (0_u64, 0_u64, None);
        let mut buffer = Vec::new();
        let mut done = 0_u64;
        while done < len {
            let take = len.saturating_sub(done).min(PIECE);
            buffer.resize(narrow(take, "allocation bitmap")?, 0);
            exfat.read_chain(&chain, done, &mut buffer)?;
            for (i, bits) in buffer.iter().enumerate() {
                let first = done.saturating_add(wide(i)).saturating_mul(8);
                if *bits == 0
                    && runs
                        .peek()
                        .is_none_or(|(start, _)| u64::from(*start) >= first.saturating_add(10))
                {
                    continue;
                }
                for bit in 0..8_u8 {
                    let index = first.saturating_add(bit.into());
                    let Ok(cluster) = u32::try_from(index.saturating_add(2)) else {
                        continue;
                    };
                    if !heap.has(cluster) {
                        continue;
                    }
                    while runs.next_if(|(_, end)| *end <= cluster).is_some() {}
                    let is_owned = runs.peek().is_some_and(|(start, _)| *start <= cluster);
                    let is_used = bits & 1_u8.wrapping_shl(bit.into()) != 0;
                    used = used.saturating_add(is_used.into());
                    if is_owned && !is_used {
                        free_and_owned.get_or_insert(cluster);
                    }
                    if is_used && !is_owned && table.value(cluster)? != super::format::fat::BAD {
                        lost = lost.saturating_add(1);
                    }
                }
            }
            done = done.saturating_add(take);
        }
        self.seen.used = used;
        self.seen.lost = lost;
        if let Some(cluster) = free_and_owned {
            self.problem(|| {
                format!(
                    "allocation bitmap: cluster {cluster} taken expected, found it free (volume \
                     offset {:#x})",
                    heap.offset_of(cluster)
                )
            });
        }
        Ok(())
    }

    /// Whether nobody owns a cluster and the bitmap has it as free.
    pub(super) fn is_free(&self, exfat: &Exfat, cluster: u32) -> Result<bool> {
        let Some((chain, _)) = &self.seen.bitmap else {
            return Ok(false);
        };
        if self.seen.taken.has(cluster) {
            return Ok(false);
        }
        let index = u64::from(cluster).saturating_sub(2);
        let mut bits = [0];
        exfat.read_chain(chain, index >> 3, &mut bits)?;
        let mask = 1_u8.wrapping_shl(u32::try_from(index & 7).unwrap_or(0));
        Ok(bits.iter().all(|bits| bits & mask == 0))
    }

    /// Deleted directories whose clusters are free and still begin as one: their slots are stale.
    fn deleted_directories(&mut self, exfat: &Exfat) -> Result<()> {
        let heap = exfat.geometry.heap;
        let mut seen = Taken::default();
        let mut next = 0;
        while let Some(stale) = self.stale.get(next) {
            next = next.saturating_add(1);
            let Some(of) = stale.remains.directory else {
                continue;
            };
            if !heap.has(of.first) {
                continue;
            }
            let most = match of.contiguous {
                true => heap.clusters_for(of.len.min(MAX_DIRECTORY_LEN)),
                false => 1,
            };
            let mut count = 0_u32;
            while u64::from(count) < most {
                let cluster = of.first.saturating_add(count);
                let one = Run {
                    first: cluster,
                    count: 1,
                };
                if !heap.has(cluster) || !self.is_free(exfat, cluster)? || seen.take(one).is_some()
                {
                    break;
                }
                count = count.saturating_add(1);
            }
            let at = heap.offset_of(of.first);
            let mut head = [0; 2 * slot::LEN];
            if count == 0 || exfat.device.read_at(at, &mut head).is_err() {
                continue;
            }
            let (slots, _) = head.as_chunks::<{ slot::LEN }>();
            let mut types = slots.iter().map(|raw| byte(raw, 0) & !slot::IN_USE);
            let begins = types.next() == Some(slot::FILE & !slot::IN_USE)
                && types.next() == Some(slot::STREAM & !slot::IN_USE);
            if begins {
                let len = u64::from(count).saturating_mul(heap.cluster_len);
                Reader::new(self, 0, true).read(exfat, &[(at, len)])?;
            }
        }
        Ok(())
    }
}

/// The up-case table, or what is wrong with it.
fn read_upcase(
    exfat: &Exfat,
    chain: &Chain,
    len: u64,
    checksum: u32,
) -> Result<std::result::Result<Upcase, String>> {
    if len > upcase::MOST || chain.problem.is_some() {
        return Ok(Err(format!(
            "at most {} bytes in clusters expected, found {len} bytes",
            upcase::MOST
        )));
    }
    let mut bytes = vec![0; narrow(len, "up-case table")?];
    exfat.read_chain(chain, 0, &mut bytes)?;
    Ok(Upcase::parse(&bytes, checksum))
}

/// The part of these ranges that a directory may have.
fn limited(ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut rest = MAX_DIRECTORY_LEN;
    let mut kept = Vec::new();
    for (at, len) in ranges {
        let len = len.min(rest);
        rest = rest.saturating_sub(len);
        if len > 0 {
            kept.push((at, len));
        }
    }
    kept
}

/// A slot with its number.
type Slot = (u64, Raw);

/// Takes the slots of one directory apart.
struct Reader<'a> {
    walk: &'a mut Walk<ExfatFormat>,
    directory: usize,
    /// Nothing in it is in use.
    dead: bool,
    /// A set that is not complete, and how many slots it has when it is.
    set: Vec<Slot>,
    want: usize,
    /// Slots of a deleted set.
    deleted: Vec<Slot>,
    ended: bool,
}

impl<'a> Reader<'a> {
    fn new(walk: &'a mut Walk<ExfatFormat>, directory: usize, dead: bool) -> Self {
        Self {
            walk,
            directory,
            dead,
            set: Vec::new(),
            want: 0,
            deleted: Vec::new(),
            ended: false,
        }
    }

    fn read(mut self, exfat: &Exfat, ranges: &[(u64, u64)]) -> Result<()> {
        each_slot(&exfat.device, ranges, |number, raw| {
            self.slot(number, raw);
            true
        })?;
        self.broken_set("the directory's end");
        self.drop_deleted();
        Ok(())
    }

    fn slot(&mut self, number: u64, raw: &Raw) {
        let kind = byte(raw, 0);
        if kind == 0 && !self.dead && !self.ended {
            self.broken_set("the directory's end");
            self.drop_deleted();
            self.ended = true;
        }
        if self.ended && !self.dead && kind & slot::IN_USE != 0 {
            self.wrong(number, &format!("found {kind:#04x} behind the end"));
        }
        if self.ended || self.dead {
            match all_zero(raw) {
                true => self.drop_deleted(),
                false => self.remains(number, raw),
            }
            return;
        }
        if kind & slot::IN_USE == 0 {
            self.broken_set("an entry that is not in use");
            match all_zero(raw.get(1..).unwrap_or_default()) {
                true => self.drop_deleted(),
                false => self.remains(number, raw),
            }
            return;
        }
        self.drop_deleted();
        if kind & slot::SECONDARY != 0 {
            if self.set.is_empty() {
                self.wrong(number, &format!("found a secondary one ({kind:#04x})"));
                return;
            }
            self.set.push((number, *raw));
            self.finish();
            return;
        }
        self.broken_set("another primary entry");
        let secondaries = usize::from(byte(raw, slot::SECONDARIES));
        self.want = match kind {
            slot::FILE => secondaries.saturating_add(1),
            slot::PADDING => 1,
            _ if kind & slot::BENIGN != 0 => secondaries.saturating_add(1),
            slot::BITMAP | slot::UPCASE | slot::LABEL if self.directory == 0 => 1,
            _ => {
                self.wrong(number, &format!("found {kind:#04x}"));
                return;
            }
        };
        self.set.push((number, *raw));
        self.finish();
    }

    fn wrong(&mut self, number: u64, found: &str) {
        let at = number.saturating_mul(wide(slot::LEN));
        let path = self.walk.path(self.directory);
        self.walk.problem(|| {
            format!(
                "directory {path}: a primary entry that exFAT 1.0 has expected, {found} (volume \
                 offset {at:#x})"
            )
        });
    }

    /// A set whose entries are not all there.
    fn broken_set(&mut self, found: &str) {
        let set = std::mem::take(&mut self.set);
        let Some((number, raw)) = set.first() else {
            return;
        };
        let at = number.saturating_mul(wide(slot::LEN));
        let path = self.walk.path(self.directory);
        let want = self.want.saturating_sub(1);
        self.walk.problem(|| {
            format!(
                "directory {path}: {want} secondary entries expected, found {found} (volume offset \
                 {at:#x})"
            )
        });
        // What is there of a file is shown, and never written.
        if byte(raw, 0) == slot::FILE {
            let raws: Vec<Raw> = set.iter().map(|(_, raw)| *raw).collect();
            match Set::parse(&raws, &self.walk.seen.upcase) {
                Ok(found) => self.keep(&set, found, false),
                Err(what) => self.keep_broken(&raws, &what),
            }
        }
    }

    /// A set that is no file: whatever name its entries still have.
    fn keep_broken(&mut self, raws: &[Raw], what: &str) {
        let head = raws.iter().find(|raw| byte(raw, 0) == slot::STREAM);
        let len = head.map(|raw| usize::from(byte(raw, stream::NAME_LENGTH)));
        let names = raws.iter().filter(|raw| byte(raw, 0) == slot::NAME);
        let name = name_of(len, names);
        self.walk
            .keep_broken(name, self.directory, format!("entry set: {what}"));
    }

    /// Takes the set if it is complete.
    fn finish(&mut self) {
        if self.set.len() != self.want {
            return;
        }
        let set = std::mem::take(&mut self.set);
        let Some((number, first)) = set.first() else {
            return;
        };
        let raws: Vec<Raw> = set.iter().map(|(_, raw)| *raw).collect();
        if byte(first, 0) == slot::FILE {
            match Set::parse(&raws, &self.walk.seen.upcase) {
                Ok(found) => {
                    let sound = found.problem.is_none();
                    self.keep(&set, found, sound);
                }
                Err(what) => {
                    self.keep_broken(&raws, &what);
                    let at = number.saturating_mul(wide(slot::LEN));
                    let path = self.walk.path(self.directory);
                    self.walk.problem(|| {
                        format!("directory {path}: entry set: {what} (volume offset {at:#x})")
                    });
                }
            }
            return;
        }
        let sum = u128::from_le_bytes(digest_of(&set));
        let fixed = &mut self.walk.seen.fixed_sum;
        *fixed = fixed.wrapping_add(sum);
        if byte(first, 0) & slot::BENIGN == 0 {
            return;
        }
        // Entries that may be ignored can have clusters, which are not free.
        let flags = |raw: &Raw| match byte(raw, 0) & slot::SECONDARY {
            0 => word(raw, slot::PRIMARY_FLAGS).to_le_bytes()[0],
            _ => byte(raw, slot::SECONDARY_FLAGS),
        };
        let has_clusters =
            |raw: &&Raw| byte(raw, 0) != slot::PADDING && flags(raw) & slot::ALLOCATION != 0;
        if let Some(raw) = raws.iter().find(has_clusters) {
            let kind = byte(raw, 0);
            self.wrong(*number, &format!("found one with clusters ({kind:#04x})"));
        }
    }

    fn keep(&mut self, slots: &[Slot], set: Set, sound: bool) {
        let id = slots.first().map_or(0, |(number, _)| *number);
        let entry = Entry {
            set,
            digest: digest_of(slots),
        };
        let numbers = slots.iter().map(|(number, _)| *number).collect();
        self.walk.keep(id, self.directory, numbers, sound, entry);
    }

    /// A slot that is not in use and holds something.
    fn remains(&mut self, number: u64, raw: &Raw) {
        if byte(raw, 0) & slot::SECONDARY == 0 || self.deleted.len() >= 256 {
            self.drop_deleted();
        }
        self.deleted.push((number, *raw));
    }

    fn drop_deleted(&mut self) {
        let slots = std::mem::take(&mut self.deleted);
        if slots.is_empty() {
            return;
        }
        let kind = |raw: &Raw| byte(raw, 0) | slot::IN_USE;
        let find = |wanted: u8| {
            slots
                .iter()
                .map(|(_, raw)| raw)
                .find(|raw| kind(raw) == wanted)
        };
        let names = slots.iter().map(|(_, raw)| raw);
        let head = find(slot::STREAM);
        let len = head.map(|raw| usize::from(byte(raw, stream::NAME_LENGTH)));
        let is_directory =
            find(slot::FILE).is_some_and(|raw| word(raw, slot::ATTRIBUTES) & slot::DIRECTORY != 0);
        let directory = head.filter(|raw| is_directory && qword(raw, slot::DATA_LENGTH) > 0);
        let numbers = slots.iter().map(|(number, _)| *number).collect();
        let behind_end = self.ended;
        self.walk.bury(numbers, || Remains {
            name: name_of(
                len.filter(|len| *len > 0),
                names.filter(|raw| kind(raw) == slot::NAME),
            ),
            directory: directory.map(|raw| allocation(raw, byte(raw, slot::SECONDARY_FLAGS))),
            behind_end,
        });
    }
}
