//! Facts: magic numbers and where they stand. No policy, no I/O.
//!
//! Sources: VHD specification 1.0 (Microsoft 2006), MS-VHDX 2.1, VMware Virtual Disk Format 5.0,
//! qemu `docs/interop/{qcow2,parallels,qed_spec}`, VirtualBox `VDICore.h`, wimlib `header.h`,
//! libewf's EWF and EWF2 documents, AFF4 1.0, ECMA-119 and ECMA-167, Microsoft FFU format, RFC 1952
//! and 8878, .xz 1.0.4, 7zFormat.txt, APPNOTE.TXT 6.3, partclone's `IMAGE_FORMATS.md`, ntfsclone.c,
//! POSIX.1 (ustar), lz4 `lz4_Frame_format.md`, lzop `lzop.c`, MS-CAB 2.1, Proxmox `vma_spec.txt`, qemu
//! `block/vmdk.c` (SESPARSE), LUKS On-Disk Format 1.2, Gary Kessler's table of file signatures (Ghost,
//! Acronis).

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
/// ntfsclone: +0 of its special image.
pub(super) const NTFSCLONE: &[u8] = b"\0ntfsclone-image";
/// Partition Image: +0.
pub(super) const PARTIMAGE: &[u8] = b"PaRtImAgE-VoLuMe";
/// tar (POSIX and GNU): +257.
pub(super) const TAR: &[u8] = b"ustar";
/// tar: where the magic stands.
pub(super) const TAR_AT: usize = 257;
/// tar: bytes of the header.
pub(super) const TAR_HEADER: usize = 512;
/// tar: bytes of the first member's name, at +0.
pub(super) const TAR_NAME: usize = 100;
/// tar: where the sum of the header's bytes stands, in octal digits; they count as blanks.
pub(super) const TAR_SUM: std::ops::Range<usize> = 148..156;
/// lz4: +0 of a frame, and of the older format.
pub(super) const LZ4: [&[u8]; 2] = [&[0x04, 0x22, 0x4D, 0x18], &[0x02, 0x21, 0x4C, 0x18]];
/// lzop: +0.
pub(super) const LZOP: &[u8] = &[0x89, b'L', b'Z', b'O', 0, 0x0D, 0x0A, 0x1A, 0x0A];
/// Cabinet: +0, with its reserved field.
pub(super) const CAB: &[u8] = b"MSCF\0\0\0\0";
/// RAR: +0, versions 4 and 5.
pub(super) const RAR: &[u8] = b"Rar!\x1A\x07";
/// Norton Ghost: +0.
pub(super) const GHOST: &[u8] = &[0xFE, 0xEF, 0x01];
/// Acronis True Image: +0, younger and older archives.
pub(super) const TIB: [&[u8]; 2] = [
    &[0xB4, 0x6E, 0x68, 0x44],
    &[0xCE, 0x24, 0xB9, 0xA2, 0x20, 0, 0, 0],
];
/// Proxmox VMA: +0, with version 1.
pub(super) const VMA: &[u8] = b"VMA\0\0\0\0\x01";
/// VMDK: +0 of an extent of type SESPARSE, u64 little-endian 0xCAFEBABE.
pub(super) const VMDK_SESPARSE: &[u8] = &[0xBE, 0xBA, 0xFE, 0xCA, 0, 0, 0, 0];
/// LUKS 1 and 2: +0.
pub(super) const LUKS: &[u8] = b"LUKS\xBA\xBE";
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

/// VHDX, little-endian: MS-VHDX 2.2 (header), 2.3 (log), 2.5 (block table), 2.6 (metadata).
pub(super) mod vhdx {
    /// An identifier as the file has it: the first three groups are little-endian.
    const fn guid(text: u128) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = text.to_be_bytes();
        [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
    }

    /// What offsets in the file are multiples of.
    pub(crate) const MIB: u64 = 1 << 20;
    /// File identifier: the program that made the file, UTF-16.
    pub(crate) const CREATOR: usize = 8;
    /// File identifier: units of that text.
    pub(crate) const CREATOR_UNITS: usize = 256;
    /// Where the two headers are.
    pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
    /// Bytes of a header that its checksum covers.
    pub(crate) const HEADER_LEN: usize = 4096;
    /// Header: +0.
    pub(crate) const HEADER: &[u8] = b"head";
    /// Header, region table and log entry: checksum.
    pub(crate) const CHECKSUM: usize = 4;
    /// Header: sequence number.
    pub(crate) const SEQUENCE: usize = 8;
    /// Header: changes when any byte of the file does.
    pub(crate) const FILE_WRITE: usize = 16;
    /// Header: changes when the disk does; what children name.
    pub(crate) const DATA_WRITE: usize = 32;
    /// Header: which entries of the log are alive; zero when none is.
    pub(crate) const LOG_GUID: usize = 48;
    /// Header: version of the log, 0.
    pub(crate) const LOG_VERSION: usize = 64;
    /// Header: version of the format, 1.
    pub(crate) const VERSION: usize = 66;
    /// Header: bytes of the log.
    pub(crate) const LOG_LEN: usize = 68;
    /// Header: where the log is.
    pub(crate) const LOG_OFFSET: usize = 72;

