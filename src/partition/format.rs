//! Facts: where things stand in an MBR and in a GPT. No policy, no I/O.
//!
//! Sources: UEFI Specification 2.10, chapter 5 (tables 5-1 to 5-7); the MBR has no standard, the
//! values are those on which Windows and Linux agree. Type numbers and GUIDs: UEFI 2.10 5.3.3,
//! Microsoft `CREATE_PARTITION_PARAMETERS`/`PARTITION_INFORMATION_GPT`.

/// Bytes in the smallest sector.
pub(super) const SECTOR: u64 = 512;
/// The same as a length in memory.
pub(super) const SECTOR_LEN: usize = 512;
/// The sector lengths disks have: 512, and 4096 ("4Kn").
pub(super) const SECTOR_LENS: [u32; 2] = [512, 4096];

// --- MBR and EBR, one 512-byte sector each ---

/// +0x1BE: four entries of 16 bytes.
pub(super) const MBR_ENTRIES_AT: usize = 0x1BE;
/// Bytes in an entry.
pub(super) const MBR_ENTRY_LEN: usize = 16;
/// Entries in a table.
pub(super) const MBR_ENTRY_COUNT: usize = 4;
/// Entry +0x00, u8: 0x80 active, 0x00 not; nothing else.
pub(super) const MBR_STATUS_AT: usize = 0x00;
/// Entry +0x04, u8: type.
pub(super) const MBR_KIND_AT: usize = 0x04;
/// Entry +0x08, u32: first sector.
pub(super) const MBR_START_AT: usize = 0x08;
/// Entry +0x0C, u32: number of sectors.
pub(super) const MBR_COUNT_AT: usize = 0x0C;
/// +0x1B8, 4 bytes: the disk's signature, which Windows gives it.
pub(super) const MBR_DISK_ID_AT: usize = 0x1B8;
/// Bytes of it.
pub(super) const MBR_DISK_ID_LEN: usize = 4;
/// +0x1FE: the signature.
pub(super) const MBR_SIGNATURE_AT: usize = 0x1FE;
/// Its bytes.
pub(super) const MBR_SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// The type of the entry that keeps old programs off a GPT disk.
pub(super) const MBR_GPT_PROTECTIVE: u8 = 0xEE;
/// Logical partitions are counted from here, however many primary ones there are.
pub(super) const FIRST_LOGICAL: u32 = 5;
/// How the type name of an extended partition begins.
pub(super) const EXTENDED: &str = "extended";

/// Whether this type is a container of logical partitions: CHS, LBA, Linux.
pub(super) const fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0F | 0x85)
}

/// The name of an MBR type.
pub(super) fn mbr_kind(kind: u8) -> String {
    let name = match kind {
        0x01 | 0x11 => "FAT12",
        0x04 | 0x06 | 0x0E | 0x14 | 0x16 | 0x1E => "FAT16",
        0x05 => "extended (CHS)",
        0x07 => "NTFS/exFAT",
        0x0B | 0x0C | 0x1B | 0x1C => "FAT32",
        0x0F => "extended (LBA)",
        0x12 => "OEM service partition",
        0x17 => "NTFS/exFAT, hidden",
        0x27 => "Windows recovery",
        0x42 => "Windows dynamic disk (LDM)",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x85 => "extended (Linux)",
        0x8E => "Linux LVM",
        MBR_GPT_PROTECTIVE => "GPT protective",
        0xEF => "EFI system",
        _ => return format!("type 0x{kind:02x}"),
    };
    name.to_owned()
}

/// Why a partition of this MBR type is not opened.
pub(super) const fn mbr_skip(kind: u8) -> Option<&'static str> {
    match kind {
        0x05 | 0x0F | 0x85 => Some("it is the container of the logical partitions"),
        0x42 => Some("it belongs to a Windows dynamic disk (LDM), which declone does not read"),
        MBR_GPT_PROTECTIVE => Some("it only protects a GPT"),
        _ => None,
    }
}

