//! What the host does to us: signals, full disks, closed outputs, files that change under us. After
//! each of them the input is byte for byte what it was, and there is a whole OUT or none.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    machine,
    run::{arg, declone, scratch},
    support::ntfs_builder::{Content, Geometry},
};

const MIB: u64 = 1 << 20;
const STOPPING: [(Signal, &str); 3] = [
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
    (Signal::HUP, "SIGHUP"),
];

/// A directory with an image, what the image holds, and what a clean makes of it.
struct Case {
    dir: tempfile::TempDir,
    image: PathBuf,
    out: PathBuf,
    before: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let dir = scratch();
        let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
        machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), &image);
        let before = fs::read(&image).unwrap();
        Self {
            dir,
            image,
            out,
            before,
        }
    }

    /// Cleans undisturbed once: the right result, and how long it takes.
    fn wanted(&self) -> (Vec<u8>, Duration) {
        let ran = declone(&["clean", arg(&self.image), "-o", arg(&self.out)]).exits(0);
        let want = fs::read(&self.out).unwrap();
        assert!(want != self.before);
        fs::remove_file(&self.out).unwrap();
        (want, ran.took)
    }

    fn clean(&self) -> Child {
        undisturbed(&[env!("CARGO_BIN_EXE_declone")])
            .args(["clean", arg(&self.image), "-o", arg(&self.out)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn temporaries(&self) -> Vec<String> {
        temporaries(self.dir.path())
    }

    #[track_caller]
    fn input_is_as_it_was(&self) {
        // Not assert_eq!: nobody wants to read 24 MiB.
        assert!(fs::read(&self.image).unwrap() == self.before);
    }

    /// A whole OUT and code 0; a whole OUT and the signal that came while it got its name; or neither
    /// and code 5 or a signal; never anything else beside the input.
    #[track_caller]
    fn whole_or_nothing(&self, ended: &Ended, want: &[u8]) {
        self.input_is_as_it_was();
        assert_eq!(self.temporaries(), [""; 0], "{ended:?}");
        let late = ended.err.contains("which was finished first");
        match ended.status.code() {
            code if code == Some(0) || late => {
                assert!(
                    code.is_some() || ended.status.signal().is_some(),
                    "{ended:?}"
                );
                assert!(fs::read(&self.out).unwrap() == want, "OUT is not right");
                fs::remove_file(&self.out).unwrap();
            }
            Some(5) => assert!(!self.out.exists(), "{ended:?}"),
            None if ended.status.signal().is_some_and(|n| n < 16) => {
                assert!(!self.out.exists(), "{ended:?}");
            }
            _ => panic!("{ended:?}"),
        }
    }
}

/// A program that ignores none of our signals at its start, whatever we were started with: a shell's
/// background jobs ignore SIGINT, `nohup` ignores SIGHUP.
fn undisturbed(program: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,TERM").args(program);
    command
}

fn temporaries(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("declone") || name.ends_with(".tmp"))
        .collect()
}

#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    err: String,
}

fn end(mut child: Child) -> Ended {
    let mut err = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut err).unwrap();
    }
    let status = child.wait().unwrap();
    Ended { status, err }
}

fn send(child: &Child, signal: Signal) {
    // One that has ended, and was seen to have, is nobody any more.
    match kill_process(Pid::from_child(child), signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => panic!("kill: {e}"),
    }
}

/// Waits until `ready` says so; false when the child has ended instead.
fn until(child: &mut Child, mut ready: impl FnMut(u32) -> bool) -> bool {
    let id = child.id();
    let start = Instant::now();
    while !ready(id) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "it hangs");
        std::thread::yield_now();
    }
    true
}

