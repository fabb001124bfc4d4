//! Runs the editors of a plan on an image that lies over an overlay. The host sees nothing of it.

use std::{ops::Range, sync::mpsc};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    error::{At, Error, Result},
    hive::{self, HiveEdit},
    image::{Image, Volume},
    plan::{self, HiveBytes, HivePlan, Plan, VolumePlan},
    tree::{Disposition, FileEntry, FileId, FileTree, Listing, Removal},
    units::{FileOffset, ImageOffset},
};

/// What the editors did to one volume, and what a verifier has to see afterwards.
#[derive(Debug, Default)]
pub struct StagedVolume {
    /// Edited hives.
    pub hives: Vec<StagedHive>,
    /// Transaction logs that were filled with zeros.
    pub logs: Vec<String>,
    /// What the removal of files touched.
    pub removal: Removal,
    /// The listing before, minus the removed files.
    pub listing: Listing,
    /// Where traces of names can lie besides the file records.
    pub areas: Vec<(String, Vec<Range<u64>>)>,
}

/// One edited hive.
#[derive(Debug)]
pub struct StagedHive {
    /// The file.
    pub entry: FileEntry,
    /// What was asked for.
    pub edits: Vec<HiveEdit>,
    /// Digest of the tree before minus what was taken out.
    pub digest: u128,
    /// Which bytes of the file were written.
    pub changed: Vec<Range<u64>>,
    /// For the report.
    pub done: HiveDone,
}

/// What an edit did to a hive.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct HiveDone {
    /// Path of the file.
    pub path: String,
    /// Values removed, those of removed keys included.
    pub values: u64,
    /// Keys removed.
    pub keys: u64,
    /// Stale bytes zeroed in free cells.
    pub wiped_free: u64,
    /// Stale bytes zeroed behind the used part of live cells.
    pub wiped_slack: u64,
    /// Stale bytes zeroed behind the last hbin.
    pub wiped_tail: u64,
    /// Stale bytes zeroed in cells that nothing referenced.
    pub wiped_leaked: u64,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Stages every edit of the plan.
pub fn stage(image: &Image, plan: &Plan) -> Result<Vec<StagedVolume>> {
    let tokens: Vec<Vec<u8>> = plan
        .tokens
        .iter()
        .map(|token| token.bytes.clone())
        .collect();
    image
        .volumes
        .iter()
        .zip(&plan.volumes)
        .map(|(volume, part)| stage_volume(volume, part, &tokens).map_err(|e| volume.climb(e)))
        .collect()
}

fn stage_volume(volume: &Volume, part: &VolumePlan, tokens: &[Vec<u8>]) -> Result<StagedVolume> {
    let mut staged = StagedVolume {
        listing: part.listing,
        ..StagedVolume::default()
    };
    let Some(tree) = volume.tree() else {
        return Ok(staged);
    };
    if !part.has_edits() {
        return Ok(staged);
    }
    let ids = plan::removal_ids(part);
    staged.areas = tree.trace_areas(&ids)?;
    for entry in &part.removals {
        staged.listing.subtract(&entry.listing);
    }
    let edited = part.hives.iter().filter(|hive| hive.is_written());
    let written = edited
        .clone()
        .map(|hive| &hive.entry)
        .chain(&part.log_wipes);
    let written: Vec<FileId> = written.map(|entry| entry.id).collect();
    // Hives and files lie in different clusters, which is checked first, and the overlay takes both
    // writers' pages one at a time; there are two cores. While all records are asked whose clusters
    // these are, the first hive is edited in memory.
    let (hives, removal) = std::thread::scope(|scope| {
        let (agree, agreed) = mpsc::channel();
        let removal = scope.spawn(|| {
            // Dropped without a word if anything is wrong.
            let agree = agree;
            tree.sole_owners(&written, &ids)?;
            agree.send(()).ok();
            tree.remove(&ids)
        });
        let mut answer = None;
        let mut may_write = || *answer.get_or_insert_with(|| agreed.recv().is_ok());
        let hives: Result<Vec<StagedHive>> = edited
            .map(|hive| stage_hive(tree, hive, tokens, &mut may_write))
            .collect();
        (hives, removal.join())
    });
    // First what is wrong with the volume: it kept the hives from being written, too.
    staged.removal = removal.map_err(|_| Error::internal("removal: the thread died"))??;
    staged.hives = hives?;
    for log in &part.log_wipes {
        let stale = tree.erase(log.id).at("file", log.path())?;
        if log.len > 0 || stale > 0 {
            staged.logs.push(log.path());
        }
    }
    Ok(staged)
}

