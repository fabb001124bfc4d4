//! Builds transaction logs of both formats for hives of [`super::hive_builder`], with its own hash.
//!
//! A log is told by two states of a hive: what a write changed stands in the log. Nothing here is
//! shared with the code under test; layout source: msuhanov/regf specification.

use super::{hive_builder::checksum, put};

/// Where the bins begin in a hive file.
pub const BINS: usize = 4096;

/// Marvin32 with the seed of log entries, over whole words (entries are multiples of 512 bytes).
fn hash(bytes: &[u8]) -> u64 {
    assert_eq!(bytes.len() % 4, 0, "an entry's parts are whole words");
    let mut lo: u32 = 0x7a4e_55c5;
    let mut hi: u32 = 0x82ef_4d88;
    let words = bytes
        .chunks(4)
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()));
    for word in words.chain([0x80, 0]) {
        lo = lo.wrapping_add(word);
        hi ^= lo;
        lo = lo.rotate_left(20).wrapping_add(hi);
        hi = hi.rotate_left(9) ^ lo;
        lo = lo.rotate_left(27).wrapping_add(hi);
        hi = hi.rotate_left(19);
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// Puts the right hashes into an entry.
pub fn seal_entry(entry: &mut [u8]) {
    let first = hash(&entry[40..]);
    put::u64(entry, 24, first);
    let second = hash(&entry[..32]);
    put::u64(entry, 32, second);
}

/// Puts the right checksum into a base block or a copy of one.
pub fn seal_header(file: &mut [u8]) {
    let sum = checksum(file);
    put::u32(file, 508, sum);
}

/// `hive` with these sequence numbers.
pub fn with_sequence(hive: &[u8], first: u32, second: u32) -> Vec<u8> {
    let mut hive = hive.to_vec();
    put::u32(&mut hive, 4, first);
    put::u32(&mut hive, 8, second);
    seal_header(&mut hive);
    hive
}

/// `hive` with this time of the last write, in the base block and in the first bin.
pub fn with_time(hive: &[u8], time: u64) -> Vec<u8> {
    let mut hive = hive.to_vec();
    put::u64(&mut hive, 12, time);
    put::u64(&mut hive, BINS + 20, time);
    seal_header(&mut hive);
    hive
}

/// The copy of `hive`'s base block that a log begins with.
pub fn header(hive: &[u8], file_type: u32, sequence: u32) -> Vec<u8> {
    let mut copy = hive[..512].to_vec();
    put::u32(&mut copy, 4, sequence);
    put::u32(&mut copy, 8, sequence);
    put::u32(&mut copy, 28, file_type);
    seal_header(&mut copy);
    copy
}

/// The blocks of this length in which the bins of `after` differ, from the first bin on.
pub fn dirty(before: &[u8], after: &[u8], block: usize) -> Vec<usize> {
    (0..after.len() - BINS)
        .step_by(block)
        .filter(|at| {
            let range = BINS + at..BINS + at + block;
            before.get(range.clone()) != Some(&after[range])
        })
        .collect()
}

/// A log of the old format: the blocks (of `block` bytes: 4096 since XP, 512 before) that lead from
/// `before` to `after`.
pub fn old_log(
    before: &[u8],
    after: &[u8],
    file_type: u32,
    sequence: u32,
    block: usize,
) -> Vec<u8> {
    let mut log = header(after, file_type, sequence);
    let mut vector = b"DIRT".to_vec();
    vector.resize(4 + (after.len() - BINS) / 4096, 0);
    let mut pages: Vec<u8> = Vec::new();
    for at in dirty(before, after, block) {
        for sector in (at..at + block).step_by(512) {
            let bit = sector / 512;
            vector[4 + bit / 8] |= 1 << (bit % 8);
            pages.extend(&after[BINS + sector..BINS + sector + 512]);
        }
    }
    vector.resize(vector.len().next_multiple_of(512), 0);
    log.extend(vector);
    log.extend(pages);
    log
}

/// An entry of the new format with these pages (offset from the first bin, bytes).
pub fn entry(sequence: u32, flags: u32, bins_len: usize, pages: &[(usize, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; 40];
    put::bytes(&mut out, 0, b"HvLE");
    put::u32(&mut out, 8, flags);
    put::u32(&mut out, 12, sequence);
    put::u32(&mut out, 16, u32::try_from(bins_len).unwrap());
    put::u32(&mut out, 20, u32::try_from(pages.len()).unwrap());
    for (at, bytes) in pages {
        out.extend(u32::try_from(*at).unwrap().to_le_bytes());
        out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    }
    for (_, bytes) in pages {
        out.extend(*bytes);
    }
    out.resize(out.len().next_multiple_of(512), 0);
    let len = u32::try_from(out.len()).unwrap();
    put::u32(&mut out, 4, len);
    seal_entry(&mut out);
    out
}

/// The entry of the write that led from `before` to `after`; neighbouring blocks are one page.
pub fn step(before: &[u8], after: &[u8], sequence: u32) -> Vec<u8> {
    let mut pages: Vec<(usize, &[u8])> = Vec::new();
    for at in dirty(before, after, 4096) {
        match pages.last_mut() {
            Some((from, page)) if *from + page.len() == at => {
                *page = &after[BINS + *from..BINS + at + 4096];
            }
            _ => pages.push((at, &after[BINS + at..BINS + at + 4096])),
        }
    }
    entry(sequence, 0, after.len() - BINS, &pages)
}

/// The entries of a real log, one after the other, as long as their numbers follow each other.
pub fn entries(log: &[u8]) -> Vec<&[u8]> {
    let get = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
    let (mut at, mut out) = (512, Vec::new());
    let mut sequence = get(4);
    while log.get(at..at + 4) == Some(b"HvLE") && get(at + 12) == sequence {
        let len = get(at + 4) as usize;
        out.push(&log[at..at + len]);
        at += len;
        sequence = sequence.wrapping_add(1);
    }
    out
}

/// Writes an entry's pages and what its base block becomes; gives its number.
pub fn apply(hive: &mut [u8], entry: &[u8]) -> u32 {
    let get = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
    let count = get(20) as usize;
    let mut from = 40 + 8 * count;
    for i in 0..count {
        let (at, len) = (get(40 + 8 * i) as usize, get(44 + 8 * i) as usize);
        put::bytes(hive, BINS + at, &entry[from..from + len]);
        from += len;
    }
    let sequence = get(12);
    put::u32(hive, 4, sequence);
    put::u32(hive, 8, sequence);
    put::u32(hive, 40, get(16));
    seal_header(hive);
    sequence
}

/// A log of the new format of these entries. The base block is `hive`'s.
pub fn new_log(hive: &[u8], sequence: u32, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut log = header(hive, 6, sequence);
    log.extend(entries.concat());
    log
}
