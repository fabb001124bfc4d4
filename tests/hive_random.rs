//! Random deletions on hives of every kind: what is left is what was there minus what was named, in
//! two readers, and nothing of it is anywhere in the file. `tools/hive-random` does the same with
//! many more runs and with judges that are other programs; a few of those are here, too
//! (DECLONE_WITNESS).
//!
//! A failure names the hive and the seed.

mod engine;
mod external;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use declone::hive::{Fate, Hive, Opened, Probe, State, check, edit_and_wipe, open, probe, seal};

use crate::{
    judges,
    run::{samples, scratch},
    support::{fixtures, hive_gen, hive_log_builder as logs, put, random::Random, sms::Scene},
};
use engine::{Ran, Run, choose, ours, run};

/// The hives among the fixtures, and the identity in hives of every version.
fn built() -> Vec<(String, Vec<u8>)> {
    let fixtures = fixtures::ALL.iter().filter(|f| f.name.ends_with(".hive"));
    let fixtures = fixtures.map(|f| (f.name.to_owned(), fixtures::load(f.name).unwrap()));
    let scenes = (3..=6).map(|minor| {
        let scene = Scene {
            minor,
            ..Scene::default()
        };
        (format!("version 1.{minor}"), scene.software(0).build())
    });
    fixtures.chain(scenes).collect()
}

