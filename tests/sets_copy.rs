//! `-o OUT` of an image of several files is a directory with all of them, or it is not there:
//! whatever call of the host kills or fails the run, and in whatever order the host makes its writes
//! durable.
//!
//! A crash is a kill, and the loss of what was not synced. The kills are done: at every call that
//! changes something. For the loss, the order of the calls is held against what a power cut may take
//! away (as in [`crate::crash_model`]: any write and any name that was not synced): a name of OUT is
//! durable only after all that is behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    containers::fixture,
    judges::called,
    run::{arg, declone, scratch},
    support::vmdk_builder as vmdk,
};

/// Calls that change what is on the disk; `openat` does where it creates.
const CHANGING: [&str; 19] = [
    "mkdirat",
    "openat",
    "ioctl",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "write",
    "pwrite64",
    "fchmod",
    "fchown",
    "fsetxattr",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "linkat",
    "unlink",
    "unlinkat",
];

type Files = BTreeMap<String, Vec<u8>>;

fn read_all(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| (entry.file_name(), entry.path()))
        .map(|(name, path)| (name.into_string().unwrap(), fs::read(path).unwrap()))
        .collect()
}

/// A set, where its copy goes, and what it has to be.
struct Case {
    _dir: tempfile::TempDir,
    source: PathBuf,
    outer: PathBuf,
    before: Files,
    after: Files,
}

/// A call of the undisturbed run: name, number among the calls of that name, line of strace.
struct Call {
    name: String,
    number: usize,
    line: String,
}

impl Case {
    fn new() -> Self {
        let dir = scratch();
        let (source, outer) = (dir.path().join("source"), dir.path().join("outer"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&outer).unwrap();
        let raw = fixture("tiny-superfloppy.img");
        // In the middle of the identity's clusters, so that both files change.
        let cut = raw.len() / 2;
        let extent = vmdk::Shape {
            descriptor: false,
            ..vmdk::Shape::default()
        };
        let lines = [
            format!("RW {} FLAT \"disk-f001.vmdk\" 0", cut / 512),
            format!("RW {} SPARSE \"disk-s002.vmdk\"", (raw.len() - cut) / 512),
        ];
        let text = vmdk::descriptor("custom", &lines);
        fs::write(source.join("disk.vmdk"), text).unwrap();
        fs::write(source.join("disk-f001.vmdk"), &raw[..cut]).unwrap();
        fs::write(
            source.join("disk-s002.vmdk"),
            vmdk::sparse(&raw[cut..], extent),
        )
        .unwrap();
        let mut case = Self {
            before: read_all(&source),
            after: Files::new(),
            source,
            outer,
            _dir: dir,
        };
        declone(&case.args().each_ref().map(String::as_str)).exits(0);
        case.after = read_all(&case.out());
        assert_eq!(case.after.len(), 3);
        assert!(case.after["disk.vmdk"] != case.before["disk.vmdk"]);
        assert!(case.after["disk-f001.vmdk"] != case.before["disk-f001.vmdk"]);
        fs::remove_dir_all(case.out()).unwrap();
        case
    }

    fn out(&self) -> PathBuf {
        self.outer.join("copy")
    }

    fn args(&self) -> [String; 4] {
        let image = self.source.join("disk.vmdk");
        let out = self.out();
        ["clean", arg(&image), "-o", arg(&out)].map(str::to_owned)
    }

    /// Runs it under strace; its code, -1 if it was killed.
    fn traced(&self, options: &[&str]) -> i32 {
        let ran = Command::new("strace")
            .args(["-f", "-qq"])
            .args(options)
            .arg(env!("CARGO_BIN_EXE_declone"))
            .args(self.args())
            .stdin(Stdio::null())
            .output()
            .expect("strace");
        ran.status.code().unwrap_or(-1)
    }

    /// The calls that change something beside OUT, in their order.
    fn calls(&self) -> Vec<Call> {
        let log = self.outer.with_extension("log");
        let trace = format!("trace={}", CHANGING.join(","));
        let code = self.traced(&["-y", "-s", "0", "-o", arg(&log), "-e", &trace]);
        assert_eq!(code, 0);
        assert!(read_all(&self.out()) == self.after);
        fs::remove_dir_all(self.out()).unwrap();
        let text = fs::read_to_string(&log).unwrap();
        let main = text.split_once(' ').unwrap().0.to_owned();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let (thread, line) = line.split_once(' ').unwrap();
            let line = line.trim();
            let name = line.split('(').next().unwrap().to_owned();
            if thread != main || name.starts_with(['<', '+', '-']) {
                continue;
            }
            let number = counts.entry(name.clone()).or_default();
            *number += 1;
            let changes = name != "openat" || line.contains("O_CREAT");
            if changes && line.contains(arg(&self.outer)) {
                calls.push(Call {
                    name,
                    number: *number,
                    line: line.to_owned(),
                });
            }
        }
        calls
    }

    /// The input is as it was; OUT is whole, or not there. Whether it is there, and what else is.
    fn look(&self, what: &str) -> (bool, Vec<PathBuf>) {
        assert!(read_all(&self.source) == self.before, "{what}: the input");
        let entries = fs::read_dir(&self.outer).unwrap().flatten();
        let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        others.retain(|path| *path != self.out());
        let there = self.out().exists();
        if there {
            assert!(
                read_all(&self.out()) == self.after,
                "{what}: OUT is not whole"
            );
            fs::remove_dir_all(self.out()).unwrap();
        }
        (there, others)
    }
}

