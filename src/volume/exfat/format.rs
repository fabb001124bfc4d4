//! Facts of exFAT on disk.
//!
//! Source: Microsoft, "exFAT file system specification", revision 1.00 (learn.microsoft.com, 2019-08-27);
//! section numbers below are its own. Offsets are bytes, numbers little-endian.

/// Boot sector (section 3.1, table 4).
pub mod boot {
    /// 53 bytes: zero, where FAT keeps its parameter block (3.1.3).
    pub const MUST_BE_ZERO: usize = 0x0B;
    /// How many.
    pub const MUST_BE_ZERO_LEN: usize = 53;
    /// u64: sectors of the volume (3.1.5).
    pub const VOLUME_LENGTH: usize = 0x48;
    /// u32: sector of the first FAT, at least 24 (3.1.6).
    pub const FAT_OFFSET: usize = 0x50;
    /// u32: sectors of a FAT (3.1.7).
    pub const FAT_LENGTH: usize = 0x54;
    /// u32: sector of cluster 2 (3.1.8).
    pub const HEAP_OFFSET: usize = 0x58;
    /// u32: clusters (3.1.9).
    pub const CLUSTER_COUNT: usize = 0x5C;
    /// u32: first cluster of the root directory (3.1.10).
    pub const ROOT_CLUSTER: usize = 0x60;
    /// u16: revision, 1.xx in the high byte (3.1.12).
    pub const REVISION: usize = 0x68;
    /// u16: [`ACTIVE_FAT`], [`DIRTY`], [`MEDIA_FAILURE`], [`CLEAR_TO_ZERO`] (3.1.13).
    pub const FLAGS: usize = 0x6A;
    /// u8: log2 of the bytes a sector, 9 to 12 (3.1.14).
    pub const SECTOR_SHIFT: usize = 0x6C;
    /// u8: log2 of the sectors a cluster; with the one above at most 25 (3.1.15).
    pub const CLUSTER_SHIFT: usize = 0x6D;
    /// u8: 1, or 2 for TexFAT (3.1.16).
    pub const FATS: usize = 0x6E;
    /// u8: allocated clusters in percent, rounded down; or [`PERCENT_UNKNOWN`] (3.1.18).
    pub const PERCENT_IN_USE: usize = 0x70;
    /// u16: 0xAA55 (3.1.20).
    pub const SIGNATURE: usize = 0x1FE;
    /// Value of the signature.
    pub const SIGNATURE_IS: u16 = 0xAA55;
    /// Flag: the second FAT and bitmap count.
    pub const ACTIVE_FAT: u16 = 1;
    /// Flag: not dismounted, probably inconsistent.
    pub const DIRTY: u16 = 2;
    /// Flag: the medium failed and not all bad clusters are marked.
    pub const MEDIA_FAILURE: u16 = 4;
    /// Flag: whoever changes a structure has to clear it first.
    pub const CLEAR_TO_ZERO: u16 = 8;
    /// Nobody knows.
    pub const PERCENT_UNKNOWN: u8 = 0xFF;
    /// Sectors of a boot region; the last one repeats the checksum of the others (2, 3.4).
    pub const REGION_SECTORS: u64 = 12;
    /// Bytes that the checksum leaves out: [`FLAGS`] and [`PERCENT_IN_USE`].
    pub const NOT_SUMMED: [usize; 3] = [0x6A, 0x6B, 0x70];
    /// First sector behind both boot regions.
    pub const FAT_OFFSET_LEAST: u64 = 24;
    /// Most clusters.
    pub const MOST_CLUSTERS: u64 = 0xFFFF_FFF5;
}

/// Entries of the FAT (section 4.1).
pub mod fat {
    /// Not to be used.
    pub const BAD: u32 = 0xFFFF_FFF7;
    /// The chain ends.
    pub const END: u32 = 0xFFFF_FFFF;
}

