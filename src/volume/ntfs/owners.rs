//! Who owns a cluster: one pass over $MFT that unpacks runs and keeps those that meet the question.

use std::ops::Range;

use super::{
    Ntfs,
    attribute::title,
    file::File,
    format::{attribute, code, number, record},
    index::bit,
    runs::{Run, each_run},
    scan::{Problems, Scanned},
    stream::Stream,
};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::Name,
    tree::{FileId, Owner},
    units::{FileOffset, Lcn, MftReference, Vcn, VolumeOffset},
    volume::widths::{index, narrow, wide},
};

/// A run of some attribute that meets one of the intervals asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The record it stands in.
    pub(super) record: u64,
    /// The file: the record itself or its base.
    pub(super) file: MftReference,
    /// Type code of the attribute.
    pub(super) code: u32,
    /// Name of the attribute.
    pub(super) name: Name,
    /// The run.
    pub(super) run: Run,
}

/// A volume has at most 2^32 records with some hundred runs each; what meets a question is small.
const MAX_CLAIMS: usize = 4 << 20;

/// Bytes of a bitmap read at a time.
const BITMAP_CHUNK: usize = 64 << 10;

/// Sorts intervals, drops empty ones, joins those that touch or overlap.
pub(super) fn merge(mut intervals: Vec<Range<u64>>) -> Vec<Range<u64>> {
    intervals.retain(|interval| !interval.is_empty());
    intervals.sort_unstable_by_key(|interval| interval.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match merged.last_mut() {
            Some(last) if last.end >= interval.start => last.end = last.end.max(interval.end),
            _ => merged.push(interval),
        }
    }
    merged
}

/// Whether a range meets one of the merged intervals.
pub(super) fn meets(intervals: &[Range<u64>], range: &Range<u64>) -> bool {
    let at = intervals.partition_point(|interval| interval.end <= range.start);
    intervals
        .get(at)
        .is_some_and(|interval| interval.start < range.end && !range.is_empty())
}

/// The clusters of a run in the volume; empty for a hole.
pub(super) fn clusters_of(run: &Run) -> Range<u64> {
    match (run.lcn, run.end_lcn()) {
        (Some(start), Some(end)) => start.get()..end.get(),
        _ => 0..0,
    }
}

/// The file a record in use belongs to.
fn file_of(scanned: Scanned<'_>) -> MftReference {
    match scanned.u64(record::BASE) {
        0 => MftReference::new(scanned.number, scanned.u16(record::SEQUENCE)),
        base => MftReference(base),
    }
}

/// Shows each run of a non-resident attribute.
fn attribute_runs(bytes: &[u8], cluster_count: u64, take: impl FnMut(Run)) -> Result<()> {
    let field = |at: usize| -> [u8; 8] {
        bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk::<8>)
            .copied()
            .unwrap_or_default()
    };
    let first = u64::from_le_bytes(field(attribute::FIRST_VCN));
    let [o0, o1, ..] = field(attribute::RUNS_OFFSET);
    let at = usize::from(u16::from_le_bytes([o0, o1]));
    let runs = bytes
        .get(at..)
        .filter(|_| at >= attribute::NON_RESIDENT_LEN)
        .ok_or_else(|| {
            Error::malformed(format!(
                "attribute: runs inside the attribute expected, found at +{at:#x}"
            ))
        })?;
    each_run(runs, Vcn(first), cluster_count, take).map(|_| ())
}

/// The name of an attribute, as far as it lies inside.
fn attribute_name(bytes: &[u8]) -> Name {
    let field = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let len = usize::from(field(attribute::NAME_LEN)).saturating_mul(2);
    let at = usize::from(u16::from_le_bytes([
        field(attribute::NAME_OFFSET),
        field(attribute::NAME_OFFSET.saturating_add(1)),
    ]));
    let units = bytes.get(at..at.saturating_add(len)).unwrap_or_default();
    Name(
        units
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair))
            .collect(),
    )
}

