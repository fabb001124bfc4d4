//! Random deletions over every hive it is given; see `tools/hive-random`.
//!
//! `cargo run --release --example hives -- [--runs N] [--seed S] [--hive NAME] [--judge-every N]
//! DIRECTORY`; with `--generated N` over so many made-up hives and logs; with `--write` it writes
//! those of the seed into the directory. `DECLONE_TOOLS` names the folder of check_hive.py.

// As in tests/main.rs, whose modules these are.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    clippy::single_range_in_vec_init
)]

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use declone::hive::{Hive, Opened, Probe, State, check, open, probe};

#[path = "../tests/hive_random/engine.rs"]
mod engine;
#[path = "../tests/hive_random/external.rs"]
mod external;
#[path = "../tests/support/mod.rs"]
#[allow(unused)]
mod support;

use engine::{Ran, run};
use support::hive_gen;

/// Hives up to this length are shown to the external judges more often.
const SMALL: usize = 300 << 10;

#[derive(Debug)]
struct Options {
    runs: u64,
    seed: u64,
    hive: Option<String>,
    judge_every: u64,
    /// So many made-up hives instead of those in the directory.
    generated: Option<u64>,
    /// Only writes the made-up hives of the seed into the directory.
    write: bool,
    directory: PathBuf,
}

fn options() -> Result<Options> {
    let mut all = Options {
        runs: 200,
        seed: 1,
        hive: None,
        judge_every: 10,
        generated: None,
        write: false,
        directory: PathBuf::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut next = || args.next().context("a value expected");
        match arg.as_str() {
            "--runs" => all.runs = next()?.parse()?,
            "--seed" => all.seed = next()?.parse()?,
            "--hive" => all.hive = Some(next()?),
            "--judge-every" => all.judge_every = next()?.parse::<u64>()?.max(1),
            "--generated" => all.generated = Some(next()?.parse()?),
            "--write" => all.write = true,
            directory if !directory.starts_with('-') => all.directory = directory.into(),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|end| end == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output()?;
        anyhow::ensure!(output.status.success(), "xz: {}", path.display());
        return Ok(output.stdout);
    }
    Ok(std::fs::read(path)?)
}

fn checker() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("DECLONE_TOOLS")?).join("check_hive.py"))
}

/// What the runs on one hive came to.
#[derive(Default)]
struct Sum {
    edited: u64,
    judged: u64,
    nothing: u64,
    refused: BTreeMap<String, u64>,
    keys: u64,
    values: u64,
    classes: u64,
    large: u64,
    tokens: u64,
    remarks: external::Remarks,
    faults: Vec<String>,
}

fn all_runs(bytes: &[u8], name: &str, given: &Options, folder: &Path) -> Sum {
    let checker = checker();
    let every = if bytes.len() <= SMALL {
        given.judge_every.div_ceil(5)
    } else {
        given.judge_every
    };
    let mut sum = Sum::default();
    // A seed that chooses nothing counts for none; twice as many are enough.
    for i in 0..given.runs * 2 {
        if sum.edited + sum.refused.values().sum::<u64>() + sum.faults.len() as u64 == given.runs {
            break;
        }
        let seed = given.seed.wrapping_mul(1_000_000).wrapping_add(i);
        // Few deletions at once, some, many.
        let most = [3, 12, 60][(i % 3) as usize];
        let done = match run(bytes, seed, most, &[]) {
            Ok(Ran::Edited(done)) => done,
            Ok(Ran::Refused(why)) => {
                *sum.refused.entry(why).or_default() += 1;
                continue;
            }
            Ok(Ran::Nothing) => {
                sum.nothing += 1;
                continue;
            }
            Err(error) => {
                sum.faults
                    .push(format!("{name}, run {i} (seed {seed}): {error:#}"));
                continue;
            }
        };
        sum.edited += 1;
        sum.keys += done.gone.0;
        sum.values += done.gone.1;
        sum.classes += done.special.0;
        sum.large += done.special.1;
        sum.tokens += done.tokens.len() as u64;
        if let Some(why) = &done.witness {
            sum.remarks
                .insert(format!("nt-hive cannot read it before, too: {why}"));
        }
        if done.unreadable.0 > 0 {
            sum.remarks
                .insert("nt-hive cannot read some values before, too".into());
        }
        if i.is_multiple_of(every) {
            sum.judged += 1;
            let judged = external::judge(&done, folder, checker.as_deref(), &[], &mut sum.remarks);
            if let Err(error) = judged {
                sum.faults
                    .push(format!("{name}, run {i} (seed {seed}): {error:#}"));
            }
        }
    }
    sum
}

