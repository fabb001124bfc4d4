//! Writing: entries, chains and free space, as patches of bytes. Nothing is ever allocated.

use std::{collections::HashMap, ops::Range};

use super::{
    Exfat,
    entry::byte,
    format::{boot, slot},
    table::{Chain, Run, Table, Taken},
    tree::{no_entry, shown, slot_offset},
    walk::Walk,
};
use crate::{
    bytes::all_zero,
    error::{At, Error, Result},
    tree::{Disposition, FileId, Owner, Removal},
    units::{FileOffset, VolumeOffset},
    volume::widths::{narrow, sum, wide},
};

/// Bytes looked at in one go.
const PIECE: u64 = 1 << 16;
/// Most places in a hit that are asked for their owner.
const MAX_PROBES: usize = 4096;
/// No owner is smaller than a slot.
const STEP: u64 = 32;

/// See [`FileTree::overwrite`](crate::tree::FileTree::overwrite).
pub(super) fn overwrite(exfat: &Exfat, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
    let (node, chain) = exfat.data_of(id)?;
    let end = sum(offset.get(), wide(bytes.len()), "overwrite")?;
    if end > node.len() {
        return Err(Error::refused(format!(
            "overwrite: a place within the file's {} bytes expected, found {offset} to {end:#x}; \
             the file is never extended",
            node.len()
        ))
        .at("directory entry", shown(id)));
    }
    // What was never written is zeros, and stays so: its length of valid data is not moved.
    let written = node.set.valid.clamp(offset.get(), end);
    let known = narrow(written.saturating_sub(offset.get()), "overwrite")?;
    if !all_zero(bytes.get(known..).unwrap_or_default()) {
        return Err(Error::refused(format!(
            "overwrite: a place within the {} bytes that were ever written expected, found \
             {offset} to {end:#x}",
            node.set.valid
        ))
        .at("directory entry", shown(id)));
    }
    chain.each_piece(&exfat.geometry, offset.get(), written, |place, from, to| {
        let part = bytes
            .get(narrow(from, "file")?..narrow(to, "file")?)
            .ok_or_else(|| Error::internal("exFAT file: its piece"))?;
        exfat.device.write_at(place, part)
    })
}

/// See [`FileTree::erase`](crate::tree::FileTree::erase).
pub(super) fn erase(exfat: &Exfat, id: FileId) -> Result<u64> {
    let (_, chain) = exfat.data_of(id)?;
    zero_chain(exfat, &chain)
}

/// Zeroes the clusters of a chain; says how many bytes were not zero.
fn zero_chain(exfat: &Exfat, chain: &Chain) -> Result<u64> {
    let mut stale = 0_u64;
    for (at, len) in chain.ranges(&exfat.geometry) {
        stale = stale.saturating_add(zero_range(exfat, at, len)?);
    }
    Ok(stale)
}

/// Zeroes a range where it is not zero already.
fn zero_range(exfat: &Exfat, at: u64, len: u64) -> Result<u64> {
    let mut stale = 0_u64;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < len {
        let take = len.saturating_sub(done).min(PIECE);
        buffer.resize(narrow(take, "cluster")?, 0);
        let place = at.saturating_add(done);
        exfat
            .device
            .read_at(place, &mut buffer)
            .at("volume offset", format!("{place:#x}"))?;
        if !all_zero(&buffer) {
            let count = buffer.iter().filter(|byte| **byte != 0).count();
            stale = stale.saturating_add(wide(count));
            exfat.device.zero_at(place, take)?;
        }
        done = done.saturating_add(take);
    }
    Ok(stale)
}