/// A directory entry (section 6.2), 32 bytes.
pub mod slot {
    /// Bytes a slot.
    pub const LEN: usize = 32;
    /// Bit of the type: in use (6.2.1.4).
    pub const IN_USE: u8 = 0x80;
    /// Bit of the type: a secondary entry (6.2.1.3).
    pub const SECONDARY: u8 = 0x40;
    /// Bit of the type: may be ignored by those who do not know it (6.2.1.2).
    pub const BENIGN: u8 = 0x20;
    /// Type: allocation bitmap (7.1).
    pub const BITMAP: u8 = 0x81;
    /// Type: up-case table (7.2).
    pub const UPCASE: u8 = 0x82;
    /// Type: label of the volume (7.3).
    pub const LABEL: u8 = 0x83;
    /// Type: file or directory (7.4).
    pub const FILE: u8 = 0x85;
    /// Type: TexFAT padding, which is no set (7.10).
    pub const PADDING: u8 = 0xA1;
    /// Type: stream extension (7.6).
    pub const STREAM: u8 = 0xC0;
    /// Type: file name (7.7).
    pub const NAME: u8 = 0xC1;
    /// u8: how many secondary entries follow (6.3.2).
    pub const SECONDARIES: usize = 0x01;
    /// u16: checksum of the set (6.3.3).
    pub const SET_CHECKSUM: usize = 0x02;
    /// u16 (file): attributes, as FAT has them (7.4.4).
    pub const ATTRIBUTES: usize = 0x04;
    /// u8 (secondary): [`ALLOCATION`] and [`CONTIGUOUS`] (6.4.2); u16 at 4 (benign primary, 6.3.4).
    pub const SECONDARY_FLAGS: usize = 0x01;
    /// See above.
    pub const PRIMARY_FLAGS: usize = 0x04;
    /// u32: first cluster, 0: none (6.2.2).
    pub const FIRST_CLUSTER: usize = 0x14;
    /// u64: bytes (6.2.3).
    pub const DATA_LENGTH: usize = 0x18;
    /// Flag: the entry can have clusters.
    pub const ALLOCATION: u8 = 1;
    /// Flag: the clusters follow each other; the FAT says nothing of them.
    pub const CONTIGUOUS: u8 = 2;
    /// Attribute: a directory.
    pub const DIRECTORY: u16 = 0x10;
}

/// Stream extension (section 7.6, table 33).
pub mod stream {
    /// u8: units of the name, 1 to 255.
    pub const NAME_LENGTH: usize = 0x03;
    /// u16: hash of the up-cased name.
    pub const NAME_HASH: usize = 0x04;
    /// u64: bytes that were written; behind them the contents are zeros.
    pub const VALID_LENGTH: usize = 0x08;
}

/// File name (section 7.7, table 34).
pub mod name {
    /// 15 UTF-16 units.
    pub const UNITS_AT: usize = 0x02;
    /// How many.
    pub const UNITS: usize = 15;
}

/// Allocation bitmap (section 7.1, table 20).
pub mod bitmap {
    /// u8: bit 0: the second one.
    pub const FLAGS: usize = 0x01;
}

/// Up-case table (section 7.2, table 23).
pub mod upcase {
    /// u32: checksum of the table.
    pub const CHECKSUM: usize = 0x04;
    /// Bytes of a table that is not compressed. A compressed one is no longer, unless it is nonsense.
    pub const MOST: u64 = 0x2_0000;
    /// What stands before a count of units that have no other case (7.2.5).
    pub const SKIP: u16 = 0xFFFF;
}

/// Longest directory: 256 MiB (section 7.6.7).
pub const MAX_DIRECTORY_LEN: u64 = 256 << 20;

/// The sum of the specification's figures 1 to 4: rotate right, add.
#[must_use]
pub fn sum16(sum: u16, byte: u8) -> u16 {
    sum.rotate_right(1).wrapping_add(byte.into())
}

/// The same in 32 bits.
#[must_use]
pub fn sum32(sum: u32, byte: u8) -> u32 {
    sum.rotate_right(1).wrapping_add(byte.into())
}
