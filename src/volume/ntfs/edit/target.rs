//! A file to be removed: everything it owns, checked before anything is written.
//!
//! Facts: facts/ntfs.md 1 and the refusal table of 2.

use std::ops::Range;

use super::bits::{first_clear, is_set, merge};
use crate::{
    bytes::View,
    error::{Error, Kind, Result},
    tree::FileId,
    units::{FileOffset, MftReference},
    volume::{
        ntfs::{
            File, FileName, Ntfs, Record,
            attribute::title,
            format::{attribute, code, number, record},
            undo_fixup,
        },
        widths::{narrow, product, sum, wide},
    },
};

/// Record flags of the files in `$Extend` and of view indexes.
const SYSTEM_FLAGS: u16 = 0x0004 | 0x0008;

/// No path is longer than 32,767 units; this many directories is far more than any has.
const MAX_CLIMB: usize = 512;

/// A file to be removed.
#[derive(Debug)]
pub(super) struct Target {
    /// The file as read.
    pub(super) file: File,
    /// All its clusters: LCN ranges, sorted, merged.
    pub(super) clusters: Vec<Range<u64>>,
}

/// Names of a file for messages.
pub(super) fn shown(names: &[FileName]) -> String {
    let mut list: Vec<String> = names.iter().map(|name| name.name.to_string()).collect();
    list.truncate(4);
    if list.is_empty() {
        return "(without a name)".to_owned();
    }
    list.join(" = ")
}

/// Turns a broken structure into a refusal that names the file.
pub(super) fn refuse(
    vol: &Ntfs,
    error: Error,
    reference: MftReference,
    names: &[FileName],
) -> Error {
    let kind = match error.kind() {
        Kind::Malformed | Kind::Unsupported => Kind::Refused,
        other => other,
    };
    let mut error = error.into_kind(kind).at("file", shown(names));
    let mut parents: Vec<MftReference> = names.iter().map(|name| name.parent).collect();
    parents.dedup();
    for parent in parents.iter().take(3) {
        error = error.at("parent record", parent);
    }
    error = error.at("file record", reference);
    match vol.record_pieces(reference.record()) {
        Ok(pieces) => match pieces.first() {
            Some((at, _)) => error.at("volume offset", at),
            None => error,
        },
        Err(_) => error,
    }
}

/// Whether a directory is `$Extend` or lies below it: transaction logs, quotas, journals. A way up
/// that breaks off does not lead there.
fn is_below_extend(vol: &Ntfs, parent: MftReference) -> bool {
    let mut at = parent;
    for _ in 0..MAX_CLIMB {
        if at.record() == number::EXTEND {
            return true;
        }
        if at.record() < number::FIRST_USER {
            return false;
        }
        let above = vol.file_at(at).ok();
        let Some(above) = above.and_then(|file| file.names.first().map(|name| name.parent)) else {
            return false;
        };
        at = above;
    }
    false
}

/// Reads and checks all targets, each once.
pub(super) fn load(vol: &Ntfs, ids: &[FileId]) -> Result<Vec<Target>> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| Target::load(vol, id)).collect()
}

impl Target {
    /// Reads and checks a target.
    pub(super) fn load(vol: &Ntfs, id: FileId) -> Result<Self> {
        let reference = MftReference(id.0);
        if reference.record() < number::FIRST_USER {
            return Err(Error::refused(format!(
                "removal: a user file expected, found file record {} of the file system itself",
                reference.record()
            )));
        }
        let file = vol
            .file_at(reference)
            .map_err(|e| refuse(vol, e, reference, &[]))?;
        let names = file.names.clone();
        Self::check(vol, file).map_err(|e| refuse(vol, e, reference, &names))
    }

