//! Transaction logs: replayed in memory, byte for byte what the write that was interrupted wanted.
//!
//! The made-up cases are told by states of a hive (what each write led to), built without the code
//! under test. The real ones need `DECLONE_SAMPLES`; what is expected of them was found by yarp, an
//! independent reader (the table "Replay oracle" of the samples' manifest).

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hasher},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use declone::{
    error::{Error, Kind},
    hive::{
        Fate, Hive, HiveEdit, LogFormat, Opened, Replay, State, check, differences, edit, open,
        seal,
    },
    text::Name,
};
use sha2::{Digest, Sha256};

use crate::support::{
    hive_builder::{HiveBuilder, Kind as ValueKind},
    hive_log_builder as logs, put,
};

const VALUE: &str = "SMS Unique Identifier";
const TIME: u64 = 0x01c5_37f0_5a2b_4e00;

/// Hives after 0, 1, ... writes; every third write makes the hive grow by much.
fn states(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| state(n, 5)).collect()
}

fn state(n: usize, minor: u32) -> Vec<u8> {
    let mut hive = HiveBuilder::new(minor);
    hive.key(r"Microsoft\SMS")
        .string("Version", &format!("{n}"));
    for i in 0..n {
        let key = hive.key(&format!(r"Microsoft\Write {i}")).dword("n", 7);
        if i % 3 == 1 {
            key.value("large", ValueKind::Binary, &vec![i as u8; 9000]);
        }
    }
    if n > 0 {
        hive.key(r"Microsoft\SMS")
            .string(VALUE, "GUID:in the log only");
    }
    hive.build()
}

/// The primary file in the middle of a write.
fn torn(hive: &[u8], finished: u32) -> Vec<u8> {
    logs::with_sequence(hive, finished.wrapping_add(1), finished)
}

fn replayed(primary: &[u8], given: &[(&str, &[u8])]) -> (Vec<u8>, Replay) {
    match open(primary, given).expect("a hive") {
        Opened::Replayed { bytes, replay } => (bytes, replay),
        other => panic!("a replay expected, found {other:?}"),
    }
}

/// The message of a refusal.
fn refused(primary: &[u8], given: &[(&str, &[u8])]) -> String {
    match open(primary, given).expect("a hive") {
        Opened::Refused { why, .. } => {
            assert_eq!(why.kind(), Kind::Refused, "{why}");
            why.to_string()
        }
        other => panic!("a refusal expected, found {other:?}"),
    }
}

/// Sequence numbers applied, per log given.
fn applied(replay: &Replay) -> Vec<Vec<u32>> {
    replay
        .logs
        .iter()
        .map(|log| match &log.fate {
            Fate::Applied { entries, .. } => entries.iter().map(|e| e.sequence).collect(),
            _ => Vec::new(),
        })
        .collect()
}

/// The result that writes up to `state` lead to, with these sequence numbers.
#[track_caller]
fn assert_is(bytes: &[u8], state: &[u8], sequence: u32) {
    let wanted = logs::with_sequence(state, sequence, sequence);
    assert_eq!(bytes.len(), wanted.len());
    let differs = bytes.iter().zip(&wanted).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs");
    check(bytes).expect("a sound hive");
}

/// The entries from state `from` on, the first with this number.
fn entries(states: &[Vec<u8>], from: u32) -> Vec<Vec<u8>> {
    states
        .windows(2)
        .zip(0..)
        .map(|(pair, i)| logs::step(&pair[0], &pair[1], from.wrapping_add(i)))
        .collect()
}

fn has_value(bytes: &[u8]) -> bool {
    let hive = Hive::open(bytes).expect("a hive");
    let keys = hive.find_keys(&["Microsoft", "SMS"]).expect("a key");
    keys.iter().any(|key| {
        let values = hive.values(*key).expect("values");
        values.iter().any(|value| value.name.eq_ascii(VALUE))
    })
}

// --- the new format ---

#[test]
fn one_new_log_brings_the_hive_to_its_last_entry() {
    let states = states(5);
    let log = logs::new_log(&states[0], 10, &entries(&states, 10));
    let primary = torn(&states[0], 9);
    let (bytes, replay) = replayed(&primary, &[("SOFTWARE.LOG1", &log)]);
    assert_is(&bytes, &states[4], 13);
    assert_eq!(applied(&replay), [[10, 11, 12, 13]]);
    assert_eq!(replay.format, LogFormat::New);
    assert_eq!(replay.base_block_from, None);
    assert_eq!((replay.entries(), replay.sequence), (4, 13));
    assert_eq!(
        replay.state,
        State::Dirty {
            primary: 10,
            secondary: 9
        }
    );
    assert_eq!(replay.len_before, primary.len() as u64);
    assert_eq!(replay.len_after, bytes.len() as u64);
    assert!(replay.len_after > replay.len_before, "the hive grows");
    assert_eq!(replay.bins_len_before as usize, primary.len() - logs::BINS);
    assert_eq!(replay.bins_len_after as usize, bytes.len() - logs::BINS);
}

#[test]
fn two_new_logs_apply_in_either_order_and_across_the_wrap() {
    let states = states(6);
    for first in [10, u32::MAX - 4, u32::MAX - 2, u32::MAX, 0] {
        let all = entries(&states, first);
        for split in 1..all.len() {
            let second = first.wrapping_add(split as u32);
            let a = logs::new_log(&states[0], first, &all[..split]);
            let b = logs::new_log(&states[split], second, &all[split..]);
            let primary = torn(&states[0], first.wrapping_sub(1));
            let last = first.wrapping_add(4);
            let (bytes, replay) = replayed(&primary, &[("1", &a), ("2", &b)]);
            assert_is(&bytes, &states[5], last);
            assert_eq!(replay.entries(), 5);
            let (bytes, _) = replayed(&primary, &[("1", &b), ("2", &a), ("0", &[])]);
            assert_is(&bytes, &states[5], last);
        }
    }
}

