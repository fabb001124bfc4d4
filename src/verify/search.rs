//! The token search: many byte strings, any ASCII case, at several gigabytes a second.
//!
//! Each token gives a window of a few bytes with few case variants to a packed (SIMD) searcher;
//! a candidate is then compared in full. Measured choice: `shared/facts/crates.md` section 8.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aho_corasick::{AhoCorasick, MatchKind, packed};

use super::protected;
use crate::{
    bytes::many::Needles,
    device::{BlockDevice, HostFile},
    error::{Error, Result},
    plan::tokens::{Class, MAX_LEN, Token},
};

/// Bytes of a token that the packed searcher looks for.
const WINDOW: usize = 5;
/// Patterns a packed searcher takes before it slows down.
const GROUP: usize = 48;
/// Patterns up to which the packed searcher is the fastest: every group is a pass over the bytes.
const MAX_PACKED: usize = 16 * GROUP;
/// Longest token; longer ones are cut (their first bytes are evidence enough).
const MAX_TOKEN: usize = MAX_LEN;
/// Hits that are given an owner and listed when only looking; the rest is counted.
pub const MAX_LISTED: usize = 4096;
/// Hits that a clean can hold: each is wiped or reported, so more is an error, never silence.
pub const MAX_HITS: usize = 1 << 18;
/// Bytes searched at a time.
const CHUNK: usize = 4 << 20;
/// Shorter pieces are read: a mapping costs more than the copy.
const MAP_MIN: usize = 1 << 20;
/// Bytes mapped at a time: every mapping costs both threads a pause when it goes.
const MAP_CHUNK: u64 = 12 << 20;

/// The line of a Smscfg.ini, up to its GUID: it says itself whose GUID follows.
const INI_LINE: &str = "SMS Unique Identifier=GUID:";

/// Where a token was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hit {
    /// Position, in the space the caller searched.
    pub offset: u64,
    /// Length of the match.
    pub len: u64,
    /// Index of the token.
    pub token: usize,
}

#[derive(Debug)]
struct Group {
    engine: Engine,
    /// For each pattern: the tokens it may begin, and where in the token the window lies.
    owners: Vec<Vec<(usize, usize)>>,
}

#[derive(Debug)]
enum Engine {
    Packed(packed::Searcher),
    Automaton(AhoCorasick),
}

/// A set of tokens, ready to be searched for.
#[derive(Debug)]
pub struct Searcher {
    tokens: Vec<Token>,
    groups: Vec<Group>,
    /// The tokens themselves, where they are too many for groups; those of the generic search have
    /// their groups all the same.
    many: Option<Needles>,
    longest: usize,
    generic: Option<usize>,
}

fn folded(byte: u8) -> u8 {
    byte.to_ascii_lowercase()
}

/// Every way the window can be written, or `None` if there are too many.
fn variants(window: &[u8], fold: bool) -> Vec<Vec<u8>> {
    let mut out = vec![Vec::with_capacity(window.len())];
    for byte in window {
        let both = fold && byte.is_ascii_alphabetic();
        let mut next = Vec::with_capacity(out.len() * 2);
        for prefix in out {
            if both {
                let mut other = prefix.clone();
                other.push(byte.to_ascii_uppercase());
                next.push(other);
            }
            let mut same = prefix;
            same.push(if both {
                byte.to_ascii_lowercase()
            } else {
                *byte
            });
            next.push(same);
        }
        out = next;
    }
    out
}

