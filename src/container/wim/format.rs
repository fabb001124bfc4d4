//! Facts: the layout of WIM files. Little-endian throughout. No policy, no I/O.
//!
//! Sources: `shared/facts/containers.md` section 1, read in wimlib's `header.h`, `blob_table.c`,
//! `dentry.c`, `resource.c` and 7-Zip's `WimIn.cpp`, and measured.

/// Header: bytes.
pub(super) const HEADER_LEN: usize = 208;
/// Header: the same as a position: where resources may begin.
pub(super) const HEADER_END: u64 = 208;
/// Header: magic.
pub(super) const MAGIC: &[u8] = b"MSWIM\0\0\0";
/// Header: bytes of the header.
pub(super) const SIZE: usize = 0x08;
/// Header: version.
pub(super) const VERSION: usize = 0x0C;
/// Header: flags.
pub(super) const FLAGS: usize = 0x10;
/// Header: bytes of a chunk.
pub(super) const CHUNK_SIZE: usize = 0x14;
/// Header: what all parts of a split archive have in common.
pub(super) const GUID: usize = 0x18;
/// Bytes of it.
pub(super) const GUID_LEN: usize = 16;
/// Header: number of this part and of all parts, 16 bits each.
pub(super) const PART: usize = 0x28;
/// Header: number of images.
pub(super) const IMAGES: usize = 0x2C;
/// Header: resource header of the blob table.
pub(super) const TABLE: usize = 0x30;
/// Header: resource header of the XML data.
pub(super) const XML: usize = 0x48;
/// Header: resource header of the boot image's metadata.
pub(super) const BOOT: usize = 0x60;
/// Header: number of the boot image, 0 for none.
pub(super) const BOOT_INDEX: usize = 0x78;
/// Header: resource header of the integrity table.
pub(super) const INTEGRITY: usize = 0x7C;

/// Version of WIMs without solid resources.
pub(super) const PLAIN_VERSION: u32 = 0x10D00;
/// Version of WIMs with solid resources (ESD).
pub(super) const SOLID_VERSION: u32 = 0xE00;

/// Header flags.
pub(super) mod flag {
    pub(crate) const READONLY: u32 = 0x4;
    pub(crate) const SPANNED: u32 = 0x8;
    pub(crate) const WRITE_IN_PROGRESS: u32 = 0x40;
    pub(crate) const XPRESS: u32 = 0x2_0000;
    pub(crate) const LZX: u32 = 0x4_0000;
    pub(crate) const LZMS: u32 = 0x8_0000;
    pub(crate) const XPRESS2: u32 = 0x20_0000;
}

/// Resource header: bytes. Size in the file and flags share the first eight.
pub(super) const RESOURCE_LEN: usize = 24;
/// Resource header: offset in the file.
pub(super) const RESOURCE_OFFSET: usize = 8;
/// Resource header: bytes of the contents.
pub(super) const RESOURCE_CONTENTS: usize = 16;
/// Resource flags.
pub(super) mod res {
    pub(crate) const METADATA: u8 = 0x02;
    pub(crate) const COMPRESSED: u8 = 0x04;
    pub(crate) const SPANNED: u8 = 0x08;
    pub(crate) const SOLID: u8 = 0x10;
}

/// Blob table: bytes of an entry.
pub(super) const BLOB_LEN: usize = 50;
/// Blob: number of the part it lies in.
pub(super) const BLOB_PART: usize = 24;
/// Blob: how many streams of all images have these contents.
pub(super) const BLOB_REFS: usize = 26;
/// Blob: SHA-1 of the contents.
pub(super) const BLOB_HASH: usize = 30;
/// Blob: the contents' length that says "this entry is a solid resource".
pub(super) const SOLID_MARK: u64 = 0x1_0000_0000;

/// Bytes of a SHA-1.
pub(super) const HASH_LEN: usize = 20;
/// The hash of no contents at all.
pub(super) const NO_HASH: [u8; HASH_LEN] = [0; HASH_LEN];

/// Contents above this length have chunk offsets of eight bytes.
pub(super) const WIDE_OFFSETS: u64 = 0xFFFF_FFFF;

/// Solid resource: bytes of its own header: contents, chunk size, method.
pub(super) const SOLID_HEADER: usize = 16;

/// Security data: total length, number of descriptors.
pub(super) const SECURITY_TOTAL: usize = 0;

/// Dentry: fixed part.
pub(super) mod dentry {
    /// Bytes of the fixed part.
    pub(crate) const LEN: usize = 102;
    pub(crate) const ATTRIBUTES: usize = 0x08;
    pub(crate) const SECURITY: usize = 0x0C;
    /// Offset of the list of children in the metadata; 0 for none.
    pub(crate) const CHILDREN: usize = 0x10;
    /// Three FILETIMEs.
    pub(crate) const TIMES: usize = 0x28;
    /// Bytes of the times.
    pub(crate) const TIMES_LEN: usize = 24;
    pub(crate) const HASH: usize = 0x40;
    /// Hard-link group, or reparse tag and flags.
    pub(crate) const LINK: usize = 0x58;
    /// Number of extra stream entries.
    pub(crate) const STREAMS: usize = 0x60;
    /// Bytes of the short name.
    pub(crate) const SHORT_LEN: usize = 0x62;
    /// Bytes of the name.
    pub(crate) const NAME_LEN: usize = 0x64;
    pub(crate) const NAME: usize = 0x66;
}

/// Extra stream entry.
pub(super) mod stream {
    pub(crate) const LENGTH: usize = 0x00;
    pub(crate) const HASH: usize = 0x10;
    pub(crate) const NAME_LEN: usize = 0x24;
    pub(crate) const NAME: usize = 0x26;
}

/// Everything in the metadata begins at a multiple of this.
pub(super) const ALIGN: u64 = 8;

/// File attributes.
pub(super) mod attribute {
    pub(crate) const DIRECTORY: u32 = 0x10;
    pub(crate) const REPARSE: u32 = 0x400;
    pub(crate) const ENCRYPTED: u32 = 0x4000;
}

/// Integrity table: bytes before the hashes: size, number, bytes a chunk.
pub(super) const INTEGRITY_HEAD: usize = 12;
