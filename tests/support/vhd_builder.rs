//! Wraps a raw disk into a VHD, and takes it out again, without any code of declone.
//!
//! Source: VHD specification 1.0 (Microsoft 2006). Numbers are big-endian.

/// Disk type of a fixed disk.
pub const FIXED: u32 = 2;
/// Disk type of a dynamic disk.
pub const DYNAMIC: u32 = 3;
/// Where the dynamic header is put.
pub const HEADER: usize = 512;
/// Where the block table is put.
pub const TABLE: usize = 1536;

/// How a dynamic disk is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the disk in a block.
    pub block: usize,
    /// Blocks lie in the file from the last to the first.
    pub backwards: bool,
    /// Sectors of zeros have a clear bit in the bitmap of their block.
    pub clear: bool,
    /// What lies in the file under a clear bit.
    pub under: u8,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            block: 2 << 20,
            backwards: false,
            clear: false,
            under: 0,
        }
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn get32(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Sets the checksum of a footer (field 64, 512 bytes) or header (field 36, 1024 bytes).
pub fn seal(structure: &mut [u8], field: usize) {
    put(structure, field, &[0; 4]);
    let sum = structure
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    put(structure, field, &(!sum).to_be_bytes());
}

/// A footer.
pub fn footer(kind: u32, size: u64) -> Vec<u8> {
    let mut f = vec![0; 512];
    put(&mut f, 0, b"conectix");
    put(&mut f, 8, &2_u32.to_be_bytes());
    put(&mut f, 12, &0x1_0000_u32.to_be_bytes());
    let data = if kind == FIXED {
        u64::MAX
    } else {
        HEADER as u64
    };
    put(&mut f, 16, &data.to_be_bytes());
    put(&mut f, 24, &0x1234_5678_u32.to_be_bytes());
    put(&mut f, 28, b"win ");
    put(&mut f, 32, &0x000A_0000_u32.to_be_bytes());
    put(&mut f, 36, b"Wi2k");
    put(&mut f, 40, &size.to_be_bytes());
    put(&mut f, 48, &size.to_be_bytes());
    // A geometry that is too small, as it usually is.
    let cylinders = (size / 512 / (16 * 63)).min(65_535) as u16;
    put(&mut f, 56, &cylinders.to_be_bytes());
    put(&mut f, 58, &[16, 63]);
    put(&mut f, 60, &kind.to_be_bytes());
    put(&mut f, 68, &[0xA5; 16]);
    seal(&mut f, 64);
    f
}

/// A fixed disk.
pub fn fixed(raw: &[u8]) -> Vec<u8> {
    let mut out = raw.to_vec();
    out.extend(footer(FIXED, raw.len() as u64));
    out
}

/// A dynamic disk: blocks of zeros are absent.
pub fn dynamic(raw: &[u8], shape: Shape) -> Vec<u8> {
    let blocks: Vec<&[u8]> = raw.chunks(shape.block).collect();
    let foot = footer(DYNAMIC, raw.len() as u64);
    let mut head = vec![0; 1024];
    put(&mut head, 0, b"cxsparse");
    put(&mut head, 8, &u64::MAX.to_be_bytes());
    put(&mut head, 16, &(TABLE as u64).to_be_bytes());
    put(&mut head, 24, &0x1_0000_u32.to_be_bytes());
    put(&mut head, 28, &(blocks.len() as u32).to_be_bytes());
    put(&mut head, 32, &(shape.block as u32).to_be_bytes());
    seal(&mut head, 36);
    let table_len = (blocks.len() * 4).next_multiple_of(512);
    let mut out = foot.clone();
    out.extend(head);
    out.extend(vec![0xFF; table_len]);
    let bitmap_len = (shape.block / 4096).next_multiple_of(512);
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    if shape.backwards {
        order.reverse();
    }
    for number in order {
        let block = blocks[number];
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let sector = (out.len() / 512) as u32;
        put(&mut out, TABLE + number * 4, &sector.to_be_bytes());
        let mut bitmap = vec![0_u8; bitmap_len];
        let mut data = vec![0; shape.block];
        put(&mut data, 0, block);
        for (i, sector) in data.chunks_mut(512).enumerate() {
            if shape.clear && sector.iter().all(|byte| *byte == 0) {
                sector.fill(shape.under);
            } else {
                bitmap[i / 8] |= 0x80 >> (i % 8);
            }
        }
        out.extend(bitmap);
        out.extend(data);
    }
    out.extend(foot);
    out
}

/// A differencing disk: every block that differs from the parent is there, and every one that is
/// not zero; sectors that the parent shows alike have a clear bit over `under`.
pub fn differencing(raw: &[u8], parent: &[u8], name: &str, shape: Shape) -> Vec<u8> {
    let mut out = dynamic(
        raw,
        Shape {
            clear: false,
            ..shape
        },
    );
    let end = out.len() - 512;
    for at in [0, end] {
        put(&mut out, at + 60, &4_u32.to_be_bytes());
        put(&mut out, at + 68, &[0x5A; 16]);
        seal(&mut out[at..at + 512], 64);
    }
    put(&mut out, HEADER + 40, &[0xA5; 16]);
    // The name of another machine's file: only the locator counts.
    for (i, unit) in "gone.vhd".encode_utf16().enumerate() {
        put(&mut out, HEADER + 64 + 2 * i, &unit.to_be_bytes());
    }
    let path: Vec<u8> = format!(".\\{name}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    put(&mut out, HEADER + 576, b"W2ru");
    put(&mut out, HEADER + 580, &512_u32.to_be_bytes());
    put(&mut out, HEADER + 584, &(path.len() as u32).to_be_bytes());
    // The locator's text lies behind the last block.
    put(&mut out, HEADER + 592, &(end as u64).to_be_bytes());
    seal(&mut out[HEADER..HEADER + 1024], 36);
    let foot = out.split_off(end);
    out.extend(path);
    out.resize(end + 512, 0);
    out.extend(foot);
    let bitmap_len = (shape.block / 4096).next_multiple_of(512);
    for number in 0..raw.len().div_ceil(shape.block) {
        let sector = get32(&out, TABLE + number * 4);
        let start = number * shape.block;
        if sector == 0xFFFF_FFFF {
            let all = start..(start + shape.block).min(raw.len());
            assert!(parent[all].iter().all(|b| *b == 0), "not the builder's");
            continue;
        }
        for i in 0..(raw.len() - start).min(shape.block) / 512 {
            let at = start + i * 512;
            if raw[at..at + 512] == parent[at..at + 512] {
                out[sector * 512 + i / 8] &= !(0x80 >> (i % 8));
                let data = sector * 512 + bitmap_len + i * 512;
                out[data..data + 512].fill(shape.under);
            }
        }
    }
    out
}

/// The disk in a VHD, read strictly by the specification.
pub fn guest(file: &[u8]) -> Vec<u8> {
    guest_over(file, &[])
}

/// As [`guest`], on top of a parent's disk.
pub fn guest_over(file: &[u8], parent: &[u8]) -> Vec<u8> {
    let foot = &file[file.len() - 512..];
    assert_eq!(&foot[..8], b"conectix");
    let size = get64(foot, 48) as usize;
    if get32(foot, 60) == FIXED as usize {
        return file[..size].to_vec();
    }
    let head = get64(foot, 16) as usize;
    let (table, block) = (get64(file, head + 16) as usize, get32(file, head + 32));
    let bitmap_len = (block / 4096).next_multiple_of(512);
    let mut out = parent.to_vec();
    out.resize(size, 0);
    for (number, piece) in out.chunks_mut(block).enumerate() {
        let sector = get32(file, table + number * 4);
        if sector == 0xFFFF_FFFF {
            continue;
        }
        let bitmap = sector * 512;
        for (i, place) in piece.chunks_mut(512).enumerate() {
            if file[bitmap + i / 8] & (0x80 >> (i % 8)) != 0 {
                let at = bitmap + bitmap_len + i * 512;
                place.copy_from_slice(&file[at..at + 512]);
            }
        }
    }
    out
}

/// The bytes of a dynamic disk's file that are not the data of a block: footers, header, table,
/// bitmaps.
pub fn metadata(file: &[u8]) -> Vec<u8> {
    let foot = &file[file.len() - 512..];
    if get32(foot, 60) == FIXED as usize {
        return foot.to_vec();
    }
    let (block, entries) = (get32(file, HEADER + 32), get32(file, HEADER + 28));
    let bitmap_len = (block / 4096).next_multiple_of(512);
    let table_end = TABLE + (entries * 4).next_multiple_of(512);
    let mut out = file[..table_end].to_vec();
    let mut at = table_end;
    while at < file.len() - 512 {
        out.extend(&file[at..at + bitmap_len]);
        at += bitmap_len + block;
    }
    out.extend(foot);
    out
}