impl Searcher {
    /// Prepares a search. `generic` also finds `GUID:` followed by any GUID, in ASCII and UTF-16, and
    /// the same behind the key of a Smscfg.ini.
    pub fn new(tokens: &[Token], generic: bool) -> Result<Self> {
        let mut tokens: Vec<Token> = tokens.to_vec();
        let first_generic = tokens.len();
        if generic {
            for text in [INI_LINE, "GUID:"] {
                let wide = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                for (form, bytes) in [("ASCII", text.as_bytes().to_vec()), ("UTF-16", wide)] {
                    tokens.push(Token {
                        label: format!("{text}<any> ({form})"),
                        bytes,
                        fold: true,
                        class: Class::Identifier,
                    });
                }
            }
        }
        let mut patterns: BTreeMap<Vec<u8>, Vec<(usize, usize)>> = BTreeMap::new();
        let mut longest = 0;
        for (index, token) in tokens.iter_mut().enumerate() {
            token.bytes.truncate(MAX_TOKEN);
            longest = longest.max(token.bytes.len() + 80);
            // Few case variants first, then a window that is not one byte repeated: such a run is
            // common, but a token that is nothing else must be searched for all the same.
            let best = token
                .bytes
                .windows(WINDOW)
                .enumerate()
                .min_by_key(|(start, window)| {
                    let same = window.iter().all(|b| *b == window[0]);
                    let letters = window.iter().filter(|b| b.is_ascii_alphabetic()).count();
                    (same, if token.fold { letters } else { 0 }, *start)
                });
            let Some((start, window)) = best else {
                return Err(Error::internal(format!(
                    "search: {} is too short to be searched for",
                    token.label
                )));
            };
            for pattern in variants(window, token.fold) {
                patterns.entry(pattern).or_default().push((index, start));
            }
        }
        let mut groups = Vec::new();
        let mut many = None;
        if patterns.len() > MAX_PACKED {
            let own = &tokens[..first_generic];
            many = Some(Needles::new(
                own.iter().map(|token| (token.bytes.as_slice(), token.fold)),
            ));
            for owners in patterns.values_mut() {
                owners.retain(|(token, _)| *token >= first_generic);
            }
            patterns.retain(|_, owners| !owners.is_empty());
        }
        let all: Vec<_> = patterns.into_iter().collect();
        for part in all.chunks(GROUP) {
            let mut builder = packed::Config::new()
                .match_kind(packed::MatchKind::LeftmostFirst)
                .builder();
            builder.extend(part.iter().map(|(pattern, _)| pattern));
            let engine = match builder.build() {
                Some(searcher) => Engine::Packed(searcher),
                None => Engine::Automaton(
                    AhoCorasick::builder()
                        .match_kind(MatchKind::LeftmostFirst)
                        .build(part.iter().map(|(pattern, _)| pattern))
                        .map_err(|e| Error::internal(format!("search: {e}")))?,
                ),
            };
            groups.push(Group {
                engine,
                owners: part.iter().map(|(_, o)| o.clone()).collect(),
            });
        }
        Ok(Self {
            tokens,
            groups,
            many,
            longest,
            generic: generic.then_some(first_generic),
        })
    }

    /// The tokens, those of the generic search included.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The first token whose hits are a mere shape: `GUID:` and any GUID.
    #[must_use]
    pub fn first_vague(&self) -> usize {
        self.generic.map_or(self.tokens.len(), |first| first + 2)
    }

    /// Takes out what was found by its shape where an identifier that is known, or the line of an
    /// ini, was found. `hits` are sorted.
    pub(super) fn drop_shapes(&self, hits: &mut Vec<Hit>) {
        let Some(first) = self.generic else { return };
        let known = |hit: &&Hit| {
            let class = self.tokens.get(hit.token).map(|token| token.class);
            hit.token < self.first_vague() && class == Some(Class::Identifier)
        };
        let known: Vec<Hit> = hits.iter().filter(known).copied().collect();
        let reach = self.longest as u64;
        hits.retain(|hit| {
            let from = known.partition_point(|other| other.offset + reach <= hit.offset);
            let near = known.get(from..).unwrap_or_default().iter();
            let mut near = near.take_while(|other| other.offset < hit.offset + hit.len);
            hit.token < first
                || !near.any(|other| {
                    other.token < hit.token.min(self.first_vague())
                        && other.token != hit.token
                        && hit.offset < other.offset + other.len
                })
        });
    }

    /// Bytes that two neighbouring pieces must share so that nothing between them is missed.
    #[must_use]
    pub fn overlap(&self) -> usize {
        self.longest
    }