impl Ntfs {
    /// All runs of all records in use that meet one of the merged cluster intervals.
    pub(super) fn claims(&self, intervals: &[Range<u64>]) -> Result<(Vec<Claim>, Problems)> {
        if intervals.is_empty() {
            return Ok((Vec::new(), Problems::default()));
        }
        let cluster_count = self.geometry.cluster_count;
        let (parts, problems) = self.scan(
            |claims: &mut Vec<Claim>, scanned, problems| {
                if !scanned.valid || !scanned.is_in_use() {
                    return;
                }
                let mut broken = None;
                let walked = scanned.each_attribute(|code, bytes| {
                    if bytes.get(attribute::NON_RESIDENT).copied() != Some(1) {
                        return;
                    }
                    let unpacked = attribute_runs(bytes, cluster_count, |run| {
                        if meets(intervals, &clusters_of(&run)) && claims.len() < MAX_CLAIMS {
                            claims.push(Claim {
                                record: scanned.number,
                                file: file_of(scanned),
                                code,
                                name: attribute_name(bytes),
                                run,
                            });
                        }
                    });
                    broken = broken.take().or(unpacked.err());
                });
                if let Err(expected) = walked {
                    problems.add(format_args!(
                        "file record: {expected} expected, found otherwise (file record {})",
                        scanned.number
                    ));
                }
                if let Some(error) = broken {
                    problems.add(error.at("file record", scanned.number));
                }
            },
            &mut |_| {},
        )?;
        let claims: Vec<Claim> = parts.into_iter().flatten().collect();
        if claims.len() >= MAX_CLAIMS {
            return Err(Error::limit(format!(
                "$MFT: fewer than {MAX_CLAIMS} runs in these clusters expected"
            )));
        }
        Ok((claims, problems))
    }

    /// Whether clusters of these files are also claimed by another record, by another of these
    /// files or twice by one of them: a line for each such run. One pass over $MFT.
    pub fn cross_linked(&self, ids: &[FileId]) -> Result<Vec<String>> {
        let mut own: Vec<(Range<u64>, String)> = Vec::new();
        let mut references = Vec::new();
        for id in ids {
            let file = self.file_at(MftReference(id.0))?;
            references.push(file.reference);
            for attribute in &file.attributes {
                for run in attribute.runs() {
                    let clusters = clusters_of(run);
                    if !clusters.is_empty() {
                        let whose = format!("{} of {}", attribute.title(), file.reference);
                        own.push((clusters, whose));
                    }
                }
            }
        }
        own.sort_by_key(|(clusters, _)| clusters.start);
        let mut lines = Vec::new();
        for pair in own.windows(2) {
            if let [(a, whose_a), (b, whose_b)] = pair
                && b.start < a.end
            {
                lines.push(format!(
                    "cluster {:#x}: one owner expected, found {whose_a} and {whose_b}",
                    b.start
                ));
            }
        }
        let intervals = merge(own.iter().map(|(clusters, _)| clusters.clone()).collect());
        let (claims, _) = self.claims(&intervals)?;
        for claim in claims {
            if !references.contains(&claim.file) {
                lines.push(format!(
                    "cluster {:#x}: one owner expected, found {} of file {} too (file record {})",
                    clusters_of(&claim.run).start,
                    title(claim.code, &claim.name),
                    claim.file,
                    claim.record
                ));
            }
        }
        Ok(lines)
    }

