//! The census: files by name and a fingerprint of all files, in one pass over $MFT.

use super::{
    Ntfs,
    attribute::FileName,
    format::{attribute, code, file_name, record, standard_information},
    opaque::Opaques,
    scan::{Scanned, resident_value},
    unreadable::{self, Losses},
    upcase::UpCase,
};
use crate::{
    error::Result,
    text::ascii_upcase,
    tree::{Census, Listing, MOST_ALIKE, MOST_NAMED, MetadataChunk, NamePart, NamePattern},
    units::MftReference,
};

/// Two 64-bit lanes of multiply-and-shift mixing. Finds accidents, not attackers: both sides of
/// every comparison are made by declone from the same volume.
#[derive(Clone, Copy, Debug)]
struct Mixer {
    a: u64,
    b: u64,
}

impl Mixer {
    fn new(seed: u64) -> Self {
        let mut mixer = Self {
            a: 0x243F_6A88_85A3_08D3,
            b: 0x1319_8A2E_0370_7344,
        };
        mixer.word(seed);
        mixer
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.a = (self.a ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.a ^= self.a.wrapping_shr(29);
        self.b = (self.b.rotate_left(23) ^ word).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        self.b ^= self.b.wrapping_shr(31);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(
            u64::from_le_bytes(last) ^ u64::try_from(bytes.len()).unwrap_or(0).rotate_left(56),
        );
    }

    fn finish(mut self) -> u128 {
        self.word(self.a.rotate_left(32) ^ self.b);
        u128::from(self.a).wrapping_shl(64) | u128::from(self.b)
    }
}

/// What a record in use adds to the listing: its number, sequence, flags, base; every name with its
/// parent; every data stream with its name, length and flags; the DOS attributes; which other
/// attributes there are. Not the indexes and bitmaps (removing a file changes its directory's), nor
/// times, LSNs and update sequences.
pub(super) fn contribution(
    scanned: Scanned<'_>,
    mut each_name: impl FnMut(&[u8]),
) -> (Listing, std::result::Result<(), &'static str>) {
    let mut listing = Listing::default();
    let base = scanned.u64(record::BASE);
    let mut mixer = Mixer::new(scanned.number);
    mixer.word(
        u64::from(scanned.u16(record::SEQUENCE))
            | u64::from(scanned.u16(record::FLAGS)).wrapping_shl(16),
    );
    mixer.word(base);
    if base == 0 {
        listing.files = 1;
    }
    let mut names = 0u64;
    let walked = if scanned.valid {
        scanned.each_attribute(|code, bytes| match code {
            code::INDEX_ROOT | code::INDEX_ALLOCATION | code::BITMAP => {}
            code::FILE_NAME => {
                let Some(value) = resident_value(bytes) else {
                    return;
                };
                names = names.saturating_add(1);
                let parent = value.first_chunk::<8>().copied().unwrap_or_default();
                mixer.word(u64::from_le_bytes(parent));
                let name = value.get(file_name::NAME_LEN..).unwrap_or_default();
                mixer.bytes(name);
                each_name(name);
            }
            code::STANDARD_INFORMATION => {
                let value = resident_value(bytes).unwrap_or_default();
                let at = standard_information::ATTRIBUTES;
                mixer.bytes(value.get(at..at.saturating_add(4)).unwrap_or_default());
            }
            code::DATA => data_stream(&mut mixer, bytes),
            other => mixer.word(u64::from(other)),
        })
    } else {
        Err("a valid update sequence")
    };
    if walked.is_err() {
        mixer.word(u64::MAX);
    }
    listing.names = names;
    listing.sum = mixer.finish();
    (listing, walked)
}

/// The name, length and flags of a data stream; of a further piece only its first VCN.
fn data_stream(mixer: &mut Mixer, bytes: &[u8]) {
    let array = |at: usize| -> [u8; 8] {
        bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk::<8>)
            .copied()
            .unwrap_or_default()
    };
    let [non_resident, name_len, n0, n1, f0, f1, _, _] = array(attribute::NON_RESIDENT);
    let name_at = usize::from(u16::from_le_bytes([n0, n1]));
    let name_end = name_at.saturating_add(usize::from(name_len).saturating_mul(2));
    mixer.bytes(bytes.get(name_at..name_end).unwrap_or_default());
    mixer.word(u64::from_le_bytes([0x80, 0, f0, f1, 0, 0, 0, 0]));
    if non_resident == 0 {
        let [l0, l1, l2, l3, ..] = array(attribute::VALUE_LEN);
        mixer.word(u64::from(u32::from_le_bytes([l0, l1, l2, l3])));
        return;
    }
    let first = u64::from_le_bytes(array(attribute::FIRST_VCN));
    mixer.word(first);
    if first == 0 {
        mixer.word(u64::from_le_bytes(array(attribute::DATA_LEN)));
    }
}

