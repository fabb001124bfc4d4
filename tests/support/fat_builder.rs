//! Builds FAT12, FAT16 and FAT32 volumes, and says where everything was put.
//!
//! Sources: Microsoft's FAT specification 1.03, ECMA-107. Nothing of declone's own reader is used.

use std::collections::BTreeMap;

use super::put;

/// FAT12, FAT16 or FAT32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Bytes of a slot, and of a cluster in sectors of 512.
const SLOT: usize = 32;

#[derive(Clone, Debug)]
struct File {
    path: Vec<String>,
    bytes: Vec<u8>,
    fragmented: bool,
    deleted: bool,
}

/// A volume being described.
#[derive(Clone, Debug)]
pub struct FatBuilder {
    width: Width,
    len: usize,
    cluster: usize,
    files: Vec<File>,
    plants: Vec<Vec<u8>>,
    tails: BTreeMap<String, Vec<u8>>,
}

/// Where a file or directory was put: slots and clusters by byte ranges in the volume.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    pub slots: Vec<usize>,
    pub clusters: Vec<u32>,
    pub len: usize,
}

/// A volume as built.
#[derive(Clone, Debug)]
pub struct BuiltFat {
    pub bytes: Vec<u8>,
    pub width: Width,
    pub cluster: usize,
    pub fat_at: usize,
    pub fat_len: usize,
    pub root_at: usize,
    pub data_at: usize,
    pub files: BTreeMap<String, Placed>,
    pub plants: Vec<u32>,
    pub fsinfo: Option<usize>,
}

impl BuiltFat {
    /// Where a cluster starts.
    pub fn at(&self, cluster: u32) -> usize {
        self.data_at + (cluster as usize - 2) * self.cluster
    }

    /// The bytes of a file in a volume of this shape.
    pub fn read(&self, volume: &[u8], path: &str) -> Vec<u8> {
        let placed = &self.files[path];
        let mut bytes = Vec::new();
        for cluster in &placed.clusters {
            bytes.extend_from_slice(&volume[self.at(*cluster)..][..self.cluster]);
        }
        bytes.truncate(placed.len);
        bytes
    }

    /// Sets an entry in every copy of the FAT.
    pub fn set_link(&self, volume: &mut [u8], cluster: u32, value: u32) {
        for copy in 0..2 {
            set_link(
                &mut volume[self.fat_at + copy * self.fat_len..][..self.fat_len],
                self.width,
                cluster,
                value,
            );
        }
    }
}

fn set_link(fat: &mut [u8], width: Width, cluster: u32, value: u32) {
    let c = cluster as usize;
    match width {
        Width::Fat12 => {
            let at = c + c / 2;
            let old = put::get16(fat, at);
            let value = value as u16;
            let new = if c % 2 == 1 {
                old & 0x000F | value << 4
            } else {
                old & 0xF000 | value & 0x0FFF
            };
            put::u16(fat, at, new);
        }
        Width::Fat16 => put::u16(fat, c * 2, value as u16),
        Width::Fat32 => put::u32(fat, c * 4, value),
    }
}

/// The specification's checksum of a short name.
fn checksum(short: &[u8; 11]) -> u8 {
    let mut sum = 0_u8;
    for byte in short {
        sum = (if sum & 1 == 1 { 0x80 } else { 0_u8 })
            .wrapping_add(sum >> 1)
            .wrapping_add(*byte);
    }
    sum
}

fn pad(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base.as_bytes());
    short[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    short
}

/// The short name, and whether a long one is needed.
fn short_of(name: &str, taken: &[[u8; 11]]) -> ([u8; 11], bool) {
    let upper = name.to_uppercase();
    let (base, extension) = upper.rsplit_once('.').unwrap_or((&upper, ""));
    let plain = |s: &str| {
        s.chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-$~".contains(c))
    };
    if base.len() <= 8 && extension.len() <= 3 && plain(base) && plain(extension) {
        let short = pad(base, extension);
        if !taken.contains(&short) {
            return (short, name != upper);
        }
    }
    let clean = |s: &str, n: usize| -> String {
        let kept = s.chars().filter(char::is_ascii_alphanumeric);
        kept.take(n).collect()
    };
    let mut n = 0;
    loop {
        n += 1;
        let tail = format!("~{n}");
        let short = pad(
            &format!("{}{tail}", clean(base, 8 - tail.len())),
            &clean(extension, 3),
        );
        if !taken.contains(&short) {
            return (short, true);
        }
    }
}

