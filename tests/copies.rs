//! Copies of hives that are not simply a SOFTWARE in its place: packed, under other names, recycled
//! with their logs, with nothing but stale bytes left, and the kernel's transaction logs beside them.

use std::{fs, process::Command};

use crate::{
    dirty::{BETWEEN, Images, NEW, OLD, describe, new_format, put, state, volume, written},
    machine::{CLIENT, HIVE},
    oracle,
    run::{arg, declone, digest, scratch},
    support::{
        hive_builder::{HiveBuilder, Residue},
        hive_log_builder as logs,
        ntfs_builder::NtfsBuilder,
        packed_builder::{cabinet, szdd},
    },
};

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A SOFTWARE hive without any trace of an identity.
fn innocent() -> HiveBuilder {
    let mut hive = HiveBuilder::new(5);
    hive.key(CLIENT).dword("Log File Size", 1);
    hive
}

fn usual() -> NtfsBuilder {
    volume(HIVE, &innocent().build(), &[])
}

/// All that was not looked at, as one text.
fn not_scanned(report: &serde_json::Value) -> String {
    report["not_scanned"].to_string()
}

/// What `clean -o` says of an image that it cleans.
fn clean_json(images: &Images, code: i32) -> serde_json::Value {
    let args = [
        "clean",
        arg(&images.image),
        "-o",
        arg(&images.out),
        "--json",
        "-",
    ];
    declone(&args).exits(code).json()["images"][0].clone()
}

#[test]
fn another_unpacker_reads_what_the_tests_pack() {
    if std::env::var_os("DECLONE_WITNESS").is_none_or(|v| v != "1") {
        return;
    }
    let dir = scratch();
    let hive = state(Some(OLD));
    for (name, bytes) in [
        ("software.szdd", szdd(&hive)),
        ("software.cab", cabinet("software", &hive)),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        assert!(bytes.len() < hive.len() / 2, "{name}: it is packed");
        let output = Command::new("7zz")
            .args(["x", "-so", arg(&path)])
            .output()
            .expect("7zz is needed");
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(output.stdout == hive, "{name}");
    }
}

#[test]
fn a_packed_copy_with_the_identity_is_shown_and_forbids_a_clean() {
    let hive = state(Some(NEW));
    let copy = r"\WINNT\repair\software._";
    for (what, bytes) in [
        ("packed (SZDD)", szdd(&hive)),
        ("packed (cabinet)", cabinet("software", &hive)),
    ] {
        let mut v = volume(HIVE, &state(Some(OLD)), &[]);
        v.file(copy, bytes);
        let images = Images::new(&v);
        let scan = images.scan();
        let findings = scan["findings"].as_array().unwrap();
        let found: Vec<_> = findings.iter().filter(|f| f["view"] == "packed").collect();
        assert_eq!(found.len(), 1, "{findings:#?}");
        assert_eq!(found[0]["rule"], "sms.uid");
        assert_eq!(found[0]["subject"]["hive"], copy);
        let evidence = found[0]["evidence"].as_str().unwrap();
        assert!(
            evidence.contains(NEW) && evidence.contains(what),
            "{evidence}"
        );
        assert!(!not_scanned(&scan).contains("software._"), "{scan:#}");
        assert!(scan["volumes"][0]["hives"].to_string().contains(what));
        let ran = images.refused(&[]);
        for word in [
            what,
            "holds the identity",
            r"\WINNT\repair\software._",
            "delete it",
        ] {
            assert!(ran.out.contains(word), "{word}: {}", ran.out);
        }
    }
}

