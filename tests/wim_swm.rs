//! Split archives (SWM), cleaned: all parts or none, in place and into a copy, like the archive that was
//! split. Built, joined and read by [`wim_builder`]; those of wimlib are judged by wimlib and 7-Zip.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    judges::{called, tool},
    machine::{self, GUID, HIVE, HIVES},
    run::{arg, declone, scratch},
    sets::{Files, Interrupted, read_all},
    support::{
        hive_builder::HiveBuilder,
        wim_builder::{self as wim, Cut, Node, Wim},
    },
    wim::{check, holds, is_target, said, tree, uid, utf16},
    wim_judges::{chunks, files, is_target as is_target_path, spread},
};

/// Names as wimlib gives them: the first part's has no number.
fn name(index: usize) -> String {
    match index {
        0 => "install.swm".to_owned(),
        _ => format!("install{}.swm", index + 1),
    }
}

fn named(parts: &[Vec<u8>]) -> Files {
    let all = parts.iter().enumerate();
    all.map(|(i, part)| (name(i), part.clone())).collect()
}

fn write_to(files: &Files, dir: &Path) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// The parts in their order.
fn parts_of(files: &Files) -> Vec<Vec<u8>> {
    (0..files.len()).map(|i| files[&name(i)].clone()).collect()
}

/// Cleans a set from part `from` into a copy and in place, takes it back, and looks again from every
/// part; returns the cleaned set.
#[track_caller]
fn clean(set: &Files, from: usize, more: &[&str]) -> Files {
    let (dir, outer) = (scratch(), scratch());
    write_to(set, dir.path());
    let image = dir.path().join(name(from));
    let (out, undo) = (outer.path().join("copy"), outer.path().join("undo"));
    let run = |args: &[&str]| declone(&[args, more].concat());
    // What is the same in an image that was not chosen stays.
    let code = i32::from(more.contains(&"--image-index"));
    run(&["clean", arg(&image), "-n"]).exits(code);
    run(&["clean", arg(&image), "-o", arg(&out)]).exits(code);
    assert!(read_all(dir.path()) == *set, "the input");
    let cleaned = read_all(&out);
    let args = ["clean", arg(&image), "--in-place", "--undo", arg(&undo)];
    let ran = run(&[&args[..], &["--json", "-"]].concat());
    let ran = ran.exits(code).json();
    let patches = ran["images"][0]["done"]["patches"].as_array().unwrap();
    assert!(patches.iter().all(|patch| patch["file"].is_string()));
    assert!(
        read_all(dir.path()) == cleaned,
        "in place is as a copy: {from}"
    );
    if more.is_empty() {
        let again = declone(&["clean", arg(&image), "--in-place"]).exits(0);
        assert!(again.out.contains("Nothing to do"), "{}", again.out);
        assert!(read_all(dir.path()) == cleaned, "nothing is written twice");
        for i in 0..set.len() {
            declone(&["scan", arg(&dir.path().join(name(i)))]).exits(0);
        }
        declone(&["verify", arg(&image)]).exits(0);
    }
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(read_all(dir.path()) == *set, "undone");
    cleaned
}

