//! Directories of the host, cleaned as they are: a plain tree, ntfs-3g and wimlib mounts.
//!
//! Rows of `shared/facts/robustness.md` section 7, and their tests:
//!
//! | row | test |
//! |---|---|
//! | D1 links out of the tree | `links_are_listed_and_nothing_behind_them_is_touched` |
//! | D2 a component swapped for a link | `a_swapped_component_changes_nothing_outside` (`directory_faults`) |
//! | D3 FIFO, socket, device, directory, link of a target's name | `what_is_no_regular_file_is_never_opened` |
//! | D4 hard link out of the tree | `a_name_outside_keeps_what_is_in_the_file` |
//! | D5 other mounts inside | `other_mounts_are_not_entered` |
//! | D6 long names, deep trees, unreadable directories | `a_deep_tree_is_walked_with_one_descriptor`, `an_unreadable_directory_is_no_clean_one` |
//! | D7 not writable, immutable | `what_cannot_be_written_is_met_before_anything_changed` |
//! | D8 names that differ in case only | `two_hives_that_differ_in_case_are_refused_two_files_removed` |
//! | D9 mode, owner, times, attributes | `the_new_hive_looks_like_the_old_one`, `an_ntfs_volume_is_cleaned_through_its_mount` (`directory_mounts`) |

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use declone::hive::{Opened, check, open};

use crate::{
    dirty::{self, NEW, OLD},
    judges::{called, checker, tool},
    machine::{self, GUID, HIVE, HIVES, TARGETS},
    run::{Ran, arg, declone, digest, scratch},
    support::{hive_builder::HiveBuilder, hive_log_builder as logs},
};

/// A path of Windows beneath a directory.
pub fn at(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('\\').replace('\\', "/"))
}

pub fn put(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = at(root, path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The whole identity as files, with neighbours that stay.
pub fn fill(root: &Path) {
    let hive = machine::hive(5).build();
    for path in HIVES {
        put(root, path, &hive);
    }
    let wide: Vec<u8> = GUID.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let log = crate::support::hive_builder::old_log(&hive, &wide);
    put(root, &format!("{HIVE}.LOG"), log);
    put(
        root,
        r"\WINDOWS\system32\config\SYSTEM",
        HiveBuilder::new(5).build(),
    );
    for path in TARGETS {
        put(root, path, machine::ini());
    }
    for name in ["Smscfg.ini.bak", "Xsmscfg.ini", "Sms1x.in"] {
        put(root, &format!(r"\WINDOWS\{name}"), "only looks like it");
    }
    for i in 0..20 {
        put(
            root,
            &format!(r"\WINDOWS\system32\part{i}.dll"),
            vec![i; 300],
        );
    }
    // A name that is no UTF-8, and one that is a terminal's nightmare.
    put(root, r"\WINDOWS\Temp\x", "stays");
    let odd = at(root, r"\WINDOWS\Temp").join(std::ffi::OsStr::from_bytes(b"a\xff\x1b[31m\nb"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("SMSCFG.INI"), machine::ini()).unwrap();
}

/// Everything that can be seen of a tree: kind, mode, owner, times, attributes, contents. Times of
/// access are left out: reading is no change.
pub fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let contents = match () {
            () if kind.is_file() => digest(&path),
            () if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () if kind.is_dir() => {
                stack.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                String::new()
            }
            () if kind.is_fifo() => "fifo".to_owned(),
            () => "other".to_owned(),
        };
        let shown = format!(
            "{:o} {}:{} {} {}.{} {} {contents}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            attributes(&path),
        );
        all.insert(path, shown);
    }
    all
}

/// Extended attributes by getfattr, if it is there.
fn attributes(path: &Path) -> String {
    if std::env::var_os("DECLONE_WITNESS").is_none() {
        return String::new();
    }
    let args = ["-h", "-d", "-m", "-", "-e", "hex", "--absolute-names"];
    let out = Command::new("getfattr").args(args).arg(path).output();
    let out = out.expect("getfattr is missing: apt-get install attr");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn report(ran: &Ran) -> serde_json::Value {
    ran.json()["images"][0].clone()
}

pub fn scan(root: &Path) -> Ran {
    declone(&["scan", arg(root), "--json", "-"])
}

pub fn clean(root: &Path) -> Ran {
    declone(&["clean", arg(root), "--in-place", "--json", "-"])
}

/// No rule finds anything, and no byte string of the identity is in any file.
#[track_caller]
pub fn is_clean(root: &Path) {
    let ran = declone(&["verify", arg(root), "--json", "-"]).exits(0);
    assert_eq!(report(&ran)["result"], "clean");
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                stack.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                for guid in [GUID, OLD, NEW, dirty::BETWEEN] {
                    let wide: Vec<u8> = guid.encode_utf16().flat_map(u16::to_le_bytes).collect();
                    let found = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
                    assert!(!found(guid.as_bytes()), "{guid} in {}", path.display());
                    assert!(!found(&wide), "{guid} in {}", path.display());
                }
                let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
                assert!(!name.starts_with(".declone"), "{}", path.display());
            }
        }
    }
}