#[test]
fn a_packed_copy_without_the_identity_is_read_and_is_no_obstacle() {
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    let hive = innocent().build();
    // Cabinets with nothing but a hint of a name are nobody's business, readable or not.
    for other in [
        r"\$Recycle.Bin\S-1-5-21-1\$RAAAAAA.cab",
        r"\drivers\software-2.cab",
    ] {
        v.file(other, &b"MSCF\0\0\0\0"[..]);
    }
    v.file(r"\WINDOWS\repair\software._", cabinet("software", &hive));
    v.file(r"\backup\software._", szdd(&hive));
    v.file(
        r"\drivers\software.cab",
        cabinet("readme.txt", b"no hive at all"),
    );
    let images = Images::new(&v);
    let scan = images.scan();
    let named = not_scanned(&scan);
    assert!(
        !named.contains("software._") && !named.contains(".cab"),
        "{named}"
    );
    let hives = scan["volumes"][0]["hives"].to_string();
    assert!(hives.contains("packed (SZDD)") && hives.contains("packed (cabinet)"));
    images.cleaned(&[], &[HIVE.to_owned()], &[OLD]);
}

#[test]
fn packed_copies_that_cannot_be_read_are_named_with_the_reason() {
    let mut v = usual();
    let whole = cabinet("software", &state(Some(OLD)));
    let mut lzx = whole.clone();
    lzx[0x2a] = 3;
    v.file(r"\a\software._", lzx);
    v.file(r"\b\software._", &b"KWAJ\x88\xf0\x27\xd1\0\0\0\0\0\0"[..]);
    v.file(r"\c\software._", whole[..whole.len() / 2].to_vec());
    let mut bomb = szdd(b"regf");
    bomb[10..14].copy_from_slice(&[0xff; 4]);
    v.file(r"\d\software._", bomb);
    v.file(r"\WINDOWS\repair\software._", szdd(b"no hive at all"));
    let images = Images::new(&v);
    let scan = declone(&["scan", arg(&images.image), "--json", "-"])
        .exits(1)
        .json();
    assert_eq!(scan["images"][0]["result"], "incomplete");
    let named = scan["images"][0]["not_scanned"].as_array().unwrap().clone();
    let reason = |path: &str| {
        let mut lines = named.iter();
        let line = lines.find(|line| line["what"] == path);
        line.unwrap_or_else(|| panic!("{path}: {named:#?}"))["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for (path, word) in [
        (r"\a\software._", "LZX"),
        (r"\b\software._", "KWAJ"),
        (r"\c\software._", "cabinet"),
        (r"\d\software._", "at most"),
        (r"\WINDOWS\repair\software._", "no hive in it"),
    ] {
        assert!(reason(path).contains(word), "{path}: {}", reason(path));
    }
}

#[test]
fn stale_bytes_in_a_packed_copy_are_named() {
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    // No rule matches; the identity is in a free cell.
    v.file(r"\WINDOWS\repair\software._", szdd(&state(None)));
    let images = Images::new(&v);
    let report = clean_json(&images, 1);
    let named = report["left"].to_string();
    assert!(
        named.contains("software._") && named.contains("no rule matches"),
        "{named}"
    );
    assert_eq!(report["exit_code"], 1);
}

#[test]
fn copies_under_any_name_beside_hives_are_cleaned() {
    let config = r"\WINDOWS\system32\config";
    let copies = [
        format!(r"{config}\software1"),
        format!(r"{config}\Copy of SOFTWARE"),
        format!(r"{config}\before sms"),
        r"\WINDOWS\system32\config\RegBack\SOFTWARE - Copy".to_owned(),
        r"\old computer\software-2004".to_owned(),
    ];
    let mut v = usual();
    for copy in &copies {
        v.file(copy, state(Some(OLD)));
    }
    // Dirty, and its log finishes it.
    let (primary, logs) = new_format(&state(None), &state(Some(NEW)));
    let dirty = format!(r"{config}\backup1");
    put(&mut v, &dirty, &primary, &logs);
    // A snapshot's hive lies among others.
    let snapshot = r"\System Volume Information\_restore{1}\RP1\snapshot";
    v.file(
        &format!(r"{snapshot}\_REGISTRY_MACHINE_SOFTWARE"),
        innocent().build(),
    );
    let mut user = HiveBuilder::new(5);
    user.key(r"Software\Microsoft\SMS").string("x", "y");
    v.file(
        &format!(r"{snapshot}\_REGISTRY_USER_NTUSER_S-1-5-21"),
        user.build(),
    );
    v.file(&format!(r"{config}\another"), user.build());
    // Called so, and something else.
    v.file(r"\WINDOWS\SoftwareDistribution\ReportingEvents.log", "text");
    v.file(r"\WINDOWS\software installation.log", "text");
    v.file(r"\WINDOWS\softwareupdate.exe", "MZ");
    let images = Images::new(&v);
    let mut changed = written(&dirty, &logs);
    changed.extend(copies.iter().cloned());
    let ran = images.cleaned(&[], &changed, &[OLD, NEW, BETWEEN]);
    for copy in &copies {
        images.holds(copy, &[], &state(Some(OLD)));
    }
    images.holds(&dirty, &logs, &state(Some(NEW)));
    for other in [
        "NTUSER",
        r"config\another",
        "installation.log",
        "softwareupdate",
    ] {
        assert!(!ran.out.contains(other), "{other}: {}", ran.out);
    }
    let hives = images.scan()["volumes"][0]["hives"].to_string();
    assert!(
        !hives.contains("NTUSER") && !hives.contains(r"config\\another"),
        "{hives}"
    );
}

/// The note of the recycle bin on a file that was at `path`.
fn note(version: u64, path: &str) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend([1; 16]);
    let path = [wide(path), vec![0, 0]].concat();
    if version == 2 {
        bytes.extend(u32::try_from(path.len() / 2).unwrap().to_le_bytes());
    }
    bytes.extend(&path);
    if version == 1 {
        bytes.resize(24 + 520, 0);
    }
    bytes
}

