//! Hives that were not written back completely: replayed, cleaned and sealed; or refused, or taken
//! as they are on disk because the user says so. Copies of hives, and logs that are not theirs.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use declone::hive::{Fate, Opened, check, open};

use crate::{
    machine::{self, CLIENT, HIVE},
    oracle,
    run::{Ran, arg, declone, digest, scratch},
    support::{
        hive_builder::{HiveBuilder, Kind, Residue},
        hive_log_builder as logs,
        ntfs_builder::NtfsBuilder,
    },
};

pub const OLD: &str = "0A1B2C3D-1111-4AAA-8BBB-0123456789AB";
pub const NEW: &str = "F9E8D7C6-2222-4CCC-9DDD-BA9876543210";
/// Only ever between two entries of a log.
pub const BETWEEN: &str = "77777777-3333-4EEE-8FFF-0A0B0C0D0E0F";
pub const VALUE: &str = "SMS Unique Identifier";

/// A SOFTWARE hive with this identity, or with something of the same length in its place.
pub fn state(guid: Option<&str>) -> Vec<u8> {
    describe(guid).build()
}

pub fn describe(guid: Option<&str>) -> HiveBuilder {
    let mut hive = HiveBuilder::new(5);
    let (name, text) = match guid {
        Some(guid) => (VALUE, format!("GUID:{guid}")),
        None => ("SMS Unique Identifiez", "-".repeat(41)),
    };
    hive.key(CLIENT)
        .dword("Log File Size", 1)
        .string(name, &text);
    for i in 0..60 {
        hive.key(&format!(r"Classes\.ext{i:03}\OpenWithList"))
            .string("", &format!("program {i}"))
            .value("blob", Kind::Binary, &vec![i as u8 + 1; 40 + i * 17]);
    }
    // As Windows leaves it: freed, not erased.
    let stale = guid.unwrap_or(OLD).encode_utf16();
    hive.residue(Residue::FreeCell(
        stale.flat_map(u16::to_le_bytes).collect(),
    ));
    hive
}

/// XP: a log of the old format, written to its end, and a primary of which nothing was.
fn old_format(before: &[u8], after: &[u8]) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let log = logs::old_log(before, after, 1, 7, 4096);
    (
        logs::with_sequence(before, 8, 7),
        vec![(".LOG", log), (".LOG1", Vec::new())],
    )
}

/// 8.1 and later: a write in each of two logs.
pub fn new_format(before: &[u8], after: &[u8]) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let middle = state(Some(BETWEEN));
    let first = logs::new_log(before, 10, &[logs::step(before, &middle, 10)]);
    let second = logs::new_log(&middle, 11, &[logs::step(&middle, after, 11)]);
    (
        logs::with_sequence(before, 10, 9),
        vec![(".LOG1", second), (".LOG2", first)],
    )
}

/// A volume with this hive at `path` and its logs beside it, and neighbours that stay.
pub fn volume(path: &str, primary: &[u8], logs: &[(&str, Vec<u8>)]) -> NtfsBuilder {
    let mut v = NtfsBuilder::new(32 << 20);
    put(&mut v, path, primary, logs);
    v.file(
        r"\WINDOWS\system32\config\SYSTEM",
        HiveBuilder::new(5).build(),
    );
    v.file(r"\WINDOWS\system32\config\SYSTEM.LOG", vec![0x33; 1024]);
    // Another hive's log in the same directory, and what is no log at all.
    let old = HiveBuilder::new(5).build();
    v.file(r"\WINDOWS\system32\config\SOFTWARE.OLD", old.clone());
    v.file(
        r"\WINDOWS\system32\config\SOFTWARE.OLD.LOG",
        logs::old_log(&old, &old, 1, 3, 4096),
    );
    v.file(r"\tools\software.log", "installed\r\n");
    v
}

pub fn put(v: &mut NtfsBuilder, path: &str, primary: &[u8], logs: &[(&str, Vec<u8>)]) {
    v.file(path, primary.to_vec());
    for (ending, log) in logs {
        let tail: Vec<u8> = OLD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let entry = v.file(&format!("{path}{ending}"), log.clone());
        if log.len() % 4096 != 0 && log.len() > 4096 {
            entry.cluster_tail(&tail);
        }
    }
}

