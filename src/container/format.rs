//! Facts: magic numbers and where they stand. No policy, no I/O.
//!
//! Sources: VHD specification 1.0 (Microsoft 2006), MS-VHDX 2.1, VMware Virtual Disk Format 5.0,
//! qemu `docs/interop/{qcow2,parallels,qed_spec}`, VirtualBox `VDICore.h`, wimlib `header.h`,
//! libewf's EWF and EWF2 documents, AFF4 1.0, ECMA-119 and ECMA-167, Microsoft FFU format, RFC 1952
//! and 8878, .xz 1.0.4, 7zFormat.txt, APPNOTE.TXT 6.3, partclone's `IMAGE_FORMATS.md`.

/// Bytes in a sector of a disk.
pub(super) const SECTOR: u64 = 512;

/// VHD: +0 of the footer, which is the last 512 bytes (511 by old Virtual PC) and, for a dynamic
/// disk, also the first.
pub(super) const VHD: &[u8] = b"conectix";
/// VHD: distances of the footer from the end.
pub(super) const VHD_FOOTERS: [usize; 2] = [512, 511];
/// VHDX: +0.
pub(super) const VHDX: &[u8] = b"vhdxfile";
/// VMDK: +0 of a sparse extent.
pub(super) const VMDK_SPARSE: &[u8] = b"KDMV";
/// VMDK: +0 of an ESX copy-on-write extent.
pub(super) const VMDK_COW: &[u8] = b"COWD";
/// VMDK: +0 of a descriptor, a text file that names the extents.
pub(super) const VMDK_DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
/// QCOW and QCOW2: +0; the version follows, u32 big-endian.
pub(super) const QCOW: &[u8] = b"QFI\xFB";
/// VDI: +0x40, u32 little-endian 0xBEDA107F.
pub(super) const VDI: &[u8] = &[0x7F, 0x10, 0xDA, 0xBE];
/// VDI: where the magic stands, behind 64 bytes of text.
pub(super) const VDI_AT: usize = 0x40;
/// WIM, SWM and ESD: +0.
pub(super) const WIM: &[u8] = b"MSWIM\0\0\0";
/// WIM made for a pipe by wimlib: +0.
pub(super) const WIM_PIPABLE: &[u8] = b"WLPWM\0\0\0";
/// FFU: +4, behind the length of the security header.
pub(super) const FFU: &[u8] = b"SignedImage ";
/// FFU: where the magic stands.
pub(super) const FFU_AT: usize = 4;
/// EWF (E01): +0.
pub(super) const E01: &[u8] = b"EVF\x09\x0D\x0A\xFF\x00";
/// EWF of single files (L01): +0.
pub(super) const L01: &[u8] = b"LVF\x09\x0D\x0A\xFF\x00";
/// EWF2 (Ex01): +0.
pub(super) const EX01: &[u8] = b"EVF2\x0D\x0A\x81\x00";
/// EWF2 of single files (Lx01): +0.
pub(super) const LX01: &[u8] = b"LEF2\x0D\x0A\x81\x00";
/// AFF 1-3: +0.
pub(super) const AFF: &[u8] = b"AFF10\r\n\0";
/// AFF4: the name of an archive member near the front.
pub(super) const AFF4_MEMBERS: [&[u8]; 3] =
    [b"aff4", b"information.turtle", b"container.description"];
