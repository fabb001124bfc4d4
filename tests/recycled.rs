//! Files in the recycle bin are what they were called before.

use std::fs;

use crate::{
    machine,
    run::{arg, declone, scratch},
    support::ntfs_builder::Geometry,
};

const MIB: u64 = 1 << 20;
const OTHER: &str = "9D0C2B1A-7E6F-4A5B-8C9D-0E1F2A3B4C5D";
const BIN: &str = r"\$Recycle.Bin\S-1-5-21-1-2-3-500";
const OLD_BIN: &str = r"\RECYCLER\S-1-5-21-1-2-3-500";

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A note of Windows 10.
fn note(path: &str) -> Vec<u8> {
    let units = path.encode_utf16().count() as u32 + 1;
    let mut note = vec![0; 24];
    note[0] = 2;
    note.extend(units.to_le_bytes());
    note.extend(wide(path));
    note.extend([0, 0]);
    note
}

/// A list of Windows XP: index, drive, path.
fn list(records: &[(u32, u32, &str)]) -> Vec<u8> {
    let mut list = [5_u32, 1, 1, 800, 0].map(u32::to_le_bytes).concat();
    for (index, drive, path) in records {
        let mut record = vec![0; 800];
        record[..path.len()].copy_from_slice(path.as_bytes());
        record[0x104..0x108].copy_from_slice(&index.to_le_bytes());
        record[0x108..0x10C].copy_from_slice(&drive.to_le_bytes());
        let path = wide(path);
        record[0x118..0x118 + path.len()].copy_from_slice(&path);
        list.extend(record);
    }
    list
}

#[test]
fn what_was_called_smscfg_is_removed_from_the_bin_with_its_note() {
    let dir = scratch();
    let mut volume = machine::volume(24 * MIB, Geometry::default(), 5);
    let ini = machine::ini().replace(machine::GUID, OTHER);
    let gone = [
        format!(r"{BIN}\$RQ7A1B2.ini"),
        format!(r"{BIN}\$IQ7A1B2.ini"),
        format!(r"{OLD_BIN}\Dc1.ini"),
    ];
    volume.file(&gone[0], ini.as_str());
    volume.file(&gone[1], note(r"C:\Windows\SMSCFG.INI"));
    volume.file(&gone[2], ini.as_str());
    let records = [
        (1, 2, r"C:\WINNT\Smscfg.ini"),
        (2, 2, r"C:\Docs\letter.ini"),
        (3, 3, r"D:\Smscfg.ini"),
    ];
    let stays = [
        (format!(r"{OLD_BIN}\INFO2"), list(&records)),
        (format!(r"{OLD_BIN}\Dc2.ini"), b"a letter".to_vec()),
        (format!(r"{OLD_BIN}\Dc3.ini"), b"of another drive".to_vec()),
        (format!(r"{BIN}\$RAAAAAA.ini"), b"another letter".to_vec()),
        (format!(r"{BIN}\$IAAAAAA.ini"), note(r"C:\Docs\another.ini")),
        (format!(r"{BIN}\$RBBBBBB.ini"), b"without a note".to_vec()),
    ];
    for (path, bytes) in &stays {
        volume.file(path, bytes.clone());
    }
    let image = dir.path().join("in.img");
    let out = dir.path().join("out.img");
    machine::write(&volume, &image);
    let json = declone(&["scan", arg(&image), "--json", "-"])
        .exits(1)
        .json();
    let findings = json["images"][0]["findings"]
        .to_string()
        .replace(r"\\", r"\");
    for path in &gone {
        assert!(findings.contains(path.as_str()), "{path}: {findings}");
    }
    assert!(findings.contains("it was called SMSCFG.INI"), "{findings}");
    for (path, _) in &stays {
        assert!(!findings.contains(path.as_str()), "{path}: {findings}");
    }
    let ran = declone(&[
        "clean",
        arg(&image),
        "-o",
        arg(&out),
        "--prove",
        "--json",
        "-",
    ]);
    let ran = ran.exits(0).json();
    assert!(!ran["images"][0]["residues"].to_string().contains("Dc1"));
    let cleaned = fs::read(&out).unwrap();
    assert!(!cleaned.windows(36).any(|bytes| bytes == OTHER.as_bytes()));
    let again = declone(&["scan", arg(&out), "--json", "-"]).exits(0).json();
    assert_eq!(again["images"][0]["findings"], serde_json::json!([]));
    for (_, bytes) in &stays {
        assert!(cleaned.windows(bytes.len()).any(|part| part == bytes));
    }
}
