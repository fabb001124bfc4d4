//! Wraps a raw disk into a QCOW2, and says where its bytes lie, without any code of declone.
//!
//! Source: qemu `docs/interop/qcow2`. Numbers are big-endian.

use super::tables::{Piece, be32, be64, put};

/// How an image is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// log2 of the bytes in a cluster.
    pub bits: u32,
    /// 2 or 3.
    pub version: u32,
    /// Clusters lie in the file from the last to the first.
    pub backwards: bool,
    /// log2 of the bits of a refcount.
    pub order: u32,
    /// Clusters of zeros are marked (version 3) instead of left out.
    pub zeros: bool,
    /// Clusters without a reference at the end of the file.
    pub spare: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            bits: 16,
            version: 3,
            backwards: false,
            order: 4,
            zeros: false,
            spare: 0,
        }
    }
}

/// Where the L1 table is put, in clusters.
pub const L1_CLUSTER: usize = 1;
const COPIED: u64 = 1 << 63;

fn set_count(block: &mut [u8], index: usize, order: u32, count: u64) {
    let width = 1_usize << order;
    if width < 8 {
        let bit = index * width;
        let mask = ((1_u32 << width) - 1) as u8;
        block[bit / 8] &= !(mask << (bit % 8));
        block[bit / 8] |= (count as u8 & mask) << (bit % 8);
    } else {
        let bytes = width / 8;
        block[index * bytes..(index + 1) * bytes]
            .copy_from_slice(&count.to_be_bytes()[8 - bytes..]);
    }
}

/// Sets the refcount of a cluster of the file.
pub fn set_refcount(file: &mut [u8], cluster: usize, count: u64) {
    let bits = be32(file, 20);
    let order = if be32(file, 4) == 2 {
        4
    } else {
        be32(file, 96) as u32
    };
    let each = (8 << bits) >> order;
    let table = be64(file, 48) as usize;
    let block = be64(file, table + cluster / each * 8) as usize;
    set_count(
        &mut file[block..block + (1 << bits)],
        cluster % each,
        order,
        count,
    );
}

/// An image: clusters of zeros are absent.
pub fn image(raw: &[u8], shape: Shape) -> Vec<u8> {
    let cluster = 1_usize << shape.bits;
    let per_table = cluster / 8;
    let count = raw.len().div_ceil(cluster);
    let l2_count = count.div_ceil(per_table);
    let l1_clusters = (l2_count * 8).div_ceil(cluster);
    let l2_at = L1_CLUSTER + l1_clusters;
    let data_at = l2_at + l2_count;
    let mut order: Vec<usize> = (0..count)
        .filter(|n| {
            let end = raw.len().min((n + 1) * cluster);
            raw[n * cluster..end].iter().any(|byte| *byte != 0)
        })
        .collect();
    if shape.backwards {
        order.reverse();
    }
    // The refcounts come last: their own number is part of what they count.
    let each = (cluster * 8) >> shape.order;
    let used = data_at + order.len() + shape.spare;
    let mut blocks = 1;
    let total = loop {
        let table = (blocks * 8_usize).div_ceil(cluster);
        let total = used + table + blocks;
        if total <= blocks * each {
            break total;
        }
        blocks += 1;
    };
    let table_clusters = (blocks * 8).div_ceil(cluster);
    let mut out = vec![0; total * cluster];
    put(&mut out, 0, b"QFI\xFB");
    put(&mut out, 4, &shape.version.to_be_bytes());
    put(&mut out, 20, &shape.bits.to_be_bytes());
    put(&mut out, 24, &(raw.len() as u64).to_be_bytes());
    put(&mut out, 36, &(l2_count as u32).to_be_bytes());
    put(&mut out, 40, &((L1_CLUSTER * cluster) as u64).to_be_bytes());
    put(&mut out, 48, &((used * cluster) as u64).to_be_bytes());
    put(&mut out, 56, &(table_clusters as u32).to_be_bytes());
    if shape.version == 3 {
        put(&mut out, 96, &shape.order.to_be_bytes());
        put(&mut out, 100, &104_u32.to_be_bytes());
    }
    for n in 0..l2_count {
        let entry = ((l2_at + n) * cluster) as u64 | COPIED;
        put(&mut out, L1_CLUSTER * cluster + n * 8, &entry.to_be_bytes());
    }
    if shape.zeros {
        for n in 0..count {
            put(&mut out, l2_at * cluster + n * 8, &1_u64.to_be_bytes());
        }
    }
    for (place, n) in order.iter().enumerate() {
        let at = (data_at + place) * cluster;
        let end = raw.len().min((n + 1) * cluster);
        put(&mut out, at, &raw[n * cluster..end]);
        put(
            &mut out,
            l2_at * cluster + n * 8,
            &(at as u64 | COPIED).to_be_bytes(),
        );
    }
    for n in 0..blocks {
        let at = ((used + table_clusters + n) * cluster) as u64;
        put(&mut out, used * cluster + n * 8, &at.to_be_bytes());
    }
    for n in (0..total).filter(|n| !(used - shape.spare..used).contains(n)) {
        set_refcount(&mut out, n, 1);
    }
    out
}

