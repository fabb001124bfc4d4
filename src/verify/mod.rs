//! Look again: rules, listing, structure, second witnesses, and a search for every byte string
//! that was removed.
//!
//! In: an image (staged, written or found) and what it should look like. Out: problems as values,
//! hits with their owner. Knows: device, tree, hive, image, windows, rules, plan.
//! Facts from: the same readers that planned, `nt-hive` and `ntfs`. Never: names the editors.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    hive::{self, HiveEdit},
    image::{Content, Image, Volume},
    plan::{self, HiveBytes, Plan, Progress, VolumePlan, tokens::Token},
    rules::Rule,
    text::WinPath,
    tree::{FileEntry, FileId, FileTree, Listing, MetadataChunk},
    units::{FileOffset, VolumeOffset},
};

pub mod hive_witness;
pub mod ntfs_witness;
mod protected;
pub mod residue;
pub mod search;

use residue::Residue;
use search::{Hit, MAX_HITS, Searcher};

/// What a staged or written volume must look like.
#[derive(Debug, Default)]
pub struct Expected {
    /// The listing before, minus the removed files.
    pub listing: Listing,
    /// Hives that were edited.
    pub hives: Vec<ExpectedHive>,
    /// Paths that must be gone.
    pub gone: Vec<WinPath>,
    /// Files that were written, and directories that names were taken out of.
    pub touched: Vec<FileId>,
    /// Volume ranges that keep traces of names besides the file records, with a label each.
    pub areas: Vec<(String, Vec<Range<u64>>)>,
}

/// An edited hive.
#[derive(Debug)]
pub struct ExpectedHive {
    /// The file.
    pub entry: FileEntry,
    /// Digest of the tree before minus what was taken out.
    pub digest: u128,
    /// What was taken out.
    pub edits: Vec<HiveEdit>,
    /// Which bytes of the file were written.
    pub changed: Vec<Range<u64>>,
    /// Its transaction logs that were filled with zeros.
    pub logs: Vec<FileEntry>,
}

/// The result of a look at a staged image.
#[derive(Debug, Default)]
pub struct Verification {
    /// Anything here means: throw the result away.
    pub problems: Vec<String>,
    /// What the second witnesses said, one line each.
    pub witnesses: Vec<String>,
    /// Where tokens were found, as image offsets.
    pub hits: Vec<Hit>,
    /// Whose each hit is, in the order of `hits`.
    pub residues: Vec<Residue>,
    /// What was found where the image file holds contents in another form: there is no hit to wipe.
    pub loose: Vec<Residue>,
    /// How many hits there are that are not listed.
    pub unlisted: u64,
    /// What was searched, with the number of bytes.
    pub searched: Vec<(String, u64)>,
}

/// Looks at a staged image: rules, listing, hives, tokens. [`structure`] is the second half, after
/// stale hits were wiped.
///
/// `touched` are image ranges that were written; cost follows them, plus one pass over the file
/// records.
pub fn staged(
    image: &Image,
    rules: &[Rule],
    tokens: &[Token],
    expected: &[Expected],
    touched: &[Range<u64>],
    progress: Progress<'_>,
) -> Result<Verification> {
    let searcher = Searcher::new(tokens, false)?;
    // The hives and everything else are independent; there are two cores. The archive's chunks are
    // decoded by both already: there one after the other, with one hive in memory at a time.
    let (looked, hives) = std::thread::scope(|scope| {
        if image.writer.is_some() {
            let keep = first_hive(image, expected);
            let looked = look(image, rules, &searcher, expected, touched, progress, keep);
            let hives = match &looked {
                Ok((_, plan)) => verify_hives(image, expected, &searcher, Some(plan)),
                Err(_) => Ok(HiveResult::default()),
            };
            return (looked, Ok(hives));
        }
        let hives = scope.spawn(|| verify_hives(image, expected, &searcher, None));
        let looked = look(image, rules, &searcher, expected, touched, progress, None);
        (looked, hives.join())
    });
    let (mut out, _) = looked?;
    let hives = hives.map_err(|_| Error::internal("verify: hive thread died"))??;
    out.problems.extend(hives.problems);
    out.witnesses.extend(hives.witnesses);
    out.searched.extend(hives.searched);
    let known: HashSet<Hit> = out.hits.iter().copied().collect();
    for (hit, residue) in hives.hits.into_iter().zip(hives.residues) {
        if !known.contains(&hit) {
            out.hits.push(hit);
            out.residues.push(residue);
        }
    }
    Ok(out)
}

