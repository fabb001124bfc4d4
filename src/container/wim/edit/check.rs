//! What is wrong with an archive that was written.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use sha1::{Digest, Sha1};

use super::{
    super::{
        Promise, Wim,
        read::{Blob, File, Hash, narrow, wide},
    },
    PAGE, count_refs,
    integrity::Integrity,
    layout::gaps,
    solid,
};
use crate::error::{Error, Kind, Result};

/// A resource up to this length is looked at when only one of its pages was touched.
const SMALL: u64 = 1 << 20;

/// Most contents that are named one by one.
const MAX_WRONG: usize = 100;

/// Bytes hashed in one go.
const HASH_STEP: u64 = 4 << 20;

/// References, places, gaps, and the hashes of what lies in `touched` ranges of the file.
pub(in super::super) fn problems(
    wim: &Wim,
    image: usize,
    touched: &[Range<u64>],
) -> Result<Vec<String>> {
    let file = &wim.file;
    let mut out = Vec::new();
    if !wim.speaks(image) {
        // The file is one; another image's turn was enough.
        return Ok(out);
    }
    let refs = count_refs(wim, &[]);
    for blob in &file.blobs {
        if blob.is_metadata() || blob.is_solid_resource() {
            continue;
        }
        let found = refs.get(&blob.hash).copied().unwrap_or(0);
        if found != blob.refs {
            out.push(format!(
                "WIM blob {}: {} references expected, found {found}",
                hex::encode(blob.hash),
                blob.refs
            ));
        }
    }
    for hash in refs.keys().filter(|hash| file.blob(hash).is_none()) {
        out.push(format!(
            "WIM: contents {} expected, not listed",
            hex::encode(hash)
        ));
    }
    for gap in gaps(file) {
        let dirty = file.host_dirt(gap.clone())?;
        if dirty > 0 {
            out.push(format!(
                "WIM: zeros from {:#x} to {:#x} expected, where nothing is, found {dirty} other bytes",
                gap.start, gap.end
            ));
        }
    }
    check_hashes(wim, touched, &mut out)?;
    solid::check_gaps(file, touched, &mut out)?;
    for part in &file.parts {
        if let Some(integrity) = Integrity::read(file, part)?
            && wide(integrity.old.len()) != integrity.count(part.header.table.range().end)
        {
            out.push(format!(
                "{}: a hash for each piece expected, found another number",
                part.of("WIM integrity table")
            ));
        }
    }
    Ok(out)
}

/// Whether a resource was written, not only the page it begins or ends in.
fn is_touched(range: &Range<u64>, touched: &[Range<u64>]) -> bool {
    let inner = match range.end.saturating_sub(range.start) {
        len if len <= SMALL => range.clone(),
        _ => range.start.next_multiple_of(PAGE)..range.end.saturating_sub(range.end % PAGE),
    };
    let mut all = touched.iter();
    all.any(|one| one.start < inner.end && inner.start < one.end)
}

/// Contents of what was written, and all that shares a chunk with it, have the hash that is listed. In a
/// chunk that holds what was promised only what changed is asked for it.
fn check_hashes(wim: &Wim, touched: &[Range<u64>], out: &mut Vec<String>) -> Result<()> {
    let file = &wim.file;
    let (promises, fresh, known) = {
        let pending = wim.pending()?;
        let blobs = pending.checked.iter();
        let known: HashSet<usize> = blobs.filter_map(|key| wim.blob_of(*key)).collect();
        (pending.promises.clone(), pending.fresh.clone(), known)
    };
    let promised: HashMap<(usize, usize), &Promise> = promises
        .iter()
        .map(|one| ((one.solid, one.index), one))
        .collect();
    let mut order = Vec::new();
    for (index, blob) in file.blobs.iter().enumerate() {
        if blob.is_metadata() || blob.is_solid_resource() || known.contains(&index) {
            continue;
        }
        let solid = file.solid_of(index)?;
        let written = match solid {
            _ if fresh.contains(&blob.hash) => true,
            None => is_touched(&blob.resource.range(), touched),
            Some((number, start)) => {
                let own = start..start.saturating_add(blob.len());
                let mut written = false;
                for (chunk, place) in solid::chunks_of(file, number, &own)? {
                    written |= match promised.get(&(number, chunk)) {
                        Some(promise) => promise.touches(&own),
                        None => is_touched(&place, touched),
                    };
                }
                written
            }
        };
        if written {
            // One chunk after the other: each is decoded once.
            order.push((solid, index));
        }
    }
    order.sort_unstable();
    for (_, index) in order {
        let Some(blob) = file.blobs.get(index) else {
            continue;
        };
        let found = hash_of(file, index, blob)?;
        if found != blob.hash {
            out.push(format!(
                "WIM contents: SHA-1 {} expected, found {}",
                hex::encode(blob.hash),
                hex::encode(found)
            ));
        }
    }
    for one in &promises {
        let solid = file.solids.get(one.solid);
        let solid = solid.ok_or_else(|| Error::internal("WIM solid resource: its number"))?;
        let found = file.hash_of_chunk(&solid.chunks, one.index)?;
        if found != one.hash {
            out.push(format!(
                "WIM solid resource: contents of chunk {} with SHA-1 {} expected, found {}",
                one.index,
                hex::encode(one.hash),
                hex::encode(found)
            ));
        }
    }
    Ok(())
}

/// Contents whose hash is not the one that is listed: of which file, and what was found.
pub(in super::super) fn wrong_contents(wim: &Wim, image: usize) -> Result<Vec<(String, String)>> {
    let file = &wim.file;
    let mut out = Vec::new();
    if !wim.speaks(image) {
        return Ok(out);
    }
    let mut order = Vec::new();
    for (index, blob) in file.blobs.iter().enumerate() {
        if !blob.is_metadata() && !blob.is_solid_resource() && file.has_part(blob) {
            order.push((file.solid_of(index)?, index));
        }
    }
    order.sort_unstable();
    for (_, index) in order {
        let Some(blob) = file.blobs.get(index) else {
            continue;
        };
        let reason = match hash_of(file, index, blob) {
            Ok(found) if found == blob.hash => continue,
            Ok(found) => format!(
                "contents with SHA-1 {} expected, found {}",
                hex::encode(blob.hash),
                hex::encode(found)
            ),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => error.to_string(),
        };
        if out.len() < MAX_WRONG {
            out.push((wim.owner_of(index), reason));
        }
    }
    Ok(out)
}

fn hash_of(file: &File, index: usize, blob: &Blob) -> Result<Hash> {
    let mut hash = Sha1::new();
    let mut at = 0;
    let mut buffer = vec![0; narrow(HASH_STEP.min(blob.len()), "WIM contents")?];
    while at < blob.len() {
        let take = blob.len().saturating_sub(at).min(HASH_STEP);
        let piece = buffer.get_mut(..narrow(take, "WIM contents")?);
        let piece = piece.unwrap_or_default();
        file.read_blob_fast(index, at, piece)?;
        hash.update(&*piece);
        at = at.saturating_add(take);
    }
    Ok(hash.finalize().into())
}
