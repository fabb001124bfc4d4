//! Builds exFAT volumes, and says where everything was put.
//!
//! Source: Microsoft's exFAT specification, revision 1.00. Nothing of declone's own reader is used.

use std::collections::BTreeMap;

use super::{put, upcase};

/// Bytes of a slot.
const SLOT: usize = 32;
const END: u32 = 0xFFFF_FFFF;

#[derive(Clone, Debug)]
struct File {
    path: Vec<String>,
    units: Option<Vec<u16>>,
    bytes: Vec<u8>,
    tail: Vec<u8>,
    valid: Option<usize>,
    vendor: Option<Vec<u8>>,
    fragmented: bool,
    chained: bool,
    deleted: bool,
}

/// A volume being described.
#[derive(Clone, Debug)]
pub struct ExfatBuilder {
    len: usize,
    sector: usize,
    cluster: usize,
    fats: usize,
    files: Vec<File>,
    plants: Vec<Vec<u8>>,
    behind: Vec<Vec<u8>>,
}

/// Where a file or directory was put.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Places of its slots in the volume.
    pub slots: Vec<usize>,
    /// Its clusters in order.
    pub clusters: Vec<u32>,
    /// The cluster of its vendor entry.
    pub extra: Vec<u32>,
    /// Its length, and how much of it was written.
    pub len: usize,
    pub valid: usize,
    /// Whether the FAT describes it.
    pub chained: bool,
}

/// A volume as built.
#[derive(Clone, Debug)]
pub struct BuiltExfat {
    pub bytes: Vec<u8>,
    pub sector: usize,
    pub cluster: usize,
    pub fat_at: usize,
    pub fat_len: usize,
    pub heap_at: usize,
    pub count: usize,
    pub bitmap: Vec<u32>,
    pub upcase: Vec<u32>,
    pub root: Vec<u32>,
    pub files: BTreeMap<String, Placed>,
    pub plants: Vec<u32>,
    /// Slots behind the end of the root directory that hold something.
    pub behind: Vec<usize>,
}

fn sum16(bytes: impl IntoIterator<Item = u8>) -> u16 {
    bytes.into_iter().fold(0_u16, |sum, byte| {
        sum.rotate_right(1).wrapping_add(byte.into())
    })
}

fn sum32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0_u32, |sum, byte| {
        sum.rotate_right(1).wrapping_add(byte.into())
    })
}

/// The table in the compressed form.
fn table() -> Vec<u8> {
    let mut units: Vec<u16> = Vec::new();
    let mut at = 0_u32;
    while at < 0x1_0000 {
        let same = (at..0x1_0000)
            .take_while(|u| u32::from(upcase::unit(*u as u16)) == *u)
            .count() as u32;
        if same > 2 {
            let take = same.min(0xFFFE);
            units.extend([0xFFFF, take as u16]);
            at += take;
        } else {
            units.push(upcase::unit(at as u16));
            at += 1;
        }
    }
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

/// The checksum of a set goes into its first slot.
pub fn seal(set: &mut [u8]) {
    let summed = set.iter().enumerate();
    let sum = sum16(
        summed
            .filter(|(at, _)| !matches!(at, 2 | 3))
            .map(|(_, b)| *b),
    );
    put::u16(set, 2, sum);
}

struct Entry<'a> {
    units: &'a [u16],
    attributes: u16,
    clusters: &'a [u32],
    chained: bool,
    len: usize,
    valid: usize,
    vendor: Option<(u32, usize)>,
}

