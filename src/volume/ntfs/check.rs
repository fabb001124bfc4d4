//! Structure problems of what was touched: records, indexes, bitmaps, the mirror.
//!
//! Reads everything again from the device and knows nothing of how it was changed. A page of the
//! overlay holds neighbours too; a problem they had before is found as well, so whoever asks after
//! an edit asks before it too and compares.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    Ntfs,
    attribute::{Attribute, FileName, title},
    file::File,
    format::{code, index, number, record},
    index::{Entry, Index, bit},
    owners::{Claim, clusters_of, meets, merge},
    record::Record,
    stream::Stream,
};
use crate::{
    bytes::{View, all_zero},
    error::{At, Error, Result},
    text::Name,
    units::{MftReference, Vcn, VolumeOffset},
    volume::widths::wide,
};

/// Records that are marked in use on some volumes and not on others, without content.
const RESERVED: Range<u64> = 12..24;

/// What one check works on.
struct Check<'a> {
    ntfs: &'a Ntfs,
    records: BTreeSet<u64>,
    bitmap: Stream,
    indexes: BTreeMap<MftReference, BTreeSet<Name>>,
    problems: Vec<String>,
}

impl Ntfs {
    /// See [`FileTree::check_touched`](crate::tree::FileTree::check_touched).
    pub(super) fn check_ranges(&self, touched: &[Range<u64>]) -> Result<Vec<String>> {
        let touched = merge(touched.to_vec());
        let mut check = Check {
            ntfs: self,
            records: self.records_in(&touched).into_iter().collect(),
            bitmap: self.file(number::BITMAP)?.require(code::DATA, "")?,
            indexes: BTreeMap::new(),
            problems: self.check_mirror()?,
        };
        check.check_records()?;
        check.check_clusters(&touched)?;
        check.check_record_bits(&touched)?;
        check.check_indexes();
        Ok(check.problems)
    }
}