#[test]
fn a_log_may_begin_behind_the_number_of_the_primary_but_not_before() {
    let states = states(3);
    let log = logs::new_log(&states[0], 500, &entries(&states, 500));
    for finished in [500, 499, 7, 500_u32.wrapping_sub(0x7fff_ffff)] {
        let (bytes, _) = replayed(&torn(&states[0], finished), &[("1", &log)]);
        assert_is(&bytes, &states[2], 501);
    }
    for finished in [501, 502, 500_u32.wrapping_sub(0x8000_0000)] {
        let why = refused(&torn(&states[0], finished), &[("1", &log)]);
        assert!(why.contains("expected, found 500"), "{why}");
    }
}

#[test]
fn entries_of_an_older_run_behind_the_valid_ones_are_left_alone() {
    let states = states(5);
    let all = entries(&states, 20);
    let mut log = logs::new_log(&states[0], 22, &all[2..]);
    log.extend(logs::step(&states[3], &states[1], 17));
    log.extend(logs::step(&states[3], &states[0], 24_u32.wrapping_sub(6)));
    log.extend([0x5a; 700]);
    let (bytes, replay) = replayed(&torn(&states[2], 21), &[("1", &log)]);
    assert_is(&bytes, &states[4], 23);
    let Fate::Applied { end, .. } = &replay.logs[0].fate else {
        panic!("applied")
    };
    assert!(end.contains("24 expected, found 17"), "{end}");
}

#[test]
fn a_flipped_byte_ends_the_run_where_it_is() {
    let states = states(5);
    let all = entries(&states, 10);
    let whole = logs::new_log(&states[0], 10, &all);
    let primary = torn(&states[0], 9);
    let mut at = 512;
    for (n, entry) in all.iter().enumerate() {
        for place in [
            0,
            4,
            12,
            16,
            20,
            24,
            32,
            40,
            entry.len() / 2,
            entry.len() - 1,
        ] {
            let mut log = whole.clone();
            log[at + place] ^= 0x10;
            if n == 0 {
                let why = refused(&primary, &[("SOFTWARE.LOG1", &log)]);
                assert!(why.contains("SOFTWARE.LOG1: at log offset 0x200"), "{why}");
            } else {
                let (bytes, replay) = replayed(&primary, &[("SOFTWARE.LOG1", &log)]);
                assert_is(&bytes, &states[n], 9 + n as u32);
                assert_eq!(replay.entries(), n as u64);
            }
        }
        at += entry.len();
    }
}

#[test]
fn a_log_cut_anywhere_gives_the_whole_entries_before_the_cut() {
    let states = states(4);
    let all = entries(&states, 10);
    let whole = logs::new_log(&states[0], 10, &all);
    let primary = torn(&states[0], 9);
    let ends: Vec<usize> = all
        .iter()
        .scan(512, |at, entry| {
            *at += entry.len();
            Some(*at)
        })
        .collect();
    for cut in (0..whole.len()).step_by(97).chain(ends.iter().copied()) {
        let log = &whole[..cut];
        let n = ends.iter().filter(|end| **end <= cut).count();
        if n == 0 {
            refused(&primary, &[("1", log)]);
        } else {
            let (bytes, _) = replayed(&primary, &[("1", log)]);
            assert_is(&bytes, &states[n], 9 + n as u32);
        }
    }
}

#[test]
fn a_gap_between_the_logs_ends_the_replay_and_is_said() {
    let states = states(6);
    let all = entries(&states, 10);
    let a = logs::new_log(&states[0], 10, &all[..2]);
    let b = logs::new_log(&states[3], 13, &all[3..]);
    let (bytes, replay) = replayed(&torn(&states[0], 9), &[("b", &b), ("a", &a)]);
    assert_is(&bytes, &states[2], 11);
    let Fate::NotUsed(why) = &replay.logs[0].fate else {
        panic!("not used")
    };
    assert!(why.contains("12 expected, found 13"), "{why}");
}

#[test]
fn a_gap_inside_a_log_ends_the_run() {
    let states = states(5);
    let mut all = entries(&states, 10);
    all.remove(2);
    let log = logs::new_log(&states[0], 10, &all);
    let (bytes, _) = replayed(&torn(&states[0], 9), &[("1", &log)]);
    assert_is(&bytes, &states[2], 11);
}

#[test]
fn nothing_behind_a_missing_first_entry_is_applied() {
    let states = states(4);
    let all = entries(&states, 10);
    let mut a = logs::new_log(&states[0], 10, &all[..1]);
    a[700] ^= 1;
    let b = logs::new_log(&states[1], 11, &all[1..]);
    refused(&torn(&states[0], 9), &[("a", &a), ("b", &b)]);
    // The same with a damaged header, which Windows does not even look behind.
    let mut a = logs::new_log(&states[0], 10, &all[..1]);
    a[100] ^= 1;
    let why = refused(&torn(&states[0], 9), &[("a", &a), ("b", &b)]);
    assert!(why.contains("comes before entry 11"), "{why}");
    // A damaged header in front of later entries loses nothing that could be had.
    let a = logs::new_log(&states[0], 10, &all[..1]);
    let mut b = b;
    b[100] ^= 1;
    let (bytes, replay) = replayed(&torn(&states[0], 9), &[("a", &a), ("b", &b)]);
    assert_is(&bytes, &states[1], 10);
    assert!(matches!(replay.logs[1].fate, Fate::Unusable(_)));
}

