//! Tables as they should be, and as they should not.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::sync::Arc;

use super::*;
use crate::{device::Memory, error::Kind};

const DATA: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
const RESERVED: &str = "e3c9e316-0b5c-4db8-817d-f92df00215ae";
const LDM: &str = "af9b60a0-1431-4f62-bc68-3311714a69ad";

fn device(bytes: &[u8]) -> Device {
    Arc::new(Memory::new(bytes.to_vec()))
}

fn read_bytes(bytes: &[u8]) -> Result<Table> {
    read(&device(bytes))
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

fn ntfs_boot(disk: &mut [u8], at: usize, sector_len: u16) {
    put(disk, at, b"\xEB\x52\x90NTFS    ");
    put(disk, at + 0x0B, &sector_len.to_le_bytes());
    disk[at + 0x0D] = 8;
    put(disk, at + 0x1FE, &[0x55, 0xAA]);
}

fn fat_boot(disk: &mut [u8], at: usize) {
    put(disk, at, b"\xEB\x3C\x90MSDOS5.0\x00\x02\x04\x01\x00\x02");
    put(disk, at + 0x13, &[0x00, 0x10]);
    disk[at + 0x15] = 0xF8;
    put(disk, at + 0x1FE, &[0x55, 0xAA]);
}

/// Writes a boot record's entry; `index` from 0.
fn entry(disk: &mut [u8], record: usize, index: usize, kind: u8, start: u32, count: u32) {
    let at = record + format::MBR_ENTRIES_AT + 16 * index;
    disk[at + 4] = kind;
    put(disk, at + 8, &start.to_le_bytes());
    put(disk, at + 12, &count.to_le_bytes());
    put(disk, record + 510, &[0x55, 0xAA]);
}

fn mbr_disk(sectors: usize, parts: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut disk = vec![0; sectors * 512];
    for (index, (kind, start, count)) in parts.iter().enumerate() {
        entry(&mut disk, 0, index, *kind, *start, *count);
    }
    put(&mut disk, 510, &[0x55, 0xAA]);
    disk
}

fn guid_bytes(text: &str) -> [u8; 16] {
    let plain: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut out = [0; 16];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte =
            u8::from_str_radix(std::str::from_utf8(&plain[2 * i..2 * i + 2]).unwrap(), 16).unwrap();
    }
    out[..4].reverse();
    out[4..6].reverse();
    out[6..8].reverse();
    out
}

struct Gpt {
    sector_len: usize,
    sectors: usize,
    entry_len: u32,
    entry_count: u32,
    parts: Vec<(&'static str, u64, u64)>,
}

impl Gpt {
    fn new(sector_len: usize) -> Self {
        Self {
            sector_len,
            sectors: 256,
            entry_len: 128,
            entry_count: 16,
            parts: vec![(RESERVED, 8, 15), (DATA, 16, 199)],
        }
    }

    fn entries(&self) -> Vec<u8> {
        let len = self.entry_len as usize;
        let mut bytes = vec![0; len * self.entry_count as usize];
        for (i, (kind, first, last)) in self.parts.iter().enumerate() {
            put(&mut bytes, i * len, &guid_bytes(kind));
            put(&mut bytes, i * len + 0x20, &first.to_le_bytes());
            put(&mut bytes, i * len + 0x28, &last.to_le_bytes());
            put(&mut bytes, i * len + 0x38, b"W\0i\0n\0");
        }
        bytes
    }

