//! The hive file format, as facts only.
//!
//! Source: "Windows registry file format specification" (M. Suhanov, commit 88e878d), cross-checked
//! by parsing 135 hives; limits from Project Zero's "The Windows Registry Adventure". Little endian.
//! All offsets are bytes; cells are counted from file offset [`BASE_LEN`].

/// "No cell".
pub(super) const NIL: u32 = 0xFFFF_FFFF;
/// Length of the base block; the first hbin begins here.
pub(super) const BASE_LEN: usize = 4096;
/// Bins are multiples of this and begin on it.
pub(super) const BIN_ALIGN: u32 = 4096;
/// Length of an hbin header; its first cell follows.
pub(super) const BIN_HEADER: u32 = 32;
/// Cells are multiples of this.
pub(super) const CELL_ALIGN: u32 = 8;
/// Length of a cell's size field: i32, negative when in use.
pub(super) const CELL_HEADER: u32 = 4;
/// Bytes of a value in one segment of big data; longer values (minor >= 4) are split.
pub(super) const SEGMENT: u32 = 16_344;
/// Cells above this are never shrunk (the allocator made them powers of two).
pub(super) const SHRINK_LIMIT: u32 = 16_384;
/// The loader's limit for the depth of a tree (root = 0).
pub(super) const MAX_DEPTH: usize = 512;
/// The loader heals keys in cells larger than this.
pub(super) const MAX_KEY_CELL: u32 = 0x45C;

/// The base block.
pub(super) mod base {
    /// Sequence number of the last begun write.
    pub(in crate::hive) const SEQ1: usize = 4;
    /// Sequence number of the last finished write.
    pub(in crate::hive) const SEQ2: usize = 8;
    /// FILETIME of the last write; 0 in many hives since 8.1.
    pub(in crate::hive) const TIME: usize = 12;
    /// Always 1.
    pub(in crate::hive) const MAJOR: usize = 20;
    /// 3 (NT4) to 6 (layered) are handled.
    pub(in crate::hive) const MINOR: usize = 24;
    /// 0 primary; 1, 2, 6 logs.
    pub(in crate::hive) const TYPE: usize = 28;
    /// Always 1.
    pub(in crate::hive) const FORMAT: usize = 32;
    /// Cell of the root key.
    pub(in crate::hive) const ROOT: usize = 36;
    /// Sum of all hbin sizes.
    pub(in crate::hive) const BINS_LEN: usize = 40;
    /// Always 1.
    pub(in crate::hive) const CLUSTERING: usize = 44;
    /// XOR of the 127 dwords before; 0 is stored as 1, -1 as -2.
    pub(in crate::hive) const CHECKSUM: usize = 508;
}

/// A bin's header.
pub(super) mod hbin {
    /// Own offset from the first bin.
    pub(in crate::hive) const OFFSET: usize = 4;
    /// Own size.
    pub(in crate::hive) const SIZE: usize = 8;
}

