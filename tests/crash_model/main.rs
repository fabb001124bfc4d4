//! Every crash of the write protocol, in memory.
//!
//! A host file system that tells *written* (what processes see) from *durable* (what a power cut
//! leaves) is driven through `protocol::commit`, `protocol::recover` and the undo, and stopped at
//! every call and inside every write. What the model assumes:
//!
//! * A power cut keeps any subset of what was not synced, in any order: sectors of 512 bytes of the
//!   image and the journal, lengths of grown files (with zeros or garbage for data that was lost),
//!   and changes of names, each half of a rename for itself. A sync makes durable what belongs to
//!   its own file or directory and nothing else.
//! * A kill keeps what was written; a power cut may follow at any moment of the recovery.
//! * A failed fsync or write-back may mark pages clean that never reached the disk: they read as
//!   written until the cache is dropped (Rebello et al., USENIX ATC 2020). Names are not lost that
//!   way: the file systems of that study shut down when their metadata cannot be written.
//! * Writes and other calls fail before, in the middle of, or after their work; a write may lie.
//!   What cannot be told by anyone is left out: a disk that lies about a flush, or a read.
//!
//! What must hold, and is asserted in every state:
//!
//! * After a crash, recovery succeeds, the image is old or new (as the journal says) and nothing in
//!   between, no journal is left, and no later power cut changes either of the two.
//! * After `Ok` the image is new in every state, and a journal never comes back.
//! * After `Io` or `Refused` the image is byte-identical to the old one in every state, and a
//!   journal never comes back. Where an earlier run left a journal, or the file system unsettled,
//!   it says only that nothing was written: what was pending still is.
//! * After `Interrupted` recovery, once the host works again, gives the old or the new image, the
//!   new one if a journal is in view.
//! * A write of another program before the check of the image is refused and stays.
//!
//! The method is the record and replay of CrashMonkey (Mohan et al., OSDI 2018) with the compound
//! tests of SQLite (a fault in the recovery of a fault). A message names the run; set
//! `CRASH_MODEL_RUN` to its number to do that run alone.

// What the parts use of each other is `pub`.
#![allow(unreachable_pub)]

mod chance;
mod explore;
mod machine;
mod mutants;
mod scenarios;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use declone::{
    apply::protocol::{self, Host},
    error::Kind,
};

use chance::{Breadth, Chance};
use explore::{Budget, Explorer, Tally, hurts};
use machine::{Fault, Fs, Hurt, Image, Machine, Name, Twist};
use scenarios::{Plan, Scenario, journal_file};

/// Part of every run's seed.
const SEED: u64 = 0x5EED;

/// For plain `cargo test`: seconds, without optimization.
const SMALL: Budget = Budget {
    first: Breadth {
        all_up_to: 4,
        structured: false,
        random: 6,
    },
    after_fault: Breadth {
        all_up_to: 2,
        structured: false,
        random: 2,
    },
    nested: Breadth {
        all_up_to: 2,
        structured: false,
        random: 2,
    },
    start_one_in: 8,
    torn: 1,
    nest_one_in: 40,
    third_one_in: 40,
    fault_one_in: 60,
};

/// For `tools/crash-model`.
const FULL: Budget = Budget {
    first: Breadth {
        all_up_to: 12,
        structured: true,
        random: 200,
    },
    after_fault: Breadth {
        all_up_to: 5,
        structured: false,
        random: 12,
    },
    nested: Breadth {
        all_up_to: 3,
        structured: false,
        random: 6,
    },
    start_one_in: 1,
    torn: 7,
    nest_one_in: 50,
    third_one_in: 100,
    fault_one_in: 1,
};

#[derive(Clone, Copy, Debug)]
enum Run {
    Crashes(Option<Fault>),
    ForeignBeforeCheck,
    ForeignBeforeRecovery,
}