/// All slots of an entry, the short one last.
fn slots_of(
    name: &str,
    short: [u8; 11],
    long: bool,
    attributes: u8,
    first: u32,
    len: usize,
) -> Vec<u8> {
    let mut out = Vec::new();
    if long {
        let mut units: Vec<u16> = name.encode_utf16().collect();
        let pieces = units.len().div_ceil(13);
        if !units.len().is_multiple_of(13) {
            units.push(0);
        }
        units.resize(pieces * 13, 0xFFFF);
        for i in (0..pieces).rev() {
            let mut slot = [0; SLOT];
            let last = if i + 1 == pieces { 0x40 } else { 0 };
            slot[0] = (i as u8 + 1) | last;
            slot[11] = 0x0F;
            slot[13] = checksum(&short);
            let places = (1..11)
                .step_by(2)
                .chain((14..26).step_by(2))
                .chain([28, 30]);
            for (unit, at) in units[i * 13..].iter().zip(places) {
                put::u16(&mut slot, at, *unit);
            }
            out.extend(slot);
        }
    }
    let mut slot = [0; SLOT];
    slot[..11].copy_from_slice(&short);
    slot[11] = attributes;
    put::u16(&mut slot, 14, 0x6000);
    put::u16(&mut slot, 16, 0x2A21);
    put::u16(&mut slot, 18, 0x2A21);
    put::u16(&mut slot, 20, (first >> 16) as u16);
    put::u16(&mut slot, 22, 0x6000);
    put::u16(&mut slot, 24, 0x2A21);
    put::u16(&mut slot, 26, first as u16);
    put::u32(&mut slot, 28, len as u32);
    out.extend(slot);
    out
}

impl FatBuilder {
    /// An empty volume of `len` bytes in clusters of `cluster` bytes.
    pub fn new(width: Width, len: usize, cluster: usize) -> Self {
        Self {
            width,
            len,
            cluster,
            files: Vec::new(),
            plants: Vec::new(),
            tails: BTreeMap::new(),
        }
    }

    /// A file; its directories come with it.
    pub fn file(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.files.push(File {
            path: path
                .trim_start_matches('\\')
                .split('\\')
                .map(str::to_owned)
                .collect(),
            bytes: bytes.as_ref().to_vec(),
            fragmented: false,
            deleted: false,
        });
        self
    }

    /// The last file lies in single clusters with gaps.
    pub fn fragmented(&mut self) -> &mut Self {
        self.files.last_mut().unwrap().fragmented = true;
        self
    }

    /// The last file was deleted as Windows deletes: marked, its chain freed, the bytes left.
    pub fn deleted(&mut self) -> &mut Self {
        self.files.last_mut().unwrap().deleted = true;
        self
    }

    /// Bytes behind the end of the last file.
    pub fn tail(&mut self, bytes: &[u8]) -> &mut Self {
        let path = format!("\\{}", self.files.last().unwrap().path.join("\\"));
        self.tails.insert(path, bytes.to_vec());
        self
    }

    /// Bytes in a cluster that is free.
    pub fn plant(&mut self, bytes: &[u8]) -> &mut Self {
        self.plants.push(bytes.to_vec());
        self
    }

    /// A cluster of a directory that is gone: deleted slots of this name.
    pub fn plant_slots(&mut self, name: &str) -> &mut Self {
        let (short, long) = short_of(name, &[]);
        let mut slots = slots_of(name, short, long, 0x20, 0, 0);
        slots.chunks_mut(SLOT).for_each(|slot| slot[0] = 0xE5);
        self.plant(&[&[0xE5; SLOT], slots.as_slice()].concat())
    }