/// Names to look for, arranged so that almost every other name is dismissed by its length and its
/// first unit, or by its last.
#[derive(Debug)]
struct Matcher<'a> {
    upcase: &'a UpCase,
    /// Whole names and beginnings.
    patterns: Vec<NamePattern>,
    /// Ends of names.
    ends: Vec<Vec<u16>>,
    last_ascii: [bool; 128],
    lengths: [bool; 256],
    first_ascii: [bool; 128],
    first_other: bool,
}

impl<'a> Matcher<'a> {
    fn new(upcase: &'a UpCase, patterns: &[NamePattern]) -> Self {
        let (ends, patterns): (Vec<NamePattern>, Vec<NamePattern>) = patterns
            .iter()
            .map(|pattern| NamePattern {
                folded: upcase.fold_name(&pattern.folded),
                part: pattern.part,
            })
            .partition(|pattern| pattern.part == NamePart::End);
        let mut matcher = Self {
            upcase,
            patterns,
            ends: ends.into_iter().map(|end| end.folded).collect(),
            last_ascii: [false; 128],
            lengths: [false; 256],
            first_ascii: [false; 128],
            first_other: false,
        };
        for pattern in &matcher.patterns {
            let len = pattern.folded.len();
            for (at, place) in matcher.lengths.iter_mut().enumerate() {
                *place |= at == len || (pattern.part == NamePart::Start && at >= len);
            }
            match pattern.folded.first() {
                // Units above ASCII may fold to ASCII (long s): they all pass the filter.
                Some(unit) => {
                    if let Some(place) = matcher.first_ascii.get_mut(usize::from(*unit)) {
                        *place = true;
                    }
                }
                None => matcher.first_ascii = [true; 128],
            }
            matcher.first_other = true;
        }
        for last in matcher.ends.iter().filter_map(|end| end.last()) {
            if let Some(place) = matcher.last_ascii.get_mut(usize::from(*last)) {
                *place = true;
            }
        }
        matcher
    }

    /// Whether a name (length byte, namespace byte, units) is one of those looked for.
    #[inline]
    fn matches(&self, name: &[u8]) -> bool {
        let Some(([len, _, u0, u1], _)) = name.split_first_chunk::<4>() else {
            return false;
        };
        let first = u16::from_le_bytes([*u0, *u1]);
        let may = self.lengths.get(usize::from(*len)).copied() == Some(true)
            && self
                .first_ascii
                .get(usize::from(ascii_upcase(first)))
                .copied()
                .unwrap_or(self.first_other);
        (may && self.matches_slowly(usize::from(*len), name)) || self.ends_so(*len, name)
    }

    /// Nothing is allocated: every tenth name or so ends with one of the letters in question.
    #[inline]
    fn ends_so(&self, len: u8, name: &[u8]) -> bool {
        let units = name.get(2..).unwrap_or_default().as_chunks::<2>().0;
        let Some(units) = units.get(..usize::from(len)) else {
            return false;
        };
        let unit = |pair: &[u8; 2]| u16::from_le_bytes(*pair);
        let may = units.last().is_some_and(|last| {
            let place = self.last_ascii.get(usize::from(ascii_upcase(unit(last))));
            place.copied() == Some(true)
        });
        may && self.ends.iter().any(|end| {
            let at = units.len().checked_sub(end.len());
            let tail = at.and_then(|at| units.get(at..)).unwrap_or_default();
            tail.len() == end.len()
                && tail
                    .iter()
                    .zip(end)
                    .all(|(pair, want)| self.upcase.fold(unit(pair)) == *want)
        })
    }

