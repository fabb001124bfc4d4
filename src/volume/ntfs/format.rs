//! On-disk facts of NTFS 1.2 to 3.1: offsets, codes, flags and legal ranges. No policy, no I/O.
//!
//! All numbers little-endian. Sources: the `ntfs.h`/`layout.h` documentation of Linux-NTFS as
//! collected in flatcap's "NTFS Documentation", libfsntfs "New Technologies File System (NTFS)
//! format specification", both checked against Windows-made volumes (Windows 2003, 7, 10).

/// Boot sector, volume offset 0, 512 bytes.
pub mod boot {
    /// 8 bytes: `NTFS` and four spaces.
    pub const SIGNATURE: usize = 0x03;
    /// u16, bytes: 256, 512, 1024, 2048 or 4096.
    pub const SECTOR_LEN: usize = 0x0B;
    /// u8: sectors a cluster up to 0x80; above, 2^(256 - n) sectors.
    pub const SECTORS_PER_CLUSTER: usize = 0x0D;
    /// u64, sectors; the backup boot sector lies behind them and is not counted.
    pub const TOTAL_SECTORS: usize = 0x28;
    /// u64, LCN of $MFT's first cluster.
    pub const MFT_LCN: usize = 0x30;
    /// u64, LCN of $MFTMirr's first cluster.
    pub const MIRROR_LCN: usize = 0x38;
    /// i8: clusters a file record if positive, else 2^-n bytes.
    pub const RECORD_LEN: usize = 0x40;
    /// i8: clusters an index block if positive, else 2^-n bytes.
    pub const INDEX_LEN: usize = 0x44;
    /// u64, volume serial number.
    pub const SERIAL: usize = 0x48;
}

/// Multi-sector protection: the last two bytes of each 512-byte stride are replaced by an update
/// sequence number, the originals kept in an array. The stride is 512 on every sector length.
pub mod fixup {
    /// Bytes between two protected places.
    pub const STRIDE: usize = 512;
    /// u16, offset of the array: the number, then one original a stride.
    pub const ARRAY_OFFSET: usize = 0x04;
    /// u16: strides + 1.
    pub const ARRAY_COUNT: usize = 0x06;
    /// In place of the array on DAX volumes: a checksum instead of update sequences.
    pub const CRC4: [u8; 4] = *b"CRC4";
}

/// File record ("FILE"), 1024, 2048 or 4096 bytes.
pub mod record {
    /// 4 bytes.
    pub const MAGIC: [u8; 4] = *b"FILE";
    /// 4 bytes: a driver found the record torn and marked it.
    pub const BAD_MAGIC: [u8; 4] = *b"BAAD";
    /// u64, $LogFile sequence number.
    pub const LSN: usize = 0x08;
    /// u16, counts reuses; 0 never in use.
    pub const SEQUENCE: usize = 0x10;
    /// u16, number of $FILE_NAME attributes.
    pub const LINKS: usize = 0x12;
    /// u16, offset of the first attribute, a multiple of 8.
    pub const FIRST_ATTRIBUTE: usize = 0x14;
    /// u16, flags.
    pub const FLAGS: usize = 0x16;
    /// u32, bytes in use with the end marker's 8; a multiple of 8.
    pub const BYTES_IN_USE: usize = 0x18;
    /// u32, bytes of the record.
    pub const BYTES_ALLOCATED: usize = 0x1C;
    /// u64, reference to the base record; 0 in a base record.
    pub const BASE: usize = 0x20;
    /// u16, the next free attribute id.
    pub const NEXT_ATTRIBUTE_ID: usize = 0x28;
    /// u32, the record's own number; only if the update sequence array starts at 0x30 (NTFS 3.1).
    pub const OWN_NUMBER: usize = 0x2C;
    /// Where the array starts when there is a record number.
    pub const ARRAY_WITH_NUMBER: u16 = 0x30;
    /// Where the array starts in NTFS 1.2 and 3.0.
    pub const HEADER_LEN_OLD: usize = 0x2A;
    /// Flag: in use.
    pub const IN_USE: u16 = 0x0001;
    /// Flag: has a $I30 index.
    pub const DIRECTORY: u16 = 0x0002;
}

