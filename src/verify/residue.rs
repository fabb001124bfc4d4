//! The raw search: every data extent of an image, and whose each hit is.

use std::ops::Range;

use schemars::JsonSchema;
use serde::Serialize;

use super::search::{Hit, Searcher, data_ranges};
use crate::{
    device::{BlockDevice, HostFile},
    error::Result,
    image::{Image, Volume},
    plan::tokens::{Class, Token},
    tree::{FileId, Owner},
    units::{FileOffset, ImageOffset, VolumeOffset},
};

/// A hit with its place on the ladder and its owner.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Residue {
    /// What was found.
    pub token: String,
    /// What a hit of this token means.
    pub class: Class,
    /// What sort of place it is.
    pub place: Where,
    /// Whose it is, in words.
    pub owner: String,
    /// Partition, if it lies in one.
    pub partition: Option<u32>,
    /// Volume offset, if it lies in a volume.
    pub volume_offset: Option<u64>,
    /// Image offset; none if the image file holds it in another form, or a file below it does.
    pub image_offset: Option<u64>,
    /// The file, if the image is several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_offset: Option<u64>,
    /// Length in bytes.
    pub len: u64,
    /// Found by shape (`GUID:` and any GUID), not by a known identifier or the line of a Smscfg.ini.
    pub generic: bool,
}

/// What sort of place a hit is in.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// A cluster nobody owns.
    FreeCluster,
    /// A file record that is not in use, or the unused part of one.
    RecordSlack,
    /// Behind the end of a file, or in an index block.
    FileSlack,
    /// $LogFile or $UsnJrnl.
    Journal,
    /// Shadow copy storage, page file, hibernation file, crash dump.
    SystemStore,
    /// Data or name of a file that is alive.
    LiveFile,
    /// A cluster marked in use that no file owns.
    LeakedCluster,
    /// In the container's file, where neither its disk nor its format needs it.
    Unreferenced,
    /// Outside every volume.
    Outside,
}

impl Residue {
    /// Whether nothing alive is there: it may be zeroed.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(
            self.place,
            Where::FreeCluster | Where::RecordSlack | Where::FileSlack | Where::Unreferenced
        )
    }

    /// Whether this is a trace of the identity, not merely a program that knows the name.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        match self.place {
            Where::LiveFile | Where::Journal | Where::SystemStore => {
                self.class != Class::Name && !self.generic
            }
            Where::LeakedCluster => self.class != Class::Name,
            _ => true,
        }
    }
}

/// What the raw search saw.
#[derive(Debug, Default)]
pub struct Raw {
    /// Hits, in image order.
    pub hits: Vec<Hit>,
    /// Whose each hit is, in the order of `hits`.
    pub residues: Vec<Residue>,
    /// How many hits there were, those beyond the limit included.
    pub hit_count: u64,
    /// How many there were in contents, which have no place in the file and are not among `hits`.
    pub content_count: u64,
    /// Bytes searched.
    pub searched: u64,
    /// Bytes of holes that were skipped.
    pub holes: u64,
    /// Bytes of contents that the file holds in another form, searched as they are.
    pub contents: u64,
}

impl Raw {
    /// How many of what was found are not among `residues`.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        let found = self.hit_count.saturating_add(self.content_count);
        found.saturating_sub(self.residues.len() as u64)
    }
}

/// Searches every data extent of the image file. The first `limit` hits get an owner.
#[allow(clippy::too_many_arguments)]
pub fn raw(
    image: &Image,
    device: &dyn BlockDevice,
    map: Option<&HostFile>,
    tokens: &[Token],
    generic: bool,
    limit: usize,
    tick: &(dyn Fn(u64, u64) + Sync),
) -> Result<Raw> {
    let searcher = Searcher::new(tokens, generic)?;
    // Compressed bytes show nothing: there the disk is searched, and offsets are the disk's.
    let (device, map) = match image.opaque {
        true => (image.disk.as_ref(), None),
        false => (device, map),
    };
    let ranges = data_ranges(device, 0..device.len())?;
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let (mut hits, _) = searcher.find_all(device, map, &ranges, &|done| tick(done, total))?;
    let mut across = across_seams(image, &searcher)?;
    let mut total = total;
    if !image.facts.chain.is_empty() && !image.opaque {
        // What the disk shows of the files below, and what begins here and ends there.
        let ranges = data_ranges(image.disk.as_ref(), 0..image.disk.len())?;
        let (shown, searched) = searcher.find_all(image.disk.as_ref(), None, &ranges, &|_| {})?;
        across.extend(shown.into_iter().filter_map(|hit| {
            let offset = image.places.hit_offset(hit.offset)?;
            Some(Hit { offset, ..hit })
        }));
        total = total.saturating_add(searched);
    }
    if !across.is_empty() {
        hits.extend(across);
        hits.sort_unstable();
        hits.dedup();
    }
    searcher.drop_shapes(&mut hits);
    let mut out = Raw {
        hit_count: hits.len() as u64,
        searched: total,
        holes: device.len().saturating_sub(total),
        ..Raw::default()
    };
    out.hits = hits[..hits.len().min(limit)].to_vec();
    let vague = searcher.first_vague();
    out.residues = place_hits(image, &out.hits, searcher.tokens(), vague, &[])?;
    for volume in &image.volumes {
        search_contents(volume, &searcher, vague, limit, &mut out)?;
    }
    Ok(out)
}