    fn build(&self) -> Vec<u8> {
        let mut disk = vec![0; self.sectors * self.sector_len];
        entry(&mut disk, 0, 0, 0xEE, 1, u32::MAX);
        let entries = self.entries();
        let last = self.sectors - 1;
        let backup_entries = last - entries.len().div_ceil(self.sector_len);
        put(&mut disk, 2 * self.sector_len, &entries);
        put(&mut disk, backup_entries * self.sector_len, &entries);
        for (lba, other, entries_lba) in [(1, last, 2), (last, 1, backup_entries)] {
            let at = lba * self.sector_len;
            put(&mut disk, at, b"EFI PART\0\0\x01\0\x5C\0\0\0");
            for (field, value) in [
                (0x18, lba as u64),
                (0x20, other as u64),
                (0x28, 6),
                (0x30, 220),
                (0x48, entries_lba as u64),
            ] {
                put(&mut disk, at + field, &value.to_le_bytes());
            }
            put(&mut disk, at + 0x50, &self.entry_count.to_le_bytes());
            put(&mut disk, at + 0x54, &self.entry_len.to_le_bytes());
            put(&mut disk, at + 0x58, &gpt::crc32(&entries).to_le_bytes());
            seal(&mut disk, at);
        }
        disk
    }
}

/// Makes a header's checksum right again.
fn seal(disk: &mut [u8], at: usize) {
    let len = u32::from_le_bytes(disk[at + 12..at + 16].try_into().unwrap()) as usize;
    put(disk, at + 16, &[0; 4]);
    let end = (at + len).min(disk.len());
    if at <= end {
        let crc = gpt::crc32(&disk[at..end]);
        put(disk, at + 16, &crc.to_le_bytes());
    }
}

fn skip(table: &Table, number: u32) -> Option<&str> {
    let slot = table.slots.iter().find(|slot| slot.number == number);
    slot.expect("slot").skip.as_deref()
}

#[test]
fn crc32_is_the_published_one() {
    assert_eq!(gpt::crc32(b"123456789"), 0xCBF4_3926);
    assert_eq!(gpt::crc32(b""), 0);
}

// --- MBR: row P1 ---

#[test]
fn an_mbr_gives_its_partitions() {
    let mut disk = mbr_disk(1000, &[(0x27, 10, 90), (0x07, 100, 500)]);
    ntfs_boot(&mut disk, 100 * 512, 512);
    let table = read_bytes(&disk).unwrap();
    assert_eq!((table.scheme, table.sector_len), (Scheme::Mbr, 512));
    assert_eq!((&table.problems, &table.scan_only), (&vec![], &None));
    let slot = &table.slots[1];
    assert_eq!((slot.number, slot.start, slot.len), (2, 51_200, 256_000));
    assert_eq!((slot.kind.as_str(), &slot.skip), ("NTFS/exFAT", &None));
}

#[test]
fn an_mbr_on_sectors_of_4096_bytes_is_seen_by_its_volume() {
    let mut disk = vec![0; 64 * 4096];
    entry(&mut disk, 0, 0, 0x07, 8, 40);
    ntfs_boot(&mut disk, 8 * 4096, 4096);
    let table = read_bytes(&disk).unwrap();
    assert_eq!(table.sector_len, 4096);
    let slot = &table.slots[0];
    assert_eq!((slot.start, slot.len), (8 * 4096, 40 * 4096));
}

#[test]
fn a_disk_without_any_signature_is_malformed() {
    for len in [0, 1, 511, 512, 8192] {
        let error = read_bytes(&vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
    }
    let mut code = mbr_disk(64, &[(0x07, 10, 10)]);
    code[format::MBR_ENTRIES_AT + 16] = 0x7F;
    let error = read_bytes(&code).unwrap_err().to_string();
    assert!(
        error.contains("entry 2: status 00 or 80 expected, found 7f"),
        "{error}"
    );
}

#[test]
fn overlapping_partitions_are_all_skipped() {
    let parts = [(7, 10, 100), (7, 20, 5), (7, 50, 100), (7, 400, 10)];
    let table = read_bytes(&mbr_disk(1000, &parts)).unwrap();
    for number in 1..=3 {
        assert!(
            skip(&table, number).unwrap().contains("overlaps"),
            "{number}"
        );
    }
    assert_eq!(skip(&table, 4), None);
    assert_eq!(table.problems.len(), 3);
}

#[test]
fn a_partition_outside_the_disk_is_skipped() {
    let parts = [(7, 990, 11), (7, 2000, 10), (7, u32::MAX, 2), (7, 0, 10)];
    let table = read_bytes(&mbr_disk(1000, &parts)).unwrap();
    assert!(skip(&table, 1).unwrap().contains("outside the disk"));
    assert!(skip(&table, 2).unwrap().contains("outside the disk"));
    assert!(skip(&table, 3).unwrap().contains("last sector an MBR"));
    assert!(skip(&table, 4).unwrap().contains("partition table itself"));
    assert_eq!(table.problems.len(), 4);
}

#[test]
fn an_ntfs_volume_that_was_cut_off_is_kept_for_its_own_reader() {
    let mut disk = mbr_disk(1000, &[(7, 100, 5000)]);
    ntfs_boot(&mut disk, 100 * 512, 512);
    let table = read_bytes(&disk).unwrap();
    assert_eq!(table.slots[0].len, 900 * 512);
    assert_eq!(table.slots[0].skip, None);
    assert!(
        table.problems[0].contains("outside the disk"),
        "{:?}",
        table.problems
    );
}

#[test]
fn dynamic_disks_are_not_opened() {
    let table = read_bytes(&mbr_disk(1000, &[(0x42, 63, 900)])).unwrap();
    assert!(skip(&table, 1).unwrap().contains("LDM"));
}

#[test]
fn an_empty_table_is_a_problem_not_an_error() {
    let table = read_bytes(&mbr_disk(10, &[])).unwrap();
    assert!(table.slots.is_empty());
    assert_eq!(table.problems, ["MBR: the table is empty"]);
}

// --- the chain: row P2 ---

/// A chain of records at these sectors, the extended partition from sector 100 on; each record's
/// volume is 5 sectors behind it.
fn chain(records: &[u32]) -> Vec<u8> {
    let mut disk = mbr_disk(4000, &[(7, 10, 50), (0x0F, 100, 3900)]);
    for (i, record) in records.iter().enumerate() {
        let at = *record as usize * 512;
        entry(&mut disk, at, 0, 0x07, 5, 5);
        if let Some(next) = records.get(i + 1) {
            entry(&mut disk, at, 1, 0x05, next.wrapping_sub(100), 10);
        }
    }
    disk
}

#[test]
fn logical_partitions_count_from_5() {
    let table = read_bytes(&chain(&[100, 300, 200])).unwrap();
    let all: Vec<_> = table
        .slots
        .iter()
        .map(|s| (s.number, s.start / 512))
        .collect();
    assert_eq!(all, [(1, 10), (2, 100), (5, 105), (6, 305), (7, 205)]);
    assert!(skip(&table, 2).unwrap().contains("container"));
    assert_eq!((skip(&table, 5), skip(&table, 7)), (None, None));
    assert_eq!((&table.problems, &table.scan_only), (&vec![], &None));
}

#[test]
fn a_chain_that_loops_ends_and_is_scan_only() {
    for records in [&[100, 200, 100][..], &[100, 100], &[100, 200, 300, 200]] {
        let table = read_bytes(&chain(records)).unwrap();
        assert!(
            table.scan_only.as_ref().unwrap().contains("comes back"),
            "{records:?}"
        );
        assert!(table.slots.len() <= 5);
    }
}

#[test]
fn a_chain_that_leaves_its_partition_or_the_disk_is_scan_only() {
    let outside = read_bytes(&chain(&[100, 50])).unwrap();
    assert!(outside.scan_only.unwrap().contains("inside the extended"));
    let mut disk = chain(&[100, 200]);
    disk.truncate(150 * 512);
    let cut = read_bytes(&disk).unwrap();
    assert!(cut.scan_only.unwrap().contains("outside the disk"));
    let mut disk = chain(&[100, 200]);
    disk[200 * 512 + 510] = 0;
    let unsigned = read_bytes(&disk).unwrap();
    assert!(unsigned.scan_only.unwrap().contains("found 00 aa"));
}

#[test]
fn an_endless_chain_hits_the_limit() {
    let records: Vec<u32> = (0..200).map(|i| 100 + 12 * i).collect();
    assert_eq!(
        read_bytes(&chain(&records)).unwrap_err().kind(),
        Kind::Limit
    );
    assert_eq!(
        read_bytes(&chain(&records[..128])).unwrap().slots.len(),
        130
    );
}

#[test]
fn a_logical_partition_that_leaves_its_container_is_skipped() {
    let mut disk = chain(&[100]);
    entry(&mut disk, 100 * 512, 0, 0x07, 5, 4000);
    let table = read_bytes(&disk).unwrap();
    assert!(skip(&table, 5).unwrap().contains("reaches out"));
}

#[test]
fn a_primary_partition_over_the_container_is_skipped() {
    let mut disk = chain(&[100]);
    entry(&mut disk, 0, 0, 0x07, 10, 91);
    assert!(
        skip(&read_bytes(&disk).unwrap(), 1)
            .unwrap()
            .contains("overlaps partition 2")
    );
}

// --- one volume, and sectors that are two things ---

#[test]
fn a_volume_at_the_first_byte_is_the_whole_disk() {
    let mut ntfs = vec![0; 64 * 512];
    ntfs_boot(&mut ntfs, 0, 512);
    let mut fat = vec![0; 64 * 512];
    fat_boot(&mut fat, 0);
    for (disk, kind) in [(ntfs, "whole disk, NTFS"), (fat, "whole disk, FAT")] {
        let table = read_bytes(&disk).unwrap();
        assert_eq!((table.scheme, table.scan_only), (Scheme::WholeDisk, None));
        let slot = &table.slots[0];
        assert_eq!((slot.number, slot.start, slot.len), (1, 0, 64 * 512));
        assert_eq!(slot.kind, kind);
    }
}

#[test]
fn a_sector_that_is_volume_and_table_is_scan_only() {
    let mut disk = vec![0; 64 * 512];
    ntfs_boot(&mut disk, 0, 512);
    entry(&mut disk, 0, 0, 0x07, 10, 20);
    let table = read_bytes(&disk).unwrap();
    assert_eq!(table.scheme, Scheme::WholeDisk);
    assert!(table.scan_only.unwrap().contains("both"));
}

#[test]
fn a_volume_with_impossible_parameters_is_left_to_its_own_reader() {
    let mut disk = vec![0; 64 * 512];
    ntfs_boot(&mut disk, 0, 256);
    let table = read_bytes(&disk).unwrap();
    assert_eq!((table.scheme, table.sector_len), (Scheme::WholeDisk, 512));
    // Under a table it is what an earlier use of the disk left.
    entry(&mut disk, 0, 0, 0x07, 10, 20);
    let table = read_bytes(&disk).unwrap();
    assert_eq!((table.scheme, table.scan_only), (Scheme::Mbr, None));
}

#[test]
fn an_mbr_whose_loader_leaves_room_for_parameters_is_no_volume() {
    let mut disk = mbr_disk(1000, &[(7, 100, 500)]);
    put(&mut disk, 0, b"\xEB\x63\x90");
    assert_eq!(read_bytes(&disk).unwrap().scheme, Scheme::Mbr);
    // FAT parameters that cannot be true: row P8.
    let mut absurd = mbr_disk(1000, &[(7, 100, 500)]);
    fat_boot(&mut absurd, 0);
    absurd[0x0D] = 3;
    assert_eq!(read_bytes(&absurd).unwrap().scheme, Scheme::Mbr);
}

// --- GPT: rows P4 to P7 ---

#[test]
fn a_gpt_gives_its_partitions_on_both_sector_lengths() {
    for sector_len in [512, 4096] {
        let table = read_bytes(&Gpt::new(sector_len).build()).unwrap();
        assert_eq!(table.scheme, Scheme::Gpt);
        assert_eq!(table.sector_len as usize, sector_len);
        assert_eq!((&table.problems, &table.scan_only), (&vec![], &None));
        let slot = &table.slots[1];
        let sector_len = sector_len as u64;
        assert_eq!(
            (slot.number, slot.start, slot.len),
            (2, 16 * sector_len, 184 * sector_len)
        );
        assert_eq!(slot.kind, "Microsoft basic data");
        assert_eq!((slot.name.as_deref(), &slot.skip), (Some("Win"), &None));
        assert!(skip(&table, 1).unwrap().contains("no volume"));
    }
}

#[test]
fn a_protective_mbr_without_gpt_is_malformed() {
    let disk = mbr_disk(1000, &[(0xEE, 1, 999)]);
    let error = read_bytes(&disk).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.to_string().contains("the disk's MBR says"), "{error}");
}

/// Changes a field of both headers and makes the checksums right again.
fn with_field(at: usize, value: &[u8]) -> Vec<u8> {
    let mut disk = Gpt::new(512).build();
    for header in [512, 255 * 512] {
        put(&mut disk, header + at, value);
        seal(&mut disk, header);
    }
    disk
}

#[test]
fn hostile_headers_with_right_checksums_are_refused() {
    for len in [0, 91, 513, u32::MAX] {
        let error = read_bytes(&with_field(0x0C, &len.to_le_bytes())).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        let text = error.to_string();
        assert!(
            text.contains("length of 92 to 512 bytes expected"),
            "{text}"
        );
        assert!(
            text.contains(&format!("found {len} (disk offset 0x200)")),
            "{text}"
        );
    }
    for (count, kind) in [
        (0, Kind::Malformed),
        (1025, Kind::Limit),
        (u32::MAX, Kind::Limit),
    ] {
        let error = read_bytes(&with_field(0x50, &count.to_le_bytes())).unwrap_err();
        assert_eq!(error.kind(), kind, "{count}");
    }
    for len in [0, 1, 127, 192, 8192, 1_u32 << 31, 0xFFFF_FFF8] {
        let error = read_bytes(&with_field(0x54, &len.to_le_bytes())).unwrap_err();
        assert!(error.to_string().contains("128 * 2^n"), "{error}");
    }
    for (at, value) in [
        (0x18, 7_u64),
        (0x28, u64::MAX),
        (0x48, 1),
        (0x48, u64::MAX),
        (0x48, 254),
    ] {
        let error = read_bytes(&with_field(at, &value.to_le_bytes())).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed, "{at:#x}");
    }
    assert!(read_bytes(&with_field(0x08, &[9])).is_err());
}