    /// See [`FileTree::owners`](crate::tree::FileTree::owners).
    pub(super) fn owners_of(
        &self,
        offsets: &[VolumeOffset],
        likely: &[FileId],
    ) -> Result<Vec<Owner>> {
        let inside = |offset: &VolumeOffset| {
            Some(self.geometry.cluster_of(*offset))
                .filter(|lcn| lcn.get() < self.geometry.cluster_count)
        };
        let mft = self.mft_clusters();
        let outside_mft: Vec<Range<u64>> = offsets
            .iter()
            .filter(|offset| self.mft_offset(&mft, **offset).is_none())
            .filter_map(inside)
            .map(|lcn| lcn.get()..lcn.get().saturating_add(1))
            .collect();
        // Bytes of $MFT, and of files that are asked first, need no pass over all runs.
        let intervals = merge(outside_mft);
        let mut claims = self.likely_claims(&intervals, likely);
        let known = |lcn: u64| claim_of(&claims, Lcn(lcn)).is_some();
        if !intervals.iter().cloned().flatten().all(known) {
            claims = self.claims(&intervals)?.0;
        }
        claims.sort_by_key(|claim| clusters_of(&claim.run).start);
        let mut owners = Vec::with_capacity(offsets.len());
        let mut last: Option<(MftReference, Option<File>, String)> = None;
        for offset in offsets {
            let owner = if let Some(at) = self.mft_offset(&mft, *offset) {
                self.record_owner(at)?
            } else if let Some(lcn) = inside(offset) {
                match claim_of(&claims, lcn) {
                    Some(claim) => self.stream_owner(claim, *offset, &mut last),
                    None => self.unclaimed(lcn)?,
                }
            } else {
                Owner::Outside
            };
            owners.push(owner);
        }
        Ok(owners)
    }

    /// $MFT's runs by cluster, for [`Ntfs::mft_offset`].
    fn mft_clusters(&self) -> Vec<Run> {
        let mut runs = self.mft.runs().to_vec();
        runs.sort_unstable_by_key(|run| run.lcn);
        runs
    }

    /// The runs of the system's files and of `likely` files that meet the intervals, sorted.
    fn likely_claims(&self, intervals: &[Range<u64>], likely: &[FileId]) -> Vec<Claim> {
        let mut claims = Vec::new();
        if intervals.is_empty() {
            return claims;
        }
        let mut numbers: Vec<u64> = (number::MFT..=number::UPCASE)
            .chain(likely.iter().map(|id| MftReference(id.0).record()))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        // What cannot be read here is found, or missed, by the pass over all records.
        for file in numbers.iter().filter_map(|number| self.file(*number).ok()) {
            for attribute in &file.attributes {
                for run in attribute.runs() {
                    if run.lcn.is_some() && meets(intervals, &clusters_of(run)) {
                        claims.push(Claim {
                            record: attribute.record,
                            file: file.reference,
                            code: attribute.code,
                            name: attribute.name.clone(),
                            run: *run,
                        });
                    }
                }
            }
        }
        claims.sort_by_key(|claim| clusters_of(&claim.run).start);
        claims
    }

    /// Where in $MFT's data a byte of the volume lies.
    fn mft_offset(&self, by_cluster: &[Run], offset: VolumeOffset) -> Option<u64> {
        let cluster_len = u64::from(self.geometry.cluster_len);
        let lcn = self.geometry.cluster_of(offset);
        let at = by_cluster.partition_point(|run| run.lcn <= Some(lcn));
        let run = by_cluster.get(at.checked_sub(1)?)?;
        if !clusters_of(run).contains(&lcn.get()) {
            return None;
        }
        let in_run = offset
            .get()
            .checked_sub(self.geometry.cluster_offset(run.lcn?).get())?;
        run.vcn.get().checked_mul(cluster_len)?.checked_add(in_run)
    }

    fn record_owner(&self, at: u64) -> Result<Owner> {
        let record_len = u64::from(self.geometry.record_len);
        let number = at.checked_div(record_len).unwrap_or(0);
        if number >= self.record_count() {
            return Ok(Owner::File {
                id: FileId(self.file(number::MFT)?.reference.0),
                path: "\\$MFT".to_owned(),
                stream: title(code::DATA, &Name::default()),
                offset: FileOffset(at),
                tail: true,
            });
        }
        let record = self.read_record(number)?;
        let in_use = record.is_in_use();
        let inside = narrow(at.checked_rem(record_len).unwrap_or(0), "file record")?;
        let used = record.bytes_in_use();
        let path = in_use.then(|| {
            self.shown_path(if record.is_extension() {
                record.base()
            } else {
                record.reference()
            })
        });
        Ok(Owner::Record {
            number,
            in_use,
            // A torn record's used part is not known: nothing of it is slack.
            slack: record.fixup_ok && used <= record.bytes.len() && inside >= used,
            path,
        })
    }