/// What an archive holds and nothing in it references: an image or a file that another program deleted
/// goes from the lists, and its contents stay.
pub fn unreferenced(image: &Image) -> Result<Option<Residue>> {
    let Some(writer) = &image.writer else {
        return Ok(None);
    };
    let len = writer.leftovers()?;
    let searched = match writer.is_plain() {
        true => "not compressed: a search finds what it knows",
        false => "compressed: no search sees what they hold",
    };
    Ok((len > 0).then(|| Residue {
        token: format!(
            "{len} bytes that hold what nothing references, left by an earlier change; {searched}"
        ),
        class: Class::Content,
        place: Where::Unreferenced,
        owner: "the archive".to_owned(),
        partition: None,
        volume_offset: None,
        image_offset: None,
        file: None,
        file_offset: None,
        len,
        generic: false,
    }))
}

/// Contents that the image file holds in another form. What is found there has no offset in the file
/// and is no hit that could be wiped.
fn search_contents(
    volume: &Volume,
    searcher: &Searcher,
    known: usize,
    limit: usize,
    out: &mut Raw,
) -> Result<()> {
    let Some(tree) = volume.tree() else {
        return Ok(());
    };
    let mut hits = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut last = String::new();
    let searched = tree.contents(searcher.overlap(), &mut |piece| {
        if piece.owner != last {
            seen.clear();
            piece.owner.clone_into(&mut last);
        }
        hits.clear();
        searcher.find(piece.bytes, piece.offset, &mut hits);
        hits.sort_unstable();
        searcher.drop_shapes(&mut hits);
        for hit in &hits {
            if !seen.insert((hit.offset, hit.token)) {
                continue;
            }
            out.content_count += 1;
            if out.residues.len() < limit {
                let token = &searcher.tokens()[hit.token];
                out.residues.push(Residue {
                    token: token.label.clone(),
                    class: token.class,
                    place: Where::LiveFile,
                    owner: format!("{}, offset {}", piece.owner, FileOffset(hit.offset)),
                    partition: Some(volume.partition),
                    volume_offset: None,
                    image_offset: None,
                    file: None,
                    file_offset: None,
                    len: hit.len,
                    generic: hit.token >= known,
                });
            }
        }
    });
    out.contents += searched.map_err(|error| volume.climb(error))?;
    Ok(())
}

/// Hits that begin in one block of a container and end in the next one of the disk, which lies
/// elsewhere in the file; and those in protected structures that do. The disk is searched to both sides
/// of each seam: what lies in one block is a hit that the file shows, too.
fn across_seams(image: &Image, searcher: &Searcher) -> Result<Vec<Hit>> {
    let reach = searcher.overlap().max(super::protected::MAX_LEN) as u64;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for seam in image.places.seams() {
        let range = seam.saturating_sub(reach)..seam.saturating_add(reach).min(image.disk.len());
        match ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => ranges.push(range),
        }
    }
    let mut data = Vec::new();
    for range in ranges {
        data.extend(data_ranges(image.disk.as_ref(), range)?);
    }
    let (hits, _) = searcher.find_all(image.disk.as_ref(), None, &data, &|_| {})?;
    Ok(hits
        .into_iter()
        .filter_map(|hit| {
            let offset = image.places.file_offset(hit.offset)?;
            Some(Hit { offset, ..hit })
        })
        .collect())
}

/// Where in the file a hit is, if the file holds those bytes.
pub(super) fn offset_in_file(image: &Image, hit: u64) -> Option<u64> {
    (!image.opaque && !Volume::is_below(ImageOffset(hit))).then_some(hit)
}

