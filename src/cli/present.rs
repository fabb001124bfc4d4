//! OUT that is there already: a run that was ended after it had made it, or an impatient pipeline. If it is,
//! byte for byte, what this clean would write, the work is done.

use std::{io::Read, ops::Range, os::unix::fs::MetadataExt, path::Path};

use crate::{
    device::{BlockDevice, HostFile, Page, Patch},
    error::{Error, Result},
};

/// Bytes compared at a time.
const CHUNK: usize = 1 << 20;

/// Whether OUT may be this image's clean, as far as its name, its length and its first bytes tell. Anything
/// else is refused before the image is read.
pub(super) fn may_be_done(image: &HostFile, out: &Path) -> bool {
    let (Ok(there), Ok(own)) = (std::fs::symlink_metadata(out), image.file().metadata()) else {
        return false;
    };
    if !there.is_file() || (there.dev(), there.ino()) == (own.dev(), own.ino()) {
        return false;
    }
    let mut first = [0; 8];
    let mut begins_so = |image_first: &[u8; 8]| {
        let read = std::fs::File::open(out).and_then(|mut file| file.read_exact(&mut first));
        read.is_ok() && first == *image_first
    };
    // An archive becomes longer.
    let mut image_first = [0; 8];
    there.len() == image.len()
        || image.read_at(0, &mut image_first).is_ok() && begins_so(&image_first)
}

/// Whether OUT holds what the base becomes with these patches, in this length.
pub(super) fn is_written(
    out: &Path,
    base: &dyn BlockDevice,
    (patches, len): (&[Patch], u64),
    tick: &mut dyn FnMut(u64),
) -> Result<bool> {
    let out = HostFile::open(out)?;
    if out.len() != len {
        return Ok(false);
    }
    // What differs from the image is a few pages: those first.
    for patch in patches {
        let end = patch.offset.saturating_add(patch.len);
        if !is_same(&out, base, patches, patch.offset, end.min(len))? {
            return Ok(false);
        }
    }
    let mut at = 0;
    // Holes of both are zeros of both.
    while let Some(start) = next_data(&out, base, at)?.filter(|start| *start < len) {
        let end = start.saturating_add(CHUNK as u64).min(len);
        if !is_same(&out, base, patches, start, end)? {
            return Ok(false);
        }
        tick(end);
        at = end;
    }
    out.check_reads()?;
    Ok(true)
}

/// Where one of the two has data next.
fn next_data(out: &HostFile, base: &dyn BlockDevice, from: u64) -> Result<Option<u64>> {
    let starts = [out.next_data(from)?, base.next_data(from)?];
    Ok(starts.into_iter().flatten().map(|data| data.start).min())
}

/// Whether OUT holds from `start` to `end` what the base becomes there.
fn is_same(
    out: &HostFile,
    base: &dyn BlockDevice,
    patches: &[Patch],
    start: u64,
    end: u64,
) -> Result<bool> {
    let len = size(end.saturating_sub(start))?;
    let (mut want, mut found) = (vec![0; len], vec![0; len]);
    let there = base
        .len()
        .saturating_sub(start)
        .min(end.saturating_sub(start));
    if let Some(want) = want.get_mut(..size(there)?) {
        base.read_at(start, want)?;
    }
    let first = patches.partition_point(|patch| patch.offset.saturating_add(patch.len) <= start);
    let over = patches
        .iter()
        .skip(first)
        .take_while(|patch| patch.offset < end);
    for patch in over {
        let from = patch.offset.max(start);
        let to = patch.offset.saturating_add(patch.len).min(end);
        let range = |origin: u64| -> Result<Range<usize>> {
            Ok(size(from.saturating_sub(origin))?..size(to.saturating_sub(origin))?)
        };
        let new = match &patch.page {
            Page::Zero => None,
            Page::Data(bytes) => Some(bytes.get(range(patch.offset)?)),
        };
        match (want.get_mut(range(start)?), new) {
            (Some(want), None) => want.fill(0),
            (Some(want), Some(Some(new))) => want.copy_from_slice(new),
            _ => {
                return Err(Error::internal(
                    "OUT: a patch that ends outside of its page",
                ));
            }
        }
    }
    out.read_at(start, &mut found)?;
    Ok(want == found)
}

fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::internal("OUT: a piece that memory cannot hold"))
}