    /// Whether a byte of an index lies in a block that is not in use, or behind a block's entries.
    /// What cannot be read is no slack: nothing alive may be taken for stale.
    fn is_index_slack(&self, file: &File, name: &Name, at: u64) -> bool {
        let look = || -> Result<bool> {
            let block_len = u64::from(self.geometry.index_len);
            let block = at.checked_div(block_len).unwrap_or(0);
            let inside = narrow(at.checked_rem(block_len).unwrap_or(0), "index block")?;
            let bitmap = file.stream_named(code::BITMAP, name)?;
            if let Some(bitmap) = bitmap {
                let mut byte = [0];
                let place = block.checked_div(8).unwrap_or(0);
                if place < bitmap.data_len {
                    self.read_stream(&bitmap, FileOffset(place), &mut byte)?;
                }
                let bit = u32::try_from(block.checked_rem(8).unwrap_or(0)).unwrap_or(0);
                if u32::from(byte[0]).checked_shr(bit).unwrap_or(0) & 1 == 0 {
                    return Ok(true);
                }
            }
            let Some(stream) = file.stream_named(code::INDEX_ALLOCATION, name)? else {
                return Ok(false);
            };
            let mut head = [0; 32];
            let start = at.saturating_sub(at.checked_rem(block_len).unwrap_or(0));
            self.read_stream(&stream, FileOffset(start), &mut head)?;
            let view = View::new(&head, "index block");
            if view.get(0, 4)? != b"INDX" {
                return Ok(false);
            }
            // "used" counts from the node header at 0x18 (format.rs); it lies before the first
            // protected word at 0x1FE, so no update sequence has to be undone for it.
            let used = view.u32(0x1C)?;
            Ok(inside >= narrow(u64::from(used).saturating_add(0x18), "index block")?)
        };
        look().unwrap_or(false)
    }

    fn stream_owner(
        &self,
        claim: &Claim,
        offset: VolumeOffset,
        last: &mut Option<(MftReference, Option<File>, String)>,
    ) -> Owner {
        if last.as_ref().is_none_or(|(file, _, _)| *file != claim.file) {
            *last = Some((
                claim.file,
                self.file_at(claim.file).ok(),
                self.shown_path(claim.file),
            ));
        }
        let (file, path) = match last {
            Some((_, file, path)) => (file.as_ref(), path.clone()),
            None => (None, "?".to_owned()),
        };
        let run_start = self
            .geometry
            .cluster_offset(claim.run.lcn.unwrap_or(Lcn(0)));
        let at = claim
            .run
            .vcn
            .get()
            .saturating_mul(u64::from(self.geometry.cluster_len))
            .saturating_add(offset.get().saturating_sub(run_start.get()));
        // What was never written of a file reads as zeros, whatever its clusters hold.
        let len = file
            .and_then(|file| file.stream_named(claim.code, &claim.name).ok().flatten())
            .map(|stream: Stream| match claim.code {
                code::DATA => stream.data_len.min(stream.initialised),
                _ => stream.data_len,
            });
        Owner::File {
            id: FileId(claim.file.0),
            path,
            stream: title(claim.code, &claim.name),
            offset: FileOffset(at),
            tail: len.is_some_and(|len| at >= len)
                || (claim.code == code::INDEX_ALLOCATION
                    && file.is_some_and(|file| self.is_index_slack(file, &claim.name, at))),
        }
    }

    fn unclaimed(&self, lcn: Lcn) -> Result<Owner> {
        let start = self.geometry.cluster_offset(lcn).get();
        let end = start.saturating_add(u64::from(self.geometry.cluster_len));
        if self.cluster_in_use(lcn)? {
            // Leaked: no file says it is its own, so nothing says it may be wiped.
            return Ok(Owner::File {
                id: FileId(0),
                path: "?".to_owned(),
                stream: "a cluster marked in use that no file owns".to_owned(),
                offset: FileOffset(start),
                tail: false,
            });
        }
        Ok(Owner::Free {
            cluster: start..end,
        })
    }

