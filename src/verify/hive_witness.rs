//! The second witness for hives: the `nt-hive` crate reads what our own code has written.
//!
//! In: bytes that `hive::check` has accepted, and what should be gone. Out: a [`Verdict`].
//! Knows: hive, text, nt-hive. Never: changes a byte, or lets a panic of the reader through.
//!
//! The reader has limits of its own (values above 16,344 bytes in hives before 1.4, stale pointers
//! of empty keys); where one is met the witness abstains or steps over it, it does not accuse.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nt_hive::{KeyNode, KeyValueData, NtHiveNameString, SubKeyNodes};

use crate::{
    bytes::View,
    hive::{HiveEdit, Summary},
    text::{Name, registry_upcase},
};

/// What the second reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It read everything, and nothing of what should be gone.
    Agrees {
        /// Keys it read, the root included.
        keys: u64,
        /// Values it read.
        values: u64,
    },
    /// It found something else.
    Disagrees(String),
    /// It cannot read this hive for a reason that is known to be its own.
    Abstains(String),
}

/// The loader's limit, as in `hive::check`.
const MAX_DEPTH: usize = 512;
/// Values above this are big data, which the reader expects in every version.
const PLAIN_LIMIT: u64 = 16_344;

/// Where a key's fields are, counted from its name.
mod nk {
    /// The name's own place in the record.
    pub(super) const NAME: usize = 76;
    pub(super) const FLAGS: usize = 2;
    pub(super) const SUBKEYS: usize = 20;
    pub(super) const VALUES: usize = 36;
    pub(super) const FLAG_PREDEFINED: u16 = 0x40;
}

/// Walks all keys and values, data included; none of `doomed` may be there.
#[must_use]
pub fn witness(bytes: &[u8], doomed: &[HiveEdit]) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| walk(bytes, doomed)))
        .unwrap_or_else(|_| Verdict::Abstains("the second reader (nt-hive) panicked".into()))
}

/// As [`witness`], and the counts must be those of our own walk.
#[must_use]
pub fn witness_counts(bytes: &[u8], summary: &Summary, doomed: &[HiveEdit]) -> Verdict {
    match witness(bytes, doomed) {
        Verdict::Agrees { keys, values } if (keys, values) != (summary.keys, summary.values) => {
            Verdict::Disagrees(format!(
                "{} keys and {} values expected, nt-hive found {keys} and {values}",
                summary.keys, summary.values
            ))
        }
        verdict => verdict,
    }
}

type Key<'h, 'b> = KeyNode<'h, &'b [u8]>;

/// Counts that the reader does not show: subkeys and values, 0 meaning "do not follow the pointer".
struct Counts {
    subkeys: u32,
    values: u32,
}

struct Frame<'h, 'b> {
    subkeys: SubKeyNodes<'h, &'b [u8]>,
    /// Numbers of the edits whose path begins with this key's.
    matching: Vec<usize>,
    name: Option<Name>,
}

/// Stops the walk.
enum Stop {
    Disagree(String),
    Abstain(String),
}

struct Walk<'a> {
    bytes: &'a [u8],
    minor: u32,
    doomed: &'a [HiveEdit],
    keys: u64,
    values: u64,
    /// The first thing that could not be read.
    unread: Option<String>,
}

fn walk(bytes: &[u8], doomed: &[HiveEdit]) -> Verdict {
    let hive = match nt_hive::Hive::without_validation(bytes) {
        Ok(hive) => hive,
        Err(e) => return Verdict::Disagrees(format!("nt-hive does not open it: {e}")),
    };
    let mut walk = Walk {
        bytes,
        minor: hive.minor_version(),
        doomed,
        keys: 0,
        values: 0,
        unread: None,
    };
    match walk.all(&hive) {
        Err(Stop::Disagree(why)) => Verdict::Disagrees(why),
        Err(Stop::Abstain(why)) => Verdict::Abstains(why),
        Ok(()) => match walk.unread {
            Some(why) => Verdict::Abstains(why),
            None => Verdict::Agrees {
                keys: walk.keys,
                values: walk.values,
            },
        },
    }
}