/// Finds the owner of every hit (image offsets).
///
/// Tokens from index `known` on were found by shape only; `likely` owners (by volume) are asked
/// first.
pub fn place_hits(
    image: &Image,
    hits: &[Hit],
    tokens: &[Token],
    known: usize,
    likely: &[Vec<FileId>],
) -> Result<Vec<Residue>> {
    let mut residues: Vec<Residue> = hits
        .iter()
        .map(|hit| {
            let shown = image.places.disk_offset(hit.offset).is_some();
            let loose = !shown && image.places.is_loose(&(hit.offset..hit.offset + hit.len));
            let owner = match (shown, loose) {
                (true, _) => "outside every partition",
                (false, true) => "a place of the container that nothing references",
                (false, false) => "a place of the container that its disk does not show",
            };
            Residue {
                token: tokens[hit.token].label.clone(),
                class: tokens[hit.token].class,
                place: match loose {
                    true => Where::Unreferenced,
                    false => Where::Outside,
                },
                owner: owner.to_owned(),
                partition: None,
                volume_offset: None,
                image_offset: offset_in_file(image, hit.offset),
                file: None,
                file_offset: None,
                len: hit.len,
                generic: hit.token >= known,
            }
        })
        .collect();
    for (index, volume) in image.volumes.iter().enumerate() {
        let inside: Vec<(usize, VolumeOffset)> = hits
            .iter()
            .enumerate()
            .filter_map(|(i, hit)| Some((i, volume.volume_offset(ImageOffset(hit.offset))?)))
            .collect();
        if inside.is_empty() {
            continue;
        }
        let offsets: Vec<VolumeOffset> = inside.iter().map(|(_, at)| *at).collect();
        let owners = match volume.tree() {
            Some(tree) => tree
                .owners(&offsets, likely.get(index).map_or(&[], Vec::as_slice))
                .map_err(|e| volume.climb(e))?,
            None => vec![Owner::Outside; offsets.len()],
        };
        for ((i, at), owner) in inside.iter().zip(&owners) {
            let (place, text) = describe(volume, owner);
            residues[*i].place = place;
            residues[*i].owner = text;
            residues[*i].partition = Some(volume.partition);
            residues[*i].volume_offset = Some(at.get());
        }
    }
    Ok(residues)
}

fn describe(volume: &Volume, owner: &Owner) -> (Where, String) {
    let record = |number: u64| {
        let (record, value) = volume.record_name(number);
        format!("{record} {value}")
    };
    match owner {
        Owner::Free { cluster } => (
            Where::FreeCluster,
            format!("free cluster at volume offset {:#x}", cluster.start),
        ),
        Owner::Record {
            number,
            in_use: false,
            ..
        } => (
            Where::RecordSlack,
            format!("{}, not in use", record(*number)),
        ),
        Owner::Record {
            number,
            slack: true,
            path,
            ..
        } => (
            Where::RecordSlack,
            format!(
                "unused part of {} ({})",
                record(*number),
                path.as_deref().unwrap_or("?")
            ),
        ),
        Owner::Record { number, path, .. } => (
            Where::LiveFile,
            format!("{} of {}", record(*number), path.as_deref().unwrap_or("?")),
        ),
        // The volume's way to say that no file is known.
        Owner::File {
            id: FileId(0),
            path,
            stream,
            offset,
            ..
        } if path == "?" => (Where::LeakedCluster, format!("{stream}, offset {offset}")),
        Owner::File {
            path,
            stream,
            offset,
            tail,
            ..
        } => {
            let place = place_of_file(path, *tail);
            let behind = if *tail { ", behind its end" } else { "" };
            (
                place,
                format!("{path} {stream}, file offset {offset}{behind}"),
            )
        }
        Owner::Outside if volume.tree().is_none() => (
            Where::Outside,
            format!("{} volume, not read", volume.filesystem),
        ),
        Owner::Outside => (Where::Outside, "outside the volume's clusters".to_owned()),
    }
}

fn place_of_file(path: &str, tail: bool) -> Where {
    let folded = path.to_ascii_lowercase();
    if tail {
        return Where::FileSlack;
    }
    match folded.as_str() {
        "\\$logfile" => Where::Journal,
        _ if folded.starts_with("\\$extend\\$usnjrnl") => Where::Journal,
        "\\pagefile.sys" | "\\swapfile.sys" | "\\hiberfil.sys" => Where::SystemStore,
        _ if folded.starts_with("\\system volume information\\") => Where::SystemStore,
        _ => Where::LiveFile,
    }
}