#[test]
fn logs_that_contradict_each_other_are_refused_and_copies_are_not() {
    let states = states(4);
    let all = entries(&states, 10);
    let a = logs::new_log(&states[0], 10, &all);
    let other = [logs::step(&states[0], &states[2], 10)];
    let b = logs::new_log(&states[0], 10, &other);
    let primary = torn(&states[0], 9);
    let why = refused(&primary, &[("a", &a), ("b", &b)]);
    assert!(why.contains("one entry 10 expected, found two"), "{why}");
    let (bytes, _) = replayed(&primary, &[("a", &a), ("copy", &a)]);
    assert_is(&bytes, &states[3], 12);
    // An overlap in the middle.
    let tail = [logs::step(&states[1], &states[3], 11)];
    let b = logs::new_log(&states[0], 11, &tail);
    refused(&primary, &[("b", &b), ("a", &a)]);
}

#[test]
fn a_log_of_another_hive_is_refused() {
    let states = states(3);
    let all = entries(&states, 10);
    let primary = torn(&states[0], 9);
    for (at, byte) in [(50, b'X'), (36, 0x40), (24, 3)] {
        let mut log = logs::new_log(&states[0], 10, &all);
        log[at] = byte;
        logs::seal_header(&mut log);
        let why = refused(&primary, &[("SOFTWARE.LOG1", &log)]);
        assert!(why.contains("log of another hive"), "{why}");
        // Nor may the rest be applied without it.
        let good = logs::new_log(&states[0], 10, &all);
        refused(&primary, &[("1", &log), ("2", &good)]);
    }
    // Case and garbage behind the name do not matter.
    let mut log = logs::new_log(&states[0], 10, &all);
    let upper = put::utf16(&r"emRoot\System32\Config\SOFTWARE".to_uppercase());
    put::bytes(&mut log, 48, &upper);
    logs::seal_header(&mut log);
    let (bytes, _) = replayed(&primary, &[("1", &log)]);
    assert_is(&bytes, &states[2], 11);
}

#[test]
fn a_damaged_base_block_is_taken_from_the_latest_log_alone() {
    let states = states(5);
    let all = entries(&states, 10);
    for (at, len) in [(4, 4), (20, 100), (508, 4), (300, 3700)] {
        let mut primary = torn(&states[2], 11);
        for byte in &mut primary[at..at + len] {
            *byte ^= 0xa5;
        }
        let a = logs::new_log(&states[0], 10, &all[..2]);
        let b = logs::new_log(&states[2], 12, &all[2..]);
        let (bytes, replay) = replayed(&primary, &[("b", &b), ("a", &a)]);
        assert_is(&bytes, &states[4], 13);
        assert_eq!(replay.base_block_from.as_deref(), Some("b"));
        assert!(matches!(replay.state, State::BadChecksum { .. }));
        assert!(matches!(replay.logs[1].fate, Fate::NotUsed(_)));
        refused(&primary, &[]);
        refused(&primary, &[("zero", &[0; 4096])]);
    }
}

#[test]
fn entries_that_windows_would_pass_over_are_not_lost_in_silence() {
    let states = states(5);
    let all = entries(&states, 10);
    let a = logs::new_log(&states[0], 10, &all[..2]);
    let b = logs::new_log(&states[2], 12, &all[2..]);
    let mut primary = torn(&states[0], 9);
    primary[508] ^= 1;
    primary.resize(states[4].len(), 0);
    let why = refused(&primary, &[("a", &a), ("b", &b)]);
    assert!(why.contains("found some in the other log only"), "{why}");
    assert!(why.contains("hive offset 0x"), "{why}");
}

#[test]
fn a_primary_cut_off_by_the_crash_is_made_whole_by_the_log() {
    let states = states(5);
    let grown = states[4].len();
    // The base block was written with the new length, the file had not grown yet.
    let mut primary = torn(&states[0], 9);
    put::u32(&mut primary, 40, (grown - logs::BINS) as u32);
    logs::seal_header(&mut primary);
    let log = logs::new_log(&states[0], 10, &entries(&states, 10));
    let (bytes, _) = replayed(&primary, &[("1", &log)]);
    assert_is(&bytes, &states[4], 13);
    // Without the pages that fill the growth there is nothing to be made whole of.
    let hollow = [logs::entry(
        10,
        0,
        grown - logs::BINS,
        &[(0, &states[0][logs::BINS..logs::BINS + 4096])],
    )];
    let log = logs::new_log(&states[0], 10, &hollow);
    let why = refused(&primary, &[("1", &log)]);
    assert!(why.contains("bytes in its file and its log"), "{why}");
}

#[test]
fn bins_that_do_not_follow_one_another_afterwards_are_refused() {
    let states = states(3);
    let mut page = states[0][logs::BINS..logs::BINS + 4096].to_vec();
    page[0] = b'X';
    let one = [logs::entry(
        10,
        0,
        states[0].len() - logs::BINS,
        &[(0, &page)],
    )];
    let log = logs::new_log(&states[0], 10, &one);
    let why = refused(&torn(&states[0], 9), &[("1", &log)]);
    assert!(why.contains("signature hbin expected"), "{why}");
    assert!(why.contains("hive offset 0x1000"), "{why}");
}

