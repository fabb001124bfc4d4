//! Every format by its evidence, and files that are nothing.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::device::{Memory, Neighbours};

fn open_bytes(bytes: &[u8], forced: Option<&str>) -> Result<Opened> {
    open(
        Arc::new(Memory::new(bytes.to_vec())),
        forced,
        &Neighbours::default(),
    )
}

/// 64 KiB with these bytes at these places.
fn image(pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    for (at, piece) in pieces {
        bytes[*at..*at + piece.len()].copy_from_slice(piece);
    }
    bytes
}

fn entry(status: u8, kind: u8, start: u32, count: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    (entry[0], entry[4]) = (status, kind);
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&count.to_le_bytes());
    entry
}

const SIGNATURE: (usize, &[u8]) = (510, &[0x55, 0xAA]);

#[test]
fn known_formats_are_refused_by_name() {
    let samples: &[(&str, usize, &[u8])] = &[
        ("found an ESX extent (COWD)", 0, b"COWD"),
        (
            "QCOW2 header: version 2 or 3 expected, found 1",
            0,
            b"QFI\xFB\0\0\0\x01",
        ),
        (
            "VDI header: version 1.1 expected",
            0x40,
            &[0x7F, 0x10, 0xDA, 0xBE],
        ),
        ("(L01)", 0, b"LVF\x09\x0D\x0A\xFF\x00"),
        (
            "Ex01 header: version 2 expected, found 0",
            0,
            b"EVF2\x0D\x0A\x81\x00",
        ),
        ("(Lx01)", 0, b"LEF2\x0D\x0A\x81\x00"),
        (
            "a zip archive",
            0,
            b"PK\x03\x04......................readme.txt",
        ),
        ("a pipable WIM", 0, b"WLPWM\0\0\0"),
        ("a Full Flash Update", 4, b"SignedImage "),
        ("an Apple disk image", 65_536 - 512, b"koly"),
        ("a CD or DVD image", 0x8001, b"CD001"),
        ("a gzip file", 0, &[0x1F, 0x8B, 8]),
        ("an xz file", 0, &[0xFD, b'7', b'z', b'X', b'Z', 0]),
        ("a 7z archive", 0, &[b'7', b'z', 0xBC, 0xAF, 0x27, 0x1C]),
        ("a Zstandard file", 0, &[0x28, 0xB5, 0x2F, 0xFD]),
        ("a bzip2 file", 0, b"BZh91AY&SY"),
        ("a registry hive", 0, b"regf"),
        ("a partclone image", 0, b"partclone-image0002"),
        ("an ntfsclone image", 0, b"\0ntfsclone-image"),
        ("a Partition Image", 0, b"PaRtImAgE-VoLuMe"),
        ("an lz4 file", 0, &[4, 0x22, 0x4D, 0x18]),
        ("an lz4 file", 0, &[2, 0x21, 0x4C, 0x18]),
        ("an lzop file", 0, b"\x89LZO\0\r\n\x1A\n"),
        ("a cabinet", 0, b"MSCF"),
        ("a RAR archive", 0, b"Rar!\x1A\x07\x01\0"),
        ("a Norton Ghost image", 0, &[0xFE, 0xEF, 1, 2]),
        ("an Acronis", 0, &[0xB4, 0x6E, 0x68, 0x44]),
        ("a Proxmox backup", 0, b"VMA\0\0\0\0\x01"),
        ("(VMDK, SESPARSE)", 0, &[0xBE, 0xBA, 0xFE, 0xCA, 0, 0, 0, 0]),
        ("encrypted with LUKS", 0, b"LUKS\xBA\xBE\0\x01"),
    ];
    for (want, at, magic) in samples {
        let error = open_bytes(&image(&[(*at, magic)]), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{want}");
        assert!(error.what().contains(want), "{want}: {error}");
        // Nothing in the file says that it is a disk: then it is not called one.
        let raw = |error: &Error| {
            error
                .advice()
                .is_some_and(|told| told.contains("--format raw"))
        };
        assert!(!raw(&error), "{error}");
        // A disk that the guest made look like that.
        let mut disk = image(&[(0x1BE, &entry(0x80, 7, 63, 60)), SIGNATURE]);
        disk[*at..*at + magic.len()].copy_from_slice(magic);
        let error = open_bytes(&disk, None).unwrap_err();
        assert!(error.what().contains(want), "{want}: {error}");
        assert!(raw(&error), "{error}");
    }
}

#[test]
fn a_broken_vhd_is_named_wherever_its_footer_is() {
    for at in [0, 65_536 - 512, 65_536 - 511] {
        let error = open_bytes(&image(&[(at, b"conectix")]), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.what().starts_with("VHD footer: checksum"), "{error}");
        let advice = error.advice().unwrap();
        assert!(advice.contains("is damaged"), "{error}");
        assert!(!advice.contains("--format raw"), "{error}");
        let disk = image(&[
            (0x1BE, &entry(0x80, 7, 63, 60)),
            SIGNATURE,
            (at, b"conectix"),
        ]);
        let disk = open_bytes(&disk, None).unwrap_err();
        assert!(disk.advice().unwrap().contains("--format raw"), "{disk}");
    }
}

#[test]
fn small_files_of_known_formats_are_still_named() {
    let descriptor = b"# Disk DescriptorFile\nversion=1\n";
    let error = open_bytes(descriptor, None).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.what().contains("at least one extent"), "{error}");
}

