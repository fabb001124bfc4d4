//! Many byte strings at once: one pass, whose cost does not grow with their number, and memory that
//! grows with their bytes alone.
//!
//! Each string is known by a window of a few bytes (letters folded): a filter of bits dismisses
//! almost every place, a table tells whose window it is, and the string is then compared in full.

use std::collections::HashMap;

/// Bytes of a window; fewer where a string is shorter.
const WINDOW: usize = 8;
/// Windows of a string that are weighed against each other.
const CHOICES: usize = 24;
/// Bits of the filter: at least, and at most.
const FILTER_BITS: (u32, u32) = (16, 23);

#[derive(Debug)]
struct Needle {
    bytes: Vec<u8>,
    fold: bool,
}

/// A place where a string begins that has the window: its number, and where the window lies in it.
type Owner = (usize, usize);

/// A set of byte strings, ready to be searched for.
#[derive(Debug, Default)]
pub struct Needles {
    needles: Vec<Needle>,
    owners: HashMap<u64, Vec<Owner>>,
    filter: Vec<u64>,
    shift: u32,
    width: usize,
    mask: u64,
}

fn mix(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn push(key: u64, byte: u8) -> u64 {
    key.wrapping_shl(8) | u64::from(byte.to_ascii_lowercase())
}

impl Needles {
    /// Prepares a search for strings, each with whether ASCII letters match in either case. Empty ones
    /// are nowhere.
    pub fn new<'a>(strings: impl IntoIterator<Item = (&'a [u8], bool)>) -> Self {
        let needles: Vec<Needle> = strings
            .into_iter()
            .map(|(bytes, fold)| Needle {
                bytes: bytes.to_vec(),
                fold,
            })
            .collect();
        let lengths = needles.iter().map(|needle| needle.bytes.len());
        let width = lengths
            .filter(|len| *len > 0)
            .min()
            .unwrap_or(WINDOW)
            .min(WINDOW);
        let mut out = Self {
            width,
            mask: (0..width).fold(0, |mask, _| push(mask, 0xFF)),
            ..Self::default()
        };
        for (index, needle) in needles.iter().enumerate() {
            if let Some((key, start)) = out.window_of(&needle.bytes) {
                out.owners.entry(key).or_default().push((index, start));
            }
        }
        out.needles = needles;
        let count = u64::try_from(out.owners.len()).unwrap_or(u64::MAX);
        let wanted = count.saturating_mul(16).max(1).ilog2().saturating_add(1);
        let bits = wanted.clamp(FILTER_BITS.0, FILTER_BITS.1);
        out.shift = 64_u32.saturating_sub(bits);
        let words = usize::try_from(1_u64.wrapping_shl(bits) / 64).unwrap_or(1);
        out.filter = vec![0; words];
        for key in out.owners.keys() {
            let (word, bit) = place(mix(*key), out.shift);
            if let Some(word) = out.filter.get_mut(word) {
                *word |= bit;
            }
        }
        out
    }

    /// The window that tells most: no run of one byte if there is another, shared with few strings.
    fn window_of(&self, bytes: &[u8]) -> Option<(u64, usize)> {
        let windows = bytes.len().checked_sub(self.width)?.checked_add(1)?;
        let step = windows.div_ceil(CHOICES).max(1);
        let choices = (0..windows).step_by(step).filter_map(|start| {
            let window = bytes.get(start..)?.get(..self.width)?;
            let key = window.iter().fold(0, |key, byte| push(key, *byte));
            let same = window.iter().all(|byte| window.first() == Some(byte));
            let shared = self.owners.get(&key).map_or(0, Vec::len);
            Some(((same, shared, start), key))
        });
        let (rank, key) = choices.min()?;
        (!bytes.is_empty()).then_some((key, rank.2))
    }

    /// Whether there is nothing to search for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Tells each string found: its number, where it begins, its length. Of places of one string
    /// that lie on top of each other only the first is told. `found` says whether to go on.
    pub fn each(&self, bytes: &[u8], mut found: impl FnMut(usize, usize, usize) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut taken: HashMap<usize, usize> = HashMap::new();
        let mut key = 0;
        let before = self.width.saturating_sub(1);
        for (at, byte) in bytes.iter().enumerate() {
            key = push(key, *byte) & self.mask;
            let (word, bit) = place(mix(key), self.shift);
            if self.filter.get(word).is_none_or(|word| word & bit == 0) {
                continue;
            }
            let Some(window) = at.checked_sub(before) else {
                continue;
            };
            for (index, start) in self.owners.get(&key).into_iter().flatten() {
                let Some(begin) = window.checked_sub(*start) else {
                    continue;
                };
                if taken.get(index).is_some_and(|end| begin < *end) {
                    continue;
                }
                if let Some(len) = self.len_at(*index, bytes, begin) {
                    taken.insert(*index, begin.saturating_add(len));
                    if !found(*index, begin, len) {
                        return;
                    }
                }
            }
        }
    }

    fn len_at(&self, index: usize, bytes: &[u8], begin: usize) -> Option<usize> {
        let needle = self.needles.get(index)?;
        let there = bytes.get(begin..)?.get(..needle.bytes.len())?;
        let same = match needle.fold {
            true => there.eq_ignore_ascii_case(&needle.bytes),
            false => there == needle.bytes,
        };
        same.then_some(needle.bytes.len())
    }

    /// Where the first string begins.
    #[must_use]
    pub fn first(&self, bytes: &[u8]) -> Option<usize> {
        let mut first: Option<usize> = None;
        self.each(bytes, |_, begin, _| {
            first = Some(first.map_or(begin, |before| before.min(begin)));
            true
        });
        first
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self, bytes: &[u8]) -> usize {
        let mut count = 0_usize;
        self.each(bytes, |_, _, _| {
            count = count.saturating_add(1);
            true
        });
        count
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let mut is_in = false;
        self.each(bytes, |_, _, _| {
            is_in = true;
            false
        });
        is_in
    }
}