/// A mask of signals of a running process.
fn mask(id: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap())
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// Starts the program and waits until it has taken over its signals. On a busy machine it may have
/// done its work before anybody looks; then it is started again.
#[track_caller]
fn listening(case: &Case, signals: u64, start: impl Fn() -> Child) -> Child {
    for _ in 0..200 {
        let mut child = start();
        if until(&mut child, |id| mask(id, "SigCgt") & signals == signals) {
            return child;
        }
        let ended = end(child);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        fs::remove_file(&case.out).unwrap();
    }
    panic!("it always ended before it was seen to take over its signals");
}

fn all_stopping() -> u64 {
    STOPPING.iter().map(|(signal, _)| bit(*signal)).sum()
}

// --- signals ---

#[test]
fn a_signal_at_any_moment_leaves_a_whole_copy_or_nothing() {
    let case = Case::new();
    let (want, took) = case.wanted();
    for (signal, name) in STOPPING {
        let mut stopped = 0;
        for step in 0..20 {
            let child = listening(&case, all_stopping(), || case.clean());
            std::thread::sleep(took * step / 18);
            send(&child, signal);
            let ended = end(child);
            if ended.err.contains("unchanged") {
                stopped += 1;
                assert_eq!(ended.status.signal(), Some(signal.as_raw()));
                assert_eq!(
                    ended.err,
                    format!("declone: stopped by {name}; the image is unchanged\n")
                );
            }
            case.whole_or_nothing(&ended, &want);
        }
        assert!(stopped > 0, "{name} never stopped it");
    }
}

#[test]
fn a_signal_while_the_temporary_file_is_there_removes_it() {
    let case = Case::new();
    let (want, _) = case.wanted();
    let mut seen = 0;
    for (signal, _) in STOPPING.into_iter().cycle().take(30) {
        let mut child = case.clean();
        if until(&mut child, |_| !case.temporaries().is_empty()) {
            // Stopped, so that what we see is what the signal meets.
            send(&child, Signal::STOP);
            seen += usize::from(!case.temporaries().is_empty());
            send(&child, signal);
            send(&child, Signal::CONT);
        }
        case.whole_or_nothing(&end(child), &want);
    }
    assert!(seen > 0, "the temporary file was never seen");
}