#[test]
fn a_recycled_hive_is_finished_by_its_recycled_logs() {
    for version in [1, 2] {
        let mut v = usual();
        let (primary, logs) = new_format(&state(None), &state(Some(NEW)));
        let bin = r"\$Recycle.Bin\S-1-5-21-1";
        let mut changed = Vec::new();
        let mut recycle = |name: &str, old: &str, bytes: &[u8]| {
            v.file(&format!(r"{bin}\$R{name}"), bytes.to_vec());
            v.file(&format!(r"{bin}\$I{name}"), note(version, old));
            changed.push(format!(r"{bin}\$R{name}"));
        };
        recycle("AAAAAA", r"C:\old\SOFTWARE", &primary);
        recycle("BBBBBB.LOG1", r"C:\OLD\Software.LOG1", &logs[0].1);
        recycle("CCCCCC.LOG2", r"C:\old\SOFTWARE.LOG2", &logs[1].1);
        // Another user's, and another hive's.
        v.file(r"\$Recycle.Bin\S-1-5-21-2\$RAAAAAB.LOG1", vec![0x33; 700]);
        v.file(
            r"\$Recycle.Bin\S-1-5-21-2\$IAAAAAB.LOG1",
            note(version, r"C:\old\SOFTWARE.LOG1"),
        );
        v.file(&format!(r"{bin}\$RDDDDDD.LOG1"), vec![0x33; 700]);
        v.file(
            &format!(r"{bin}\$IDDDDDD.LOG1"),
            note(version, r"C:\new\SOFTWARE.LOG1"),
        );
        let images = Images::new(&v);
        let ran = images.cleaned(&[], &changed, &[NEW, BETWEEN]);
        assert!(
            ran.out.contains("its logs were replayed first"),
            "{}",
            ran.out
        );
        for log in ["BBBBBB.LOG1", "CCCCCC.LOG2"] {
            let bytes = images.file(&images.out, &format!(r"{bin}\$R{log}"));
            assert!(bytes.iter().all(|b| *b == 0), "{log}");
        }
    }
}

#[test]
fn recycled_logs_of_two_hives_of_one_name_are_nobodys() {
    let (primary, logs) = new_format(&state(Some(OLD)), &state(Some(NEW)));
    let mut v = usual();
    let bin = r"\$Recycle.Bin\S-1-5-21-1";
    for (name, bytes) in [
        ("A", &primary),
        ("B", &primary),
        ("C.LOG1", &logs[0].1),
        ("D.LOG2", &logs[1].1),
    ] {
        let (_, ending) = name.split_at(1);
        v.file(&format!(r"{bin}\$R{name}"), bytes.clone());
        v.file(
            &format!(r"{bin}\$I{name}"),
            note(2, &format!(r"C:\old\SOFTWARE{ending}")),
        );
    }
    let ran = Images::new(&v).refused(&[]);
    assert!(ran.out.contains("--accept-dirty"), "{}", ran.out);
}

