//! Facts: EWF1 and EWF2, little-endian. No I/O.

/// Bytes of a checksum, an Adler-32.
pub(super) const CHECKSUM: usize = 4;

/// EWF1: EnCase E01 and SMART S01.
///
/// Source: libewf, "Expert Witness Compression Format specification", sections "Segment file", "The
/// sections", "Table section", "Hash section", "Digest section"; the volume section from libewf's
/// older edition of the same document.
pub(super) mod v1 {
    /// Bytes of a file's header, behind which the sections begin.
    pub(in super::super) const HEADER_BYTES: usize = 13;
    /// Header: 1, the start of its fields.
    pub(in super::super) const FIELDS: usize = 8;
    /// Header: number of the segment file, from 1, u16.
    pub(in super::super) const SEGMENT: usize = 9;
    /// Header: 0, the end of its fields, u16.
    pub(in super::super) const FIELDS_END: usize = 11;

    /// Bytes of a section's descriptor: its name in 16 bytes; the last 4 are the Adler-32 of the rest.
    pub(in super::super) const DESCRIPTOR_BYTES: usize = 76;
    /// Descriptor: bytes of the name, filled up with zeros.
    pub(in super::super) const NAME: usize = 16;
    /// Descriptor: offset of the next section in the file; its own in the last one, u64.
    pub(in super::super) const NEXT: usize = 16;
    /// Descriptor: bytes of the section with its descriptor, u64; 0 in the last one and in files of
    /// Expert Witness 1.35.
    pub(in super::super) const LEN: usize = 24;

    /// Volume section of EnCase; the last 4 bytes are the Adler-32 of the rest.
    pub(in super::super) const VOLUME_BYTES: usize = 1052;
    /// Volume section of SMART; the same.
    pub(in super::super) const SMART_VOLUME_BYTES: usize = 94;
    /// Volume: chunks of the disk, u32.
    pub(in super::super) const CHUNKS: usize = 4;
    /// Volume: sectors in a chunk, u32.
    pub(in super::super) const CHUNK_SECTORS: usize = 8;
    /// Volume: bytes in a sector, u32.
    pub(in super::super) const SECTOR_BYTES: usize = 12;
    /// Volume: sectors of the disk, u64; u32 in SMART's.
    pub(in super::super) const SECTORS: usize = 16;
    /// Volume of EnCase: GUID of the set of files, or zeros.
    pub(in super::super) const SET: usize = 64;

    /// Bytes of a table's header; the last 4 are the Adler-32 of the rest. Entries of 4 bytes follow,
    /// and behind them their Adler-32, unless the chunks themselves lie in the section (SMART).
    pub(in super::super) const TABLE_BYTES: usize = 24;
    /// Table: number of entries, u32.
    pub(in super::super) const ENTRIES: usize = 0;
    /// Table: what is added to every offset, u64 (EnCase 6.7 and newer, else 0).
    pub(in super::super) const BASE: usize = 8;
    /// Entry: the chunk is compressed (zlib); the other bits are its offset.
    pub(in super::super) const COMPRESSED: u32 = 1 << 31;

    /// Hash section: the disk's MD5, 16 bytes; the last 4 are the Adler-32 of the rest.
    pub(in super::super) const HASH_BYTES: usize = 36;
    /// Digest section: the disk's MD5, 16 bytes, and its SHA-1, 20; the last 4 as above.
    pub(in super::super) const DIGEST_BYTES: usize = 80;
    /// Bytes of an MD5.
    pub(in super::super) const MD5: usize = 16;
    /// Bytes of a SHA-1.
    pub(in super::super) const SHA1: usize = 20;
}

