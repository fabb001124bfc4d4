//! What declone does with the bytes of one hive, timed: check, edit and wipe, check again.
//!
//! `bench_hive FILE` changes FILE and prints seconds: read, check, edit, check, write, and the sum of
//! the three in the middle. Called by `tools/bench hive`.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use declone::{
    hive::{HiveEdit, check, edit_and_wipe},
    text::Name,
};

fn names(path: &str) -> Vec<Name> {
    path.split('\\').map(Name::new).collect()
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: bench_hive FILE")?;
    let edits = [
        HiveEdit::DeleteValue {
            key: names(r"Microsoft\SMS\Client\Configuration\Client Properties"),
            value: Name::new("SMS Unique Identifier"),
        },
        HiveEdit::DeleteKey {
            key: names(r"Microsoft\NAL\Client\AbExprtDB\CAP List for site XYZ"),
        },
    ];
    let mut times = Vec::new();
    let mut last = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        times.push(now.duration_since(last).as_secs_f64());
        last = now;
    };
    let mut file = File::open(&path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len())?);
    file.read_to_end(&mut bytes)?;
    lap();
    let checked = check(&bytes)?;
    lap();
    let outcome = edit_and_wipe(&mut bytes, &checked, &edits, &[])?;
    lap();
    ensure!(
        outcome.values > 0 && outcome.keys == 1,
        "both were there: {outcome:?}"
    );
    check(&bytes)?;
    lap();
    let out = OpenOptions::new().write(true).open(&path)?;
    for range in &outcome.changed {
        let (from, to) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        out.write_all_at(&bytes[from..to], range.start)?;
    }
    lap();
    let middle: f64 = times[1..4].iter().sum();
    times.push(middle);
    let shown: Vec<String> = times.iter().map(|t| format!("{t:.4}")).collect();
    println!("{}", shown.join(" "));
    Ok(())
}
