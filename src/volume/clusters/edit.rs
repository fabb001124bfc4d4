//! Writing: entries, chains and free space, as patches of bytes. Nothing is ever allocated.

use std::{collections::HashMap, ops::Range};

use super::{Chain, Entry, Format, SLOT_LEN, Stale, Table, Taken, Volume, Walk, slot_offset};
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
pub const PIECE: u64 = 1 << 16;
/// Most places in a hit that are asked for their owner.
const MAX_PROBES: usize = 4096;
/// No owner is smaller than a slot.
const STEP: u64 = 32;

/// See [`FileTree::overwrite`](crate::tree::FileTree::overwrite).
pub(super) fn overwrite<F: Format>(
    volume: &Volume<F>,
    id: FileId,
    offset: FileOffset,
    bytes: &[u8],
) -> Result<()> {
    let (node, chain) = volume.data_of(id)?;
    let end = sum(offset.get(), wide(bytes.len()), "overwrite")?;
    if end > node.data_len() {
        return Err(Error::refused(format!(
            "overwrite: a place within the file's {} bytes expected, found {offset} to {end:#x}; \
             the file is never extended",
            node.data_len()
        ))
        .at("directory entry", entry_place(id.0)));
    }
    // What was never written is zeros, and stays so: its length of valid data is not moved.
    let valid = node.entry.valid();
    let written = valid.clamp(offset.get(), end);
    let known = narrow(written.saturating_sub(offset.get()), "overwrite")?;
    if !all_zero(bytes.get(known..).unwrap_or_default()) {
        return Err(Error::refused(format!(
            "overwrite: a place within the {valid} bytes that were ever written expected, found \
             {offset} to {end:#x}"
        ))
        .at("directory entry", entry_place(id.0)));
    }
    chain.each_piece(volume.heap(), offset.get(), written, |place, from, to| {
        let part = bytes
            .get(narrow(from, "file")?..narrow(to, "file")?)
            .ok_or_else(|| Error::internal(format!("{} file: its piece", F::NAME)))?;
        volume.device.write_at(place, part)
    })
}

/// See [`FileTree::erase`](crate::tree::FileTree::erase).
pub(super) fn erase<F: Format>(volume: &Volume<F>, id: FileId) -> Result<u64> {
    let (_, chain) = volume.data_of(id)?;
    zero_chain(volume, &chain)
}

/// Zeroes the clusters of a chain; says how many bytes were not zero.
fn zero_chain<F: Format>(volume: &Volume<F>, chain: &Chain) -> Result<u64> {
    let mut stale = 0_u64;
    for (at, len) in chain.ranges(volume.heap()) {
        stale = stale.saturating_add(zero_range(volume, at, len)?);
    }
    Ok(stale)
}

/// Zeroes a range of the volume where it is not zero already; says how many bytes were not.
pub fn zero_range<F: Format>(volume: &Volume<F>, at: u64, len: u64) -> Result<u64> {
    let mut stale = 0_u64;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < len {
        let take = len.saturating_sub(done).min(PIECE);
        buffer.resize(narrow(take, "cluster")?, 0);
        let place = at.saturating_add(done);
        volume
            .device
            .read_at(place, &mut buffer)
            .at("volume offset", format!("{place:#x}"))?;
        if !all_zero(&buffer) {
            let count = buffer.iter().filter(|byte| **byte != 0).count();
            stale = stale.saturating_add(wide(count));
            volume.device.zero_at(place, take)?;
        }
        done = done.saturating_add(take);
    }
    Ok(stale)
}

/// See [`FileTree::remove`](crate::tree::FileTree::remove).
pub(super) fn remove<F: Format>(volume: &Volume<F>, ids: &[FileId]) -> Result<Removal> {
    let mut removal = Removal::default();
    if ids.is_empty() {
        return Ok(removal);
    }
    let walk = volume.walk()?;
    if let Some(problem) = walk.problems.first() {
        return Err(Error::refused(format!(
            "remove: a sound volume expected, found {problem}"
        )));
    }
    let mut table = Table::new(volume);
    let mut freed = Taken::default();
    let mut chains = Vec::new();
    for id in ids {
        let node = walk
            .find(id.0)
            .and_then(|index| walk.nodes.get(index))
            .filter(|node| !node.is_directory() && !node.is_label())
            .ok_or_else(|| {
                Error::refused("remove: a file expected, found none")
                    .at("directory entry", entry_place(id.0))
            })?;
        for chain in F::chains(&mut table, &node.entry)? {
            if let Some(problem) = chain.problem {
                return Err(Error::refused(problem).at("directory entry", entry_place(id.0)));
            }
            zero_chain(volume, &chain)?;
            if chain.runs.iter().any(|run| freed.take(*run).is_some()) {
                return Err(Error::internal("remove: a cluster of two files"));
            }
            removal.clusters = removal.clusters.saturating_add(chain.clusters);
            chains.push(chain);
        }
        for slot in &node.slots {
            clear_slot(volume, *slot, |_| true)?;
        }
        removal.index_entries = removal.index_entries.saturating_add(wide(node.slots.len()));
    }
    F::free(volume, &walk, &chains, &freed)?;
    volume.forget_walk()?;
    Ok(removal)
}