#[test]
fn a_raw_disk_is_recognised_by_evidence() {
    let ntfs: (usize, &[u8]) = (0, b"\xEB\x52\x90NTFS    ");
    let samples: &[(&str, Vec<u8>)] = &[
        (
            "MBR with 1 partition (55",
            image(&[(0x1BE, &entry(0x80, 7, 63, 60)), SIGNATURE]),
        ),
        ("EFI PART at 0x200", image(&[(512, b"EFI PART")])),
        ("EFI PART at 0x1000", image(&[(4096, b"EFI PART")])),
        ("backup GPT", image(&[(65_536 - 512, b"EFI PART")])),
        ("backup GPT", image(&[(65_536 - 4096, b"EFI PART")])),
        ("boot sector of NTFS", image(&[ntfs, SIGNATURE])),
        (
            "boot sector of BitLocker",
            image(&[(3, b"-FVE-FS-"), SIGNATURE]),
        ),
        (
            "boot sector of FAT",
            image(&[
                (0, b"\xEB\x3C\x90mkfs.fat\x00\x02\x04\x01\x00\x02"),
                (0x15, &[0xF8]),
                SIGNATURE,
            ]),
        ),
    ];
    for (want, bytes) in samples {
        let opened = open_bytes(bytes, None).unwrap();
        assert_eq!(opened.format, "raw");
        assert!(
            opened.evidence.contains(want),
            "{want}: {}",
            opened.evidence
        );
        assert_eq!((opened.virtual_len, opened.file_len), (65_536, 65_536));
        assert!(opened.notes.is_empty());
    }
}

#[test]
fn what_shows_nothing_is_not_raw() {
    let samples = [
        image(&[]),
        image(&[SIGNATURE]),
        image(&[(0x1BE, &entry(0x12, 7, 63, 60)), SIGNATURE]),
        image(&[(0x1BE, &entry(0x80, 7, 1_000_000, 60)), SIGNATURE]),
        image(&[(0x1BE, &entry(0x80, 7, 63, 60))]),
        image(&[(0, b"some text file\n")]),
    ];
    for bytes in samples {
        let error = open_bytes(&bytes, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.what().contains("expected, found none"), "{error}");
    }
}

#[test]
fn files_shorter_than_a_sector_are_no_disks() {
    for len in [0, 1, 511] {
        for forced in [None, Some("raw")] {
            let error = open_bytes(&vec![0; len], forced).unwrap_err();
            assert_eq!(error.kind(), Kind::Malformed);
            let want =
                format!("image: at least one sector (512 bytes) expected, found {len} bytes");
            assert_eq!(error.what(), want);
        }
    }
}

#[test]
fn a_raw_disk_that_begins_like_another_format_needs_to_be_named() {
    for (magic, kind) in [
        (&b"QFI\xFB\0\0\0\x02"[..], Kind::Malformed),
        (b"KDMV", Kind::Unsupported),
        (b"conectix", Kind::Malformed),
    ] {
        let bytes = image(&[(0, magic), (0x1BE, &entry(0x80, 7, 63, 60)), SIGNATURE]);
        let error = open_bytes(&bytes, None).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("--format raw"), "{error}");
        let opened = open_bytes(&bytes, Some("raw")).unwrap();
        assert_eq!(
            (opened.format, opened.evidence.as_str()),
            ("raw", "--format")
        );
        assert!(
            opened.notes[0].contains("the file looks like a"),
            "{:?}",
            opened.notes
        );
    }
}

#[test]
fn a_forced_raw_disk_that_shows_nothing_is_noted() {
    let opened = open_bytes(&vec![7; 1000], Some("raw")).unwrap();
    assert!(opened.notes[0].contains("nothing in the file confirms it"));
    assert!(opened.notes[1].contains("488 bytes are left over"));
}

#[test]
fn a_forced_format_that_is_not_handled_is_refused() {
    let bytes = image(&[(0x1BE, &entry(0x80, 7, 63, 60)), SIGNATURE]);
    let error = open_bytes(&bytes, Some("lx01")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let error = open_bytes(&bytes, Some("vhdy\u{1b}")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("vhdy\\u{1b}") && error.to_string().contains("qcow2"));
}

#[test]
fn names_are_used_once_and_raw_comes_last() {
    let names: BTreeSet<&str> = FORMATS.iter().map(|format| format.name).collect();
    assert_eq!(names.len(), FORMATS.len());
    assert_eq!(FORMATS.last().unwrap().name, "raw");
}

#[test]
fn random_files_never_panic() {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for len in 0..3000 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        drop(open_bytes(&bytes, None));
    }
}
