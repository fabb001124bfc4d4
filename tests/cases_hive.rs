//! Random deletions on real hives: what is left is what was there minus what was deleted.
//!
//! Needs `DECLONE_SAMPLES` (a directory with hives, plain or `.xz`, or with a `hives` directory).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use declone::{
    hive::{EditOutcome, Hive, HiveEdit, KeyPath, State, check, edit, probe},
    text::Name,
    verify::hive_witness::{Verdict, witness_counts},
};

const TOKEN: &[u8] = b"GUID:0badcafe-declone-token-0123456789";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
    }
}

fn read_sample(path: &Path) -> Option<Vec<u8>> {
    if path.extension().is_some_and(|end| end == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().ok()?;
        return output.status.success().then_some(output.stdout);
    }
    fs::read(path).ok()
}

/// All real hives that are clean and sound, by name.
fn samples() -> Option<Vec<(String, Vec<u8>)>> {
    let given = PathBuf::from(std::env::var_os("DECLONE_SAMPLES")?);
    let below = given.join("hives");
    let directory = if below.is_dir() { below } else { given };
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("DECLONE_SAMPLES is a directory")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let hives: Vec<(String, Vec<u8>)> = paths
        .iter()
        .filter_map(|path| Some((path.display().to_string(), read_sample(path)?)))
        .filter(|(_, bytes)| probe(bytes) == declone::hive::Probe::Regf)
        .filter(|(_, bytes)| Hive::open(bytes).is_ok_and(|hive| hive.state() == State::Clean))
        .filter(|(_, bytes)| check(bytes).is_ok())
        .collect();
    assert!(!hives.is_empty(), "no clean hive in DECLONE_SAMPLES");
    Some(hives)
}

struct Key {
    path: KeyPath,
    subkeys: usize,
    /// Name, and where data of its own begins and how long it is.
    values: Vec<(Name, Option<u64>, u32)>,
}

fn keys(bytes: &[u8]) -> Vec<Key> {
    let hive = Hive::open(bytes).expect("a hive");
    let mut out = Vec::new();
    let mut pending = vec![(hive.root(), KeyPath::new())];
    while let Some((key, path)) = pending.pop() {
        let subkeys = hive.subkeys(key).expect("subkeys");
        let values = hive.values(key).expect("values");
        for value in &values {
            let data = hive.value_data(value).expect("data");
            assert_eq!(u32::try_from(data.len()), Ok(value.data_len));
        }
        out.push(Key {
            subkeys: subkeys.len(),
            values: values
                .into_iter()
                .map(|v| (v.name, v.data_offset.map(|at| at.get()), v.data_len))
                .collect(),
            path: path.clone(),
        });
        for (child, name) in subkeys {
            let mut below = path.clone();
            below.push(name);
            pending.push((child, below));
        }
    }
    assert_eq!(hive.skipped(), 0);
    out
}

/// Some deletions; a token is planted into the data of values that will go.
fn choose(bytes: &mut [u8], random: &mut Random, count: usize) -> Vec<HiveEdit> {
    let keys = keys(bytes);
    let mut edits = Vec::new();
    for _ in 0..count {
        let Some(key) = keys.get(random.below(keys.len())) else {
            continue;
        };
        match random.below(4) {
            0 if !key.path.is_empty() && key.subkeys < keys.len() / 3 => {
                let key = key.path.clone();
                edits.push(HiveEdit::DeleteSubkeys { key });
            }
            1 if !key.path.is_empty() && key.subkeys < 50 => {
                let key = key.path.clone();
                edits.push(HiveEdit::DeleteKey { key });
            }
            _ => {
                let Some((name, at, len)) = key.values.get(random.below(key.values.len())) else {
                    continue;
                };
                let start = at.and_then(|at| usize::try_from(at).ok());
                let plain = TOKEN.len()..=16_344;
                let len = usize::try_from(*len).unwrap_or(0);
                if let (Some(start), true) = (start, plain.contains(&len))
                    && let Some(place) = bytes.get_mut(start..start + TOKEN.len())
                {
                    place.copy_from_slice(TOKEN);
                }
                edits.push(HiveEdit::DeleteValue {
                    key: key.path.clone(),
                    value: name.clone(),
                });
            }
        }
    }
    edits
}

fn has_token(bytes: &[u8]) -> bool {
    bytes.windows(TOKEN.len()).any(|window| window == TOKEN)
}

#[test]
fn random_deletions_on_real_hives_leave_the_rest_and_nothing_else() {
    let Some(samples) = samples() else {
        println!("not run: DECLONE_SAMPLES is not set");
        return;
    };
    for (name, sample) in &samples {
        for (round, count) in [3, 12, 60, 150].into_iter().enumerate() {
            let mut random = Random(0x5EED_0001 + u64::try_from(round).unwrap_or(0));
            let mut old = sample.clone();
            let edits = choose(&mut old, &mut random, count);
            let before = check(&old).expect("a sound hive");
            let mut new = old.clone();
            let outcome = edit(&mut new, &before, &edits, &[TOKEN.to_vec()])
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let after = check(&new).unwrap_or_else(|e| panic!("{name}: {e}"));
            let (was, is) = (before.summary(), after.summary());
            let left = was.digest.wrapping_sub(outcome.removed_digest);
            assert_eq!(left, is.digest, "{name}");
            assert_eq!(was.keys - outcome.keys, is.keys, "{name}");
            assert_eq!(was.values - outcome.values, is.values, "{name}");
            assert_eq!(old.len(), new.len(), "{name}");
            assert!(
                is.warnings <= was.warnings,
                "{name}: {:?}",
                after.warnings()
            );
            assert!(!has_token(&new), "{name}");
            if outcome.keys + outcome.values != 0 {
                let stale = (is.free_nonzero, is.slack_nonzero, is.tail_nonzero);
                assert_eq!(stale, (0, 0, 0), "{name}");
            }
            let verdict = witness_counts(&new, is, &edits);
            assert!(
                !matches!(verdict, Verdict::Disagrees(_)),
                "{name}: {verdict:?}"
            );
            let mut again = new.clone();
            let second = edit(&mut again, &after, &edits, &[]).expect("nothing to do");
            assert_eq!(second, EditOutcome::default(), "{name}");
            assert!(again == new, "{name}");
        }
    }
}

#[test]
fn edits_that_find_nothing_leave_real_hives_alone() {
    let Some(samples) = samples() else {
        println!("not run: DECLONE_SAMPLES is not set");
        return;
    };
    for (name, sample) in &samples {
        let checked = check(sample).expect("a sound hive");
        let mut bytes = sample.clone();
        let missing = vec![Name::new("no such key of any Windows")];
        let edits = [
            HiveEdit::DeleteSubkeys {
                key: missing.clone(),
            },
            HiveEdit::DeleteValue {
                key: missing,
                value: Name::new(""),
            },
        ];
        let outcome = edit(&mut bytes, &checked, &edits, &[]).expect("nothing to do");
        assert_eq!(outcome, EditOutcome::default(), "{name}");
        assert!(bytes == *sample, "{name}");
        let verdict = witness_counts(&bytes, checked.summary(), &[]);
        assert!(
            !matches!(verdict, Verdict::Disagrees(_)),
            "{name}: {verdict:?}"
        );
    }
}