    /// Finds every token in `bytes`; `base` is the position of its first byte. Of places of one token
    /// that lie on top of each other (`AAAA` in a run of `A`) only the first is told: what remains of
    /// the others once it is gone is no such token any more.
    pub fn find(&self, bytes: &[u8], base: u64, hits: &mut Vec<Hit>) {
        if let Some(many) = &self.many {
            many.each(bytes, |token, begin, len| {
                hits.push(Hit {
                    offset: base + begin as u64,
                    len: len as u64,
                    token,
                });
                true
            });
        }
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for group in &self.groups {
            // Each group begins anew: a token has case variants in several.
            taken.clear();
            let mut from = 0;
            while let Some((pattern, at)) = group.next(bytes, from) {
                for (token, start) in &group.owners[pattern] {
                    if let Some(begin) = at.checked_sub(*start)
                        && taken.get(token).is_none_or(|end| begin >= *end)
                        && let Some(len) = self.matches(*token, bytes, begin)
                    {
                        taken.insert(*token, begin + len as usize);
                        hits.push(Hit {
                            offset: base + begin as u64,
                            len,
                            token: *token,
                        });
                    }
                }
                from = at + 1;
            }
        }
    }

    fn matches(&self, index: usize, bytes: &[u8], begin: usize) -> Option<u64> {
        let token = &self.tokens[index];
        let found = bytes.get(begin..begin + token.bytes.len())?;
        let same = if token.fold {
            found
                .iter()
                .zip(&token.bytes)
                .all(|(a, b)| folded(*a) == folded(*b))
        } else {
            found == token.bytes
        };
        if !same {
            return None;
        }
        match self.generic {
            Some(first) if index >= first => {
                let step = if (index - first).is_multiple_of(2) {
                    1
                } else {
                    2
                };
                let rest = bytes.get(begin + token.bytes.len()..)?;
                follows_guid(rest, step).then_some((token.bytes.len() + 36 * step) as u64)
            }
            _ => Some(token.bytes.len() as u64),
        }
    }

    /// Searches the data extents of a device. `map` gives a faster way to the same bytes when the
    /// device is a regular host file. Two threads; `tick` is told how many bytes were searched.
    pub fn find_all(
        &self,
        device: &dyn BlockDevice,
        map: Option<&HostFile>,
        ranges: &[Range<u64>],
        tick: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<Hit>, u64)> {
        let step = if map.is_some() {
            MAP_CHUNK
        } else {
            CHUNK as u64
        };
        let cursor = Mutex::new((0_usize, ranges.first().map_or(0, |range| range.start)));
        let done = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let take = || -> Option<Range<u64>> {
            let mut at = cursor.lock().ok()?;
            loop {
                let range = ranges.get(at.0)?;
                if at.1 >= range.end {
                    at.0 += 1;
                    at.1 = ranges.get(at.0)?.start;
                    continue;
                }
                let start = at.1;
                at.1 = (start + step).min(range.end);
                // Into the next piece, so that a token across the seam is seen by one of the two.
                let shared = self.overlap().max(protected::MAX_LEN) as u64;
                let end = (at.1 + shared).min(range.end);
                return Some(start..end);
            }
        };
        let work = || -> Result<Vec<Hit>> {
            let mut hits = Vec::new();
            let mut buffer = Vec::new();
            while !failed.load(Ordering::Relaxed)
                && let Some(piece) = take()
            {
                let len = (piece.end - piece.start) as usize;
                // mmap wants a page boundary.
                let aligned = piece.start / 4096 * 4096;
                // Where a host file system cannot map, it can still read.
                let window = map
                    .filter(|_| len >= MAP_MIN)
                    .and_then(|file| file.map(aligned..piece.end).ok());
                if let Some(window) = window {
                    let skip = (piece.start - aligned) as usize;
                    window.scan(|bytes| {
                        self.find(&bytes[skip..], piece.start, &mut hits);
                        self.find_protected(&bytes[skip..], piece.start, &mut hits);
                    })?;
                } else {
                    buffer.resize(len, 0);
                    device.read_at(piece.start, &mut buffer)?;
                    self.find(&buffer, piece.start, &mut hits);
                    self.find_protected(&buffer, piece.start, &mut hits);
                }
                tick(done.fetch_add(len as u64, Ordering::Relaxed) + len as u64);
            }
            Ok(hits)
        };
        let guarded = || {
            let result = work();
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            result
        };
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(guarded);
            let mine = guarded();
            (
                mine,
                other
                    .join()
                    .unwrap_or_else(|_| Err(Error::internal("search: thread died"))),
            )
        });
        let mut hits = first?;
        hits.append(&mut second?);
        hits.sort_unstable();
        hits.dedup();
        Ok((hits, done.into_inner()))
    }
}