/// Every run of the model: scenario, start, and what goes wrong in it.
fn runs(all: &[Scenario], plan: &Plan) -> Vec<(usize, usize, Run)> {
    let mut out = Vec::new();
    for (number, scenario) in all.iter().enumerate() {
        for start in 0..scenario.starts.len() {
            out.push((number, start, Run::Crashes(None)));
        }
        out.push((number, 0, Run::ForeignBeforeRecovery));
        if scenario.starts.len() == 1 {
            out.push((number, 0, Run::ForeignBeforeCheck));
        }
    }
    for (number, scenario) in all.iter().enumerate() {
        for (start, fs) in scenario.starts.iter().enumerate() {
            for (op, call) in scenario.calls(plan, fs).into_iter().enumerate() {
                for hurt in hurts(call, fs.forgets) {
                    for forever in [false, true] {
                        let fault = Fault { op, hurt, forever };
                        out.push((number, start, Run::Crashes(Some(fault))));
                    }
                }
            }
        }
    }
    out
}

/// Does all runs on all cores.
fn explore(plan: &Plan, budget: Budget, stop_at_first: bool) -> (usize, Tally) {
    let all = scenarios::all();
    let only: Option<usize> = std::env::var("CRASH_MODEL_RUN")
        .ok()
        .map(|number| number.parse().unwrap());
    let runs = runs(&all, plan);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let total = Mutex::new(Tally::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((scenario, start, run)) = runs.get(number) else {
                break;
            };
            let mut chance = Chance::new(SEED ^ (number as u64) << 20);
            let faulty = matches!(run, Run::Crashes(Some(_)));
            // Answers that are lost on the way: always all of the first scenario.
            let lost = matches!(run, Run::Crashes(Some(fault)) if fault.hurt == Hurt::Done);
            let skipped = match faulty {
                true if lost && *scenario == 0 => false,
                true => !chance.one_in(budget.fault_one_in),
                false => *start > 0 && !chance.one_in(budget.start_one_in),
            };
            if only.map_or(skipped, |only| only != number) {
                continue;
            }
            let scenario = &all[*scenario];
            let mut explorer = Explorer {
                scenario,
                plan,
                budget,
                chance,
                label: format!("run {number}, {}, start {start}, {run:?}", scenario.name),
                tally: Tally::default(),
                stop_at_first,
            };
            match run {
                Run::Crashes(fault) => {
                    explorer.tally.faults += u64::from(faulty);
                    explorer.drive(&scenario.starts[*start], *fault);
                }
                Run::ForeignBeforeCheck => explorer.foreign_before_the_check(),
                Run::ForeignBeforeRecovery => explorer.foreign_before_the_recovery(),
            }
            if stop_at_first && explorer.tally.bad > 0 {
                stop.store(true, Ordering::Relaxed);
            }
            total.lock().unwrap().add(explorer.tally);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    (all.len(), total.into_inner().unwrap())
}

fn show(scenarios: usize, tally: &Tally) {
    println!(
        "crash_model: {scenarios} scenarios, {} states, {} nested, {} bad",
        tally.states, tally.nested, tally.bad
    );
    println!(
        "  {} runs with a fault, {} states behind a third crash",
        tally.faults, tally.third
    );
    for message in &tally.messages {
        println!("  bad: {message}");
    }
}

#[test]
fn a_sample_of_all_crashes_leaves_the_old_image_or_the_new_one() {
    let (scenarios, tally) = explore(&Plan::real(), SMALL, false);
    show(scenarios, &tally);
    assert_eq!(tally.bad, 0, "{:#?}", tally.messages);
    assert!(scenarios >= 12);
    assert!(tally.states >= 5_000, "{}", tally.states);
    assert!(tally.nested >= 4_000, "{}", tally.nested);
    assert!(tally.third >= 1_000, "{}", tally.third);
    assert!(tally.faults >= 100, "{}", tally.faults);
}

#[test]
#[ignore = "minutes; run by tools/crash-model"]
fn every_crash_leaves_the_old_image_or_the_new_one() {
    let (scenarios, tally) = explore(&Plan::real(), FULL, false);
    show(scenarios, &tally);
    assert_eq!(tally.bad, 0, "{:#?}", tally.messages);
    assert!(scenarios >= 12);
    assert!(tally.states >= 50_000, "{}", tally.states);
    assert!(tally.nested >= 500_000, "{}", tally.nested);
    assert!(tally.third >= 10_000, "{}", tally.third);
}

#[test]
fn a_protocol_with_a_step_missing_or_out_of_place_is_caught() {
    let mut caught = 0;
    let all = mutants::harmful();
    for mutant in &all {
        let (_, tally) = explore(&mutant.plan, SMALL, true);
        match tally.messages.first() {
            Some(message) => {
                caught += 1;
                println!("  caught: {}: {message}", mutant.name);
            }
            None => println!("  NOT CAUGHT: {} ({} states)", mutant.name, tally.states),
        }
    }
    println!("mutants: {caught}/{} caught", all.len());
    for mutant in mutants::equivalent() {
        let less = Budget {
            fault_one_in: 400,
            ..SMALL
        };
        let (_, tally) = explore(&mutant.plan, less, true);
        println!("  equivalent: {}: {}", mutant.name, mutant.why);
        assert_eq!(tally.bad, 0, "{}: {:?}", mutant.name, tally.messages);
    }
    assert_eq!(caught, all.len());
    assert!(all.len() >= 16);
}

/// A recovery that must refuse, on an image with a journal.
fn refused(image: &Image, journal: Vec<u8>) {
    let fs = Fs::new(image).with_file(Name::Journal, journal);
    let mut machine = Machine::new(fs.clone(), Twist::None);
    let error = protocol::recover(&mut machine).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_eq!(machine.fs.image, fs.image, "something was written");
    assert_eq!(machine.fs.file(Name::Journal), fs.file(Name::Journal));
}

#[test]
fn a_journal_of_another_image_of_the_same_size_is_refused_and_nothing_is_written() {
    let stages = scenarios::three_pages().stages;
    let other: Image = vec![stages[0][0].iter().map(|byte| byte ^ 0x0F).collect()];
    refused(&other, journal_file(&stages[0], &stages[1]));
    // Even one page that is another's is enough.
    let mut half = stages[0].clone();
    half[0][6 * 4096..].copy_from_slice(&other[0][6 * 4096..]);
    refused(&half, journal_file(&stages[0], &stages[1]));
}

#[test]
fn a_journal_of_an_image_that_was_resized_is_refused_and_nothing_is_written() {
    let stages = scenarios::three_pages().stages;
    let journal = journal_file(&stages[0], &stages[1]);
    for len in [0, 4096, stages[0][0].len() - 1, stages[0][0].len() + 512] {
        let mut image = stages[0].clone();
        image[0].resize(len, 0);
        refused(&image, journal.clone());
        let fs = Fs::new(&image).with_file(Name::Journal, journal.clone());
        let mut machine = Machine::new(fs, Twist::None);
        let error = protocol::pending(&mut machine).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }
}

#[test]
fn one_sector_that_is_neither_old_nor_new_is_refused_and_nothing_is_written() {
    let stages = scenarios::three_pages().stages;
    let journal = journal_file(&stages[0], &stages[1]);
    for base in &stages {
        for page in [1, 4, 6] {
            for sector in 0..8 {
                let mut image = base.clone();
                image[0][page * 4096 + sector * 512 + 100] ^= 0x80;
                refused(&image, journal.clone());
            }
        }
    }
}

#[test]
fn looking_whether_a_journal_waits_changes_nothing() {
    let scenario = scenarios::interrupted();
    for start in &scenario.starts {
        let mut machine = Machine::new(start.clone(), Twist::None).recording(7);
        let (bond, change) = protocol::pending(&mut machine).unwrap().unwrap();
        assert_eq!([bond.image_len], machine.lens().unwrap()[..]);
        assert_eq!(change.pages().len(), 3);
        assert_eq!(machine.fs, *start);
        assert!(machine.moments.unwrap().is_empty());
    }
    let clean = scenarios::three_pages();
    let mut machine = Machine::new(clean.starts[0].clone(), Twist::None);
    assert!(protocol::pending(&mut machine).unwrap().is_none());
}