#[test]
fn a_plain_tree_is_scanned_planned_cleaned_and_clean_the_second_time() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let before = listing(root);
    let seen = report(&scan(root).exits(1));
    assert_eq!(seen["image"]["format"], "directory");
    assert_eq!(seen["image"]["scheme"], "directory");
    assert_eq!(
        seen["volumes"][0]["installations"],
        serde_json::json!([r"\WINDOWS"])
    );
    assert_eq!(seen["volumes"][0]["hives"].as_array().unwrap().len(), 3);
    let subjects = seen["findings"].to_string();
    assert!(
        subjects.contains(r"a\\u{dcff}\\u{1b}[31m\\u{a}b"),
        "{subjects}"
    );
    let said = seen["not_scanned"].to_string();
    assert!(said.contains("freed clusters"), "{said}");
    // Text and JSON agree, and neither promises offsets that there are none of.
    let text = declone(&["scan", arg(root)]).exits(1).out;
    assert!(text.contains("`declone clean DIR --in-place`"), "{text}");
    assert!(text.contains("directory in a file system"), "{text}");
    assert!(
        !text.contains("volume offset") && !text.contains("image offset"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");

    let planned = report(&declone(&["clean", "-n", arg(root), "--json", "-"]).exits(0));
    assert_eq!(planned["result"], "planned");
    assert_eq!(
        planned["done"]["removals"][0]["paths"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(listing(root), before, "a plan writes nothing");

    let done = report(&clean(root).exits(0));
    assert_eq!(done["result"], "cleaned");
    assert_eq!(done["done"]["written"], true);
    assert_eq!(done["done"]["hives"].as_array().unwrap().len(), 3);
    assert_eq!(done["done"]["logs"].as_array().unwrap().len(), 1);
    assert_eq!(done["remarks"], serde_json::json!([]));
    assert!(
        done["done"]["witnesses"]
            .to_string()
            .contains("nt-hive agrees")
    );
    is_clean(root);
    // What was not meant is what it was.
    let after = listing(root);
    for (path, old) in &before {
        let shown = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .to_lowercase();
        let target = ["smscfg.ini", "sms1x.ini", "smsuid.dat"]
            .iter()
            .any(|name| shown.ends_with(name) && !shown.ends_with("xsmscfg.ini"));
        assert_eq!(after.contains_key(path), !target, "{shown}");
        let hive = shown.contains("software");
        if !target && !hive && !path.is_dir() {
            assert_eq!(Some(old), after.get(path), "{shown}");
        }
    }
    for path in HIVES {
        let hive = fs::read(at(root, path)).unwrap();
        check(&hive).unwrap();
        if let Some(checker) = checker("check_hive.py") {
            tool("python3", &[arg(&checker), arg(&at(root, path))]);
        }
    }
    let log = fs::read(at(root, &format!("{HIVE}.LOG"))).unwrap();
    assert!(!log.is_empty() && log.iter().all(|byte| *byte == 0));
    let again = report(&clean(root).exits(0));
    assert_eq!(again["result"], "clean");
    assert_eq!(listing(root), after, "the second run writes nothing");
}

#[test]
fn wrong_usage_says_why_and_changes_nothing() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let before = listing(root);
    let path = arg(root);
    let out = dir.path().join("out");
    for (args, why) in [
        (vec!["clean", path], "--in-place"),
        (vec!["clean", path, "-o", arg(&out)], "no copy"),
        (vec!["clean", path, "-n", "--to", "raw"], "no disk"),
        (
            vec!["clean", path, "--in-place", "--undo", arg(&out)],
            "no pages",
        ),
        (
            vec!["clean", path, "--in-place", "--prove"],
            "free clusters",
        ),
        (vec!["scan", path, "--partition", "1"], "--partition"),
        (vec!["scan", path, "--hash", "sha256"], "--hash"),
        (vec!["scan", path, "--format", "raw"], "directory"),
        (vec!["scan", "/dev/null", "--format", "dir"], "directory"),
        (vec!["recover", path], "again"),
    ] {
        let ran = declone(&args);
        assert!(
            ran.code == 2 && (ran.err + &ran.out).contains(why),
            "{args:?}: {} {}",
            ran.code,
            ran.out
        );
    }
    declone(&["scan", path, "--format", "dir"]).exits(1);
    assert_eq!(listing(root), before);
}

#[test]
fn two_directories_of_one_machine_are_compared() {
    let dirs = [scratch(), scratch()];
    for dir in &dirs {
        fill(dir.path());
    }
    let ran = declone(&["compare", arg(dirs[0].path()), arg(dirs[1].path())]).exits(1);
    assert!(
        ran.out.contains("2 images with one identity"),
        "{}",
        ran.out
    );
    clean(dirs[0].path()).exits(0);
    declone(&["compare", arg(dirs[0].path()), arg(dirs[1].path())]).exits(0);
}

/// A tree with a hive that only its logs finish.
pub fn fill_dirty(root: &Path) {
    let before = dirty::state(Some(OLD));
    let (primary, logs) = dirty::new_format(&before, &dirty::state(Some(NEW)));
    put(root, HIVE, primary);
    for (ending, log) in logs {
        put(root, &format!("{HIVE}{ending}"), log);
    }
    put(
        root,
        r"\WINDOWS\Smscfg.ini",
        "[Configuration - Client Properties]\r\n",
    );
    put(root, r"\WINDOWS\repair\software", dirty::state(Some(OLD)));
}

#[test]
fn a_dirty_hive_is_replayed_and_a_hopeless_one_refused() {
    let dir = scratch();
    let root = dir.path();
    fill_dirty(root);
    let seen = report(&scan(root).exits(1));
    assert!(
        seen["volumes"][0]["hives"]
            .to_string()
            .contains("finished by its logs")
    );
    let done = report(&clean(root).exits(0));
    assert_eq!(done["done"]["logs"].as_array().unwrap().len(), 2, "{done}");
    is_clean(root);
    let hive = fs::read(at(root, HIVE)).unwrap();
    assert!(matches!(open(&hive, &[]), Ok(Opened::Clean { .. })));

    let broken = logs::with_sequence(&dirty::state(Some(OLD)), 8, 7);
    put(root, HIVE, broken);
    let before = listing(root);
    let ran = clean(root).exits(3);
    assert!(ran.out.contains("--accept-dirty"), "{}", ran.out);
    assert_eq!(listing(root), before);
    declone(&["clean", arg(root), "--in-place", "--accept-dirty"]).exits(0);
    is_clean(root);
}

#[test]
fn links_are_listed_and_nothing_behind_them_is_touched() {
    let (dir, outside) = (scratch(), scratch());
    let root = dir.path();
    fill(outside.path());
    fill(root);
    symlink(outside.path().join("WINDOWS"), root.join("WINNT")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink(
        outside.path().join("WINDOWS/Smscfg.ini"),
        root.join("Smscfg.ini"),
    )
    .unwrap();
    let before = listing(outside.path());
    // One of them is called as what goes.
    let done = report(&clean(root).exits(1));
    let said = done["not_scanned"].to_string();
    for name in [r"\\WINNT", r"\\up", r"\\magic", r"\\Smscfg.ini"] {
        assert!(said.contains(&format!("\"{name}\"")), "{name}: {said}");
    }
    assert_eq!(listing(outside.path()), before);
    assert!(root.join("Smscfg.ini").is_symlink());
}

#[test]
fn what_is_no_regular_file_is_never_opened() {
    let dir = scratch();
    let root = dir.path();
    for sub in ["a", "b", "c", "d"] {
        fs::create_dir(root.join(sub)).unwrap();
    }
    let fifo = root.join("a/Smscfg.ini");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("b/SMSCFG.INI")).unwrap();
    fs::create_dir(root.join("c/smsuid.dat")).unwrap();
    // Only root can make a device.
    let device = rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("d/Sms1x.ini"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RWXU,
        rustix::fs::makedev(1, 5),
    )
    .is_ok();
    let started = Instant::now();
    let seen = report(&scan(root).exits(4));
    let done = report(&clean(root).exits(4));
    assert!(started.elapsed() < Duration::from_secs(20));
    for report in [&seen, &done] {
        let said = report["not_scanned"].to_string();
        assert!(
            said.contains("a FIFO") && said.contains("a socket"),
            "{said}"
        );
        assert!(said.contains("is a directory"), "{said}");
        assert_eq!(said.contains("a device"), device, "{said}");
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
}

#[test]
fn a_name_outside_keeps_what_is_in_the_file() {
    let (dir, outside) = (scratch(), scratch());
    let root = dir.path();
    fill(root);
    let names = [
        (r"\WINDOWS\Smscfg.ini".to_owned(), "file"),
        (HIVE.to_owned(), "hive"),
        (format!("{HIVE}.LOG"), "log"),
    ];
    for (path, name) in &names {
        fs::hard_link(at(root, path), outside.path().join(name)).unwrap();
    }
    // Two names inside are one file.
    fs::hard_link(
        at(root, r"\WINDOWS\Sms1x.ini"),
        at(root, r"\WINDOWS\other name"),
    )
    .unwrap();
    let before: Vec<String> = names
        .iter()
        .map(|(_, n)| digest(&outside.path().join(n)))
        .collect();
    let done = report(&clean(root).exits(1));
    let after: Vec<String> = names
        .iter()
        .map(|(_, n)| digest(&outside.path().join(n)))
        .collect();
    assert_eq!(before, after, "what is outside stays");
    is_clean(root);
    assert!(!at(root, r"\WINDOWS\other name").exists());
    let said = done["not_scanned"].to_string();
    assert!(
        said.contains("1 more names of this file lie outside"),
        "{said}"
    );
}

#[test]
fn a_hive_with_two_names_inside_is_refused() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    fs::hard_link(at(root, HIVE), root.join("software.copy")).unwrap();
    let before = listing(root);
    let ran = clean(root).exits(3);
    assert!(ran.out.contains("hard link"), "{}", ran.out);
    assert_eq!(listing(root), before);
}

#[test]
fn other_mounts_are_not_entered() {
    if !called("other_mounts_are_not_entered") {
        return;
    }
    let (dir, outside) = (scratch(), scratch());
    let root = dir.path();
    fill(root);
    fill(outside.path());
    for name in ["tmpfs", "bind"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let (tmpfs, bind) = (root.join("tmpfs"), root.join("bind"));
    tool("mount", &["-t", "tmpfs", "none", arg(&tmpfs)]);
    // The same file system as the tree itself: only the mount tells it.
    tool("mount", &["--bind", arg(outside.path()), arg(&bind)]);
    fs::write(tmpfs.join("Smscfg.ini"), machine::ini()).unwrap();
    let before = listing(outside.path());
    let done = clean(root);
    let kept = fs::read(tmpfs.join("Smscfg.ini"));
    tool("umount", &[arg(&tmpfs)]);
    tool("umount", &[arg(&bind)]);
    let done = report(&done.exits(1));
    assert_eq!(kept.unwrap(), machine::ini().as_bytes());
    assert_eq!(listing(outside.path()), before);
    let said = done["not_scanned"].to_string();
    assert_eq!(
        said.matches("something else is mounted there").count(),
        2,
        "{said}"
    );
}

#[test]
fn a_deep_tree_is_walked_with_one_descriptor() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let name = "n".repeat(255);
    let mut at = rustix::fs::open(root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..1500 {
        mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
        at = openat(&at, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let file = OFlags::CREATE | OFlags::WRONLY;
    let made = openat(&at, "smscfg.ini", file, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&made, machine::ini().as_bytes()).unwrap();
    drop(made);
    let program = env!("CARGO_BIN_EXE_declone");
    let script = format!(
        "ulimit -n 32 -s 512; '{program}' clean '{}' --in-place --json -",
        arg(root)
    );
    let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(
        ran.status.code(),
        Some(0),
        "{}",
        out.chars().take(3000).collect::<String>()
    );
    assert!(openat(&at, "smscfg.ini", OFlags::RDONLY, Mode::empty()).is_err());
    // Deeper than any Windows can go: listed, and no clean result.
    for _ in 0..3000 {
        mkdirat(&at, "n", Mode::RWXU).unwrap();
        at = openat(&at, "n", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let ran = scan(root).exits(8);
    assert!(ran.out.contains("levels"));
    // `remove_dir_all` of the standard library holds a descriptor a level.
    assert!(
        Command::new("rm")
            .arg("-rf")
            .arg(root.join(&name))
            .status()
            .unwrap()
            .success()
    );
}

/// Runs declone as the user `nobody`, who may see the tests' directories only if told.
fn as_nobody(args: &[&str]) -> Ran {
    let copy = scratch();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = copy.path().join("declone");
    fs::copy(env!("CARGO_BIN_EXE_declone"), &program).unwrap();
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(args)
        .output()
        .unwrap();
    Ran {
        code: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
        took: Duration::ZERO,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives the whole tree to a user, except what is listed.
fn give(root: &Path) {
    assert!(
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(root)
            .status()
            .unwrap()
            .success()
    );
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_unreadable_directory_is_no_clean_one() {
    if !is_root() {
        eprintln!(
            "an_unreadable_directory_is_no_clean_one: NOT RUN, needs root to become another user"
        );
        return;
    }
    let dir = scratch();
    let root = dir.path();
    fill(root);
    give(root);
    let closed = root.join("RECYCLER");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let before = listing(root);
    let ran = as_nobody(&["scan", arg(root), "--json", "-"]).exits(5);
    assert!(
        report(&ran)["not_scanned"].to_string().contains("RECYCLER"),
        "{}",
        ran.out
    );
    let ran = as_nobody(&["clean", arg(root), "--in-place"]).exits(5);
    assert!(ran.out.contains("may read all"), "{}", ran.out);
    assert_eq!(listing(root), before);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    as_nobody(&["clean", arg(root), "--in-place"]).exits(0);
    is_clean(root);
}

#[test]
fn what_cannot_be_written_is_met_before_anything_changed() {
    if !is_root() {
        eprintln!("what_cannot_be_written: NOT RUN, needs root");
        return;
    }
    let dir = scratch();
    let root = dir.path();
    fill(root);
    give(root);
    // The hive's directory belongs to somebody else.
    let config = at(root, r"\WINDOWS\system32\config");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o555)).unwrap();
    let before = listing(root);
    as_nobody(&["clean", arg(root), "--in-place"]).exits(5);
    assert_eq!(listing(root), before);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755)).unwrap();
    // The last file in the order cannot be removed.
    let bin = at(root, r"\RECYCLER\S-1-5-21-1");
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o555)).unwrap();
    let before = listing(root);
    as_nobody(&["clean", arg(root), "--in-place"]).exits(5);
    assert_eq!(listing(root), before);
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [r"\WINDOWS\Smscfg.ini", HIVE, r"\WINDOWS\repair"] {
        let path = at(root, path);
        let flagged = Command::new("chattr").arg("+i").arg(&path).status();
        if !flagged.is_ok_and(|status| status.success()) {
            eprintln!("chattr: NOT RUN, the file system has no such flag");
            return;
        }
        let before = listing(root);
        let ran = clean(root);
        let after = listing(root);
        assert!(
            Command::new("chattr")
                .arg("-i")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        assert!(ran.exits(5).out.contains("chattr -i"));
        assert_eq!(after, before);
    }
    clean(root).exits(0);
    is_clean(root);
}

#[test]
fn two_hives_that_differ_in_case_are_refused_two_files_removed() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    put(root, r"\WINDOWS\SMSCFG.INI", machine::ini());
    put(
        root,
        r"\Windows\System32\Config\software",
        machine::hive(5).build(),
    );
    let before = listing(root);
    let seen = report(&scan(root).exits(1));
    let hives = seen["volumes"][0]["hives"].to_string();
    assert!(
        hives.contains(r"\\Windows\\System32\\Config\\software"),
        "{hives}"
    );
    assert!(
        hives.contains(r"\\WINDOWS\\system32\\config\\SOFTWARE"),
        "{hives}"
    );
    let ran = clean(root).exits(3);
    assert!(
        ran.out.contains("one file of its name expected"),
        "{}",
        ran.out
    );
    assert_eq!(listing(root), before);
    fs::remove_dir_all(root.join("Windows")).unwrap();
    clean(root).exits(0);
    is_clean(root);
}

#[test]
fn the_new_hive_looks_like_the_old_one() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let hive = at(root, HIVE);
    fs::set_permissions(&hive, fs::Permissions::from_mode(0o640)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&hive, Some(12345), Some(54321)).unwrap();
    }
    let witnessed = std::env::var_os("DECLONE_WITNESS").is_some();
    if witnessed {
        tool("setfattr", &["-n", "user.note", "-v", "kept", arg(&hive)]);
        tool("setfacl", &["-m", "u:65534:r", arg(&hive)]);
    }
    tool(
        "touch",
        &["-d", "2005-04-03 02:01:00.123456789 UTC", arg(&hive)],
    );
    let seen = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let acl = match witnessed {
            true => tool("getfacl", &["-n", "-p", arg(path)]).stdout,
            false => Vec::new(),
        };
        (
            (meta.mode(), meta.uid(), meta.gid(), meta.len()),
            (meta.mtime(), meta.mtime_nsec()),
            attributes(path),
            String::from_utf8(acl).unwrap(),
        )
    };
    let before = seen(&hive);
    let ino = fs::metadata(&hive).unwrap().ino();
    let done = report(&clean(root).exits(0));
    assert_eq!(done["remarks"], serde_json::json!([]));
    assert_eq!(seen(&hive), before);
    assert_ne!(fs::metadata(&hive).unwrap().ino(), ino, "it is a new file");
    assert!(!witnessed || before.2.contains("user.note") && before.3.contains("65534"));
}

#[test]
fn a_hive_that_somebody_writes_is_refused_and_a_reader_is_not() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let before = listing(root);
    let writer = fs::OpenOptions::new()
        .write(true)
        .open(at(root, HIVE))
        .unwrap();
    let ran = clean(root).exits(3);
    assert!(ran.out.contains("in use by"), "{}", ran.out);
    assert_eq!(listing(root), before);
    drop(writer);
    let _reader = fs::File::open(at(root, HIVE)).unwrap();
    clean(root).exits(0);
    is_clean(root);
}

#[test]
fn a_hibernated_tree_is_refused() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    put(root, r"\hiberfil.sys", "HIBR and a session");
    let before = listing(root);
    assert!(clean(root).exits(3).out.contains("hibernated"));
    assert_eq!(listing(root), before);
    put(root, r"\hiberfil.sys", "wake of a finished one");
    clean(root).exits(0);
}