    /// Builds it.
    pub fn build(&self) -> BuiltFat {
        let sectors = self.len / 512;
        let reserved = if self.width == Width::Fat32 { 32 } else { 1 };
        let root_entries = if self.width == Width::Fat32 { 0 } else { 512 };
        let bits = match self.width {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        };
        let most = self.len / self.cluster;
        let fat_sectors = ((most + 2) * bits).div_ceil(8 * 512);
        let root_at = (reserved + 2 * fat_sectors) * 512;
        let data_at = root_at + root_entries * SLOT;
        let count = (sectors * 512 - data_at) / self.cluster;
        match self.width {
            Width::Fat12 => assert!(count < 4085, "{count}"),
            Width::Fat16 => assert!((4085..65_525).contains(&count), "{count}"),
            Width::Fat32 => {}
        }
        let mut built = BuiltFat {
            bytes: vec![0; self.len],
            width: self.width,
            cluster: self.cluster,
            fat_at: reserved * 512,
            fat_len: fat_sectors * 512,
            root_at,
            data_at,
            files: BTreeMap::new(),
            plants: Vec::new(),
            fsinfo: (self.width == Width::Fat32).then_some(512),
        };
        let end = match self.width {
            Width::Fat12 => 0xFFF,
            Width::Fat16 => 0xFFFF,
            Width::Fat32 => 0x0FFF_FFFF,
        };
        let media = end & !0xFF | 0xF8;
        built.set_link_new(0, media);
        built.set_link_new(1, end);
        let mut next = 2_u32;
        let root = if self.width == Width::Fat32 {
            next += 1;
            built.set_link_new(2, end);
            vec![2]
        } else {
            Vec::new()
        };
        self.directory(&mut built, &[], root, &mut next, end);
        for plant in &self.plants {
            let at = built.at(next);
            built.bytes[at..at + plant.len()].copy_from_slice(plant);
            built.plants.push(next);
            next += 2;
        }
        let count = count as u32;
        assert!(next < count, "the volume is full");
        self.boot(&mut built, reserved, root_entries, fat_sectors, count, next);
        built
    }

    fn boot(
        &self,
        built: &mut BuiltFat,
        reserved: usize,
        root_entries: usize,
        fat_sectors: usize,
        count: u32,
        next: u32,
    ) {
        let is_32 = self.width == Width::Fat32;
        let free = (2..count + 2)
            .filter(|c| built.links().get(c).is_none_or(|link| *link == 0))
            .count() as u32;
        let sectors = self.len / 512;
        let b = &mut built.bytes;
        put::bytes(b, 0, b"\xEB\x58\x90MSWIN4.0");
        put::u16(b, 11, 512);
        b[13] = (self.cluster / 512) as u8;
        put::u16(b, 14, reserved as u16);
        b[16] = 2;
        put::u16(b, 17, root_entries as u16);
        if sectors < 65_536 && !is_32 {
            put::u16(b, 19, sectors as u16);
        } else {
            put::u32(b, 32, sectors as u32);
        }
        b[21] = 0xF8;
        put::u16(b, 24, 63);
        put::u16(b, 26, 255);
        let extended = if is_32 {
            put::u32(b, 36, fat_sectors as u32);
            put::u32(b, 44, 2);
            put::u16(b, 48, 1);
            put::u16(b, 50, 6);
            put::u32(b, 512, 0x4161_5252);
            put::u32(b, 512 + 484, 0x6141_7272);
            put::u32(b, 512 + 488, free);
            put::u32(b, 512 + 492, next);
            put::u32(b, 512 + 508, 0xAA55_0000);
            64
        } else {
            put::u16(b, 22, fat_sectors as u16);
            36
        };
        b[extended] = 0x80;
        b[extended + 2] = 0x29;
        put::u32(b, extended + 3, 0x1234_ABCD);
        let kind: &[u8] = match self.width {
            Width::Fat12 => b"NO NAME    FAT12   ",
            Width::Fat16 => b"NO NAME    FAT16   ",
            Width::Fat32 => b"NO NAME    FAT32   ",
        };
        put::bytes(b, extended + 7, kind);
        put::u16(b, 510, 0xAA55);
        if is_32 {
            let (front, back) = b.split_at_mut(6 * 512);
            back[..1024].copy_from_slice(&front[..1024]);
        }
    }