/// As Windows leaves a hive whose value was deleted: the bytes are in a free cell.
fn deleted_as_windows_does(minor: u32) -> Vec<u8> {
    let mut hive = HiveBuilder::new(minor);
    hive.key(CLIENT).dword("Log File Size", 1);
    hive.residue(Residue::FreeCell(wide(&format!("GUID:{OLD}"))));
    hive.build()
}

#[test]
fn stale_bytes_of_hives_that_no_rule_matches_are_wiped() {
    let regback = r"\WINDOWS\system32\config\RegBack\SOFTWARE";
    let saved = r"\backup\saved.hiv";
    // The identity is known from the live hive, or from a copy, or from a file.
    let mut live = volume(HIVE, &state(Some(OLD)), &[]);
    let mut copy = volume(HIVE, &deleted_as_windows_does(5), &[]);
    copy.file(r"\WINDOWS\repair\software", state(Some(OLD)));
    let mut file = volume(HIVE, &deleted_as_windows_does(5), &[]);
    file.file(
        r"\WINDOWS\Smscfg.ini",
        format!("SMS Unique Identifier=GUID:{OLD}\r\n").as_str(),
    );
    for (v, also) in [
        (&mut live, Some(HIVE)),
        (&mut copy, Some(r"\WINDOWS\repair\software")),
        (&mut file, None),
    ] {
        v.file(regback, deleted_as_windows_does(5));
        v.file(saved, deleted_as_windows_does(3));
        // Not a trace of it: not a byte is changed.
        v.file(r"\backup\innocent.hiv", innocent().build());
        let images = Images::new(v);
        let scan = images.scan();
        let hives = scan["volumes"][0]["hives"].as_array().unwrap();
        let of = |path: &str| hives.iter().find(|hive| hive["path"] == path).unwrap();
        for path in [regback, saved] {
            let state = of(path)["state"].as_str().unwrap();
            assert!(state.contains("stale bytes of it hold"), "{path}: {state}");
        }
        let report = clean_json(&images, 0);
        assert_eq!(report["residues"].as_array().unwrap().len(), 0);
        let wiped = |path: &str| {
            let done = report["done"]["hives"].as_array().unwrap();
            done.iter()
                .any(|hive| hive["path"] == path && hive["wiped_free"] != 0)
        };
        assert!(wiped(regback) && wiped(saved), "{:#}", report["done"]);
        assert!(also.is_none_or(wiped));
        let innocents = r"\backup\innocent.hiv";
        assert_eq!(
            images.file(&images.image, innocents),
            images.file(&images.out, innocents)
        );
        let bytes = fs::read(&images.out).unwrap();
        for form in oracle::guid_forms(OLD) {
            assert_eq!(oracle::find_all(&bytes, &form), [0_usize; 0]);
        }
        for (path, minor) in [(regback, 5), (saved, 3)] {
            let (was, is) = (
                images.file(&images.image, path),
                images.file(&images.out, path),
            );
            assert_eq!(was.len(), is.len());
            assert_eq!(oracle::hive_lines(&was), oracle::hive_lines(&is), "{minor}");
            declone::hive::check(&is).expect("a sound hive");
        }
        let again = images.dir.path().join("again.img");
        let second = declone(&["clean", arg(&images.out), "-o", arg(&again)]).exits(0);
        assert!(second.out.contains("Nothing to do"), "{}", second.out);
        assert_eq!(digest(&again), digest(&images.out));
    }
}

/// In a value that no rule speaks of, the identity is data: not stale, not ours.
#[test]
fn what_stands_in_a_live_value_of_a_copy_is_no_reason_to_write_it() {
    let mut hive = innocent();
    hive.key(r"Microsoft\Other")
        .string("note", &format!("was GUID:{OLD}"));
    let copy = r"\WINDOWS\system32\config\RegBack\SOFTWARE";
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    v.file(copy, hive.build());
    let images = Images::new(&v);
    clean_json(&images, 1);
    assert_eq!(
        images.file(&images.image, copy),
        images.file(&images.out, copy)
    );
}