impl Group {
    fn next(&self, bytes: &[u8], from: usize) -> Option<(usize, usize)> {
        if from > bytes.len() {
            return None;
        }
        match &self.engine {
            Engine::Packed(searcher) => searcher
                .find_in(
                    bytes,
                    aho_corasick::Span {
                        start: from,
                        end: bytes.len(),
                    },
                )
                .map(|found| (found.pattern().as_usize(), found.start())),
            Engine::Automaton(automaton) => automaton
                .find(aho_corasick::Input::new(bytes).span(from..bytes.len()))
                .map(|found| (found.pattern().as_usize(), found.start())),
        }
    }
}

/// Whether 8-4-4-4-12 hex digits follow, `step` bytes a character.
fn follows_guid(bytes: &[u8], step: usize) -> bool {
    (0..36).all(|i| {
        let Some(byte) = bytes.get(i * step) else {
            return false;
        };
        let high_is_zero = step == 1 || bytes.get(i * step + 1) == Some(&0);
        let fits = if matches!(i, 8 | 13 | 18 | 23) {
            *byte == b'-'
        } else {
            byte.is_ascii_hexdigit()
        };
        fits && high_is_zero
    })
}

/// The data extents of a device inside `within`, for walks that skip holes.
pub fn data_ranges(device: &dyn BlockDevice, within: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = within.start;
    while at < within.end
        && let Some(data) = device.next_data(at)?
    {
        if data.start >= within.end {
            break;
        }
        let range = data.start.max(at)..data.end.min(within.end);
        at = range.end;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{device::Memory, plan::tokens};

    fn sample() -> Searcher {
        let mut all = Vec::new();
        tokens::of_identifier("GUID:1F2E3D4C-5566-4777-8899-AABBCCDDEEFF", &mut all);
        tokens::of_text("Smscfg.ini", Class::Name, &mut all);
        tokens::tidy(&mut all);
        Searcher::new(&all, false).unwrap()
    }

    fn found(searcher: &Searcher, bytes: &[u8]) -> Vec<(u64, String)> {
        let mut hits = Vec::new();
        searcher.find(bytes, 0, &mut hits);
        hits.sort_unstable();
        hits.iter()
            .map(|h| (h.offset, searcher.tokens()[h.token].label.clone()))
            .collect()
    }

    #[test]
    fn every_form_is_found_at_every_position() {
        let searcher = sample();
        for token in searcher.tokens().to_vec() {
            for case in [0, 1, 2] {
                if case > 0 && !token.fold {
                    continue;
                }
                let bytes = match case {
                    0 => token.bytes.clone(),
                    1 => token.bytes.to_ascii_uppercase(),
                    _ => token.bytes.to_ascii_lowercase(),
                };
                for at in 0..70 {
                    let mut hay = vec![b'1'; 200];
                    hay[at..at + bytes.len()].copy_from_slice(&bytes);
                    let hits = found(&searcher, &hay);
                    assert!(
                        hits.contains(&(at as u64, token.label.clone())),
                        "{at} {hits:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_token_of_one_repeated_byte_is_searched_for_too() {
        let mut all = Vec::new();
        tokens::of_identifier("00000000", &mut all);
        let searcher = Searcher::new(&all, false).unwrap();
        assert_eq!(found(&searcher, b"id=00000000;").len(), 1);
        let short = Token {
            bytes: vec![1, 2],
            ..all[0].clone()
        };
        assert!(Searcher::new(&[short], false).is_err());
    }

    /// More tokens than groups can bear: one pass, the same answers.
    #[test]
    fn many_tokens_are_found_as_few_are() {
        let mut all = Vec::new();
        let text = |i: usize| format!("{:08x}-1111-2222-3333-{i:012x}", i * 31_321);
        (0..3000).for_each(|i| tokens::of_identifier(&text(i), &mut all));
        let few: Vec<Token> = all[600..606].to_vec();
        let mut hay = vec![b'-'; 1 << 16];
        for (i, token) in few.iter().enumerate() {
            let bytes = token.bytes.to_ascii_uppercase();
            let bytes = if token.fold { &bytes } else { &token.bytes };
            hay[i * 1000..i * 1000 + bytes.len()].copy_from_slice(bytes);
        }
        hay[9000..9041].copy_from_slice(format!("GUID:{}", text(100_000)).as_bytes());
        let many = Searcher::new(&all, true).unwrap();
        assert!(many.many.is_some() && many.groups.len() == 1);
        let mut want = found(&Searcher::new(&few, true).unwrap(), &hay);
        want.dedup();
        assert_eq!(want.len(), 7);
        assert_eq!(found(&many, &hay), want);
    }

    /// `AAAA...` in a run of it: as many hits as have room side by side.
    #[test]
    fn a_periodic_token_is_found_side_by_side() {
        let mut all = Vec::new();
        tokens::of_text(&"A".repeat(20_000), Class::Identifier, &mut all);
        tokens::of_text(&"A=".repeat(20_000), Class::Content, &mut all);
        tokens::tidy(&mut all);
        assert_eq!(all.len(), 4);
        let searcher = Searcher::new(&all, true).unwrap();
        let started = std::time::Instant::now();
        assert_eq!(found(&searcher, &vec![b'a'; 1 << 20]).len(), 1 << 13);
        assert_eq!(found(&searcher, &b"a=".repeat(1 << 19)).len(), 1 << 13);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    #[test]
    fn near_misses_are_not_found() {
        let searcher = sample();
        assert!(
            found(
                &searcher,
                b"1F2E3D4C-5566-4777-8899-AABBCCDDEEF0 Smscfg_ini"
            )
            .is_empty()
        );
        assert!(found(&searcher, b"").is_empty());
    }

    #[test]
    fn a_token_across_two_pieces_is_found_once() {
        let searcher = sample();
        let token = searcher.tokens()[0].bytes.clone();
        let mut bytes = vec![0; CHUNK * 3];
        for seam in [CHUNK - 3, CHUNK * 2 - token.len() + 1] {
            bytes[seam..seam + token.len()].copy_from_slice(&token);
        }
        let device = Arc::new(Memory::new(bytes));
        let all = 0..device.len();
        let (hits, searched) = searcher
            .find_all(device.as_ref(), None, &[all], &|_| {})
            .unwrap();
        let same: Vec<u64> = hits
            .iter()
            .filter(|h| h.token == 0)
            .map(|h| h.offset)
            .collect();
        assert_eq!(
            same,
            [CHUNK as u64 - 3, (CHUNK * 2 - token.len() + 1) as u64]
        );
        assert!(searched >= (CHUNK * 3) as u64);
    }

    #[test]
    fn the_generic_search_wants_a_whole_guid() {
        let searcher = Searcher::new(&[], true).unwrap();
        let hay = b"GUID:12345678-1234-1234-1234-123456789abc guid:nothing GUID:12345678-1234";
        assert_eq!(found(&searcher, hay).len(), 1);
        let wide: Vec<u8> = hay.iter().flat_map(|b| [*b, 0]).collect();
        assert_eq!(found(&searcher, &wide).len(), 1);
        // The line of an ini counts once, as what it is.
        let line = [b"sms unique identifier=".as_slice(), hay].concat();
        let wide: Vec<u8> = line.iter().flat_map(|b| [*b, 0]).collect();
        for bytes in [line, wide] {
            let mut hits = Vec::new();
            searcher.find(&bytes, 0, &mut hits);
            hits.sort_unstable();
            assert_eq!(hits.len(), 2);
            searcher.drop_shapes(&mut hits);
            let [hit] = hits.as_slice() else {
                panic!("{hits:?}");
            };
            assert!(hit.offset == 0 && hit.token < searcher.first_vague());
        }
    }
}