/// See [`FileTree::remove`](crate::tree::FileTree::remove).
pub(super) fn remove(exfat: &Exfat, ids: &[FileId]) -> Result<Removal> {
    let mut removal = Removal::default();
    if ids.is_empty() {
        return Ok(removal);
    }
    let walk = exfat.walk()?;
    if let Some(problem) = walk.problems.first() {
        return Err(Error::refused(format!(
            "remove: a sound volume expected, found {problem}"
        )));
    }
    let mut freed = Taken::default();
    let mut table = Table::new(exfat);
    for id in ids {
        let node = walk
            .find(id.0)
            .and_then(|index| walk.nodes.get(index))
            .filter(|node| !node.is_directory())
            .ok_or_else(|| no_entry(*id).into_kind(crate::error::Kind::Refused))?;
        // Clusters of entries that are not understood go with their file (section 8.2).
        for of in std::iter::once(&node.set.data).chain(&node.set.extra) {
            let chain = table.chain(*of)?;
            if let Some(problem) = chain.problem {
                return Err(Error::refused(problem).at("directory entry", shown(*id)));
            }
            zero_chain(exfat, &chain)?;
            for run in &chain.runs {
                if freed.take(*run).is_some() {
                    return Err(Error::internal("remove: a cluster of two files"));
                }
                if !of.contiguous {
                    zero_links(exfat, *run)?;
                }
                removal.clusters = removal.clusters.saturating_add(run.count.into());
            }
        }
        for slot in &node.slots {
            clear_slot(exfat, *slot, true)?;
        }
        removal.index_entries = removal.index_entries.saturating_add(wide(node.slots.len()));
    }
    for (first, end) in freed.runs() {
        clear_bits(exfat, &walk, first, end)?;
    }
    set_percent(exfat, walk.used.saturating_sub(removal.clusters))?;
    exfat.forget_walk()?;
    Ok(removal)
}

/// Zeroes the links of clusters in the FAT.
fn zero_links(exfat: &Exfat, run: Run) -> Result<()> {
    let at = u64::from(run.first).saturating_mul(4);
    let place = exfat.geometry.active_fat().saturating_add(at);
    let len = u64::from(run.count).saturating_mul(4);
    zero_range(exfat, place, len).map(|_| ())
}

/// Marks clusters as free in the bitmap.
fn clear_bits(exfat: &Exfat, walk: &Walk, first: u32, end: u32) -> Result<()> {
    let (chain, _) = walk
        .bitmap
        .as_ref()
        .ok_or_else(|| Error::refused("remove: an allocation bitmap expected, found none"))?;
    let start = u64::from(first).saturating_sub(2);
    let stop = u64::from(end).saturating_sub(2);
    let (from_byte, to_byte) = (start >> 3, stop.div_ceil(8));
    chain.each_piece(&exfat.geometry, from_byte, to_byte, |place, from, to| {
        let mut done = from;
        while done < to {
            let take = to.saturating_sub(done).min(PIECE);
            let mut bits = vec![0; narrow(take, "allocation bitmap")?];
            let at = place.saturating_add(done.saturating_sub(from));
            exfat
                .device
                .read_at(at, &mut bits)
                .at("volume offset", format!("{at:#x}"))?;
            for (i, byte) in bits.iter_mut().enumerate() {
                let index = from_byte.saturating_add(done).saturating_add(wide(i));
                for bit in 0..8_u8 {
                    let number = index.saturating_mul(8).saturating_add(bit.into());
                    if (start..stop).contains(&number) {
                        *byte &= !1_u8.wrapping_shl(bit.into());
                    }
                }
            }
            exfat.device.write_at(at, &bits)?;
            done = done.saturating_add(take);
        }
        Ok(())
    })
}

/// Keeps the percentage of the boot sector right, if it knows one (section 3.1.18). No checksum
/// counts it, and the backup's is stale by definition.
fn set_percent(exfat: &Exfat, used: u64) -> Result<()> {
    let at = wide(boot::PERCENT_IN_USE);
    let mut old = [0];
    exfat
        .device
        .read_at(at, &mut old)
        .at("volume offset", format!("{at:#x}"))?;
    let percent = used
        .saturating_mul(100)
        .checked_div(exfat.geometry.cluster_count)
        .unwrap_or(0);
    let new = [u8::try_from(percent).unwrap_or(boot::PERCENT_UNKNOWN)];
    if old == [boot::PERCENT_UNKNOWN] || old == new {
        return Ok(());
    }
    exfat.device.write_at(at, &new)
}

/// Empties a slot. One before the end of its directory keeps its type, marked as not in use: a type of
/// 0 would end the directory.
fn clear_slot(exfat: &Exfat, number: u64, mark: bool) -> Result<()> {
    let raw = exfat.slot(number)?;
    let mut empty = [0; slot::LEN];
    if let Some(first) = empty.first_mut().filter(|_| mark) {
        *first = byte(&raw, 0) & !slot::IN_USE;
    }
    exfat.device.write_at(slot_offset(number)?, &empty)
}