#[test]
fn a_damaged_primary_leaves_the_backup_for_looking_only() {
    for damage in [512 + 0x30, 1024 + 0x20, 512] {
        let mut disk = Gpt::new(512).build();
        disk[damage] ^= 1;
        let table = read_bytes(&disk).unwrap();
        assert_eq!(table.slots.len(), 2);
        assert!(
            table
                .scan_only
                .as_ref()
                .unwrap()
                .contains("this is the backup")
        );
    }
    let mut disk = Gpt::new(4096).build();
    disk[4096] = 0;
    let table = read_bytes(&disk).unwrap();
    assert_eq!(table.sector_len, 4096);
    assert!(table.scan_only.is_some());
}

#[test]
fn a_missing_or_damaged_backup_is_only_a_problem() {
    let whole = Gpt::new(512).build();
    let mut damaged = whole.clone();
    damaged[255 * 512 + 0x30] ^= 1;
    let mut grown = whole.clone();
    grown.resize(300 * 512, 0);
    let mut cut = whole;
    cut.truncate(250 * 512);
    for disk in [damaged, cut] {
        let table = read_bytes(&disk).unwrap();
        assert_eq!((table.problems.len(), table.scan_only), (1, None));
    }
    assert_eq!(read_bytes(&grown).unwrap().scan_only, None);
}