/// The first hive that was edited: partition, file.
fn first_hive(image: &Image, expected: &[Expected]) -> Option<(u32, FileId)> {
    let mut with = image.volumes.iter().zip(expected);
    with.find_map(|(volume, want)| Some((volume.partition, want.hives.first()?.entry.id)))
}

/// What is found, and the plan of what would be done: nothing, if all is well. It has the bytes of the
/// hive `keep`.
fn look(
    image: &Image,
    rules: &[Rule],
    searcher: &Searcher,
    expected: &[Expected],
    touched: &[Range<u64>],
    progress: Progress<'_>,
    keep: Option<(u32, FileId)>,
) -> Result<(Verification, Plan)> {
    let mut out = Verification::default();
    let mut records = RecordHits::default();
    let mut likely: Vec<Vec<FileId>> = expected.iter().map(|want| want.touched.clone()).collect();
    let mut search = |volume: &Volume, chunk: MetadataChunk<'_>| {
        search_chunk(searcher, volume, chunk, &mut records);
    };
    let plan = plan::make_with(image, rules, progress, &mut search, keep)?;
    for finding in plan
        .findings()
        .filter(|f| f.action == crate::rules::Action::Delete)
    {
        out.problems.push(format!(
            "rule {} still matches: {:?}",
            finding.rule, finding.subject
        ));
    }
    for (index, ((volume, part), want)) in image
        .volumes
        .iter()
        .zip(&plan.volumes)
        .zip(expected)
        .enumerate()
    {
        let Some(tree) = volume.tree() else { continue };
        check_listing(volume, &part.listing, &want.listing, &mut out.problems);
        let inside = inside_volume(volume, touched);
        if inside.is_empty() {
            continue;
        }
        let (found, searched) = records.remove(&volume.partition).unwrap_or_default();
        for (record, inside, len, token) in found {
            let offset = tree.record_offset(record, inside)?.get();
            let hit = Hit { offset, len, token };
            out.hits.push(hit_in_image(volume, &hit)?);
        }
        if !volume.is_image() {
            out.searched.push((
                format!("partition {} {}", volume.partition, records_of(volume)),
                searched,
            ));
        }
        let mut areas = want.areas.clone();
        areas.push(("everything written".to_owned(), inside));
        for log in &part.logs {
            areas.push((log.path(), data_of(tree, log)?));
            if let Some(likely) = likely.get_mut(index) {
                likely.push(log.id);
            }
        }
        let device = image.volume_device(volume)?;
        for (label, ranges) in areas {
            let (hits, total) = searcher.find_all(device.as_ref(), None, &ranges, &|_| {})?;
            for hit in &hits {
                out.hits.push(hit_in_image(volume, hit)?);
            }
            out.searched.push((
                format!("{} {} {label}", volume.unit, volume.partition),
                total,
            ));
        }
    }
    out.hits.sort_unstable();
    out.hits.dedup();
    if out.hits.len() > MAX_HITS {
        return Err(too_many_hits());
    }
    let tokens = searcher.tokens();
    out.residues = residue::place_hits(image, &out.hits, tokens, tokens.len(), &likely)?;
    Ok((out, plan))
}

/// A volume of an image, and whether it could be read.
#[derive(Clone, Copy, Debug)]
pub struct Readable {
    unit: &'static str,
    partition: u32,
    yes: bool,
}

/// Which volumes of an image can be read.
#[must_use]
pub fn readable(image: &Image) -> Vec<Readable> {
    let volumes = image.volumes.iter();
    volumes
        .map(|volume| Readable {
            unit: volume.unit,
            partition: volume.partition,
            yes: volume.tree().is_some(),
        })
        .collect()
}