#[test]
fn a_dirty_copy_with_nothing_but_stale_bytes_goes_the_same_road() {
    let regback = r"\WINDOWS\system32\config\RegBack\SOFTWARE";
    let mut after = HiveBuilder::new(5);
    after.key(CLIENT).dword("Log File Size", 2);
    after.residue(Residue::FreeCell(wide(&format!("GUID:{OLD}"))));
    let (before, after) = (deleted_as_windows_does(5), after.build());
    let log = logs::old_log(&before, &after, 1, 7, 4096);
    let primary = logs::with_sequence(&before, 8, 7);
    let logs = vec![(".LOG", log)];
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    put(&mut v, regback, &primary, &logs);
    let images = Images::new(&v);
    let mut changed = written(regback, &logs);
    changed.push(HIVE.to_owned());
    images.cleaned(&[], &changed, &[OLD]);
    images.holds(regback, &logs, &after);
    // Without its log only the user can say.
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    put(&mut v, regback, &primary, &[]);
    let images = Images::new(&v);
    let ran = images.refused(&[]);
    assert!(ran.out.contains("--accept-dirty"), "{}", ran.out);
    changed.retain(|path| !path.ends_with(".LOG"));
    images.cleaned(&["--accept-dirty"], &changed, &[OLD]);
}

/// A leaked cell with the identity in capitals, as SMS writes it.
#[test]
fn a_cell_that_nothing_refers_to_is_erased_whatever_its_case() {
    for guid in [OLD.to_owned(), OLD.to_lowercase()] {
        let mut hive = describe(Some(OLD));
        hive.residue(Residue::LeakedCell(wide(&format!("GUID:{guid}"))));
        let images = Images::new(&volume(HIVE, &hive.build(), &[]));
        images.cleaned(&[], &[HIVE.to_owned()], &[OLD]);
    }
}

#[test]
fn a_transaction_log_of_the_kernel_with_the_identity_is_named_and_left() {
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    let mut log = vec![0; 9000];
    let guid = wide(&OLD.to_lowercase());
    log[5000..5000 + guid.len()].copy_from_slice(&guid);
    let config = r"\WINDOWS\system32\config";
    let paths = [
        format!(r"{config}\TxR\{{6cced2f1}}.TxR.0.regtrans-ms"),
        format!(r"{config}\SOFTWARE{{6cced2f1}}.TM.blf"),
    ];
    for path in &paths {
        v.file(path, log.clone());
    }
    let empty = format!(r"{config}\TxR\{{6cced2f1}}.TxR.blf");
    v.file(&empty, vec![1; 900]);
    let images = Images::new(&v);
    let report = clean_json(&images, 1);
    let named = report["left"].as_array().unwrap();
    assert_eq!(report["exit_code"], 1);
    for path in &paths {
        let lines = named.iter().filter(|line| line["owner"] == path.as_str());
        let lines: Vec<_> = lines.filter(|line| line["class"] == "journal").collect();
        let [line] = lines.as_slice() else {
            panic!("{path}: {named:#?}");
        };
        let what = line["what"].as_str().unwrap();
        assert!(what.contains("first at file offset 0x1388"), "{what}");
        assert!(what.contains("roll back"), "{what}");
        assert_eq!(line["count"], 1);
        assert!(line["image_offset"].is_u64(), "{line}");
        let left = report["residues"].to_string().replace(r"\\", r"\");
        assert!(left.contains(path.as_str()), "{left}");
        assert_eq!(
            images.file(&images.image, path),
            images.file(&images.out, path)
        );
    }
    assert!(
        named.iter().all(|line| line["what"] != empty.as_str()),
        "{named:#?}"
    );
    let text = declone(&["scan", arg(&images.image)]).exits(1).out;
    assert!(text.contains("2 traces are LEFT"), "{text}");
}