fn set_of(entry: &Entry<'_>) -> Vec<u8> {
    let names = entry.units.len().div_ceil(15);
    let secondaries = 1 + names + usize::from(entry.vendor.is_some());
    let mut set = vec![0; SLOT * (1 + secondaries)];
    set[0] = 0x85;
    set[1] = secondaries as u8;
    put::u16(&mut set, 4, entry.attributes);
    for at in [8, 12, 16] {
        put::u32(&mut set, at, 0x5A21_6000);
    }
    set[22] = 0x80;
    set[23] = 0x80;
    set[24] = 0x80;
    let first = entry.clusters.first().copied().unwrap_or(0);
    let stream = &mut set[SLOT..];
    stream[0] = 0xC0;
    stream[1] = if entry.chained || first == 0 { 1 } else { 3 };
    stream[3] = entry.units.len() as u8;
    let upper = entry.units.iter().map(|unit| upcase::unit(*unit));
    put::u16(stream, 4, sum16(upper.flat_map(u16::to_le_bytes)));
    put::u64(stream, 8, entry.valid as u64);
    put::u32(stream, 20, first);
    put::u64(stream, 24, entry.len as u64);
    for (i, piece) in entry.units.chunks(15).enumerate() {
        let slot = &mut set[SLOT * (2 + i)..];
        slot[0] = 0xC1;
        for (j, unit) in piece.iter().enumerate() {
            put::u16(slot, 2 + j * 2, *unit);
        }
    }
    if let Some((cluster, len)) = entry.vendor {
        let slot = &mut set[SLOT * (2 + names)..];
        slot[0] = 0xE1;
        slot[1] = 3;
        slot[2..18].fill(0x77);
        put::u32(slot, 20, cluster);
        put::u64(slot, 24, len as u64);
    }
    seal(&mut set);
    set
}

/// A set that was deleted.
pub fn dead_set(name: &str) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut set = set_of(&Entry {
        units: &units,
        attributes: 0x20,
        clusters: &[],
        chained: true,
        len: 0,
        valid: 0,
        vendor: None,
    });
    set.chunks_mut(SLOT).for_each(|slot| slot[0] &= 0x7F);
    set
}