/// See [`FileTree::wipe_residue`](crate::tree::FileTree::wipe_residue).
pub(super) fn wipe_residue(exfat: &Exfat, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
    // A volume without findings was not asked whether it may be written.
    if let Some(obstacle) = exfat.find_obstacles()?.first().filter(|_| !hits.is_empty()) {
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
    let owners = exfat.owners_of(&places, &[])?;
    let walk = exfat.walk()?;
    let mut groups = HashMap::new();
    for (index, stale) in walk.stale.iter().enumerate() {
        groups.extend(stale.slots.iter().map(|slot| (*slot, index)));
    }
    let mut answers = Vec::new();
    for (hit, range) in hits.iter().zip(of_hit) {
        let mut answer = left("an empty hit");
        let owners = owners.get(range.clone()).unwrap_or_default();
        let places = places.get(range).unwrap_or_default();
        for (i, (at, owner)) in places.iter().zip(owners).enumerate() {
            let now = wipe_one(exfat, &walk, &groups, at.get(), owner)?;
            let left = matches!(now, Disposition::Left(_));
            if i == 0 || left {
                answer = now;
            }
            if left {
                break;
            }
        }
        if matches!(answer, Disposition::Wiped(_)) && !is_gone(exfat, &walk, hit)? {
            answer = left("still in use after everything stale was wiped");
        }
        answers.push(answer);
    }
    exfat.forget_walk()?;
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

/// Whether only marks of slots that are not in use are left.
fn is_gone(exfat: &Exfat, walk: &Walk, hit: &Range<u64>) -> Result<bool> {
    let len = hit.end.saturating_sub(hit.start);
    let mut bytes = vec![0; narrow(len, "hit")?];
    exfat.device.read_at(hit.start, &mut bytes)?;
    let mut at = hit.start;
    for byte in &mut bytes {
        let is_type = at & STEP.saturating_sub(1) == 0 && walk.directory_at(at).is_some();
        if is_type && *byte & slot::IN_USE == 0 {
            *byte = 0;
        }
        at = at.saturating_add(1);
    }
    Ok(all_zero(&bytes))
}

fn wipe_one(
    exfat: &Exfat,
    walk: &Walk,
    groups: &HashMap<u64, usize>,
    at: u64,
    owner: &Owner,
) -> Result<Disposition> {
    match owner {
        Owner::Free { cluster } => {
            let Some(number) = exfat.geometry.cluster_at(at) else {
                return Ok(left("outside the file system's clusters"));
            };
            if !walk.is_free(exfat, number)? {
                return Ok(left("a cluster in use"));
            }
            let len = cluster.end.saturating_sub(cluster.start);
            zero_range(exfat, cluster.start, len)?;
            Ok(wiped(format!("free cluster {number}")))
        }
        Owner::Record {
            number,
            in_use: false,
            ..
        } => {
            // The whole of a deleted set goes.
            let Some(stale) = groups.get(number).and_then(|index| walk.stale.get(*index)) else {
                return Ok(left("an empty directory entry"));
            };
            for slot in &stale.slots {
                clear_slot(exfat, *slot, !stale.behind_end)?;
            }
            let place = shown(FileId(*number));
            Ok(wiped(format!("deleted directory entry at {place}")))
        }
        Owner::Record { number, path, .. } => Ok(left(format!(
            "directory entry at {} in use by {}",
            shown(FileId(*number)),
            path.as_deref().unwrap_or("?")
        ))),
        Owner::File {
            id,
            path,
            tail: true,
            ..
        } => tail(exfat, *id, path),
        Owner::File { path, stream, .. } => Ok(left(format!("{path} {stream}"))),
        Owner::Outside => Ok(left("outside the file system's clusters")),
    }
}

/// Behind what was written of a file its clusters hold nothing.
fn tail(exfat: &Exfat, id: FileId, path: &str) -> Result<Disposition> {
    let (node, chain) = match exfat.data_of(id) {
        Ok(found) => found,
        Err(error) => return Ok(left(format!("{path}: {error}"))),
    };
    let end = chain.clusters.saturating_mul(exfat.geometry.cluster_len);
    chain.each_piece(&exfat.geometry, node.set.valid, end, |place, from, to| {
        zero_range(exfat, place, to.saturating_sub(from)).map(|_| ())
    })?;
    Ok(wiped(format!("cluster tail of {path}")))
}

fn wiped(what: String) -> Disposition {
    Disposition::Wiped(what)
}

fn left(what: impl Into<String>) -> Disposition {
    Disposition::Left(what.into())
}
