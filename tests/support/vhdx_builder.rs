//! Wraps a raw disk into a VHDX, fills its log, and takes the disk out again, without any code of
//! declone.
//!
//! Source: MS-VHDX 2.1 (Microsoft). Numbers are little-endian.

const MIB: usize = 1 << 20;
/// Where the log is put.
pub const LOG: usize = MIB;
/// Bytes of the log.
pub const LOG_LEN: usize = MIB;
/// Where the metadata region is put.
pub const METADATA: usize = 2 * MIB;
/// Where the block table is put.
pub const BAT: usize = 3 * MIB;
/// Where the two headers are.
pub const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
/// Where the two region tables are.
pub const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
/// Items of the metadata region, from its start: parameters, size, disk, logical, physical, parent.
pub const ITEMS: [usize; 6] = [0x10000, 0x10008, 0x10010, 0x10020, 0x10024, 0x10028];
/// DataWriteGuid of what is built here.
pub const DATA_WRITE: &str = "d47a0001-1111-4222-8333-444455556666";
/// A log that has entries.
pub const LOG_GUID: &str = "10610600-aaaa-4bbb-8ccc-ddddeeeeffff";

/// How a disk is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the disk in a block.
    pub block: usize,
    /// Bytes of a logical sector.
    pub sector: usize,
    /// Every block is allocated, as in a fixed disk.
    pub fixed: bool,
    /// Blocks lie in the file from the last to the first.
    pub backwards: bool,
    /// State of a block of zeros.
    pub empty: u64,
    /// A block of zeros keeps a place in the file, filled with this.
    pub under: Option<u8>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            block: 2 * MIB,
            sector: 512,
            fixed: false,
            backwards: false,
            empty: 0,
            under: None,
        }
    }
}

/// What a differencing disk says of its parent.
#[derive(Clone, Debug)]
pub struct Parent<'a> {
    /// The disk that the parent shows.
    pub raw: &'a [u8],
    /// Keys and values of the locator.
    pub keys: Vec<(&'a str, String)>,
    /// Blocks that differ are there in part only (state 7).
    pub partial: bool,
}

pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

