//! An image that somebody else uses is refused, and who it is gets named. The holders are real
//! processes: this test binary once more, and (DECLONE_WITNESS=1) qemu, loop devices and ntfs-3g.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::{fd::AsRawFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use declone::{
    device::{Access, BlockDevice, HostFile},
    error::{Error, Kind},
};

use crate::run::{arg, digest, scratch};

const ALL: [Access; 3] = [Access::Look, Access::Copy, Access::InPlace];

/// An image of 1 MiB in a directory of its own.
fn image() -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    let path = dir.path().join("image.img");
    fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
    (dir, path)
}

#[track_caller]
fn refusal(path: &Path, access: Access) -> Error {
    let before = digest_of(path);
    let started = Instant::now();
    let error = HostFile::open_for(path, access).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.advice().is_some(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{error}");
    assert_eq!(digest_of(path), before);
    error
}

fn digest_of(path: &Path) -> String {
    if path.is_file() {
        digest(path)
    } else {
        String::new()
    }
}

// --- holders ---

/// How the helper process holds the file.
const HOLD: &str = "DECLONE_TEST_HOLD";
/// The test that is also the helper process, when [`HOLD`] is set.
const THE_HOLDER: &str = "locks::a_holder_in_another_process_is_met_until_it_ends";

/// Another process that holds the file in some way, until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(how: &str, path: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([THE_HOLDER, "--exact", "--nocapture"])
            .env(HOLD, format!("{how}:{}", arg(path)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut holder = Self(child);
        let lines = BufReader::new(holder.0.stdout.as_mut().unwrap()).lines();
        for line in lines {
            if line.unwrap().contains("held") {
                return holder;
            }
        }
        panic!("the holder {how} does not get ready");
    }

    fn name(&self) -> String {
        format!("pid {} ", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_holder_in_another_process_is_met_until_it_ends() {
    if let Ok(order) = std::env::var(HOLD) {
        return hold(&order);
    }
    let (_dir, path) = image();
    let holder = Holder::new("reader", &path);
    let error = refusal(&path, Access::InPlace);
    assert!(error.what().contains(&holder.name()), "{error}");
    drop(holder);
    HostFile::open_for(&path, Access::InPlace).unwrap();
}

/// What the helper process does.
#[allow(unsafe_code)]
fn hold(order: &str) {
    let (how, path) = order.split_once(':').unwrap();
    let open = |write| File::options().read(true).write(write).open(path).unwrap();
    let mut files = Vec::new();
    let mut maps: Vec<Box<dyn std::any::Any>> = Vec::new();
    match how {
        "reader" => files.push(open(false)),
        "writer" => files.push(open(true)),
        "flock" => {
            files.push(open(false));
            files[0].lock().unwrap();
        }
        // SAFETY: nobody changes the file while the test runs.
        "map" => maps.push(Box::new(unsafe {
            memmap2::Mmap::map(&open(false)).unwrap()
        })),
        // SAFETY: as above.
        "map-writer" => maps.push(Box::new(unsafe {
            memmap2::MmapMut::map_mut(&open(true)).unwrap()
        })),
        // As a virtual machine does: reads and writes, and shares all but writing.
        "qemu" => files.push(ranges(open(true), &[100, 101, 201])),
        // As `qemu-img info` does.
        "qemu-reader" => files.push(ranges(open(false), &[100, 201, 203])),
        // A shared export holds nothing else.
        "qemu-no-sharing" => files.push(ranges(open(false), &[200])),
        _ => panic!("{how}"),
    }
    println!("held");
    // Until the test lets go of the pipe.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(!files.is_empty() || !maps.is_empty());
}

/// Read locks that belong to the open file, one byte each.
#[allow(unsafe_code)]
fn ranges(file: File, bytes: &[i64]) -> File {
    for byte in bytes {
        let lock = libc::flock {
            l_type: libc::F_RDLCK as _,
            l_whence: libc::SEEK_SET as _,
            l_start: *byte,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open and the kernel reads one `flock`.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
    file
}

// --- nobody ---

#[test]
fn an_image_of_its_own_is_opened_for_everything() {
    let (_dir, path) = image();
    for access in ALL {
        let host = HostFile::open_for(&path, access).unwrap();
        assert_eq!(host.len(), 1 << 20);
        assert_eq!(host.remarks(), [""; 0]);
        assert_eq!(host.real_path(), path.canonicalize().unwrap());
        let mut byte = [0];
        host.read_at(4096, &mut byte).unwrap();
        assert_eq!(byte, [0x5a]);
    }
    // Readers share.
    let _one = HostFile::open_for(&path, Access::Copy).unwrap();
    let _two = HostFile::open_for(&path, Access::Copy).unwrap();
    let three = HostFile::open(&path).unwrap();
    assert_eq!(three.remarks(), [""; 0]);
}

#[test]
fn the_journal_of_a_linked_image_lies_beside_the_real_one() {
    let (dir, path) = image();
    let link = dir.path().join("link.img");
    symlink(&path, &link).unwrap();
    let host = HostFile::open_for(&link, Access::InPlace).unwrap();
    assert_eq!(host.real_path(), path.canonicalize().unwrap());
    assert_eq!(host.path(), link);
}

#[test]
fn hard_links_are_refused_in_place_only() {
    let (dir, path) = image();
    fs::hard_link(&path, dir.path().join("other.img")).unwrap();
    let error = refusal(&path, Access::InPlace);
    assert!(error.what().contains("2 (hard links)"), "{error}");
    assert!(error.advice().unwrap().contains("-o OUT"), "{error}");
    HostFile::open_for(&path, Access::Copy).unwrap();
}

#[test]
fn what_is_no_image_is_refused_for_every_use() {
    let dir = scratch();
    let fifo = dir.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for path in [dir.path(), &fifo, "/dev/null".as_ref(), "/".as_ref()] {
        for access in ALL {
            let error = HostFile::open_for(path, access).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(error.what().contains("expected, found"), "{error}");
        }
    }
    for access in ALL {
        let error = HostFile::open_for(&dir.path().join("none.img"), access).unwrap_err();
        assert_eq!(error.kind(), Kind::Io, "{error}");
        assert!(error.what().contains("none.img: open: No such"), "{error}");
    }
}

// --- somebody ---

#[test]
fn every_kind_of_holder_is_refused_and_named() {
    // How it is held, then what Look (remark), Copy and InPlace make of it.
    for (how, remark, copy, in_place) in [
        ("reader", false, false, true),
        ("writer", true, true, true),
        ("map", false, false, true),
        ("map-writer", true, true, true),
        ("qemu", true, true, true),
        ("qemu-reader", false, false, true),
        ("qemu-no-sharing", false, true, true),
    ] {
        let (_dir, path) = image();
        let holder = Holder::new(how, &path);
        let look = HostFile::open(&path).unwrap();
        assert_eq!(look.remarks().len(), usize::from(remark), "{how}");
        assert!(
            look.remarks()
                .iter()
                .all(|text| text.contains(&holder.name()))
        );
        drop(look);
        for (access, refused) in [(Access::Copy, copy), (Access::InPlace, in_place)] {
            if refused {
                let error = refusal(&path, access);
                assert!(error.what().contains(&holder.name()), "{how}: {error}");
            } else {
                HostFile::open_for(&path, access)
                    .unwrap_or_else(|e| panic!("{how}, {access:?}: {e}"));
            }
        }
        drop(holder);
        for access in ALL {
            let host = HostFile::open_for(&path, access).unwrap();
            assert_eq!(host.remarks(), [""; 0], "{how}");
        }
    }
}

#[test]
fn an_exclusive_flock_is_refused_for_every_use() {
    let (_dir, path) = image();
    let holder = Holder::new("flock", &path);
    for access in ALL {
        let error = refusal(&path, access);
        assert!(error.what().contains(&holder.name()), "{error}");
    }
}

#[test]
fn a_second_open_in_this_process_is_refused_in_place() {
    let (_dir, path) = image();
    for access in ALL {
        let first = HostFile::open_for(&path, access).unwrap();
        let error = refusal_while_open(&path, &first);
        assert!(error.what().contains("this declone itself"), "{error}");
    }
    let first = HostFile::open_for(&path, Access::InPlace).unwrap();
    let error = HostFile::open(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    drop(first);
}

#[track_caller]
fn refusal_while_open(path: &Path, _first: &HostFile) -> Error {
    let error = HostFile::open_for(path, Access::InPlace).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    error
}

#[test]
fn a_copy_that_this_process_is_making_is_no_remark() {
    let (_dir, path) = image();
    let _own = File::options().write(true).open(&path).unwrap();
    assert_eq!(HostFile::open(&path).unwrap().remarks(), [""; 0]);
}

// --- leases ---

#[test]
fn a_lease_is_for_writing_and_keeps_others_waiting() {
    let (_dir, path) = image();
    for access in [Access::Look, Access::Copy] {
        let host = HostFile::open_for(&path, access).unwrap();
        assert_eq!(host.lease().unwrap_err().kind(), Kind::Internal);
    }
    let host = HostFile::open_for(&path, Access::InPlace).unwrap();
    let lease = host.lease().unwrap();
    assert!(lease.is_held());
    lease.check().unwrap();
    // Written and read through the open file: that breaks nothing.
    let mut byte = [0];
    host.read_at(0, &mut byte).unwrap();
    let mapped = host.map(0..4096).unwrap();
    assert_eq!(mapped.scan(|bytes| bytes[0]).unwrap(), byte[0]);
    lease.check().unwrap();

    let mut cat = Command::new("cat")
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let error = until_broken(&lease);
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.what().contains("wants to read it"), "{error}");
    assert!(cat.try_wait().unwrap().is_none(), "it has to wait");
    // SIGIO was sent and did not end this process. Let go, and the other one goes on.
    drop(lease);
    assert!(cat.wait().unwrap().success());

    let lease = host.lease().unwrap();
    lease.check().unwrap();
    let mut writer = Command::new("sh")
        .args(["-c", ": >> \"$0\"", arg(&path)])
        .spawn()
        .unwrap();
    let error = until_broken(&lease);
    assert!(error.what().contains("wants to change it"), "{error}");
    drop(lease);
    assert!(writer.wait().unwrap().success());
}

#[track_caller]
fn until_broken(lease: &declone::device::Lease) -> Error {
    for _ in 0..500 {
        if let Err(error) = lease.check() {
            return error;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody broke the lease");
}

#[test]
fn a_leased_image_is_refused_at_once_not_waited_for() {
    let (_dir, path) = image();
    let host = HostFile::open_for(&path, Access::InPlace).unwrap();
    let lease = host.lease().unwrap();
    for access in ALL {
        let started = Instant::now();
        let error = HostFile::open_for(&path, access).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.what().contains("another program"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
    drop(lease);
}

#[test]
fn a_lease_is_refused_when_somebody_came_in_between() {
    let (_dir, path) = image();
    let host = HostFile::open_for(&path, Access::InPlace).unwrap();
    let holder = Holder::new("reader", &path);
    let error = host.lease().unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.what().contains(&holder.name()), "{error}");
    drop(holder);
    host.lease().unwrap().check().unwrap();
}

// --- real holders ---

/// Whether the real holders were called; says so when not.
fn called(test: &str) -> bool {
    let called = std::env::var_os("DECLONE_WITNESS").is_some();
    if !called {
        eprintln!("{test}: NOT RUN, needs qemu, losetup and ntfs-3g: tools/test runs it");
    }
    called
}

#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is missing ({e}): run tools/test, as root"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Something in the background, and how it is ended.
enum Real {
    Program(Child, Vec<String>),
    Nothing(Vec<String>),
}

impl Real {
    /// A program that is ready when `ready` says so; ended by `end`, or else killed.
    #[track_caller]
    fn program(line: &[&str], end: &[&str], ready: impl Fn() -> bool) -> Self {
        let child = Command::new(line[0])
            .args(&line[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{} is missing ({e}): run tools/test", line[0]));
        let mut this = Self::Program(child, owned(end));
        for _ in 0..500 {
            if ready() {
                return this;
            }
            if let Self::Program(child, _) = &mut this
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("{line:?}: {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{line:?} does not get ready");
    }
}

fn owned(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

impl Drop for Real {
    fn drop(&mut self) {
        let end = |line: &[String]| {
            line.split_first()
                .and_then(|(program, args)| Command::new(program).args(args).status().ok())
                .is_some_and(|status| status.success())
        };
        match self {
            Self::Nothing(line) => {
                end(line);
            }
            Self::Program(child, line) => {
                if !end(line) {
                    child.kill().ok();
                }
                child.wait().ok();
            }
        }
    }
}

/// What the three uses make of a real holder: refused where `copy` says so and always in place,
/// with `word` in the message and in the advice; free again when it has gone.
#[track_caller]
fn meets(path: &Path, holder: Real, copy: bool, word: &str, advice: &str) {
    let look = HostFile::open(path).unwrap();
    assert_eq!(
        look.remarks().len(),
        usize::from(copy),
        "{word}: {:?}",
        look.remarks()
    );
    drop(look);
    if copy {
        let error = refusal_of_any(path, Access::Copy);
        assert!(error.what().contains(word), "{error}");
        assert!(error.advice().unwrap().contains(advice), "{error}");
    } else {
        HostFile::open_for(path, Access::Copy).unwrap_or_else(|e| panic!("{word}: {e}"));
    }
    let error = refusal_of_any(path, Access::InPlace);
    assert!(error.what().contains(word), "{error}");
    assert!(error.advice().unwrap().contains(advice), "{error}");
    drop(holder);
    HostFile::open_for(path, Access::InPlace).unwrap_or_else(|e| panic!("after {word}: {e}"));
}

/// As [`refusal`], without reading the file: a mount may be writing to it.
#[track_caller]
fn refusal_of_any(path: &Path, access: Access) -> Error {
    let error = HostFile::open_for(path, access).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    error
}

#[test]
fn qemu_is_met_and_kept_out() {
    if !called("qemu_is_met_and_kept_out") {
        return;
    }
    let (dir, raw) = image();
    let qcow2 = dir.path().join("image.qcow2");
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", arg(&qcow2), "1M"],
    );
    for (path, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
        for (options, copy) in [(["-t", "-t"], true), (["-t", "-r"], false)] {
            let socket = dir.path().join(format!("{format}{copy}.socket"));
            let line = [
                "qemu-nbd",
                options[0],
                options[1],
                "-f",
                format,
                "-k",
                arg(&socket),
                arg(path),
            ];
            let nbd = Real::program(&line, &[], || {
                // It listens before it opens the image.
                let url = format!("nbd+unix:///?socket={}", arg(&socket));
                let asked = Command::new("qemu-img").args(["info", &url]).output();
                asked.is_ok_and(|output| output.status.success())
            });
            meets(path, nbd, copy, "qemu-nbd", "qemu-nbd");
        }
        // The other way round.
        let shown = |what: &[&str]| Command::new(what[0]).args(&what[1..]).output().unwrap();
        let read = ["qemu-io", "-r", "-f", format, "-c", "read 0 512", arg(path)];
        let write = ["qemu-io", "-f", format, "-c", "write 0 512", arg(path)];
        let host = HostFile::open_for(path, Access::Copy).unwrap();
        let before = digest(path);
        assert!(shown(&read).status.success());
        let refused = shown(&write);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("lock"),
            "{refused:?}"
        );
        drop(host);
        let host = HostFile::open_for(path, Access::InPlace).unwrap();
        for line in [&read[..], &write] {
            let refused = shown(line);
            assert!(
                String::from_utf8_lossy(&refused.stderr).contains("lock"),
                "{refused:?}"
            );
        }
        drop(host);
        assert_eq!(digest(path), before);
        // A test beside this one that is just starting a program shares our descriptors, and with
        // them the locks, for a moment.
        let free = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            shown(&write).status.success()
        };
        assert!((0..100).any(|_| free()), "{:?}", shown(&write));
    }
}

#[test]
fn loop_devices_and_their_mounts_are_met() {
    if !called("loop_devices_and_their_mounts_are_met") {
        return;
    }
    let (dir, path) = image();
    let attach = |options: &[&str]| {
        let node = tool(
            "losetup",
            &[options, &["-f", "--show", arg(&path)]].concat(),
        );
        let end = Real::Nothing(owned(&["losetup", "-d", &node]));
        (node, end)
    };
    let (node, end) = attach(&[]);
    meets(&path, end, true, &node, &format!("losetup -d {node}"));
    let (node, end) = attach(&["-r"]);
    meets(&path, end, false, &node, &format!("losetup -d {node}"));

    tool("mkfs.ext4", &["-q", "-F", arg(&path), "1M"]);
    let at = dir.path().join("a mount");
    fs::create_dir(&at).unwrap();
    let node = tool("losetup", &["-f", "--show", arg(&path)]);
    tool("mount", &[&node, arg(&at)]);
    let both = format!("umount '{}'; losetup -d {node}", arg(&at));
    let advice = format!("umount {}, losetup -d {node}", arg(&at));
    // The device itself, mounted: claimed by the kernel.
    for access in [Access::Copy, Access::InPlace] {
        let error = refusal_of_any(node.as_ref(), access);
        assert!(error.what().contains(arg(&at)), "{error}");
    }
    meets(
        &path,
        Real::Nothing(owned(&["sh", "-c", &both])),
        true,
        &node,
        &advice,
    );
}

#[test]
fn a_volume_served_by_ntfs_3g_is_met() {
    if !called("a_volume_served_by_ntfs_3g_is_met") {
        return;
    }
    let dir = scratch();
    let path = dir.path().join("volume.img");
    File::create(&path).unwrap().set_len(8 << 20).unwrap();
    tool("mkntfs", &["-q", "-F", "-Q", arg(&path)]);
    let at = dir.path().join("mnt");
    fs::create_dir(&at).unwrap();
    for (options, copy) in [("rw,no_detach", true), ("ro,no_detach", false)] {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!before.contains(arg(&at)));
        let mount = Real::program(
            &["ntfs-3g", "-o", options, arg(&path), arg(&at)],
            &["umount", arg(&at)],
            || {
                fs::read_to_string("/proc/self/mountinfo")
                    .unwrap()
                    .contains(arg(&at))
            },
        );
        meets(
            &path,
            mount,
            copy,
            "ntfs-3g",
            &format!("umount {}", arg(&at)),
        );
    }
}