pub struct Images {
    pub dir: tempfile::TempDir,
    pub image: std::path::PathBuf,
    pub out: std::path::PathBuf,
    pub records: HashMap<String, u64>,
}

impl Images {
    pub fn new(volume: &NtfsBuilder) -> Self {
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        let records = machine::write(volume, &image);
        Self {
            dir,
            image,
            out,
            records,
        }
    }

    pub fn file(&self, image: &Path, path: &str) -> Vec<u8> {
        oracle::read_record(image, self.records[path.trim_start_matches('\\')])
    }

    pub fn scan(&self) -> serde_json::Value {
        declone(&["scan", arg(&self.image), "--json", "-"]).json()["images"][0].clone()
    }

    /// Refused with exit 3, by every road; nothing changes, nothing is left behind.
    #[track_caller]
    pub fn refused(&self, more: &[&str]) -> Ran {
        let before = digest(&self.image);
        let run = |args: &[&str]| declone(&[args, more].concat()).exits(3);
        run(&["clean", arg(&self.image), "-n"]);
        run(&["clean", arg(&self.image), "--in-place"]);
        let ran = run(&["clean", arg(&self.image), "-o", arg(&self.out)]);
        assert_eq!(digest(&self.image), before);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 1);
        ran
    }

    /// Cleans to a copy and in place: the same bytes. Then everything that must hold whatever the
    /// hive was.
    #[track_caller]
    pub fn cleaned(&self, more: &[&str], changed: &[String], guids: &[&str]) -> Ran {
        let before = digest(&self.image);
        let clean = ["clean", arg(&self.image), "-o", arg(&self.out)];
        let ran = declone(&[&clean, more].concat()).exits(0);
        assert_eq!(digest(&self.image), before, "the input stays as it is");
        let own = self.dir.path().join("own.img");
        fs::copy(&self.image, &own).unwrap();
        declone(&[&["clean", arg(&own), "--in-place"], more].concat()).exits(0);
        assert_eq!(digest(&own), digest(&self.out));

        let bytes = fs::read(&self.out).unwrap();
        for form in guids.iter().flat_map(|guid| oracle::guid_forms(guid)) {
            assert_eq!(oracle::find_all(&bytes, &form), [0_usize; 0], "{form:02x?}");
        }
        let (was, is) = (
            oracle::files_by_record(&self.image, &self.records),
            oracle::files_by_record(&self.out, &self.records),
        );
        assert_eq!(lengths(&was), lengths(&is));
        let mut other: Vec<&String> = is.keys().filter(|path| was[*path] != is[*path]).collect();
        let mut changed: Vec<&String> = changed.iter().collect();
        other.sort();
        changed.sort();
        assert_eq!(other, changed);
        let again = self.dir.path().join("again.img");
        let second = ["clean", arg(&self.out), "-o", arg(&again)];
        let second = declone(&[&second, more].concat()).exits(0);
        assert!(second.out.contains("Nothing to do"), "{}", second.out);
        assert_eq!(digest(&again), digest(&self.out));
        ran
    }

    /// The cleaned hive is `wanted` without the value, needs no log and takes none; its logs are
    /// zeros.
    #[track_caller]
    pub fn holds(&self, path: &str, logs: &[(&str, Vec<u8>)], wanted: &[u8]) {
        let hive = self.file(&self.out, path);
        check(&hive).expect("a sound hive");
        let given: Vec<(&str, &[u8])> = logs.iter().map(|(n, b)| (*n, b.as_slice())).collect();
        match open(&hive, &given) {
            // The original logs, put back, are not applied: the tree is what the file has.
            Ok(Opened::Clean { logs }) => {
                assert!(
                    logs.iter()
                        .all(|log| !matches!(log.fate, Fate::Applied { .. }))
                );
            }
            other => panic!("a clean hive expected, found {other:?}"),
        }
        for (ending, log) in logs {
            let now = self.file(&self.out, &format!("{path}{ending}"));
            assert_eq!(now, vec![0; log.len()], "{ending}");
        }
        let value = format!("] {VALUE} =");
        let want: Vec<String> = oracle::hive_lines(wanted)
            .into_iter()
            .filter(|line| !line.contains(&value))
            .collect();
        assert_eq!(oracle::hive_lines(&hive), want);
    }
}