#[test]
fn a_copy_of_a_set_that_is_killed_at_any_call_is_whole_or_not_there() {
    if !called("a_copy_of_a_set_that_is_killed_at_any_call_is_whole_or_not_there") {
        return;
    }
    let case = Case::new();
    let calls = case.calls();
    let kinds: BTreeSet<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    for needed in ["mkdirat", "openat", "pwrite64", "fsync", "renameat2"] {
        assert!(kinds.contains(needed), "{needed}: {kinds:?}");
    }
    let (mut killed, mut whole) = (0, 0);
    for call in &calls {
        let what = call.line.clone();
        let trace = format!("trace={}", call.name);
        let inject = format!("inject={}:signal=KILL:when={}", call.name, call.number);
        let code = case.traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject]);
        assert!([-1, 137].contains(&code), "{what}: {code}");
        killed += 1;
        let (there, others) = case.look(&what);
        whole += usize::from(there);
        // What was being made lies beside OUT under a name that says so, and is in nobody's way.
        assert!(others.len() <= 1, "{what}: {others:?}");
        for path in &others {
            let name = path.file_name().unwrap().to_str().unwrap();
            let ours = name.starts_with(".copy.declone-") && name.ends_with(".tmp");
            assert!(ours && !there, "{what}: {name}");
        }
        if !others.is_empty() && killed % 8 == 0 {
            declone(&case.args().each_ref().map(String::as_str)).exits(0);
            assert!(case.look(&what).0, "{what}: the next run");
        }
        others
            .iter()
            .for_each(|path| fs::remove_dir_all(path).unwrap());
    }
    assert!(
        killed > 20 && whole > 0 && whole < killed,
        "{killed} {whole}"
    );
    eprintln!("{killed} kills, OUT whole after {whole}");
}

#[test]
fn a_copy_of_a_set_whose_calls_fail_is_whole_or_leaves_nothing() {
    if !called("a_copy_of_a_set_whose_calls_fail_is_whole_or_leaves_nothing") {
        return;
    }
    let case = Case::new();
    let (mut failed, mut done) = (0, 0);
    for call in case.calls() {
        // What removes a temporary file cannot help leaving it.
        if call.name.starts_with("unlink") {
            continue;
        }
        for errno in ["EIO", "ENOSPC"] {
            let what = format!("{errno}: {}", call.line);
            let trace = format!("trace={}", call.name);
            let inject = format!("inject={}:error={errno}:when={}", call.name, call.number);
            let code = case.traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject]);
            assert!([0, 5].contains(&code), "{what}: {code}");
            let (there, others) = case.look(&what);
            // The last fsync comes after the rename: OUT is whole, and its owner is told.
            let last = call.name == "fsync" && code == 5 && there;
            assert!(there == (code == 0) || last, "{what}: {code}, {there}");
            assert!(others.is_empty(), "{what}: {others:?}");
            if code == 0 { done += 1 } else { failed += 1 }
        }
    }
    assert!(failed > 20, "{failed} failed, {done} did without the call");
    eprintln!("{failed} failed, {done} did without the call");
}

/// The paths of a call: of its descriptors, and its names behind the directories they are in.
fn paths(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut dir = "";
    for (n, piece) in line.split('"').enumerate() {
        if n % 2 == 1 {
            out.push(format!("{dir}/{piece}"));
            continue;
        }
        for part in piece.split('<').skip(1) {
            let Some((path, _)) = part.split_once('>') else {
                continue;
            };
            dir = path;
            out.push(path.to_owned());
        }
    }
    out
}

#[test]
fn every_file_of_a_copy_is_durable_before_the_directory_has_its_name() {
    if !called("every_file_of_a_copy_is_durable_before_the_directory_has_its_name") {
        return;
    }
    let case = Case::new();
    let log = case.outer.with_extension("log");
    let trace = format!("trace={}", CHANGING.join(","));
    assert_eq!(
        case.traced(&["-y", "-s", "300", "-o", arg(&log), "-e", &trace]),
        0
    );
    let text = fs::read_to_string(&log).unwrap();
    // What a power cut may still take: data of files, and names in directories.
    let (mut data, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut renamed = false;
    let outer = arg(&case.outer);
    for line in text.lines() {
        let line = line.split_once(' ').unwrap().1.trim();
        let name = line.split('(').next().unwrap();
        if !line.contains(outer) || line.contains("= -1") {
            continue;
        }
        assert!(!line.contains("unfinished"), "one thread writes: {line}");
        let paths = paths(line);
        let first = paths.iter().find(|path| path.starts_with(outer)).unwrap();
        match name {
            "openat" if !line.contains("O_CREAT") => {}
            "openat" | "mkdirat" | "unlinkat" | "unlink" | "linkat" => {
                names.insert(first.clone());
            }
            "fsync" | "fdatasync" => {
                data.remove(first);
                names.remove(first);
            }
            "rename" | "renameat" | "renameat2" => {
                let to = paths.last().unwrap();
                if *to == arg(&case.out()) {
                    assert!(data.is_empty(), "not durable yet: {data:?}");
                    let inside: Vec<_> = names.iter().filter(|dir| *dir != outer).collect();
                    assert!(inside.is_empty(), "names not durable yet: {inside:?}");
                    renamed = true;
                }
                names.insert(first.clone());
            }
            _ => {
                assert!(!renamed, "after the rename: {line}");
                data.insert(first.clone());
            }
        }
    }
    assert!(renamed);
    assert!(data.is_empty() && names.is_empty(), "{data:?} {names:?}");
}