/// Every volume that could be read `before` can be read again: one that cannot has nothing left to
/// object to.
#[must_use]
pub fn volumes(image: &Image, before: &[Readable]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, old) in before.iter().enumerate() {
        let new = image.volumes.get(index);
        if !old.yes || new.is_some_and(|new| new.tree().is_some()) {
            continue;
        }
        let why = match new.map(|new| &new.content) {
            Some(Content::Broken(error)) => error.to_string(),
            Some(Content::Closed(reason)) => reason.clone(),
            _ => "none".to_owned(),
        };
        problems.push(format!(
            "{} {}: a readable volume expected, found {why}",
            old.unit, old.partition
        ));
    }
    problems
}

fn check_listing(volume: &Volume, is: &Listing, want: &Listing, problems: &mut Vec<String>) {
    if is == want {
        return;
    }
    let same = (is.files, is.names) == (want.files, want.names);
    problems.push(format!(
        "listing of {} {}: {} files and {} names expected (before minus removed), found {} \
         and {}{}",
        volume.unit,
        volume.partition,
        want.files,
        want.names,
        is.files,
        is.names,
        if same { ", with other contents" } else { "" },
    ));
}

/// Verifies every structure that was touched, calls the second witness of the volume, and makes
/// sure that wiped hits stay gone. `gone` and `touched` are image offsets. Damage that was there
/// `before`, in a neighbour of what was touched, is not held against the clean: the image as it was is
/// opened when something is wrong.
pub fn structure(
    image: &Image,
    before: &dyn Fn() -> Result<Image>,
    tokens: &[Token],
    expected: &[Expected],
    gone: &HashSet<Hit>,
    touched: &[Range<u64>],
) -> Result<(Vec<String>, Vec<String>)> {
    // What was wiped may have been found by its shape.
    let searcher = Searcher::new(tokens, true)?;
    let (mut problems, mut witnesses) = (Vec::new(), Vec::new());
    for (index, (volume, want)) in image.volumes.iter().zip(expected).enumerate() {
        let inside = inside_volume(volume, touched);
        let Some(tree) = volume.tree().filter(|_| !inside.is_empty()) else {
            continue;
        };
        let found = tree.check_touched(&inside)?;
        let old = match found.is_empty() {
            true => Vec::new(),
            false => match before()?.volumes.get(index).and_then(Volume::tree) {
                Some(tree) => tree.check_touched(&inside)?,
                None => Vec::new(),
            },
        };
        for problem in found.iter().filter(|problem| !old.contains(problem)) {
            problems.push(format!("{} {}: {problem}", volume.unit, volume.partition));
        }
        witness_volume(image, volume, want, &mut problems, &mut witnesses)?;
        let device = image.volume_device(volume)?;
        let (hits, _) = searcher.find_all(device.as_ref(), None, &inside, &|_| {})?;
        for hit in &hits {
            let there = hit_in_image(volume, hit)?;
            if gone.contains(&there) {
                problems.push(format!(
                    "image offset {:#x}: nothing expected after wiping, found it again",
                    there.offset
                ));
            }
        }
    }
    for hit in gone {
        let range = hit.offset..hit.offset + hit.len;
        if image.places.is_loose(&range) {
            let mut bytes = vec![0; hit.len as usize];
            image.file.read_at(hit.offset, &mut bytes)?;
            if !crate::bytes::all_zero(&bytes) {
                problems.push(format!(
                    "image offset {:#x}: zeros expected after wiping, found other bytes",
                    hit.offset
                ));
            }
        }
    }
    Ok((problems, witnesses))
}

/// The error for a search that finds more than can be wiped or reported one by one.
#[must_use]
pub fn too_many_hits() -> Error {
    Error::limit(format!(
        "search: at most {MAX_HITS} hits expected, found more"
    ))
    .advise("clean again without --prove, or with your own --rules")
}

/// By partition: (record, byte in the record, length, token) of hits, and bytes searched.
type RecordHits = BTreeMap<u32, (Vec<(u64, u64, u64, usize)>, u64)>;