pub fn get32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// An identifier as it lies in the file.
pub fn guid(text: &str) -> [u8; 16] {
    let mut bytes: [u8; 16] = hex::decode(text.replace('-', ""))
        .unwrap()
        .try_into()
        .unwrap();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// CRC-32C, bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// Makes the checksum of a structure right.
pub fn seal(structure: &mut [u8]) {
    put(structure, 4, &[0; 4]);
    let sum = crc(structure);
    put(structure, 4, &sum.to_le_bytes());
}

/// Makes the checksums of headers and region tables right.
pub fn seal_all(file: &mut [u8]) {
    for at in HEADERS {
        seal(&mut file[at..at + 4096]);
    }
    for at in REGIONS {
        seal(&mut file[at..at + 65536]);
    }
}

/// Changes both headers.
pub fn headers(file: &mut [u8], at: usize, new: &[u8]) {
    for header in HEADERS {
        put(file, header + at, new);
        seal(&mut file[header..header + 4096]);
    }
}

/// Changes both region tables.
pub fn regions(file: &mut [u8], at: usize, new: &[u8]) {
    for table in REGIONS {
        put(file, table + at, new);
        seal(&mut file[table..table + 65536]);
    }
}

fn ratio(block: usize, sector: usize) -> usize {
    (1 << 23) * sector / block
}

/// Where the entry of a block stands.
pub fn entry_at(file: &[u8], number: usize) -> usize {
    let block = get32(file, METADATA + ITEMS[0]);
    let sector = get32(file, METADATA + ITEMS[3]);
    BAT + 8 * (number + number / ratio(block, sector))
}

/// Everything before the blocks.
fn front(len: usize, shape: Shape, parent: Option<&Parent<'_>>) -> Vec<u8> {
    let blocks = len.div_ceil(shape.block);
    let ratio = ratio(shape.block, shape.sector);
    let entries = match parent {
        None => blocks + (blocks - 1) / ratio,
        Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
    };
    let bat_len = (entries * 8).next_multiple_of(MIB);
    let mut f = vec![0; BAT + bat_len];
    put(&mut f, 0, b"vhdxfile");
    let creator: Vec<u8> = "vhdx_builder"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    put(&mut f, 8, &creator);
    for (i, at) in HEADERS.into_iter().enumerate() {
        put(&mut f, at, b"head");
        put(&mut f, at + 8, &(7 + i as u64).to_le_bytes());
        put(
            &mut f,
            at + 16,
            &guid("f11e0001-1111-4222-8333-444455556666"),
        );
        put(&mut f, at + 32, &guid(DATA_WRITE));
        put(&mut f, at + 66, &1_u16.to_le_bytes());
        put(&mut f, at + 68, &(LOG_LEN as u32).to_le_bytes());
        put(&mut f, at + 72, &(LOG as u64).to_le_bytes());
    }
    let regions = [
        ("2dc27766-f623-4200-9d64-115e9bfd4a08", BAT, bat_len),
        ("8b7ca206-4790-4b9a-b8fe-575f050f886e", METADATA, MIB),
    ];
    for at in REGIONS {
        put(&mut f, at, b"regi");
        put(&mut f, at + 8, &(regions.len() as u32).to_le_bytes());
        for (i, (id, start, len)) in regions.into_iter().enumerate() {
            let entry = at + 16 + i * 32;
            put(&mut f, entry, &guid(id));
            put(&mut f, entry + 16, &(start as u64).to_le_bytes());
            put(&mut f, entry + 24, &(len as u32).to_le_bytes());
            put(&mut f, entry + 28, &1_u32.to_le_bytes());
        }
    }
    let flags = u32::from(shape.fixed) | if parent.is_some() { 2 } else { 0 };
    let mut parameters = (shape.block as u32).to_le_bytes().to_vec();
    parameters.extend(flags.to_le_bytes());
    let locator = parent.map_or(Vec::new(), |parent| locator(&parent.keys));
    let items: [(&str, u32, Vec<u8>); 6] = [
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", 4, parameters),
        (
            "2fa54224-cd1b-4876-b211-5dbed83bf4b8",
            6,
            (len as u64).to_le_bytes().to_vec(),
        ),
        (
            "beca12ab-b2e6-4523-93ef-c309e000c746",
            6,
            guid("5ca1ab1e-0000-4000-8000-000000000001").to_vec(),
        ),
        (
            "8141bf1d-a96f-4709-ba47-f233a8faab5f",
            6,
            (shape.sector as u32).to_le_bytes().to_vec(),
        ),
        (
            "cda348c7-445d-4471-9cc9-e9885251c556",
            6,
            4096_u32.to_le_bytes().to_vec(),
        ),
        ("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", 4, locator),
    ];
    let count = if parent.is_some() { 6 } else { 5 };
    put(&mut f, METADATA, b"metadata");
    put(&mut f, METADATA + 10, &(count as u16).to_le_bytes());
    for (i, (id, flags, bytes)) in items.iter().take(count).enumerate() {
        let entry = METADATA + 32 + i * 32;
        put(&mut f, entry, &guid(id));
        put(&mut f, entry + 16, &(ITEMS[i] as u32).to_le_bytes());
        put(&mut f, entry + 20, &(bytes.len() as u32).to_le_bytes());
        put(&mut f, entry + 24, &flags.to_le_bytes());
        put(&mut f, METADATA + ITEMS[i], bytes);
    }
    seal_all(&mut f);
    f
}

fn locator(keys: &[(&str, String)]) -> Vec<u8> {
    let mut out = vec![0; 20 + keys.len() * 12];
    put(&mut out, 0, &guid("b04aefb7-d19e-4a81-b789-25b8e9445913"));
    put(&mut out, 18, &(keys.len() as u16).to_le_bytes());
    for (i, (key, value)) in keys.iter().enumerate() {
        for (part, text) in [*key, value].into_iter().enumerate() {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let at = out.len() as u32;
            put(&mut out, 20 + i * 12 + part * 4, &at.to_le_bytes());
            let len = bytes.len() as u16;
            put(&mut out, 20 + i * 12 + 8 + part * 2, &len.to_le_bytes());
            out.extend(bytes);
        }
    }
    out
}

/// A disk of its own.
pub fn build(raw: &[u8], shape: Shape) -> Vec<u8> {
    put_blocks(front(raw.len(), shape, None), raw, shape, None)
}

/// The changes to a parent.
pub fn differencing(raw: &[u8], shape: Shape, parent: &Parent<'_>) -> Vec<u8> {
    let file = front(raw.len(), shape, Some(parent));
    put_blocks(file, raw, shape, Some(parent))
}

fn put_blocks(mut f: Vec<u8>, raw: &[u8], shape: Shape, parent: Option<&Parent<'_>>) -> Vec<u8> {
    let ratio = ratio(shape.block, shape.sector);
    let blocks = raw.len().div_ceil(shape.block);
    let bits = shape.block / shape.sector / 8;
    let mut order: Vec<usize> = (0..blocks).collect();
    if shape.backwards {
        order.reverse();
    }
    let mut bitmaps: Vec<Option<usize>> = vec![None; blocks.div_ceil(ratio)];
    for number in order {
        let range = number * shape.block..raw.len().min((number + 1) * shape.block);
        let piece = &raw[range.clone()];
        let below = |at: usize| parent.and_then(|p| p.raw.get(at)).copied().unwrap_or(0);
        let same = parent.is_some() && range.clone().all(|at| raw[at] == below(at));
        let zero = piece.iter().all(|byte| *byte == 0);
        let at = BAT + 8 * (number + number / ratio);
        if same {
            continue;
        }
        if zero && !shape.fixed && (parent.is_none() || shape.empty != 0) {
            let mut entry = shape.empty;
            if let Some(under) = shape.under {
                entry |= f.len() as u64;
                f.resize(f.len() + shape.block, under);
            }
            put(&mut f, at, &entry.to_le_bytes());
            continue;
        }
        let partial = parent.is_some_and(|parent| parent.partial);
        if partial && bitmaps[number / ratio].is_none() {
            bitmaps[number / ratio] = Some(f.len());
            let entry = BAT + 8 * (number / ratio * (ratio + 1) + ratio);
            let value = f.len() as u64 | 6;
            put(&mut f, entry, &value.to_le_bytes());
            f.resize(f.len() + MIB, 0);
        }
        let start = f.len();
        let state = if partial { 7 } else { 6 };
        put(&mut f, at, &(start as u64 | state).to_le_bytes());
        f.resize(start + shape.block, 0);
        put(&mut f, start, piece);
        if !partial {
            continue;
        }
        let bitmap = bitmaps[number / ratio].unwrap() + number % ratio * bits;
        for (i, sector) in piece.chunks(shape.sector).enumerate() {
            let disk = range.start + i * shape.sector;
            let at = start + i * shape.sector;
            if (0..sector.len()).any(|byte| sector[byte] != below(disk + byte)) {
                f[bitmap + i / 8] |= 1 << (i % 8);
            } else {
                // Not shown, and not what the parent has.
                f[at..at + sector.len()].fill(0xEE);
            }
        }
    }
    f
}

/// The disk in a VHDX over what its parent shows, read strictly by the specification.
pub fn guest_over(file: &[u8], parent: &[u8]) -> Vec<u8> {
    let block = get32(file, METADATA + ITEMS[0]);
    let sector = get32(file, METADATA + ITEMS[3]);
    let mut out = parent.to_vec();
    out.resize(get64(file, METADATA + ITEMS[1]) as usize, 0);
    let ratio = ratio(block, sector);
    for (number, piece) in out.chunks_mut(block).enumerate() {
        let entry = get64(file, BAT + 8 * (number + number / ratio));
        let start = (entry >> 20 << 20) as usize;
        match entry & 7 {
            0 => {}
            6 => piece.copy_from_slice(&file[start..start + piece.len()]),
            7 => {
                let map = get64(file, BAT + 8 * (number / ratio * (ratio + 1) + ratio));
                assert_eq!(map & 7, 6);
                let map = (map >> 20 << 20) as usize + number % ratio * (block / sector / 8);
                for (i, place) in piece.chunks_mut(sector).enumerate() {
                    if file[map + i / 8] & (1 << (i % 8)) != 0 {
                        let at = start + i * sector;
                        place.copy_from_slice(&file[at..at + place.len()]);
                    }
                }
            }
            _ => piece.fill(0),
        }
    }
    out
}

/// The disk in a VHDX without a parent.
pub fn guest(file: &[u8]) -> Vec<u8> {
    guest_over(file, &[])
}

/// The bytes that no clean may change: all before the blocks but the headers.
pub fn metadata(file: &[u8]) -> Vec<u8> {
    let bat_len = get32(file, REGIONS[0] + 16 + 24);
    let mut out = file[..HEADERS[0]].to_vec();
    out.extend(&file[HEADERS[1] + 4096..BAT + bat_len]);
    out
}

/// A header whose checksum is right.
#[derive(Debug)]
pub struct Header {
    pub sequence: u64,
    pub file_write: Vec<u8>,
    pub data_write: Vec<u8>,
    pub log: Vec<u8>,
}

/// Both headers, which must be good.
#[track_caller]
pub fn both_headers(file: &[u8]) -> [Header; 2] {
    HEADERS.map(|at| {
        let mut bytes = file[at..at + 4096].to_vec();
        assert_eq!(&bytes[..4], b"head");
        seal(&mut bytes);
        assert_eq!(
            bytes,
            file[at..at + 4096],
            "checksum of the header at {at:#x}"
        );
        Header {
            sequence: get64(&bytes, 8),
            file_write: bytes[16..32].to_vec(),
            data_write: bytes[32..48].to_vec(),
            log: bytes[48..64].to_vec(),
        }
    })
}

/// What an entry of the log does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Zeros: where and how many.
    Zero(u64, u64),
    /// A sector of 4096 bytes.
    Data(u64, Vec<u8>),
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub sequence: u64,
    pub tail: u32,
    pub steps: Vec<Step>,
    pub flushed: u64,
    pub last: u64,
}