    /// Puts a directory's children into clusters, then its slots into its own.
    fn directory(
        &self,
        built: &mut BuiltFat,
        above: &[String],
        mut own: Vec<u32>,
        next: &mut u32,
        end: u32,
    ) {
        let depth = above.len();
        let mut names: Vec<&String> = Vec::new();
        for file in &self.files {
            if file.path.len() > depth && file.path[..depth] == *above {
                let name = &file.path[depth];
                if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    names.push(name);
                }
            }
        }
        let mut taken = Vec::new();
        let mut slots = Vec::new();
        let mut placed_at = Vec::new();
        let first_own = own.first().copied().unwrap_or(0);
        if depth > 0 {
            let dot = |name: &[u8; 11], first| slots_of("", *name, false, 0x10, first, 0);
            slots.extend(dot(b".          ", first_own));
            // The root is 0, whatever its cluster.
            let parent = if depth == 1 {
                0
            } else {
                self.parent(built, above)
            };
            slots.extend(dot(b"..         ", parent));
        }
        for name in names {
            let mut path = above.to_vec();
            path.push(name.clone());
            let shown = format!("\\{}", path.join("\\"));
            let (short, long) = short_of(name, &taken);
            taken.push(short);
            let file = self.files.iter().find(|file| file.path == path);
            let mut placed = Placed::default();
            let (attributes, len) = match file {
                Some(file) => {
                    let need = file.bytes.len().div_ceil(self.cluster);
                    let step = if file.fragmented { 2 } else { 1 };
                    placed.clusters = (0..need as u32).map(|i| *next + i * step).collect();
                    *next += need as u32 * step;
                    placed.len = file.bytes.len();
                    let mut bytes = file.bytes.clone();
                    bytes.extend(self.tails.get(&shown).into_iter().flatten());
                    for (cluster, piece) in placed.clusters.iter().zip(bytes.chunks(self.cluster)) {
                        let at = built.at(*cluster);
                        built.bytes[at..at + piece.len()].copy_from_slice(piece);
                    }
                    (0x20, file.bytes.len())
                }
                None => {
                    placed.clusters = vec![*next];
                    *next += 1;
                    (0x10, 0)
                }
            };
            let deleted = file.is_some_and(|file| file.deleted);
            if !deleted {
                built.chain(&placed.clusters, end);
            }
            let first = placed.clusters.first().copied().unwrap_or(0);
            let mut entry = slots_of(name, short, long, attributes, first, len);
            if deleted {
                for slot in entry.chunks_mut(SLOT) {
                    slot[0] = 0xE5;
                }
            }
            placed_at.push((shown.clone(), slots.len(), entry.len()));
            slots.extend(entry);
            built.files.insert(shown, placed.clone());
            if file.is_none() {
                self.directory(built, &path, placed.clusters, next, end);
            }
        }
        // More clusters where one does not do.
        if !own.is_empty() {
            while own.len() * self.cluster < slots.len() {
                own.push(*next);
                *next += 1;
            }
            built.chain(&own, end);
        }
        let place = |built: &BuiltFat, at: usize| match own.is_empty() {
            true => built.root_at + at,
            false => built.at(own[at / self.cluster]) + at % self.cluster,
        };
        for (i, slot) in slots.chunks(SLOT).enumerate() {
            let at = place(built, i * SLOT);
            built.bytes[at..at + SLOT].copy_from_slice(slot);
        }
        for (shown, at, len) in placed_at {
            let slots = (at..at + len)
                .step_by(SLOT)
                .map(|at| place(built, at))
                .collect();
            built.files.get_mut(&shown).unwrap().slots = slots;
        }
        if depth > 0 {
            let shown = format!("\\{}", above.join("\\"));
            built.files.get_mut(&shown).unwrap().clusters = own;
        }
    }

    fn parent(&self, built: &BuiltFat, above: &[String]) -> u32 {
        let shown = format!("\\{}", above[..above.len() - 1].join("\\"));
        built.files[&shown].clusters[0]
    }
}

impl BuiltFat {
    fn set_link_new(&mut self, cluster: u32, value: u32) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.set_link(&mut bytes, cluster, value);
        self.bytes = bytes;
    }

    fn chain(&mut self, clusters: &[u32], end: u32) {
        for (i, cluster) in clusters.iter().enumerate() {
            self.set_link_new(*cluster, clusters.get(i + 1).copied().unwrap_or(end));
        }
    }

    /// Every cluster's entry that was set.
    fn links(&self) -> BTreeMap<u32, u32> {
        let mut links = BTreeMap::new();
        for placed in self.files.values() {
            for cluster in &placed.clusters {
                links.insert(*cluster, self.link(*cluster));
            }
        }
        if self.width == Width::Fat32 {
            let mut at = 2;
            while (2..0x0FFF_FFF0).contains(&at) {
                links.insert(at, self.link(at));
                at = self.link(at);
            }
        }
        links
    }

    /// An entry of the first FAT.
    pub fn link(&self, cluster: u32) -> u32 {
        let c = cluster as usize;
        let fat = &self.bytes[self.fat_at..];
        match self.width {
            Width::Fat12 => {
                let raw = u32::from(put::get16(fat, c + c / 2));
                if c % 2 == 1 { raw >> 4 } else { raw & 0xFFF }
            }
            Width::Fat16 => put::get16(fat, c * 2).into(),
            Width::Fat32 => {
                u32::from(put::get16(fat, c * 4)) | u32::from(put::get16(fat, c * 4 + 2)) << 16
            }
        }
    }
}
