//! Hives and transaction logs of every kind, decided by a seed: versions 1.3 to 1.6, every list, up
//! to 2,100 children, large values in both forms, classes, a ring of descriptors, names of both
//! widths, depth, free cells and other residue; and what an interrupted write leaves: logs of both
//! formats, in either order, across the wrap of the sequence numbers, with growth and stale tails.
//!
//! The same seed gives the same bytes. Independent of the code under test, like all builders here.

use super::{
    hive_builder::{HiveBuilder, Key, Kind, ListKind, Lists, Residue},
    hive_log_builder as logs, put,
    random::Random,
};

/// Stands in the residue of every generated hive, in both encodings.
pub const RESIDUE: &str = "GUID:residue-of-a-generated-hive";

/// The forms of [`RESIDUE`].
pub fn residue() -> Vec<Vec<u8>> {
    vec![RESIDUE.as_bytes().to_vec(), put::utf16(RESIDUE)]
}

/// Numbers of children at which lists change their form.
const CHILDREN: [usize; 12] = [0, 1, 2, 3, 7, 40, 510, 511, 512, 1012, 1013, 2100];
/// Lengths of data at which its place changes.
const LENGTHS: [usize; 14] = [
    0, 1, 2, 4, 5, 8, 30, 300, 4056, 16_343, 16_344, 16_345, 33_000, 60_000,
];

/// The `number`th name below a key: of one byte a letter, or of two.
fn name(random: &mut Random, number: usize) -> String {
    match random.below(8) {
        0 => format!("Schlüssel {number} größer"),
        1 => format!("Ключ {number}"),
        2 => format!("{number} 名前"),
        3 => format!("pair \u{1d11e}{number}"),
        4 => format!("{number}{}", "long ".repeat(1 + random.below(40))),
        5 => format!("{{{:08X}-7A3B-11D3-9F5E-00C04FA31A86}}", number * 0x9e5),
        _ => format!("Key {number}"),
    }
}

fn data(random: &mut Random, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        let word = random.next();
        // Some text, some bytes.
        if word.is_multiple_of(3) {
            out.extend(put::utf16(&format!("{word:x}")));
        } else {
            out.extend(word.to_le_bytes());
        }
    }
    out.truncate(len);
    out
}

const KINDS: [Kind; 6] = [
    Kind::None,
    Kind::Sz,
    Kind::ExpandSz,
    Kind::Binary,
    Kind::Dword,
    Kind::MultiSz,
];

fn values<'a>(mut key: Key<'a>, random: &mut Random, most: usize) -> Key<'a> {
    for i in 0..random.below(most + 1) {
        let name = match random.below(6) {
            0 if i == 0 => String::new(),
            1 => format!("Wert Ω {i}"),
            2 => format!("Größe {i}"),
            _ => format!("Value {i}"),
        };
        let len = LENGTHS[random.below(LENGTHS.len())];
        let bytes = data(random, len);
        let mut kind = KINDS[random.below(KINDS.len())];
        if kind == Kind::Dword && len != 4 {
            // reglookup reads such a value past its end, into what declone wipes.
            kind = Kind::Binary;
        }
        let slack = if len > 4 && random.chance(5) {
            put::utf16(RESIDUE)
        } else {
            Vec::new()
        };
        key = key.value_with_slack(&name, kind, &bytes, &slack);
    }
    key
}

fn lists(random: &mut Random, minor: u32) -> Lists {
    let kind = match random.below(4) {
        0 => ListKind::Li,
        1 => ListKind::Lf,
        _ if minor >= 5 => ListKind::Lh,
        _ => ListKind::Lf,
    };
    let full = if kind == ListKind::Lf { 511 } else { 1012 };
    Lists {
        kind,
        leaf: [full, full, full, 100, 7, 1][random.below(6)],
        always_ri: random.chance(5),
    }
}

/// The hive of this seed after `writes` writes.
fn describe(seed: u64, writes: usize) -> HiveBuilder {
    let mut random = Random(seed);
    let minor = 3 + (seed % 4) as u32;
    let mut hive = HiveBuilder::new(minor);
    hive.lists(lists(&mut random, minor));
    if random.chance(3) {
        let len = 8 * (1 + random.below(200));
        let mut bytes = data(&mut random, len);
        bytes.extend(put::utf16(RESIDUE));
        hive.before_root(&bytes);
    }
    hive.key("").security(random.below(5) as u32);
    for i in 0..1 + random.below(5) {
        let name = name(&mut random, i);
        let lists = lists(&mut random, minor);
        let security = random.below(9) as u32;
        let key = hive.key(&name).lists(lists).security(security);
        let key = if random.chance(3) {
            key.class("Class of a wide key")
        } else {
            key
        };
        let key = if random.chance(4) {
            key.list_slack(RESIDUE.as_bytes())
        } else {
            key
        };
        values(key, &mut random, 5);
        for j in 0..CHILDREN[random.below(CHILDREN.len())] {
            let mut key = hive.key(&name);
            let mut child = key.key(&self::name(&mut random, j));
            if random.chance(7) {
                child = child.class(&format!("Class {j}"));
            }
            if random.chance(5) {
                child = child.security(random.below(12) as u32);
            }
            if random.chance(60) {
                values(child, &mut random, 3);
            } else if random.chance(2) {
                child.dword("n", j as u32);
            }
        }
    }
    let mut path = "Deep".to_owned();
    for level in 0..random.below(120) {
        path += &format!("\\{level}");
    }
    values(hive.key(&path), &mut random, 3);
    for _ in 0..random.below(12) {
        let len = 8 * random.below(400);
        let mut bytes = data(&mut random, len);
        if random.chance(3) {
            bytes.fill(0);
        }
        bytes.extend(put::utf16(RESIDUE));
        hive.residue(Residue::FreeCell(bytes));
    }
    for write in 0..writes {
        let mut random = Random(seed ^ (write as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1));
        let key = format!(r"Written\{write}");
        values(hive.key(&key).dword("write", write as u32), &mut random, 6);
    }
    hive
}