/// The real hives that are clean and sound; says which are not.
fn real() -> Vec<(String, Vec<u8>)> {
    let Some(samples) = samples("random deletions") else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(samples.join("hives"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut out = Vec::new();
    for path in paths {
        let unpacked = Command::new("xz").arg("-dc").arg(&path).output().unwrap();
        assert!(unpacked.status.success(), "xz: {}", path.display());
        let bytes = unpacked.stdout;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if probe(&bytes) != Probe::Regf {
            continue;
        }
        if !Hive::open(&bytes).is_ok_and(|hive| hive.state() == State::Clean) {
            println!("{name}: not clean, not here");
        } else if let Err(error) = check(&bytes) {
            assert_eq!(name, "plaso_corrupt_sub_key_list.hiv", "{error}");
            if judges::called("a damaged hive")
                && let Some(checker) = judges::checker("check_hive.py")
            {
                assert!(external::finds_fault(&bytes, scratch().path(), &checker).unwrap());
            }
        } else {
            out.push((name, bytes));
        }
    }
    assert!(out.len() >= 15, "only {} clean hives", out.len());
    out
}

/// Runs until `count` have deleted something; gives the last.
fn runs(name: &str, bytes: &[u8], count: u64) -> Box<Run> {
    let mut done = Vec::new();
    for seed in 0..count * 20 {
        match run(bytes, seed, [3, 12, 60][(seed % 3) as usize], &[]) {
            Ok(Ran::Edited(run)) => done.push(run),
            Ok(Ran::Nothing) => {}
            Ok(Ran::Refused(why)) => panic!("{name}, seed {seed}: refused: {why}"),
            Err(error) => panic!("{name}, seed {seed}: {error:#}"),
        }
        if done.len() as u64 == count {
            break;
        }
    }
    assert_eq!(
        done.len() as u64,
        count,
        "{name}: too few seeds delete anything"
    );
    done.pop().unwrap()
}

#[test]
fn random_deletions_on_built_hives_leave_the_rest_in_two_readers() {
    for (name, bytes) in built() {
        runs(&name, &bytes, 6);
    }
}

#[test]
fn random_deletions_on_real_hives_leave_the_rest_in_two_readers() {
    for (name, bytes) in real() {
        let count = if bytes.len() > 1 << 20 { 1 } else { 4 };
        let run = runs(&name, &bytes, count);
        assert_eq!(run.witness, None, "{name}: nt-hive opens it");
        // Large values of 1.3; it cannot read those that stay, either.
        if run.unreadable.0 > 0 {
            println!(
                "{name}: nt-hive cannot read {} values before",
                run.unreadable.0
            );
        }
    }
}

#[test]
fn other_programs_find_the_rest_and_no_leftovers_after_random_deletions() {
    if !judges::called("random deletions") {
        return;
    }
    let checker = judges::checker("check_hive.py");
    let folder = scratch();
    // tools/hive-random shows them the larger ones.
    let small = real()
        .into_iter()
        .filter(|(_, bytes)| bytes.len() < 600_000);
    for (name, bytes) in built().into_iter().chain(small) {
        let run = runs(&name, &bytes, 1);
        let allow = ["leaked_cell"];
        let allow = if name == "residue.hive" {
            &allow[..]
        } else {
            &[]
        };
        let mut remarks = external::Remarks::new();
        external::judge(&run, folder.path(), checker.as_deref(), allow, &mut remarks)
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        for remark in remarks {
            println!("{name}: {remark}");
        }
    }
}

#[test]
fn random_deletions_on_generated_hives_of_every_kind_leave_the_rest() {
    let (mut edited, mut classes, mut large) = (0, 0, 0);
    for seed in 0..30 {
        let (hive, _) = hive_gen::clean(seed);
        check(&hive).unwrap_or_else(|e| panic!("seed {seed}: the generated hive: {e}"));
        match run(
            &hive,
            seed,
            [3, 12, 60][(seed % 3) as usize],
            &hive_gen::residue(),
        ) {
            Ok(Ran::Edited(run)) => {
                edited += 1;
                classes += run.special.0;
                large += run.special.1;
            }
            Ok(Ran::Nothing) => {}
            Ok(Ran::Refused(why)) => panic!("seed {seed}: refused: {why}"),
            Err(error) => panic!("seed {seed}: {error:#}"),
        }
    }
    let enough = edited > 22 && classes > 5 && large > 5;
    assert!(
        enough,
        "{edited} edits, {classes} keys with a class, {large} large values"
    );
}

/// The judges are no rubber stamps: each finds a fault that is put into the result.
#[test]
fn other_programs_find_faults_that_are_made() {
    if !judges::called("faults for the judges") {
        return;
    }
    let (name, bytes) = &built()[0];
    let good = runs(name, bytes, 1);
    let folder = scratch();
    let judge = |new: Vec<u8>, checker: Option<&Path>| {
        let run = Run {
            new,
            old: good.old.clone(),
            tokens: good.tokens.clone(),
            removed: good.removed.clone(),
            witness: None,
            ..*good
        };
        let mut remarks = external::Remarks::new();
        external::judge(&run, folder.path(), checker, &[], &mut remarks)
            .map_err(|error| format!("{error:#}"))
    };
    judge(good.new.clone(), None).unwrap();
    let not_deleted = judge(good.old.clone(), None).unwrap_err();
    assert!(not_deleted.contains("reglookup"), "{not_deleted}");
    let mut other = good.new.clone();
    let data = ours(&other)
        .unwrap()
        .iter()
        .flat_map(|e| e.places())
        .find(|p| p.len() > 8);
    other[data.unwrap().start] ^= 1;
    let other_data = judge(other, None).unwrap_err();
    assert!(other_data.contains("reglookup"), "{other_data}");
    if let Some(checker) = judges::checker("check_hive.py") {
        let mut token = good.new.clone();
        put::bytes(&mut token, 1024, good.tokens.first().unwrap());
        let token = judge(token, Some(&checker)).unwrap_err();
        assert!(token.contains("check_hive.py"), "{token}");
        let not_deleted = judge(good.old.clone(), Some(&checker)).unwrap_err();
        assert!(not_deleted.contains("check_hive.py"), "{not_deleted}");
    }
}

fn named<'a>(logs: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    logs.iter()
        .map(|(name, log)| (*name, log.as_slice()))
        .collect()
}

/// Replays, holds the result against `wanted`, cleans it, and puts the logs back beside it.
fn replay_and_clean(what: &str, dirty: &hive_gen::Dirty, seed: u64) -> Vec<u8> {
    let logs = named(&dirty.logs);
    let replayed = open(&dirty.primary, &logs).unwrap_or_else(|e| panic!("{what}: {e}"));
    let Opened::Replayed { bytes, replay } = replayed else {
        panic!("{what}: a replay expected, found {replayed:?}")
    };
    let differs = bytes.iter().zip(&dirty.wanted).position(|(a, b)| a != b);
    let len = (bytes.len(), dirty.wanted.len());
    assert!(
        bytes == dirty.wanted,
        "{what}: length {len:?}, first difference at {differs:?}"
    );

    let edits = choose(&ours(&bytes).unwrap(), &mut Random(seed), 20);
    let mut cleaned = bytes;
    let checked = check(&cleaned).unwrap_or_else(|e| panic!("{what}: {e}"));
    edit_and_wipe(&mut cleaned, &checked, &edits, &hive_gen::residue())
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    seal(&mut cleaned, &replay, replay.len_after).unwrap();
    let rest: Vec<_> = ours(&cleaned).unwrap();
    let Ok(Opened::Clean { logs }) = open(&cleaned, &logs) else {
        panic!("{what}: with its old logs beside it the cleaned hive is dirty again")
    };
    for log in logs {
        assert!(!matches!(log.fate, Fate::Applied { .. }), "{what}: {log:?}");
    }
    let doomed = engine::Doomed::new(&edits);
    assert!(
        rest.iter().all(|entry| !doomed.has(&entry.item)),
        "{what}: still there"
    );
    cleaned
}

#[test]
fn generated_logs_lead_to_the_hive_they_were_made_for_and_not_past_a_cleaning() {
    for seed in 0..30 {
        let dirty = hive_gen::dirty(seed);
        let what = format!("seed {seed}, {}", dirty.what);
        replay_and_clean(&what, &dirty, seed);
    }
}

/// Changes content of a hive in some of its pages, as a write of the system does; none of them is
/// the first. Gives how many pages.
fn write_somewhere(hive: &mut [u8], random: &mut Random) -> usize {
    let places: Vec<_> = ours(hive)
        .unwrap()
        .iter()
        .filter(|entry| entry.item.value.is_some())
        .flat_map(|entry| entry.places())
        .filter(|place| place.len() >= 4)
        .collect();
    let mut pages = std::collections::BTreeSet::new();
    for _ in 0..1 + random.below(20) {
        let place = random.pick(&places).unwrap().clone();
        pages.extend([place.start / 4096, (place.start + 3) / 4096]);
        for byte in &mut hive[place.start..place.start + 4] {
            *byte = byte.wrapping_add(1);
        }
    }
    pages.len()
}

#[test]
fn old_logs_made_for_real_hives_lead_to_the_changed_copy() {
    for (name, sample) in real() {
        let bins = u32::from_le_bytes(sample[40..44].try_into().unwrap()) as usize;
        let before = &sample[..logs::BINS + bins];
        for seed in 0..2 {
            let mut random = Random(seed);
            let mut after = before.to_vec();
            let pages = write_somewhere(&mut after, &mut random);
            // The base block and the first bin agree on the time of the last write.
            let time = u64::from_le_bytes(sample[12..20].try_into().unwrap());
            let (before, after) = (logs::with_time(before, time), logs::with_time(&after, time));
            let first = u32::from_le_bytes(sample[4..8].try_into().unwrap()).wrapping_add(1);
            let (primary, log, what) =
                hive_gen::old_write(&mut random, &before, &after, first, seed % 2 == 1);
            let dirty = hive_gen::Dirty {
                what: what.clone(),
                primary,
                logs: vec![(".LOG", log)],
                wanted: logs::with_sequence(&after, first, first),
            };
            replay_and_clean(&format!("{name}, {pages} pages, {what}"), &dirty, seed);
        }
    }
}

fn sorted_lines(hive: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = ours(hive).unwrap().iter().map(|e| e.line()).collect();
    lines.sort();
    lines
}

#[track_caller]
fn assert_same(what: &str, is: &[String], wanted: &[String]) {
    let at = is.iter().zip(wanted).position(|(a, b)| a != b);
    let at = at.unwrap_or(is.len().min(wanted.len()));
    let short = |lines: &[String]| -> String {
        lines
            .get(at)
            .map_or(String::new(), |line| line.chars().take(300).collect())
    };
    assert!(
        is == wanted,
        "{what}: {} lines expected, found {}; line {at}: {} expected, found {}",
        wanted.len(),
        is.len(),
        short(wanted),
        short(is)
    );
}

/// Another program's replay of real logs gives the same tree; beside the cleaned hive it applies
/// nothing of them, and sees what declone left.
#[test]
fn notatin_replays_real_logs_to_the_same_tree_and_not_over_a_cleaned_hive() {
    if !judges::called("notatin") {
        return;
    }
    let Some(samples) = samples("notatin") else {
        return;
    };
    let load = |name: &str| {
        let path = samples.join("hives").join(format!("{name}.xz"));
        Command::new("xz")
            .arg("-dc")
            .arg(path)
            .output()
            .unwrap()
            .stdout
    };
    let folder = scratch();
    for (name, keys) in [
        ("dirty_win10_SYSTEM_B", 35_595),
        ("dirty_win10_NTUSER", 3_105),
        ("dirty_win10_Amcache.hve", 471),
    ] {
        let primary = load(name);
        let (one, two) = (load(&format!("{name}.LOG1")), load(&format!("{name}.LOG2")));
        let logs: [(&str, &[u8]); 2] = [("LOG1", &one), ("LOG2", &two)];
        let Ok(Opened::Replayed { bytes, replay }) = open(&primary, &logs) else {
            panic!("{name}: a replay expected")
        };
        let (seen, said) = external::notatin(folder.path(), &primary, &logs).unwrap();
        assert!(
            said.contains("Applied transaction log(s)"),
            "{name}: {said}"
        );
        assert_eq!(
            seen.iter().filter(|line| line.starts_with('K')).count(),
            keys
        );
        assert_same(name, &seen, &sorted_lines(&bytes));

        let mut cleaned = bytes;
        for seed in 0..3 {
            let edits = choose(&ours(&cleaned).unwrap(), &mut Random(seed), 60);
            let checked = check(&cleaned).unwrap();
            edit_and_wipe(&mut cleaned, &checked, &edits, &[]).unwrap();
        }
        seal(&mut cleaned, &replay, replay.len_after).unwrap();
        let left = sorted_lines(&cleaned);
        assert!(left.len() < seen.len(), "{name}: nothing was deleted");
        let (seen, said) = external::notatin(folder.path(), &cleaned, &logs).unwrap();
        assert!(said.contains("Skipping transaction logs"), "{name}: {said}");
        assert_same(name, &seen, &left);
        // The judge is no rubber stamp: made dirty again, the hive does get the logs applied.
        let number = u32::from_le_bytes(primary[8..12].try_into().unwrap());
        let dirty = logs::with_sequence(&cleaned, number.wrapping_add(1), number);
        let (seen, said) = external::notatin(folder.path(), &dirty, &logs).unwrap();
        assert!(
            said.contains("Applied transaction log(s)"),
            "{name}: {said}"
        );
        assert_ne!(seen, left, "{name}");
    }
}