impl Check<'_> {
    fn problem(&mut self, error: Error, record: u64) {
        let error = match self.ntfs.record_pieces(record).as_deref() {
            Ok([(offset, _), ..]) => error.at("volume offset", offset),
            _ => error,
        };
        self.problems.push(error.to_string());
    }

    fn say(&mut self, what: String, record: u64) {
        self.problem(Error::malformed(what).at("file record", record), record);
    }

    fn check_records(&mut self) -> Result<()> {
        let bits = self
            .ntfs
            .file(number::MFT)?
            .require(code::BITMAP, "")
            .and_then(|stream| self.ntfs.read_whole(&stream))?;
        for number in self.records.clone() {
            let record = self.ntfs.read_record(number)?;
            let in_use = record.is_in_use();
            let marked = bit(&bits, number).unwrap_or(false);
            if marked != in_use && !RESERVED.contains(&number) {
                let word = |used: bool| if used { "in use" } else { "free" };
                self.say(
                    format!(
                        "$MFT bitmap: the record {} expected, found {}",
                        word(in_use),
                        word(marked)
                    ),
                    number,
                );
            }
            if in_use {
                if let Err(error) = self.check_record(&record) {
                    self.problem(error.at("file record", number), number);
                }
            } else if record.magic() != record::MAGIC
                && record.magic() != record::BAD_MAGIC
                && !all_zero(&record.bytes)
            {
                self.say(
                    format!(
                        "file record: FILE or zeros expected, found {}",
                        hex::encode(record.magic())
                    ),
                    number,
                );
            }
        }
        Ok(())
    }

    fn check_record(&mut self, record: &Record) -> Result<()> {
        record.attributes(self.ntfs.geometry.cluster_count)?;
        if record.sequence() == 0 {
            return Err(Error::malformed(
                "file record: a sequence above 0 expected, found 0",
            ));
        }
        if !record.is_extension() {
            let file = self.ntfs.file(record.number)?;
            return self.check_file(&file);
        }
        let base = self.ntfs.file_at(record.base())?;
        if base.record(record.number).is_none() {
            return Err(Error::malformed(format!(
                "file record: an extension listed by its base expected, {} does not list it",
                record.base()
            )));
        }
        self.check_file(&base)
    }

    /// Names, link count, indexes, clusters of a file some record of which was touched.
    fn check_file(&mut self, file: &File) -> Result<()> {
        let number = file.reference.record();
        let links = usize::from(file.base()?.links());
        if !RESERVED.contains(&number) && links != file.names.len() {
            self.say(
                format!(
                    "file record: a link count of {} expected, found {links}",
                    file.names.len()
                ),
                number,
            );
        }
        if file.names.is_empty() && number >= number::FIRST_USER {
            self.say("file: a name expected, found none".to_owned(), number);
        }
        for name in &file.names {
            match self.ntfs.is_indexed(file.reference, name) {
                Ok(true) => {}
                Ok(false) => self.say(
                    format!(
                        "directory {}: an entry for {} expected, found none",
                        name.parent, name.name
                    ),
                    number,
                ),
                Err(error) => {
                    let error = error.at("name", &name.name).at("file record", number);
                    self.problem(error, number);
                }
            }
        }
        let has_index = file.attribute(code::INDEX_ROOT, super::index::DIRECTORY_INDEX);
        if file.is_directory() != has_index.is_some() {
            self.say(
                format!(
                    "file record: a directory flag {} expected, found otherwise",
                    if has_index.is_some() { "set" } else { "clear" }
                ),
                number,
            );
        }
        for attribute in &file.attributes {
            if attribute.code == code::INDEX_ROOT {
                self.queue_index(file.reference, &attribute.name);
            }
            self.check_marked(file, attribute)?;
        }
        Ok(())
    }

    fn queue_index(&mut self, file: MftReference, name: &Name) {
        self.indexes.entry(file).or_default().insert(name.clone());
    }

    /// All clusters of a piece must be marked in use.
    fn check_marked(&mut self, file: &File, piece: &Attribute) -> Result<()> {
        for run in piece.runs() {
            let clusters = clusters_of(run);
            if let Some(cluster) = self.ntfs.find_bit(&self.bitmap, clusters, false)? {
                self.say(
                    format!(
                        "$Bitmap: cluster {cluster:#x} of {} in use expected, found it free",
                        piece.title()
                    ),
                    file.reference.record(),
                );
            }
        }
        Ok(())
    }

    /// Every touched cluster, and every cluster whose bit in $Bitmap was touched, is in use and
    /// has one owner, or is free and has none; touched index blocks queue their index.
    fn check_clusters(&mut self, touched: &[Range<u64>]) -> Result<()> {
        let cluster_len = u64::from(self.ntfs.geometry.cluster_len);
        let count = self.ntfs.geometry.cluster_count;
        let mut clusters: Vec<Range<u64>> = touched
            .iter()
            .map(|range| {
                let first = range.start.checked_div(cluster_len).unwrap_or(0);
                first.min(count)..range.end.div_ceil(cluster_len).min(count)
            })
            .collect();
        clusters.extend(
            self.touched_bits(touched, &self.bitmap)
                .into_iter()
                .map(|bits| bits.start.min(count)..bits.end.min(count)),
        );
        let clusters = merge(clusters);
        let (mut claims, problems) = self.ntfs.claims(&clusters)?;
        self.problems.extend(problems.lines);
        for claim in &claims {
            if claim.code == code::INDEX_ALLOCATION {
                self.queue_index(claim.file, &claim.name);
            }
        }
        claims.sort_by_key(|claim| clusters_of(&claim.run).start);
        self.check_single_owner(&claims);
        for claim in &claims {
            let run = clusters_of(&claim.run);
            let from = clusters.partition_point(|range| range.end <= run.start);
            for range in clusters.get(from..).unwrap_or_default() {
                if range.start >= run.end {
                    break;
                }
                let part = range.start.max(run.start)..range.end.min(run.end);
                if let Some(cluster) = self.ntfs.find_bit(&self.bitmap, part, false)? {
                    self.say(
                        format!(
                            "$Bitmap: cluster {cluster:#x} of {} in use expected, found it free",
                            title(claim.code, &claim.name)
                        ),
                        claim.record,
                    );
                }
            }
        }
        for range in unclaimed(&clusters, &claims) {
            if let Some(cluster) = self.ntfs.find_bit(&self.bitmap, range, true)? {
                let error = Error::malformed(format!(
                    "$Bitmap: cluster {cluster:#x} free expected (no file owns it), found it in use"
                ))
                .at(
                    "volume offset",
                    VolumeOffset(cluster.saturating_mul(cluster_len)),
                );
                self.problems.push(error.to_string());
            }
        }
        Ok(())
    }

    /// Which bits of a bitmap stand in touched bytes.
    fn touched_bits(&self, touched: &[Range<u64>], bitmap: &Stream) -> Vec<Range<u64>> {
        let cluster_len = u64::from(self.ntfs.geometry.cluster_len);
        let mut bits = Vec::new();
        for run in bitmap.runs() {
            let clusters = clusters_of(run);
            let bytes = clusters.start.saturating_mul(cluster_len)
                ..clusters.end.saturating_mul(cluster_len);
            let base = run.vcn.get().saturating_mul(cluster_len);
            let from = touched.partition_point(|range| range.end <= bytes.start);
            for range in touched.get(from..).unwrap_or_default() {
                if range.start >= bytes.end {
                    break;
                }
                let at = |offset: u64| {
                    offset
                        .saturating_sub(bytes.start)
                        .saturating_add(base)
                        .min(bitmap.data_len)
                        .saturating_mul(8)
                };
                bits.push(at(range.start.max(bytes.start))..at(range.end.min(bytes.end)));
            }
        }
        merge(bits)
    }

    /// Every record whose bit in $MFT's bitmap was touched is marked as it is; behind the last
    /// record no bit is set.
    fn check_record_bits(&mut self, touched: &[Range<u64>]) -> Result<()> {
        let bitmap = self.ntfs.file(number::MFT)?.require(code::BITMAP, "")?;
        let ranges = self.touched_bits(touched, &bitmap);
        if ranges.is_empty() {
            return Ok(());
        }
        let bits = self.ntfs.read_whole(&bitmap)?;
        let (parts, _) = self.ntfs.scan(
            |in_use: &mut Vec<u64>, scanned, _| {
                let number = scanned.number;
                if scanned.is_in_use() && meets(&ranges, &(number..number.saturating_add(1))) {
                    in_use.push(number);
                }
            },
            &mut |_| {},
        )?;
        let in_use: BTreeSet<u64> = parts.into_iter().flatten().collect();
        for number in ranges.into_iter().flatten() {
            let marked = bit(&bits, number).unwrap_or(false);
            let reserved = RESERVED.contains(&number) || self.records.contains(&number);
            if marked != in_use.contains(&number) && !reserved {
                self.problems.push(format!(
                    "$MFT bitmap: record {number} marked {} expected, found otherwise",
                    if marked { "free" } else { "in use" }
                ));
            }
        }
        Ok(())
    }

    fn check_single_owner(&mut self, claims: &[Claim]) {
        let mut last: Option<(u64, &Claim)> = None;
        for claim in claims {
            let clusters = clusters_of(&claim.run);
            if let Some((end, other)) = last
                && clusters.start < end
            {
                self.problems.push(format!(
                    "cluster {:#x}: one owner expected, found {} of {} and {} of {}",
                    clusters.start,
                    title(other.code, &other.name),
                    other.file,
                    title(claim.code, &claim.name),
                    claim.file
                ));
            }
            if last.is_none_or(|(end, _)| clusters.end > end) {
                last = Some((clusters.end, claim));
            }
        }
    }

    fn check_indexes(&mut self) {
        for (reference, names) in std::mem::take(&mut self.indexes) {
            let file = match self.ntfs.file_at(reference) {
                Ok(file) => file,
                Err(error) => {
                    self.problem(error, reference.record());
                    continue;
                }
            };
            for name in names {
                if let Err(error) = self.check_index(&file, &name) {
                    let error = error
                        .at("index", &name)
                        .at("file record", reference.record());
                    self.problem(error, reference.record());
                }
            }
        }
    }

    /// A whole tree: the root fills its value, keys ascend, blocks reached are those marked, no
    /// leaf is empty, names are in their directory, and entries of touched files are alive.
    fn check_index(&mut self, file: &File, name: &Name) -> Result<()> {
        let ntfs = self.ntfs;
        let shown = String::from_utf16_lossy(name.units());
        let Some(tree) = Index::open(ntfs, file, &shown)? else {
            return Err(Error::malformed("index: a root expected, found none"));
        };
        let header = tree.root_node.header;
        if header.used != header.allocated
            || header.used.saturating_add(index::ROOT_NODE) != tree.root.len()
        {
            return Err(Error::malformed(format!(
                "$INDEX_ROOT: a node filling {} bytes expected, found {} of {}",
                tree.root.len().saturating_sub(index::ROOT_NODE),
                header.used,
                header.allocated
            )));
        }
        let is_directory = tree.collation == index::COLLATION_FILE_NAME;
        let mut last: Option<Vec<u8>> = None;
        let mut stale: Vec<(MftReference, FileName)> = Vec::new();
        let reached = tree.walk(ntfs, &mut |buffer, entry, block| {
            let key = entry.key(buffer)?;
            let place = |e: Error| in_block(e, entry, block);
            if let Some(before) = &last
                && order(ntfs, tree.collation, before, key)? != Ordering::Less
            {
                return Err(place(Error::malformed(
                    "index entry: ascending keys expected, found otherwise",
                )));
            }
            last = Some(key.to_vec());
            if is_directory {
                let name = FileName::parse(key).map_err(place)?;
                if name.parent != file.reference {
                    return Err(place(Error::malformed(format!(
                        "index entry: {} in {} expected, its parent is {}",
                        name.name, file.reference, name.parent
                    ))));
                }
                if self.records.contains(&entry.reference.record()) {
                    stale.push((entry.reference, name));
                }
            }
            Ok(())
        })?;
        for vcn in &reached {
            let block = tree.read_block(ntfs, Vcn(*vcn))?;
            if block.node.entries.len() == 1 && !block.node.header.has_children() {
                return Err(Error::malformed(
                    "index block: a key in every leaf expected, found an empty one",
                )
                .at("index block", Vcn(*vcn)));
            }
        }
        check_bitmap(ntfs, &tree, &reached)?;
        for (reference, name) in stale {
            let alive = ntfs.file_at(reference).is_ok_and(|target| {
                target.names.iter().any(|own| {
                    own.parent == name.parent
                        && own.name == name.name
                        && own.namespace == name.namespace
                })
            });
            if !alive {
                self.say(
                    format!(
                        "index entry: {} of a file in use expected, {reference} has no such name",
                        name.name
                    ),
                    file.reference.record(),
                );
            }
        }
        Ok(())
    }
}

