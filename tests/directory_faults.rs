//! Directories of the host when something goes wrong: death at any step, a failing call, another
//! program that changes names meanwhile.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use declone::{
    apply::{
        directory::{self, Outcome, Work},
        stage,
    },
    error::Kind,
    hive::{Opened, open},
    image::{self, directory::Directory},
    plan,
};

use crate::{
    directory::{at, clean, fill, fill_dirty, is_clean, listing, put, report, scan},
    judges::called,
    machine::{self, HIVE, TARGETS},
    run::{arg, scratch},
};

/// Plans and commits as the command line does.
fn commit(root: &Path, gate: &mut dyn FnMut(&str)) -> Outcome {
    let rules = declone::rules::select(&["sms".to_owned()]).unwrap();
    let directory = Directory::open(root).unwrap();
    let image = image::of_directory(&directory);
    let mut plan = plan::make(&image, &rules, &mut |_, _, _| {}).unwrap();
    for hive in plan.volumes[0]
        .hives
        .iter_mut()
        .filter(|hive| hive.is_written())
    {
        hive.wipe = true;
    }
    let tree = image.volumes[0].tree().unwrap();
    let settled = directory::settled(tree, &plan.volumes[0]).unwrap();
    stage::stage(&image, &plan).unwrap();
    let work = Work::new(&directory, tree, &plan.volumes[0], settled).unwrap();
    directory::commit(&directory, &work, gate)
}

/// Dies before the `stop`th call that changes anything. Says how many such calls there were.
fn die_at(root: &Path, stop: usize) -> (usize, bool) {
    let mut calls = 0;
    let died = catch_unwind(AssertUnwindSafe(|| {
        let outcome = commit(root, &mut |_| {
            if calls == stop {
                // As a panic, without its message.
                std::panic::resume_unwind(Box::new("power cut"));
            }
            calls += 1;
        });
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
    }))
    .is_err();
    (calls, died)
}

#[test]
fn death_before_any_step_leaves_a_consistent_tree_and_a_second_run_finishes_it() {
    let mut deaths = 0;
    for kind in [fill as fn(&Path), fill_dirty] {
        for stop in 0.. {
            let dir = scratch();
            let root = dir.path();
            kind(root);
            let (_, died) = die_at(root, stop);
            // Whatever was reached: a hive is there, and it is clean or its logs finish it.
            let hive = fs::read(at(root, HIVE)).unwrap();
            let logs: Vec<(String, Vec<u8>)> = [".LOG", ".LOG1", ".LOG2"]
                .iter()
                .filter_map(|end| {
                    Some((
                        end.to_string(),
                        fs::read(at(root, &format!("{HIVE}{end}"))).ok()?,
                    ))
                })
                .collect();
            let given: Vec<(&str, &[u8])> = logs
                .iter()
                .map(|(name, log)| (name.as_str(), log.as_slice()))
                .collect();
            let opened = open(&hive, &given).unwrap();
            assert!(
                !matches!(opened, Opened::Refused { .. }),
                "stopped at {stop}"
            );
            let again = clean(root).exits(0);
            assert!(died || report(&again)["result"] == "clean");
            is_clean(root);
            if !died {
                assert!(stop > 20, "{stop}");
                deaths += stop;
                break;
            }
        }
    }
    assert!(deaths > 50, "{deaths}");
}

/// What cannot be removed is named; everything else goes, and a second run finishes.
#[test]
fn a_file_that_stays_keeps_no_other_from_going() {
    for stays in [1, TARGETS.len()] {
        let dir = scratch();
        let root = dir.path();
        fill(root);
        let away = scratch();
        let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
        let outcome = commit(root, &mut |call| {
            if call == "unlink" && moved.len() < stays {
                let mut there = TARGETS.iter().map(|path| at(root, path));
                let next = there.find(|path| path.exists()).unwrap();
                let to = away.path().join(moved.len().to_string());
                fs::rename(&next, &to).unwrap();
                moved.push((next, to));
            }
        });
        let error = outcome.error.unwrap();
        assert_eq!(error.kind(), Kind::Interrupted);
        assert!(error.to_string().contains("not removed"), "{error}");
        // The name that was moved away need not be the one whose turn it was.
        assert!((1..=stays).contains(&outcome.failed.len()));
        for failed in &outcome.failed {
            let text = failed.to_string();
            assert!(text.contains("No such file"), "{text}");
            assert!(failed.trail().iter().any(|place| place.space == "file"));
        }
        for path in TARGETS.iter().map(|path| at(root, path)) {
            assert!(!path.exists(), "{}", path.display());
        }
        for (path, to) in moved {
            fs::rename(to, path).unwrap();
        }
        clean(root).exits(0);
        is_clean(root);
    }
}

/// The directory was changed, so no code may say that it is as it was.
#[test]
fn what_comes_back_while_it_is_cleaned_is_told_and_is_no_success() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    let target = at(root, TARGETS[0]);
    let stop = AtomicBool::new(false);
    let codes: Vec<i32> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if !target.exists() {
                    fs::write(&target, machine::ini()).unwrap();
                }
            }
        });
        let mut codes = Vec::new();
        while codes.len() < 50 && !codes.contains(&6) {
            let ran = clean(root);
            if ran.code == 6 {
                let report = report(&ran);
                assert_eq!(report["result"], "interrupted");
                assert_eq!(report["done"]["written"], true);
                let error = report["errors"][0]["what"].to_string();
                assert!(error.contains("found 1 items"), "{report}");
            }
            codes.push(ran.code);
        }
        stop.store(true, Ordering::Relaxed);
        codes
    });
    assert!(codes.contains(&6), "{codes:?}");
    clean(root).exits(0);
    is_clean(root);
}

