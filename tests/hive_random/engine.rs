//! One random cleaning of one hive, and everything that must be true afterwards.
//!
//! Trees are read twice: by declone's reader (with time, flags, class and security descriptor read
//! from the raw key here) and by the `nt-hive` crate. What is expected is computed on those lists,
//! without the editor: the list before, minus what the edits name, in the same order.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use declone::{
    hive::{EditOutcome, Hive, HiveEdit, KeyRef, ValueRef, check, edit, edit_and_wipe},
    text::Name,
};

use crate::support::{put, random::Random, upcase};

/// Between the names of a path; no registry name has it.
const SEPARATOR: u16 = 0xffff;
/// Where the cells start in the file.
const BINS: usize = 4096;
/// Most bytes in one cell of data from 1.4 on.
const SEGMENT: usize = 16_344;
/// A token is at least this long, so that it is nowhere by accident.
const TOKEN: usize = 12;

/// A key or a value of a tree, in the order in which a reader meets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Folded names from the root's children on.
    pub path: Rc<[u16]>,
    /// The folded name, if it is a value.
    pub value: Option<Rc<[u16]>>,
    /// Everything else that the reader says: exact name, type, data; time, flags, class, descriptor.
    pub facts: Vec<u8>,
}

/// An [`Item`] as declone's reader gives it, with what edits and tokens need.
#[derive(Clone, Debug)]
pub struct Entry {
    pub item: Item,
    /// Exact names.
    names: Rc<[Name]>,
    value_name: Option<Name>,
    /// Where its stored bytes lie in the file: data of a value, class of a key.
    places: Vec<std::ops::Range<usize>>,
    has_class: bool,
}

impl Entry {
    /// Where its stored bytes lie in the file.
    pub fn places(&self) -> Vec<std::ops::Range<usize>> {
        self.places.clone()
    }

    /// As `tools/replay-notatin` prints it, with the path in front of a value's name.
    pub fn line(&self) -> String {
        let text = |name: &Name| String::from_utf16_lossy(name.units());
        let facts = &self.item.facts;
        let path: Vec<String> = self.names.iter().map(text).collect();
        let path = path.join("\\").escape_default().to_string();
        let Some(name) = &self.value_name else {
            let time = u64::from_le_bytes(facts[2..10].try_into().unwrap());
            return format!("K\t{time}\t{path}");
        };
        let data = hex::encode(&facts[4 + 2 * name.units().len() + 2..]);
        let kind = get32(facts, 0);
        format!("V\t{kind}\t{data}\t{path}\t{}", text(name).escape_default())
    }
}

fn fold(units: &[u16]) -> impl Iterator<Item = u16> + '_ {
    units.iter().map(|unit| upcase::unit(*unit))
}