fn in_block(error: Error, entry: &Entry, block: Option<Vcn>) -> Error {
    let error = error.at("entry offset", format_args!("{:#x}", entry.offset));
    match block {
        Some(vcn) => error.at("index block", vcn),
        None => error,
    }
}

/// Blocks marked in the index's bitmap are exactly those reached.
fn check_bitmap(ntfs: &Ntfs, tree: &Index, reached: &BTreeSet<u64>) -> Result<()> {
    let bits = tree.read_bitmap(ntfs)?;
    if tree.allocation.is_none() {
        return Ok(());
    }
    let numbers: BTreeSet<u64> = reached
        .iter()
        .map(|vcn| tree.block_number(Vcn(*vcn)))
        .collect();
    let have = wide(bits.len()).saturating_mul(8);
    for block in 0..have.max(tree.block_count()) {
        let marked = bit(&bits, block).unwrap_or(false);
        if marked != numbers.contains(&block) {
            return Err(Error::malformed(format!(
                "index bitmap: block {block} {} expected, found otherwise",
                if marked { "reached" } else { "marked" }
            )));
        }
    }
    Ok(())
}

/// The order of two keys by a collation rule; unknown rules (SIDs) say "less".
fn order(ntfs: &Ntfs, collation: u32, a: &[u8], b: &[u8]) -> Result<Ordering> {
    match collation {
        index::COLLATION_FILE_NAME => {
            let (a, b) = (FileName::parse(a), FileName::parse(b));
            let (a, b) = (a.at("key", "before")?, b.at("key", "after")?);
            Ok(ntfs.upcase.compare(a.name.units(), b.name.units()))
        }
        index::COLLATION_NUMBER | index::COLLATION_SECURITY_HASH | index::COLLATION_NUMBERS => {
            let (a, b) = (View::new(a, "index key"), View::new(b, "index key"));
            for at in (0..a.len().min(b.len())).step_by(4) {
                let unequal = a.u32(at)?.cmp(&b.u32(at)?);
                if unequal != Ordering::Equal {
                    return Ok(unequal);
                }
            }
            Ok(a.len().cmp(&b.len()))
        }
        _ => Ok(Ordering::Less),
    }
}

