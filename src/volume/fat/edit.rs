//! Writing: entries, chains and free space, as patches of bytes. Nothing is ever allocated.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use super::{
    Fat,
    boot::Width,
    format::{fsinfo, slot},
    name::{byte, is_long},
    table::{Chain, Link, Table, fat_offset, place_of},
    tree::slot_offset,
    walk::{Walk, first_cluster, len_of},
};
use crate::{
    bytes::all_zero,
    error::{At, Error, Result},
    tree::{Disposition, FileId, Owner, Removal},
    units::{FileOffset, VolumeOffset},
    volume::{
        entry_place,
        widths::{narrow, sum, wide},
    },
};

/// Bytes looked at in one go.
const PIECE: u64 = 1 << 16;
/// Most places in a hit that are asked for their owner.
const MAX_PROBES: usize = 4096;
/// No owner is smaller than a slot.
const STEP: u64 = 32;

/// See [`FileTree::overwrite`](crate::tree::FileTree::overwrite).
pub(super) fn overwrite(fat: &Fat, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
    let (raw, chain) = fat.data_of(id)?;
    let end = sum(offset.get(), wide(bytes.len()), "overwrite")?;
    if end > u64::from(len_of(&raw)) {
        return Err(Error::refused(format!(
            "overwrite: a place within the file's {} bytes expected, found {offset} to {end:#x}; \
             the file is never extended",
            len_of(&raw)
        ))
        .at("directory entry", entry_place(id.0)));
    }
    fat.each_piece(&chain, offset.get(), end, |place, from, to| {
        let part = bytes
            .get(narrow(from, "file")?..narrow(to, "file")?)
            .ok_or_else(|| Error::internal("FAT file: its piece"))?;
        fat.device.write_at(place, part)
    })
}

/// See [`FileTree::erase`](crate::tree::FileTree::erase).
pub(super) fn erase(fat: &Fat, id: FileId) -> Result<u64> {
    let (_, chain) = fat.data_of(id)?;
    zero_chain(fat, &chain)
}

/// Zeroes the clusters of a chain; says how many bytes were not zero.
fn zero_chain(fat: &Fat, chain: &Chain) -> Result<u64> {
    let mut stale = 0_u64;
    for (at, len) in chain.ranges(&fat.geometry) {
        stale = stale.saturating_add(zero_range(fat, at, len)?);
    }
    Ok(stale)
}

/// Zeroes a range where it is not zero already.
fn zero_range(fat: &Fat, at: u64, len: u64) -> Result<u64> {
    let mut stale = 0_u64;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < len {
        let take = len.saturating_sub(done).min(PIECE);
        buffer.resize(narrow(take, "cluster")?, 0);
        let place = at.saturating_add(done);
        fat.device
            .read_at(place, &mut buffer)
            .at("volume offset", format!("{place:#x}"))?;
        if !all_zero(&buffer) {
            let count = buffer.iter().filter(|byte| **byte != 0).count();
            stale = stale.saturating_add(wide(count));
            fat.device.zero_at(place, take)?;
        }
        done = done.saturating_add(take);
    }
    Ok(stale)
}

/// See [`FileTree::remove`](crate::tree::FileTree::remove).
pub(super) fn remove(fat: &Fat, ids: &[FileId]) -> Result<Removal> {
    let mut removal = Removal::default();
    if ids.is_empty() {
        return Ok(removal);
    }
    let walk = fat.walk()?;
    if let Some(problem) = walk.problems.first() {
        return Err(Error::refused(format!(
            "remove: a sound volume expected, found {problem}"
        )));
    }
    let mut clusters = BTreeSet::new();
    for id in ids {
        let node = walk
            .find(id.0)
            .and_then(|index| walk.nodes.get(index))
            .filter(|node| !node.is_directory() && !node.is_label())
            .ok_or_else(|| {
                Error::refused("remove: a file expected, found none")
                    .at("directory entry", entry_place(id.0))
            })?;
        let (_, chain) = fat.data_of(*id)?;
        zero_chain(fat, &chain)?;
        for cluster in chain.numbers() {
            if !clusters.insert(cluster) {
                return Err(Error::internal("remove: a cluster of two files"));
            }
        }
        for slot in &node.slots {
            clear_slot(fat, *slot, true)?;
        }
        removal.index_entries = removal.index_entries.saturating_add(wide(node.slots.len()));
    }
    removal.clusters = stage_free(fat, clusters.iter().copied())?;
    count_free(fat, removal.clusters)?;
    fat.forget_walk()?;
    Ok(removal)
}

