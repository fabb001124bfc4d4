//! The transaction log formats, as facts only.
//!
//! Source: "Windows registry file format specification" (M. Suhanov, 2018 text), sections "Format of
//! transaction log files" and "Multiple transaction log files"; every field of the new format was
//! checked on 145 entries of real logs. Little endian, offsets and lengths in bytes.

/// Everything in a log begins on a multiple of this, whatever the disk's sectors are.
pub(super) const SECTOR: u32 = 512;
/// Largest length of bins: the top bit of a cell's offset says "volatile".
pub(super) const MAX_BINS_LEN: u32 = 0x7FFF_F000;

/// The copy of the base block in the first sector; fields as in the primary file.
pub(super) mod copy {
    /// Length of the copy: clustering factor (always 1) times 512.
    pub(in crate::hive::log) const LEN: usize = 512;
    /// File type of the old format since XP.
    pub(in crate::hive::log) const TYPE_OLD: u32 = 1;
    /// File type of the old format up to Windows 2000.
    pub(in crate::hive::log) const TYPE_VERY_OLD: u32 = 2;
    /// File type of the new format (8.1 and later).
    pub(in crate::hive::log) const TYPE_NEW: u32 = 6;
    /// Tail of the hive's path: UTF-16, ends at the first zero unit; garbage may follow that.
    pub(in crate::hive::log) const NAME: usize = 48;
    /// Units of the name field.
    pub(in crate::hive::log) const NAME_UNITS: usize = 32;
    /// u32; bit 0 (a transaction holds the hive) is the only one that log entries carry.
    pub(in crate::hive::log) const FLAGS: usize = 144;
    /// See `FLAGS`.
    pub(in crate::hive::log) const FLAG_LOCKED: u32 = 1;
}

/// The first bin's header, where it matters here.
pub(super) mod first_bin {
    /// FILETIME of the last write: the match key when the base block is damaged.
    pub(in crate::hive::log) const TIME: usize = 20;
}

/// The dirty vector of the old format: signature, then one bit for each 512 bytes of bins, least
/// significant bit first. Since XP eight bits (4096 bytes) change together; NT4 and 2000 use single
/// ones. Padding up to the next sector; then the dirty pages, in the order of their bits.
pub(super) mod vector {
    /// Where it begins.
    pub(in crate::hive::log) const AT: usize = 512;
    /// Its signature.
    pub(in crate::hive::log) const SIGNATURE: &[u8] = b"DIRT";
    /// Where the bits begin.
    pub(in crate::hive::log) const BITS: usize = 516;
    /// Bytes of bins that one byte of bits stands for.
    pub(in crate::hive::log) const BINS_PER_BYTE: u32 = 4096;
    /// Length of a dirty page.
    pub(in crate::hive::log) const PAGE: usize = 512;
}

/// A log entry of the new format. Entries follow one another without gaps from offset 512 on; what
/// follows the last valid one is what is left of older ones.
pub(super) mod entry {
    /// Where the first one begins.
    pub(in crate::hive::log) const FIRST: usize = 512;
    /// Its signature.
    pub(in crate::hive::log) const SIGNATURE: &[u8] = b"HvLE";
    /// u32: length of the entry, a multiple of 512.
    pub(in crate::hive::log) const LEN: usize = 4;
    /// u32: bit 0 goes into the base block's flags.
    pub(in crate::hive::log) const FLAGS: usize = 8;
    /// u32: the next entry has this plus 1 (0 after 0xFFFFFFFF).
    pub(in crate::hive::log) const SEQUENCE: usize = 12;
    /// u32: length of bins when the entry is applied, a multiple of 4096.
    pub(in crate::hive::log) const BINS_LEN: usize = 16;
    /// u32: number of dirty pages, at least 1.
    pub(in crate::hive::log) const PAGES: usize = 20;
    /// u64: Marvin32 of everything from `REFERENCES` to the end of the entry.
    pub(in crate::hive::log) const HASH_1: usize = 24;
    /// u64: Marvin32 of the `HASHED` bytes before, `HASH_1` included.
    pub(in crate::hive::log) const HASH_2: usize = 32;
    /// See `HASH_2`.
    pub(in crate::hive::log) const HASHED: usize = 32;
    /// u32 offset from the first bin and u32 length of each page; then the pages, without gaps.
    pub(in crate::hive::log) const REFERENCES: usize = 40;
    /// Length of a reference.
    pub(in crate::hive::log) const REFERENCE_LEN: usize = 8;
}