fn stage_hive(
    tree: &dyn FileTree,
    hive: &HivePlan,
    tokens: &[Vec<u8>],
    may_write: &mut dyn FnMut() -> bool,
) -> Result<StagedHive> {
    let (entry, edits) = (&hive.entry, hive.edits.as_slice());
    let path = entry.path();
    let extents = tree.extents(entry.id)?;
    let climb = |error: Error| plan::climb_hive(error, &path, &extents);
    let kept = hive.bytes.lock().ok().and_then(|mut kept| kept.take());
    let opened = match kept {
        Some(opened) => opened,
        None => plan::open_hive(tree, entry, &hive.logs).map_err(climb)?,
    };
    let staged = match opened {
        HiveBytes::Clean(mut bytes) => {
            tree.note(entry.id, &bytes)
                .map_err(|error| error.at("file", &path))?;
            let checked = hive::check(&bytes).map_err(climb)?;
            let before = checked.summary().digest;
            let run = match hive.wipe {
                true => hive::edit_and_wipe,
                false => hive::edit,
            };
            let outcome = run(&mut bytes, &checked, edits, tokens).map_err(climb)?;
            let changed = outcome.changed.clone();
            (bytes, before, outcome, changed, None)
        }
        HiveBytes::Replayed {
            primary,
            mut bytes,
            replay,
        } => {
            // What is wrong with it need not be on disk: no place below the hive.
            let climb = |error: Error| {
                let error = error.at("hive", "after the replay of its logs");
                plan::climb_hive(error, &path, &[])
            };
            let checked = hive::check(&bytes).map_err(climb)?;
            let before = checked.summary().digest;
            let outcome =
                hive::edit_and_wipe(&mut bytes, &checked, edits, tokens).map_err(climb)?;
            hive::seal(&mut bytes, &replay, entry.len).map_err(climb)?;
            let changed = hive::differences(&primary, &bytes);
            let note = format!(
                "dirty: its logs were replayed first (entries {}, pages {}), the result is written \
                 and needs no log",
                replay.entries(),
                replay.pages()
            );
            (bytes, before, outcome, changed, Some(note))
        }
        HiveBytes::Stuck { primary, why, .. } => {
            let mut bytes = primary.clone();
            hive::settle(&mut bytes).map_err(climb)?;
            let checked = hive::check(&bytes).map_err(climb)?;
            let before = checked.summary().digest;
            let outcome =
                hive::edit_and_wipe(&mut bytes, &checked, edits, tokens).map_err(climb)?;
            let changed = hive::differences(&primary, &bytes);
            let note = format!(
                "DIRTY, EDITED AS IT WAS ON DISK (--accept-dirty): what only its logs held is lost; \
                 {}",
                why.what()
            );
            (bytes, before, outcome, changed, Some(note))
        }
    };
    let (bytes, before, outcome, changed, note) = staged;
    if !may_write() {
        return Err(Error::internal(
            "hive edit: the volume is not to be written",
        ));
    }
    for range in &changed {
        let piece = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(from, to)| bytes.get(from..to))
            .ok_or_else(|| Error::internal("hive edit: changed range leaves the hive"))?;
        tree.overwrite(entry.id, FileOffset(range.start), piece)
            .map_err(|error| error.at("file", &path))?;
    }
    tree.note(entry.id, &bytes)
        .map_err(|error| error.at("file", &path))?;
    Ok(StagedHive {
        entry: entry.clone(),
        edits: edits.to_vec(),
        digest: before.wrapping_sub(outcome.removed_digest),
        changed,
        done: HiveDone {
            path,
            values: outcome.values,
            keys: outcome.keys,
            wiped_free: outcome.wiped.free_bytes,
            wiped_slack: outcome.wiped.slack_bytes,
            wiped_tail: outcome.wiped.tail_bytes,
            wiped_leaked: outcome.wiped.leaked_bytes,
            notes: note.into_iter().chain(outcome.notes).collect(),
        },
    })
}

/// Wipes stale bytes that hold a token. `hits` are image ranges; the answers come in their order.
pub fn wipe(image: &Image, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
    let mut out: Vec<Disposition> = hits
        .iter()
        .map(|_| Disposition::Left("outside every volume".to_owned()))
        .collect();
    for (hit, answer) in hits.iter().zip(&mut out) {
        if image.places.is_loose(hit) {
            image.file.zero_at(hit.start, hit.end - hit.start)?;
            *answer =
                Disposition::Wiped("bytes of the container that nothing references".to_owned());
        }
    }
    for volume in &image.volumes {
        let Some(tree) = volume.tree() else { continue };
        let (places, inside): (Vec<usize>, Vec<Range<u64>>) = hits
            .iter()
            .enumerate()
            .filter_map(|(i, hit)| {
                let start = volume.volume_offset(ImageOffset(hit.start))?.get();
                Some((i, start..start + (hit.end - hit.start)))
            })
            .unzip();
        if inside.is_empty() {
            continue;
        }
        // A hibernated volume beside the one that is cleaned has free clusters, too, and a driver that
        // remembers them otherwise.
        let obstacles = tree.obstacles().map_err(|error| volume.climb(error))?;
        if let Some(obstacle) = obstacles.first() {
            for place in places {
                out[place] = Disposition::Left(format!("not written: {}", obstacle.what));
            }
            continue;
        }
        let answers = tree
            .wipe_residue(&inside)
            .map_err(|error| volume.climb(error))?;
        for (place, answer) in places.into_iter().zip(answers) {
            out[place] = answer;
        }
    }
    Ok(out)
}
