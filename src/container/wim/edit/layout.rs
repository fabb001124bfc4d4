//! Where everything goes in the written file, and zeros where nothing is any more.

use std::ops::Range;

use super::{
    super::{
        Wim,
        format::{self, BLOB_LEN, res},
        read::{File, Resource, narrow, wide},
        xml::Xml,
    },
    Entry, PAGE, Packed, STEP,
    integrity::Integrity,
    solid::Recoded,
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
};

/// Most bytes of resources that make room for a solid one that grows.
const EVICT_LIMIT: u64 = 64 << 20;

/// Free ranges of the file: where a resource can be put.
struct Room {
    free: Vec<Range<u64>>,
    /// Behind the last resource that stays.
    end: u64,
}

impl Room {
    /// `taken` are the ranges that stay; everything from the last one on is open.
    fn new(mut taken: Vec<Range<u64>>) -> Self {
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| range.start);
        let mut free = Vec::new();
        let mut at = format::HEADER_END;
        for range in taken {
            if at < range.start {
                free.push(at..range.start);
            }
            at = at.max(range.end);
        }
        Self { free, end: at }
    }

    /// A place for `size` bytes: where the old ones were, in the smallest gap, or at the end.
    fn take(&mut self, size: u64, old: u64) -> u64 {
        if size == 0 {
            return format::HEADER_END;
        }
        let fits = |range: &Range<u64>, from: u64| range.end.saturating_sub(from) >= size;
        let same = self
            .free
            .iter()
            .position(|range| range.contains(&old) && fits(range, old));
        if let Some(index) = same {
            return self.cut(index, old, size);
        }
        // Where the old ones were is the end of the file now.
        if old >= self.end && old < self.end.saturating_add(PAGE) {
            let at = self.end;
            self.end = at.saturating_add(size);
            return at;
        }
        let gaps = self.free.iter().enumerate();
        let smallest = gaps
            .filter(|(_, range)| fits(range, range.start))
            .min_by_key(|(_, range)| range.end.saturating_sub(range.start))
            .map(|(index, range)| (index, range.start));
        match smallest {
            Some((index, start)) => self.cut(index, start, size),
            None => {
                let at = self.end;
                self.end = at.saturating_add(size);
                at
            }
        }
    }

    fn cut(&mut self, index: usize, at: u64, size: u64) -> u64 {
        let range = self.free.swap_remove(index);
        let end = at.saturating_add(size);
        if range.start < at {
            self.free.push(range.start..at);
        }
        if end < range.end {
            self.free.push(end..range.end);
        }
        at
    }
}

/// A solid resource that does not keep its length: where it goes.
struct Move<'a> {
    to: u64,
    recoded: &'a Recoded,
}

/// Whether an entry has a place of its own in the file.
fn is_placed(entry: &Entry) -> bool {
    !entry.blob.resource.is(res::SOLID) || entry.blob.is_solid_resource()
}

/// Finds places for solid resources that become longer or shorter: where they are, if what lies behind
/// them is small and can give way; else behind everything. None is put on the old place of another.
fn moves<'a>(file: &File, table: &mut [Entry], recoded: &'a [Recoded]) -> Result<Vec<Move<'a>>> {
    let mut out: Vec<Move<'a>> = Vec::new();
    let all = table.iter().filter(|entry| is_placed(entry));
    let mut end = all
        .map(|entry| {
            file.blobs
                .get(entry.of)
                .map_or(0, |old| old.resource.range().end)
        })
        .fold(format::HEADER_END, u64::max);
    for one in recoded.iter().filter(|one| one.is_moved()) {
        let wanted = one.old.offset..one.old.offset.saturating_add(one.size);
        let mut solid = false;
        let mut size = 0_u64;
        let mut way = Vec::new();
        for (at, entry) in table.iter().enumerate() {
            let range = entry.blob.resource.range();
            let meets = range.start < wanted.end && wanted.start < range.end;
            if !meets || !is_placed(entry) || entry.of == one.blob || entry.new.is_some() {
                continue;
            }
            solid |= entry.blob.is_solid_resource();
            size = size.saturating_add(entry.blob.resource.size);
            way.push(at);
        }
        let stays = !solid && size <= EVICT_LIMIT;
        let to = match stays {
            true => one.old.offset,
            false => end,
        };
        for at in way.into_iter().filter(|_| stays) {
            let entry = table.get_mut(at);
            let entry = entry.ok_or_else(|| Error::internal("WIM blob: its number"))?;
            let resource = entry.blob.resource;
            let mut bytes = vec![0; narrow(resource.size, "WIM resource")?];
            file.host.read_at(resource.offset, &mut bytes)?;
            entry.new = Some(Packed {
                hash: entry.blob.hash,
                resource,
                bytes,
                old: resource.offset,
            });
        }
        if let Some(entry) = table.iter_mut().find(|entry| entry.of == one.blob) {
            entry.blob.resource.offset = to;
            entry.blob.resource.size = one.size;
        }
        end = end.max(to.saturating_add(one.size));
        out.push(Move { to, recoded: one });
    }
    Ok(out)
}