impl ExfatBuilder {
    /// An empty volume of `len` bytes.
    pub fn new(len: usize, sector: usize, cluster: usize) -> Self {
        Self {
            len,
            sector,
            cluster,
            fats: 1,
            files: Vec::new(),
            plants: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// A file; its directories come with it. Its clusters follow each other, without a chain.
    pub fn file(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        let names = path.trim_start_matches('\\').split('\\');
        self.files.push(File {
            path: names.map(str::to_owned).collect(),
            units: None,
            bytes: bytes.as_ref().to_vec(),
            tail: Vec::new(),
            valid: None,
            vendor: None,
            fragmented: false,
            chained: false,
            deleted: false,
        });
        self
    }

    fn last(&mut self) -> &mut File {
        self.files.last_mut().unwrap()
    }

    /// The last file lies in single clusters with gaps.
    pub fn fragmented(&mut self) -> &mut Self {
        self.last().fragmented = true;
        self.chained()
    }

    /// The last file has a chain in the FAT.
    pub fn chained(&mut self) -> &mut Self {
        self.last().chained = true;
        self
    }

    /// The last file was deleted: the bits of use are gone, its clusters are free, the bytes left.
    pub fn deleted(&mut self) -> &mut Self {
        self.last().deleted = true;
        self
    }

    /// Only so many bytes of the last file were written.
    pub fn valid(&mut self, len: usize) -> &mut Self {
        self.last().valid = Some(len);
        self
    }

    /// Bytes behind the end of the last file.
    pub fn tail(&mut self, bytes: &[u8]) -> &mut Self {
        self.last().tail = bytes.to_vec();
        self
    }

    /// The last file's set has a vendor entry with a cluster of this.
    pub fn vendor(&mut self, bytes: &[u8]) -> &mut Self {
        self.last().vendor = Some(bytes.to_vec());
        self
    }

    /// The last file's name as it stands on the disk.
    pub fn named(&mut self, units: &[u16]) -> &mut Self {
        self.last().units = Some(units.to_vec());
        self
    }

    /// Bytes in a cluster that is free.
    pub fn plant(&mut self, bytes: &[u8]) -> &mut Self {
        self.plants.push(bytes.to_vec());
        self
    }

    /// A deleted set behind the end of the root directory.
    pub fn behind(&mut self, name: &str) -> &mut Self {
        self.behind.push(dead_set(name));
        self
    }

    /// Two FATs and two bitmaps: TexFAT.
    pub fn texfat(&mut self) -> &mut Self {
        self.fats = 2;
        self
    }

    /// Builds it.
    pub fn build(&self) -> BuiltExfat {
        let most = self.len / self.cluster;
        let fat_at = 32 * self.sector;
        let fat_len = ((most + 2) * 4).div_ceil(self.sector) * self.sector;
        let heap_at = (fat_at + self.fats * fat_len).div_ceil(self.sector) * self.sector;
        let count = (self.len - heap_at) / self.cluster;
        let mut built = BuiltExfat {
            bytes: vec![0; self.len],
            sector: self.sector,
            cluster: self.cluster,
            fat_at,
            fat_len,
            heap_at,
            count,
            bitmap: Vec::new(),
            upcase: Vec::new(),
            root: Vec::new(),
            files: BTreeMap::new(),
            plants: Vec::new(),
            behind: Vec::new(),
        };
        let mut next = 2;
        built.write_link(0, 0xFFFF_FFF8);
        built.write_link(1, END);
        let bitmap_len = count.div_ceil(8);
        let mut bitmaps = Vec::new();
        for _ in 0..self.fats {
            let clusters = built.take(&mut next, bitmap_len.div_ceil(self.cluster), 1);
            built.chain(&clusters);
            bitmaps.push(clusters);
        }
        built.bitmap.clone_from(&bitmaps[0]);
        let table = table();
        built.upcase = built.take(&mut next, table.len().div_ceil(self.cluster), 1);
        let upcase = built.upcase.clone();
        built.store(&upcase, &table);
        built.chain(&upcase);

        let mut fixed = vec![0; 0];
        let mut label = vec![0; SLOT];
        label[0] = 0x83;
        label[1] = 6;
        put::bytes(&mut label, 2, &put::utf16("MASTER"));
        fixed.extend(label);
        for (i, clusters) in bitmaps.iter().enumerate() {
            let mut slot = vec![0; SLOT];
            slot[0] = 0x81;
            slot[1] = i as u8;
            put::u32(&mut slot, 20, clusters[0]);
            put::u64(&mut slot, 24, bitmap_len as u64);
            fixed.extend(slot);
        }
        let mut slot = vec![0; SLOT];
        slot[0] = 0x82;
        put::u32(&mut slot, 4, sum32(table.iter().copied()));
        put::u32(&mut slot, 20, upcase[0]);
        put::u64(&mut slot, 24, table.len() as u64);
        fixed.extend(slot);
        // A benign entry that declone does not know: the GUID of the volume.
        let mut slot = vec![0; SLOT];
        slot[0] = 0xA0;
        put::u16(&mut slot, 4, 0);
        slot[6..22].fill(0x42);
        seal(&mut slot);
        fixed.extend(slot);

        let (root, end) = self.directory(&mut built, &[], &fixed, &mut next);
        built.root = root;
        let mut at = end + SLOT;
        for set in &self.behind {
            for slot in set.chunks(SLOT) {
                let place = built.place(&built.root.clone(), at);
                built.bytes[place..place + SLOT].copy_from_slice(slot);
                built.behind.push(place);
                at += SLOT;
            }
        }
        for plant in &self.plants {
            let place = built.at(next);
            built.bytes[place..place + plant.len()].copy_from_slice(plant);
            built.plants.push(next);
            next += 2;
        }
        assert!((next as usize) < count, "the volume is full");
        if self.fats == 2 {
            let from = built.at(bitmaps[0][0]);
            let to = built.at(bitmaps[1][0]);
            built.bytes.copy_within(from..from + bitmap_len, to);
            built
                .bytes
                .copy_within(fat_at..fat_at + fat_len, fat_at + fat_len);
        }
        self.boot(&mut built);
        built
    }

    fn boot(&self, built: &mut BuiltExfat) {
        let sectors = self.len / self.sector;
        let root = built.root[0];
        let percent = built.percent(&built.bytes);
        let b = &mut built.bytes;
        put::bytes(b, 0, b"\xEB\x76\x90EXFAT   ");
        put::u64(b, 0x48, sectors as u64);
        put::u32(b, 0x50, (built.fat_at / self.sector) as u32);
        put::u32(b, 0x54, (built.fat_len / self.sector) as u32);
        put::u32(b, 0x58, (built.heap_at / self.sector) as u32);
        put::u32(b, 0x5C, built.count as u32);
        put::u32(b, 0x60, root);
        put::u32(b, 0x64, 0x1234_ABCD);
        put::u16(b, 0x68, 0x0100);
        b[0x6C] = self.sector.trailing_zeros() as u8;
        b[0x6D] = (self.cluster / self.sector).trailing_zeros() as u8;
        b[0x6E] = self.fats as u8;
        b[0x6F] = 0x80;
        b[0x70] = percent;
        b[120..510].fill(0xF4);
        put::u16(b, 0x1FE, 0xAA55);
        for sector in 1..9 {
            put::u32(b, sector * self.sector + self.sector - 4, 0xAA55_0000);
        }
        let region = 12 * self.sector;
        b.copy_within(0..region, region);
        reseal(b, self.sector);
    }

    /// Puts a directory's children into clusters, then its slots into its own; where it ends.
    fn directory(
        &self,
        built: &mut BuiltExfat,
        above: &[String],
        fixed: &[u8],
        next: &mut u32,
    ) -> (Vec<u32>, usize) {
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
        let mut slots = fixed.to_vec();
        let mut placed_at = Vec::new();
        for name in names {
            let mut path = above.to_vec();
            path.push(name.clone());
            let shown = format!("\\{}", path.join("\\"));
            let file = self.files.iter().find(|file| file.path == path);
            let mut placed = Placed::default();
            let mut units: Vec<u16> = name.encode_utf16().collect();
            let mut attributes = 0x10;
            let mut vendor = None;
            if let Some(file) = file {
                attributes = 0x20;
                units = file.units.clone().unwrap_or(units);
                let step = if file.fragmented { 2 } else { 1 };
                let need = file.bytes.len().div_ceil(self.cluster);
                placed.len = file.bytes.len();
                placed.valid = file.valid.unwrap_or(placed.len);
                placed.chained = file.chained;
                placed.clusters = built.spread(next, need, step);
                let whole = [file.bytes.as_slice(), &file.tail].concat();
                let clusters = placed.clusters.clone();
                built.store(&clusters, &whole);
                if let Some(bytes) = &file.vendor {
                    placed.extra = built.spread(next, 1, 1);
                    let extra = placed.extra.clone();
                    built.store(&extra, bytes);
                    vendor = Some((placed.extra[0], bytes.len()));
                }
                if !file.deleted {
                    built.mark(&placed.clusters.clone());
                    built.mark(&placed.extra.clone());
                    if file.chained {
                        built.chain(&clusters);
                    }
                }
            } else {
                let (clusters, _) = self.directory(built, &path, &[], next);
                placed.chained = clusters.len() > 1;
                placed.len = clusters.len() * self.cluster;
                placed.valid = placed.len;
                placed.clusters = clusters;
            }
            let mut set = set_of(&Entry {
                units: &units,
                attributes,
                clusters: &placed.clusters,
                chained: placed.chained,
                len: placed.len,
                valid: placed.valid,
                vendor,
            });
            if file.is_some_and(|file| file.deleted) {
                set.chunks_mut(SLOT).for_each(|slot| slot[0] &= 0x7F);
            }
            placed_at.push((shown.clone(), slots.len(), set.len()));
            slots.extend(set);
            built.files.insert(shown, placed);
        }
        // Room for what stands behind the end of the root, too.
        let behind: usize = self.behind.iter().map(Vec::len).sum();
        let need = slots.len() + if depth == 0 { behind + SLOT } else { 0 };
        let need = need.div_ceil(self.cluster).max(1);
        // With gaps, so that a directory of several clusters is in pieces.
        let own = built.take(next, need, 2);
        if need > 1 || depth == 0 {
            built.chain(&own);
        }
        built.store(&own, &slots);
        for (shown, at, len) in placed_at {
            let places = (at..at + len)
                .step_by(SLOT)
                .map(|at| built.place(&own, at))
                .collect();
            built.files.get_mut(&shown).unwrap().slots = places;
        }
        (own, slots.len())
    }
}

/// Writes the checksums of both boot regions anew.
pub fn reseal(volume: &mut [u8], sector: usize) {
    for region in [0, 12 * sector] {
        let summed = volume[region..region + 11 * sector].iter().enumerate();
        let kept = summed.filter(|(at, _)| !matches!(at, 106 | 107 | 112));
        let sum = sum32(kept.map(|(_, byte)| *byte));
        for at in (0..sector).step_by(4) {
            put::u32(volume, region + 11 * sector + at, sum);
        }
    }
}

impl BuiltExfat {
    /// Where a cluster starts.
    pub fn at(&self, cluster: u32) -> usize {
        self.heap_at + (cluster as usize - 2) * self.cluster
    }

    /// Where a position in a row of clusters lies.
    pub fn place(&self, clusters: &[u32], at: usize) -> usize {
        self.at(clusters[at / self.cluster]) + at % self.cluster
    }

    /// The bytes of a file in a volume of this shape.
    pub fn read(&self, volume: &[u8], path: &str) -> Vec<u8> {
        let placed = &self.files[path];
        let mut bytes = Vec::new();
        for cluster in &placed.clusters {
            bytes.extend_from_slice(&volume[self.at(*cluster)..][..self.cluster]);
        }
        bytes.truncate(placed.len);
        bytes[placed.valid..].fill(0);
        bytes
    }

    /// Sets an entry of the first FAT.
    pub fn set_link(&self, volume: &mut [u8], cluster: u32, value: u32) {
        put::u32(volume, self.fat_at + cluster as usize * 4, value);
    }

    /// Sets a bit of the first bitmap.
    pub fn set_bit(&self, volume: &mut [u8], cluster: u32, taken: bool) {
        let bit = cluster as usize - 2;
        let at = self.place(&self.bitmap, bit / 8);
        match taken {
            true => volume[at] |= 1 << (bit % 8),
            false => volume[at] &= !(1 << (bit % 8)),
        }
    }

    /// What the percentage of the boot sector has to be.
    pub fn percent(&self, volume: &[u8]) -> u8 {
        let bits = (0..self.count.div_ceil(8)).map(|at| volume[self.place(&self.bitmap, at)]);
        let used: usize = bits.map(|byte| byte.count_ones() as usize).sum();
        (used * 100 / self.count) as u8
    }

    fn write_link(&mut self, cluster: u32, value: u32) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.set_link(&mut bytes, cluster, value);
        self.bytes = bytes;
    }

    fn chain(&mut self, clusters: &[u32]) {
        for (i, cluster) in clusters.iter().enumerate() {
            self.write_link(*cluster, clusters.get(i + 1).copied().unwrap_or(END));
        }
    }

    fn spread(&self, next: &mut u32, need: usize, step: u32) -> Vec<u32> {
        let clusters = (0..need as u32).map(|i| *next + i * step).collect();
        *next += need as u32 * step;
        clusters
    }

    /// Clusters that are in use.
    fn take(&mut self, next: &mut u32, need: usize, step: u32) -> Vec<u32> {
        let clusters = self.spread(next, need, step);
        if self.bitmap.is_empty() {
            // The bitmap itself is the first to have clusters.
            self.bitmap.clone_from(&clusters);
        }
        self.mark(&clusters);
        clusters
    }

    fn mark(&mut self, clusters: &[u32]) {
        let mut bytes = std::mem::take(&mut self.bytes);
        for cluster in clusters {
            self.set_bit(&mut bytes, *cluster, true);
        }
        self.bytes = bytes;
    }

    fn store(&mut self, clusters: &[u32], bytes: &[u8]) {
        for (cluster, piece) in clusters.iter().zip(bytes.chunks(self.cluster)) {
            let at = self.at(*cluster);
            self.bytes[at..at + piece.len()].copy_from_slice(piece);
        }
    }
}