#[test]
fn entries_with_right_hashes_and_impossible_pages_are_refused() {
    let states = states(2);
    let bins = states[0].len() - logs::BINS;
    let page = &states[0][logs::BINS..logs::BINS + 4096];
    let primary = torn(&states[0], 9);
    for at in [bins - 4095, bins, 0x7fff_f000, 0xffff_f000] {
        let log = logs::new_log(&states[0], 10, &[logs::entry(10, 0, bins, &[(at, page)])]);
        let why = refused(&primary, &[("SOFTWARE.LOG1", &log)]);
        assert!(why.contains("page reference"), "{why}");
        assert!(why.contains("log offset 0x200, log SOFTWARE.LOG1"), "{why}");
    }
    // A page whose length reaches beyond the entry, and more references than there is room for.
    for (at, value) in [(44, 0x2000_u32), (20, 0x1000), (20, u32::MAX)] {
        let mut entry = logs::entry(10, 0, bins, &[(0, page)]);
        put::u32(&mut entry, at, value);
        logs::seal_entry(&mut entry);
        refused(&primary, &[("1", &logs::new_log(&states[0], 10, &[entry]))]);
    }
    // These end the run: no entry at all.
    for (at, value) in [
        (20, 0_u32),
        (16, 0),
        (16, 4097),
        (16, 0x8000_0000),
        (4, 511),
        (4, 0),
    ] {
        let mut entry = logs::entry(10, 0, bins, &[(0, page)]);
        put::u32(&mut entry, at, value);
        logs::seal_entry(&mut entry);
        let why = refused(&primary, &[("1", &logs::new_log(&states[0], 10, &[entry]))]);
        assert!(why.contains("at log offset 0x200"), "{why}");
    }
    // A length that the file and the log do not cover takes no memory.
    let huge = logs::entry(10, 0, 0x7fff_f000, &[(0x7fff_e000, page)]);
    refused(&primary, &[("1", &logs::new_log(&states[0], 10, &[huge]))]);
}

#[test]
fn only_bit_0_of_the_flags_comes_from_the_entry() {
    let states = states(3);
    let mut hive = states[0].clone();
    put::u32(&mut hive, 144, 0x0102_0302);
    let pages = &states[1][logs::BINS..];
    for (flags, wanted) in [(0, 0x0102_0302), (1, 0x0102_0303), (6, 0x0102_0302)] {
        let entry = logs::entry(10, flags, pages.len(), &[(0, pages)]);
        let log = logs::new_log(&hive, 10, &[entry]);
        let (bytes, _) = replayed(&torn(&hive, 9), &[("1", &log)]);
        let found = u32::from_le_bytes(bytes[144..148].try_into().unwrap());
        assert_eq!(found, wanted);
    }
}

// --- clean, or without a log ---

#[test]
fn logs_beside_a_clean_hive_are_stale_even_when_they_are_newer() {
    let states = states(3);
    let clean = logs::with_sequence(&states[0], 9, 9);
    let newer = logs::new_log(&states[0], 10, &entries(&states, 10));
    let old = logs::old_log(&states[0], &states[1], 1, 8, 4096);
    let given: [(&str, &[u8]); 4] = [
        ("newer", &newer),
        ("old", &old),
        ("zero", &[0; 1024]),
        ("no log", b"regf and nothing"),
    ];
    let Opened::Clean { logs } = open(&clean, &given).expect("a hive") else {
        panic!("clean")
    };
    assert!(matches!(logs[0].fate, Fate::Stale(_)));
    assert_eq!(
        (logs[0].format, logs[0].sequence),
        (Some(LogFormat::New), Some(10))
    );
    assert!(matches!(logs[1].fate, Fate::Stale(_)));
    assert!(matches!(logs[2].fate, Fate::Empty));
    assert!(matches!(logs[3].fate, Fate::Unusable(_)));
}

