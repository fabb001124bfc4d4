//! Rows X1 and X2 of robustness.md: hostile names from every source in every output.
//!
//! | source | where the name stands | test |
//! |---|---|---|
//! | file and directory names of NTFS | paths of findings, of what was not looked at | `file_names_are_inert` |
//! | key names | subjects, evidence | `key_and_value_names_and_data_are_inert` |
//! | value names, value data | evidence, notes, tokens | the same |
//! | partition names (GPT), lone surrogates too | volumes | `partition_names_are_inert` |
//! | parent paths, extent names, creators of containers | errors, chain, container facts | `names_in_containers_are_inert` |
//! | names inside a WIM, its XML | paths, notes | `names_in_archives_are_inert` |
//! | reports of others (`compare`, `--against`) | paths, errors, ids | `reports_of_others_are_inert` |
//! | the command line: image, report, rules, format | every message | `names_on_the_command_line_are_inert` |
//! | names that do not decode (UTF-16, UTF-8) | paths | the partition and command line tests |
//! | file names of FAT, exFAT and directories; texts of QCOW2, VDI, E01, Ex01, AFF4, SWM; users, event logs, Sysprep's list | all of these | `hostile_formats` |
//!
//! Outputs: text, JSON (the bytes, and every string in it after parsing), the page, standard error.
//! Progress shows the names of stages only, which are `'static` texts or numbers.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    machine::{self, ABEXPRT, CLIENT, HIVE},
    report::check_page,
    run::{arg, declone, scratch},
    support::{
        disk_builder::{DiskBuilder, crc32},
        hive_builder::HiveBuilder,
        ntfs_builder::{Geometry, Names, NtfsBuilder},
        vhd_builder as vhd, vhdx_builder as vhdx, vmdk_builder as vmdk,
        wim_builder::{Node, Wim},
    },
};

pub const MIB: usize = 1 << 20;

/// Forty names that somebody could give a file to harm a reader, a terminal or a program.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "\u{1b}[31mred",
        "\u{1b}]8;;http:x\u{7}link\u{1b}]8;;\u{7}",
        "\u{1b}]0;title\u{7}",
        "\u{1b}[2J\u{1b}[H",
        "\u{1b}P$q\u{1b}",
        "bell\u{7}",
        "back\u{8}\u{8}\u{8}\u{8}",
        "carriage\rreturn",
        "line\nfeed",
        "tab\tstop",
        "vertical\u{b}tab",
        "form\u{c}feed",
        "shift\u{e}\u{f}",
        "delete\u{7f}",
        "csi\u{9b}31m",
        "osc\u{9d}0;x\u{9c}",
        "nel\u{85}x",
        "\u{202e}gnp.exe",
        "\u{2066}isolate\u{2069}",
        "\u{200f}mark\u{200e}",
        "\u{61c}arabic",
        "zero\u{200b}width",
        "zwj\u{200d}x\u{200c}",
        "\u{feff}bom",
        "soft\u{ad}hyphen",
        "line\u{2028}paragraph\u{2029}",
        "tag\u{e0041}\u{e0042}",
        "variation\u{fe0f}",
        "filler\u{3164}x\u{ffa0}",
        "joiner\u{34f}\u{2060}",
        "<script>alert(1)<script>",
        "<img src=x onerror=alert(1)>",
        "\"><svg onload=alert(1)>",
        "' onmouseover='alert(1)",
        "&lt;b&gt;&#60;",
        "]]><!--",
        "=cmd|' C'!A0",
        "%s%n%x{}{0}$(id)`id`",
        "javascript:alert(1)",
        "{{7*7}}${7*7}",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(names.len(), 40);
    names.push("long".repeat(50));
    names
}