#[test]
fn a_hybrid_or_missing_mbr_is_scan_only() {
    let mut hybrid = Gpt::new(512).build();
    entry(&mut hybrid, 0, 1, 0x07, 16, 184);
    let mut unsigned = Gpt::new(512).build();
    unsigned[510] = 0;
    let mut unprotected = Gpt::new(512).build();
    entry(&mut unprotected, 0, 0, 0, 0, 0);
    let mut stale = Gpt::new(512).build();
    entry(&mut stale, 0, 0, 0x07, 16, 184);
    for (disk, scheme) in [
        (hybrid, Scheme::Gpt),
        (unsigned, Scheme::Gpt),
        (unprotected, Scheme::Gpt),
        (stale, Scheme::Mbr),
    ] {
        let table = read_bytes(&disk).unwrap();
        assert_eq!(table.scheme, scheme);
        assert!(table.scan_only.is_some());
    }
}

#[test]
fn two_valid_gpts_are_scan_only() {
    let mut disk = Gpt::new(512).build();
    let other = Gpt::new(4096).build();
    disk.resize(other.len(), 0);
    put(&mut disk, 4096, &other[4096..4096 * 3]);
    let table = read_bytes(&disk).unwrap();
    assert!(table.scan_only.unwrap().contains("two valid headers"));
}

