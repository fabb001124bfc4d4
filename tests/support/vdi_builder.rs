//! Wraps a raw disk into a VDI 1.1, and says where its bytes lie, without any code of declone.
//!
//! Source: VirtualBox `VDICore.h`. Numbers are little-endian.

use super::tables::{Piece, le32, le64, put};

/// Where the block map is put.
pub const MAP: usize = 512;
/// Where the modification UUID is.
pub const MODIFIED: std::ops::Range<usize> = 0x198..0x1A8;

/// An image: blocks of zeros are free, or marked as zeros where `zeros` says so; `fixed` has all.
pub fn image(raw: &[u8], block: usize, backwards: bool, zeros: bool, fixed: bool) -> Vec<u8> {
    let count = raw.len().div_ceil(block);
    let data = (MAP + count * 4).next_multiple_of(512);
    let mut out = vec![0; data];
    put(&mut out, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    put(&mut out, 0x40, &[0x7F, 0x10, 0xDA, 0xBE, 1, 0, 1, 0]);
    put(&mut out, 0x48, &0x190_u32.to_le_bytes());
    put(&mut out, 0x4C, &(1 + u32::from(fixed)).to_le_bytes());
    put(&mut out, 0x154, &(MAP as u32).to_le_bytes());
    put(&mut out, 0x158, &(data as u32).to_le_bytes());
    put(&mut out, 0x168, &512_u32.to_le_bytes());
    put(&mut out, 0x170, &(raw.len() as u64).to_le_bytes());
    put(&mut out, 0x178, &(block as u32).to_le_bytes());
    put(&mut out, 0x180, &(count as u32).to_le_bytes());
    put(&mut out, 0x188, &[0xA5; 16]);
    put(&mut out, 0x198, &[0x5A; 16]);
    let mut order: Vec<usize> = (0..count).collect();
    if backwards {
        order.reverse();
    }
    let mut used = 0_u32;
    for number in order {
        let end = raw.len().min((number + 1) * block);
        let bytes = &raw[number * block..end];
        let entry = if fixed || bytes.iter().any(|byte| *byte != 0) {
            let at = out.len();
            out.resize(at + block, 0);
            put(&mut out, at, bytes);
            used += 1;
            used - 1
        } else if zeros {
            u32::MAX - 1
        } else {
            u32::MAX
        };
        put(&mut out, MAP + number * 4, &entry.to_le_bytes());
    }
    put(&mut out, 0x184, &used.to_le_bytes());
    out
}

/// The changes that make `raw` of the disk in `parent`.
pub fn differencing(raw: &[u8], parent: &[u8], block: usize) -> Vec<u8> {
    let below = super::tables::guest(parent, pieces(parent));
    let mut own = raw.to_vec();
    let same = |n: usize, part: &[u8]| part == &below[n * block..n * block + part.len()];
    for (n, part) in own.chunks_mut(block).enumerate() {
        if same(n, part) {
            part.fill(0);
        }
    }
    let mut out = image(&own, block, false, false, false);
    for (n, part) in raw.chunks(block).enumerate() {
        if part.iter().all(|byte| *byte == 0) && !same(n, part) {
            put(&mut out, MAP + n * 4, &(u32::MAX - 1).to_le_bytes());
        }
    }
    put(&mut out, 0x4C, &4_u32.to_le_bytes());
    put(&mut out, 0x188, &[0xC3; 16]);
    put(&mut out, 0x1A8, &parent[0x188..0x198]);
    put(&mut out, 0x1B8, &parent[0x198..0x1A8]);
    out
}

/// The disk of a differencing image over its parent's.
pub fn guest_over(file: &[u8], below: &[u8]) -> Vec<u8> {
    let (map, block) = (le32(file, 0x154), le32(file, 0x178));
    let mut out = below.to_vec();
    for (n, part) in out.chunks_mut(block).enumerate() {
        if le32(file, map + n * 4) == 0xFFFF_FFFE {
            part.fill(0);
        }
    }
    for piece in pieces(file).1 {
        put(
            &mut out,
            piece.disk,
            &file[piece.file..piece.file + piece.len],
        );
    }
    out
}

/// Length of the disk, and the pieces of it that are in the file.
pub fn pieces(file: &[u8]) -> (usize, Vec<Piece>) {
    let (map, data) = (le32(file, 0x154), le32(file, 0x158));
    let (len, block) = (le64(file, 0x170) as usize, le32(file, 0x178));
    let out = (0..len.div_ceil(block))
        .map(|number| (number, le32(file, map + number * 4)))
        .filter(|(_, entry)| *entry < 0xFFFF_FFFE)
        .map(|(number, entry)| Piece {
            disk: number * block,
            file: data + entry * block,
            len: block.min(len - number * block),
        })
        .collect();
    (len, out)
}