#[test]
fn a_dirty_hive_without_a_usable_log_is_refused_with_every_reason() {
    let states = states(3);
    let primary = torn(&states[0], 9);
    let why = refused(&primary, &[]);
    assert!(why.contains("10 and 9") && why.contains("no log"), "{why}");
    let all = entries(&states, 10);
    let mut midway = logs::new_log(&states[0], 10, &all);
    put::u32(&mut midway, 4, 11);
    logs::seal_header(&mut midway);
    let mut primary_type = logs::new_log(&states[0], 10, &all);
    put::u32(&mut primary_type, 28, 0);
    logs::seal_header(&mut primary_type);
    let given: [(&str, &[u8]); 5] = [
        ("SOFTWARE.LOG", &[]),
        ("SOFTWARE.LOG1", &midway),
        ("SOFTWARE.LOG2", &primary_type),
        ("short", &midway[..511]),
        ("text", b"not a log"),
    ];
    let why = refused(&primary, &given);
    for part in [
        "SOFTWARE.LOG: it is empty",
        "SOFTWARE.LOG1: log header: equal sequence numbers expected, found 11 and 10",
        "SOFTWARE.LOG2: log header: file type 1, 2 or 6 expected, found 0",
        "start and shut down Windows",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn what_is_no_hive_is_an_error_and_no_refusal() {
    let states = states(1);
    for bytes in [&b""[..], &states[0][..4095], &[0; 8192], &b"CREG"[..]] {
        open(bytes, &[]).expect_err("no hive");
    }
    let mut log = logs::header(&states[0], 6, 1);
    log.resize(8192, 0);
    open(&log, &[]).expect_err("a log");
    let mut newer = states[0].clone();
    put::u32(&mut newer, 24, 7);
    logs::seal_header(&mut newer);
    let error = open(&newer, &[]).expect_err("a version of the future");
    assert_eq!(error.kind(), Kind::Unsupported);
}

// --- the old format ---

/// A primary, torn in the middle of the write to `after`, as the old format leaves it.
fn torn_old(before: &[u8], after: &[u8], second: u32) -> Vec<u8> {
    let mut primary = torn(before, second);
    put::u32(&mut primary, 40, (after.len() - logs::BINS) as u32);
    logs::seal_header(&mut primary);
    primary
}

#[test]
fn an_old_log_finishes_the_write_for_every_windows_that_wrote_one() {
    // Version, file type, block, number of the log relative to the unfinished one.
    for (minor, file_type, block, behind) in [
        (3, 2, 512, 1),
        (3, 2, 4096, 1),
        (5, 1, 4096, 1),
        (5, 1, 4096, 0),
    ] {
        let (before, after) = (state(2, minor), state(7, minor));
        for second in [9, u32::MAX, u32::MAX - 1] {
            let number = second.wrapping_add(1).wrapping_sub(behind);
            let log = logs::old_log(&before, &after, file_type, number, block);
            let primary = torn_old(&before, &after, second);
            let given: [(&str, &[u8]); 2] = [("SOFTWARE.LOG2", &[]), ("SOFTWARE.LOG1", &log)];
            let (bytes, replay) = replayed(&primary, &given);
            assert_is(&bytes, &after, second.wrapping_add(1));
            assert_eq!((replay.format, replay.entries()), (LogFormat::Old, 1));
            let sectors = logs::dirty(&before, &after, block).len() * block / 512;
            assert_eq!(replay.pages(), sectors as u64);
            assert!(replay.len_after > replay.len_before);
        }
    }
}

#[test]
fn half_written_bins_do_not_matter_to_an_old_log() {
    let (before, after) = (state(2, 5), state(7, 5));
    let log = logs::old_log(&before, &after, 1, 10, 4096);
    let dirty = logs::dirty(&before, &after, 4096);
    let mut primary = torn_old(&before, &after, 9);
    primary.resize(after.len(), 0xcc);
    for at in &dirty[..dirty.len() / 2] {
        let range = logs::BINS + at..logs::BINS + at + 4096;
        primary[range.clone()].copy_from_slice(&after[range]);
    }
    let (bytes, _) = replayed(&primary, &[("SOFTWARE.LOG", &log)]);
    assert_is(&bytes, &after, 10);
}

#[test]
fn an_old_log_of_another_write_is_refused() {
    let (before, after) = (state(2, 5), state(7, 5));
    let primary = torn_old(&before, &after, 9);
    for time in [0, TIME - 1, TIME + 1] {
        let other = logs::with_time(&after, time);
        let log = logs::old_log(&before, &other, 1, 10, 4096);
        let why = refused(&primary, &[("SOFTWARE.LOG", &log)]);
        assert!(why.contains("time of the last write"), "{why}");
    }
    let log = logs::old_log(&before, &after, 1, 8, 4096);
    let why = refused(&primary, &[("SOFTWARE.LOG", &log)]);
    assert!(why.contains("10 or 9 expected, found 8"), "{why}");
    let mut log = logs::old_log(&before, &after, 1, 10, 4096);
    log[60] = b'?';
    logs::seal_header(&mut log);
    let why = refused(&primary, &[("SOFTWARE.LOG", &log)]);
    assert!(why.contains("another hive"), "{why}");
}

#[test]
fn an_old_log_that_is_not_whole_is_refused() {
    let (before, after) = (state(2, 5), state(7, 5));
    let primary = torn_old(&before, &after, 9);
    let log = logs::old_log(&before, &after, 1, 10, 4096);
    for cut in (0..log.len()).step_by(211).chain([log.len() - 1]) {
        refused(&primary, &[("SOFTWARE.LOG", &log[..cut])]);
    }
    let mut no_vector = log.clone();
    no_vector[512] = b'd';
    let why = refused(&primary, &[("SOFTWARE.LOG", &no_vector)]);
    assert!(why.contains("signature DIRT expected"), "{why}");
    let nothing = logs::old_log(&after, &after, 1, 10, 4096);
    let why = refused(&primary, &[("SOFTWARE.LOG", &nothing)]);
    assert!(why.contains("at least one dirty page"), "{why}");
    // Pages of earlier writes behind the last one are normal.
    let mut longer = log;
    longer.extend([0xee; 5000]);
    let (bytes, _) = replayed(&primary, &[("SOFTWARE.LOG", &longer)]);
    assert_is(&bytes, &after, 10);
}

#[test]
fn two_old_logs_that_disagree_are_refused() {
    let (before, middle, after) = (state(2, 5), state(5, 5), state(7, 5));
    let primary = torn_old(&before, &after, 9);
    let good = logs::old_log(&before, &after, 1, 10, 4096);
    let (bytes, _) = replayed(&primary, &[("1", &good), ("2", &good)]);
    assert_is(&bytes, &after, 10);
    let other = logs::old_log(&before, &middle, 1, 10, 4096);
    let why = refused(&primary, &[("1", &good), ("2", &other)]);
    assert!(why.contains("two that differ"), "{why}");
    let later = logs::with_time(&middle, TIME + 5);
    let later = logs::old_log(&before, &later, 1, 11, 4096);
    let why = refused(&primary, &[("1", &good), ("2", &later)]);
    assert!(why.contains("a later one besides"), "{why}");
    let earlier = logs::with_time(&middle, TIME - 5);
    let earlier = logs::old_log(&before, &earlier, 1, 11, 4096);
    let (bytes, _) = replayed(&primary, &[("1", &earlier), ("2", &good)]);
    assert_is(&bytes, &after, 10);
}

#[test]
fn a_damaged_base_block_is_taken_from_the_old_log_of_the_first_bins_time() {
    let (before, after) = (state(2, 5), state(7, 5));
    let log = logs::old_log(&before, &after, 1, 10, 4096);
    let mut primary = torn_old(&before, &after, 9);
    primary[37] ^= 0x80;
    let (bytes, replay) = replayed(&primary, &[("SOFTWARE.LOG", &log)]);
    assert_is(&bytes, &after, 10);
    assert_eq!(replay.base_block_from.as_deref(), Some("SOFTWARE.LOG"));
    put::u64(&mut primary, logs::BINS + 20, TIME + 1);
    refused(&primary, &[("SOFTWARE.LOG", &log)]);
}

#[test]
fn a_leftover_old_log_does_not_stand_in_the_way_of_the_new_ones() {
    let states = states(4);
    let primary = torn(&states[0], 9);
    let new = logs::new_log(&states[0], 10, &entries(&states, 10));
    let old = logs::old_log(&states[0], &states[1], 1, 10, 4096);
    let (bytes, replay) = replayed(&primary, &[("SOFTWARE.LOG", &old), ("SOFTWARE.LOG1", &new)]);
    assert_is(&bytes, &states[3], 12);
    assert!(matches!(replay.logs[0].fate, Fate::NotUsed(_)));
}

// --- after the replay ---

#[test]
fn a_value_that_is_in_the_log_alone_is_found_removed_and_does_not_come_back() {
    let states = states(4);
    let primary = torn(&states[0], 9);
    let log = logs::new_log(&states[0], 10, &entries(&states, 10));
    assert!(!has_value(&primary));
    let (mut bytes, replay) = replayed(&primary, &[("SOFTWARE.LOG1", &log)]);
    assert!(has_value(&bytes));
    let checked = check(&bytes).expect("a sound hive");
    let edits = [HiveEdit::DeleteValue {
        key: vec![Name::new("Microsoft"), Name::new("SMS")],
        value: Name::new(VALUE),
    }];
    let outcome = edit(&mut bytes, &checked, &edits, &[]).expect("an edit");
    assert_eq!(outcome.values, 1);
    let edited = bytes.clone();
    seal(&mut bytes, &replay, replay.len_after).expect("it fits");
    assert!(bytes == edited, "the edit has already made it clean");
    assert!(!has_value(&bytes));
    let Opened::Clean { .. } = open(&bytes, &[("SOFTWARE.LOG1", &log)]).expect("a hive") else {
        panic!("the log that was applied must not be applied again")
    };
}

#[test]
fn sealing_says_when_the_hive_does_not_fit_and_changes_nothing_then() {
    let states = states(5);
    let primary = torn(&states[0], 9);
    let log = logs::new_log(&states[0], 10, &entries(&states, 10));
    let (mut bytes, replay) = replayed(&primary, &[("1", &log)]);
    let before = bytes.clone();
    let error = seal(&mut bytes, &replay, replay.len_after - 1).expect_err("too long");
    assert_eq!(error.kind(), Kind::Refused);
    assert!(bytes == before);
    seal(&mut bytes, &replay, replay.len_after).expect("it fits");
    assert_is(&bytes, &states[4], 14);
    seal(&mut bytes, &replay, u64::MAX).expect("twice is once");
    assert_is(&bytes, &states[4], 14);
}

#[test]
fn differences_lead_from_one_to_the_other() {
    type Case<'a> = (&'a [u8], &'a [u8], &'a [Range<u64>]);
    let cases: [Case<'_>; 5] = [
        (&[1; 2048], &[1; 2048], &[]),
        (&[1; 1000], &[1; 1024], &[512..1024]),
        (&[1; 512], &[1; 1300], &[512..1300]),
        (&[1; 600], &[2; 600], &[0..600]),
        (&[], &[], &[]),
    ];
    for (old, new, wanted) in cases {
        assert_eq!(differences(old, new), wanted);
    }
    let (old, new) = (state(2, 5), state(7, 5));
    let mut patched = old.clone();
    patched.resize(new.len(), 0);
    for range in differences(&old, &new) {
        let range = range.start as usize..range.end as usize;
        patched[range.clone()].copy_from_slice(&new[range]);
    }
    assert!(patched == new);
}

// --- at random ---

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
    }
}