    /// Where the two region tables are.
    pub(crate) const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
    /// Bytes of a region table, and of the metadata table.
    pub(crate) const TABLE_LEN: usize = 64 << 10;
    /// Region table: +0.
    pub(crate) const REGION: &[u8] = b"regi";
    /// Region table: how many entries follow.
    pub(crate) const REGION_COUNT: usize = 8;
    /// Region table: the first entry.
    pub(crate) const REGION_ENTRIES: usize = 16;
    /// Most entries of a region table, and of the metadata table.
    pub(crate) const MAX_ENTRIES: usize = 2047;
    /// Bytes of an entry of either table, behind the table's head.
    pub(crate) const ENTRY_LEN: usize = 32;
    /// Region: the block table.
    pub(crate) const BAT: [u8; 16] = guid(0x2DC2_7766_F623_4200_9D64_115E_9BFD_4A08);
    /// Region: metadata.
    pub(crate) const METADATA: [u8; 16] = guid(0x8B7C_A206_4790_4B9A_B8FE_575F_050F_886E);

    /// Metadata table: +0.
    pub(crate) const METADATA_TABLE: &[u8] = b"metadata";
    /// Metadata table: how many entries follow, 16 bits.
    pub(crate) const METADATA_COUNT: usize = 10;
    /// Metadata table: the first entry.
    pub(crate) const METADATA_ENTRIES: usize = 32;
    /// Metadata entry: the item is not the format's.
    pub(crate) const IS_USER: u32 = 1;
    /// Metadata entry: who does not know the item must not open the file.
    pub(crate) const IS_REQUIRED: u32 = 4;
    /// Item: block size and flags.
    pub(crate) const PARAMETERS: [u8; 16] = guid(0xCAA1_6737_FA36_4D43_B3B6_33F0_AA44_E76B);
    /// Item: bytes of the disk.
    pub(crate) const DISK_SIZE: [u8; 16] = guid(0x2FA5_4224_CD1B_4876_B211_5DBE_D83B_F4B8);
    /// Item: the identity that the disk shows to its machine.
    pub(crate) const DISK_ID: [u8; 16] = guid(0xBECA_12AB_B2E6_4523_93EF_C309_E000_C746);
    /// Item: bytes of a sector as the machine addresses it.
    pub(crate) const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_BF1D_A96F_4709_BA47_F233_A8FA_AB5F);
    /// Item: bytes of a sector of the medium.
    pub(crate) const PHYSICAL_SECTOR: [u8; 16] = guid(0xCDA3_48C7_445D_4471_9CC9_E988_5251_C556);
    /// Item: where the parent is.
    pub(crate) const PARENT_LOCATOR: [u8; 16] = guid(0xA8D3_5F2D_B30B_454D_ABF7_D3D8_4834_AB0C);
    /// Parameters: blocks stay allocated, the disk is a fixed one.
    pub(crate) const LEAVE_ALLOCATED: u32 = 1;
    /// Parameters: the disk has a parent.
    pub(crate) const HAS_PARENT: u32 = 2;
    /// Locator of a parent that is a VHDX.
    pub(crate) const LOCATOR_VHDX: [u8; 16] = guid(0xB04A_EFB7_D19E_4A81_B789_25B8_E944_5913);
    /// Locator: how many keys follow, 16 bits.
    pub(crate) const LOCATOR_COUNT: usize = 18;
    /// Locator: the first key.
    pub(crate) const LOCATOR_ENTRIES: usize = 20;
    /// Locator: bytes of an entry.
    pub(crate) const LOCATOR_ENTRY_LEN: usize = 12;

    /// Longest disk.
    pub(crate) const MAX_DISK: u64 = 64 << 40;
    /// Smallest and largest block.
    pub(crate) const BLOCKS: std::ops::RangeInclusive<u64> = MIB..=256 << 20;
    /// Sectors whose bits are in one block of the sector bitmap.
    pub(crate) const CHUNK_SECTORS: u64 = 1 << 23;
    /// Bytes of a block of the sector bitmap.
    pub(crate) const BITMAP_LEN: u64 = MIB;
    /// Block table entry: the state.
    pub(crate) const STATE: u64 = 7;
    /// Block table entry: bits before the offset, which counts MiB.
    pub(crate) const OFFSET_SHIFT: u32 = 20;
    /// State of a block: what the parent shows, or zeros.
    pub(crate) const NOT_PRESENT: u64 = 0;
    /// State of a block: anything; never the parent's.
    pub(crate) const UNDEFINED: u64 = 1;
    /// State of a block: zeros.
    pub(crate) const ZERO: u64 = 2;
    /// State of a block: freed by the machine; never the parent's.
    pub(crate) const UNMAPPED: u64 = 3;
    /// The same in the draft 0.95 of the specification.
    pub(crate) const UNMAPPED_DRAFT: u64 = 5;
    /// State of a block, or of a bitmap: in the file.
    pub(crate) const PRESENT: u64 = 6;
    /// State of a block: sectors whose bit is set are in the file, others are the parent's.
    pub(crate) const PARTIAL: u64 = 7;

    /// Bytes of a sector of the log.
    pub(crate) const LOG_SECTOR: usize = 4096;
    /// Log entry: +0.
    pub(crate) const ENTRY: &[u8] = b"loge";
    /// Log entry: bytes, all sectors together.
    pub(crate) const ENTRY_SIZE: usize = 8;
    /// Log entry: where in the log the oldest entry is that must be replayed with this one.
    pub(crate) const ENTRY_TAIL: usize = 12;
    /// Log entry: sequence number.
    pub(crate) const ENTRY_SEQUENCE: usize = 16;
    /// Log entry: how many descriptors follow.
    pub(crate) const ENTRY_COUNT: usize = 24;
    /// Log entry: the log it belongs to.
    pub(crate) const ENTRY_GUID: usize = 32;
    /// Log entry: bytes that the file has had for certain.
    pub(crate) const ENTRY_FLUSHED: usize = 48;
    /// Log entry: bytes that the file must have.
    pub(crate) const ENTRY_LAST: usize = 56;
    /// Log entry: the first descriptor.
    pub(crate) const ENTRY_DESCRIPTORS: usize = 64;
    /// Bytes of a descriptor.
    pub(crate) const DESCRIPTOR_LEN: usize = 32;
    /// Descriptor of zeros: +0; the length stands at 8.
    pub(crate) const ZEROS: &[u8] = b"zero";
    /// Descriptor of a sector: +0; its last 4 bytes stand at 4, its first 8 at 8.
    pub(crate) const DATA: &[u8] = b"desc";
    /// Descriptor: where it goes.
    pub(crate) const TARGET: usize = 16;
    /// Descriptor: the entry's sequence number.
    pub(crate) const TARGET_SEQUENCE: usize = 24;
    /// Data sector: +0; the upper half of the sequence number stands at 4, the lower at 4092.
    pub(crate) const SECTOR_DATA: &[u8] = b"data";
}