/// Marks clusters as free in every copy; what an entry's other bits say stays.
fn stage_free(fat: &Fat, clusters: impl Iterator<Item = u32>) -> Result<u64> {
    let mut count = 0_u64;
    for cluster in clusters {
        let (at, len) = place_of(fat.geometry.width, cluster);
        for copy in 0..fat.geometry.fats {
            let place = fat_offset(&fat.geometry, copy).saturating_add(at);
            let mut raw = [0_u8; 4];
            let part = raw.get_mut(..len).unwrap_or_default();
            fat.device
                .read_at(place, part)
                .at("volume offset", format!("{place:#x}"))?;
            let keep: [u8; 4] = match fat.geometry.width {
                Width::Bits12 if cluster & 1 == 1 => [0x0F, 0, 0, 0],
                Width::Bits12 => [0, 0xF0, 0, 0],
                Width::Bits16 => [0; 4],
                Width::Bits32 => [0, 0, 0, 0xF0],
            };
            for (byte, keep) in part.iter_mut().zip(keep) {
                *byte &= keep;
            }
            fat.device.write_at(place, part)?;
        }
        count = count.saturating_add(1);
    }
    Ok(count)
}

/// Empties a slot. One before the end of its directory stays marked as deleted.
fn clear_slot(fat: &Fat, number: u64, mark: bool) -> Result<()> {
    let at = slot_offset(number)?;
    let mut empty = [0; slot::LEN];
    if let Some(first) = empty.first_mut().filter(|_| mark) {
        *first = slot::DELETED;
    }
    fat.device.write_at(at, &empty)
}

/// Adds to the free count of the FSInfo, if it knows one. The hint where to look for free clusters
/// stays: it is as good as before.
fn count_free(fat: &Fat, freed: u64) -> Result<()> {
    let Some((at, free, _, _)) = fat.read_fsinfo()? else {
        return Ok(());
    };
    if free == fsinfo::UNKNOWN || freed == 0 {
        return Ok(());
    }
    let sum = u64::from(free).saturating_add(freed);
    let new = match u32::try_from(sum) {
        Ok(new) if sum <= fat.geometry.cluster_count => new,
        _ => fsinfo::UNKNOWN,
    };
    let place = at.saturating_add(wide(fsinfo::FREE));
    fat.device.write_at(place, &new.to_le_bytes())
}

/// See [`FileTree::wipe_residue`](crate::tree::FileTree::wipe_residue).
pub(super) fn wipe_residue(fat: &Fat, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
    // A volume without findings was not asked whether it may be written.
    if let Some(obstacle) = fat.find_obstacles()?.first().filter(|_| !hits.is_empty()) {
        let why = format!("the volume is not written: {}", obstacle.what);
        return Ok(hits.iter().map(|_| left(why.clone())).collect());
    }
    let mut places = Vec::new();
    let mut of_hit = Vec::new();
    for hit in hits {
        let from = places.len();
        places.extend(probes(hit).into_iter().map(VolumeOffset));
        of_hit.push(from..places.len());
    }
    let owners = fat.owners_of(&places, &[])?;
    let walk = fat.walk()?;
    let mut groups = HashMap::new();
    for (index, stale) in walk.stale.iter().enumerate() {
        groups.extend(stale.slots.iter().map(|slot| (*slot, index)));
    }
    let mut answers = Vec::new();
    for (hit, range) in hits.iter().zip(of_hit) {
        let mut answer = Disposition::Left("an empty hit".to_owned());
        let owners = owners.get(range.clone()).unwrap_or_default();
        let places = places.get(range).unwrap_or_default();
        for (i, (at, owner)) in places.iter().zip(owners).enumerate() {
            let now = wipe_one(fat, &walk, &groups, at.get(), owner)?;
            let left = matches!(now, Disposition::Left(_));
            if i == 0 || left {
                answer = now;
            }
            if left {
                break;
            }
        }
        if matches!(answer, Disposition::Wiped(_)) && !is_gone(fat, hit)? {
            answer = Disposition::Left("still in use after everything stale was wiped".to_owned());
        }
        answers.push(answer);
    }
    fat.forget_walk()?;
    Ok(answers)
}