/// Whether a character must not reach a terminal or a page as it is. Written down again here: a
/// mistake in `text::escape` must not be excused by itself.
fn is_hidden(c: char) -> bool {
    let code = u32::from(c);
    matches!(code,
        0x00..=0x1F | 0x7F..=0x9F                       // controls
        | 0xAD | 0x34F | 0x61C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x180B..=0x180F
        | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F   // zero width, bidi, separators
        | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB
        | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

#[track_caller]
pub fn check_text(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    let hidden = text
        .char_indices()
        .find(|(_, c)| *c != '\n' && is_hidden(*c));
    if let Some((at, c)) = hidden {
        let near: String = text[..at]
            .chars()
            .rev()
            .take(60)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        panic!("{what}: U+{:04X} after {near:?}", u32::from(c));
    }
}

#[track_caller]
pub fn check_strings(what: &str, value: &Value) {
    match value {
        Value::String(text) => {
            check_text(what, text.as_bytes());
            assert!(!text.contains('\n'), "{what}: a line break in {text:?}");
        }
        Value::Array(all) => all.iter().for_each(|one| check_strings(what, one)),
        Value::Object(all) => all.iter().for_each(|(name, one)| {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            check_strings(what, one);
        }),
        _ => {}
    }
}

/// Runs with these arguments and looks at every output. Gives the JSON and the page.
#[track_caller]
pub fn check(dir: &Path, args: &[&str]) -> (Value, String) {
    let (json, page) = (dir.join("report.json"), dir.join("report.html"));
    let mut all = args.to_vec();
    all.extend(["--json", arg(&json), "--html", arg(&page)]);
    let ran = run(all.iter().map(|one| OsString::from(*one)).collect());
    check_text("text", &ran.stdout);
    check_text("errors", &ran.stderr);
    assert!(ran.status.code().is_some_and(|code| code < 9), "{args:?}");
    let bytes = fs::read(&json).unwrap();
    check_text("json", &bytes);
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    check_strings("json", &value);
    let page = fs::read_to_string(&page).unwrap();
    check_text("page", page.as_bytes());
    check_page(&page);
    (value, page)
}

fn run(args: Vec<OsString>) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What is left of a name to recognise it by: its longest stretch of letters.
pub fn trace(name: &str) -> &str {
    name.split(|c: char| !c.is_ascii_alphabetic())
        .max_by_key(|part| part.len())
        .unwrap()
}

/// All names are shown somewhere: a test in which they are not proves nothing.
#[track_caller]
pub fn check_shown(names: &[String], value: &Value, page: &str) {
    let text = value.to_string();
    for name in names {
        let trace = trace(name);
        assert!(text.contains(trace), "{trace:?} is not in the JSON");
        assert!(page.contains(trace), "{trace:?} is not in the page");
    }
}

fn files_disk() -> (Vec<u8>, Vec<String>) {
    let mut v = machine::volume(8 << 20, Geometry::default(), 5);
    let names: Vec<String> = names();
    for (i, name) in names.iter().enumerate() {
        v.dir(name).names(Names::Posix);
        v.file(&format!("{name}\\Smscfg.ini"), machine::ini().as_str());
        if i % 4 == 0 {
            v.dir(&format!("{name}\\below\\Smsuid.dat"));
        }
    }
    (DiskBuilder::superfloppy(v).to_vec().0, names)
}

#[test]
fn file_names_are_inert() {
    let dir = scratch();
    let (bytes, names) = files_disk();
    let path = dir.path().join("files.img");
    fs::write(&path, bytes).unwrap();
    let (json, page) = check(dir.path(), &["scan", arg(&path)]);
    check_shown(&names, &json, &page);
    let skipped = json["images"][0]["not_scanned"].as_array().unwrap().len();
    assert!(skipped >= 11, "{skipped}");
    for args in [
        &["clean", arg(&path), "-n"][..],
        &["verify", arg(&path)],
        &["compare", arg(&path), arg(&path)],
        &["scan", arg(&path), "--redact"],
    ] {
        check(dir.path(), args);
    }
}

fn hive_disk() -> (Vec<u8>, Vec<String>) {
    let mut hive = HiveBuilder::new(5);
    let names: Vec<String> = names();
    for (i, name) in names.iter().enumerate() {
        let key = format!("{ABEXPRT}\\{name}");
        hive.key(&key)
            .string(&format!("{name}</script><script>{i}"), name);
        hive.key(&format!("{key}\\{name}")).string(name, name);
    }
    hive.key(CLIENT)
        .string("SMS Unique Identifier", &names.concat());
    let mut v = NtfsBuilder::new(8 << 20);
    v.file(HIVE, hive.build());
    v.file(r"\WINDOWS\repair\software", {
        let mut hive = HiveBuilder::new(5);
        hive.key(CLIENT)
            .string("SMS Unique Identifier", "</script>\u{1b}[1mGUID:x\u{202e}");
        hive.build()
    });
    (DiskBuilder::superfloppy(v).to_vec().0, names)
}

#[test]
fn key_and_value_names_and_data_are_inert() {
    let dir = scratch();
    let (bytes, names) = hive_disk();
    let path = dir.path().join("hive.img");
    fs::write(&path, bytes).unwrap();
    let (json, page) = check(dir.path(), &["scan", arg(&path)]);
    check_shown(&names, &json, &page);
    for args in [
        &["clean", arg(&path), "-n", "--prove"][..],
        &["verify", arg(&path)],
        &["compare", arg(&path), arg(&path)],
        &["scan", arg(&path), "--redact"],
    ] {
        check(dir.path(), args);
    }
}

/// A GPT whose partitions have these names (36 units at most each).
fn gpt(names: &[Vec<u16>]) -> Vec<u8> {
    let mut disk = DiskBuilder::gpt(64 << 20, 512);
    for i in 0..names.len() as u64 {
        disk = disk.raw(2048 + i * 2048, 2048, 7, b"x");
    }
    let mut bytes = disk.to_vec().0;
    let last = bytes.len() - 512;
    for header in [512, last] {
        let get =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let table = usize::try_from(get(&bytes, header + 72)).unwrap() * 512;
        for (i, name) in names.iter().enumerate() {
            let at = table + i * 128 + 56;
            bytes[at..at + 72].fill(0);
            for (unit, place) in name.iter().take(36).zip(bytes[at..].chunks_mut(2)) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
        }
        let sum = crc32(&bytes[table..table + 128 * 128]);
        bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
        bytes[header + 16..header + 20].fill(0);
        let sum = crc32(&bytes[header..header + 92]);
        bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn partition_names_are_inert() {
    let dir = scratch();
    let path = dir.path().join("gpt.img");
    let some: Vec<String> = names()[..30].to_vec();
    let mut units: Vec<Vec<u16>> = some
        .iter()
        .map(|name| name.encode_utf16().collect())
        .collect();
    // Does not decode.
    units[0] = vec![0xD800, 0x72, 0x65, 0x64, 0xDC00, 0xDC00, 0x1B, 0xD83D];
    fs::write(&path, gpt(&units)).unwrap();
    let (json, page) = check(dir.path(), &["scan", arg(&path)]);
    check_shown(&some[1..], &json, &page);
    let first = json["images"][0]["volumes"][0]["slot_name"]
        .as_str()
        .unwrap();
    assert_eq!(first, "\u{fffd}red\u{fffd}\u{fffd}\\u{1b}\u{fffd}");
    assert_eq!(
        json["images"][0]["volumes"].as_array().unwrap().len(),
        30,
        "{json}"
    );
    let path = dir.path().join("gpt2.img");
    let rest: Vec<String> = names()[30..40].to_vec();
    let units: Vec<Vec<u16>> = rest
        .iter()
        .map(|name| name.encode_utf16().collect())
        .collect();
    fs::write(&path, gpt(&units)).unwrap();
    let (json, page) = check(dir.path(), &["verify", arg(&path)]);
    check_shown(&rest, &json, &page);
}

#[test]
fn names_in_containers_are_inert() {
    let dir = scratch();
    let raw = vec![0; 4 * MIB];
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut add = |name: String, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        paths.push(path);
    };
    for (i, name) in names().iter().take(40).enumerate() {
        let child = vhd::differencing(&raw, &raw, name, vhd::Shape::default());
        add(format!("{i}.vhd"), &child);
        let parent = vhdx::Parent {
            raw: &raw,
            keys: vec![
                (
                    "parent_linkage",
                    "{6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312}".to_owned(),
                ),
                ("relative_path", name.clone()),
                ("absolute_win32_path", format!(r"C:\{name}")),
            ],
            partial: false,
        };
        add(
            format!("{i}.vhdx"),
            &vhdx::differencing(&raw, vhdx::Shape::default(), &parent),
        );
        let extent = format!("RW 8192 FLAT \"{name}\" 0");
        add(
            format!("{i}.vmdk"),
            vmdk::descriptor(&format!("monolithicFlat{name}"), &[extent]).as_bytes(),
        );
        let mut fixed = vhd::fixed(&raw);
        let footer = fixed.len() - 512;
        let creator: Vec<u8> = name.bytes().chain([0x1B; 4]).take(4).collect();
        fixed[footer + 28..footer + 32].copy_from_slice(&creator);
        vhd::seal(&mut fixed[footer..], 64);
        add(format!("{i}-fixed.vhd"), &fixed);
    }
    let mut args = vec!["scan"];
    args.extend(paths.iter().map(|path| arg(path)));
    let (json, _) = check(dir.path(), &args);
    let text = json.to_string();
    assert_eq!(json["images"].as_array().unwrap().len(), 160);
    for word in ["onerror=alert", "alert(1)", "red", "gnp.exe"] {
        assert!(text.contains(word), "{word}");
    }
    let mut args = vec!["compare"];
    args.extend(paths.iter().map(|path| arg(path)));
    check(dir.path(), &args);
    for path in paths.iter().take(12) {
        check(dir.path(), &["clean", arg(path), "-n"]);
        check(dir.path(), &["recover", arg(path), "--status"]);
    }
}

#[test]
fn names_in_archives_are_inert() {
    let dir = scratch();
    let names: Vec<String> = names();
    let mut root = Node::directory("");
    for name in &names {
        root.add(&format!("\\{name}\\Smscfg.ini"), machine::ini().as_bytes());
        root.put(
            "\\",
            Node::file(&format!("x{name}"), b"1").stream(name, b"2"),
        );
    }
    let mut archive = Wim::new(vec![root]);
    for name in &names[..40] {
        archive.xml += &format!("<NAME>{name}</NAME><DESCRIPTION>{name}</DESCRIPTION>");
    }
    let path = dir.path().join("a.wim");
    fs::write(&path, archive.build()).unwrap();
    let (json, page) = check(dir.path(), &["scan", arg(&path)]);
    // The names may make an XML that is none; the paths are read all the same.
    check_shown(&names, &json, &page);
    check(dir.path(), &["clean", arg(&path), "-n"]);
    check(dir.path(), &["verify", arg(&path)]);
}

fn evil_report() -> Value {
    let images: Vec<Value> = names()
        .iter()
        .map(|name| {
            json!({
                "path": name,
                "errors": [{"what": format!("{name}</script>")}],
                "findings": [
                    {"rule": "sms.uid", "evidence": "GUID:6F2E17C4-93AB-4D0E-8C51-7A64E0B9D312",
                     "subject": {"kind": "value", "hive": name, "key": name, "value": name}},
                    {"rule": "sms.cfg", "evidence": "6F2E17C4-93AB-4D0E-8C51-7A64E0B9D313",
                     "subject": {"kind": "file", "path": name}},
                    {"rule": name, "evidence": name, "subject": {"kind": name}},
                ],
                "tokens": [{"label": name, "bytes": "0011223344556677", "fold": false, "class": "identifier"}],
            })
        })
        .collect();
    json!({ "images": images })
}

#[test]
fn reports_of_others_are_inert() {
    let dir = scratch();
    let report = dir.path().join("evil.json");
    fs::write(&report, evil_report().to_string()).unwrap();
    let (json, page) = check(dir.path(), &["compare", arg(&report)]);
    check_shown(&names(), &json, &page);
    let path = dir.path().join("files.img");
    fs::write(&path, files_disk().0).unwrap();
    check(
        dir.path(),
        &["verify", arg(&path), "--against", arg(&report)],
    );
    fs::write(dir.path().join("bad.json"), "{\"images\": \u{1b}[1m").unwrap();
    let bad = dir.path().join("bad.json");
    let ran = run(vec!["compare".into(), bad.into()]);
    check_text("errors", &ran.stderr);
}

#[test]
fn names_on_the_command_line_are_inert() {
    let dir = scratch();
    let mut names: Vec<OsString> = names().into_iter().map(OsString::from).collect();
    names.push(OsString::from_vec(b"not \xff\xfe\x1b[31m utf-8".to_vec()));
    names.push(OsString::from_vec(b"line\nbreak\xc3".to_vec()));
    let (files, _) = files_disk();
    for (i, name) in names.iter().enumerate() {
        let path = dir.path().join(name).into_os_string();
        let missing = dir.path().join("no").join(name).into_os_string();
        if i % 10 == 0 {
            fs::write(&path, &files).unwrap();
        } else {
            fs::write(&path, [7; 4096]).unwrap();
        }
        let inside = |flag: &str, value: &OsString| {
            let mut all: OsString = format!("{flag}=").into();
            all.push(value);
            all
        };
        for args in [
            vec!["scan".into(), path.clone(), missing.clone()],
            vec!["scan".into(), path.clone(), "--json".into(), "-".into()],
            vec!["clean".into(), path.clone(), "-n".into()],
            vec!["clean".into(), path.clone(), "-o".into(), missing.clone()],
            vec![
                "clean".into(),
                path.clone(),
                "-q".into(),
                "--in-place".into(),
                "--undo".into(),
                missing.clone(),
            ],
            vec![
                "verify".into(),
                path.clone(),
                "--against".into(),
                missing.clone(),
            ],
            vec!["compare".into(), path.clone(), missing.clone()],
            vec![
                "scan".into(),
                path.clone(),
                inside("--json", &missing),
                "--html".into(),
                missing.clone(),
            ],
            vec!["scan".into(), path.clone(), inside("--rules", name)],
            vec!["scan".into(), path.clone(), inside("--rules", &missing)],
            vec!["scan".into(), path.clone(), inside("--format", name)],
            vec!["scan".into(), path.clone(), inside("--partition", name)],
            vec!["scan".into(), path.clone(), inside("--image-index", name)],
            vec!["undo".into(), path.clone()],
            vec!["recover".into(), path.clone()],
            vec!["rules".into(), "show".into(), name.clone()],
            vec!["rules".into(), "check".into(), path.clone()],
            vec![name.clone()],
            vec!["scan".into(), inside("--unknown", name)],
        ]
        .into_iter()
        // One round of everything, then what differs most.
        .enumerate()
        .filter(|(round, _)| i % 10 == 0 || (i + round) % 5 == 0)
        .map(|(_, args)| args)
        {
            let shown = format!("{args:?}");
            let ran = run(args);
            check_text(&format!("text of {shown}"), &ran.stdout);
            check_text(&format!("errors of {shown}"), &ran.stderr);
            assert!(
                ran.status.code().is_some_and(|code| code < 9),
                "{shown}: {:?}",
                ran.status
            );
        }
    }
    // The page of an image whose own path is hostile.
    let path = dir.path().join(names[31].clone());
    fs::write(&path, &files).unwrap();
    let (_, page) = check(dir.path(), &["scan", arg(&path)]);
    assert!(page.contains("&lt;img src=x"), "escaped, not dropped");
}

/// Pages with hostile names from every source, for the browser.
pub fn pages(dir: &Path) -> Vec<PathBuf> {
    let (files, hive) = (dir.join("files.img"), dir.join("hive.img"));
    fs::write(&files, files_disk().0).unwrap();
    fs::write(&hive, hive_disk().0).unwrap();
    let report = dir.join("evil.json");
    fs::write(&report, evil_report().to_string()).unwrap();
    let mut made = Vec::new();
    for (name, args) in [
        ("files", vec!["scan", arg(&files)]),
        ("hive", vec!["clean", arg(&hive), "-n", "--prove"]),
        ("verify", vec!["verify", arg(&hive)]),
        ("compare", vec!["compare", arg(&report), arg(&hive)]),
        (
            "redacted",
            vec!["scan", arg(&hive), arg(&files), "--redact"],
        ),
    ] {
        let page = dir.join(format!("hostile-{name}.html"));
        let mut args = args;
        args.extend(["--html", arg(&page)]);
        let ran = declone(&args);
        assert!(ran.code < 9, "{}", ran.err);
        made.push(page);
    }
    made
}