/// Holds each part of a cleaned set against what it was.
#[track_caller]
fn check_parts(before: &Files, after: &Files) {
    let (old, new) = (parts_of(before), parts_of(after));
    let table = |part: &[u8]| {
        let one = wim::place(part, 0x30);
        part[one.at..one.at + one.size].to_vec()
    };
    let hashes = |parts: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let tables = parts.iter().map(|part| table(part));
        tables
            .flat_map(|table| {
                table
                    .chunks(50)
                    .map(|e| e[30..50].to_vec())
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let kept = hashes(&new);
    let lost: Vec<Vec<u8>> = hashes(&old)
        .into_iter()
        .filter(|hash| !kept.contains(hash))
        .collect();
    assert!(lost.len() >= 2, "the hive and the metadata at least");
    for (i, (was, is)) in old.iter().zip(&new).enumerate() {
        let (read, before) = (wim::read_part(is), wim::read_part(was));
        assert_eq!(read.dirt, 0, "part {}", i + 1);
        assert_eq!(read.integrity, before.integrity);
        assert_eq!(is.len(), was.len(), "part {}", i + 1);
        for trace in [GUID.as_bytes().to_vec(), utf16(GUID), uid()] {
            assert!(!holds(is, &trace), "left in part {}", i + 1);
        }
        for hash in &lost {
            assert!(!holds(is, hash), "an old hash in part {}", i + 1);
        }
        // What lies where the old header says that the table lies is no table of the old contents.
        let one = wim::place(was, 0x30);
        let there = &is[one.at..one.at + one.size];
        let held = lost.iter().any(|hash| holds(&table(was), hash));
        assert!(
            !held || there != table(was),
            "the old table of part {}",
            i + 1
        );
        let total = |read: &wim::PartRead| -> usize {
            let from = read.xml.find("<TOTALBYTES>").unwrap() + 12;
            let text = read.xml[from..].split('<').next().unwrap();
            text.trim().parse().unwrap()
        };
        match total(&before) == before.xml_at {
            true => assert_eq!(total(&read), read.xml_at, "part {}", i + 1),
            false => assert_eq!(total(&read), total(&before), "part {}", i + 1),
        }
        // The counts of the images are the same in all parts.
        let images = |xml: &str| xml[xml.find("<IMAGE").unwrap()..].to_owned();
        assert_eq!(images(&read.xml), images(&wim::read_part(&new[0]).xml));
    }
}

#[test]
fn a_set_is_cleaned_like_the_whole_archive() {
    for (parts, integrity, boot, images) in [
        (2, None, 0, 1),
        (3, Some(4096), 2, 2),
        (3, Some(1 << 16), 0, 2),
        (7, Some(10 << 20), 1, 2),
    ] {
        let mut archive = Wim::new(vec![tree(); images]);
        archive.boot = boot;
        let cut = Cut {
            parts,
            integrity,
            stale: vec![],
            own_total: true,
        };
        let set = named(&cut.of(&archive.build()));
        let after = clean(&set, 0, &[]);
        check_parts(&set, &after);
        let (old, new) = (wim::join(&parts_of(&set)), wim::join(&parts_of(&after)));
        let (old, new) = check(&old, &new, &is_target, &HIVES);
        assert_eq!(old.refs(old.data(0, HIVE)), Some(3 * images as u32));
        assert_eq!(new.refs(new.data(0, HIVE)), Some(3 * images as u32));
        assert_eq!(new.refs(old.data(0, HIVE)), None);
        // Each part keeps what it had: only what is gone is missing.
        for (i, part) in parts_of(&after).iter().enumerate() {
            let was = wim::read_part(&set[&name(i)]).entries;
            let gone = was - wim::read_part(part).entries;
            assert!(gone <= 4, "part {}: {gone} entries", i + 1);
        }
    }
}

#[test]
fn it_does_not_matter_which_part_is_named() {
    let cut = Cut {
        parts: 3,
        integrity: Some(4096),
        ..Cut::default()
    };
    let set = named(&cut.of(&Wim::new(vec![tree(), tree()]).build()));
    let want = clean(&set, 0, &[]);
    for from in 1..3 {
        assert!(clean(&set, from, &[]) == want, "part {}", from + 1);
    }
    // Names in another order, and in other letters; others of the directory do not matter.
    let dir = scratch();
    let names = ["B.SWM", "c.swm", "A.Swm"];
    for (i, name) in names.iter().enumerate() {
        fs::write(dir.path().join(name), &set[&self::name(i)]).unwrap();
    }
    let mut other = set[&name(1)].clone();
    other[0x18] ^= 1;
    fs::write(dir.path().join("other.swm"), &other).unwrap();
    fs::write(dir.path().join("short.swm"), b"MSWIM").unwrap();
    fs::write(dir.path().join("a part without its ending"), &set[&name(1)]).unwrap();
    std::os::unix::fs::symlink(dir.path().join("c.swm"), dir.path().join("link.swm")).unwrap();
    declone(&["clean", arg(&dir.path().join("link.swm")), "--in-place"]).exits(0);
    for (i, name) in names.iter().enumerate() {
        assert!(fs::read(dir.path().join(name)).unwrap() == want[&self::name(i)]);
    }
    assert!(fs::read(dir.path().join("other.swm")).unwrap() == other);
}

/// A machine of which only the hive changes: no file goes, and no count.
fn only_the_hive() -> Node {
    let mut root = Node::directory("");
    root.add(HIVE, &machine::hive(5).build());
    root.add(
        r"\WINDOWS\system32\config\SYSTEM",
        &HiveBuilder::new(5).build(),
    );
    for i in 0..12_usize {
        root.add(&format!(r"\WINDOWS\{i}.dll"), &uid()[i * 7..i * 900 + 500]);
    }
    root
}

#[test]
fn a_part_in_which_nothing_changes_keeps_every_byte() {
    let cut = Cut {
        parts: 5,
        integrity: Some(4096),
        ..Cut::default()
    };
    let file = Wim::new(vec![only_the_hive()]).build();
    let set = named(&cut.of(&file));
    let after = clean(&set, 3, &[]);
    check_parts(&set, &after);
    let hive = machine::hive(5).build();
    let mut changed = 0;
    for (i, (was, is)) in parts_of(&set).iter().zip(parts_of(&after)).enumerate() {
        let has = i == 0 || holds(was, &hive);
        assert_eq!(*was != is, has, "part {}", i + 1);
        changed += usize::from(has);
    }
    assert!((1..=2).contains(&changed), "{changed}");
    // Stale bytes go from every part; the tables of those that need no more stay where they are.
    let stale = Cut {
        stale: [machine::ini().into_bytes(), vec![0xEE; 5000]].concat(),
        ..cut
    };
    let set = named(&stale.of(&file));
    assert!(
        parts_of(&set)
            .iter()
            .all(|part| wim::read_part(part).dirt > 5000)
    );
    let after = clean(&set, 0, &[]);
    check_parts(&set, &after);
    for (i, (was, is)) in parts_of(&set).iter().zip(parts_of(&after)).enumerate() {
        let at = 208 + stale.stale.len();
        let tables = [0x30, 0x48, 0x7C].map(|at| wim::place(was, at));
        if i > 0 && !holds(was, &hive) {
            assert_eq!(tables, [0x30, 0x48, 0x7C].map(|at| wim::place(&is, at)));
            assert!(was[at..tables[2].at] == is[at..tables[2].at]);
        }
        assert!(is[208..at].iter().all(|byte| *byte == 0) || i == 0 || holds(was, &hive));
    }
}

#[test]
fn stale_bytes_of_a_set_go_with_every_clean() {
    let mut root = Node::directory("");
    root.add(HIVE, &HiveBuilder::new(5).build());
    root.add(r"\WINDOWS\notepad.exe", &uid());
    let cut = Cut {
        parts: 2,
        integrity: Some(4096),
        stale: [machine::ini().into_bytes(), vec![0xEE; 5000]].concat(),
        own_total: false,
    };
    let set = named(&cut.of(&Wim::new(vec![root]).build()));
    let dir = scratch();
    write_to(&set, dir.path());
    let image = dir.path().join(name(0));
    let plain = ["clean", arg(&image), "--in-place"];
    declone(&plain).exits(0);
    let after = read_all(dir.path());
    for (name, bytes) in &after {
        let (was, is) = (wim::read_part(&set[name]), wim::read_part(bytes));
        assert!(was.dirt > 5000);
        assert_eq!((is.dirt, is.integrity, &is.xml), (0, true, &was.xml));
    }
    declone(&plain).exits(0);
    assert!(read_all(dir.path()) == after, "nothing is written twice");
}

/// A tree without the pattern of [`tree`], of which other files hold pieces, and a set of it with stale bytes.
fn with_stale_bytes() -> Files {
    let mut root = Node::directory("");
    for path in HIVES {
        root.add(path, &machine::hive(5).build());
    }
    root.add(r"\WINDOWS\Smscfg.ini", machine::ini().as_bytes());
    root.add(r"\WINDOWS\notepad.exe", &vec![0x90; 30_000]);
    root.add(r"\WINDOWS\winhlp32.exe", &vec![0x91; 30_000]);
    let cut = Cut {
        parts: 3,
        integrity: Some(4096),
        stale: [machine::ini().into_bytes(), vec![0xEE; 5000]].concat(),
        own_total: false,
    };
    named(&cut.of(&Wim::new(vec![root]).build()))
}

#[test]
fn a_set_with_stale_bytes_is_cleaned_and_proved() {
    let set = with_stale_bytes();
    let mut all = Vec::new();
    for from in 0..set.len() {
        let after = clean(&set, from, &["--prove"]);
        for (name, bytes) in &after {
            let (was, is) = (wim::read_part(&set[name]), wim::read_part(bytes));
            assert!(was.dirt > 5000);
            assert_eq!((is.dirt, is.integrity), (0, true), "{name}");
            assert!(!holds(bytes, GUID.as_bytes()), "{name}");
        }
        all.push(after);
    }
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn traces_in_a_set_are_told_by_file() {
    let set = with_stale_bytes();
    let dir = scratch();
    write_to(&set, dir.path());
    let image = dir.path().join(name(1));
    let verify = ["verify", arg(&image)];
    let ran = declone(&[&verify[..], &["--json", "-"]].concat());
    let ran = ran.exits(1).json();
    let residues = ran["images"][0]["residues"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for one in residues.iter().filter(|one| one["image_offset"].is_u64()) {
        let number = |field: &str| one[field].as_u64().unwrap() as usize;
        let file = one["file"].as_str().unwrap();
        let there = &set[file][number("file_offset")..][..number("len")];
        if one["token"] == format!("{} (ASCII)", GUID.to_lowercase()).as_str() {
            assert!(there.eq_ignore_ascii_case(GUID.as_bytes()));
            seen.insert(file);
        }
    }
    assert_eq!(seen.len(), set.len(), "{seen:?}");
    let ran = declone(&verify).exits(1);
    assert!(ran.out.contains("(install2.swm, offset 0x"), "{}", ran.out);
}

/// What the files of a directory are, without what a test put beside them.
#[track_caller]
fn refused(what: &str, set: &Files, from: usize, scan: i32, words: &[&str]) {
    let (dir, outer) = (scratch(), scratch());
    write_to(set, dir.path());
    let (image, out) = (dir.path().join(name(from)), outer.path().join("out"));
    let ran = declone(&["scan", arg(&image)]);
    assert_eq!(ran.code, scan, "{what}: {}", said(&ran));
    for args in [
        vec!["clean", arg(&image), "-n"],
        vec!["clean", arg(&image), "--in-place", "--prove"],
        vec!["clean", arg(&image), "-o", arg(&out)],
    ] {
        let ran = declone(&args);
        assert_eq!(ran.code, 3, "{what}: {}", said(&ran));
        for word in words {
            assert!(said(&ran).contains(word), "{what}: {word}: {}", said(&ran));
        }
    }
    assert!(read_all(dir.path()) == *set, "{what}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0, "{what}");
}

#[test]
fn what_must_not_be_written_of_a_set_is_refused_by_name() {
    let archive = Wim::new(vec![tree()]);
    let set = named(&wim::split(&archive.build(), 3));
    for i in 0..3 {
        let part = name(i);
        let with = |at: usize, byte: u8| {
            let mut set = set.clone();
            set.get_mut(&part).unwrap()[at] = byte;
            set
        };
        let flags = set[&part][0x10];
        let words = ["READONLY", &part, "--force-readonly"];
        refused("readonly", &with(0x10, flags | 4), 1, 1, &words);
        let words = ["in progress", &part, "--force-unfinished"];
        refused("unfinished", &with(0x10, flags | 0x40), 0, 1, &words);
        let xml = wim::place(&set[&part], 0x48).at;
        refused("xml", &with(xml, 0), 0, 1, &["XML", "what to do"]);
        let mut some = set.clone();
        some.remove(&part);
        let missing = format!("part {} not found", i + 1);
        refused("missing", &some, (i + 1) % 3, 3, &[&missing]);
    }
    let mut solid = archive.clone();
    solid.solid = Some(1 << 15);
    let set = named(&wim::split(&solid.build(), 2));
    refused("solid", &set, 0, 1, &["solid", "wimjoin"]);
}

#[test]
fn flags_of_a_part_are_waived_by_name() {
    let mut set = named(&wim::split(&Wim::new(vec![tree()]).build(), 3));
    set.get_mut(&name(1)).unwrap()[0x10] |= 4;
    let after = clean(&set, 0, &["--force-readonly"]);
    check_parts(&set, &after);
}

#[test]
fn a_part_that_cannot_be_written_or_is_in_use_keeps_all_as_they_are() {
    let set = named(&wim::split(&Wim::new(vec![tree()]).build(), 3));
    let (dir, outer) = (scratch(), scratch());
    write_to(&set, dir.path());
    let (image, out) = (dir.path().join(name(0)), outer.path().join("out"));
    let second = dir.path().join(name(1));
    let held = fs::File::options().write(true).open(&second).unwrap();
    held.lock().unwrap();
    for args in [
        &["clean", arg(&image), "--in-place"][..],
        &["clean", arg(&image), "-o", arg(&out)],
    ] {
        let ran = declone(args).exits(3);
        assert!(said(&ran).contains(&name(1)), "{}", said(&ran));
    }
    drop(held);
    // One file under two names would be changed under both.
    let link = outer.path().join("link");
    fs::hard_link(&second, &link).unwrap();
    let ran = declone(&["clean", arg(&image), "--in-place"]).exits(3);
    assert!(said(&ran).contains("hard links"), "{}", said(&ran));
    fs::remove_file(&link).unwrap();
    // Names that are taken, and a place where nothing can be made.
    fs::write(&out, "precious").unwrap();
    declone(&["clean", arg(&image), "-o", arg(&out), "--force"]).exits(2);
    let nowhere = out.join("below a file");
    declone(&["clean", arg(&image), "-o", arg(&nowhere)]).exits(2);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert!(read_all(dir.path()) == set);
    declone(&["clean", arg(&image), "--in-place"]).exits(0);
    assert!(read_all(dir.path()) != set);
}

#[test]
fn a_part_that_is_immutable_keeps_all_as_they_are() {
    if !called("a_part_that_is_immutable_keeps_all_as_they_are") {
        return;
    }
    let set = named(&wim::split(&Wim::new(vec![tree()]).build(), 3));
    let dir = scratch();
    write_to(&set, dir.path());
    let image = dir.path().join(name(0));
    let third = dir.path().join(name(2));
    tool("chattr", &["+i", arg(&third)]);
    let ran = declone(&["clean", arg(&image), "--in-place"]);
    tool("chattr", &["-i", arg(&third)]);
    assert_eq!(ran.code, 5, "{}", said(&ran));
    assert!(said(&ran).contains(&name(2)), "{}", said(&ran));
    assert!(read_all(dir.path()) == set);
}

#[test]
fn a_power_cut_at_any_page_of_a_set_is_finished_by_its_journal() {
    let cut = Cut {
        parts: 3,
        integrity: Some(4096),
        stale: vec![0xEE; 9000],
        own_total: true,
    };
    let set = named(&cut.of(&Wim::new(vec![tree()]).build()));
    let new = clean(&set, 1, &[]);
    // The second part is the one that was named; the others follow by their numbers.
    let names = [1, 0, 2].map(name).to_vec();
    let case = Interrupted::of(names.clone(), set, new);
    let pages = case.change.pages().len();
    for done in 0..pages {
        let files = case.interrupt(done);
        if done % 16 == 0 {
            declone(&["recover", "--status", arg(&case.image)]).exits(6);
            for name in &names {
                // No part is looked at as if the set were whole.
                let part = case.dir.path().join(name);
                declone(&["scan", arg(&part)]).exits(6);
                declone(&["clean", arg(&part), "-n"]).exits(6);
            }
            for name in &names[1..] {
                let part = case.dir.path().join(name);
                for verb in [&["recover"][..], &["clean", "--in-place"]] {
                    let ran = declone(&[verb, &[arg(&part)]].concat()).exits(6);
                    assert!(said(&ran).contains(&names[0]), "{}", said(&ran));
                }
            }
            case.unchanged(&files);
        }
        declone(&["recover", arg(&case.image)]).exits(0);
        case.is_new();
    }
    // Every verb that writes finishes it first; and one that is not whole is not.
    case.interrupt(pages / 2);
    declone(&["clean", arg(&case.image), "--in-place"]).exits(0);
    case.is_new();
    let files = case.interrupt(pages / 2);
    let third = case.dir.path().join(&names[2]);
    fs::remove_file(&third).unwrap();
    declone(&["recover", arg(&case.image)]).exits(3);
    fs::write(&third, &files[&names[2]]).unwrap();
    case.unchanged(&files);
    declone(&["recover", arg(&case.image)]).exits(0);
    case.is_new();
}

#[test]
fn a_part_that_grows_is_cleaned_and_finished_too() {
    let cut = Cut {
        parts: 3,
        integrity: Some(4096),
        ..Cut::default()
    };
    let set = named(&cut.of(&Wim::new(vec![tree(), tree()]).build()));
    let after = clean(&set, 0, &["--image-index", "1"]);
    let longer: Vec<&String> = set
        .keys()
        .filter(|name| after[*name].len() > set[*name].len())
        .collect();
    assert_eq!(longer.len(), 1, "the part with the hive: {longer:?}");
    let (old, new) = (wim::join(&parts_of(&set)), wim::join(&parts_of(&after)));
    let (old, new) = (wim::read(&old), wim::read(&new));
    assert_eq!(new.images[1], old.images[1]);
    assert_eq!(new.refs(old.data(0, HIVE)), Some(3));
    assert_eq!(new.refs(new.data(0, HIVE)), Some(3));
    for part in parts_of(&after) {
        assert_eq!(wim::read_part(&part).dirt, 0);
    }
    let names: Vec<String> = (0..3).map(name).collect();
    let case = Interrupted::of(names, set, after);
    let pages = case.change.pages().len();
    for done in [0, 1, pages / 3, pages / 2, pages - 1] {
        case.interrupt(done);
        declone(&["recover", "--status", arg(&case.image)]).exits(6);
        declone(&["recover", arg(&case.image)]).exits(0);
        case.is_new();
    }
}

#[test]
fn a_copy_of_a_set_that_is_stopped_or_killed_is_whole_or_not_there() {
    let set = named(&wim::split(&Wim::new(vec![tree(), tree()]).build(), 3));
    let (dir, outer) = (scratch(), scratch());
    write_to(&set, dir.path());
    let (image, out) = (dir.path().join(name(0)), outer.path().join("out"));
    let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(0);
    let want = read_all(&out);
    fs::remove_dir_all(&out).unwrap();
    let left = || -> Vec<PathBuf> {
        let all = fs::read_dir(outer.path()).unwrap();
        all.map(|entry| entry.unwrap().path()).collect()
    };
    let (mut stopped, mut met) = (0, 0);
    for step in 0..24_u32 {
        let signal = [Signal::TERM, Signal::KILL][step as usize % 2];
        let mut child = Command::new("env")
            .arg("--default-signal=TERM")
            .args([env!("CARGO_BIN_EXE_declone"), "clean", arg(&image)])
            .args(["-o", arg(&out)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if step % 3 == 0 {
            // While the temporary directory is there.
            while left().is_empty() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            met += usize::from(left().iter().any(|path| *path != out));
        } else {
            std::thread::sleep(ran.took * step / 20 + Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), signal).ok();
        let code = child.wait().unwrap().code();
        stopped += u32::from(code != Some(0));
        assert!(read_all(dir.path()) == set, "the input");
        match code {
            Some(0) => assert!(read_all(&out) == want),
            // Killed or stopped after the rename at the latest moment.
            _ => assert!(!out.exists() || read_all(&out) == want),
        }
        if signal == Signal::TERM {
            assert!(left().iter().all(|path| *path == out), "{:?}", left());
        }
        for path in left() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    assert!(stopped > 0 && met > 0, "{stopped} {met}");
}

/// Looks at a damaged set from its first part: an answer within seconds, nothing written.
#[track_caller]
fn looked(what: &str, dir: &Path, set: &Files) -> i32 {
    let ran = declone(&["clean", arg(&dir.join(name(0))), "-n"]);
    assert!(ran.took < Duration::from_secs(10), "{what}: {:?}", ran.took);
    let known = [0, 1, 3, 4, 8].contains(&ran.code);
    assert!(known, "{what}: {}: {}", ran.code, said(&ran));
    assert!(read_all(dir) == *set, "{what}");
    ran.code
}

#[test]
fn parts_that_lie_are_refused_or_read() {
    let cut = Cut {
        parts: 3,
        integrity: Some(4096),
        ..Cut::default()
    };
    let set = named(&cut.of(&Wim::new(vec![only_the_hive()]).build()));
    let dir = scratch();
    write_to(&set, dir.path());
    assert_eq!(looked("whole", dir.path(), &set), 0);
    let mut codes = BTreeMap::new();
    for i in 0..3 {
        let part = name(i);
        let mut bad = set.clone();
        let mut look = |what: String, bytes: Vec<u8>| {
            fs::write(dir.path().join(&part), &bytes).unwrap();
            bad.insert(part.clone(), bytes);
            *codes.entry(looked(&what, dir.path(), &bad)).or_insert(0) += 1;
        };
        let table = wim::place(&set[&part], 0x30);
        for at in (0..0x94).chain((table.at..table.at + 150).step_by(3)) {
            let mut bytes = set[&part].clone();
            bytes[at] ^= 0xFF;
            look(format!("part {i}, byte {at:#x}"), bytes);
        }
        for sixteenth in 0..16 {
            let len = set[&part].len() * sixteenth / 16;
            look(format!("part {i}, {len} bytes"), set[&part][..len].to_vec());
        }
        fs::write(dir.path().join(&part), &set[&part]).unwrap();
    }
    // Most of it is found; the rest is what no clean depends on.
    let all: i32 = codes.values().sum();
    assert!(codes[&3] + codes[&4] > all * 3 / 5, "{codes:?}");
}

/// A table that sends a reader into another part is not followed there.
#[test]
fn resources_end_where_their_part_ends() {
    let set = named(&wim::split(&Wim::new(vec![only_the_hive()]).build(), 3));
    for (what, field) in [("table", 0x30), ("XML", 0x48), ("integrity", 0x7C)] {
        for part in 0..3 {
            let mut bad = set.clone();
            let bytes = bad.get_mut(&name(part)).unwrap();
            // Where the next file lies in the address space of all of them.
            let far = (4_u64 << 30) + (2 << 20);
            let place = wim::resource(100, 0, far as usize, 100);
            bytes[field..field + 24].copy_from_slice(&place);
            let dir = scratch();
            write_to(&bad, dir.path());
            let code = looked(what, dir.path(), &bad);
            assert_eq!(code, 4, "{what} of part {}", part + 1);
        }
    }
}

#[test]
fn a_scan_of_a_set_says_what_it_is() {
    let set = named(&wim::split(&Wim::new(vec![tree()]).build(), 3));
    let dir = scratch();
    write_to(&set, dir.path());
    let image = dir.path().join(name(1));
    let ran = declone(&["scan", arg(&image), "--json", "-"]).exits(1);
    let json = ran.json();
    let facts = &json["images"][0]["image"];
    let bytes: usize = set.values().map(Vec::len).sum();
    assert_eq!(facts["file_len"], bytes);
    assert_eq!(facts["disk_len"], bytes);
    assert_eq!(json["images"][0]["volumes"][0]["len"], bytes);
    let files = facts["container"]["files"].as_array().unwrap();
    assert_eq!(*files, [name(0), name(2)]);
    let kind = facts["container"]["kind"].as_str().unwrap();
    assert!(kind.contains("part 2 of 3"), "{kind}");
    // No picture of an address space that is no file.
    let html = dir.path().join("report.html");
    declone(&["scan", arg(&image), "--html", arg(&html)]).exits(1);
    assert!(
        !fs::read_to_string(&html)
            .unwrap()
            .contains("aria-label=\"File of")
    );
}

// --- others' eyes ---

/// The parts of a set of wimlib, in order.
fn set_of_wimlib(dir: &Path, stem: &str) -> Vec<PathBuf> {
    let mut paths = vec![dir.join(format!("{stem}.swm"))];
    let numbered = (2..).map(|number: u32| dir.join(format!("{stem}{number}.swm")));
    paths.extend(numbered.take_while(|path| path.exists()));
    paths
}

fn reference(dir: &Path, stem: &str) -> String {
    format!("--ref={}/{stem}*.swm", arg(dir))
}

/// All files of an image of a set, as wimlib extracts them.
fn applied(dir: &Path, number: usize, to: &Path) -> BTreeMap<String, Vec<u8>> {
    let number = number.to_string();
    let first = dir.join("p.swm");
    let glob = reference(dir, "p");
    tool(
        "wimlib-imagex",
        &["apply", arg(&first), &number, arg(to), "--no-acls", &glob],
    );
    files(to)
}

#[test]
fn sets_of_wimlib_are_cleaned() {
    if !called("sets_of_wimlib_are_cleaned") {
        return;
    }
    let work = scratch();
    let source = work.path().join("source");
    spread(&tree(), &source);
    for (name, parts, options) in [
        ("none", 4, &["--compress=none", "--check"][..]),
        ("lzx", 5, &["--compress=LZX", "--check", "--boot"]),
        ("lzx in two", 2, &["--compress=LZX"]),
        ("xpress", 5, &["--compress=XPRESS", "--check"]),
        ("xpress 4K", 3, &["--compress=XPRESS", "--chunk-size=4K"]),
    ] {
        let dir = scratch();
        let whole = work.path().join("whole.wim");
        fs::remove_file(&whole).ok();
        let capture = ["capture", arg(&source), arg(&whole), "one"];
        tool("wimlib-imagex", &[&capture[..], options].concat());
        let check: &[&str] = match options.contains(&"--check") {
            true => &["--check"],
            false => &[],
        };
        fs::write(source.join("only in the second.txt"), "yes").unwrap();
        let append = ["append", arg(&source), arg(&whole), "two"];
        tool("wimlib-imagex", &[&append[..], check].concat());
        fs::remove_file(source.join("only in the second.txt")).unwrap();
        let first = dir.path().join("p.swm");
        let size = fs::metadata(&whole).unwrap().len() as f64 / f64::from(parts << 20);
        let size = size.to_string();
        let split = ["split", arg(&whole), arg(&first), &size];
        tool("wimlib-imagex", &[&split[..], check].concat());
        judge(name, dir.path());
    }
}

/// Cleans a set, and holds what wimlib and 7-Zip say against what they said before.
fn judge(name: &str, dir: &Path) {
    let paths = set_of_wimlib(dir, "p");
    assert!(paths.len() >= 2, "{name}: {} parts", paths.len());
    let before = read_all(dir);
    let outer = scratch();
    let path = |end: &str| outer.path().join(end);
    let out = path("out");
    declone(&["clean", arg(&paths[1]), "-o", arg(&out)]).exits(0);
    assert!(read_all(dir) == before, "{name}: the input");
    let after = read_all(&out);
    let first = out.join("p.swm");
    let glob = reference(&out, "p");
    tool("wimlib-imagex", &["verify", arg(&first), &glob]);
    // 7-Zip takes the length of the last part for that of the first, and says so of sets of wimlib.
    let seven = |dir: &Path| {
        let first = dir.join("p.swm");
        let ran = Command::new("7zz")
            .args(["t", arg(&first)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        for bad in ["Headers Error", "Data Error", "CRC Failed", "Can not open"] {
            assert!(!said.contains(bad), "{name}: {said}");
        }
        assert!(said.contains("Volumes = "), "{name}: {said}");
        ran.status.code()
    };
    assert_eq!(seven(&out), seven(dir), "{name}: 7-Zip");
    let joined = path("joined.wim");
    let mut args = vec!["join".to_owned(), arg(&joined).to_owned()];
    args.extend(
        set_of_wimlib(&out, "p")
            .iter()
            .map(|path| arg(path).to_owned()),
    );
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    tool("wimlib-imagex", &args);
    tool("wimlib-imagex", &["verify", arg(&joined)]);
    tool("7zz", &["t", arg(&joined)]);
    for number in 1..=2 {
        let was = applied(dir, number, &path(&format!("was{number}")));
        let is = applied(&out, number, &path(&format!("is{number}")));
        let want: Vec<_> = was.keys().filter(|path| !is_target_path(path)).collect();
        assert_eq!(is.keys().collect::<Vec<_>>(), want, "{name}");
        assert!(was.len() > is.len(), "{name}");
        for (path, bytes) in &is {
            let hive = HIVES
                .iter()
                .any(|hive| hive[1..].replace('\\', "/") == *path);
            assert_eq!(*bytes != was[path], hive, "{name}: {path}");
            assert!(!holds(bytes, GUID.as_bytes()), "{name}: {path}");
            assert!(!holds(bytes, &utf16(GUID)), "{name}: {path}");
        }
        let whole = path(&format!("whole{number}"));
        let number = number.to_string();
        tool(
            "wimlib-imagex",
            &["apply", arg(&joined), &number, arg(&whole), "--no-acls"],
        );
        assert!(files(&whole) == is, "{name}: joined");
    }
    // Nothing old is left in any part: no byte between resources, no changed chunk, no old table.
    let all = |files: &Files| files.values().flat_map(|part| chunks(part)).collect();
    let (was, is): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (all(&before), all(&after));
    let gone: Vec<_> = was
        .iter()
        .filter(|chunk| chunk.len() >= 24 && !is.contains(chunk))
        .collect();
    assert!(gone.len() >= 4, "{name}: {} chunks", gone.len());
    let mut moved = 0;
    for (part, bytes) in &after {
        let read = wim::read_part(bytes);
        let old = wim::read_part(&before[part]);
        assert_eq!(read.dirt, 0, "{name}: {part}");
        assert_eq!(read.integrity, old.integrity, "{name}: {part}");
        assert!(bytes.len() <= before[part].len(), "{name}: {part} grew");
        for trace in [GUID.as_bytes().to_vec(), utf16(GUID)] {
            assert!(!holds(bytes, &trace), "{name}: {part}");
        }
        for chunk in &gone {
            assert!(!holds(bytes, chunk), "{name}: a chunk of what is gone");
        }
        // The old table, put back, leads to nothing that wimlib takes.
        let table = |bytes: &[u8]| {
            let one = wim::place(bytes, 0x30);
            bytes[one.at..one.at + one.size].to_vec()
        };
        let old = table(&before[part]);
        if old == table(bytes) {
            continue;
        }
        moved += 1;
        let mut back = after.clone();
        let file = back.get_mut(part).unwrap();
        let place = wim::resource(old.len(), 0, file.len(), old.len());
        file.extend(&old);
        file[0x30..0x48].copy_from_slice(&place);
        file[0x7C..0x94].fill(0);
        let dir = scratch();
        write_to(&back, dir.path());
        let ran = Command::new("wimlib-imagex")
            .args(["verify", arg(&dir.path().join("p.swm"))])
            .arg(reference(dir.path(), "p"))
            .output()
            .unwrap();
        assert!(!ran.status.success(), "{name}: {part}: the old table");
    }
    assert!(moved > 0, "{name}");
    // In place, taken back, and again.
    let undo = path("undo");
    let clean = ["clean", arg(&paths[0]), "--in-place"];
    declone(&[&clean[..], &["--undo", arg(&undo)]].concat()).exits(0);
    assert!(read_all(dir) == after, "{name}: in place");
    let again = declone(&clean).exits(0);
    assert!(again.out.contains("Nothing to do"), "{name}");
    assert!(read_all(dir) == after, "{name}: twice");
    for path in &paths {
        declone(&["scan", arg(path)]).exits(0);
    }
    declone(&["verify", arg(&paths[1])]).exits(0);
    declone(&["undo", arg(&undo)]).exits(0);
    assert!(read_all(dir) == before, "{name}: undone");
}