fn disagree(what: &str, e: impl std::fmt::Display) -> Stop {
    Stop::Disagree(format!("nt-hive cannot read {what}: {e}"))
}

fn path_of(edit: &HiveEdit) -> &[Name] {
    match edit {
        HiveEdit::DeleteValue { key, .. }
        | HiveEdit::DeleteSubkeys { key }
        | HiveEdit::DeleteKey { key } => key,
    }
}

fn units<'n>(name: &NtHiveNameString<'n>) -> Vec<u16> {
    match name {
        NtHiveNameString::Latin1(bytes) => bytes.iter().map(|byte| u16::from(*byte)).collect(),
        NtHiveNameString::Utf16LE(bytes) => {
            let (pairs, _) = bytes.as_chunks::<2>();
            pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
        }
    }
}

fn matches(name: &NtHiveNameString<'_>, wanted: &Name) -> bool {
    let fold = |unit: &u16| registry_upcase(*unit);
    units(name)
        .iter()
        .map(fold)
        .eq(wanted.units().iter().map(fold))
}

impl Walk<'_> {
    fn all<'h, 'b>(&mut self, hive: &'h nt_hive::Hive<&'b [u8]>) -> Result<(), Stop> {
        let root = hive
            .root_key_node()
            .map_err(|e| disagree("the root key", e))?;
        let mut frames: Vec<Frame<'h, 'b>> = Vec::new();
        let matching = (0..self.doomed.len()).collect();
        let below = self.key(&root, matching, &frames)?;
        frames.extend(below);
        while let Some(frame) = frames.last_mut() {
            let Some(child) = frame.subkeys.next() else {
                frames.pop();
                continue;
            };
            let child = child.map_err(|e| disagree("a subkey", e))?;
            let depth = frames.len();
            if depth > MAX_DEPTH {
                return Err(Stop::Abstain(format!("more than {MAX_DEPTH} levels")));
            }
            let name = child.name().map_err(|e| disagree("a key's name", e))?;
            let matching: Vec<usize> = match frames.last() {
                Some(frame) => frame.matching.iter().copied(),
                None => [].iter().copied(),
            }
            .filter(|i| {
                let path = self.doomed.get(*i).map_or(&[][..], path_of);
                path.get(depth - 1).is_some_and(|step| matches(&name, step))
            })
            .collect();
            let below = self.key(&child, matching, &frames)?;
            frames.extend(below);
        }
        Ok(())
    }

    /// The counts beside a key's name, which lies in our bytes.
    fn counts(&self, name: &NtHiveNameString<'_>) -> Option<Counts> {
        let (NtHiveNameString::Latin1(name) | NtHiveNameString::Utf16LE(name)) = name;
        let start = name
            .as_ptr()
            .addr()
            .checked_sub(self.bytes.as_ptr().addr())?;
        let record = View::new(self.bytes, "key")
            .sub(start.checked_sub(nk::NAME)?, nk::NAME, "key")
            .ok()?;
        let is_predefined = record.u16(nk::FLAGS).ok()? & nk::FLAG_PREDEFINED != 0;
        Some(Counts {
            subkeys: record.u32(nk::SUBKEYS).ok()?,
            values: if is_predefined {
                0
            } else {
                record.u32(nk::VALUES).ok()?
            },
        })
    }

    fn key<'h, 'b>(
        &mut self,
        key: &Key<'h, 'b>,
        matching: Vec<usize>,
        above: &[Frame<'h, 'b>],
    ) -> Result<Option<Frame<'h, 'b>>, Stop> {
        self.keys = self.keys.saturating_add(1);
        // A key takes 80 bytes at least: more of them can only be a loop.
        if self.keys > u64::try_from(self.bytes.len() / 80).unwrap_or(u64::MAX) {
            return Err(Stop::Disagree("nt-hive finds keys without end".into()));
        }
        let name = key.name().map_err(|e| disagree("a key's name", e))?;
        let counts = self
            .counts(&name)
            .ok_or_else(|| Stop::Abstain("a key's name lies outside the hive".into()))?;
        let depth = above.len();
        let here: Vec<&HiveEdit> = matching
            .iter()
            .filter_map(|i| self.doomed.get(*i))
            .filter(|edit| path_of(edit).len() == depth)
            .collect();
        let own_name = Name(units(&name));
        let path = || {
            let names = above.iter().filter_map(|frame| frame.name.as_ref());
            let own = (depth != 0).then_some(&own_name);
            names
                .chain(own)
                .fold(String::new(), |path, name| format!("{path}\\{name}"))
        };
        for edit in &here {
            let is_left = match edit {
                HiveEdit::DeleteKey { .. } => true,
                HiveEdit::DeleteSubkeys { .. } => counts.subkeys != 0,
                HiveEdit::DeleteValue { .. } => false,
            };
            if is_left {
                return Err(Stop::Disagree(format!("still there: {}", path())));
            }
        }
        if counts.values != 0 {
            self.key_values(key, &counts, &here, &path)?;
        }
        if counts.subkeys == 0 {
            return Ok(None);
        }
        match key.subkeys() {
            Some(Ok(subkeys)) => Ok(Some(Frame {
                subkeys,
                matching,
                name: (depth != 0).then_some(own_name),
            })),
            Some(Err(e)) => Err(disagree(&format!("the subkeys of {}", path()), e)),
            None => Err(disagree(&path(), "no subkey list")),
        }
    }

    fn key_values(
        &mut self,
        key: &Key<'_, '_>,
        counts: &Counts,
        doomed: &[&HiveEdit],
        path: &dyn Fn() -> String,
    ) -> Result<(), Stop> {
        let list = match key.values() {
            Some(Ok(list)) => list,
            Some(Err(e)) => return Err(disagree(&format!("the values of {}", path()), e)),
            None => return Err(disagree(&path(), "no value list")),
        };
        let mut seen = 0u32;
        for value in list {
            let value = value.map_err(|e| disagree(&format!("a value of {}", path()), e))?;
            seen = seen.saturating_add(1);
            let name = value
                .name()
                .map_err(|e| disagree(&format!("a value's name in {}", path()), e))?;
            for edit in doomed {
                if let HiveEdit::DeleteValue { value: gone, .. } = edit
                    && matches(&name, gone)
                {
                    return Err(Stop::Disagree(format!(
                        "still there: value {gone} of {}",
                        path()
                    )));
                }
            }
            let len = u64::from(value.data_size());
            if len > PLAIN_LIMIT && self.minor < 4 {
                self.unread.get_or_insert_with(|| {
                    format!(
                        "nt-hive cannot read values above 16344 bytes of 1.{} hives: value {} of {}",
                        self.minor,
                        Name(units(&name)),
                        path()
                    )
                });
                continue;
            }
            if len == 0 {
                // Without data there is no cell; the reader would look for one and panic.
                continue;
            }
            let read = match value.data() {
                Ok(KeyValueData::Small(bytes)) => bytes.len(),
                Ok(KeyValueData::Big(parts)) => {
                    let mut sum = 0usize;
                    for part in parts {
                        let part = part.map_err(|e| disagree("big data", e))?;
                        sum = sum.saturating_add(part.len());
                    }
                    sum
                }
                Err(e) => {
                    let what = format!("value {} of {}", Name(units(&name)), path());
                    return Err(disagree(&what, e));
                }
            };
            if u64::try_from(read).ok() != Some(len) {
                return Err(Stop::Disagree(format!(
                    "value {} of {}: {len} bytes expected, nt-hive read {read}",
                    Name(units(&name)),
                    path()
                )));
            }
        }
        self.values = self.values.saturating_add(u64::from(seen));
        if seen != counts.values {
            return Err(Stop::Disagree(format!(
                "{} values in {} expected, nt-hive found {seen}",
                counts.values,
                path()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hive_is_not_vouched_for() {
        let agrees = |bytes: &[u8]| matches!(witness(bytes, &[]), Verdict::Agrees { .. });
        assert!(!agrees(b""));
        let mut bytes = vec![0; 8192];
        assert!(!agrees(&bytes));
        // The root cell is "none": the reader asserts, the witness does not.
        if let Some(root) = bytes.get_mut(36..40) {
            root.fill(0xFF);
        }
        assert!(matches!(witness(&bytes, &[]), Verdict::Abstains(_)));
    }
}