/// Made-up hives: an edit each, shown to all judges; and made-up logs.
fn generated(count: u64, given: &Options, folder: &Path) -> Result<ExitCode> {
    let checker = checker();
    let (mut edited, mut judged, mut replays, mut faults) = (0, 0, 0, 0);
    let mut remarks = external::Remarks::new();
    let start = Instant::now();
    for seed in given.seed..given.seed + count {
        let (hive, is_leaked) = hive_gen::clean(seed);
        let mut fault = |error: anyhow::Error| {
            println!("FAULT seed {seed}: {error:#}");
            faults += 1;
        };
        let most = [3, 12, 60][(seed % 3) as usize];
        match run(&hive, seed, most, &hive_gen::residue()) {
            Ok(Ran::Edited(run)) => {
                edited += 1;
                if seed.is_multiple_of(given.judge_every) {
                    judged += 1;
                    let allow: &[&str] = if is_leaked { &["leaked_cell"] } else { &[] };
                    external::judge(&run, folder, checker.as_deref(), allow, &mut remarks)
                        .unwrap_or_else(&mut fault);
                }
            }
            Ok(Ran::Refused(why)) => fault(anyhow::anyhow!("refused: {why}")),
            Ok(Ran::Nothing) => {}
            Err(error) => fault(error),
        }
        let dirty = hive_gen::dirty(seed);
        let logs: Vec<(&str, &[u8])> = dirty.logs.iter().map(|(n, l)| (*n, &l[..])).collect();
        match open(&dirty.primary, &logs) {
            Ok(Opened::Replayed { bytes, .. }) if bytes == dirty.wanted => replays += 1,
            other => fault(anyhow::anyhow!(
                "{}: {}",
                dirty.what,
                match other {
                    Ok(Opened::Replayed { .. }) => "replayed to another hive".into(),
                    Ok(Opened::Refused { why, .. }) => format!("refused: {why}"),
                    Ok(Opened::Clean { .. }) => "taken for clean".into(),
                    Err(error) => error.to_string(),
                }
            )),
        }
    }
    println!(
        "{count} seeds, {edited} edits, {judged} shown to the external judges, {replays} replays, \
         {:.1} s, {faults} faults",
        start.elapsed().as_secs_f64()
    );
    for remark in remarks {
        println!("    {remark}");
    }
    Ok(if faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Writes what a seed makes, for a look with other tools.
fn write(seed: u64, directory: &Path) -> Result<ExitCode> {
    let save = |name: String, bytes: &[u8]| -> Result<()> {
        let path = directory.join(name);
        std::fs::File::create(&path)?.write_all(bytes)?;
        println!("{}", path.display());
        Ok(())
    };
    save(format!("{seed}.clean.hive"), &hive_gen::clean(seed).0)?;
    let dirty = hive_gen::dirty(seed);
    println!("{}", dirty.what);
    save(format!("{seed}.dirty.hive"), &dirty.primary)?;
    for (ending, log) in &dirty.logs {
        save(format!("{seed}.dirty.hive{ending}"), log)?;
    }
    save(format!("{seed}.wanted.hive"), &dirty.wanted)?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> Result<ExitCode> {
    let given = options()?;
    if given.write {
        return write(given.seed, &given.directory);
    }
    let folder = tempfile::tempdir()?;
    if let Some(count) = given.generated {
        return generated(count, &given, folder.path());
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&given.directory)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let mut faults = Vec::new();
    println!(
        "{:<28} {:>9} {:>6} {:>6} {:>7} {:>8} {:>6} {:>6} {:>6} {:>7}",
        "hive", "bytes", "runs", "judged", "keys", "values", "class", ">16344", "tokens", "seconds"
    );
    for path in paths {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = file.trim_end_matches(".xz").to_owned();
        if given.hive.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let bytes = read(&path)?;
        if probe(&bytes) != Probe::Regf {
            println!("{name:<28} {:>9}  not a hive", bytes.len());
            continue;
        }
        if !Hive::open(&bytes).is_ok_and(|hive| hive.state() == State::Clean) {
            println!(
                "{name:<28} {:>9}  not clean: has its turn in the replay tests",
                bytes.len()
            );
            continue;
        }
        if let Err(error) = check(&bytes) {
            println!(
                "{name:<28} {:>9}  refused before any edit: {error}",
                bytes.len()
            );
            if let Some(checker) = checker() {
                let also = external::finds_fault(&bytes, folder.path(), &checker)?;
                println!("    check_hive.py finds fault with it, too: {also}");
                if !also {
                    faults.push(format!("{name}: refused by declone alone"));
                }
            }
            continue;
        }
        let start = Instant::now();
        let sum = all_runs(&bytes, &name, &given, folder.path());
        println!(
            "{name:<28} {:>9} {:>6} {:>6} {:>7} {:>8} {:>6} {:>6} {:>6} {:>7.1}",
            bytes.len(),
            sum.edited,
            sum.judged,
            sum.keys,
            sum.values,
            sum.classes,
            sum.large,
            sum.tokens,
            start.elapsed().as_secs_f64()
        );
        if sum.nothing > 0 {
            println!("    {} seeds chose nothing", sum.nothing);
        }
        for (why, count) in &sum.refused {
            println!("    {count} refused, no byte changed: {why}");
        }
        for remark in &sum.remarks {
            println!("    {remark}");
        }
        for fault in sum.faults {
            println!("    FAULT {fault}");
            faults.push(fault);
        }
    }
    println!("{} faults", faults.len());
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
