//! Removal of files: all names, all index entries, all records, all clusters, in one go.
//!
//! Facts: facts/ntfs.md 1 (the table), 6 (wiping). Everything is checked first; then indexes,
//! view indexes, bitmaps, clusters, records are written; then the indexes are read again.

use std::collections::BTreeMap;

use super::{
    bits,
    index::Index,
    node::Order,
    place::{read_record, write_record, zero_range},
    record::{free, zero_slack},
    target::{Target, each_record, is_alive, load, refuse, shown},
    view_index::remove_views,
};
use crate::{
    bytes::View,
    error::{Error, Kind, Result},
    tree::{FileId, Removal},
    units::MftReference,
    volume::{
        ntfs::{
            File, FileName, Ntfs,
            format::{code, number, record},
        },
        widths::{product, wide},
    },
};

/// A name to take out of a directory: which target it is of, and its `$FILE_NAME` value.
struct Doomed<'a> {
    target: &'a Target,
    name: &'a FileName,
}

/// What became of one directory.
struct Edited {
    entries: u64,
    slack: u64,
    left: usize,
}

/// Removes files with all their names and streams; see [`FileTree::remove`].
///
/// [`FileTree::remove`]: crate::tree::FileTree::remove
pub(super) fn remove(vol: &Ntfs, ids: &[FileId]) -> Result<Removal> {
    let mut removal = Removal::default();
    if ids.is_empty() {
        return Ok(removal);
    }
    if let Some(problem) = vol.upcase().problem() {
        return Err(Error::refused(format!(
            "$UpCase: a sound table expected, found: {problem}"
        )));
    }
    let targets = load(vol, ids)?;

    let mut parents: BTreeMap<MftReference, Vec<Doomed<'_>>> = BTreeMap::new();
    for target in &targets {
        for name in &target.file.names {
            parents
                .entry(name.parent)
                .or_default()
                .push(Doomed { target, name });
        }
    }
    let mut found: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let mut left = Vec::new();
    for (parent, doomed) in &parents {
        let edited = edit_parent(vol, *parent, doomed, &mut found)?;
        if let Some(edited) = edited {
            removal.index_entries = removal.index_entries.saturating_add(edited.entries);
            removal.slack_bytes = removal.slack_bytes.saturating_add(edited.slack);
            left.push((*parent, edited.left));
        }
    }
    check_partial(vol, &targets, &found)?;
    check_orphans(vol, &targets, &found)?;
    let (entries, slack) = remove_views(vol, &targets)?;
    removal.index_entries = removal.index_entries.saturating_add(entries);
    removal.slack_bytes = removal.slack_bytes.saturating_add(slack);

    for target in &targets {
        free_clusters(vol, target, &mut removal)?;
        free_records(vol, target, &mut removal)?;
    }
    for (parent, count) in left {
        verify(vol, parent, count)?;
    }
    Ok(removal)
}

/// A file whose names are all indexed, or none (an orphan), is fine; anything between is damage.
fn check_partial(
    vol: &Ntfs,
    targets: &[Target],
    found: &BTreeMap<u64, (usize, usize)>,
) -> Result<()> {
    for target in targets {
        let reference = target.file.reference;
        let (there, missing) = found.get(&reference.record()).copied().unwrap_or_default();
        if there != 0 && missing != 0 {
            return Err(refuse(
                vol,
                Error::refused(format!(
                    "removal: an index entry for every name expected, {missing} of {} are missing",
                    target.file.names.len()
                )),
                reference,
                &target.file.names,
            ));
        }
    }
    Ok(())
}

/// No directory may know a file that its own names say nothing of: the entry would become stale.
/// One pass over all directories, only if there is an orphan; a directory that cannot be read says
/// nothing.
fn check_orphans(
    vol: &Ntfs,
    targets: &[Target],
    found: &BTreeMap<u64, (usize, usize)>,
) -> Result<()> {
    let mut orphans: BTreeMap<u64, &Target> = BTreeMap::new();
    for target in targets {
        let number = target.file.reference.record();
        if found.get(&number).is_none_or(|(there, _)| *there == 0) {
            orphans.insert(number, target);
        }
    }
    if orphans.is_empty() {
        return Ok(());
    }
    each_record(vol, |number, bytes| {
        let flags = View::new(bytes, "file record").u16(record::FLAGS)?;
        if flags & record::DIRECTORY == 0 {
            return Ok(());
        }
        let Ok(file) = vol.file(number) else {
            return Ok(());
        };
        let order = Order::Names(vol.upcase().table());
        let Ok(index) = Index::open(vol, &file, "$I30", order) else {
            return Ok(());
        };
        for entry in index.tree().entries()? {
            let reference = MftReference(entry.reference()?);
            if let Some(target) = orphans.get(&reference.record()) {
                return Err(refuse(
                    vol,
                    Error::refused(format!(
                        "removal: an orphan that no directory knows expected, file record \
                         {number} has an entry for {reference}"
                    )),
                    target.file.reference,
                    &target.file.names,
                ));
            }
        }
        Ok(())
    })
}