#[test]
fn any_crash_leaves_one_of_the_states_that_were() {
    let mut random = Random(0x10c5_0001);
    let states = states(9);
    for _ in 0..300 {
        let first = (random.below(12) as u32).wrapping_sub(6);
        let from = random.below(4);
        let states = &states[from..];
        let all = entries(states, first);
        let split = 1 + random.below(all.len() - 1);
        let mut a = logs::new_log(&states[0], first, &all[..split]);
        let second = first.wrapping_add(split as u32);
        let mut b = logs::new_log(&states[split], second, &all[split..]);
        // What earlier generations left behind the entries.
        a.extend(logs::step(&states[1], &states[0], first.wrapping_sub(9)));
        b.extend(vec![0x11; random.below(3000)]);
        // Some pages may have reached the primary already: a redo log does not mind.
        let last = states.last().expect("states");
        let mut primary = torn(&states[0], first.wrapping_sub(1 + random.below(300) as u32));
        for at in logs::dirty(&states[0], last, 4096) {
            let range = logs::BINS + at..logs::BINS + at + 4096;
            let all_present = random.below(3) == 0 && range.end <= primary.len();
            if all_present {
                primary[range.clone()].copy_from_slice(&last[range]);
            }
        }
        let whole = random.below(2) == 0;
        if whole {
            let (bytes, _) = replayed(&primary, &either_order(first, &a, &b));
            assert_is(&bytes, last, first.wrapping_add(all.len() as u32 - 1));
        } else {
            // A torn entry in the later log; the primary untouched by later writes.
            let torn_at = random.below(all.len() - split);
            let skip: usize = all[split..split + torn_at].iter().map(Vec::len).sum();
            let place = 512 + skip + random.below(all[split + torn_at].len());
            b[place] ^= 1 << random.below(8);
            let primary = torn(&states[0], first.wrapping_sub(1));
            let (bytes, _) = replayed(&primary, &either_order(first, &a, &b));
            let n = split + torn_at;
            assert_is(&bytes, &states[n], first.wrapping_add(n as u32 - 1));
        }
    }
}

fn either_order<'a>(seed: u32, a: &'a [u8], b: &'a [u8]) -> [(&'static str, &'a [u8]); 2] {
    let (first, second) = if seed.is_multiple_of(2) {
        (a, b)
    } else {
        (b, a)
    };
    [("1", first), ("2", second)]
}

/// Opens and gives the time it took: the least of three when the first took long, since the machine
/// may be busy with something else.
fn timed(primary: &[u8], given: &[(&str, &[u8])]) -> (Result<Opened, Error>, Duration) {
    let begun = Instant::now();
    let opened = open(primary, given);
    let mut took = begun.elapsed();
    for _ in 0..2 {
        if took > Duration::from_millis(500) {
            let begun = Instant::now();
            let _ = open(primary, given);
            took = took.min(begun.elapsed());
        }
    }
    (opened, took)
}