    fn matches_slowly(&self, len: usize, name: &[u8]) -> bool {
        let folded = self.folded(len, name);
        let mut patterns = self.patterns.iter();
        patterns.any(|pattern| pattern.matches_folded(&folded))
    }

    /// Whether a name that matches does so as a whole.
    fn is_whole(&self, name: &[u8]) -> bool {
        let len = name.first().copied().unwrap_or(0);
        let folded = self.folded(usize::from(len), name);
        let whole = |pattern: &&NamePattern| pattern.part == NamePart::Whole;
        let mut patterns = self.patterns.iter().filter(whole);
        patterns.any(|pattern| pattern.matches_folded(&folded))
    }

    /// The units of a name, none if it is cut off.
    fn folded(&self, len: usize, name: &[u8]) -> Vec<u16> {
        let units = name.get(2..).unwrap_or_default().as_chunks::<2>().0;
        let units = units.get(..len).unwrap_or_default().iter();
        units
            .map(|pair| self.upcase.fold(u16::from_le_bytes(*pair)))
            .collect()
    }
}

/// What one reading thread gathers.
#[derive(Debug, Default)]
struct Part {
    /// Of a whole name looked for: base records, each with the record in which the name stands.
    named: Vec<(MftReference, u64)>,
    /// Of a part of a name.
    alike: Vec<(MftReference, u64)>,
    cut: u64,
    /// Directories called as those in which Windows has its hives.
    anchors: Vec<MftReference>,
    /// All directories, as long as they are few.
    directories: Vec<MftReference>,
    listing: Listing,
    opaque: Opaques,
}

