//! Clusters of two owners: whatever is to be written must belong to one file alone.
//!
//! What is written through one file of two that share a cluster changes the other one: a hive's edit
//! goes into a stranger's data, the zeros of a log, too. One pass over all records answers for
//! everything: removed files, hives, logs, the directories that lose entries, and the file system's
//! own structures.

use std::{collections::BTreeSet, ops::Range};

use super::target::{Target, refuse, shown};
use crate::{
    bytes::View,
    error::{Error, Result},
    tree::FileId,
    units::{MftReference, Vcn},
    volume::{
        ntfs::{
            File, Ntfs,
            format::{attribute, code, number, record},
            owners::{clusters_of, merge},
            runs::each_run,
        },
        widths::index,
    },
};

/// The view indexes of which a removal may take entries.
const VIEWS: [&str; 3] = ["$ObjId", "$Quota", "$Reparse"];

/// Everything that is to be written, and whose it is.
#[derive(Default)]
struct Writes {
    /// The files of which something is written.
    parties: Vec<MftReference>,
    known: BTreeSet<u64>,
    /// Clusters with their party, sorted when all are there.
    owned: Vec<(Range<u64>, usize)>,
    /// Records with their party, sorted.
    records: Vec<(u64, usize)>,
}

impl Writes {
    /// Adds the clusters of these streams of a file.
    fn add(
        &mut self,
        vol: &Ntfs,
        file: &File,
        is_written: impl Fn(u32, bool) -> bool,
    ) -> Result<()> {
        if !self.known.insert(file.reference.record()) {
            return Ok(());
        }
        let mut own: Vec<Range<u64>> = Vec::new();
        let mut written = Vec::new();
        for attribute in &file.attributes {
            let clusters = attribute.runs().iter().map(clusters_of);
            own.extend(clusters.clone().filter(|range| !range.is_empty()));
            if is_written(attribute.code, attribute.name.units().is_empty()) {
                written.extend(clusters);
            }
        }
        own.sort_unstable_by_key(|range| range.start);
        let twice = own.iter().zip(own.iter().skip(1));
        if let Some((_, later)) = twice.clone().find(|(a, b)| b.start < a.end) {
            return Err(shared(vol, later.start, file.reference, file.reference));
        }
        let party = self.parties.len();
        let ranges = merge(written).into_iter();
        self.owned.extend(ranges.map(|range| (range, party)));
        let records = file.records.iter().map(|record| (record.number, party));
        self.records.extend(records);
        self.parties.push(file.reference);
        Ok(())
    }

    fn reference(&self, party: usize) -> MftReference {
        self.parties.get(party).copied().unwrap_or(MftReference(0))
    }

    /// The party of which a record is one.
    fn party_of(&self, number: u64) -> Option<usize> {
        let at = self.records.binary_search_by_key(&number, |(own, _)| *own);
        at.ok()
            .and_then(|at| self.records.get(at))
            .map(|(_, party)| *party)
    }

    /// What somebody else than `but` writes of these clusters.
    fn meets(&self, start: u64, end: u64, but: Option<usize>) -> Option<(u64, usize)> {
        let at = self.owned.partition_point(|(range, _)| range.end <= start);
        let rest = self.owned.get(at..).unwrap_or_default();
        rest.iter()
            .take_while(|(range, _)| range.start < end)
            .find(|(_, party)| Some(*party) != but)
            .map(|(range, party)| (range.start.max(start), *party))
    }
}

/// What is to be written, as a list of files and the streams of them.
fn writes_of(vol: &Ntfs, targets: &[Target], written: &[FileId]) -> Result<Writes> {
    let mut writes = Writes::default();
    for target in targets {
        writes.add(vol, &target.file, |_, _| true)?;
    }
    for id in written {
        let reference = MftReference(id.0);
        let file = vol
            .file_at(reference)
            .map_err(|e| refuse(vol, e, reference, &[]))?;
        writes.add(vol, &file, |kind, main| kind == code::DATA && main)?;
    }
    let is_index = |kind: u32, _: bool| matches!(kind, code::INDEX_ALLOCATION | code::BITMAP);
    for target in targets {
        for name in &target.file.names {
            // A directory that is gone or cannot be read is the removal's to judge.
            if let Ok(directory) = vol.file_at(name.parent) {
                writes.add(vol, &directory, is_index)?;
            }
        }
    }
    for number in [number::MFT, number::MIRROR, number::BITMAP] {
        writes.add(vol, &vol.file(number)?, |_, _| true)?;
    }
    if !targets.is_empty() {
        for name in VIEWS {
            if let Ok(Some(file)) = vol.extend_file(name) {
                writes.add(vol, &file, is_index)?;
            }
        }
    }
    writes.owned.sort_unstable_by_key(|(range, _)| range.start);
    writes.records.sort_unstable();
    Ok(writes)
}