#[test]
fn after_sigkill_the_input_is_whole_and_a_second_run_succeeds() {
    let case = Case::new();
    let (want, took) = case.wanted();
    for step in 0..20 {
        let mut child = case.clean();
        if step % 2 == 0 {
            std::thread::sleep(took * step / 20);
        } else {
            until(&mut child, |_| !case.temporaries().is_empty());
        }
        send(&child, Signal::KILL);
        let ended = end(child);
        case.input_is_as_it_was();
        let left = case.temporaries();
        assert!(left.len() <= 1, "{left:?}");
        assert!(
            left.iter()
                .all(|name| name.starts_with(".out.img.declone-") && name.ends_with(".tmp")),
            "{left:?}"
        );
        if case.out.exists() {
            assert!(fs::read(&case.out).unwrap() == want, "{ended:?}");
            fs::remove_file(&case.out).unwrap();
        }
        let again = end(case.clean());
        assert_eq!(again.status.code(), Some(0), "{again:?}");
        assert!(fs::read(&case.out).unwrap() == want);
        assert_eq!(case.temporaries(), left, "its own only");
        fs::remove_file(&case.out).unwrap();
        for name in left {
            fs::remove_file(case.dir.path().join(name)).unwrap();
        }
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let case = Case::new();
    let (want, _) = case.wanted();
    for (ignored, _) in STOPPING {
        let script = format!("trap '' {}; exec \"$0\" \"$@\"", ignored.as_raw());
        let child = listening(&case, all_stopping() & !bit(ignored), || {
            undisturbed(&["sh", "-c", &script, env!("CARGO_BIN_EXE_declone")])
                .args(["clean", arg(&case.image), "-o", arg(&case.out)])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        assert_eq!(mask(child.id(), "SigIgn") & bit(ignored), bit(ignored));
        send(&child, ignored);
        let ended = end(child);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        case.whole_or_nothing(&ended, &want);
    }
}

#[test]
fn the_identity_in_memory_is_never_dumped() {
    let case = Case::new();
    let child = listening(&case, all_stopping(), || case.clean());
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core"));
    let fields: Vec<&str> = line.unwrap().split_whitespace().collect();
    // 0 only where the hard limit is 0.
    let want = if fields[5] == "0" { "0" } else { "1" };
    assert_eq!(fields[4], want, "{limits}");
    send(&child, Signal::TERM);
    let ended = end(child);
    assert_eq!(
        ended.status.signal(),
        Some(Signal::TERM.as_raw()),
        "{ended:?}"
    );
    assert!(!ended.status.core_dumped(), "{ended:?}");
}

// --- files that get shorter ---

#[test]
fn an_image_cut_while_it_is_cleaned_gives_no_copy_of_half_of_it() {
    let case = Case::new();
    let (want, took) = case.wanted();
    // Opened only for the moment: who has it open for writing when a clean begins is refused.
    let open = || File::options().write(true).open(&case.image).unwrap();
    let mut met = 0;
    for step in 0..12 {
        let child = listening(&case, all_stopping(), || case.clean());
        std::thread::sleep(took * step / 10);
        open()
            .set_len([3 * MIB, 23 * MIB + 100, 0][step as usize % 3])
            .unwrap();
        let ended = end(child);
        let code = ended.status.code();
        met += u32::from(code == Some(5));
        match code {
            Some(0) => {
                assert!(fs::read(&case.out).unwrap() == want, "half an OUT");
                fs::remove_file(&case.out).unwrap();
            }
            Some(3..=5) => assert!(!case.out.exists(), "{ended:?}"),
            _ => panic!("{ended:?}"),
        }
        assert_eq!(case.temporaries(), [""; 0]);
        open().write_all_at(&case.before, 0).unwrap();
    }
    assert!(met > 0, "no clean met the cut");
}

/// A volume, and behind it data up to `len`.
fn long_image(path: &Path, len: u64) {
    machine::write(&machine::volume(24 * MIB, Geometry::default(), 5), path);
    let file = File::options().write(true).open(path).unwrap();
    let block: Vec<u8> = (0..MIB).map(|i| (i * 7 / 3) as u8).collect();
    for at in (24 * MIB..len).step_by(block.len()) {
        file.write_all_at(&block, at).unwrap();
    }
}

fn verify(image: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_declone"))
        .args(["verify", arg(image)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_image_cut_while_it_is_searched_is_an_io_error_not_a_death() {
    let dir = scratch();
    let image = dir.path().join("long.img");
    let len = 300 * MIB;
    long_image(&image, len);
    let file = File::options().write(true).open(&image).unwrap();
    // Whole: the data behind the volume is no reason to fail.
    assert_eq!(verify(&image).wait().unwrap().code(), Some(1));
    for keep in [30 * MIB, 30 * MIB + 5, 25 * MIB] {
        let mut child = verify(&image);
        let mapped = until(&mut child, |id| {
            fs::read_to_string(format!("/proc/{id}/maps"))
                .is_ok_and(|maps| maps.contains(arg(&image)))
        });
        assert!(mapped, "the search maps the image");
        // Stopped, so that the cut is there before it goes on.
        send(&child, Signal::STOP);
        file.set_len(keep).unwrap();
        send(&child, Signal::CONT);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(5), "{} {said}", output.status);
        assert!(said.contains("became shorter"), "{said}");
        long_again(&file, keep, len);
    }
}

fn long_again(file: &File, keep: u64, len: u64) {
    let block = vec![7; MIB as usize];
    for at in (keep..len).step_by(block.len()) {
        file.write_all_at(&block, at).unwrap();
    }
    file.set_len(len).unwrap();
}

#[test]
fn an_image_cut_again_and_again_never_kills() {
    let dir = scratch();
    let image = dir.path().join("long.img");
    let len = 300 * MIB;
    long_image(&image, len);
    let file = File::options().write(true).open(&image).unwrap();
    for _ in 0..3 {
        let mut child = verify(&image);
        let mut cuts = 0;
        let status = loop {
            file.set_len(24 * MIB + cuts % 200 * MIB).unwrap();
            file.set_len(len).unwrap();
            cuts += 1;
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert!(
            matches!(status.code(), Some(1 | 4 | 5)),
            "after {cuts} cuts: {status}"
        );
        long_again(&file, 24 * MIB, len);
    }
}

// --- outputs that fail ---

/// Runs through a shell, for what only a shell can do to the streams.
fn in_shell(script: &str, args: &[&str]) -> ExitStatus {
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_declone")])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn outputs_that_are_full_or_closed_never_kill_and_never_touch_the_input() {
    let case = Case::new();
    let (image, out) = (arg(&case.image), arg(&case.out));
    let verbs: [(&[&str], i32); 4] = [
        (&["scan", image], 1),
        (&["clean", image, "-n"], 0),
        (&["clean", image, "-o", out], 0),
        (&["verify", image], 1),
    ];
    for (args, usual) in verbs {
        for (streams, json, want) in [
            (">/dev/full", "", 5),
            ("2>/dev/full", "", usual),
            (">/dev/full 2>/dev/full", "", 5),
            // std opens /dev/null in place of what is closed.
            (">&-", "", usual),
            ("2>&-", "", usual),
            ("<&- >&- 2>&-", "", usual),
            ("", "/dev/full", 5),
            ("2>&-", "/dev/full", 5),
            (">/dev/full", "-", 5),
            (">&-", "-", usual),
            // Nothing to sync there.
            ("", "/dev/null", usual),
        ] {
            let mut args = args.to_vec();
            if !json.is_empty() {
                args.extend(["--json", json]);
            }
            let status = in_shell(&format!("exec \"$0\" \"$@\" {streams}"), &args);
            assert_eq!(status.code(), Some(want), "{args:?} {streams}: {status}");
            case.input_is_as_it_was();
            assert_eq!(case.temporaries(), [""; 0]);
            fs::remove_file(&case.out).ok();
        }
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let case = Case::new();
    let image = arg(&case.image);
    for (args, want) in [
        (vec!["scan", image], 1),
        (vec!["scan", image, "--json", "-"], 1),
        (vec!["clean", image, "-n"], 0),
        (vec!["clean", image, "-o", arg(&case.out)], 0),
        (vec!["verify", image], 1),
        (vec!["scan"], 2),
    ] {
        // The reading end is closed before the program starts: every write is EPIPE.
        let broken = || std::io::pipe().unwrap().1;
        let status = Command::new(env!("CARGO_BIN_EXE_declone"))
            .args(&args)
            .stdout(broken())
            .stderr(broken())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(want), "{args:?}: {status}");
        case.input_is_as_it_was();
    }
}

#[test]
fn the_report_never_overwrites_a_file_of_the_run() {
    let case = Case::new();
    let at = |name: &str| case.dir.path().join(name);
    let (image, out) = (arg(&case.image), arg(&case.out));
    fs::hard_link(&case.image, at("twin")).unwrap();
    std::os::unix::fs::symlink("in.img", at("link")).unwrap();
    std::os::unix::fs::symlink("out.img", at("dangling")).unwrap();
    let odd = format!("{}/../in.img", at("sub").display());
    fs::create_dir(at("sub")).unwrap();
    let odd_out = odd.replace("in.img", "out.img");
    for json in [image, arg(&at("twin")), arg(&at("link")), &odd] {
        declone(&["scan", "/dev/null", image, "--json", json]).exits(2);
        declone(&["verify", image, "--json", json]).exits(2);
        declone(&["clean", image, "-n", "--json", json]).exits(2);
        declone(&["clean", image, "-o", out, "--json", json]).exits(2);
        case.input_is_as_it_was();
    }
    for json in [out, arg(&at("dangling")), &odd_out] {
        declone(&["clean", image, "-o", out, "--json", json]).exits(2);
        assert!(!case.out.exists());
    }
    let report = at("report.json");
    declone(&["scan", image, "--json", arg(&report)]).exits(1);
    let text = fs::read(&report).unwrap();
    let ran = declone(&[
        "verify",
        image,
        "--against",
        arg(&report),
        "--json",
        arg(&report),
    ])
    .exits(2);
    assert!(ran.err.contains("a file of its own"), "{}", ran.err);
    assert!(fs::read(&report).unwrap() == text);
    // Its own file may be replaced.
    declone(&["scan", image, "--json", arg(&report)]).exits(1);
}

#[test]
fn a_limit_on_file_sizes_is_an_io_error() {
    let case = Case::new();
    let args = ["clean", arg(&case.image), "-o", arg(&case.out)];
    let status = in_shell("ulimit -f 64; exec \"$0\" \"$@\"", &args);
    assert_eq!(status.code(), Some(5), "{status}");
    assert!(!case.out.exists());
    assert_eq!(case.temporaries(), [""; 0]);
    case.input_is_as_it_was();
}

#[test]
fn an_out_that_cannot_be_is_an_error_and_leaves_nothing() {
    let case = Case::new();
    for (out, code) in [
        (case.dir.path().join("no/such/dir/out"), 2),
        (PathBuf::from("/proc/out.img"), 5),
        (case.image.join("out"), 2),
        (case.dir.path().join(".."), 2),
    ] {
        let ran = declone(&["clean", arg(&case.image), "-o", arg(&out)]);
        assert_eq!(ran.code, code, "{}: {}{}", out.display(), ran.out, ran.err);
        case.input_is_as_it_was();
        assert_eq!(case.temporaries(), [""; 0]);
    }
}

// --- what only root can set up ---

/// Whether this machine may mount and set attributes; says so when not.
fn root(test: &str) -> bool {
    let called = std::env::var_os("DECLONE_WITNESS").is_some();
    if !called {
        eprintln!("{test}: NOT RUN, needs root: tools/test runs it");
    }
    called
}

#[track_caller]
fn must(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(status.unwrap().success(), "{program} {args:?}");
}

/// The kernel lets no signal of default effect end the first process of a container.
#[test]
fn the_first_process_of_a_container_ends_with_the_signals_number() {
    if !root("the_first_process_of_a_container_ends_with_the_signals_number") {
        return;
    }
    let case = Case::new();
    // Nobody reads it: opening it takes for ever.
    let pipe = case.dir.path().join("pipe");
    must("mkfifo", &[arg(&pipe)]);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
        let program = [
            "env",
            "--default-signal=HUP,INT,TERM",
            env!("CARGO_BIN_EXE_declone"),
        ];
        let mut outer = Command::new(unshare[0])
            .args(&unshare[1..])
            .args(program)
            .args(["scan", arg(&case.image), "-q", "--json", arg(&pipe)])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let started = std::time::Instant::now();
        // Before it has taken over the signals, they have no effect: again and again.
        let status = loop {
            if let Some(status) = outer.try_wait().unwrap() {
                break status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it does not end"
            );
            let inner = fs::read_to_string(&children).unwrap_or_default();
            let is_declone = |pid: &str| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "declone")
            };
            if let Some(pid) = inner.split_whitespace().find(|pid| is_declone(pid)) {
                let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
                rustix::process::kill_process(pid, signal).ok();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(status.code(), Some(code), "{status}");
    }
    case.input_is_as_it_was();
}

#[test]
fn a_signal_during_the_rename_comes_too_late() {
    if !root("a_signal_during_the_rename_comes_too_late") {
        return;
    }
    let case = Case::new();
    let (want, _) = case.wanted();
    // OUT is there, and the call that put it there has not returned yet.
    let slow = "inject=renameat2:delay_exit=1500000";
    let mut tracer = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"])
        .args(["-e", slow, env!("CARGO_BIN_EXE_declone")])
        .args(["clean", arg(&case.image), "-o", arg(&case.out)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(until(&mut tracer, |_| case.out.exists()));
    let id = tracer.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let child = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    kill_process(child, Signal::TERM).unwrap();
    let ended = end(tracer);
    // It ends by the signal when its work is done.
    assert_eq!(
        ended.status.signal(),
        Some(Signal::TERM.as_raw()),
        "{ended:?}"
    );
    assert!(fs::read(&case.out).unwrap() == want);
}

/// Undoes what root did, also when the test fails.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let done = Command::new(self.0).args(&self.1).status();
        assert!(
            std::thread::panicking() || done.unwrap().success(),
            "{} {:?}",
            self.0,
            self.1
        );
    }
}

#[test]
fn a_full_disk_is_an_io_error_and_leaves_nothing() {
    if !root("a_full_disk_is_an_io_error_and_leaves_nothing") {
        return;
    }
    let dir = scratch();
    must(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=170m",
            "declone-test",
            arg(dir.path()),
        ],
    );
    let _mounted = Undo("umount", vec![arg(dir.path()).to_owned()]);
    let (image, out) = (dir.path().join("in.img"), dir.path().join("out.img"));
    // There is room for a part of it, so that the disk gets full in the middle of the copy.
    let mut volume = machine::volume(220 * MIB, Geometry::default(), 5);
    volume.file(r"\large.bin", Content::filler(9, 90 * MIB));
    machine::write(&volume, &image);
    let before = fs::read(&image).unwrap();
    let ran = declone(&["clean", arg(&image), "-o", arg(&out)]).exits(5);
    assert!(ran.out.contains("No space left"), "{}", ran.out);
    assert!(!out.exists());
    assert_eq!(temporaries(dir.path()), [""; 0]);
    assert!(fs::read(&image).unwrap() == before);
    // Known beforehand: nothing is even tried.
    let case = Case::new();
    let filler = File::create(dir.path().join("filler")).unwrap();
    rustix::fs::fallocate(
        &filler,
        rustix::fs::FallocateFlags::empty(),
        0,
        space_left(dir.path()) - MIB,
    )
    .unwrap();
    let ran = declone(&["clean", arg(&case.image), "-o", arg(&out)]).exits(5);
    assert!(ran.out.contains("free space"), "{}", ran.out);
    assert!(!out.exists());
    // The report, too.
    let report = dir.path().join("report.json");
    rustix::fs::fallocate(
        File::create(dir.path().join("rest")).unwrap(),
        rustix::fs::FallocateFlags::empty(),
        0,
        space_left(dir.path()),
    )
    .unwrap();
    declone(&["scan", arg(&case.image), "--json", arg(&report)]).exits(5);
    case.input_is_as_it_was();
}

fn space_left(dir: &Path) -> u64 {
    let space = rustix::fs::statvfs(dir).unwrap();
    space.f_bavail * space.f_frsize
}

#[test]
fn a_directory_that_takes_no_files_is_an_io_error() {
    if !root("a_directory_that_takes_no_files_is_an_io_error") {
        return;
    }
    let case = Case::new();
    let fixed = case.dir.path().join("fixed");
    fs::create_dir(&fixed).unwrap();
    must("chattr", &["+i", arg(&fixed)]);
    let _fixed = Undo("chattr", vec!["-i".to_owned(), arg(&fixed).to_owned()]);
    let out = fixed.join("out.img");
    declone(&["clean", arg(&case.image), "-o", arg(&out)]).exits(5);
    assert_eq!(fs::read_dir(&fixed).unwrap().count(), 0);
    case.input_is_as_it_was();
}