/// EWF2: EnCase Ex01.
///
/// Source: libewf, "Expert Witness Compression Format version 2 specification". That the size of a
/// chunk counts its checksum was measured with libewf 20260924.
pub(super) mod v2 {
    /// Bytes of a file's header.
    pub(in super::super) const HEADER_BYTES: usize = 32;
    /// Header: major version, 2.
    pub(in super::super) const MAJOR: usize = 8;
    /// Header: how texts and chunks are compressed, u16.
    pub(in super::super) const COMPRESSION: usize = 10;
    /// Compression: none.
    pub(in super::super) const NONE: u16 = 0;
    /// Compression: zlib.
    pub(in super::super) const ZLIB: u16 = 1;
    /// Compression: bzip2, without its own header and end.
    pub(in super::super) const BZIP2: u16 = 2;
    /// Header: number of the segment file, from 1, u32.
    pub(in super::super) const SEGMENT: usize = 12;
    /// Header: GUID of the set.
    pub(in super::super) const SET: usize = 16;

    /// Bytes of a section's descriptor, which stands behind its data; the last 4 are the Adler-32 of
    /// the rest. The last descriptor is the end of the file.
    pub(in super::super) const DESCRIPTOR_BYTES: usize = 64;
    /// Descriptor: what the section holds, u32.
    pub(in super::super) const KIND: usize = 0;
    /// Descriptor: flags, u32.
    pub(in super::super) const FLAGS: usize = 4;
    /// Descriptor: offset of the one before, 0 in the first, u64.
    pub(in super::super) const PREVIOUS: usize = 8;
    /// Descriptor: bytes of the data with its padding, u64.
    pub(in super::super) const DATA_LEN: usize = 16;
    /// Descriptor: its own length, u32.
    pub(in super::super) const OWN_LEN: usize = 24;
    /// Descriptor: MD5 of the data, 16 bytes.
    pub(in super::super) const HASH: usize = 32;
    /// Flag: there is an MD5 of the data.
    pub(in super::super) const HASHED: u32 = 1;
    /// Flag: the data is encrypted.
    pub(in super::super) const ENCRYPTED: u32 = 2;

    /// Section: the device, a text.
    pub(in super::super) const DEVICE: u32 = 1;
    /// Section: the case, a text.
    pub(in super::super) const CASE: u32 = 2;
    /// Section: table of chunks.
    pub(in super::super) const TABLE: u32 = 4;
    /// Section: sectors that could not be read.
    pub(in super::super) const ERRORS: u32 = 5;
    /// Section: what was written later.
    pub(in super::super) const INCREMENT: u32 = 7;
    /// Section: MD5 of the disk, and the Adler-32 of that.
    pub(in super::super) const MD5: u32 = 8;
    /// Section: SHA-1 of the disk, and the Adler-32 of that.
    pub(in super::super) const SHA1: u32 = 9;
    /// Section: keys.
    pub(in super::super) const KEYS: u32 = 11;
    /// Section: another file follows.
    pub(in super::super) const NEXT: u32 = 13;
    /// Section: the end of the set.
    pub(in super::super) const DONE: u32 = 15;
    /// Sections of single files (Lx01) have this number or a higher one.
    pub(in super::super) const SINGLE_FILES: u32 = 32;

    /// Bytes of a table's header; the Adler-32 of the first 16 stands at 16, padding follows. Behind
    /// the entries is their Adler-32.
    pub(in super::super) const TABLE_BYTES: usize = 32;
    /// Bytes of the header that have the checksum, with it.
    pub(in super::super) const TABLE_CHECKED: usize = 20;
    /// Table: number of its first chunk, u64.
    pub(in super::super) const FIRST: usize = 0;
    /// Table: number of entries, u32.
    pub(in super::super) const ENTRIES: usize = 8;
    /// Bytes of an entry.
    pub(in super::super) const ENTRY_BYTES: usize = 16;
    /// Entry: offset of the chunk in its file, or what it is filled with, u64.
    pub(in super::super) const OFFSET: usize = 0;
    /// Entry: bytes of the chunk, with its checksum, u32.
    pub(in super::super) const LEN: usize = 8;
    /// Entry: flags, u32.
    pub(in super::super) const CHUNK_FLAGS: usize = 12;
    /// Flag: compressed.
    pub(in super::super) const COMPRESSED: u32 = 1;
    /// Flag: an Adler-32 stands behind it.
    pub(in super::super) const CHECKSUMED: u32 = 2;
    /// Flag, with that of compression: eight bytes, again and again.
    pub(in super::super) const FILLED: u32 = 4;
}