impl Ntfs {
    /// See [`FileTree::census`](crate::tree::FileTree::census).
    pub(super) fn take_census(
        &self,
        patterns: &[NamePattern],
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        let matcher = Matcher::new(&self.upcase, patterns);
        let anchor = Matcher::new(&self.upcase, &[NamePattern::exact(unreadable::ANCHOR)]);
        let (parts, mut problems) = self.scan(
            |part: &mut Part, scanned, problems| {
                if !scanned.is_in_use() {
                    return;
                }
                let (mut matched, mut whole, mut anchored) = (false, false, false);
                let (sum, walked) = contribution(scanned, |name| {
                    if matcher.matches(name) {
                        matched = true;
                        whole |= matcher.is_whole(name);
                    }
                    anchored |= anchor.matches(name);
                });
                part.listing.add(&sum);
                part.opaque.look(scanned);
                let base = MftReference(scanned.u64(record::BASE));
                let own = MftReference::new(scanned.number, scanned.u16(record::SEQUENCE));
                if matched {
                    let of = if base.0 == 0 { own } else { base };
                    // Whole names apart: a full recycle bin must not push them out.
                    let (list, most) = match whole {
                        true => (&mut part.named, MOST_NAMED),
                        false => (&mut part.alike, MOST_ALIKE),
                    };
                    match list.len() < most {
                        true => list.push((of, scanned.number)),
                        false => part.cut = part.cut.saturating_add(1),
                    }
                }
                if scanned.valid && base.0 == 0 && scanned.is_directory() {
                    if anchored && part.anchors.len() < unreadable::MAX_ANCHORS {
                        part.anchors.push(own);
                    }
                    if part.directories.len() <= unreadable::FEW_DIRECTORIES {
                        part.directories.push(own);
                    }
                }
                if let Err(expected) = walked
                    && scanned.valid
                {
                    problems.note_unusable(scanned.number);
                    problems.add(format_args!(
                        "file record: {expected} expected, found otherwise (file record {})",
                        scanned.number
                    ));
                }
            },
            search,
        )?;
        let (mut found, mut alike) = (Vec::new(), Vec::new());
        let mut listing = Listing::default();
        let mut cut = 0_u64;
        let (mut anchors, mut directories) = (Vec::new(), Vec::new());
        let mut opaque = Opaques::default();
        for part in parts {
            listing.add(&part.listing);
            opaque.join(part.opaque);
            found.extend(part.named);
            alike.extend(part.alike);
            cut = cut.saturating_add(part.cut);
            anchors.extend(part.anchors);
            directories.extend(part.directories);
        }
        for (list, most) in [(&mut found, MOST_NAMED), (&mut alike, MOST_ALIKE)] {
            list.sort_unstable();
            list.dedup();
            let more = list.len().saturating_sub(most);
            cut = cut.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
            list.truncate(most);
        }
        found.extend(alike);
        found.sort_unstable();
        found.dedup();
        let is_wanted = |name: &FileName| {
            let value = name.raw.get(file_name::NAME_LEN..).unwrap_or_default();
            matcher.matches(value)
        };
        let mut losses = Losses::new(self, &is_wanted, &mut problems);
        let mut entries = Vec::with_capacity(found.len());
        for same in found.chunk_by(|a, b| a.0 == b.0) {
            entries.extend(losses.entry(same));
        }
        losses.compare_indexes(anchors, directories)?;
        let unreadable = losses.finish();
        Ok(Census {
            found: entries,
            listing,
            problems: problems.lines,
            problem_count: problems.count,
            cut,
            unreadable,
            opaque: opaque.name(self),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::super::record::tests::{record_of, resident};
    use super::*;

    fn name_value(parent: u64, name: &str) -> Vec<u8> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut v = vec![0u8; 0x42];
        v[..8].copy_from_slice(&parent.to_le_bytes());
        v[0x40] = (units.len() / 2) as u8;
        v[0x41] = 1;
        v.extend(units);
        v
    }

    fn of(bytes: &[u8]) -> (Listing, Vec<Vec<u8>>) {
        let mut names = Vec::new();
        let scanned = Scanned {
            number: 30,
            bytes,
            valid: true,
        };
        let (listing, walked) = contribution(scanned, |name| names.push(name.to_vec()));
        walked.unwrap();
        (listing, names)
    }

    #[test]
    fn the_listing_sees_names_and_lengths_and_nothing_volatile() {
        let good = record_of(
            30,
            &[
                resident(0x10, 0, &[0; 72]),
                resident(0x30, 1, &name_value(5, "Smscfg.ini")),
                resident(0x80, 2, b"hello"),
            ],
        );
        let (listing, names) = of(&good);
        assert_eq!((listing.files, listing.names, names.len()), (1, 1, 1));
        let changed = |at: usize| {
            let mut r = good.clone();
            r[at] ^= 1;
            of(&r).0.sum
        };
        for at in [
            0x10,
            0x16,
            0x17,
            0x50 + 0x20,
            0x98 + 0x18,
            0x98 + 0x18 + 0x42,
        ] {
            assert_ne!(changed(at), listing.sum, "{at:#x}");
        }
        // LSN, update sequence, a time, the name's copied size.
        for at in [0x08, 0x30, 0x50, 0x98 + 0x18 + 0x30] {
            assert_eq!(changed(at), listing.sum, "{at:#x}");
        }
    }

    #[test]
    fn patterns_match_folded_and_whole() {
        let upcase = UpCase::fallback();
        let matcher = Matcher::new(
            &upcase,
            &[
                NamePattern::exact("Smscfg.ini"),
                NamePattern::prefix("SOFTWARE."),
                NamePattern::suffix(".hiv"),
            ],
        );
        let m = |name: &str| matcher.matches(&name_value(5, name)[0x40..]);
        assert!(m("SMSCFG.INI") && m("smscfg.ini") && m("software.LOG1") && m("Software."));
        assert!(!m("Smscfg.in") && !m("Smscfg.ini ") && !m("software") && !m("xmscfg.ini"));
        assert!(m("x.HIV") && m(".hiv") && !m("hiv") && !m("x.hivv") && !m("x.hi"));
        assert!(!matcher.matches(&[]));
        assert!(!matcher.matches(&[10, 1, b'S', 0]));
    }
}