    fn check(vol: &Ntfs, file: File) -> Result<Self> {
        let base = file.base()?;
        let no = |what: String| Err(Error::refused(format!("removal: {what}")));
        if file.is_directory() || file.attributes.iter().any(|a| a.code == code::INDEX_ROOT) {
            return no("a file expected, found a directory".to_owned());
        }
        if base.flags() & SYSTEM_FLAGS != 0 {
            return no("a user file expected, found one of $Extend".to_owned());
        }
        for name in &file.names {
            if is_below_extend(vol, name.parent) {
                return no("a user file expected, found one below $Extend".to_owned());
            }
        }
        if usize::from(base.links()) != file.names.len() || file.names.is_empty() {
            return no(format!(
                "as many names as links expected, found {} names and {} links",
                file.names.len(),
                base.links()
            ));
        }
        for attribute in &file.attributes {
            if attribute.flags & attribute::ENCRYPTED != 0 {
                return no("a file that is not encrypted expected, found EFS".to_owned());
            }
            if attribute.code == code::LOGGED_UTILITY_STREAM && attribute.name.eq_ascii("$TXF_DATA")
            {
                return no("a file outside transactions expected, found $TXF_DATA".to_owned());
            }
        }
        let mut ranges = Vec::new();
        for (kind, name) in file.stream_titles() {
            if kind == code::FILE_NAME {
                continue;
            }
            let Some(stream) = file.stream_named(kind, &name)? else {
                continue;
            };
            if stream.is_resident() {
                continue;
            }
            let mapped = stream.runs().last().map_or(0, |run| run.end_vcn().get());
            let mapped = product(mapped, u64::from(vol.geometry().cluster_len), "stream")?;
            if mapped != stream.allocated {
                return no(format!(
                    "{}: clusters for {} bytes expected, found {mapped}",
                    title(kind, &name),
                    stream.allocated
                ));
            }
            for run in stream.runs() {
                if let (Some(start), Some(end)) = (run.lcn, run.end_lcn()) {
                    ranges.push(start.get()..end.get());
                }
            }
        }
        let clusters = merge(ranges).map_err(|lcn| {
            Error::refused(format!(
                "removal: every cluster in one place of the file expected, cluster {lcn:#x} is in two"
            ))
        })?;
        let target = Self { file, clusters };
        target.check_bitmaps(vol)?;
        Ok(target)
    }

    fn check_bitmaps(&self, vol: &Ntfs) -> Result<()> {
        let records = vol.file(number::MFT)?.require(code::BITMAP, "")?;
        for record in &self.file.records {
            if record.number < number::FIRST_USER {
                return Err(Error::refused(format!(
                    "removal: user records expected, found an extension in record {}",
                    record.number
                )));
            }
            if !is_set(vol, &records, record.number, "$MFT:$BITMAP")? {
                return Err(Error::refused(format!(
                    "$MFT:$BITMAP: record {} marked in use expected, found free",
                    record.number
                )));
            }
        }
        let clusters = vol.file(number::BITMAP)?.require(code::DATA, "")?;
        for range in &self.clusters {
            if let Some(lcn) = first_clear(vol, &clusters, range, "$Bitmap")? {
                return Err(Error::refused(format!(
                    "$Bitmap: cluster {lcn:#x} of the file marked in use expected, found free"
                )));
            }
        }
        Ok(())
    }
}

/// Calls back with every FILE record in use, update sequence undone where it is valid.
pub(super) fn each_record(
    vol: &Ntfs,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let record_len = vol.geometry().record_bytes();
    let a_time = 1024_u64;
    let mut first = 0_u64;
    while first < vol.record_count() {
        let count = a_time.min(vol.record_count().saturating_sub(first));
        let start = product(first, wide(record_len), "$MFT")?;
        let len = product(count, wide(record_len), "$MFT")?;
        let mut bytes = vec![0; narrow(len, "$MFT")?];
        vol.read_stream(vol.mft(), FileOffset(start), &mut bytes)?;
        for (number, record) in (first..).zip(bytes.chunks_exact_mut(record_len)) {
            if !record.starts_with(&record::MAGIC) {
                continue;
            }
            let _ = undo_fixup(record);
            if View::new(record, "file record").u16(record::FLAGS)? & record::IN_USE != 0 {
                take(number, record)?;
            }
        }
        first = sum(first, count, "$MFT")?;
    }
    Ok(())
}

/// Whether a directory is there: in use, with this sequence number. A record that cannot be read
/// is an error.
pub(super) fn is_alive(vol: &Ntfs, reference: MftReference) -> Result<bool> {
    if reference.record() >= vol.record_count() {
        return Ok(false);
    }
    let record: Record = vol.read_record(reference.record())?;
    if crate::bytes::all_zero(&record.bytes) {
        return Ok(false);
    }
    record.check_header()?;
    Ok(record.is_in_use() && record.sequence() == reference.sequence() && !record.is_extension())
}
