//! Contents that a search of a volume's bytes does not see: wanted files whose name goes while the text
//! stays, and all others, counted by form.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

use serde_json::Value;

use crate::{
    machine,
    run::{arg, declone, scratch},
    support::ntfs_builder::{Content, Geometry},
};

/// WOF: version, provider, version of it, algorithm.
fn wof(provider: u8) -> Vec<u8> {
    vec![1, 0, 0, 0, provider, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
}

/// Sets the flags of the unnamed data stream of a file.
fn set_flags(file: &File, number: u64, flags: u16) {
    let mut mft = [0; 8];
    file.read_exact_at(&mut mft, 0x30).unwrap();
    let place = u64::from_le_bytes(mft) * 4096 + number * 1024;
    let mut record = [0; 1024];
    file.read_exact_at(&mut record, place).unwrap();
    let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
    while word(at) != 0x80 {
        assert_ne!(word(at), u32::MAX);
        at += word(at + 4) as usize;
    }
    file.write_all_at(&flags.to_le_bytes(), place + at as u64 + 0x0C)
        .unwrap();
}

#[test]
fn contents_that_are_not_searched_are_counted_by_form() {
    let mut v = machine::volume(24 << 20, Geometry::default(), 5);
    v.file(r"\data\packed.txt", Content::filler(1, 30_000))
        .compressed();
    v.file(r"\data\packed2.txt", Content::filler(2, 30_000))
        .compressed();
    v.file(r"\data\secret.txt", Content::filler(3, 20_000));
    v.file(r"\data\cloud.txt", "")
        .reparse(0x9000_401A, &[1; 20]);
    v.file(r"\data\dedup.txt", "")
        .reparse(0x8000_0013, &[1; 20]);
    v.file(r"\data\sis.txt", "").reparse(0x8000_0007, &[1; 20]);
    v.file(r"\data\old.dll", "").reparse(0x8000_0017, &wof(1));
    v.file(r"\data\new.dll", "").reparse(0x8000_0017, &wof(2));
    v.file(r"\data\link.txt", "").reparse(0xA000_000C, &[0; 20]);
    // A wanted file: its name goes, its text stays in the chunk store.
    v.file(r"\data\Smscfg.ini", "")
        .reparse(0x8000_0013, &[1; 20]);
    v.file(r"\old\Smscfg.ini", "").reparse(0x8000_0017, &wof(2));
    v.file(r"\older\Smscfg.ini", "")
        .reparse(0x8000_0017, &wof(1));
    v.file(r"\oldest\Smscfg.ini", Content::filler(4, 9000))
        .compressed();
    let dir = scratch();
    let image = dir.path().join("image.img");
    let records = machine::write(&v, &image);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    set_flags(&file, records[r"data\secret.txt"], 0x4000);
    drop(file);
    let json = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let lines = json["images"][0]["not_scanned"].as_array().unwrap().clone();
    let of = |path: &str| -> &Value {
        let named = |line: &&Value| line["path"] == path;
        lines
            .iter()
            .find(named)
            .unwrap_or_else(|| panic!("{path}: {lines:#?}"))
    };
    for (path, class, harmless) in [
        (r"\data\Smscfg.ini", "elsewhere", false),
        (r"\older\Smscfg.ini", "elsewhere", false),
        (r"\old\Smscfg.ini", "packed", true),
    ] {
        let line = of(path);
        assert_eq!(line["class"], class, "{line}");
        assert_eq!(line["harmless"], harmless, "{line}");
        assert!(line["remedy"].is_string(), "{line}");
    }
    for (what, class, path) in [
        ("2 files compressed by NTFS", "packed", r"\data\packed.txt"),
        (
            "1 files compressed by the system",
            "packed",
            r"\data\new.dll",
        ),
        ("1 files encrypted (EFS)", "encrypted", r"\data\secret.txt"),
        (
            "1 files with a cloud provider",
            "elsewhere",
            r"\data\cloud.txt",
        ),
        (
            "1 files in the chunk store",
            "elsewhere",
            r"\data\dedup.txt",
        ),
        ("1 files in the common store", "elsewhere", r"\data\sis.txt"),
        ("1 files in a WIM archive", "elsewhere", r"\data\old.dll"),
    ] {
        let named = |line: &&Value| line["what"].as_str().unwrap().starts_with(what);
        let line = lines
            .iter()
            .find(named)
            .unwrap_or_else(|| panic!("{what}: {lines:#?}"));
        assert_eq!(line["class"], class, "{line}");
        assert_eq!(line["harmless"], false, "{line}");
        assert!(line["reason"].as_str().unwrap().contains(path), "{line}");
    }
    let text = format!("{lines:?}");
    assert!(
        !text.contains("link.txt") && !text.contains("oldest"),
        "{text}"
    );
}
