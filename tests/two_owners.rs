//! Clusters that two files claim: nothing is written that another file has, too. Exit 3, both files
//! named, the image as it was. FAT and exFAT: `fat.rs`, `exfat.rs`.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{
    machine,
    run::{Ran, arg, declone, digest, scratch},
    support::ntfs_builder::{Content, Geometry, NtfsBuilder},
};

const OTHER: &str = r"\data\other.bin";
const LOG: &str = r"\WINDOWS\system32\config\SOFTWARE.LOG";

fn usual() -> NtfsBuilder {
    let mut volume = machine::volume(24 << 20, Geometry::default(), 5);
    volume.file(OTHER, Content::filler(5, 40_000));
    let log = [b"regf".as_slice(), &[0x33; 8188]].concat();
    volume.file(LOG, log).non_resident();
    volume
}

/// Where an attribute's runs are, and the first of them: position of its LCN, width of it, LCN.
fn first_run(record: &[u8], kind: u32) -> Option<(usize, usize, u64)> {
    let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
    while word(at) != u32::MAX {
        if word(at) == kind && record[at + 8] == 1 {
            let runs = at + usize::from(u16::from_le_bytes([record[at + 32], record[at + 33]]));
            let (len, width) = (record[runs] & 15, usize::from(record[runs] >> 4));
            let lcn = runs + 1 + usize::from(len);
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(&record[lcn..lcn + width]);
            return Some((lcn, width, u64::from_le_bytes(wide)));
        }
        at += word(at + 4) as usize;
    }
    None
}

/// Lets the clusters of `OTHER` begin `more` clusters behind the first of an attribute of `victim`.
fn cross(image: &Path, volume: &NtfsBuilder, victim: &str, kind: u32, more: i64) {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .unwrap();
    let built = volume.write_to(&mut file, 0);
    let mut mft = [0; 8];
    file.read_exact_at(&mut mft, 0x30).unwrap();
    let place = |path: &str| {
        let number = match path {
            "$Bitmap" => 6,
            _ => built.records[path.trim_start_matches('\\')],
        };
        u64::from_le_bytes(mft) * 4096 + number * 1024
    };
    let read = |path: &str| {
        let mut record = [0; 1024];
        file.read_exact_at(&mut record, place(path)).unwrap();
        record
    };
    let (_, _, lcn) = first_run(&read(victim), kind).expect("clusters of the victim");
    let (at, width, _) = first_run(&read(OTHER), 0x80).unwrap();
    assert!(at + width <= 510, "no update sequence in between");
    let bytes = lcn.checked_add_signed(more).unwrap().to_le_bytes();
    assert!(bytes[width - 1] < 0x80 && bytes[width..].iter().all(|byte| *byte == 0));
    file.write_all_at(&bytes[..width], place(OTHER) + at as u64)
        .unwrap();
}

#[track_caller]
fn refused(image: &Path) -> Ran {
    let before = digest(image);
    let ran = declone(&["clean", arg(image), "--in-place"]).exits(3);
    assert_eq!(digest(image), before, "the input is unchanged");
    assert_eq!(declone(&["clean", arg(image), "-n"]).code, 3);
    // The look makes the edits in memory, too, and is none the worse for it.
    let scan = declone(&["scan", arg(image), "--json", "-"]).exits(1);
    let line = format!("declone: {}: a clean would be refused: ", arg(image));
    assert_eq!(scan.err.matches(&line).count(), 1, "{}", scan.err);
    let scan = scan.json();
    let errors = scan["images"][0]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["foreseen"], true);
    let what = errors[0]["what"].as_str().unwrap();
    assert!(ran.out.contains(&format!("refused: {what}")), "{what}");
    assert_eq!(digest(image), before);
    let beside = fs::read_dir(image.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing lies beside it");
    ran
}

#[track_caller]
fn case(victim: &str, kind: u32, more: i64) {
    let dir = scratch();
    let image = dir.path().join("image.img");
    cross(&image, &usual(), victim, kind, more);
    let ran = refused(&image);
    let all = format!("{}{}", ran.out, ran.err);
    let line = all.lines().find(|line| line.contains("belongs to both"));
    let line = line.unwrap_or_else(|| panic!("{all}"));
    assert!(line.contains(victim) && line.contains(OTHER), "{line}");
    assert!(all.contains("chkdsk /f on a copy"), "{all}");
}

#[test]
fn a_hive_that_shares_a_cluster_is_not_edited() {
    case(machine::HIVE, 0x80, 0);
    case(machine::HIVE, 0x80, 1);
}

#[test]
fn a_log_that_shares_a_cluster_is_not_filled_with_zeros() {
    case(LOG, 0x80, 1);
}

#[test]
fn an_index_that_shares_a_cluster_loses_no_entries() {
    case(r"\WINDOWS", 0xA0, 0);
}

#[test]
fn the_bitmap_is_not_written_into_a_file() {
    case("$Bitmap", 0x80, 0);
}

/// Behind the end of a file lies what the search finds; here it is another file's data, too.
#[test]
fn a_tail_that_is_another_files_data_is_not_wiped() {
    let dir = scratch();
    let image = dir.path().join("image.img");
    let mut volume = usual();
    let stale: Vec<u8> = machine::ini()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    volume.file(r"\data\before.bin", Content::filler(8, 60_000));
    volume
        .file(r"\data\tail.bin", Content::filler(9, 4096 + 100))
        .cluster_tail(&stale);
    volume.file(r"\data\after.bin", Content::filler(10, 60_000));
    // From the last clusters of the file before to the first of the one behind: nothing of these two is
    // written.
    cross(&image, &volume, r"\data\tail.bin", 0x80, -4);
    let before = fs::read(&image).unwrap();
    let at = before
        .windows(stale.len())
        .position(|bytes| bytes == stale)
        .expect("the tail");
    let out = dir.path().join("out.img");
    let ran = declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]);
    assert!(ran.code <= 1, "{}{}", ran.out, ran.err);
    let after = fs::read(&out).unwrap();
    assert!(
        after[at..at + stale.len()] == stale,
        "other.bin is as it was"
    );
}