/// An image of version 3 whose clusters are compressed by `pack`; those of zeros are absent.
/// `zstd`: the header says so.
pub fn packed(raw: &[u8], bits: u32, zstd: bool, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let cluster = 1_usize << bits;
    let count = raw.len().div_ceil(cluster);
    let l2_count = count.div_ceil(cluster / 8);
    assert!(l2_count * 8 <= cluster);
    let l2_at = L1_CLUSTER + 1;
    let table = l2_at + l2_count;
    let mut out = vec![0; (table + 2) * cluster];
    put(&mut out, 0, b"QFI\xFB");
    put(&mut out, 4, &3_u32.to_be_bytes());
    put(&mut out, 20, &bits.to_be_bytes());
    put(&mut out, 24, &(raw.len() as u64).to_be_bytes());
    put(&mut out, 36, &(l2_count as u32).to_be_bytes());
    put(&mut out, 40, &((L1_CLUSTER * cluster) as u64).to_be_bytes());
    put(&mut out, 48, &((table * cluster) as u64).to_be_bytes());
    put(&mut out, 56, &1_u32.to_be_bytes());
    put(&mut out, 96, &4_u32.to_be_bytes());
    put(&mut out, 100, &112_u32.to_be_bytes());
    if zstd {
        put(&mut out, 72, &(1_u64 << 3).to_be_bytes());
        out[104] = 1;
    }
    for n in 0..l2_count {
        let entry = ((l2_at + n) * cluster) as u64 | COPIED;
        put(&mut out, L1_CLUSTER * cluster + n * 8, &entry.to_be_bytes());
    }
    let block = ((table + 1) * cluster) as u64;
    put(&mut out, table * cluster, &block.to_be_bytes());
    for (n, part) in raw.chunks(cluster).enumerate() {
        if part.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut part = part.to_vec();
        part.resize(cluster, 0);
        let (at, bytes) = (out.len(), pack(&part));
        let more = (at + bytes.len() - 1) / 512 - at / 512;
        let entry = 1 << 62 | (more as u64) << (70 - bits) | at as u64;
        put(&mut out, l2_at * cluster + n * 8, &entry.to_be_bytes());
        out.extend(bytes);
    }
    out.resize(out.len().next_multiple_of(cluster), 0);
    assert!(out.len() / cluster <= cluster / 2);
    for n in 0..out.len() / cluster {
        set_refcount(&mut out, n, 1);
    }
    out
}

/// The first cluster of the file without a reference, if the shape had some.
pub fn spare_at(file: &[u8], shape: Shape) -> usize {
    be64(file, 48) as usize - (shape.spare << shape.bits)
}

/// Where the entry of a cluster of the disk is.
pub fn entry_at(file: &[u8], number: usize) -> usize {
    let cluster = 1 << be32(file, 20);
    let l1 = be64(file, 40) as usize + number / (cluster / 8) * 8;
    (be64(file, l1) & 0x00FF_FFFF_FFFF_FE00) as usize + number % (cluster / 8) * 8
}

/// Length of the disk, and the pieces of it that are in the file.
pub fn pieces(file: &[u8]) -> (usize, Vec<Piece>) {
    let cluster = 1_usize << be32(file, 20);
    let len = be64(file, 24) as usize;
    let mut out = Vec::new();
    for number in 0..len.div_ceil(cluster) {
        let l1 = be64(file, 40) as usize + number / (cluster / 8) * 8;
        if be64(file, l1) == 0 {
            continue;
        }
        let entry = be64(file, entry_at(file, number));
        let at = (entry & 0x00FF_FFFF_FFFF_FE00) as usize;
        assert_eq!(entry & 1 << 62, 0, "compressed");
        if entry & 1 == 0 && at != 0 {
            out.push(Piece {
                disk: number * cluster,
                file: at,
                len: cluster.min(len - number * cluster),
            });
        }
    }
    (len, out)
}