#[test]
fn entries_that_cannot_be_are_skipped() {
    let mut gpt = Gpt::new(512);
    gpt.parts = vec![
        (DATA, 50, 20),
        (DATA, 1, 40),
        (DATA, 200, u64::MAX),
        (DATA, u64::MAX, u64::MAX),
        (DATA, 60, 70),
        (DATA, 70, 80),
        (DATA, 100, 110),
        (LDM, 120, 130),
    ];
    let table = read_bytes(&gpt.build()).unwrap();
    for number in 1..=4 {
        assert!(
            skip(&table, number)
                .unwrap()
                .starts_with("sectors inside 6..=220")
        );
    }
    assert!(skip(&table, 5).unwrap().contains("overlaps partition 6"));
    assert!(skip(&table, 6).unwrap().contains("overlaps partition 5"));
    assert_eq!(skip(&table, 7), None);
    assert!(skip(&table, 8).unwrap().contains("LDM"));
}

#[test]
fn large_entries_are_read() {
    let mut gpt = Gpt::new(512);
    (gpt.entry_len, gpt.entry_count) = (256, 8);
    let table = read_bytes(&gpt.build()).unwrap();
    assert_eq!((table.slots.len(), table.scan_only), (2, None));
}

// --- damage ---

/// A small generator with a fixed seed: the same flips in every run.
fn xorshift(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

#[test]
fn flipped_bytes_never_panic_and_never_give_a_slot_outside_the_disk() {
    let mut seed = 0x9E37_79B9_7F4A_7C15;
    let originals = [
        chain(&[100, 300, 200]),
        Gpt::new(512).build(),
        Gpt::new(4096).build(),
        {
            let mut disk = vec![0; 64 * 512];
            fat_boot(&mut disk, 0);
            disk
        },
    ];
    for original in originals {
        let places: Vec<usize> = (0..original.len())
            .filter(|at| original[at / 512 * 512..at / 512 * 512 + 512] != [0; 512])
            .collect();
        let disk = Arc::new(Memory::new(original.clone()));
        let shared: Device = disk.clone();
        for round in 0..3000 {
            let mut changed = original.clone();
            for _ in 0..1 + xorshift(&mut seed) % 3 {
                let at = places[xorshift(&mut seed) % places.len()];
                changed[at] = [0, 0xFF, xorshift(&mut seed) as u8][xorshift(&mut seed) % 3];
            }
            // Every other round with right checksums: what a hostile author would do.
            if round % 2 == 0 {
                for sector_len in [512, 4096] {
                    if changed.len() >= 3 * sector_len && changed[sector_len..].starts_with(b"EFI")
                    {
                        let crc = gpt::crc32(&changed[2 * sector_len..2 * sector_len + 16 * 128]);
                        put(&mut changed, sector_len + 0x58, &crc.to_le_bytes());
                        seal(&mut changed, sector_len);
                    }
                }
            }
            crate::device::BlockDevice::write_at(&*disk, 0, &changed).unwrap();
            if let Ok(table) = read(&shared) {
                for slot in table.slots.iter().filter(|slot| slot.skip.is_none()) {
                    assert!(slot.start + slot.len <= shared.len(), "{slot:?}");
                    assert!(slot.len > 0);
                }
            }
        }
    }
}