/// Fields of headers, entries and vectors set to anything, hashes and checksums made right again.
#[test]
fn consistent_nonsense_never_panics_and_never_takes_long() {
    let mut random = Random(0x10c5_0002);
    let states = states(4);
    let new = logs::new_log(&states[0], 10, &entries(&states, 10));
    let old = logs::old_log(&states[0], &states[3], 1, 10, 4096);
    let first = entries(&states, 10)[0].len();
    let (mut done, mut other) = (0, 0);
    for round in 0..3000 {
        let mut log = if round % 2 == 0 {
            new.clone()
        } else {
            old.clone()
        };
        let mut primary = torn(&states[0], 9);
        if round % 3 == 0 {
            primary.resize(states[3].len(), 0);
        }
        for _ in 0..1 + random.below(3) {
            let at = match random.below(4) {
                0 => random.below(128) * 4,
                1 => 512 + random.below(16) * 4,
                _ => 512 + random.below(log.len() - 516) / 4 * 4,
            };
            let value = [0, 1, 10, 4096, 0x7fff_f000, 0x8000_0000, u32::MAX][random.below(7)];
            put::u32(&mut log, at, value);
        }
        logs::seal_header(&mut log);
        if round % 2 == 0 {
            logs::seal_entry(&mut log[512..512 + first]);
        }
        if round % 5 == 0 {
            primary[400] ^= 1;
        }
        let (opened, took) = timed(&primary, &[("1", &log)]);
        assert!(took < Duration::from_secs(1), "{took:?}");
        match opened.expect("a hive") {
            Opened::Replayed { bytes, replay } => {
                assert!(bytes.len() <= primary.len() + log.len());
                assert_eq!(bytes.len() as u64, replay.len_after);
                let _ = check(&bytes);
                done += 1;
            }
            _ => other += 1,
        }
    }
    assert!(done > 300 && other > 300, "{done} replayed, {other} not");
}

// --- real samples ---

fn samples() -> Option<PathBuf> {
    let given = PathBuf::from(std::env::var_os("DECLONE_SAMPLES")?);
    let below = given.join("hives");
    Some(if below.is_dir() { below } else { given })
}

fn sample(directory: &Path, name: &str) -> Vec<u8> {
    let path = directory.join(format!("{name}.xz"));
    if !path.is_file() {
        return fs::read(directory.join(name)).expect("a sample");
    }
    let output = Command::new("xz").arg("-dc").arg(&path).output();
    let output = output.expect("xz can be run");
    assert!(output.status.success(), "{}", path.display());
    output.stdout
}

/// A primary, its logs; then what yarp made of them: keys, values, length of the sectors changed,
/// first bytes of the digest.
type Sample = (&'static str, [&'static str; 2], u64, u64, u64, &'static str);
const DIRTY: [Sample; 3] = [
    (
        "dirty_win10_SYSTEM_B",
        ["dirty_win10_SYSTEM_B.LOG1", "dirty_win10_SYSTEM_B.LOG2"],
        35_595,
        78_901,
        1_038_336,
        "a7da2e2ed060b810",
    ),
    (
        "dirty_win10_NTUSER",
        ["dirty_win10_NTUSER.LOG1", "dirty_win10_NTUSER.LOG2"],
        3_105,
        4_695,
        303_104,
        "e679b296b014baa7",
    ),
    (
        "dirty_win10_Amcache.hve",
        [
            "dirty_win10_Amcache.hve.LOG1",
            "dirty_win10_Amcache.hve.LOG2",
        ],
        471,
        10_961,
        11_264,
        "69e5689b659d3405",
    ),
];

/// Keys and values counted by following lists, without the strict check.
fn lenient_counts(bytes: &[u8]) -> (u64, u64) {
    let hive = Hive::open(bytes).expect("a hive");
    let mut pending = vec![hive.root()];
    let (mut keys, mut values) = (0, 0);
    while let Some(key) = pending.pop() {
        keys += 1;
        values += hive.values(key).expect("values").len() as u64;
        pending.extend(hive.subkeys(key).expect("subkeys").into_iter().map(|k| k.0));
    }
    (keys, values)
}