/// First byte, last byte, and the beginning of every 32 bytes between.
fn probes(hit: &Range<u64>) -> Vec<u64> {
    let mut out = Vec::new();
    let mut at = hit.start;
    while at < hit.end && out.len() < MAX_PROBES {
        out.push(at);
        let Some(next) = at.checked_div(STEP).and_then(|n| n.checked_add(1)) else {
            break;
        };
        at = next.saturating_mul(STEP);
    }
    out.extend(hit.end.checked_sub(1).filter(|last| *last > hit.start));
    out
}

/// Whether only marks of deleted slots are left.
fn is_gone(fat: &Fat, hit: &Range<u64>) -> Result<bool> {
    let len = hit.end.saturating_sub(hit.start);
    let mut bytes = vec![0; narrow(len, "hit")?];
    fat.device.read_at(hit.start, &mut bytes)?;
    let mut at = hit.start;
    for byte in &mut bytes {
        if at & STEP.saturating_sub(1) == 0 && *byte == slot::DELETED {
            *byte = 0;
        }
        at = at.saturating_add(1);
    }
    Ok(all_zero(&bytes))
}

fn wipe_one(
    fat: &Fat,
    walk: &Walk,
    groups: &HashMap<u64, usize>,
    at: u64,
    owner: &Owner,
) -> Result<Disposition> {
    match owner {
        Owner::Free { cluster } => {
            let Some(number) = fat.geometry.cluster_at(at) else {
                return Ok(left("outside the file system's clusters"));
            };
            if Table::new(fat).link(number)? != Link::Free {
                return Ok(left("a cluster in use"));
            }
            let len = cluster.end.saturating_sub(cluster.start);
            zero_range(fat, cluster.start, len)?;
            Ok(wiped(format!("free cluster {number}")))
        }
        Owner::Record {
            number,
            in_use: false,
            ..
        } => {
            // The whole of a deleted entry goes: its short name with its long one.
            let own = [*number];
            let group = groups
                .get(number)
                .and_then(|index| walk.stale.get(*index))
                .map_or(own.as_slice(), |stale| &stale.slots);
            for slot in group {
                let raw = fat.slot(*slot)?;
                // Behind the end of a directory nothing is marked: there the first byte stays 0.
                let mark = byte(&raw, 0) == slot::DELETED || (is_long(&raw) && byte(&raw, 0) != 0);
                clear_slot(fat, *slot, mark)?;
            }
            Ok(wiped(format!(
                "deleted directory entry at {}",
                entry_place(*number)
            )))
        }
        Owner::Record { number, path, .. } => Ok(left(format!(
            "directory entry at {} in use by {}",
            entry_place(*number),
            path.as_deref().unwrap_or("?")
        ))),
        Owner::File {
            id,
            path,
            tail: true,
            ..
        } => tail(fat, *id, path),
        Owner::File { path, stream, .. } => Ok(left(format!("{path} {stream}"))),
        Owner::Outside => Ok(left("outside the file system's clusters")),
    }
}

/// Behind the end of a file its clusters hold nothing.
fn tail(fat: &Fat, id: FileId, path: &str) -> Result<Disposition> {
    let (raw, chain) = match fat.data_of(id) {
        Ok(found) => found,
        Err(error) => return Ok(left(format!("{path}: {error}"))),
    };
    if first_cluster(fat, &raw) == 0 {
        return Ok(left(format!("{path}: it has no clusters")));
    }
    let end = chain.clusters.saturating_mul(fat.geometry.cluster_len);
    fat.each_piece(&chain, len_of(&raw).into(), end, |place, from, to| {
        zero_range(fat, place, to.saturating_sub(from)).map(|_| ())
    })?;
    Ok(wiped(format!("cluster tail of {path}")))
}

fn wiped(what: String) -> Disposition {
    Disposition::Wiped(what)
}

fn left(what: impl Into<String>) -> Disposition {
    Disposition::Left(what.into())
}