    /// The cluster's bit in $Bitmap; a bitmap that is too short says "in use".
    pub fn cluster_in_use(&self, lcn: Lcn) -> Result<bool> {
        let bitmap = self.file(number::BITMAP)?.require(code::DATA, "")?;
        let one = lcn.get()..lcn.get().saturating_add(1);
        Ok(self.find_bit(&bitmap, one, false)?.is_none())
    }

    /// The first bit of a range of a bitmap that has this value; bits behind its end have none.
    pub(super) fn find_bit(
        &self,
        bitmap: &Stream,
        range: Range<u64>,
        wanted: bool,
    ) -> Result<Option<u64>> {
        // Bounds the walk: a bitmap is real data on the device.
        if bitmap.data_len > self.device.len().max(1 << 20) {
            return Err(Error::malformed(format!(
                "bitmap: a stream within the volume expected, found {} bytes",
                bitmap.data_len
            )));
        }
        let end_byte = range.end.div_ceil(8).min(bitmap.data_len);
        let mut byte = range.start.wrapping_shr(3);
        let mut buffer = vec![0; BITMAP_CHUNK];
        // A byte of the other value holds no bit that is looked for.
        let dull = if wanted { 0 } else { 0xFF };
        while byte < end_byte {
            let len = narrow(
                end_byte.saturating_sub(byte).min(wide(BITMAP_CHUNK)),
                "bitmap",
            )?;
            let part = buffer.get_mut(..len).unwrap_or_default();
            self.read_stream(bitmap, FileOffset(byte), part)?;
            for bits in part.iter() {
                let first = byte.saturating_mul(8);
                byte = byte.saturating_add(1);
                if *bits == dull {
                    continue;
                }
                let found = (first..first.saturating_add(8))
                    .filter(|at| range.contains(at))
                    .find(|at| bit(&[*bits], at & 7) == Some(wanted));
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// Which records a volume range covers, if it lies in $MFT: for checks of what was touched.
    pub(super) fn records_in(&self, touched: &[Range<u64>]) -> Vec<u64> {
        let cluster_len = u64::from(self.geometry.cluster_len);
        let record_len = u64::from(self.geometry.record_len);
        let mut numbers = Vec::new();
        for run in self.mft.runs() {
            let clusters = clusters_of(run);
            let bytes = clusters.start.saturating_mul(cluster_len)
                ..clusters.end.saturating_mul(cluster_len);
            let from = touched.partition_point(|range| range.end <= bytes.start);
            for range in touched.get(from..).unwrap_or_default() {
                if range.start >= bytes.end {
                    break;
                }
                let start = range.start.max(bytes.start).saturating_sub(bytes.start);
                let end = range.end.min(bytes.end).saturating_sub(bytes.start);
                let base = run.vcn.get().saturating_mul(cluster_len);
                let first = base
                    .saturating_add(start)
                    .checked_div(record_len)
                    .unwrap_or(0);
                let last = base.saturating_add(end).div_ceil(record_len);
                numbers.extend(first..last.min(self.record_count()));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// A record's length as an index.
    #[must_use]
    pub fn record_len(&self) -> usize {
        index(self.geometry.record_len)
    }
}

/// The claim that holds a cluster; claims are sorted by cluster and may overlap on a damaged
/// volume, so a few before are looked at too.
fn claim_of(claims: &[Claim], lcn: Lcn) -> Option<&Claim> {
    let end = claims.partition_point(|claim| clusters_of(&claim.run).start <= lcn.get());
    claims
        .get(..end)?
        .iter()
        .rev()
        .take(64)
        .find(|claim| clusters_of(&claim.run).contains(&lcn.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_merge_and_meet() {
        let merged = merge(vec![10..12, 0..3, 3..5, 7..7, 11..20]);
        assert_eq!(merged, [0..5, 10..20]);
        assert!(meets(&merged, &(4..6)) && meets(&merged, &(19..30)) && meets(&merged, &(0..100)));
        assert!(
            !meets(&merged, &(5..10)) && !meets(&merged, &(20..21)) && !meets(&merged, &(3..3))
        );
    }
}