#[test]
fn real_dirty_hives_become_what_an_independent_replay_made_of_them() {
    let Some(directory) = samples() else {
        println!("not run: DECLONE_SAMPLES is not set");
        return;
    };
    for (name, [one, two], keys, values, changed, digest) in DIRTY {
        let primary = sample(&directory, name);
        let (one, two) = (sample(&directory, one), sample(&directory, two));
        let (bytes, replay) = replayed(&primary, &[("LOG1", &one), ("LOG2", &two)]);
        // yarp's answer is the file with its pages written and its base block left alone.
        let mut body = bytes.clone();
        body[..logs::BINS].copy_from_slice(&primary[..logs::BINS]);
        let found = hex::encode(&Sha256::digest(&body)[..8]);
        assert_eq!(found, digest, "{name}: {replay:?}");
        let sectors = differences(&primary, &body);
        let sum: u64 = sectors.iter().map(|range| range.end - range.start).sum();
        assert_eq!(sum, changed, "{name}");
        // And the base block differs in what the last entry says, nothing else.
        let mut wanted = logs::with_sequence(&primary, replay.sequence, replay.sequence);
        put::u32(&mut wanted, 40, replay.bins_len_after);
        logs::seal_header(&mut wanted);
        assert!(bytes[..logs::BINS] == wanted[..logs::BINS], "{name}");
        assert_eq!(lenient_counts(&bytes), (keys, values), "{name}");
        let checked = check(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let summary = checked.summary();
        assert_eq!((summary.keys, summary.values), (keys, values), "{name}");
        assert_eq!(summary.leaked_cells, 0, "{name}");
        assert_eq!(replay.len_before, replay.len_after, "{name}");
        let (swapped, _) = replayed(&primary, &[("LOG2", &two), ("LOG1", &one)]);
        assert!(swapped == bytes, "{name}: the order of the logs mattered");

        // The earlier log of two is not in the primary yet: without a base block there is no way back.
        let mut headless = primary.clone();
        headless[508] ^= 1;
        match open(&headless, &[("LOG1", &one), ("LOG2", &two)]).expect("a hive") {
            Opened::Replayed { bytes: other, .. } => assert!(other == bytes, "{name}"),
            Opened::Refused { why, .. } => {
                assert!(why.to_string().contains("other log only"), "{name}: {why}");
            }
            Opened::Clean { .. } => panic!("{name}"),
        }

        let mut sealed = bytes.clone();
        seal(&mut sealed, &replay, replay.len_before).expect("it fits");
        let again = open(&sealed, &[("LOG1", &one), ("LOG2", &two)]).expect("a hive");
        assert!(matches!(again, Opened::Clean { .. }), "{name}");
        println!(
            "{name}: {} entries, {} pages, sequence {}, {:?}",
            replay.entries(),
            replay.pages(),
            replay.sequence,
            applied(&replay)
        );
    }
}

#[test]
fn the_stale_log_beside_a_real_clean_hive_is_not_applied() {
    let Some(directory) = samples() else {
        println!("not run: DECLONE_SAMPLES is not set");
        return;
    };
    let primary = sample(&directory, "clean_NTUSER.DAT");
    let log = sample(&directory, "clean_NTUSER.DAT.LOG");
    let opened = open(&primary, &[("NTUSER.DAT.LOG", &log)]).expect("a hive");
    let Opened::Clean { logs } = opened else {
        panic!("clean")
    };
    assert!(matches!(logs[0].fate, Fate::Stale(_)));
    assert_eq!(logs[0].sequence, Some(131));
    assert_eq!(lenient_counts(&primary), (1597, 2310));
    // The same hive made dirty takes it: the log is valid and only the hive's state speaks against it.
    let torn = logs::with_sequence(&primary, 132, 131);
    let (bytes, _) = replayed(&torn, &[("NTUSER.DAT.LOG", &log)]);
    check(&bytes).expect("a sound hive");
}

/// A fingerprint of a whole file.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Random bytes of the logs (and now and then of the primary's base block) flipped: what comes out is
/// a state that the hive was in, or nothing. `DECLONE_LOG_MUTATIONS` sets the number per sample.
#[test]
fn damaged_real_logs_give_a_state_that_was_or_a_refusal() {
    let Some(directory) = samples() else {
        println!("not run: DECLONE_SAMPLES is not set");
        return;
    };
    let rounds =
        std::env::var("DECLONE_LOG_MUTATIONS").map_or(40, |n| n.parse().expect("a number"));
    let mut sets: Vec<(&str, Vec<&str>)> = DIRTY
        .iter()
        .map(|(name, logs, ..)| (*name, logs.to_vec()))
        .collect();
    sets.push(("clean_NTUSER.DAT", vec!["clean_NTUSER.DAT.LOG"]));
    for (name, names) in sets {
        let mut primary = sample(&directory, name);
        if name.starts_with("clean") {
            primary = logs::with_sequence(&primary, 132, 131);
        }
        let mut files: Vec<Vec<u8>> = names.iter().map(|n| sample(&directory, n)).collect();
        let mut states = HashMap::new();
        let mut state = primary.clone();
        let mut all: Vec<&[u8]> = files.iter().flat_map(|log| logs::entries(log)).collect();
        // The older entries of NTUSER's second log are in its primary already.
        let finished = u32::from_le_bytes(primary[8..12].try_into().expect("four bytes"));
        all.retain(|entry| u32::from_le_bytes(entry[12..16].try_into().expect("4")) >= finished);
        for entry in all {
            let sequence = logs::apply(&mut state, entry);
            states.insert(sequence, fingerprint(&state));
        }
        let mut random = Random(0x10c5_0003);
        let (mut counts, mut slowest) = ([0_u32; 3], Duration::ZERO);
        for _ in 0..rounds {
            let mut undo = Vec::new();
            let base_too = random.below(8) == 0;
            for _ in 0..1 + random.below(3) {
                let file = random.below(files.len() + usize::from(base_too));
                let (bytes, at) = match files.get_mut(file) {
                    Some(bytes) => {
                        let at = match random.below(4) {
                            0 => random.below(600),
                            1 => random.below(bytes.len()) / 512 * 512 + random.below(64),
                            _ => random.below(bytes.len()),
                        };
                        (bytes, at)
                    }
                    None => (&mut primary, random.below(512)),
                };
                undo.push((file, at, bytes[at]));
                bytes[at] ^= 1 << random.below(8);
            }
            let given: Vec<(&str, &[u8])> = names
                .iter()
                .zip(&files)
                .map(|(name, bytes)| (*name, bytes.as_slice()))
                .collect();
            let (opened, took) = timed(&primary, &given);
            slowest = slowest.max(took);
            match opened {
                Ok(Opened::Replayed { bytes, replay }) => {
                    counts[0] += 1;
                    if undo.iter().all(|(file, ..)| *file < files.len()) {
                        let wanted = states.get(&replay.sequence).copied();
                        assert_eq!(Some(fingerprint(&bytes)), wanted, "{name}: {undo:x?}");
                    }
                }
                Ok(Opened::Refused { .. }) => counts[1] += 1,
                Ok(Opened::Clean { .. }) | Err(_) => counts[2] += 1,
            }
            for (file, at, byte) in undo.into_iter().rev() {
                match files.get_mut(file) {
                    Some(bytes) => bytes[at] = byte,
                    None => primary[at] = byte,
                }
            }
        }
        println!("{name}: {counts:?} replayed, refused, other; slowest {slowest:?}");
        assert!(slowest < Duration::from_secs(1), "{name}: {slowest:?}");
    }
}