fn search_chunk(
    searcher: &Searcher,
    volume: &Volume,
    chunk: MetadataChunk<'_>,
    found: &mut RecordHits,
) {
    let mut hits = Vec::new();
    searcher.find(chunk.bytes, 0, &mut hits);
    let (list, searched) = found.entry(volume.partition).or_default();
    *searched += chunk.bytes.len() as u64;
    for hit in hits {
        let record_len = chunk.record_len as u64;
        // One more than allowed is enough to notice.
        if list.len() <= MAX_HITS {
            let record = chunk.first_record + hit.offset / record_len;
            list.push((record, hit.offset % record_len, hit.len, hit.token));
        }
    }
}

#[derive(Default)]
struct HiveResult {
    problems: Vec<String>,
    witnesses: Vec<String>,
    searched: Vec<(String, u64)>,
    hits: Vec<Hit>,
    residues: Vec<Residue>,
}

/// The bytes that a plan kept of a clean hive.
fn kept_bytes(plan: &VolumePlan, entry: &FileEntry) -> Option<Vec<u8>> {
    let mut hives = plan.hives.iter();
    let hive = hives.find(|hive| hive.entry.id == entry.id)?;
    match hive.bytes.lock().ok()?.take()? {
        HiveBytes::Clean(bytes) => Some(bytes),
        _ => None,
    }
}

/// `plan` is what was just made of the image.
fn verify_hives(
    image: &Image,
    expected: &[Expected],
    searcher: &Searcher,
    plan: Option<&Plan>,
) -> Result<HiveResult> {
    let mut out = HiveResult::default();
    for (index, (volume, want)) in image.volumes.iter().zip(expected).enumerate() {
        let Some(tree) = volume.tree() else { continue };
        let part = plan.and_then(|plan| plan.volumes.get(index));
        for wanted in &want.hives {
            let path = wanted.entry.path();
            let bytes = match part.and_then(|part| kept_bytes(part, &wanted.entry)) {
                Some(bytes) => bytes,
                None => crate::image::read_whole(tree, &wanted.entry)?,
            };
            if let Err(error) = tree.note(wanted.entry.id, &bytes) {
                out.problems.push(format!("{path}: {error}"));
            }
            match hive::check(&bytes) {
                Err(error) => out.problems.push(format!("{path}: {error}")),
                Ok(checked) => {
                    let summary = checked.summary();
                    if summary.digest != wanted.digest {
                        out.problems.push(format!(
                            "{path}: the keys and values before minus the removed ones expected, \
                             found another tree"
                        ));
                    }
                    use hive_witness::Verdict;
                    match hive_witness::witness_counts(&bytes, summary, &wanted.edits) {
                        Verdict::Agrees { keys, values } => out.witnesses.push(format!(
                            "nt-hive agrees on {path}: {keys} keys, {values} values"
                        )),
                        Verdict::Abstains(why) => {
                            out.witnesses
                                .push(format!("nt-hive abstains on {path}: {why}"));
                        }
                        Verdict::Disagrees(why) => {
                            out.problems
                                .push(format!("{path}: nt-hive disagrees: {why}"));
                        }
                    }
                }
            }
            if let Some(problem) = needs_its_logs(tree, &bytes, &wanted.logs)? {
                out.problems.push(format!("{path}: {problem}"));
            }
            let mut hits = Vec::new();
            searcher.find(&bytes, 0, &mut hits);
            let extents = tree.extents(wanted.entry.id)?;
            for hit in hits {
                let inside = FileOffset(hit.offset);
                let Some(at) = crate::image::place_in(&extents, inside) else {
                    continue;
                };
                let Some(image_offset) = volume.hit_offset(at) else {
                    continue;
                };
                let token = &searcher.tokens()[hit.token];
                out.hits.push(Hit {
                    offset: image_offset.get(),
                    ..hit
                });
                out.residues.push(Residue {
                    token: token.label.clone(),
                    class: token.class,
                    place: residue::Where::LiveFile,
                    owner: format!("{path} $DATA, file offset {inside}"),
                    partition: Some(volume.partition),
                    volume_offset: Some(at.get()),
                    image_offset: residue::offset_in_file(image, image_offset.get()),
                    file: None,
                    file_offset: None,
                    len: hit.len,
                    generic: false,
                });
            }
            out.searched.push((path, bytes.len() as u64));
        }
    }
    Ok(out)
}

