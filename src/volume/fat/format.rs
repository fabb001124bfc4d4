//! Facts of FAT12, FAT16 and FAT32 on disk.
//!
//! Sources: Microsoft "FAT32 File System Specification" 1.03 (2000-12-06) for the boot sector, the FAT
//! and long names; ECMA-107 for FAT12 and FAT16; the flags byte behind the drive number as Windows NT
//! and Linux `fs/fat` keep it. Offsets are bytes, numbers little-endian.

/// Boot sector and its parameter block (BPB).
pub mod boot {
    /// u16: bytes a sector, 512 to 4096.
    pub const SECTOR_LEN: usize = 0x0B;
    /// u8: sectors a cluster, a power of two.
    pub const CLUSTER_SECTORS: usize = 0x0D;
    /// u16: sectors before the first FAT, the boot sector included.
    pub const RESERVED: usize = 0x0E;
    /// u8: how many FATs, 1 or 2.
    pub const FATS: usize = 0x10;
    /// u16: entries of the fixed root directory; 0 on FAT32.
    pub const ROOT_ENTRIES: usize = 0x11;
    /// u16: sectors of the volume; 0: see [`SECTORS_32`].
    pub const SECTORS_16: usize = 0x13;
    /// u16: sectors of a FAT; 0 on FAT32.
    pub const FAT_SECTORS_16: usize = 0x16;
    /// u32: sectors of the volume.
    pub const SECTORS_32: usize = 0x20;
    /// u8 (FAT12, FAT16): [`DIRTY`] and [`HARD_ERROR`].
    pub const FLAGS_16: usize = 0x25;
    /// u8 (FAT12, FAT16): 0x28 or 0x29 if the fields around it exist.
    pub const SIGNATURE_16: usize = 0x26;
    /// u32 (FAT32): sectors of a FAT.
    pub const FAT_SECTORS_32: usize = 0x24;
    /// u16 (FAT32): bit 7 only one FAT is kept, bits 0 to 3 which.
    pub const MIRRORING: usize = 0x28;
    /// u16 (FAT32): version, 0.
    pub const VERSION: usize = 0x2A;
    /// u32 (FAT32): first cluster of the root directory.
    pub const ROOT_CLUSTER: usize = 0x2C;
    /// u16 (FAT32): sector of the FSInfo; 0 or 0xFFFF: none.
    pub const FSINFO: usize = 0x30;
    /// u8 (FAT32): as [`FLAGS_16`].
    pub const FLAGS_32: usize = 0x41;
    /// u8 (FAT32): as [`SIGNATURE_16`].
    pub const SIGNATURE_32: usize = 0x42;
    /// Flag: mounted, or not dismounted.
    pub const DIRTY: u8 = 1;
    /// Flag: a surface test is wanted.
    pub const HARD_ERROR: u8 = 2;
    /// Values of the signature behind which the fields exist.
    pub const SIGNATURES: [u8; 2] = [0x28, 0x29];
}

/// The FSInfo sector of FAT32.
pub mod fsinfo {
    /// u32 at 0.
    pub const LEAD: u32 = 0x4161_5252;
    /// u32: where [`STRUCTURE`] stands.
    pub const STRUCTURE_AT: usize = 0x1E4;
    /// The second signature.
    pub const STRUCTURE: u32 = 0x6141_7272;
    /// u32: free clusters, or [`UNKNOWN`].
    pub const FREE: usize = 0x1E8;
    /// u32: where to look for free clusters first, or [`UNKNOWN`].
    pub const NEXT: usize = 0x1EC;
    /// Nobody knows.
    pub const UNKNOWN: u32 = 0xFFFF_FFFF;
}

/// A slot of a directory.
pub mod slot {
    /// Bytes a slot.
    pub const LEN: usize = 32;
    /// First byte of a slot that is not in use.
    pub const DELETED: u8 = 0xE5;
    /// First byte of a short name that stands for 0xE5.
    pub const KANJI_E5: u8 = 0x05;
    /// Bytes of the short name: 8 and 3.
    pub const NAME_LEN: usize = 11;
    /// u8: attributes.
    pub const ATTRIBUTES: usize = 0x0B;
    /// u8: 0x08 the base is in lower case, 0x10 the extension is (Windows NT).
    pub const CASE: usize = 0x0C;
    /// u16: high half of the first cluster (FAT32).
    pub const CLUSTER_HIGH: usize = 0x14;
    /// u16: low half of the first cluster.
    pub const CLUSTER_LOW: usize = 0x1A;
    /// u32: length in bytes; 0 for a directory.
    pub const FILE_LEN: usize = 0x1C;
    /// Attribute: the label of the volume.
    pub const LABEL: u8 = 0x08;
    /// Attribute: a directory.
    pub const DIRECTORY: u8 = 0x10;
    /// Attributes of a piece of a long name; the two highest bits do not count.
    pub const LONG: u8 = 0x0F;
    /// The bits that count.
    pub const ATTRIBUTE_MASK: u8 = 0x3F;
}

/// A slot with a piece of a long name.
pub mod long {
    /// Bit of the number: the last piece, which stands first.
    pub const LAST: u8 = 0x40;
    /// u8: checksum of the short name.
    pub const CHECKSUM: usize = 0x0D;
    /// Where the UTF-16 units stand: offset and count.
    pub const PIECES: [(usize, usize); 3] = [(0x01, 5), (0x0E, 6), (0x1C, 2)];
    /// Pieces of the longest name: 255 units.
    pub const MAX_PIECES: u8 = 20;
}

/// Longest directory: 65,536 slots (specification, "directory size").
pub const MAX_DIRECTORY_LEN: u64 = 65_536 * 32;

/// Fewer clusters than this are FAT12.
pub const FAT12_BELOW: u64 = 4085;
/// Fewer clusters than this are FAT16, if the volume is not laid out as FAT32.
pub const FAT16_BELOW: u64 = 65_525;
/// FAT32 counts clusters with 28 bits; the last ones have a meaning of their own.
pub const FAT32_BELOW: u64 = 0x0FFF_FFF5;

/// `FAT[1]` of FAT16: bit 15 dismounted, bit 14 no error of the disk.
pub const CLEAN_16: u32 = 0xC000;
/// `FAT[1]` of FAT32: bit 27 dismounted, bit 26 no error of the disk.
pub const CLEAN_32: u32 = 0x0C00_0000;