#[test]
fn a_leftover_of_a_crash_is_named_and_removed_and_others_are_not() {
    let dir = scratch();
    let root = dir.path();
    fill(root);
    clean(root).exits(0);
    put(
        root,
        r"\WINDOWS\.declone-0123456789abcdef.tmp",
        machine::hive(5).build(),
    );
    put(root, r"\WINDOWS\.declone-notes.tmp", "mine");
    let said = report(&scan(root).exits(1))["not_scanned"].to_string();
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(report(&clean(root).exits(0))["result"], "cleaned");
    assert!(!at(root, r"\WINDOWS\.declone-0123456789abcdef.tmp").exists());
    assert!(at(root, r"\WINDOWS\.declone-notes.tmp").exists());
}

/// How long the race is run: seconds in `DECLONE_RACE`, or two.
fn race_time() -> Duration {
    let seconds = std::env::var("DECLONE_RACE")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[test]
fn a_swapped_component_changes_nothing_outside() {
    let outside = scratch();
    fill(outside.path());
    let before = listing(outside.path());
    let until = Instant::now() + race_time();
    let (mut swaps, mut runs, mut cleaned) = (0_u64, 0, 0);
    while Instant::now() < until {
        let dir = scratch();
        let root = dir.path();
        fill(root);
        // The top or a level below changes places with a link to its like outside.
        let top = runs % 2 == 0;
        let (real, to) = match top {
            true => ("WINDOWS", "WINDOWS"),
            false => ("WINDOWS/system32/config", "WINDOWS/system32/config"),
        };
        let (real, link) = (root.join(real), root.join("link"));
        symlink(outside.path().join(to), &link).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                let mut swaps = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(cwd, &real, cwd, &link, flags).unwrap();
                    swaps += 1;
                    // Mostly as it should be, so that some of the runs get far.
                    let pause = if swaps.is_multiple_of(2) { 900 } else { 40 };
                    std::thread::sleep(Duration::from_micros(pause));
                }
                swaps
            });
            let ran = clean(root);
            stop.store(true, Ordering::Relaxed);
            swaps += swapper.join().unwrap();
            assert!(
                [0, 1, 3, 5, 6, 7].contains(&ran.code),
                "{}: {}",
                ran.code,
                ran.out
            );
            cleaned += u32::from(ran.code == 0 || ran.code == 6);
        });
        runs += 1;
        assert_eq!(listing(outside.path()), before, "nothing outside changes");
    }
    eprintln!("race: {swaps} swaps, {runs} runs, {cleaned} of them wrote");
    assert!(swaps > 10 && runs > 0, "{swaps} swaps, {runs} runs");
}

#[test]
fn a_signal_killed_run_is_finished_by_a_second_one() {
    if !called("a_signal_killed_run_is_finished_by_a_second_one") {
        return;
    }
    for call in [
        "renameat:when=1",
        "renameat:when=2",
        "unlinkat:when=1",
        "unlinkat:when=4",
    ] {
        let dir = scratch();
        let root = dir.path();
        fill(root);
        let inject = format!("inject={}", call.replace(":when", ":signal=KILL:when"));
        let program = env!("CARGO_BIN_EXE_declone");
        let out = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &inject, program])
            .args(["clean", arg(root), "--in-place"])
            .output()
            .expect("strace is missing");
        assert!(!out.status.success(), "{call}");
        clean(root).exits(0);
        is_clean(root);
    }
}

#[test]
fn a_failure_in_the_middle_says_so_and_a_second_run_finishes() {
    if !called("a_failure_in_the_middle_says_so_and_a_second_run_finishes") {
        return;
    }
    for (call, code) in [
        // The log of a clean hive is zeroed before the first rename.
        ("renameat:error=EIO:when=1", 6),
        ("renameat:error=EIO:when=2", 6),
        ("unlinkat:error=EIO:when=2", 6),
        ("fsync:error=EIO:when=1", 5),
        ("fchmod:error=EIO:when=1", 0),
    ] {
        let dir = scratch();
        let root = dir.path();
        fill(root);
        let before = listing(root);
        let out = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("inject={call}")])
            .arg(env!("CARGO_BIN_EXE_declone"))
            .args(["clean", arg(root), "--in-place"])
            .output()
            .expect("strace is missing");
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(code), "{call}: {text}");
        match code {
            5 => assert_eq!(files(&listing(root)), files(&before), "{call}"),
            6 => assert!(text.contains("run the same command again"), "{text}"),
            _ => assert!(
                text.contains("mode 100644 was not kept") || text.contains("mode 644"),
                "{text}"
            ),
        }
        if call.starts_with("unlinkat") {
            let left = TARGETS.iter().filter(|path| at(root, path).exists());
            assert!(left.count() <= 1, "{text}");
            assert!(text.contains("1 file was not removed"), "{text}");
        }
        clean(root).exits(0);
        is_clean(root);
    }
}

/// Without the directories' own times: a temporary file came and went.
fn files(listing: &BTreeMap<PathBuf, String>) -> Vec<(&PathBuf, &String)> {
    listing.iter().filter(|(path, _)| !path.is_dir()).collect()
}