// --- GPT header, at sector 1 and in the last sector ---

/// +0x00, 8 bytes: signature.
pub(super) const GPT_SIGNATURE: &[u8; 8] = b"EFI PART";
/// +0x08, u32: revision; 1.0 is the only one there is.
pub(super) const GPT_REVISION_AT: usize = 0x08;
/// Revision 1.0.
pub(super) const GPT_REVISION: u32 = 0x0001_0000;
/// +0x0C, u32: bytes in the header, 92 up to a sector.
pub(super) const GPT_HEADER_LEN_AT: usize = 0x0C;
/// The smallest header.
pub(super) const GPT_HEADER_MIN_LEN: u32 = 92;
/// +0x10, u32: CRC-32 of the header, with this field taken as zero.
pub(super) const GPT_HEADER_CRC_AT: usize = 0x10;
/// +0x18, u64: the sector this header stands in.
pub(super) const GPT_MY_LBA_AT: usize = 0x18;
/// +0x20, u64: the sector the other header stands in.
pub(super) const GPT_ALTERNATE_LBA_AT: usize = 0x20;
/// +0x28, u64: first sector a partition may use.
pub(super) const GPT_FIRST_USABLE_AT: usize = 0x28;
/// +0x30, u64: last sector a partition may use, inclusive.
pub(super) const GPT_LAST_USABLE_AT: usize = 0x30;
/// +0x38, 16 bytes: the disk's GUID.
pub(super) const GPT_DISK_ID_AT: usize = 0x38;
/// Bytes of it.
pub(super) const GPT_DISK_ID_LEN: usize = 16;
/// +0x48, u64: first sector of the entries.
pub(super) const GPT_ENTRIES_LBA_AT: usize = 0x48;
/// +0x50, u32: number of entries.
pub(super) const GPT_ENTRY_COUNT_AT: usize = 0x50;
/// +0x54, u32: bytes in an entry, 128 times a power of two.
pub(super) const GPT_ENTRY_LEN_AT: usize = 0x54;
/// +0x58, u32: CRC-32 of all entries.
pub(super) const GPT_ENTRIES_CRC_AT: usize = 0x58;
/// The smallest entry.
pub(super) const GPT_ENTRY_MIN_LEN: u32 = 128;

/// Entry +0x00, 16 bytes: type; zeros are an unused entry.
pub(super) const GPT_KIND_AT: usize = 0x00;
/// Entry +0x20, u64: first sector.
pub(super) const GPT_FIRST_AT: usize = 0x20;
/// Entry +0x28, u64: last sector, inclusive.
pub(super) const GPT_LAST_AT: usize = 0x28;
/// Entry +0x38: name, UTF-16LE, padded with zeros.
pub(super) const GPT_NAME_AT: usize = 0x38;
/// Units in the name.
pub(super) const GPT_NAME_UNITS: usize = 36;

/// Types with a name, and the reason why such a partition is not opened.
pub(super) const GPT_KINDS: &[(&str, &str, Option<&str>)] = &[
    (
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        "Microsoft basic data",
        None,
    ),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system", None),
    (
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac",
        "Windows recovery",
        None,
    ),
    (
        "e3c9e316-0b5c-4db8-817d-f92df00215ae",
        "Microsoft reserved",
        Some("Windows keeps it free, it holds no volume"),
    ),
    (
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
        "Windows dynamic disk (LDM) metadata",
        Some("it belongs to a Windows dynamic disk (LDM), which declone does not read"),
    ),
    (
        "af9b60a0-1431-4f62-bc68-3311714a69ad",
        "Windows dynamic disk (LDM) data",
        Some("it belongs to a Windows dynamic disk (LDM), which declone does not read"),
    ),
    (
        "e75caf8f-f680-4cee-afa3-b001e56efc2d",
        "Windows storage spaces",
        Some("it belongs to a storage pool, which declone does not read"),
    ),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux", None),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap", None),
];