/// QCOW2, big-endian: qemu `docs/interop/qcow2`, "Header", "Header extensions", "Host cluster
/// management", "Cluster mapping". Limits that only qemu has are called so.
pub(super) mod qcow2 {
    /// Bytes of the header of version 2; extensions follow.
    pub(crate) const HEADER_LEN_2: u64 = 72;
    /// Smallest header of version 3.
    pub(crate) const HEADER_LEN_3: u64 = 104;
    /// Header: version, 2 or 3.
    pub(crate) const VERSION: usize = 4;
    /// Header: where the name of the backing file is, 0 for none.
    pub(crate) const BACKING_OFFSET: usize = 8;
    /// Header: bytes of that name.
    pub(crate) const BACKING_LEN: usize = 16;
    /// Longest such name.
    pub(crate) const BACKING_MAX: usize = 1023;
    /// Header: log2 of the bytes in a cluster.
    pub(crate) const CLUSTER_BITS: usize = 20;
    /// Smallest of these.
    pub(crate) const MIN_CLUSTER_BITS: u32 = 9;
    /// Largest of these (qemu).
    pub(crate) const MAX_CLUSTER_BITS: u32 = 21;
    /// Header: bytes of the disk.
    pub(crate) const SIZE: usize = 24;
    /// Header: encryption; 0 none, 1 AES, 2 LUKS.
    pub(crate) const CRYPT: usize = 32;
    /// Header: entries of the L1 table.
    pub(crate) const L1_SIZE: usize = 36;
    /// Header: where the L1 table is.
    pub(crate) const L1_OFFSET: usize = 40;
    /// Longest L1 table in bytes (qemu).
    pub(crate) const L1_MAX: u64 = 32 << 20;
    /// Header: where the refcount table is.
    pub(crate) const REFCOUNTS_OFFSET: usize = 48;
    /// Header: clusters of the refcount table.
    pub(crate) const REFCOUNTS_CLUSTERS: usize = 56;
    /// Longest refcount table in bytes (qemu).
    pub(crate) const REFCOUNTS_MAX: u64 = 8 << 20;
    /// Header: how many snapshots there are.
    pub(crate) const SNAPSHOTS: usize = 60;
    /// Header, version 3: features without which the file cannot be read.
    pub(crate) const INCOMPATIBLE: usize = 72;
    /// Header, version 3: features that are untrue once a program that does not know them writes.
    pub(crate) const AUTOCLEAR: usize = 88;
    /// The same, as a place in the file.
    pub(crate) const AUTOCLEAR_AT: u64 = 88;
    /// Header, version 3: log2 of the bits of a refcount. In version 2 it is 4.
    pub(crate) const REFCOUNT_ORDER: usize = 96;
    /// Largest of these.
    pub(crate) const MAX_REFCOUNT_ORDER: u32 = 6;
    /// Header, version 3: its length.
    pub(crate) const HEADER_LENGTH: usize = 100;
    /// Header, version 3, if it is that long: 0 deflate, 1 zstd.
    pub(crate) const COMPRESSION: usize = 104;
    /// Incompatible: refcounts may be wrong.
    pub(crate) const DIRTY: u64 = 1;
    /// Incompatible: some structure is wrong.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// Incompatible: the disk's bytes are in another file.
    pub(crate) const EXTERNAL: u64 = 1 << 2;
    /// Incompatible: not deflate.
    pub(crate) const OTHER_COMPRESSION: u64 = 1 << 3;
    /// Incompatible: L2 entries of 16 bytes.
    pub(crate) const EXTENDED: u64 = 1 << 4;
    /// Extension: the end of them.
    pub(crate) const END: u32 = 0;
    /// Extension: format of the backing file.
    pub(crate) const BACKING_FORMAT: u32 = 0xE279_2ACA;
    /// Extension: names of feature bits.
    pub(crate) const FEATURE_NAMES: u32 = 0x6803_F857;
    /// L1 and L2: the bits of an offset.
    pub(crate) const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
    /// L1 and L2: what it points to has a refcount of one, and may be written in place.
    pub(crate) const COPIED: u64 = 1 << 63;
    /// L2: compressed.
    pub(crate) const COMPRESSED: u64 = 1 << 62;
    /// L2, version 3: reads as zeros.
    pub(crate) const ZERO: u64 = 1;
    /// Bytes of a table entry.
    pub(crate) const ENTRY_LEN: u64 = 8;
}