/// Takes names out of one directory. `None`: the directory is gone, there is no index.
fn edit_parent(
    vol: &Ntfs,
    parent: MftReference,
    doomed: &[Doomed<'_>],
    found: &mut BTreeMap<u64, (usize, usize)>,
) -> Result<Option<Edited>> {
    let place = |error: Error| {
        let kind = match error.kind() {
            Kind::Malformed | Kind::Unsupported => Kind::Refused,
            other => other,
        };
        let names: Vec<String> = doomed
            .iter()
            .take(3)
            .map(|d| {
                format!(
                    "{} ({})",
                    shown(std::slice::from_ref(d.name)),
                    d.target.file.reference
                )
            })
            .collect();
        error
            .into_kind(kind)
            .at("parent record", parent)
            .at("file", names.join(", "))
    };
    if !is_alive(vol, parent).map_err(place)? {
        return Ok(None);
    }
    let file = vol.file_at(parent).map_err(place)?;
    if !file.is_directory() {
        return Err(place(Error::refused(
            "removal: a directory as parent expected, found a file",
        )));
    }
    edit_directory(vol, &file, doomed, found)
        .map(Some)
        .map_err(place)
}

fn edit_directory(
    vol: &Ntfs,
    file: &File,
    doomed: &[Doomed<'_>],
    found: &mut BTreeMap<u64, (usize, usize)>,
) -> Result<Edited> {
    let order = Order::Names(vol.upcase().table());
    let mut index = Index::open(vol, file, "$I30", order)?;
    check_entries(&index, file.reference, doomed)?;
    let before = index.count()?;
    let mut entries = 0_usize;
    for one in doomed {
        let counts = found.entry(one.target.file.reference.record()).or_default();
        let own = match index.find(&one.name.raw)? {
            Some(path) => {
                let entry = index.tree().at(&path)?;
                let key = FileName::parse(entry.key()?)?;
                let own = entry.reference()? == one.target.file.reference.0;
                if own && (key.namespace != one.name.namespace || key.name != one.name.name) {
                    return Err(Error::refused(format!(
                        "index entry: name {} in namespace {} expected, found {} in {}",
                        one.name.name, one.name.namespace, key.name, key.namespace
                    )));
                }
                own
            }
            None => false,
        };
        if own {
            index.remove(&one.name.raw)?;
            counts.0 = counts.0.saturating_add(1);
            entries = entries.saturating_add(1);
        } else {
            counts.1 = counts.1.saturating_add(1);
        }
    }
    let left = before.saturating_sub(entries);
    if index.count()? != left {
        return Err(Error::internal(
            "index: more or fewer entries removed than asked for",
        ));
    }
    let mut slack = index.commit()?;
    // The records of the directory: old, longer roots lie behind their used part.
    for record in &file.records {
        slack = slack.saturating_add(wipe_record_slack(vol, record.number)?);
    }
    Ok(Edited {
        entries: wide(entries),
        slack,
        left,
    })
}

/// No entry may speak of a target otherwise than the target's own names say: a stale sequence
/// number, a name it does not have, another parent.
fn check_entries(index: &Index<'_>, parent: MftReference, doomed: &[Doomed<'_>]) -> Result<()> {
    let mut numbers: BTreeMap<u64, Vec<&Doomed<'_>>> = BTreeMap::new();
    for one in doomed {
        numbers
            .entry(one.target.file.reference.record())
            .or_default()
            .push(one);
    }
    for entry in index.tree().entries()? {
        let reference = MftReference(entry.reference()?);
        let Some(names) = numbers.get(&reference.record()) else {
            continue;
        };
        let key = FileName::parse(entry.key()?)?;
        let known = names.iter().any(|one| {
            one.target.file.reference == reference
                && one.name.name == key.name
                && one.name.namespace == key.namespace
        });
        if !known || key.parent != parent {
            return Err(Error::refused(format!(
                "index entry: a name of the file expected, found {} for {reference} in {}",
                key.name, key.parent
            )));
        }
    }
    Ok(())
}

/// Zeroes what lies behind a record's bytes in use.
pub(super) fn wipe_record_slack(vol: &Ntfs, number: u64) -> Result<u64> {
    let mut record = read_record(vol, number)?;
    let wiped = zero_slack(&mut record.bytes)?;
    if wiped != 0 {
        write_record(vol, number, record.bytes)?;
    }
    Ok(wiped)
}

fn free_clusters(vol: &Ntfs, target: &Target, removal: &mut Removal) -> Result<()> {
    let cluster_len = u64::from(vol.geometry().cluster_len);
    let bitmap = vol.file(number::BITMAP)?.require(code::DATA, "")?;
    if bitmap.is_resident() {
        return Err(Error::refused(
            "$Bitmap: clusters expected, found a resident value",
        ));
    }
    for range in &target.clusters {
        bits::clear(vol, &bitmap, range, "$Bitmap")?;
        let count = range.end.saturating_sub(range.start);
        zero_range(
            vol,
            product(range.start, cluster_len, "cluster")?,
            product(count, cluster_len, "cluster")?,
        )?;
        removal.clusters = removal.clusters.saturating_add(count);
    }
    Ok(())
}

fn free_records(vol: &Ntfs, target: &Target, removal: &mut Removal) -> Result<()> {
    for record in &target.file.records {
        // Read anew each time: a resident bitmap is a copy that the clearing before made stale.
        let bitmap = vol.file(number::MFT)?.require(code::BITMAP, "")?;
        let bit = record.number..record.number.saturating_add(1);
        bits::clear(vol, &bitmap, &bit, "$MFT:$BITMAP")?;
        let mut now = read_record(vol, record.number)?;
        free(&mut now.bytes)?;
        write_record(vol, record.number, now.bytes)?;
        removal.records = removal.records.saturating_add(1);
    }
    Ok(())
}

/// Reads an edited directory again, from the device.
fn verify(vol: &Ntfs, parent: MftReference, count: usize) -> Result<()> {
    let wrong = |what: String| Error::new(Kind::Verification, what).at("parent record", parent);
    let file = vol.file_at(parent).map_err(|e| wrong(e.to_string()))?;
    let order = Order::Names(vol.upcase().table());
    let index = Index::open(vol, &file, "$I30", order).map_err(|e| wrong(e.to_string()))?;
    let now = index.count()?;
    if now == count {
        return Ok(());
    }
    Err(wrong(format!(
        "index after removal: {count} entries expected, found {now}"
    )))
}