fn lengths(files: &BTreeMap<String, (u64, String)>) -> Vec<(&String, u64)> {
    files.iter().map(|(path, (len, _))| (path, *len)).collect()
}

/// The hive and its logs that are not empty.
pub fn written(path: &str, logs: &[(&str, Vec<u8>)]) -> Vec<String> {
    let full = logs.iter().filter(|(_, log)| !log.is_empty());
    std::iter::once(path.to_owned())
        .chain(full.map(|(ending, _)| format!("{path}{ending}")))
        .collect()
}

type Format = fn(&[u8], &[u8]) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>);

/// (view, has an image offset) of each finding of the value.
fn views(scan: &serde_json::Value) -> Vec<(String, bool)> {
    let mut views: Vec<(String, bool)> = scan["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["rule"] == "sms.uid")
        .map(|finding| {
            let places = finding["places"].to_string();
            let view = finding["view"].as_str().unwrap_or("none").to_owned();
            let evidence = finding["evidence"].as_str().unwrap();
            assert_eq!(view == "both", !evidence.contains("only"), "{evidence}");
            (view, places.contains("image offset"))
        })
        .collect();
    views.sort();
    views
}

fn replayed_and_cleaned(format: Format) {
    let (none, old, new) = (state(None), state(Some(OLD)), state(Some(NEW)));
    assert_eq!(
        (none.len(), none.len()),
        (old.len(), new.len()),
        "no growth"
    );
    let seen = |view: &str| (view.to_owned(), view != "after_replay");
    for (before, after, want) in [
        (&none, &new, vec![seen("after_replay")]),
        (&old, &none, vec![seen("on_disk")]),
        (&old, &new, vec![seen("after_replay"), seen("on_disk")]),
    ] {
        let (primary, logs) = format(before, after);
        let images = Images::new(&volume(HIVE, &primary, &logs));
        let scan = images.scan();
        assert_eq!(views(&scan), want);
        let hive = scan["volumes"][0]["hives"]
            .as_array()
            .unwrap()
            .iter()
            .find(|hive| hive["path"] == HIVE)
            .unwrap();
        assert!(
            hive["state"].as_str().unwrap().starts_with("dirty"),
            "{hive}"
        );
        assert_eq!(hive["replay"]["usable"], true);
        let text = declone(&["scan", arg(&images.image)]).exits(1).out;
        assert!(text.contains("finished by its logs"), "{text}");
        assert!(text.contains("on disk"), "{text}");
        let ran = images.cleaned(&[], &written(HIVE, &logs), &[OLD, NEW]);
        assert!(
            ran.out.contains("its logs were replayed first"),
            "{}",
            ran.out
        );
        images.holds(HIVE, &logs, after);
    }
}

#[test]
fn an_xp_hive_is_finished_by_its_log_and_cleaned() {
    replayed_and_cleaned(old_format);
}

#[test]
fn a_later_hive_is_finished_by_both_logs_and_cleaned() {
    replayed_and_cleaned(new_format);
}

#[test]
fn an_nt4_hive_is_finished_by_its_log_and_cleaned() {
    replayed_and_cleaned(|before, after| {
        let log = logs::old_log(before, after, 2, 7, 512);
        (logs::with_sequence(before, 8, 7), vec![(".LOG", log)])
    });
}

#[test]
fn a_hive_with_a_torn_base_block_is_finished_by_its_log_and_cleaned() {
    replayed_and_cleaned(|before, after| {
        let (before, after) = (logs::with_time(before, 77), logs::with_time(after, 77));
        let log = logs::old_log(&before, &after, 1, 8, 4096);
        let mut primary = logs::with_sequence(&before, 8, 8);
        primary[508] ^= 0x55;
        (primary, vec![(".LOG", log)])
    });
}

#[test]
fn the_same_identity_in_both_views_is_one_finding() {
    let (before, mut after) = (state(Some(OLD)), describe(Some(OLD)));
    after.key(CLIENT).dword("Log File Size", 2);
    let (primary, logs) = old_format(&before, &after.build());
    let images = Images::new(&volume(HIVE, &primary, &logs));
    assert_eq!(views(&images.scan()), [("both".to_owned(), true)]);
}

#[test]
fn a_dirty_hive_with_nothing_to_delete_is_not_written() {
    let mut after = describe(None);
    after.key(CLIENT).dword("Log File Size", 2);
    let (primary, logs) = old_format(&state(None), &after.build());
    let images = Images::new(&volume(HIVE, &primary, &logs));
    let ran = declone(&["clean", arg(&images.image), "-o", arg(&images.out)]).exits(0);
    assert!(
        ran.out.contains("Nothing to do") && ran.out.contains("dirty"),
        "{}",
        ran.out
    );
    assert_eq!(digest(&images.image), digest(&images.out));
}

#[test]
fn a_hive_that_its_log_makes_larger_than_its_file_is_refused() {
    let mut after = describe(Some(NEW));
    after
        .key(r"Microsoft\more")
        .value("large", Kind::Binary, &[7; 9000]);
    let (primary, logs) = old_format(&state(None), &after.build());
    let images = Images::new(&volume(HIVE, &primary, &logs));
    for more in [&[][..], &["--accept-dirty"]] {
        let ran = images.refused(more);
        assert!(ran.out.contains("never allocates"), "{}", ran.out);
    }
    let scan = declone(&["scan", arg(&images.image)]).exits(1);
    assert!(
        scan.out.contains("a clean would be refused"),
        "{}",
        scan.out
    );
}

#[test]
fn without_a_usable_log_the_user_decides() {
    let (before, after) = (state(Some(OLD)), state(Some(NEW)));
    let (primary, good) = old_format(&before, &after);
    let mut torn = good.clone();
    torn[0].1[508] ^= 1;
    for logs in [Vec::new(), torn] {
        let images = Images::new(&volume(HIVE, &primary, &logs));
        let ran = images.refused(&[]);
        for word in ["--accept-dirty", "8 and 7", "file \\WINDOWS", "partition"] {
            assert!(ran.out.contains(word), "{word}: {}", ran.out);
        }
        let ran = images.cleaned(&["--accept-dirty"], &written(HIVE, &logs), &[OLD, NEW]);
        assert!(
            ran.out.contains("THIS HIVE IS TAKEN AS IT IS"),
            "{}",
            ran.out
        );
        assert!(ran.out.contains("EDITED AS IT WAS ON DISK"), "{}", ran.out);
        images.holds(HIVE, &logs, &before);
        let json = declone(&[
            "clean",
            arg(&images.image),
            "-n",
            "--accept-dirty",
            "--json",
            "-",
        ])
        .exits(0)
        .json();
        let report = &json["images"][0];
        assert!(report["remarks"].to_string().contains("THIS HIVE IS TAKEN"));
        assert!(
            report["done"]["hives"]
                .to_string()
                .contains("EDITED AS IT WAS")
        );
    }
}

#[test]
fn a_fault_in_a_log_is_named_down_to_the_image() {
    let (before, after) = (state(Some(OLD)), state(Some(NEW)));
    // Two logs that begin with the same entry and do not agree what it was.
    let log = |after: &[u8]| logs::new_log(&before, 10, &[logs::step(&before, after, 10)]);
    let both = [(".LOG1", log(&after)), (".LOG2", log(&state(None)))];
    let primary = logs::with_sequence(&before, 10, 9);
    let images = Images::new(&volume(HIVE, &primary, &both));
    let ran = images.refused(&[]);
    for rung in [
        "found two that differ",
        "log offset 0x200",
        r"SOFTWARE.LOG",
        r"file \WINDOWS",
        "volume offset 0x",
        "partition 1",
        "disk offset 0x",
        "image offset 0x",
    ] {
        assert!(ran.out.contains(rung), "{rung}: {}", ran.out);
    }
}

#[test]
fn a_dirty_copy_goes_the_same_road() {
    let (none, old, new) = (state(None), state(Some(OLD)), state(Some(NEW)));
    let clean = |v: &mut NtfsBuilder, copy: &str, primary: &[u8], logs: &[(&str, Vec<u8>)]| {
        put(v, copy, primary, logs);
        Images::new(v)
    };
    for copy in [
        r"\WINDOWS\system32\config\RegBack\SOFTWARE",
        r"\System Volume Information\_restore{1}\RP1\snapshot\_REGISTRY_MACHINE_SOFTWARE",
        r"\WINDOWS\repair\software",
    ] {
        let usual = || volume(HIVE, &HiveBuilder::new(5).build(), &[]);
        // Its logs finish it, and it holds the identity only then.
        let (primary, logs) = new_format(&none, &new);
        let images = clean(&mut usual(), copy, &primary, &logs);
        images.cleaned(&[], &written(copy, &logs), &[NEW]);
        images.holds(copy, &logs, &new);
        // Nothing finishes it, and nothing is found in it: listed, left.
        let images = clean(&mut usual(), copy, &primary, &[]);
        let ran = declone(&["clean", arg(&images.image), "-o", arg(&images.out)]).exits(0);
        assert!(ran.out.contains("no log finishes it"), "{}", ran.out);
        assert_eq!(digest(&images.image), digest(&images.out));
        // Nothing finishes it, and the identity is in it.
        let (primary, _) = new_format(&old, &new);
        let images = clean(&mut usual(), copy, &primary, &[]);
        images.refused(&[]);
        images.cleaned(&["--accept-dirty"], &written(copy, &[]), &[OLD]);
        images.holds(copy, &[], &old);
    }
}

#[test]
fn saved_hives_under_other_names_are_cleaned_and_what_is_none_is_left() {
    let mut v = volume(HIVE, &state(None), &[]);
    let (primary, logs) = new_format(&state(None), &state(Some(NEW)));
    let saved = r"\backup\Before SMS.hiv";
    put(&mut v, saved, &primary, &logs);
    v.file(r"\backup\cut.HIV", &b"regf, but only its name"[..]);
    v.file(r"\backup\text.hiv", "no hive at all");
    let bins = [
        r"\RECYCLER\S-1-5-21-1\Dc7.bak",
        r"\$Recycle.Bin\S-1-5-21-1\$RA1B2C3",
    ];
    for bin in bins {
        v.file(bin, state(Some(OLD)));
    }
    v.file(r"\RECYCLER\S-1-5-21-1\Dc8.log", "a text");
    v.file(r"\WINDOWS\dcpromo.log", "another");
    let images = Images::new(&v);
    let mut changed = written(saved, &logs);
    changed.extend(bins.map(str::to_owned));
    // The identity of the copies is also in a free cell of the live hive.
    changed.push(HIVE.to_owned());
    // One of them is cut off: nobody knows what was in it.
    let ran = images.cleaned(&["--accept", "damaged"], &changed, &[OLD, NEW, BETWEEN]);
    assert!(
        ran.out.contains("cut.HIV") && !ran.out.contains("text.hiv"),
        "{}",
        ran.out
    );
    for bin in bins {
        images.holds(bin, &[], &state(Some(OLD)));
    }
    assert!(
        !ran.out.contains("Dc8") && !ran.out.contains("dcpromo"),
        "{}",
        ran.out
    );
    images.holds(saved, &logs, &state(Some(NEW)));
}

#[test]
fn what_no_rule_looks_into_is_named() {
    let mut v = volume(HIVE, &state(Some(OLD)), &[]);
    let old: Vec<u8> = OLD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut kernel = vec![0; 9000];
    kernel[5000..5000 + old.len()].copy_from_slice(&old);
    let txr = r"\WINDOWS\system32\config\TxR\{6cced2f1}.TxR.0.regtrans-ms";
    v.file(txr, kernel);
    v.file(
        r"\WINDOWS\system32\config\TxR\{6cced2f1}.TxR.blf",
        vec![1; 900],
    );
    v.file(r"\Users\a\NTUSER.DAT{0}.TM.blf", vec![1; 900]);
    v.file(
        r"\WINDOWS\repair\software._",
        &b"SZDD\x88\xf0\x27\x33A\0\x10\0\0\0"[..],
    );
    v.file(r"\backup\software._", &b"MSCF\0\0\0\0"[..]);
    v.file(r"\images\winre.WIM", &b"MSWIM\0\0\0more"[..]);
    v.file(r"\images\not one.wim", "only called so");
    let shadow = r"\System Volume Information\{1f}{3808876B-C176-4E48-B7AE-04046E6CC752}";
    v.file(shadow, vec![7; 900]);
    let images = Images::new(&v);
    let args = [
        "clean",
        arg(&images.image),
        "-o",
        arg(&images.out),
        "--json",
        "-",
    ];
    let json = declone(&args).exits(1).json();
    let report = &json["images"][0];
    let named = report["not_scanned"].to_string();
    for word in [
        r"{6cced2f1}.TxR.0.regtrans-ms (2 such files)",
        r"repair\\software._",
        r"backup\\software._",
        "compressed (SZDD)",
        "compressed (cabinet)",
        "winre.WIM",
        "3808876B",
    ] {
        assert!(named.contains(word), "{word}: {named}");
    }
    assert!(
        !named.contains("NTUSER") && !named.contains("not one"),
        "{named}"
    );
    let residues = report["residues"].as_array().unwrap();
    assert_eq!(residues.len(), 1, "{residues:#?}");
    assert!(
        residues[0]["owner"]
            .as_str()
            .unwrap()
            .contains("regtrans-ms")
    );
    assert_eq!(
        images.file(&images.image, txr),
        images.file(&images.out, txr)
    );
}

/// The strict checker: the hive is sound and wiped.
#[test]
fn an_independent_checker_accepts_cleaned_dirty_hives() {
    let Some(checker) = crate::judges::checker("check_hive.py") else {
        return;
    };
    for (format, before, after) in [
        (old_format as Format, state(None), state(Some(NEW))),
        (new_format, state(Some(OLD)), state(Some(NEW))),
        (new_format, state(Some(OLD)), state(None)),
    ] {
        let (primary, logs) = format(&before, &after);
        let images = Images::new(&volume(HIVE, &primary, &logs));
        images.cleaned(&[], &written(HIVE, &logs), &[OLD, NEW, BETWEEN]);
        let hive = images.dir.path().join("SOFTWARE");
        fs::write(&hive, images.file(&images.out, HIVE)).unwrap();
        let mut args = vec![arg(&checker).to_owned(), arg(&hive).to_owned()];
        for guid in [OLD, NEW, BETWEEN] {
            args.extend(["--needle".to_owned(), format!("guid:{guid}")]);
        }
        let json = judged(&args);
        for stat in ["free_nonzero_bytes", "slack_nonzero_bytes", "tail_nonzero"] {
            assert_eq!(
                json["stats"][stat].as_u64().unwrap_or(0),
                0,
                "{stat}: {json}"
            );
        }
        assert!(json["stats"]["keys"].as_u64().unwrap() > 60, "{json}");
    }
}

#[track_caller]
fn judged(args: &[String]) -> serde_json::Value {
    let output = std::process::Command::new("python3")
        .args(args)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(json["verdict"], "PASS", "{json}");
    json
}

#[test]
fn what_is_no_log_is_not_erased() {
    let (primary, good) = old_format(&state(Some(OLD)), &state(Some(NEW)));
    // Beside a clean hive: left and listed. Beside a dirty one: refused.
    let diary = vec![(".LOG", b"Dear diary, ".repeat(90).clone())];
    let images = Images::new(&volume(HIVE, &state(Some(OLD)), &diary));
    let ran = images.cleaned(&[], &[HIVE.to_owned()], &[OLD]);
    assert!(ran.out.contains("does not look like"), "{}", ran.out);
    let images = Images::new(&volume(HIVE, &primary, &diary));
    images.refused(&["--accept-dirty"]);
    let mut linked = volume(HIVE, &primary, &good);
    linked.link(&format!("{HIVE}.LOG"), r"\letter.txt");
    let images = Images::new(&linked);
    let ran = images.refused(&[]);
    assert!(ran.out.contains("letter.txt"), "{}", ran.out);
}

/// What real machines left: a value that only the logs hold is taken out, and nothing else of what
/// the replay gives.
#[test]
fn real_dirty_hives_are_replayed_cleaned_and_sealed() {
    let Some(samples) = crate::run::samples("real_dirty_hives_are_replayed_cleaned_and_sealed")
    else {
        return;
    };
    for name in [
        "dirty_win10_Amcache.hve",
        "dirty_win10_NTUSER",
        "dirty_win10_SYSTEM_B",
    ] {
        let read = |name: &str| {
            let path = samples.join("hives").join(format!("{name}.xz"));
            let output = std::process::Command::new("xz")
                .arg("-dc")
                .arg(&path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", path.display());
            output.stdout
        };
        let primary = read(name);
        let logs: Vec<(&str, Vec<u8>)> = [".LOG1", ".LOG2"]
            .map(|ending| (ending, read(&format!("{name}{ending}"))))
            .into();
        let given: Vec<(&str, &[u8])> = logs.iter().map(|(n, b)| (*n, b.as_slice())).collect();
        let Ok(Opened::Replayed { bytes, .. }) = open(&primary, &given) else {
            panic!("{name}: a replay expected");
        };
        // A value of an ordinary name and data that is not on disk.
        let on_disk = oracle::hive_lines(&logs::with_sequence(&primary, 1, 1));
        let after = oracle::hive_lines(&bytes);
        let (key, value) = after
            .iter()
            .filter(|line| on_disk.binary_search(line).is_err())
            .find_map(|line| {
                let (key, rest) = line.strip_prefix("[\\")?.split_once("] ")?;
                let (value, _) = rest.split_once(" = ")?;
                let plain = |text: &str| {
                    let odd = |c: char| !(' '..='~').contains(&c) || "\"{}".contains(c);
                    !text.contains(odd)
                };
                (plain(key) && plain(value) && value.len() > 3).then_some((key, value))
            })
            .unwrap_or_else(|| panic!("{name}: a value that only the logs hold"));
        let images = Images::new(&volume(HIVE, &primary, &logs));
        let rules = scratch();
        let file = rules.path().join("own.toml");
        let path: Vec<String> = key.split('\\').map(|part| format!("{part:?}")).collect();
        fs::write(
            &file,
            format!(
                "[[rule]]\nid = \"own\"\nprofile = \"own\"\ntitle = \"one value\"\n\
                 step = \"one value\"\naction = \"delete\"\nconfidence = \"A\"\n\
                 sources = [\"a test\"]\nrationale = \"a test\"\n\
                 target = {{ kind = \"value\", hive = \"software\", key = [{}], value = {value:?} }}\n",
                path.join(", ")
            ),
        )
        .unwrap();
        let started = std::time::Instant::now();
        declone(&[
            "clean",
            arg(&images.image),
            "-o",
            arg(&images.out),
            "--rules",
            arg(&file),
        ])
        .exits(0);
        println!("{name}: {:?}, {key} {value}", started.elapsed());
        let hive = images.file(&images.out, HIVE);
        assert!(check(&hive).is_ok() && matches!(open(&hive, &given), Ok(Opened::Clean { .. })));
        let gone = format!("[\\{key}] {value} = ");
        let want: Vec<&String> = after
            .iter()
            .filter(|line| !line.starts_with(&gone))
            .collect();
        assert_eq!(want.len(), after.len() - 1, "{name}");
        assert_eq!(
            oracle::hive_lines(&hive).iter().collect::<Vec<_>>(),
            want,
            "{name}"
        );
        for (ending, log) in &logs {
            let now = images.file(&images.out, &format!("{HIVE}{ending}"));
            assert_eq!(now, vec![0; log.len()], "{name}{ending}");
        }
        if let Some(checker) = crate::judges::checker("check_hive.py") {
            let path = rules.path().join("hive");
            fs::write(&path, &hive).unwrap();
            judged(&[arg(&checker).to_owned(), arg(&path).to_owned()]);
        }
    }
}