impl Entry {
    /// An entry that needs none before it.
    pub fn new(sequence: u64, tail: u32, steps: Vec<Step>, file: &[u8]) -> Self {
        Self {
            sequence,
            tail,
            steps,
            flushed: file.len() as u64,
            last: file.len() as u64,
        }
    }

    /// Its bytes in the log.
    pub fn bytes(&self) -> Vec<u8> {
        let sectors = (64 + self.steps.len() * 32).div_ceil(4096);
        let mut out = vec![0; sectors * 4096];
        put(&mut out, 0, b"loge");
        put(&mut out, 12, &self.tail.to_le_bytes());
        put(&mut out, 16, &self.sequence.to_le_bytes());
        put(&mut out, 24, &(self.steps.len() as u32).to_le_bytes());
        put(&mut out, 32, &guid(LOG_GUID));
        put(&mut out, 48, &self.flushed.to_le_bytes());
        put(&mut out, 56, &self.last.to_le_bytes());
        for (i, step) in self.steps.iter().enumerate() {
            let at = 64 + i * 32;
            put(&mut out, at + 24, &self.sequence.to_le_bytes());
            match step {
                Step::Zero(target, len) => {
                    put(&mut out, at, b"zero");
                    put(&mut out, at + 8, &len.to_le_bytes());
                    put(&mut out, at + 16, &target.to_le_bytes());
                }
                Step::Data(target, bytes) => {
                    put(&mut out, at, b"desc");
                    put(&mut out, at + 4, &bytes[4092..]);
                    put(&mut out, at + 8, &bytes[..8]);
                    put(&mut out, at + 16, &target.to_le_bytes());
                    let mut sector = bytes.clone();
                    put(&mut sector, 0, b"data");
                    let high = (self.sequence >> 32) as u32;
                    put(&mut sector, 4, &high.to_le_bytes());
                    put(&mut sector, 4092, &(self.sequence as u32).to_le_bytes());
                    out.extend(sector);
                }
            }
        }
        let len = out.len() as u32;
        put(&mut out, 8, &len.to_le_bytes());
        seal(&mut out);
        out
    }
}

/// Puts entries into the log from `at` on, around its end, and says in the headers that they are
/// alive. Returns where the next one would go.
pub fn log(file: &mut [u8], at: usize, entries: &[Entry]) -> usize {
    let mut at = at;
    for entry in entries {
        for byte in entry.bytes() {
            file[LOG + at % LOG_LEN] = byte;
            at += 1;
        }
    }
    headers(file, 48, &guid(LOG_GUID));
    at % LOG_LEN
}

/// Writes a file, leaving holes where there are only zeros.
pub fn write(path: &std::path::Path, file: &[u8]) {
    use std::os::unix::fs::FileExt;
    let out = std::fs::File::create(path).unwrap();
    out.set_len(file.len() as u64).unwrap();
    for (i, piece) in file.chunks(64 << 10).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            out.write_all_at(piece, (i as u64) << 16).unwrap();
        }
    }
}
