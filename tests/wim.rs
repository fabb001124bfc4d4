//! WIM archives: what a scan of the same tree on a volume finds, and an archive of which everything
//! else is the same, byte for byte. Built and read by [`wim_builder`], which knows nothing of declone.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    machine::{self, GUID, HIVE, HIVES, TARGETS},
    run::{Ran, arg, declone, scratch},
    support::{
        hive_builder::HiveBuilder,
        ntfs_builder::{Geometry, NtfsBuilder},
        wim_builder::{self as wim, Node, Wim, sha1},
    },
};

/// A decoy for each target, and other files.
const DECOYS: [&str; 3] = ["Smscfg.ini.bak", "Xsmscfg.ini", "Smsuid.dat.txt"];

pub fn uid() -> Vec<u8> {
    (0..40_000_u32).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// What other files hold: nothing of the identity.
pub fn stuff() -> Vec<u8> {
    (0..40_000_u32)
        .map(|i| (i.wrapping_mul(i).wrapping_mul(31) / 3 + i / 13) as u8)
        .collect()
}

fn other_uid() -> Vec<u8> {
    (0..200_u32).map(|i| (i * i * 13 + 90) as u8).collect()
}

/// The machine as a tree.
pub fn tree() -> Node {
    let mut root = Node::directory("");
    for path in HIVES {
        root.add(path, &machine::hive(5).build());
    }
    root.add(
        r"\WINDOWS\system32\config\SYSTEM",
        &HiveBuilder::new(5).build(),
    );
    root.put(
        r"\WINDOWS",
        Node::file("Smscfg.ini", machine::ini().as_bytes()).short("SMSCFG.INI"),
    );
    root.add(r"\WINDOWS\Sms1x.ini", b"[SMS]\r\nUniqueID=ABC0000F\r\n");
    root.add(r"\WINDOWS\MS\SMS\CORE\DATA\Smsuid.dat", &uid());
    root.add(
        r"\Documents and Settings\All Users\SMSUID.DAT",
        &other_uid(),
    );
    root.add(
        r"\RECYCLER\S-1-5-21-1\smscfg.INI",
        machine::ini().as_bytes(),
    );
    for (i, decoy) in DECOYS.iter().enumerate() {
        root.add(&format!(r"\WINDOWS\{decoy}"), &stuff()[i..i + 900]);
    }
    for i in 0..30_usize {
        let name = format!("library number {i:02} with a long name.dll");
        let data = &stuff()[i * 11..i * 11 + 300 + i * 700];
        root.put(
            r"\WINDOWS\system32",
            Node::file(&name, data).short(&format!("LIBRA~{i}.DLL")),
        );
    }
    root.at(r"\WINDOWS\empty folder");
    root.add(r"\WINDOWS\empty file.txt", b"");
    root
}

pub fn said(ran: &Ran) -> String {
    format!("{}{}", ran.out, ran.err)
}

/// Rule and subject of every finding, without where it lies.
fn subjects(json: &Value) -> BTreeSet<String> {
    let all = json["images"][0]["findings"].as_array().unwrap().iter();
    all.map(|one| format!("{} {}", one["rule"], one["subject"]))
        .collect()
}

/// Cleans to a copy and in place, undoes, cleans again. What is right for every archive is checked
/// here; the cleaned archive is returned.
#[track_caller]
pub fn clean(file: &[u8], more: &[&str]) -> Vec<u8> {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let (image, out, undo) = (path("a.wim"), path("b.wim"), path("undo"));
    fs::write(&image, file).unwrap();
    let run = |args: &[&str]| declone(&[args, more].concat());
    run(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    assert!(fs::read(&image).unwrap() == file, "the input");
    let cleaned = fs::read(&out).unwrap();
    run(&["clean", arg(&image), "--in-place", "--undo", arg(&undo)]).exits(0);
    assert!(
        fs::read(&image).unwrap() == cleaned,
        "in place is as a copy"
    );
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(fs::read(&image).unwrap() == file, "undone");
    if more.is_empty() {
        let again = run(&["clean", arg(&out), "--in-place"]).exits(0);
        assert!(again.out.contains("Nothing to do"), "{}", again.out);
        assert!(
            fs::read(&out).unwrap() == cleaned,
            "nothing is written twice"
        );
        declone(&["scan", arg(&out)]).exits(0);
        declone(&["verify", arg(&out)]).exits(0);
    }
    cleaned
}

/// Whether a path is one of the targets.
pub fn is_target(path: &str) -> bool {
    TARGETS
        .iter()
        .any(|target| target.eq_ignore_ascii_case(path))
}

/// Holds a cleaned archive against what it was: `gone` are removed, `hives` changed; everything else
/// is the same.
#[track_caller]
pub fn check(
    before: &[u8],
    after: &[u8],
    gone: &dyn Fn(&str) -> bool,
    hives: &[&str],
) -> (wim::Read, wim::Read) {
    let (old, new) = (wim::read(before), wim::read(after));
    assert_eq!(new.dirt, 0, "stale bytes");
    assert_eq!(old.images.len(), new.images.len());
    for (i, image) in old.images.iter().enumerate() {
        let want: Vec<_> = image.iter().filter(|(path, _)| !gone(path)).collect();
        let found: Vec<_> = new.images[i].iter().collect();
        assert_eq!(
            found.iter().map(|(path, _)| path).collect::<Vec<_>>(),
            want.iter().map(|(path, _)| path).collect::<Vec<_>>()
        );
        for ((path, is), (_, was)) in found.iter().zip(&want) {
            assert!(is.raw == was.raw, "{path}: the dentry");
            if hives.contains(&path.as_str()) {
                let (is, was) = (&is.streams, &was.streams);
                assert_eq!(is.len(), was.len());
                for ((name, is), (_, was)) in is.iter().zip(was) {
                    assert_eq!(is.len(), was.len(), "{path}");
                    assert_eq!(is != was, name.is_empty(), "{path}:{name}");
                }
            } else {
                assert!(is.streams == was.streams, "{path}: contents");
            }
        }
        assert_eq!(new.security[i], old.security[i]);
        if new.xml.contains("<FILECOUNT>") {
            for (tag, count) in wim::counts(&new.images[i]) {
                assert_eq!(new.number(i, tag), count, "{tag} of image {}", i + 1);
            }
        }
    }
    // The header: only places differ, and the flags of none.
    let (mut a, mut b) = (old.header.clone(), new.header.clone());
    for header in [&mut a, &mut b] {
        header[0x30..0x78].fill(0);
        header[0x7C..0x94].fill(0);
    }
    assert!(a == b, "the header");
    // The XML: only counts differ.
    let text = |xml: &str| -> String {
        let mut out = String::new();
        for piece in xml.split('<') {
            let counted = ["FILECOUNT>", "TOTALBYTES>", "HARDLINKBYTES>"];
            let tag = counted.iter().find(|tag| piece.starts_with(*tag));
            out += tag.map_or(piece, |tag| tag);
        }
        out
    };
    assert_eq!(text(&new.xml), text(&old.xml));
    let start = new.xml.find("<TOTALBYTES>").unwrap() + 12;
    let end = start + new.xml[start..].find('<').unwrap();
    let table = wim::place(&new.header, 0x30);
    assert_eq!(
        new.xml[start..end].trim(),
        (table.at + table.size).to_string()
    );
    // Nothing of what went is anywhere in the file.
    let mut traces: Vec<Vec<u8>> = vec![GUID.as_bytes().to_vec(), utf16(GUID)];
    let kept: Vec<_> = new.table.iter().map(|entry| entry.hash).collect();
    let lost = old.table.iter().map(|entry| entry.hash);
    traces.extend(
        lost.filter(|hash| !kept.contains(hash))
            .map(|hash| hash.to_vec()),
    );
    for trace in &traces {
        assert!(
            !holds(after, trace),
            "left: {}",
            String::from_utf8_lossy(trace)
        );
    }
    (old, new)
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub fn holds(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}

#[test]
fn a_scan_finds_what_it_finds_on_a_volume_with_the_same_tree() {
    let dir = scratch();
    let (image, raw) = (dir.path().join("a.wim"), dir.path().join("a.img"));
    fs::write(&image, Wim::new(vec![tree()]).build()).unwrap();
    let mut volume = NtfsBuilder::new(24 << 20);
    volume.geometry(Geometry::default());
    fn fill(node: &Node, path: &str, volume: &mut NtfsBuilder) {
        for child in &node.children {
            let path = format!("{path}\\{}", child.name);
            match child.attributes & wim::DIRECTORY {
                0 => {
                    let data = child.streams.first().map(|s| s.1.clone());
                    volume.file(&path, data.unwrap_or_default());
                }
                _ => fill(child, &path, volume),
            }
        }
    }
    fill(&tree(), "", &mut volume);
    machine::write(&volume, &raw);
    let scan = |path: &Path| declone(&["scan", arg(path), "--json", "-"]).exits(1).json();
    let (found, want) = (scan(&image), scan(&raw));
    assert!(subjects(&want).len() >= 9, "{:?}", subjects(&want));
    assert_eq!(subjects(&found), subjects(&want));
    assert_eq!(found["images"][0]["image"]["format"], "wim");
    assert_eq!(found["images"][0]["volumes"][0]["slot_name"], "XP 1");
    let text = declone(&["scan", arg(&image)]).exits(1).out;
    assert!(text.contains("image 1: "), "{text}");
    assert!(text.contains("Professional, 5.1.2600, x64"), "{text}");
    for word in ["partition", "disk offset", "file record", "volume offset"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn only_the_targets_go() {
    let mut archive = Wim::new(vec![tree()]);
    for integrity in [None, Some(4096), Some(65_536), Some(10 << 20)] {
        archive.integrity = integrity;
        let file = archive.build();
        let after = clean(&file, &[]);
        assert_eq!(after.len(), file.len());
        let (old, new) = check(&file, &after, &is_target, &HIVES);
        assert_eq!(old.integrity.is_some(), integrity.is_some());
        assert_eq!(new.integrity.is_some(), integrity.is_some());
        assert_eq!(old.images[0].len(), new.images[0].len() + TARGETS.len());
        for name in ["Smsuid.dat\0", "Sms1x.ini", "SMSUID.DAT", "SMSCFG.INI"] {
            assert!(!holds(&after, &utf16(name)), "{name}");
        }
        assert!(!holds(&after, &uid()), "what Smsuid.dat held");
        assert!(!holds(&after, &other_uid()), "what SMSUID.DAT held");
    }
}

#[test]
fn what_nothing_references_is_zeroed() {
    let ini = machine::ini();
    let mut archive = Wim::new(vec![tree(), tree()]);
    archive.stale = vec![ini.clone().into_bytes(), utf16(&ini), vec![0xEE; 5000]];
    archive.stale_metadata = Some(tree());
    archive.metadata_gaps = utf16("an old dentry: Smscfg.ini");
    archive.integrity = Some(4096);
    let file = archive.build();
    assert!(wim::read(&file).dirt > 5000);
    let after = clean(&file, &[]);
    let (old, new) = check(&file, &after, &is_target, &HIVES);
    assert!(!holds(&after, &utf16("an old dentry")));
    assert!(!holds(&after, &utf16("Smsuid.dat\0")), "the old metadata");
    assert_eq!(new.table.iter().filter(|entry| entry.refs == 0).count(), 0);
    assert_eq!(old.table.iter().filter(|entry| entry.refs == 0).count(), 1);
}

#[test]
fn images_share_what_they_shared_and_the_boot_image_is_found() {
    for boot in [0, 1, 2] {
        let mut archive = Wim::new(vec![tree(), tree()]);
        archive.images[1].add(r"\only in the second.txt", b"yes");
        archive.boot = boot;
        let file = archive.build();
        let after = clean(&file, &[]);
        let (old, new) = check(&file, &after, &is_target, &HIVES);
        // Three hives with the same contents in two images.
        assert_eq!(old.refs(old.data(0, HIVE)), Some(6));
        assert_eq!(new.refs(new.data(1, HIVE)), Some(6));
        assert_eq!(new.refs(old.data(0, HIVE)), None);
        assert_eq!(wim::get32(&new.header, 0x78), boot as usize);
    }
}

#[test]
fn one_image_alone_keeps_what_the_other_needs_and_says_so() {
    let file = Wim::new(vec![tree(), tree()]).build();
    let dir = scratch();
    let (image, out) = (dir.path().join("a.wim"), dir.path().join("b.wim"));
    fs::write(&image, &file).unwrap();
    for number in ["1", "2"] {
        let (mine, other) = match number {
            "1" => (0, 1),
            _ => (1, 0),
        };
        let args = [
            "clean",
            arg(&image),
            "-o",
            arg(&out),
            "--image-index",
            number,
            "--force",
        ];
        // The other image still has it.
        let ran = declone(&args).exits(1);
        assert!(ran.out.contains("are still in the file"), "{}", ran.out);
        let after = fs::read(&out).unwrap();
        let (old, new) = (wim::read(&file), wim::read(&after));
        assert_eq!(new.images[other], old.images[other]);
        assert_eq!(
            new.images[mine].len() + TARGETS.len(),
            old.images[mine].len()
        );
        assert_eq!(new.refs(old.data(0, HIVE)), Some(3));
        assert_eq!(new.refs(new.data(mine, HIVE)), Some(3));
        for (tag, count) in wim::counts(&new.images[mine]) {
            assert_eq!(new.number(mine, tag), count, "{tag}");
        }
        assert_eq!(new.dirt, 0);
        // The rest is found by the next one.
        declone(&["scan", arg(&out), "--image-index", number]).exits(0);
        declone(&["scan", arg(&out)]).exits(1);
        let rest = out.with_extension("2");
        declone(&["clean", arg(&out), "-o", arg(&rest), "--force"]).exits(0);
        check(&file, &fs::read(&rest).unwrap(), &is_target, &HIVES);
    }
    let all = ["clean", arg(&image), "-n", "--image-index", "all"];
    let ran = declone(&all).exits(0);
    assert!(!ran.out.contains("are still in the file"), "{}", ran.out);
}

#[test]
fn which_image_is_asked_of_archives_only() {
    let dir = scratch();
    let (image, disk) = (dir.path().join("a.wim"), dir.path().join("a.img"));
    fs::write(&image, Wim::new(vec![tree()]).build()).unwrap();
    machine::write(&machine::volume(24 << 20, Geometry::default(), 5), &disk);
    for (path, option, value, wanted) in [
        (&image, "--partition", "1", "--image-index"),
        (&image, "--image-index", "2", "one of 1"),
        (&image, "--image-index", "0", "--image-index"),
        (&image, "--image-index", "x", "all"),
        (&disk, "--image-index", "1", "--partition"),
        (&disk, "--image-index", "all", "--partition"),
    ] {
        for verb in [&["scan"][..], &["verify"], &["clean", "-n"]] {
            let ran = declone(&[verb, &[arg(path), option, value]].concat());
            let said = said(&ran);
            ran.exits(2);
            assert!(said.contains(wanted), "{option} {value}: {said}");
        }
    }
    let both = [
        "scan",
        arg(&image),
        "--image-index",
        "1",
        "--partition",
        "1",
    ];
    declone(&both).exits(2);
}

#[test]
fn links_names_streams_and_reparse_points() {
    let mut root = tree();
    // The same file by three names, two of them targets; and one group with other contents.
    for (folder, name) in [
        (r"\WINDOWS\links", "Smsuid.dat"),
        (r"\WINDOWS\links", "other name.bin"),
        (r"\WINDOWS\links\deeper", "SmsUid.Dat"),
    ] {
        root.put(folder, Node::file(name, b"of three names").link(77));
    }
    root.put(
        r"\WINDOWS\links",
        Node::file("not of them", b"of one").link(77),
    );
    // Names that differ in case only.
    for name in ["smsuid.dat", "SMSUID.dat", "Smsuid.dat"] {
        root.add(&format!(r"\case\{name}"), name.as_bytes());
    }
    // Streams: on a hive, on a target, on a directory, with contents that a target has too.
    let software = root.at(r"\WINDOWS\system32\config");
    let hive = software.children.iter_mut().find(|c| c.name == "SOFTWARE");
    hive.unwrap()
        .streams
        .push(("zone".to_owned(), b"a stream of the hive".to_vec()));
    root.put(
        r"\streams",
        Node::file("sms1x.ini", b"main")
            .stream("one", b"a stream of a target")
            .stream("two", &uid()),
    );
    root.put(
        r"\streams",
        Node::file("keeps.bin", b"main").stream("x", b"a stream of a target"),
    );
    root.put(
        "",
        Node::directory("with stream").stream("x", b"of a directory"),
    );
    root.put(
        r"\short",
        Node::file("a long name of a target", b"its short name matches").short("SMSCFG.INI"),
    );
    root.put(
        r"\points",
        Node::file("smscfg.ini", b"").reparse(0xA000_000C, b"\0\0\0\0target"),
    );
    root.put(
        r"\points",
        Node::file("kept", b"data of a point").reparse(0x9000_0001, b"what it points to"),
    );
    let file = Wim::new(vec![root]).build();
    let after = clean(&file, &[]);
    let gone = |path: &str| {
        is_target(path)
            || path.starts_with(r"\WINDOWS\links\")
                && !path.ends_with("deeper")
                && !path.ends_with("not of them")
            || path.starts_with(r"\case\")
            || path == r"\streams\sms1x.ini"
            || path == r"\short\a long name of a target"
            || path == r"\points\smscfg.ini"
    };
    let (_, new) = check(&file, &after, &gone, &HIVES);
    assert_eq!(new.refs(b"of three names"), None);
    assert_eq!(new.refs(b"of one"), Some(1));
    assert_eq!(new.refs(b"a stream of a target"), Some(1));
    assert_eq!(new.refs(b"a stream of the hive"), Some(1));
    assert_eq!(new.refs(b"\0\0\0\0target"), None);
    assert_eq!(new.refs(b"what it points to"), Some(1));
}

#[test]
fn a_cleaned_hive_that_is_there_already_is_not_stored_twice() {
    let once = clean(&Wim::new(vec![tree()]).build(), &[]);
    let cleaned = wim::read(&once).data(0, HIVE).to_vec();
    let mut root = tree();
    root.add(r"\backup\software.cleaned", &cleaned);
    let file = Wim::new(vec![root]).build();
    let after = clean(&file, &[]);
    let (old, new) = check(&file, &after, &is_target, &HIVES);
    assert_eq!(old.refs(&cleaned), Some(1));
    assert_eq!(new.refs(&cleaned), Some(4));
    // The hive, both kinds of ini, both Smsuid.dat.
    assert_eq!(new.table.len(), old.table.len() - 5);
}

#[test]
fn contents_that_are_counted_wrongly_are_not_lost() {
    // Others build their counts anew; what a file still has must not go because its entry says 0.
    let file = Wim::new(vec![tree()]).build();
    let kept = &stuff()[11 * 5..11 * 5 + 300 + 5 * 700];
    let table = wim::place(&file, 0x30);
    let at = table.at + memchr::memmem::find(&file[table.at..], &sha1(kept)).unwrap();
    let entry = (at - table.at) / 50 * 50 + table.at;
    assert_eq!(file[entry + 30..entry + 50], sha1(kept));
    for wrong in [0_u8, 9] {
        let mut bad = file.clone();
        bad[entry + 26] = wrong;
        let dir = scratch();
        let (image, out) = (dir.path().join("a.wim"), dir.path().join("b.wim"));
        fs::write(&image, &bad).unwrap();
        declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
        let after = fs::read(&out).unwrap();
        assert!(holds(&after, kept), "refcount {wrong}");
        assert!(holds(&after, &sha1(kept)), "refcount {wrong}");
    }
}

/// Both ways of writing are refused with this, and a scan goes as it goes.
#[track_caller]
pub fn refused(name: &str, file: &[u8], scan: i32, code: i32, words: &[&str]) {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.wim"), dir.path().join("b.wim"));
    fs::write(&image, file).unwrap();
    let scanned = declone(&["scan", arg(&image)]);
    assert_eq!(scanned.code, scan, "{name}: scan: {}", said(&scanned));
    for args in [
        vec!["clean", arg(&image), "-o", arg(&out)],
        vec!["clean", arg(&image), "--in-place"],
        vec!["clean", arg(&image), "-n"],
    ] {
        let ran = declone(&args);
        let said = said(&ran);
        assert_eq!(ran.code, code, "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: `{word}` in {said}");
        }
    }
    assert!(fs::read(&image).unwrap() == file, "{name}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{name}: {left:?}");
}

/// Changes bytes of a copy.
fn with(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn what_must_not_be_written_is_refused_and_why() {
    let archive = Wim::new(vec![tree()]);
    let file = archive.build();
    let flagged = |flags: u32| {
        let mut archive = archive.clone();
        archive.flags = flags;
        archive.build()
    };
    let advice = "what to do";
    refused(
        "readonly",
        &flagged(wim::READONLY),
        1,
        3,
        &["READONLY", advice],
    );
    let words = ["write in progress", advice];
    refused(
        "in progress",
        &flagged(wim::WRITE_IN_PROGRESS),
        1,
        3,
        &words,
    );
    for (part, parts, code) in [
        (1, 2, 3),
        (2, 2, 3),
        (2, 1, 4),
        (1, 0, 4),
        (0, 1, 4),
        (0, 3, 4),
    ] {
        let mut archive = archive.clone();
        archive.part = Some((part, parts));
        refused("part", &archive.build(), code, code, &["part", advice]);
    }
    refused("spanned", &flagged(wim::SPANNED), 1, 3, &["split", advice]);
    let mut encrypted = archive.clone();
    encrypted.xml = "<ESD><ENCRYPTED>key</ENCRYPTED></ESD>".to_owned();
    refused(
        "encrypted",
        &encrypted.build(),
        1,
        3,
        &["encrypted", advice],
    );
    refused(
        "version",
        &with(&file, 0xC, &[0, 0xB, 1, 0]),
        4,
        4,
        &["version", advice],
    );
    refused(
        "header size",
        &with(&file, 8, &[200]),
        4,
        4,
        &["208", "200"],
    );

    let table = wim::place(&file, 0x30);
    let entry = |hash: &[u8]| {
        let at = memchr::memmem::rfind(&file[..table.at + table.size], hash).unwrap();
        (at - table.at) / 50 * 50 + table.at
    };
    let hive = entry(&sha1(&machine::hive(5).build()));
    let place = wim::place(&file, hive);
    // A bit of the hive that no check of hives sees.
    let at = place.at + place.size - 3;
    let torn = with(&file, at, &[file[at] ^ 4]);
    refused("hive's hash", &torn, 1, 4, &["SHA-1", advice]);
    let one = entry(&wim::sha1(&wim::metadata(&tree(), &[])));
    let metadata = wim::place(&file, one);
    let at = metadata.at + metadata.size / 2;
    refused(
        "metadata's hash",
        &with(&file, at, &[file[at] ^ 1]),
        4,
        4,
        &["SHA-1"],
    );
    let next = (place.at as u64 + 1).to_le_bytes();
    refused(
        "overlap",
        &with(&file, hive + 8, &next),
        4,
        4,
        &["place of its own"],
    );
    let twice = with(&file, table.at + 30, &file[table.at + 80..table.at + 100]);
    refused("twice", &twice, 4, 4, &["twice"]);
    let beyond = (file.len() as u64 - 10).to_le_bytes();
    refused(
        "beyond",
        &with(&file, hive + 8, &beyond),
        4,
        4,
        &["image offset"],
    );
    refused("images", &with(&file, 0x2C, &[2]), 4, 4, &["2 images"]);
    refused("boot", &with(&file, 0x78, &[1]), 4, 4, &["boot"]);
    let elsewhere = |entry: usize| with(&file, entry + 24, &[2]);
    refused(
        "a hive in another part",
        &elsewhere(hive),
        1,
        3,
        &["part", advice],
    );
    let decoy = entry(&sha1(&stuff()[..900]));
    refused(
        "a file in another part",
        &elsewhere(decoy),
        1,
        3,
        &["part", advice],
    );
}

#[test]
fn xml_that_cannot_be_patched_is_no_reason_not_to_look() {
    let file = Wim::new(vec![tree()]).build();
    let xml = wim::place(&file, 0x48);
    let advice = "what to do";
    refused(
        "no mark",
        &with(&file, xml.at, b"xx"),
        1,
        3,
        &["XML", advice],
    );
    refused(
        "surrogate",
        &with(&file, xml.at + 40, &[0, 0xD8]),
        1,
        3,
        &["XML", advice],
    );
    refused(
        "absent",
        &with(&file, 0x48, &[0; 24]),
        1,
        3,
        &["XML", advice],
    );
    let mut long = Wim::new(vec![tree()]);
    long.xml = "x".repeat(10 << 20);
    refused("20 MiB", &long.build(), 1, 3, &["XML", advice]);
    let text: Vec<u8> = utf16("<FILECOUNT>");
    let at = memchr::memmem::find(&file, &text).unwrap() + text.len();
    refused("no number", &with(&file, at, b"x\0"), 1, 4, &["FILECOUNT"]);
    // Counts that are not there stay so.
    let mut bare = Wim::new(vec![tree()]);
    bare.no_counts = true;
    let file = bare.build();
    check(&file, &clean(&file, &[]), &is_target, &HIVES);
}