/// Attribute header.
pub mod attribute {
    /// u32, type code; [`END`] ends the chain.
    pub const CODE: usize = 0x00;
    /// u32, bytes, a multiple of 8.
    pub const LEN: usize = 0x04;
    /// u8: 0 resident, 1 in clusters.
    pub const NON_RESIDENT: usize = 0x08;
    /// u8, UTF-16 units of the name.
    pub const NAME_LEN: usize = 0x09;
    /// u16, offset of the name.
    pub const NAME_OFFSET: usize = 0x0A;
    /// u16, flags.
    pub const FLAGS: usize = 0x0C;
    /// u16, unique in the record.
    pub const ID: usize = 0x0E;
    /// Resident: u32, bytes of the value.
    pub const VALUE_LEN: usize = 0x10;
    /// Resident: u16, offset of the value.
    pub const VALUE_OFFSET: usize = 0x14;
    /// Resident: u8, 1 if the value is in an index ($FILE_NAME).
    pub const INDEXED: usize = 0x16;
    /// Resident: bytes of the header.
    pub const RESIDENT_LEN: usize = 0x18;
    /// Non-resident: i64, first VCN of this piece.
    pub const FIRST_VCN: usize = 0x10;
    /// Non-resident: i64, last VCN of this piece; first - 1 when empty.
    pub const LAST_VCN: usize = 0x18;
    /// Non-resident: u16, offset of the runs.
    pub const RUNS_OFFSET: usize = 0x20;
    /// Non-resident: u16 (u8 in old volumes), log2 of clusters a compression unit; 0 or 4.
    pub const COMPRESSION_UNIT: usize = 0x22;
    /// Non-resident, piece of VCN 0 only: u64, bytes of all clusters, holes included.
    pub const ALLOCATED: usize = 0x28;
    /// Non-resident, piece of VCN 0 only: u64, bytes of the stream.
    pub const DATA_LEN: usize = 0x30;
    /// Non-resident, piece of VCN 0 only: u64, bytes behind which everything reads as zeros.
    pub const INITIALISED: usize = 0x38;
    /// Non-resident: bytes of the header without the next field.
    pub const NON_RESIDENT_LEN: usize = 0x40;
    /// Sparse or compressed, piece of VCN 0 only: u64, bytes of real clusters.
    pub const TOTAL_ALLOCATED: usize = 0x40;
    /// The code that ends the chain.
    pub const END: u32 = 0xFFFF_FFFF;
    /// Bytes of the end marker (the code and four bytes nobody reads).
    pub const END_LEN: usize = 8;
    /// Flag: compressed by LZNT1 (low byte: method; 1 is the only one).
    pub const COMPRESSED: u16 = 0x0001;
    /// Flag mask: compression method.
    pub const COMPRESSION_MASK: u16 = 0x00FF;
    /// Flag: encrypted (EFS).
    pub const ENCRYPTED: u16 = 0x4000;
    /// Flag: has holes.
    pub const SPARSE: u16 = 0x8000;
}

/// Attribute type codes.
pub mod code {
    /// Times, DOS attributes, ids.
    pub const STANDARD_INFORMATION: u32 = 0x10;
    /// Where the attributes of a file of several records are.
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    /// A name.
    pub const FILE_NAME: u32 = 0x30;
    /// Object id (GUID).
    pub const OBJECT_ID: u32 = 0x40;
    /// Access control (NTFS 1.2; in $Secure since 3.0).
    pub const SECURITY_DESCRIPTOR: u32 = 0x50;
    /// Volume label.
    pub const VOLUME_NAME: u32 = 0x60;
    /// Version and flags of the volume.
    pub const VOLUME_INFORMATION: u32 = 0x70;
    /// A data stream.
    pub const DATA: u32 = 0x80;
    /// Root node of an index.
    pub const INDEX_ROOT: u32 = 0x90;
    /// Further nodes of an index.
    pub const INDEX_ALLOCATION: u32 = 0xA0;
    /// Which index blocks (or records of $MFT) are in use.
    pub const BITMAP: u32 = 0xB0;
    /// Reparse tag and data.
    pub const REPARSE_POINT: u32 = 0xC0;
    /// Extended attributes' summary.
    pub const EA_INFORMATION: u32 = 0xD0;
    /// Extended attributes.
    pub const EA: u32 = 0xE0;
    /// EFS and TxF data.
    pub const LOGGED_UTILITY_STREAM: u32 = 0x100;

