//! Wraps a raw disk into a VMDK, and says where its bytes lie, without any code of declone.
//!
//! Source: VMware Virtual Disk Format 5.0. Numbers are little-endian.

use super::tables::{Piece, le32, le64, put};

/// How a sparse extent is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sectors of a grain.
    pub grain: usize,
    /// Grains lie in the file from the last to the first.
    pub backwards: bool,
    /// A second directory with tables of its own.
    pub redundant: bool,
    /// Grains of zeros are marked instead of left out.
    pub zeros: bool,
    /// With the descriptor inside.
    pub descriptor: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            grain: 128,
            backwards: false,
            redundant: true,
            zeros: false,
            descriptor: true,
        }
    }
}

/// Where the content ID's digits stand in an embedded descriptor.
pub fn cid_at(file: &[u8]) -> usize {
    file.windows(5)
        .position(|bytes| bytes == b"\nCID=")
        .unwrap()
        + 5
}

/// A descriptor with these extent lines.
pub fn descriptor(kind: &str, lines: &[String]) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=1a2b3c4d\nparentCID=ffffffff\n\
         createType=\"{kind}\"\n\n# Extent description\n{}\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"ide\"\n",
        lines.join("\n")
    )
}

/// A sparse extent: grains of zeros are absent.
pub fn sparse(raw: &[u8], shape: Shape) -> Vec<u8> {
    let grain = shape.grain * 512;
    let grains = raw.len().div_ceil(grain);
    let tables = grains.div_ceil(512);
    let directory_sectors = (tables * 4).div_ceil(512);
    // Header, descriptor, directory and tables, the other directory and tables, grains.
    let mut next = 21;
    let mut set = || {
        let at = next;
        next += directory_sectors + tables * 4;
        at
    };
    let second = if shape.redundant { set() } else { 0 };
    let first = set();
    let data = next.next_multiple_of(shape.grain);
    let mut out = vec![0; data * 512];
    put(&mut out, 0, b"KDMV");
    put(&mut out, 4, &1_u32.to_le_bytes());
    let flags = 1 + 2 * u32::from(shape.redundant) + 4 * u32::from(shape.zeros);
    put(&mut out, 8, &flags.to_le_bytes());
    put(&mut out, 12, &((raw.len() / 512) as u64).to_le_bytes());
    put(&mut out, 20, &(shape.grain as u64).to_le_bytes());
    if shape.descriptor {
        put(&mut out, 28, &1_u64.to_le_bytes());
        put(&mut out, 36, &20_u64.to_le_bytes());
        let line = format!("RW {} SPARSE \"disk.vmdk\"", raw.len() / 512);
        put(
            &mut out,
            512,
            descriptor("monolithicSparse", &[line]).as_bytes(),
        );
    }
    put(&mut out, 44, &512_u32.to_le_bytes());
    put(&mut out, 48, &(second as u64).to_le_bytes());
    put(&mut out, 56, &(first as u64).to_le_bytes());
    put(&mut out, 64, &(data as u64).to_le_bytes());
    put(&mut out, 73, b"\n \r\n");
    let sets: Vec<usize> = [first, second].into_iter().filter(|at| *at > 0).collect();
    for at in &sets {
        for n in 0..tables {
            let sector = (at + directory_sectors + n * 4) as u32;
            put(&mut out, at * 512 + n * 4, &sector.to_le_bytes());
        }
    }
    let mut order: Vec<usize> = (0..grains).collect();
    if shape.backwards {
        order.reverse();
    }
    for number in order {
        let end = raw.len().min((number + 1) * grain);
        let bytes = &raw[number * grain..end];
        let entry = if bytes.iter().any(|byte| *byte != 0) {
            let at = out.len();
            out.resize(at + grain, 0);
            put(&mut out, at, bytes);
            (at / 512) as u32
        } else {
            u32::from(shape.zeros)
        };
        for at in &sets {
            let entry_at = (at + directory_sectors) * 512 + number * 4;
            put(&mut out, entry_at, &entry.to_le_bytes());
        }
    }
    out
}

/// Length of the disk, and the pieces of it that are in the file.
pub fn pieces(file: &[u8]) -> (usize, Vec<Piece>) {
    let len = le64(file, 12) as usize * 512;
    let grain = le64(file, 20) as usize * 512;
    let each = le32(file, 44);
    let directory = le64(file, 56) as usize * 512;
    let mut out = Vec::new();
    for number in 0..len.div_ceil(grain) {
        let table = le32(file, directory + number / each * 4) * 512;
        if table == 0 {
            continue;
        }
        let entry = le32(file, table + number % each * 4);
        if entry > 1 {
            out.push(Piece {
                disk: number * grain,
                file: entry * 512,
                len: grain.min(len - number * grain),
            });
        }
    }
    (len, out)
}