/// QED: +0.
pub(super) const QED: &[u8] = b"QED\0";
/// Parallels: +0, old and new.
pub(super) const PARALLELS: [&[u8]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];
/// partclone: +0.
pub(super) const PARTCLONE: &[u8] = b"partclone-image";
/// DMG: +0 of the trailer, the last 512 bytes.
pub(super) const DMG: &[u8] = b"koly";
/// DMG: distance of the trailer from the end.
pub(super) const DMG_TRAILER: usize = 512;
/// ISO 9660: +1 of the first volume descriptor, which lies at sector 16 of 2048 bytes.
pub(super) const ISO: &[u8] = b"CD001";
/// UDF without ISO 9660: the same place.
pub(super) const UDF: &[u8] = b"BEA01";
/// ISO 9660 and UDF: where the magic stands.
pub(super) const ISO_AT: usize = 0x8001;
/// gzip: +0, with the only method there is.
pub(super) const GZIP: &[u8] = &[0x1F, 0x8B, 0x08];
/// bzip2: +0; a digit follows.
pub(super) const BZIP2: &[u8] = b"BZh";
/// bzip2: +4, the first block.
pub(super) const BZIP2_BLOCK: &[u8] = &[0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
/// xz: +0.
pub(super) const XZ: &[u8] = &[0xFD, b'7', b'z', b'X', b'Z', 0x00];
/// Zstandard: +0.
pub(super) const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
/// zip: +0 of a member.
pub(super) const ZIP: &[u8] = b"PK\x03\x04";
/// 7z: +0.
pub(super) const SEVEN_ZIP: &[u8] = &[b'7', b'z', 0xBC, 0xAF, 0x27, 0x1C];
/// A registry hive: +0.
pub(super) const HIVE: &[u8] = b"regf";

/// GPT header: +0, at sector 1 and in the last sector.
pub(super) const GPT: &[u8] = b"EFI PART";
/// MBR and most boot sectors: +510.
pub(super) const BOOT_SIGNATURE: &[u8] = &[0x55, 0xAA];
/// Where the boot signature stands.
pub(super) const BOOT_SIGNATURE_AT: usize = 510;
/// MBR: four entries of 16 bytes.
pub(super) const MBR_ENTRIES_AT: usize = 0x1BE;
/// MBR: bytes in the four entries.
pub(super) const MBR_ENTRIES_LEN: usize = 64;
/// Where a boot sector names its file system.
pub(super) const OEM_AT: usize = 3;
/// File systems whose name is enough.
pub(super) const OEM: &[(&[u8; 8], &str)] = &[
    (b"NTFS    ", "NTFS"),
    (b"-FVE-FS-", "BitLocker"),
    (b"EXFAT   ", "exFAT"),
    (b"ReFS\0\0\0\0", "ReFS"),
];

/// VHD, big-endian: VHD specification 1.0, "Hard Disk Footer Format", "Dynamic Disk Header Format",
/// "Block Allocation Table and Data Blocks".
pub(super) mod vhd {
    /// Bytes of the footer.
    pub(crate) const FOOTER_LEN: usize = 512;
    /// Major version of footer and header.
    pub(crate) const MAJOR: u32 = 1;
    /// Footer: version, major and minor in 16 bits each.
    pub(crate) const VERSION: usize = 12;
    /// Footer: where the dynamic header is.
    pub(crate) const DATA_OFFSET: usize = 16;
    /// Footer: the program that made it.
    pub(crate) const CREATOR: usize = 28;
    /// Footer: bytes of the disk.
    pub(crate) const CURRENT_SIZE: usize = 48;
    /// Footer: disk type.
    pub(crate) const TYPE: usize = 60;
    /// Footer: checksum.
    pub(crate) const CHECKSUM: usize = 64;
    /// Footer: 1 when the machine has a saved state.
    pub(crate) const SAVED_STATE: usize = 84;
    /// Disk type: the disk as it is, the footer behind it.
    pub(crate) const FIXED: u32 = 2;
    /// Disk type: blocks, allocated when written.
    pub(crate) const DYNAMIC: u32 = 3;
    /// Disk type: blocks that differ from a parent.
    pub(crate) const DIFFERENCING: u32 = 4;

    /// Dynamic header: +0.
    pub(crate) const HEADER: &[u8] = b"cxsparse";
    /// Bytes of the dynamic header.
    pub(crate) const HEADER_LEN: u64 = 1024;
    /// The same, for a buffer.
    pub(crate) const HEADER_BYTES: usize = 1024;
    /// Dynamic header: where the table is.
    pub(crate) const TABLE_OFFSET: usize = 16;
    /// Dynamic header: version.
    pub(crate) const HEADER_VERSION: usize = 24;
    /// Dynamic header: entries of the table.
    pub(crate) const MAX_ENTRIES: usize = 28;
    /// Dynamic header: bytes of the disk in a block.
    pub(crate) const BLOCK_SIZE: usize = 32;
    /// Dynamic header: checksum.
    pub(crate) const HEADER_CHECKSUM: usize = 36;
    /// Footer: the disk's identifier.
    pub(crate) const UUID: usize = 68;
    /// Dynamic header: the parent's identifier.
    pub(crate) const PARENT_UUID: usize = 40;
    /// Dynamic header: the parent's name, UTF-16 big-endian.
    pub(crate) const PARENT_NAME: usize = 64;
    /// Bytes of the parent's name.
    pub(crate) const PARENT_NAME_LEN: usize = 512;
    /// Dynamic header: where the parent is, eight entries.
    pub(crate) const LOCATORS: usize = 576;
    /// Number of locators.
    pub(crate) const LOCATOR_COUNT: usize = 8;
    /// Bytes of a locator: code, space, length, reserved, offset.
    pub(crate) const LOCATOR_LEN: usize = 24;
    /// Locator: bytes (by some programs sectors) of the space for its text.
    pub(crate) const LOCATOR_SPACE: usize = 4;
    /// Locator: bytes of its text.
    pub(crate) const LOCATOR_TEXT: usize = 8;
    /// Locator: offset of its text in the file.
    pub(crate) const LOCATOR_OFFSET: usize = 16;
    /// Locator code: a path relative to this file, UTF-16 little-endian.
    pub(crate) const RELATIVE: &[u8] = b"W2ru";
    /// Locator code: an absolute path, UTF-16 little-endian.
    pub(crate) const ABSOLUTE: &[u8] = b"W2ku";
    /// Longest path of a locator that is read.
    pub(crate) const MAX_PATH: u32 = 64 * 1024;
    /// Bytes of a table entry, the number of a sector.
    pub(crate) const ENTRY_LEN: u64 = 4;
    /// Table entry: no block.
    pub(crate) const ABSENT: u32 = 0xFFFF_FFFF;
    /// Smallest block with a whole byte of bitmap.
    pub(crate) const MIN_BLOCK: u64 = 4096;
    /// Bytes of a block for each byte of its bitmap: a bit for a sector.
    pub(crate) const BITMAP_RATIO: u64 = 4096;
}