/// A hive that was edited must be clean, and its logs must hold nothing.
fn needs_its_logs(tree: &dyn FileTree, bytes: &[u8], logs: &[FileEntry]) -> Result<Option<String>> {
    let mut read = Vec::new();
    for log in logs {
        read.push((log.path(), crate::image::read_whole(tree, log)?));
    }
    let given: Vec<(&str, &[u8])> = read
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let wrong = |what: &str| Some(format!("a clean hive without logs expected, found {what}"));
    Ok(match hive::open(bytes, &given) {
        Ok(hive::Opened::Clean { logs }) => logs
            .iter()
            .find(|log| !matches!(log.fate, hive::Fate::Empty))
            .and_then(|log| wrong(&format!("something in {}", log.name))),
        Ok(_) => wrong("it dirty"),
        Err(error) => wrong(&error.to_string()),
    })
}

fn witness_volume(
    image: &Image,
    volume: &Volume,
    want: &Expected,
    problems: &mut Vec<String>,
    witnesses: &mut Vec<String>,
) -> Result<()> {
    if image.writer.is_some() || !volume.is_ntfs() {
        // The crate `ntfs` reads its volumes; an archive checks its own references and hashes, FAT
        // its whole structure.
        return Ok(());
    }
    let device = image.volume_device(volume)?;
    let tree = volume.tree();
    let mut kept = Vec::new();
    for hive in &want.hives {
        let (Some(tree), Some(path)) = (tree, hive.entry.paths.first()) else {
            continue;
        };
        // What no directory leads to is not found by one that walks directories.
        if hive.entry.orphan {
            witnesses.push(format!(
                "ntfs abstains on partition {}: {path}: in no directory",
                volume.partition
            ));
            continue;
        }
        kept.push(ntfs_witness::Kept {
            path: path.clone(),
            ranges: hive.changed.clone(),
            digest: digest_of(tree, &hive.entry, &hive.changed)?,
        });
    }
    use ntfs_witness::Verdict;
    match ntfs_witness::witness(&device, &want.gone, &kept) {
        Verdict::Agrees(what) => {
            witnesses.push(format!(
                "ntfs agrees on partition {}: {what}",
                volume.partition
            ));
        }
        Verdict::Abstains(why) => {
            witnesses.push(format!(
                "ntfs abstains on partition {}: {why}",
                volume.partition
            ));
        }
        Verdict::Disagrees(why) => {
            problems.push(format!(
                "partition {}: ntfs disagrees: {why}",
                volume.partition
            ));
        }
    }
    Ok(())
}

/// What a volume's file records are called.
fn records_of(volume: &Volume) -> &'static str {
    match volume.has_entries() {
        true => "names of deleted entries",
        false => "$MFT",
    }
}

/// SHA-256 of parts of a file, as declone's own reader sees them.
fn digest_of(tree: &dyn FileTree, entry: &FileEntry, ranges: &[Range<u64>]) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            tree.read_at(entry.id, FileOffset(at), part)?;
            hash.update(part);
            at += len;
        }
    }
    Ok(hash.finalize().into())
}

/// Where a file's data lies in the volume.
fn data_of(tree: &dyn FileTree, entry: &FileEntry) -> Result<Vec<Range<u64>>> {
    Ok(tree
        .extents(entry.id)?
        .iter()
        .filter_map(|e| {
            e.volume_offset
                .map(|at| at.get()..at.get().saturating_add(e.len))
        })
        .collect())
}

/// Image ranges as ranges of one volume.
/// As [`Volume::volume_ranges`]: what was written, seen from the volume.
fn inside_volume(volume: &Volume, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    volume.volume_ranges(ranges)
}

/// A hit in a volume as a hit in the image file.
fn hit_in_image(volume: &Volume, hit: &Hit) -> Result<Hit> {
    let offset = volume
        .hit_offset(VolumeOffset(hit.offset))
        .ok_or_else(|| {
            Error::internal(format!(
                "verify: a place in the image for volume offset {:#x}",
                hit.offset
            ))
        })?
        .get();
    Ok(Hit { offset, ..*hit })
}