/// A key.
pub(super) mod nk {
    /// Where the name begins; the least length.
    pub(in crate::hive) const NAME: usize = 76;
    /// u16, see the `FLAG_` items.
    pub(in crate::hive) const FLAGS: usize = 2;
    /// FILETIME of the last write.
    pub(in crate::hive) const TIME: usize = 4;
    /// Cell of the parent; anything in the root.
    pub(in crate::hive) const PARENT: usize = 16;
    /// Number of subkeys on disk.
    pub(in crate::hive) const SUBKEYS: usize = 20;
    /// Number of volatile subkeys; stale on disk.
    pub(in crate::hive) const VOLATILE: usize = 24;
    /// Cell of the subkey list.
    pub(in crate::hive) const LIST: usize = 28;
    /// Number of values.
    pub(in crate::hive) const VALUES: usize = 36;
    /// Cell of the value list; stale when there are no values.
    pub(in crate::hive) const VALUE_LIST: usize = 40;
    /// Cell of the security descriptor.
    pub(in crate::hive) const SECURITY: usize = 44;
    /// Cell of the class name.
    pub(in crate::hive) const CLASS: usize = 48;
    /// u16: longest name of a subkey, in UTF-16 bytes. The other half of the dword is flags.
    pub(in crate::hive) const MAX_NAME: usize = 52;
    /// Longest class name of a subkey.
    pub(in crate::hive) const MAX_CLASS: usize = 56;
    /// Longest value name, in UTF-16 bytes.
    pub(in crate::hive) const MAX_VALUE_NAME: usize = 60;
    /// Longest value data.
    pub(in crate::hive) const MAX_VALUE_DATA: usize = 64;
    /// u16: length of the name in bytes.
    pub(in crate::hive) const NAME_LEN: usize = 72;
    /// u16: length of the class name in bytes.
    pub(in crate::hive) const CLASS_LEN: usize = 74;
    /// The key must not be deleted (through the API).
    pub(in crate::hive) const FLAG_NO_DELETE: u16 = 0x8;
    /// The key is a symbolic link.
    pub(in crate::hive) const FLAG_SYMLINK: u16 = 0x10;
    /// The name is Latin-1, not UTF-16.
    pub(in crate::hive) const FLAG_COMPRESSED: u16 = 0x20;
    /// Predefined handle: the count of values is a handle, there are no values.
    pub(in crate::hive) const FLAG_PREDEFINED: u16 = 0x40;
}

/// A value.
pub(super) mod vk {
    /// Where the name begins; the least length.
    pub(in crate::hive) const NAME: usize = 20;
    /// u16: length of the name in bytes; 0 for the default value.
    pub(in crate::hive) const NAME_LEN: usize = 2;
    /// Length of the data; bit 31: the data (at most 4 bytes) stands in the next field.
    pub(in crate::hive) const DATA_LEN: usize = 4;
    /// Cell of the data.
    pub(in crate::hive) const DATA: usize = 8;
    /// REG_*.
    pub(in crate::hive) const KIND: usize = 12;
    /// u16; bit 0: the name is Latin-1.
    pub(in crate::hive) const FLAGS: usize = 16;
    /// See `DATA_LEN`.
    pub(in crate::hive) const RESIDENT: u32 = 0x8000_0000;
}

/// A security descriptor, in a ring with all others.
pub(super) mod sk {
    /// Next of the ring.
    pub(in crate::hive) const FLINK: usize = 4;
    /// Previous of the ring.
    pub(in crate::hive) const BLINK: usize = 8;
    /// Number of keys using it.
    pub(in crate::hive) const COUNT: usize = 12;
    /// Length of the descriptor.
    pub(in crate::hive) const LEN: usize = 16;
    /// Where the descriptor begins; the least length.
    pub(in crate::hive) const DESCRIPTOR: usize = 20;
}

/// Subkey lists: signature, u16 count, entries.
pub(super) mod list {
    /// Number of entries.
    pub(in crate::hive) const COUNT: usize = 2;
    /// Where the entries begin.
    pub(in crate::hive) const ENTRIES: usize = 4;
}

/// Big data: signature, u16 count of segments, cell of the list of segments.
pub(super) mod db {
    /// Number of segments.
    pub(in crate::hive) const COUNT: usize = 2;
    /// Cell of the list.
    pub(in crate::hive) const LIST: usize = 4;
    /// Length of the record.
    pub(in crate::hive) const LEN: usize = 8;
}

/// The next multiple of the cell alignment, or `None` above 4 GiB.
pub(super) fn align_cell(len: u32) -> Option<u32> {
    len.checked_next_multiple_of(CELL_ALIGN)
}

/// A number of the disk as an index. Nothing is lost where a pointer has 32 bits or more.
pub(super) fn index(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// An index as a number of the disk; larger ones become [`NIL`], which no check lets pass.
pub(super) fn dword(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(NIL)
}

/// An index as a count.
pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