    /// The code's name as the field writes it.
    #[must_use]
    pub fn name(code: u32) -> &'static str {
        match code {
            STANDARD_INFORMATION => "$STANDARD_INFORMATION",
            ATTRIBUTE_LIST => "$ATTRIBUTE_LIST",
            FILE_NAME => "$FILE_NAME",
            OBJECT_ID => "$OBJECT_ID",
            SECURITY_DESCRIPTOR => "$SECURITY_DESCRIPTOR",
            VOLUME_NAME => "$VOLUME_NAME",
            VOLUME_INFORMATION => "$VOLUME_INFORMATION",
            DATA => "$DATA",
            INDEX_ROOT => "$INDEX_ROOT",
            INDEX_ALLOCATION => "$INDEX_ALLOCATION",
            BITMAP => "$BITMAP",
            REPARSE_POINT => "$REPARSE_POINT",
            EA_INFORMATION => "$EA_INFORMATION",
            EA => "$EA",
            LOGGED_UTILITY_STREAM => "$LOGGED_UTILITY_STREAM",
            _ => "attribute",
        }
    }
}

/// $STANDARD_INFORMATION value.
pub mod standard_information {
    /// u32, DOS attributes.
    pub const ATTRIBUTES: usize = 0x20;
}

/// $ATTRIBUTE_LIST entry: 26 bytes and the name, padded to 8.
pub mod attribute_list {
    /// u32, type code.
    pub const CODE: usize = 0x00;
    /// u16, bytes of the entry.
    pub const LEN: usize = 0x04;
    /// u8, UTF-16 units of the name.
    pub const NAME_LEN: usize = 0x06;
    /// u8, offset of the name.
    pub const NAME_OFFSET: usize = 0x07;
    /// u64, first VCN of the piece.
    pub const FIRST_VCN: usize = 0x08;
    /// u64, record that holds the piece.
    pub const REFERENCE: usize = 0x10;
    /// u16, id of the attribute in that record.
    pub const ID: usize = 0x18;
    /// Bytes of an entry without a name.
    pub const MIN_LEN: usize = 0x1A;
}

/// $FILE_NAME value.
pub mod file_name {
    /// u64, reference to the directory.
    pub const PARENT: usize = 0x00;
    /// u64, bytes allocated (a copy, may be stale).
    pub const ALLOCATED: usize = 0x28;
    /// u64, bytes of the stream (a copy, may be stale).
    pub const DATA_LEN: usize = 0x30;
    /// u32, attributes.
    pub const ATTRIBUTES: usize = 0x38;
    /// u8, UTF-16 units of the name, 1..=255.
    pub const NAME_LEN: usize = 0x40;
    /// u8, namespace.
    pub const NAMESPACE: usize = 0x41;
    /// The name.
    pub const NAME: usize = 0x42;
    /// Attribute: a directory.
    pub const DIRECTORY: u32 = 0x1000_0000;
    /// Namespace: any unit but NUL and `/`, case matters.
    pub const POSIX: u8 = 0;
    /// Namespace: the long name of a pair.
    pub const WIN32: u8 = 1;
    /// Namespace: the 8.3 name of a pair.
    pub const DOS: u8 = 2;
    /// Namespace: one name that is both.
    pub const WIN32_AND_DOS: u8 = 3;
}

/// $INDEX_ROOT value, index blocks ("INDX"), nodes and entries.
pub mod index {
    /// Root: u32, code of the indexed attribute, 0x30 in a directory, 0 in a view.
    pub const ROOT_CODE: usize = 0x00;
    /// Root: u32, collation rule.
    pub const ROOT_COLLATION: usize = 0x04;
    /// Root: u32, bytes of an index block.
    pub const ROOT_BLOCK_LEN: usize = 0x08;
    /// Root: the node header's offset.
    pub const ROOT_NODE: usize = 0x10;
    /// Collation by upper-cased name.
    pub const COLLATION_FILE_NAME: u32 = 1;
    /// Collation by one u32.
    pub const COLLATION_NUMBER: u32 = 0x10;
    /// Collation by hash and id, both u32 ($SDH).
    pub const COLLATION_SECURITY_HASH: u32 = 0x12;
    /// Collation by a sequence of u32.
    pub const COLLATION_NUMBERS: u32 = 0x13;
    /// Block: 4 bytes.
    pub const BLOCK_MAGIC: [u8; 4] = *b"INDX";
    /// Block: u64, LSN.
    pub const BLOCK_LSN: usize = 0x08;
    /// Block: u64, own VCN; in clusters, or in 512-byte units where a block is smaller than one.
    pub const BLOCK_VCN: usize = 0x10;
    /// Block: the node header's offset.
    pub const BLOCK_NODE: usize = 0x18;
    /// Unit of a VCN where a block is smaller than a cluster.
    pub const SMALL_UNIT: u32 = 512;
    /// Node: u32, offset of the first entry from the node header.
    pub const FIRST_ENTRY: usize = 0x00;
    /// Node: u32, bytes in use from the node header on.
    pub const USED: usize = 0x04;
    /// Node: u32, bytes that may be used from the node header on.
    pub const ALLOCATED: usize = 0x08;
    /// Node: u8, flags.
    pub const NODE_FLAGS: usize = 0x0C;
    /// Node: bytes of the header.
    pub const NODE_LEN: usize = 0x10;
    /// Node flag: has children.
    pub const HAS_CHILDREN: u8 = 1;
    /// Entry: u64, reference to the file (directories); u16 data offset, u16 data length (views).
    pub const ENTRY_REFERENCE: usize = 0x00;
    /// Entry: u16, bytes, a multiple of 8.
    pub const ENTRY_LEN: usize = 0x08;
    /// Entry: u16, bytes of the key.
    pub const KEY_LEN: usize = 0x0A;
    /// Entry: u16, flags.
    pub const ENTRY_FLAGS: usize = 0x0C;
    /// Entry: the key.
    pub const KEY: usize = 0x10;
    /// Entry flag: the last 8 bytes are the child's VCN.
    pub const ENTRY_HAS_CHILD: u16 = 1;
    /// Entry flag: last of its node, without a key.
    pub const ENTRY_END: u16 = 2;
}