/// The parts of merged intervals that no claim (sorted by cluster) covers.
fn unclaimed(intervals: &[Range<u64>], claims: &[Claim]) -> Vec<Range<u64>> {
    let claimed = merge(claims.iter().map(|claim| clusters_of(&claim.run)).collect());
    let mut rest = Vec::new();
    for interval in intervals {
        let mut at = interval.start;
        let from = claimed.partition_point(|range| range.end <= interval.start);
        for range in claimed.get(from..).unwrap_or_default() {
            if range.start >= interval.end {
                break;
            }
            if at < range.start {
                rest.push(at..range.start);
            }
            at = at.max(range.end);
        }
        if at < interval.end {
            rest.push(at..interval.end);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{units::Lcn, volume::ntfs::runs::Run};

    #[test]
    fn what_no_claim_covers_is_left() {
        let claim = |lcn: u64, clusters: u64| Claim {
            record: 30,
            file: MftReference(30),
            code: code::DATA,
            name: Name::default(),
            run: Run {
                vcn: Vcn(0),
                lcn: Some(Lcn(lcn)),
                clusters,
            },
        };
        let rest = unclaimed(&[0..10, 20..30], &[claim(0, 2), claim(5, 16), claim(29, 5)]);
        assert_eq!(rest, [2..5, 21..29]);
    }
}