/// VDI, little-endian: VirtualBox `VDICore.h`, header 1.1, and its comments.
pub(super) mod vdi {
    /// Bytes of pre-header and header that are read.
    pub(crate) const HEADER_BYTES: usize = 512;
    /// Version: minor in the low half.
    pub(crate) const VERSION: usize = 0x44;
    /// Version 1.1.
    pub(crate) const VERSION_1_1: u32 = 0x0001_0001;
    /// Bytes of the header behind version.
    pub(crate) const HEADER_LEN: usize = 0x48;
    /// Smallest that has all fields used here.
    pub(crate) const MIN_HEADER_LEN: u32 = 0x180;
    /// Type: 1 dynamic, 2 static, 3 undo, 4 differencing.
    pub(crate) const TYPE: usize = 0x4C;
    /// Type: blocks, allocated when written.
    pub(crate) const DYNAMIC: u32 = 1;
    /// Type: all blocks there.
    pub(crate) const STATIC: u32 = 2;
    /// Type: changes that can be thrown away.
    pub(crate) const UNDO: u32 = 3;
    /// Type: blocks that differ from a parent.
    pub(crate) const DIFFERENCING: u32 = 4;
    /// Where the block map is.
    pub(crate) const MAP_OFFSET: usize = 0x154;
    /// Where the first block is.
    pub(crate) const DATA_OFFSET: usize = 0x158;
    /// Bytes in a sector.
    pub(crate) const SECTOR_LEN: usize = 0x168;
    /// Bytes of the disk.
    pub(crate) const DISK_LEN: usize = 0x170;
    /// Bytes of the disk in a block.
    pub(crate) const BLOCK_LEN: usize = 0x178;
    /// Bytes before the data of each block.
    pub(crate) const BLOCK_EXTRA: usize = 0x17C;
    /// Entries of the map.
    pub(crate) const BLOCKS: usize = 0x180;
    /// How many blocks are allocated.
    pub(crate) const ALLOCATED: usize = 0x184;
    /// UUID of the image.
    pub(crate) const UUID: usize = 0x188;
    /// UUID of the last modification; a differencing image remembers its parent's.
    pub(crate) const MODIFIED: usize = 0x198;
    /// The same, as a place in the file.
    pub(crate) const MODIFIED_AT: u64 = 0x198;
    /// UUID of the parent; zeros for none.
    pub(crate) const PARENT: usize = 0x1A8;
    /// UUID of the parent's last modification, as it was when this image was made.
    pub(crate) const PARENT_MODIFIED: usize = 0x1B8;
    /// Map entry: never written.
    pub(crate) const FREE: u32 = 0xFFFF_FFFF;
    /// Map entry: zeros.
    pub(crate) const ZERO: u32 = 0xFFFF_FFFE;
    /// Bytes of a map entry.
    pub(crate) const ENTRY_LEN: u64 = 4;
}