/// One pass over all records: no record but a file's own may claim clusters of it that are written, or
/// claim to be an extension of a file to be removed without being in its list. A record that cannot be
/// read claims nothing here; the census reports it.
pub(super) fn check_claims(vol: &Ntfs, targets: &[Target], written: &[FileId]) -> Result<()> {
    let writes = writes_of(vol, targets, written)?;
    for ((a, i), (b, k)) in writes.owned.iter().zip(writes.owned.iter().skip(1)) {
        if b.start < a.end {
            let (one, other) = (writes.reference(*i), writes.reference(*k));
            return Err(shared(vol, b.start, one, other));
        }
    }
    let judge = |number: u64, bytes: &[u8]| -> Result<()> {
        let own = writes.party_of(number);
        let view = View::new(bytes, "file record");
        let base = MftReference(view.u64(record::BASE)?);
        let unlisted = targets
            .iter()
            .find(|target| own.is_none() && base.0 != 0 && target.file.reference == base);
        if let Some(target) = unlisted {
            return Err(Error::refused(format!(
                "removal: all extensions of file record {base} ({}) in its attribute list \
                 expected, record {number} is not",
                shown(&target.file.names)
            )));
        }
        let mut clash = None;
        skim_runs(view, vol.geometry().cluster_count, |start, end| {
            clash = clash.or_else(|| writes.meets(start, end, own));
        });
        let Some((lcn, party)) = clash else {
            return Ok(());
        };
        let other = match base.0 {
            0 => MftReference::new(number, view.u16(record::SEQUENCE)?),
            _ => base,
        };
        Err(shared(vol, lcn, writes.reference(party), other))
    };
    let (parts, _) = vol.scan(
        |first: &mut Option<Error>, scanned, _| {
            if first.is_none() && scanned.bytes.starts_with(&record::MAGIC) && scanned.is_in_use() {
                *first = judge(scanned.number, scanned.bytes).err();
            }
        },
        &mut |_| {},
    )?;
    match parts.into_iter().flatten().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Two files that share a cluster, one of which is to be written.
fn shared(vol: &Ntfs, lcn: u64, written: MftReference, other: MftReference) -> Error {
    let (one, two) = (vol.shown_path(written), vol.shown_path(other));
    let what = match written == other {
        true => format!(
            "{one}: every cluster in one place of the file expected, cluster {lcn:#x} is in two"
        ),
        false => format!(
            "{one} and {two}: clusters of their own expected, cluster {lcn:#x} belongs to both: what \
             is written to the one changes the other"
        ),
    };
    Error::refused(what)
        .at("file record", other)
        .at("file record", written)
        .advise(
            "the volume is damaged: run chkdsk /f on a copy of it, see which of the two files is \
             whole, then clean the copy",
        )
}

/// The cluster ranges of a record's attributes, as far as they can be read.
fn skim_runs(view: View<'_>, cluster_count: u64, mut take: impl FnMut(u64, u64)) {
    let mut skim = || -> Result<()> {
        let mut at = usize::from(view.u16(record::FIRST_ATTRIBUTE)?);
        loop {
            let code = view.u32(at)?;
            let len = index(view.u32(at.saturating_add(attribute::LEN))?);
            if code == attribute::END || len < attribute::RESIDENT_LEN {
                return Ok(());
            }
            let one = view.sub(at, len, "attribute")?;
            if one.u8(attribute::NON_RESIDENT)? == 1 {
                let runs = usize::from(one.u16(attribute::RUNS_OFFSET)?);
                let room = len.saturating_sub(runs);
                each_run(one.get(runs, room)?, Vcn(0), cluster_count, |run| {
                    if let (Some(start), Some(end)) = (run.lcn, run.end_lcn()) {
                        take(start.get(), end.get());
                    }
                })?;
            }
            at = at.saturating_add(len);
        }
    };
    // An unreadable rest claims nothing.
    let _ = skim();
}