/// Empties a slot. One before the end of its directory stays marked as not in use.
fn clear_slot<F: Format>(
    volume: &Volume<F>,
    number: u64,
    needs_mark: impl FnOnce(&super::Raw) -> bool,
) -> Result<()> {
    let raw = volume.slot(number)?;
    let mut empty = [0; SLOT_LEN];
    if let Some(first) = empty.first_mut().filter(|_| needs_mark(&raw)) {
        *first = F::mark(&raw);
    }
    volume.device.write_at(slot_offset(number)?, &empty)
}

/// See [`FileTree::wipe_residue`](crate::tree::FileTree::wipe_residue).
pub(super) fn wipe_residue<F: Format>(
    volume: &Volume<F>,
    hits: &[Range<u64>],
) -> Result<Vec<Disposition>> {
    // A volume without findings was not asked whether it may be written.
    if let Some(obstacle) = volume
        .find_obstacles()?
        .first()
        .filter(|_| !hits.is_empty())
    {
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
    let owners = volume.owners_of(&places, &[])?;
    let walk = volume.walk()?;
    let mut groups = HashMap::new();
    for stale in &walk.stale {
        groups.extend(stale.slots.iter().map(|slot| (*slot, stale)));
    }
    let mut answers = Vec::new();
    for (hit, range) in hits.iter().zip(of_hit) {
        let mut answer = left("an empty hit");
        let owners = owners.get(range.clone()).unwrap_or_default();
        let places = places.get(range).unwrap_or_default();
        for (i, (at, owner)) in places.iter().zip(owners).enumerate() {
            let now = wipe_one(volume, &walk, &groups, at.get(), owner)?;
            let left = matches!(now, Disposition::Left(_));
            if i == 0 || left {
                answer = now;
            }
            if left {
                break;
            }
        }
        if matches!(answer, Disposition::Wiped(_)) && !is_gone(volume, &walk, hit)? {
            answer = left("still in use after everything stale was wiped");
        }
        answers.push(answer);
    }
    volume.forget_walk()?;
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
fn is_gone<F: Format>(volume: &Volume<F>, walk: &Walk<F>, hit: &Range<u64>) -> Result<bool> {
    let len = hit.end.saturating_sub(hit.start);
    let mut bytes = vec![0; narrow(len, "hit")?];
    volume.device.read_at(hit.start, &mut bytes)?;
    let mut at = hit.start;
    for byte in &mut bytes {
        let is_first = at & STEP.saturating_sub(1) == 0 && walk.directory_at(at).is_some();
        if is_first && F::is_mark(*byte) {
            *byte = 0;
        }
        at = at.saturating_add(1);
    }
    Ok(all_zero(&bytes))
}

fn wipe_one<F: Format>(
    volume: &Volume<F>,
    walk: &Walk<F>,
    groups: &HashMap<u64, &Stale<F::Remains>>,
    at: u64,
    owner: &Owner,
) -> Result<Disposition> {
    match owner {
        Owner::Free { cluster } => {
            let Some(number) = volume.heap().cluster_at(at) else {
                return Ok(left("outside the file system's clusters"));
            };
            if !F::is_free(&mut Table::new(volume), walk, number)? {
                return Ok(left("a cluster in use"));
            }
            let len = cluster.end.saturating_sub(cluster.start);
            zero_range(volume, cluster.start, len)?;
            Ok(wiped(format!("free cluster {number}")))
        }
        Owner::Record {
            number,
            in_use: false,
            ..
        } => {
            // The whole of a deleted entry goes.
            let stale = groups.get(number).copied();
            let slots = F::stale_slots(*number, stale);
            if slots.is_empty() {
                return Ok(left("an empty directory entry"));
            }
            for slot in slots {
                clear_slot(volume, slot, |raw| F::needs_mark(raw, stale))?;
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
        } => tail(volume, *id, path),
        Owner::File { path, stream, .. } => Ok(left(format!("{path} {stream}"))),
        Owner::Outside => Ok(left("outside the file system's clusters")),
    }
}

/// Behind what was written of a file its clusters hold nothing.
fn tail<F: Format>(volume: &Volume<F>, id: FileId, path: &str) -> Result<Disposition> {
    let (node, chain) = match volume.data_of(id) {
        Ok(found) => found,
        Err(error) => return Ok(left(format!("{path}: {error}"))),
    };
    if chain.clusters == 0 {
        return Ok(left(format!("{path}: it has no clusters")));
    }
    let end = chain.room(volume.heap());
    chain.each_piece(volume.heap(), node.entry.valid(), end, |place, from, to| {
        zero_range(volume, place, to.saturating_sub(from)).map(|_| ())
    })?;
    Ok(wiped(format!("cluster tail of {path}")))
}

fn wiped(what: String) -> Disposition {
    Disposition::Wiped(what)
}

fn left(what: impl Into<String>) -> Disposition {
    Disposition::Left(what.into())
}