/// The word of the filter, and the bit in it.
fn place(mixed: u64, shift: u32) -> (usize, u64) {
    let at = mixed.wrapping_shr(shift);
    let word = usize::try_from(at / 64).unwrap_or(usize::MAX);
    (
        word,
        1_u64.wrapping_shl(u32::try_from(at % 64).unwrap_or(0)),
    )
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    fn all(strings: &[(&[u8], bool)], bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        Needles::new(strings.iter().copied()).each(bytes, |index, at, _| {
            out.push((at, index));
            true
        });
        out.sort_unstable();
        out
    }

    #[test]
    fn each_string_is_found_at_every_place_in_its_case() {
        let strings: [(&[u8], bool); 4] = [
            (b"abcdefgh-1", true),
            (b"ABCDEFGH-1", false),
            (b"xyz", false),
            (b"", true),
        ];
        for at in 0..40 {
            let mut hay = vec![b'.'; 60];
            hay[at..at + 10].copy_from_slice(b"ABCDEFGH-1");
            assert_eq!(all(&strings, &hay), [(at, 0), (at, 1)]);
            hay[at..at + 10].copy_from_slice(b"AbcDEFGH-1");
            hay[50..53].copy_from_slice(b"xyz");
            assert_eq!(all(&strings, &hay), [(at, 0), (50, 2)]);
        }
        assert!(Needles::new([]).is_empty() && !Needles::new([]).is_in(b"abc"));
        assert!(Needles::new([(&b""[..], true)]).is_empty());
    }

    /// Against the plain way, with few letters, so that much matches.
    #[test]
    fn it_finds_what_a_plain_search_finds() {
        let mut seed = 1_u64;
        let mut letters = |len: usize| -> Vec<u8> {
            (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    b"aAbz"[(seed >> 60) as usize % 4]
                })
                .collect()
        };
        for round in 0..300 {
            let strings: Vec<Vec<u8>> = (0..8).map(|i| letters(3 + (round + i) % 9)).collect();
            let hay = letters(400);
            let set: Vec<(&[u8], bool)> = strings.iter().map(|s| (&s[..], s[0] == b'a')).collect();
            let mut want = Vec::new();
            for (index, (string, fold)) in set.iter().enumerate() {
                let mut from = 0;
                for (at, window) in hay.windows(string.len()).enumerate() {
                    let same = window == *string || *fold && window.eq_ignore_ascii_case(string);
                    if at >= from && same {
                        want.push((at, index));
                        from = at + string.len();
                    }
                }
            }
            want.sort_unstable();
            assert_eq!(all(&set, &hay), want);
        }
    }

    /// Periodic strings in periodic bytes: a quadratic search would take minutes.
    #[test]
    fn periodic_strings_cost_no_more_than_others() {
        let started = std::time::Instant::now();
        let strings: Vec<Vec<u8>> = (8..1000).map(|len| b"A=".repeat(len)).collect();
        let needles = Needles::new(strings.iter().take(100).map(|s| (&s[..], true)));
        assert!(needles.count(&b"a=".repeat(1 << 15)) > 1 << 12);
        let run = vec![b'A'; 100_000];
        let needles = Needles::new([(&run[..], true)]);
        assert_eq!(needles.count(&vec![b'a'; 1 << 20]), 10);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