/// Copies what stays of a resource that moves: what goes up from its end on, what goes down from its
/// start on, so that nothing is written over before it was copied.
fn copy(file: &File, pieces: &[(Range<u64>, u64)]) -> Result<()> {
    let up = pieces.iter().rev().filter(|(from, to)| *to > from.start);
    let down = pieces.iter().filter(|(from, to)| *to < from.start);
    let mut buffer = vec![0; narrow(STEP, "WIM resource")?];
    for (from, to) in up.chain(down) {
        let len = from.end.saturating_sub(from.start);
        let mut done = 0;
        while done < len {
            let take = len.saturating_sub(done).min(STEP);
            let at = match *to > from.start {
                true => len.saturating_sub(done).saturating_sub(take),
                false => done,
            };
            let piece = buffer
                .get_mut(..narrow(take, "WIM resource")?)
                .ok_or_else(|| Error::internal("WIM resource: a piece of it"))?;
            file.host.read_at(from.start.saturating_add(at), piece)?;
            file.host.write_at(to.saturating_add(at), piece)?;
            done = done.saturating_add(take);
        }
    }
    Ok(())
}

/// Finds places, writes everything, zeros the rest.
pub(super) fn write(
    wim: &Wim,
    mut table: Vec<Entry>,
    recoded: &[Recoded],
    mut xml: Xml,
) -> Result<()> {
    let file = &wim.file;
    let header = &file.header;
    let moves = moves(file, &mut table, recoded)?;
    let kept = table
        .iter()
        .filter(|entry| entry.new.is_none() && is_placed(entry));
    let mut room = Room::new(kept.map(|entry| entry.blob.resource.range()).collect());
    // The largest first: it has the fewest places.
    let mut order: Vec<usize> = (0..table.len()).collect();
    order.sort_by_key(|at| {
        let size = table
            .get(*at)
            .and_then(|entry| entry.new.as_ref())
            .map_or(0, |new| new.resource.size);
        std::cmp::Reverse(size)
    });
    for at in order {
        if let Some(Entry {
            blob,
            new: Some(new),
            ..
        }) = table.get_mut(at)
        {
            blob.resource.offset = room.take(new.resource.size, new.old);
        }
    }
    let mut bytes = Vec::with_capacity(table.len().saturating_mul(BLOB_LEN));
    for entry in &table {
        bytes.extend(entry.blob.bytes());
    }
    // Twice: the place of the XML is a number in the XML.
    let integrity = Integrity::read(file)?;
    let old_len = file.host.len();
    let table_len = wide(bytes.len());
    let mut table_at = room.end;
    let mut xml_bytes = xml.bytes();
    let mut new_len = old_len;
    for _ in 0..4 {
        let tail = |start: u64, xml_len: u64| {
            let covered = start.saturating_add(table_len);
            table_len
                .saturating_add(xml_len)
                .saturating_add(integrity.as_ref().map_or(0, |one| one.len_for(covered)))
        };
        let needed = room
            .end
            .saturating_add(tail(room.end, wide(xml_bytes.len())));
        new_len = old_len.max(needed);
        // The tables end where the file ends.
        table_at = new_len
            .saturating_sub(tail(new_len, wide(xml_bytes.len())))
            .max(room.end);
        xml.set_start(table_at.saturating_add(table_len))?;
        xml_bytes = xml.bytes();
    }
    let xml_at = table_at.saturating_add(table_len);
    let integrity_at = xml_at.saturating_add(wide(xml_bytes.len()));
    let integrity_len = integrity.as_ref().map_or(0, |one| one.len_for(xml_at));
    let end = integrity_at.saturating_add(integrity_len);
    if end > new_len {
        new_len = end;
    }
    if new_len > old_len {
        file.host
            .grow(new_len)
            .map_err(|error| error.at("image offset", format_args!("{old_len:#x}")))?;
    }

    let mut dirty: Vec<Range<u64>> = Vec::new();
    // Before anything else: what is written otherwise may lie where a moved one was.
    for one in &moves {
        copy(file, &one.recoded.pieces(one.to)?)?;
        dirty.push(one.to..one.to.saturating_add(one.recoded.size));
    }
    for one in recoded {
        let moved = moves.iter().find(|other| other.recoded.blob == one.blob);
        for (at, bytes) in one.writes(moved.map_or(one.old.offset, |moved| moved.to))? {
            file.host.write_at(at, &bytes)?;
            dirty.push(at..at.saturating_add(wide(bytes.len())));
        }
    }
    for entry in &table {
        if let Some(new) = &entry.new {
            file.host.write_at(entry.blob.resource.offset, &new.bytes)?;
            dirty.push(entry.blob.resource.range());
        }
    }
    file.host.write_at(table_at, &bytes)?;
    dirty.push(table_at..xml_at);
    file.host.write_at(xml_at, &xml_bytes)?;
    let plain = |one: Resource, offset: u64, len: u64| Resource {
        size: len,
        flags: one.flags & !res::COMPRESSED,
        offset,
        len,
    };
    let boot = usize::try_from(header.boot_index).unwrap_or(0);
    let new_boot = table
        .iter()
        .filter(|entry| entry.blob.is_metadata())
        .nth(boot.wrapping_sub(1))
        .map_or(header.boot, |entry| entry.blob.resource);
    let new_header = header.with(
        plain(header.table, table_at, table_len),
        plain(header.xml, xml_at, wide(xml_bytes.len())),
        new_boot,
        match &integrity {
            Some(_) => plain(header.integrity, integrity_at, integrity_len),
            None => header.integrity,
        },
    )?;
    file.host.write_at(0, &new_header)?;

    let mut used: Vec<Range<u64>> = table
        .iter()
        .filter(|entry| is_placed(entry))
        .map(|entry| entry.blob.resource.range())
        .collect();
    used.push(table_at..end);
    for gap in gaps(used, new_len) {
        zero(file, gap, &mut dirty)?;
    }
    if let Some(integrity) = integrity {
        integrity.write(file, xml_at, &dirty, integrity_at)?;
    }
    Ok(())
}

/// What of the file nothing takes.
pub(super) fn gaps(mut used: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    used.push(0..format::HEADER_END);
    used.push(len..len.saturating_add(1));
    let room = Room::new(used);
    room.free
}

/// Zeros a range, where it is not zero already.
fn zero(file: &File, range: Range<u64>, dirty: &mut Vec<Range<u64>>) -> Result<()> {
    let mut at = range.start;
    let mut buffer = vec![0; narrow(STEP, "WIM gap")?];
    while at < range.end {
        let take = range.end.saturating_sub(at).min(STEP);
        let piece = buffer
            .get_mut(..narrow(take, "WIM gap")?)
            .ok_or_else(|| Error::internal("WIM gap: its piece"))?;
        file.host.read_at(at, piece)?;
        let mut from = at;
        for part in piece.chunks(narrow(PAGE, "WIM gap")?) {
            if !all_zero(part) {
                file.host.zero_at(from, wide(part.len()))?;
                dirty.push(from..from.saturating_add(wide(part.len())));
            }
            from = from.saturating_add(wide(part.len()));
        }
        at = at.saturating_add(take);
    }
    Ok(())
}