/// VMDK, little-endian: VMware Virtual Disk Format 5.0, "Hosted Sparse Extent Header",
/// "Stream-Optimized Compressed Sparse Extents", "The Descriptor File".
pub(super) mod vmdk {
    /// Bytes of a sparse extent's header.
    pub(crate) const HEADER_BYTES: usize = 512;
    /// Version: 1, 2 (zeroed grains), 3 (changes are tracked, or a stream).
    pub(crate) const VERSION: usize = 4;
    /// Flags.
    pub(crate) const FLAGS: usize = 8;
    /// Sectors of the disk.
    pub(crate) const CAPACITY: usize = 12;
    /// Sectors of the disk in a grain.
    pub(crate) const GRAIN: usize = 20;
    /// Sector of the embedded descriptor, 0 for none.
    pub(crate) const DESCRIPTOR_OFFSET: usize = 28;
    /// Its length in sectors.
    pub(crate) const DESCRIPTOR_LEN: usize = 36;
    /// Entries of a grain table.
    pub(crate) const ENTRIES: usize = 44;
    /// Sector of the redundant grain directory.
    pub(crate) const REDUNDANT: usize = 48;
    /// Sector of the grain directory.
    pub(crate) const DIRECTORY: usize = 56;
    /// 1 while it is open for writing.
    pub(crate) const UNCLEAN: usize = 72;
    /// Four characters that a text transfer would change.
    pub(crate) const NEWLINES: usize = 73;
    /// What they are.
    pub(crate) const NEWLINE_BYTES: &[u8] = b"\n \r\n";
    /// Compression: 0 none, 1 deflate.
    pub(crate) const COMPRESSION: usize = 77;
    /// Flag: the newline characters are valid.
    pub(crate) const HAS_NEWLINES: u32 = 1;
    /// Flag: the redundant directory is used.
    pub(crate) const HAS_REDUNDANT: u32 = 1 << 1;
    /// Flag: a grain table entry of 1 is a grain of zeros.
    pub(crate) const HAS_ZEROED: u32 = 1 << 2;
    /// Flag: grains are compressed.
    pub(crate) const COMPRESSED: u32 = 1 << 16;
    /// Flag: grains and tables have markers before them.
    pub(crate) const MARKERS: u32 = 1 << 17;
    /// Directory: at the end, the footer has it.
    pub(crate) const AT_END: u64 = u64::MAX;
    /// Distance of the footer, a second header, from the end.
    pub(crate) const FOOTER: u64 = 1024;
    /// Bytes of a compressed grain's marker: sector of the disk (8), length (4).
    pub(crate) const MARKER_BYTES: usize = 12;
    /// The same, as a distance.
    pub(crate) const MARKER_LEN: u64 = 12;
    /// Bytes of a table entry, the number of a sector.
    pub(crate) const ENTRY_LEN: u64 = 4;
    /// parentCID of a disk of its own.
    pub(crate) const NO_PARENT: &str = "ffffffff";
}
