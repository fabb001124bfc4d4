//! Zeroing stale bytes that hold a searched token: nothing that anything live can read.
//!
//! Facts: facts/ntfs.md 6. Who owns a byte is asked of the reading half; whatever has no rule
//! here is left, with its owner's name.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    bits::is_set,
    index::Index,
    node::Order,
    place::{write_record, zero, zero_range},
    record::wipe,
    remove::wipe_record_slack,
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
    tree::{Disposition, FileId, FileTree, Owner},
    units::{FileOffset, MftReference, VolumeOffset},
    volume::{
        ntfs::{
            Ntfs, Stream,
            attribute::title,
            format::{attribute, code, number, record},
            owners::{clusters_of, meets, merge},
        },
        widths::{narrow, product},
    },
};

/// A hit is looked at in every 512 bytes that it touches: no owner is smaller.
const STEP: u64 = 512;

/// See [`FileTree::wipe_residue`].
pub(super) fn wipe_residue(vol: &Ntfs, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
    let mut places = Vec::new();
    let mut of_hit = Vec::new();
    for hit in hits {
        let from = places.len();
        places.extend(probes(hit).into_iter().map(VolumeOffset));
        of_hit.push(from..places.len());
    }
    let owners = vol.owners(&places, &[])?;
    if owners.len() != places.len() {
        return Err(Error::internal(
            "owners: an answer for every place expected",
        ));
    }
    let mut wiper = Wiper {
        vol,
        doubly: doubly_owned(vol, &places, &owners)?,
        done: BTreeMap::new(),
    };
    let mut answers = Vec::new();
    for (hit, range) in hits.iter().zip(of_hit) {
        let mut answer = Disposition::Left("an empty hit".to_owned());
        let places = places.get(range.clone()).unwrap_or_default();
        let owners = owners.get(range).unwrap_or_default();
        for (i, (at, owner)) in places.iter().zip(owners).enumerate() {
            let now = wiper.wipe(*at, owner)?;
            let left = matches!(now, Disposition::Left(_));
            if i == 0 || left {
                answer = now;
            }
            if left {
                break;
            }
        }
        if matches!(answer, Disposition::Wiped(_)) && !is_gone(vol, hit)? {
            answer = Disposition::Left("still in use after everything stale was wiped".to_owned());
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// First byte, last byte, and the beginning of every 512 bytes between.
fn probes(hit: &Range<u64>) -> Vec<u64> {
    let mut out = Vec::new();
    let mut at = hit.start;
    while at < hit.end && out.len() < 4096 {
        out.push(at);
        let Some(next) = at.checked_div(STEP).and_then(|n| n.checked_add(1)) else {
            break;
        };
        at = next.saturating_mul(STEP);
    }
    out.extend(hit.end.checked_sub(1).filter(|last| *last > hit.start));
    out
}

fn is_gone(vol: &Ntfs, hit: &Range<u64>) -> Result<bool> {
    let len = hit.end.saturating_sub(hit.start);
    let mut bytes = vec![0; narrow(len, "hit")?];
    vol.device().read_at(hit.start, &mut bytes)?;
    if all_zero(&bytes) {
        return Ok(true);
    }
    // The number that closes each 512 bytes of a record or an index block is written even there.
    let mut at = hit.start;
    for byte in &mut bytes {
        if at & 511 >= 510 {
            *byte = 0;
        }
        at = at.saturating_add(1);
    }
    Ok(all_zero(&bytes))
}

/// The clusters that would be written and belong to two: behind the end of the one may be the data of
/// the other. A free cluster has no owner at all, and what is left anyway is not asked for.
fn doubly_owned(vol: &Ntfs, places: &[VolumeOffset], owners: &[Owner]) -> Result<Vec<Range<u64>>> {
    let mut asked = Vec::new();
    let mut files = BTreeSet::new();
    for (at, owner) in places.iter().zip(owners) {
        match owner {
            Owner::Free { .. } | Owner::Outside => {}
            Owner::Record {
                in_use: true,
                slack: false,
                ..
            } => {}
            Owner::Record { .. } => {
                let lcn = vol.geometry().cluster_of(*at).get();
                asked.push(lcn..lcn.saturating_add(1));
            }
            Owner::File { id, .. } => {
                files.insert(*id);
            }
        }
    }
    // A tail or an index is wiped as a whole.
    for file in files
        .iter()
        .filter_map(|id| vol.file_at(MftReference(id.0)).ok())
    {
        for attribute in &file.attributes {
            asked.extend(attribute.runs().iter().map(clusters_of));
        }
    }
    let (mut claims, _) = vol.claims(&merge(asked))?;
    claims.sort_by_key(|claim| clusters_of(&claim.run).start);
    let mut doubly = Vec::new();
    let mut end = 0;
    for claim in &claims {
        let clusters = clusters_of(&claim.run);
        if clusters.start < end {
            doubly.push(clusters.start..clusters.end.min(end));
        }
        end = end.max(clusters.end);
    }
    Ok(merge(doubly))
}

struct Wiper<'a> {
    vol: &'a Ntfs,
    /// Clusters that two files claim.
    doubly: Vec<Range<u64>>,
    /// What was done already, by what it was done to.
    done: BTreeMap<String, Disposition>,
}

impl Wiper<'_> {
    fn wipe(&mut self, at: VolumeOffset, owner: &Owner) -> Result<Disposition> {
        let key = match owner {
            Owner::Free { cluster } => format!("cluster {cluster:?}"),
            Owner::Record { number, slack, .. } => format!("record {number} {slack}"),
            Owner::File {
                id,
                stream,
                tail,
                offset,
                ..
            } if stream.starts_with("$INDEX_ALLOCATION") => {
                // One index is wiped as a whole, but its live entries stay: ask the bytes.
                let _ = (tail, offset);
                format!("index {} {stream}", id.0)
            }
            Owner::File {
                id, stream, offset, ..
            } => format!("stream {} {stream} {offset}", id.0),
            Owner::Outside => "outside".to_owned(),
        };
        if let Some(done) = self.done.get(&key) {
            return Ok(done.clone());
        }
        let answer = self.wipe_new(at, owner)?;
        self.done.insert(key, answer.clone());
        Ok(answer)
    }

    fn wipe_new(&self, at: VolumeOffset, owner: &Owner) -> Result<Disposition> {
        let lcn = self.vol.geometry().cluster_of(at).get();
        if meets(&self.doubly, &(lcn..lcn.saturating_add(1))) {
            return Ok(left(format!("cluster {lcn:#x} belongs to two files")));
        }
        match owner {
            Owner::Free { cluster } => self.free_cluster(at, cluster),
            Owner::Record {
                number,
                in_use: false,
                ..
            } => self.free_record(*number),
            Owner::Record {
                number,
                in_use: true,
                slack,
                path,
            } => {
                let path = path.as_deref().unwrap_or("?");
                if *slack {
                    match wipe_record_slack(self.vol, *number) {
                        Ok(_) => Ok(wiped(format!("slack of file record {number} ({path})"))),
                        Err(error) => Ok(left(format!("file record {number} ({path}): {error}"))),
                    }
                } else {
                    Ok(left(format!("file record {number} in use by {path}")))
                }
            }
            Owner::File {
                id,
                path,
                stream,
                offset,
                ..
            } => Ok(self
                .file(*id, path, stream, *offset)
                .unwrap_or_else(|error| left(format!("{path} {stream}: {error}")))),
            Owner::Outside => Ok(left("outside the file system's clusters".to_owned())),
        }
    }

    fn free_cluster(&self, at: VolumeOffset, cluster: &Range<u64>) -> Result<Disposition> {
        let lcn = self.vol.geometry().cluster_of(at).get();
        let bitmap = self.vol.file(number::BITMAP)?.require(code::DATA, "")?;
        if is_set(self.vol, &bitmap, lcn, "$Bitmap")? {
            return Ok(left(format!("cluster {lcn:#x} is in use")));
        }
        let len = u64::from(self.vol.geometry().cluster_len);
        let start = product(lcn, len, "cluster")?;
        if *cluster != (start..start.saturating_add(len)) {
            return Err(Error::internal("owners: another cluster than the byte's"));
        }
        zero_range(self.vol, start, len)?;
        Ok(wiped(format!("free cluster {lcn:#x}")))
    }

    fn free_record(&self, number: u64) -> Result<Disposition> {
        let bitmap = self.vol.file(number::MFT)?.require(code::BITMAP, "")?;
        if is_set(self.vol, &bitmap, number, "$MFT:$BITMAP")? {
            return Ok(left(format!(
                "file record {number} is marked in use in $MFT:$BITMAP"
            )));
        }
        let mut record = self.vol.read_record(number)?;
        if record.is_in_use() {
            return Ok(left(format!("file record {number} is in use")));
        }
        if record.magic() == record::MAGIC && record.check_header().is_ok() {
            let old = record.bytes.clone();
            wipe(&mut record.bytes)?;
            if record.bytes != old {
                write_record(self.vol, number, record.bytes)?;
            }
        } else {
            // Not a record at all, so nothing of it is worth keeping: never used, or torn.
            for (at, len) in self.vol.record_pieces(number)? {
                let len = crate::volume::widths::wide(len);
                zero_range(self.vol, at.get(), len)?;
            }
        }
        Ok(wiped(format!("free file record {number}")))
    }

    fn file(&self, id: FileId, path: &str, name: &str, offset: FileOffset) -> Result<Disposition> {
        let file = self.vol.file_at(MftReference(id.0))?;
        let found = file
            .stream_titles()
            .into_iter()
            .find(|(kind, stream)| title(*kind, stream) == name);
        let Some((kind, stream_name)) = found else {
            return Ok(left(format!("{path} {name}")));
        };
        let Some(stream) = file.stream_named(kind, &stream_name)? else {
            return Ok(left(format!("{path} {name}")));
        };
        let mut runs = stream.runs().iter();
        if runs.any(|run| meets(&self.doubly, &clusters_of(run))) {
            return Ok(left(format!(
                "{path} {name}: it shares clusters with another file"
            )));
        }
        if kind == code::INDEX_ALLOCATION {
            let text = String::from_utf16_lossy(stream_name.units());
            let order = if text == "$I30" {
                Order::Names(self.vol.upcase().table())
            } else {
                Order::Numbers
            };
            Index::open(self.vol, &file, &text, order)?.commit()?;
            return Ok(wiped(format!("stale index entries of {path}")));
        }
        self.tail(path, name, kind, &stream, offset)
    }

    /// Behind the data, or behind what is initialised of it, a plain stream holds nothing.
    fn tail(
        &self,
        path: &str,
        name: &str,
        kind: u32,
        stream: &Stream,
        offset: FileOffset,
    ) -> Result<Disposition> {
        let plain = stream.flags
            & (attribute::COMPRESSION_MASK | attribute::ENCRYPTED | attribute::SPARSE)
            == 0
            && !stream.has_holes()
            && !stream.is_resident();
        let dead = if kind == code::DATA {
            stream.initialised
        } else {
            stream.data_len
        };
        if !plain || offset.get() < dead {
            return Ok(left(format!("{path} {name}")));
        }
        zero(
            self.vol,
            stream,
            dead,
            stream.allocated.saturating_sub(dead),
        )?;
        Ok(wiped(format!("cluster tail of {path} {name}")))
    }
}

fn wiped(what: String) -> Disposition {
    Disposition::Wiped(what)
}

fn left(what: String) -> Disposition {
    Disposition::Left(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_probed_in_everything_it_touches() {
        assert_eq!(probes(&(5..6)), [5]);
        assert_eq!(probes(&(5..10)), [5, 9]);
        assert_eq!(probes(&(500..1030)), [500, 512, 1024, 1029]);
        assert!(probes(&(7..7)).is_empty());
    }
}