fn child_path(parent: &[u16], name: &[u16]) -> Rc<[u16]> {
    let separator = (!parent.is_empty()).then_some(SEPARATOR);
    let parent = parent.iter().copied();
    parent.chain(separator).chain(fold(name)).collect()
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The payload of a cell begins here.
fn payload(cell: u32) -> usize {
    BINS + cell as usize + 4
}

/// The tree as declone reads it.
pub fn ours(bytes: &[u8]) -> Result<Vec<Entry>> {
    let hive = Hive::open(bytes)?;
    let mut out = Vec::new();
    let root: (KeyRef, Rc<[u16]>, Rc<[Name]>) = (hive.root(), Rc::new([]), Rc::new([]));
    let mut pending = vec![root];
    while let Some((key, path, names)) = pending.pop() {
        out.push(key_entry(bytes, key, &path, &names));
        for value in hive.values(key)? {
            let data = hive.value_data(&value)?;
            ensure!(data.len() == value.data_len as usize, "length of {value:?}");
            let mut facts = value.kind.to_le_bytes().to_vec();
            facts.extend(
                value
                    .name
                    .units()
                    .iter()
                    .flat_map(|unit| unit.to_le_bytes()),
            );
            facts.extend([0, 0]);
            facts.extend(&data);
            out.push(Entry {
                item: Item {
                    path: Rc::clone(&path),
                    value: Some(fold(value.name.units()).collect()),
                    facts,
                },
                names: Rc::clone(&names),
                places: places(bytes, hive.base().minor, &value),
                value_name: Some(value.name),
                has_class: false,
            });
        }
        for (child, name) in hive.subkeys(key)?.into_iter().rev() {
            let below = names.iter().cloned().chain([name.clone()]).collect();
            pending.push((child, child_path(&path, name.units()), below));
        }
    }
    ensure!(
        hive.skipped() == 0,
        "{} list entries skipped",
        hive.skipped()
    );
    Ok(out)
}

fn key_entry(bytes: &[u8], key: KeyRef, path: &Rc<[u16]>, names: &Rc<[Name]>) -> Entry {
    let at = payload(key.cell().get());
    let name_len = usize::from(put::get16(bytes, at + 72));
    let class_len = usize::from(put::get16(bytes, at + 74));
    // Flags and time, then name, class and descriptor.
    let mut facts = bytes[at + 2..at + 12].to_vec();
    facts.extend(&bytes[at + 76..at + 76 + name_len]);
    facts.extend([0xff, 0xff]);
    let mut places = Vec::new();
    if class_len > 0 {
        let class = payload(get32(bytes, at + 48));
        facts.extend(&bytes[class..class + class_len]);
        places.push(class..class + class_len);
    }
    facts.extend([0xff, 0xff]);
    let security = payload(get32(bytes, at + 44));
    let len = get32(bytes, security + 16) as usize;
    facts.extend(&bytes[security + 20..security + 20 + len]);
    Entry {
        item: Item {
            path: Rc::clone(path),
            value: None,
            facts,
        },
        names: Rc::clone(names),
        value_name: None,
        places,
        has_class: class_len > 0,
    }
}

fn places(bytes: &[u8], minor: u32, value: &ValueRef) -> Vec<std::ops::Range<usize>> {
    let len = value.data_len as usize;
    let Some(at) = value.data_offset.map(|at| at.get() as usize) else {
        return Vec::new();
    };
    if minor < 4 || len <= SEGMENT || &bytes[at..at + 2] != b"db" {
        return vec![at..at + len];
    }
    let list = payload(get32(bytes, at + 4));
    (0..len.div_ceil(SEGMENT))
        .map(|i| {
            let segment = payload(get32(bytes, list + 4 * i));
            segment..segment + SEGMENT.min(len - SEGMENT * i)
        })
        .collect()
}

/// How many keys and values the second reader cannot read, each with its message.
pub const UNREADABLE: &[u8] = b"UNREADABLE: ";

/// The tree as `nt-hive` reads it; what it cannot read is an item that says so.
pub fn theirs(bytes: &[u8]) -> Result<Vec<Item>, String> {
    std::panic::catch_unwind(|| theirs_or_panic(bytes)).unwrap_or_else(|_| Err("it panics".into()))
}

fn unreadable(error: &dyn std::fmt::Display) -> Vec<u8> {
    [UNREADABLE, error.to_string().as_bytes()].concat()
}

fn theirs_or_panic(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let hive = nt_hive::Hive::new(bytes).map_err(|e| e.to_string())?;
    let root = hive.root_key_node().map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    let start: Rc<[u16]> = Rc::new([]);
    let mut pending = vec![(start, root)];
    while let Some((path, key)) = pending.pop() {
        let item = |value, facts| Item {
            path: Rc::clone(&path),
            value,
            facts,
        };
        let class = match key.class_name() {
            None => Vec::new(),
            Some(Ok(class)) => put::utf16(&class.to_string_lossy()),
            Some(Err(error)) => unreadable(&error),
        };
        let name = key.name().map_err(|e| e.to_string())?.to_string_lossy();
        out.push(item(None, [put::utf16z(&name), class].concat()));
        match key.values() {
            None => {}
            Some(Err(error)) => out.push(item(Some(Rc::new([])), unreadable(&error))),
            Some(Ok(values)) => {
                for value in values {
                    match value {
                        Err(error) => out.push(item(Some(Rc::new([])), unreadable(&error))),
                        Ok(value) => {
                            let name = value.name().map_err(|e| e.to_string())?.to_string_lossy();
                            let units: Vec<u16> = name.encode_utf16().collect();
                            let kind = match value.data_type() {
                                Ok(kind) => format!("{kind:?}"),
                                Err(error) => error.to_string(),
                            };
                            let data = match value.data().and_then(|data| data.into_vec()) {
                                Ok(data) => data,
                                Err(error) => unreadable(&error),
                            };
                            let facts = [&put::utf16z(&name), kind.as_bytes(), &data].concat();
                            out.push(item(Some(fold(&units).collect()), facts));
                        }
                    }
                }
            }
        }
        let mut below = Vec::new();
        match key.subkeys() {
            None => {}
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(subkeys)) => {
                for child in subkeys {
                    let child = child.map_err(|e| e.to_string())?;
                    let name = child.name().map_err(|e| e.to_string())?.to_string_lossy();
                    let units: Vec<u16> = name.encode_utf16().collect();
                    below.push((child_path(&path, &units), child));
                }
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(out)
}

fn folded_path(key: &[Name]) -> Vec<u16> {
    let start: Rc<[u16]> = Rc::new([]);
    key.iter()
        .fold(start, |path, name| child_path(&path, name.units()))
        .to_vec()
}

fn is_below(path: &[u16], parent: &[u16]) -> bool {
    match path.strip_prefix(parent) {
        Some([]) | None => false,
        Some([first, ..]) => parent.is_empty() || *first == SEPARATOR,
    }
}

/// What the edits name, decided on names alone.
pub struct Doomed(Vec<(Vec<u16>, HiveEdit)>);

impl Doomed {
    pub fn new(edits: &[HiveEdit]) -> Self {
        let path = |edit: &HiveEdit| match edit {
            HiveEdit::DeleteValue { key, .. }
            | HiveEdit::DeleteSubkeys { key }
            | HiveEdit::DeleteKey { key } => folded_path(key),
        };
        Self(edits.iter().map(|e| (path(e), e.clone())).collect())
    }

    pub fn has(&self, item: &Item) -> bool {
        self.0.iter().any(|(path, edit)| match edit {
            HiveEdit::DeleteKey { .. } => *item.path == **path || is_below(&item.path, path),
            HiveEdit::DeleteSubkeys { .. } => is_below(&item.path, path),
            HiveEdit::DeleteValue { value, .. } => {
                *item.path == **path
                    && item
                        .value
                        .as_deref()
                        .is_some_and(|name| fold(value.units()).eq(name.iter().copied()))
            }
        })
    }
}

/// The number of entries of the subtree whose key is at `at`, its values included.
fn subtree(tree: &[Entry], at: usize) -> usize {
    let path = &tree[at].item.path;
    tree[at..]
        .iter()
        .take_while(|entry| entry.item.path == *path || is_below(&entry.item.path, path))
        .count()
}

/// The same name in other letters, as Windows compares them.
fn other_case(name: &Name, random: &mut Random) -> Name {
    if !random.chance(3) {
        return name.clone();
    }
    let flip = |unit: &u16| match char::from_u32(u32::from(*unit)) {
        Some(c) if c.is_ascii_alphabetic() => *unit ^ 0x20,
        _ => *unit,
    };
    Name(name.units().iter().map(flip).collect())
}

/// One to `most` deletions of things that are there.
pub fn choose(tree: &[Entry], random: &mut Random, most: usize) -> Vec<HiveEdit> {
    let all = |wanted: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
        (0..tree.len()).filter(|i| wanted(&tree[*i])).collect()
    };
    let keys = all(&|entry| entry.value_name.is_none());
    let values = all(&|entry| entry.value_name.is_some());
    let large = all(&|entry| entry.value_name.is_some() && entry.item.facts.len() > SEGMENT);
    let classes = all(&|entry| entry.has_class && !entry.names.is_empty());
    let limit = if random.chance(12) {
        tree.len()
    } else {
        (tree.len() / 20).max(40)
    };
    let mut edits = Vec::new();
    for _ in 0..=random.below(most) {
        let pool = match random.below(12) {
            0 if !large.is_empty() => &large,
            1 if !classes.is_empty() => &classes,
            2..=5 => &values,
            _ => &keys,
        };
        let Some(&at) = random.pick(pool) else {
            continue;
        };
        let entry = &tree[at];
        let key: Vec<Name> = entry.names.iter().map(|n| other_case(n, random)).collect();
        if let Some(name) = &entry.value_name {
            let value = other_case(name, random);
            edits.push(HiveEdit::DeleteValue { key, value });
        } else if subtree(tree, at) > limit {
            continue;
        } else if entry.names.is_empty() || random.chance(3) {
            edits.push(HiveEdit::DeleteSubkeys { key });
        } else {
            edits.push(HiveEdit::DeleteKey { key });
        }
    }
    edits
}

/// What one run did, for the external judges and for the sums.
#[derive(Debug)]
pub struct Run {
    pub old: Vec<u8>,
    pub new: Vec<u8>,
    pub tokens: Vec<Vec<u8>>,
    /// Of every key and value removed: all names of its path, letter by letter.
    pub removed: Vec<Vec<u16>>,
    /// Keys and values before.
    pub before: (u64, u64),
    /// Keys and values removed.
    pub gone: (u64, u64),
    /// Removed keys with a class, removed values above 16,344 bytes.
    pub special: (u64, u64),
    /// Keys and values that nt-hive could not read, before and after.
    pub unreadable: (usize, usize),
    /// Why nt-hive could not read the hive at all, before and after.
    pub witness: Option<String>,
}

/// What came of a run.
#[derive(Debug)]
pub enum Ran {
    Edited(Box<Run>),
    /// declone refused, and changed nothing.
    Refused(String),
    /// The seed chose nothing that is there.
    Nothing,
}

fn count_unreadable(items: &[Item]) -> usize {
    let has = |item: &&Item| memchr::memmem::find(&item.facts, UNREADABLE).is_some();
    items.iter().filter(has).count()
}

/// Bytes that stand in what goes and in nothing that stays.
fn pick_tokens(tree: &[Entry], old: &[u8], doomed: &Doomed, random: &mut Random) -> Vec<Vec<u8>> {
    let (gone, left): (Vec<&Entry>, Vec<&Entry>) =
        tree.iter().partition(|entry| doomed.has(&entry.item));
    let mut tokens = Vec::new();
    for _ in 0..4 {
        let Some(entry) = random.pick(&gone) else {
            break;
        };
        let token = match entry.value_name.as_ref().filter(|_| random.chance(3)) {
            Some(name) => put::utf16(&name.to_string()),
            None => match random.pick(&entry.places) {
                Some(place) if place.len() >= TOKEN => {
                    let len = place.len().min(TOKEN + random.below(24));
                    let at = place.start + random.below(place.len() - len + 1);
                    old[at..at + len].to_vec()
                }
                _ => continue,
            },
        };
        let mut different = token.clone();
        different.sort_unstable();
        different.dedup();
        if token.len() < TOKEN || different.len() < 7 {
            continue;
        }
        // The forms in which it may stand: as it is, and as text of one byte a letter.
        let narrow: Option<Vec<u8>> = token
            .chunks(2)
            .map(|pair| (pair.get(1) == Some(&0)).then_some(pair[0]))
            .collect();
        let wide = put::utf16(&String::from_utf8_lossy(&token));
        let forms: Vec<Vec<u8>> = [Some(token), narrow].into_iter().flatten().collect();
        let stays = forms.iter().chain([&wide]).any(|form| {
            let finder = memchr::memmem::Finder::new(form);
            left.iter()
                .any(|entry| finder.find(&entry.item.facts).is_some())
        });
        // Behind the fields of the base block declone looks, but erases nothing.
        let in_header = |form: &Vec<u8>| memchr::memmem::find(&old[..BINS], form).is_some();
        if !stays && !forms.iter().any(in_header) {
            let is_long = |form: &Vec<u8>| form.len() >= TOKEN;
            let was = |form: &Vec<u8>| memchr::memmem::find(old, form).is_some();
            tokens.extend(forms.into_iter().filter(|form| is_long(form) && was(form)));
        }
    }
    tokens
}

/// Writes tokens of both encodings into what goes and into free cells; gives them.
fn plant(old: &mut [u8], tree: &[Entry], doomed: &Doomed, random: &mut Random) -> Vec<Vec<u8>> {
    let ascii = format!("GUID:{:016x}-token", random.next()).into_bytes();
    let wide = put::utf16(&format!("GUID:{:016X}-TOKEN", random.next()));
    let mut planted = Vec::new();
    let mut places: Vec<_> = tree
        .iter()
        .filter(|entry| entry.value_name.is_some() && doomed.has(&entry.item))
        .flat_map(|entry| entry.places.clone())
        .chain(free_cells(old))
        .collect();
    for _ in 0..6 {
        if places.is_empty() {
            break;
        }
        let place = places.swap_remove(random.below(places.len()));
        let token = if random.chance(2) { &ascii } else { &wide };
        if place.len() >= token.len() {
            let at = place.start + random.below(place.len() - token.len() + 1);
            put::bytes(old, at, token);
            planted.push(token.clone());
        }
    }
    planted
}

/// The content of free cells.
fn free_cells(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let end = BINS + get32(bytes, 40) as usize;
    let (mut bin, mut out) = (BINS, Vec::new());
    while bin < end {
        let next = bin + get32(bytes, bin + 8) as usize;
        let mut at = bin + 32;
        while at < next {
            let size = get32(bytes, at).cast_signed();
            if size > 0 {
                out.push(at + 4..at + size as usize);
            }
            at += size.unsigned_abs() as usize;
        }
        bin = next;
    }
    out
}

fn summed(items: &[Item]) -> (u64, u64) {
    let values = items.iter().filter(|item| item.value.is_some()).count() as u64;
    (items.len() as u64 - values, values)
}

fn minus(items: &[Item], doomed: &Doomed) -> Vec<Item> {
    let stays = |item: &&Item| !doomed.has(item);
    items.iter().filter(stays).cloned().collect()
}

fn same(what: &str, is: &[Item], wanted: &[Item]) -> Result<()> {
    if is != wanted {
        let at = is.iter().zip(wanted).position(|(a, b)| a != b);
        let at = at.unwrap_or(is.len().min(wanted.len()));
        anyhow::bail!(
            "{what}: {} items expected, found {}; first difference at {at}: {:?} expected, found {:?}",
            wanted.len(),
            is.len(),
            wanted.get(at),
            is.get(at)
        );
    }
    Ok(())
}

fn items(tree: &[Entry]) -> Vec<Item> {
    tree.iter().map(|entry| entry.item.clone()).collect()
}

/// Plants, chooses, deletes and looks; an error is a fault of declone.
/// `planted` stands in residue already and must go, too.
pub fn run(sample: &[u8], seed: u64, most: usize, planted: &[Vec<u8>]) -> Result<Ran> {
    let mut random = Random(seed);
    let tree = ours(sample)?;
    let edits = choose(&tree, &mut random, most);
    let doomed = Doomed::new(&edits);
    let mut old = sample.to_vec();
    let mut tokens = plant(&mut old, &tree, &doomed, &mut random);
    let tree = ours(&old)?;
    let before = check(&old)?;
    tokens.extend_from_slice(planted);
    tokens.extend(pick_tokens(&tree, &old, &doomed, &mut random));
    let was = items(&tree);
    let removed: Vec<Item> = was.iter().filter(|i| doomed.has(i)).cloned().collect();
    if removed.is_empty() {
        return Ok(Ran::Nothing);
    }

    let mut new = old.clone();
    let outcome = if random.chance(2) {
        edit(&mut new, &before, &edits, &tokens)
    } else {
        edit_and_wipe(&mut new, &before, &edits, &tokens)
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            ensure!(
                new == old,
                "an edit that failed ({error}) has changed bytes"
            );
            return Ok(Ran::Refused(error.to_string()));
        }
    };
    ensure!(new.len() == old.len(), "the file's length has changed");

    let after = check(&new).context("the strict check afterwards")?;
    let (was_sum, sum) = (before.summary(), after.summary());
    let left = was_sum.digest.wrapping_sub(outcome.removed_digest);
    ensure!(left == sum.digest, "the fingerprint of what stays");
    ensure!(
        sum.warnings <= was_sum.warnings,
        "new warnings: {:?}",
        after.warnings()
    );
    let stale = (sum.free_nonzero, sum.slack_nonzero, sum.tail_nonzero);
    ensure!(stale == (0, 0, 0), "stale bytes are left: {stale:?}");
    let gone = summed(&removed);
    ensure!(
        (outcome.keys, outcome.values) == gone,
        "{gone:?} to go, said {outcome:?}"
    );

    let wanted = minus(&was, &doomed);
    same("declone's reader", &items(&ours(&new)?), &wanted)?;
    let (mut unreadable, mut witness) = ((0, 0), None);
    match (theirs(&old), theirs(&new)) {
        (Ok(was), Ok(is)) => {
            let wanted = minus(&was, &doomed);
            same("nt-hive", &is, &wanted)?;
            unreadable = (count_unreadable(&was), count_unreadable(&is));
            ensure!(
                summed(&was) == summed(&items(&tree)),
                "nt-hive sees another tree before"
            );
        }
        (Err(was), Err(is)) => {
            ensure!(
                was == is,
                "nt-hive could not read it ({was}), now for another reason: {is}"
            );
            witness = Some(was);
        }
        (was, is) => anyhow::bail!("nt-hive: {:?} before, {:?} after", was.err(), is.err()),
    }
    for token in &tokens {
        let at = memchr::memmem::find(&new, token);
        ensure!(
            at.is_none(),
            "token {} is still at {at:?}",
            hex::encode(token)
        );
    }

    let mut twice = new.clone();
    let second = edit(&mut twice, &after, &edits, &tokens)?;
    ensure!(
        second == EditOutcome::default(),
        "the second time: {second:?}"
    );
    ensure!(twice == new, "the second time bytes change");
    // The other form always counts as a write: sequence numbers and checksum, nothing else.
    edit_and_wipe(&mut twice, &after, &edits, &tokens)?;
    for header in [4..12, 508..512] {
        twice[header.clone()].copy_from_slice(&new[header]);
    }
    ensure!(twice == new, "the second time a wipe changes bytes");
    let classes = tree
        .iter()
        .filter(|e| e.has_class && doomed.has(&e.item))
        .count();
    let large = tree
        .iter()
        .filter(|e| e.places.iter().map(|p| p.len()).sum::<usize>() > SEGMENT)
        .filter(|e| doomed.has(&e.item))
        .count();
    Ok(Ran::Edited(Box::new(Run {
        before: summed(&was),
        old,
        new,
        tokens,
        removed: tree
            .iter()
            .filter(|entry| doomed.has(&entry.item))
            .map(|entry| {
                let names = entry.names.iter().chain(&entry.value_name);
                names.flat_map(|name| name.units()).copied().collect()
            })
            .collect(),
        gone,
        special: (classes as u64, large as u64),
        unreadable,
        witness,
    })))
}