/// A clean hive of this seed, and whether it has a leaked cell.
pub fn clean(seed: u64) -> (Vec<u8>, bool) {
    let mut random = Random(!seed);
    let mut hive = describe(seed, random.below(2));
    hive.spare_bins(random.below(4));
    let is_leaked = random.chance(3);
    if is_leaked {
        hive.residue(Residue::LeakedCell(put::utf16(RESIDUE)));
    }
    if random.chance(3) {
        hive.residue(Residue::Tail(
            RESIDUE.as_bytes().repeat(1 + random.below(300)),
        ));
    }
    (hive.build(), is_leaked)
}

/// A hive in the middle of a write, and the logs that finish it.
#[derive(Debug)]
pub struct Dirty {
    /// What is special about it.
    pub what: String,
    pub primary: Vec<u8>,
    /// Endings and bytes.
    pub logs: Vec<(&'static str, Vec<u8>)>,
    /// What the replay must give.
    pub wanted: Vec<u8>,
}

/// States of one hive, none shorter than the one before.
fn states(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for writes in 0..count {
        let mut hive = describe(seed, writes);
        let short = out
            .last()
            .map_or(0, |last| last.len().saturating_sub(hive.build().len()));
        hive.spare_bins(short / 4096);
        out.push(hive.build());
    }
    out
}

/// Some of the blocks that the writes changed are in the primary already.
fn half_written(primary: &mut [u8], last: &[u8], random: &mut Random) {
    let bins = primary.len().min(last.len());
    for at in (logs::BINS..bins).step_by(4096) {
        if random.chance(3) {
            put::bytes(primary, at, &last[at..at + 4096]);
        }
    }
}

/// An interrupted write of this seed.
pub fn dirty(seed: u64) -> Dirty {
    let mut random = Random(seed.rotate_left(17) ^ 0x5eed);
    let states = states(seed, 2 + random.below(4));
    let last = &states[states.len() - 1];
    let starts = [10, 500, u32::MAX, u32::MAX - 1, u32::MAX - 2, 0, 1];
    let first = starts[random.below(starts.len())];
    let half = random.chance(2);
    if seed.is_multiple_of(3) {
        return old(&mut random, &states[0], last, first, half);
    }
    let all: Vec<Vec<u8>> = states
        .windows(2)
        .zip(0..)
        .map(|(pair, i)| logs::step(&pair[0], &pair[1], first.wrapping_add(i)))
        .collect();
    let mut primary = logs::with_sequence(&states[0], first, first.wrapping_sub(1));
    if half {
        half_written(&mut primary, last, &mut random);
    }
    let split = random.below(all.len());
    let mut one = logs::new_log(&states[0], first, &all[..all.len() - split]);
    let mut two = Vec::new();
    if split > 0 {
        let at = all.len() - split;
        two = logs::new_log(&states[at], first.wrapping_add(at as u32), &all[at..]);
    }
    let stale = random.chance(2);
    if stale {
        // An older run of entries, then bytes.
        for log in [&mut one, &mut two] {
            if !log.is_empty() {
                log.extend(logs::step(last, &states[0], first.wrapping_sub(9)));
                log.extend([0x5a; 700]);
            }
        }
    } else if two.is_empty() && random.chance(2) {
        two = vec![0; 4096];
    }
    let swapped = random.chance(2);
    let damaged = split == 0 && !half && random.chance(4);
    if damaged {
        primary[4] ^= 0x40;
    }
    let count = all.len() as u32;
    let number = first.wrapping_add(count - 1);
    Dirty {
        what: format!(
            "new format, {count} entries from {first}, {split} in the other log, swapped {swapped}, \
             stale {stale}, half written {half}, base block damaged {damaged}"
        ),
        primary,
        logs: if swapped {
            vec![(".LOG1", two), (".LOG2", one)]
        } else {
            vec![(".LOG1", one), (".LOG2", two)]
        },
        wanted: logs::with_sequence(last, number, number),
    }
}

fn old(random: &mut Random, before: &[u8], after: &[u8], first: u32, half: bool) -> Dirty {
    let (primary, log, what) = old_write(random, before, after, first, half);
    let two = random.chance(2);
    Dirty {
        what,
        primary,
        logs: if two {
            vec![(".LOG1", Vec::new()), (".LOG2", log)]
        } else {
            vec![(".LOG", log)]
        },
        wanted: logs::with_sequence(after, first, first),
    }
}

/// The write from `before` to `after`, numbered `first`, interrupted: primary, log of the old format.
pub fn old_write(
    random: &mut Random,
    before: &[u8],
    after: &[u8],
    first: u32,
    half: bool,
) -> (Vec<u8>, Vec<u8>, String) {
    let mut primary = logs::with_sequence(before, first, first.wrapping_sub(1));
    put::u32(
        &mut primary,
        40,
        u32::try_from(after.len() - logs::BINS).unwrap(),
    );
    logs::seal_header(&mut primary);
    if half {
        half_written(&mut primary, after, random);
    }
    let file_type = 1 + random.below(2) as u32;
    let block = [512, 4096][random.below(2)];
    let number = first.wrapping_sub(random.below(2) as u32);
    let mut log = logs::old_log(before, after, file_type, number, block);
    let stale = random.chance(2);
    if stale {
        log.extend([0xee; 5000]);
    }
    let what = format!(
        "old format, type {file_type}, blocks of {block}, write {first}, log {number}, stale {stale}, \
         half written {half}"
    );
    (primary, log, what)
}