/// $VOLUME_INFORMATION value.
pub mod volume_information {
    /// u8, major version.
    pub const MAJOR: usize = 0x08;
    /// u8, minor version.
    pub const MINOR: usize = 0x09;
    /// u16, flags.
    pub const FLAGS: usize = 0x0A;
    /// Flag: chkdsk must run.
    pub const DIRTY: u16 = 0x0001;
    /// Flag: $LogFile is to be resized.
    pub const RESIZE_LOG: u16 = 0x0002;
    /// Flag: to be upgraded at the next mount.
    pub const UPGRADE: u16 = 0x0004;
    /// Flag: the USN journal is being deleted.
    pub const DELETE_USN: u16 = 0x0010;
    /// Flag: object ids are to be repaired.
    pub const REPAIR_IDS: u16 = 0x0020;
    /// Flag: chkdsk is at work.
    pub const CHKDSK_UNDERWAY: u16 = 0x4000;
    /// Flag: chkdsk changed the volume and is not finished.
    pub const CHKDSK_MODIFIED: u16 = 0x8000;
}

/// $LogFile restart page (two, at 0 and 4096) and restart area.
pub mod log {
    /// 4 bytes: a restart page.
    pub const RESTART: [u8; 4] = *b"RSTR";
    /// 4 bytes: a restart page written by chkdsk.
    pub const CHKDSK: [u8; 4] = *b"CHKD";
    /// Distance of the two pages, and their length where they do not say otherwise.
    pub const PAGE_LEN: usize = 4096;
    /// u64, LSN of chkdsk.
    pub const CHKDSK_LSN: usize = 0x08;
    /// u32, bytes of a restart page.
    pub const SYSTEM_PAGE_LEN: usize = 0x10;
    /// u16, offset of the restart area.
    pub const AREA_OFFSET: usize = 0x18;
    /// u16, minor version.
    pub const MINOR: usize = 0x1A;
    /// u16, major version.
    pub const MAJOR: usize = 0x1C;
    /// Area: u64, current LSN.
    pub const AREA_LSN: usize = 0x00;
    /// Area: u16, head of the list of clients in use; 0xFFFF: none, the log is closed.
    pub const AREA_IN_USE: usize = 0x0C;
    /// Area: u16, flags.
    pub const AREA_FLAGS: usize = 0x0E;
    /// No client.
    pub const NO_CLIENT: u16 = 0xFFFF;
    /// Area flag: the volume was dismounted cleanly.
    pub const CLEAN: u16 = 2;
}

/// Numbers of the system's own records.
pub mod number {
    /// $MFT.
    pub const MFT: u64 = 0;
    /// $MFTMirr.
    pub const MIRROR: u64 = 1;
    /// $LogFile.
    pub const LOG_FILE: u64 = 2;
    /// $Volume.
    pub const VOLUME: u64 = 3;
    /// The root directory.
    pub const ROOT: u64 = 5;
    /// $Bitmap.
    pub const BITMAP: u64 = 6;
    /// $BadClus.
    pub const BAD_CLUSTERS: u64 = 8;
    /// $UpCase.
    pub const UPCASE: u64 = 10;
    /// $Extend.
    pub const EXTEND: u64 = 11;
    /// The first record that belongs to a user's file.
    pub const FIRST_USER: u64 = 24;
}
