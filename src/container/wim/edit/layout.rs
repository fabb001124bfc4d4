//! Where everything goes in the written file, and zeros where nothing is any more.

use std::ops::Range;

use super::{
    super::{
        Wim,
        format::{self, BLOB_LEN, res},
        read::{File, Resource, narrow, wide},
        split::Part,
        xml::Xml,
    },
    Entry, PAGE, Packed, STEP,
    integrity::Integrity,
    solid::Recoded,
};
use crate::{
    bytes::all_zero,
    device::{BlockDevice, PartOf},
    error::{Error, Result},
};

/// Most bytes of resources that make room for a solid one that grows.
const EVICT_LIMIT: u64 = 64 << 20;

/// Free ranges of a file: where a resource can be put.
struct Room {
    free: Vec<Range<u64>>,
    /// Where resources may begin.
    front: u64,
    /// Behind the last resource that stays.
    end: u64,
}

impl Room {
    /// `taken` are the ranges that stay in the file that begins at `start`; everything from the last
    /// one on is open.
    fn new(mut taken: Vec<Range<u64>>, start: u64) -> Self {
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| range.start);
        let mut free = Vec::new();
        let front = start.saturating_add(format::HEADER_END);
        let mut at = front;
        for range in taken {
            if at < range.start {
                free.push(at..range.start);
            }
            at = at.max(range.end);
        }
        Self {
            free,
            front,
            end: at,
        }
    }

    /// A place for `size` bytes: where the old ones were, in the smallest gap, or at the end.
    fn take(&mut self, size: u64, old: u64) -> u64 {
        if size == 0 {
            return self.front;
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

/// What becomes of one of the files. Positions are those in it.
struct Sheet<'a> {
    part: &'a Part,
    table: Vec<u8>,
    table_at: u64,
    xml: Vec<u8>,
    xml_at: u64,
    integrity: Option<Integrity>,
    integrity_at: u64,
    /// How long the file is.
    len: u64,
    /// Its tables are what they were, where they were.
    kept: bool,
}

impl<'a> Sheet<'a> {
    /// Finds places for what is new of `entries`, those of this file, and for its tables.
    fn new(file: &File, part: &'a Part, entries: &mut [Entry], xml: Xml) -> Result<Self> {
        let start = part.range.start;
        let old = &part.header;
        let stay = |entry: &&Entry| entry.new.is_none() && is_placed(entry);
        let stay = entries.iter().filter(stay);
        let mut room = Room::new(
            stay.map(|entry| entry.blob.resource.range()).collect(),
            start,
        );
        // The largest first: it has the fewest places.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|at| {
            let size = entries
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
            }) = entries.get_mut(at)
            {
                blob.resource.offset = room.take(new.resource.size, new.old);
            }
        }
        let mut table = Vec::with_capacity(entries.len().saturating_mul(BLOB_LEN));
        for entry in entries.iter() {
            let mut blob = entry.blob;
            if is_placed(entry) && file.has_part(&blob) {
                blob.resource = blob.resource.inside(start);
            }
            table.extend(blob.bytes());
        }
        let integrity = Integrity::read(file, part)?;
        let mut sheet = Self {
            part,
            table,
            table_at: old.table.offset,
            xml: xml.bytes(),
            xml_at: old.xml.offset,
            integrity,
            integrity_at: old.integrity.offset,
            len: part.range.end.saturating_sub(start),
            kept: true,
        };
        let is_new = entries.iter().any(|entry| entry.new.is_some());
        if is_new || !sheet.is_as_it_was(file)? {
            sheet.kept = false;
            sheet.place_tables(room.end.saturating_sub(start), xml)?;
        }
        Ok(sheet)
    }

    fn is_as_it_was(&self, file: &File) -> Result<bool> {
        let old = &self.part.header;
        let same_integrity = match &self.integrity {
            Some(one) => one.len_for(old.table.range().end) == old.integrity.size,
            None => true,
        };
        Ok(same_integrity
            && self.xml == file.xml(self.part)?
            && self.table == file.table(self.part)?)
    }

    /// The tables end where the file ends, and begin at `end` at the earliest.
    fn place_tables(&mut self, end: u64, mut xml: Xml) -> Result<()> {
        let follows = xml.starts_at(self.part.header.xml.offset);
        let old_len = self.len;
        let table_len = wide(self.table.len());
        // Twice: the place of the XML is a number in the XML.
        for _ in 0..4 {
            let xml_len = wide(self.xml.len());
            let tail = |start: u64| {
                let covered = start.saturating_add(table_len);
                table_len
                    .saturating_add(xml_len)
                    .saturating_add(self.integrity_len(covered))
            };
            let len = old_len.max(end.saturating_add(tail(end)));
            self.table_at = len.saturating_sub(tail(len)).max(end);
            self.len = len;
            self.xml_at = self.table_at.saturating_add(table_len);
            if follows {
                xml.set_start(self.xml_at)?;
                self.xml = xml.bytes();
            }
        }
        self.integrity_at = self.xml_at.saturating_add(wide(self.xml.len()));
        let tables_end = self
            .integrity_at
            .saturating_add(self.integrity_len(self.xml_at));
        self.len = self.len.max(tables_end);
        Ok(())
    }

    /// Bytes of the integrity table if the blob table ends at `covered`.
    fn integrity_len(&self, covered: u64) -> u64 {
        self.integrity
            .as_ref()
            .map_or(0, |one| one.len_for(covered))
    }

    /// Where the blob table ends.
    fn covered(&self) -> u64 {
        self.table_at.saturating_add(match self.kept {
            true => self.part.header.table.size,
            false => wide(self.table.len()),
        })
    }

    /// What blob table, XML data and integrity table are in the header.
    fn tables(&self) -> [Resource; 3] {
        let old = &self.part.header;
        if self.kept {
            return [old.table, old.xml, old.integrity];
        }
        let plain = |one: Resource, offset: u64, len: u64| Resource {
            size: len,
            flags: one.flags & !res::COMPRESSED,
            offset,
            len,
        };
        let integrity = match &self.integrity {
            Some(one) => plain(
                old.integrity,
                self.integrity_at,
                one.len_for(self.covered()),
            ),
            None => old.integrity,
        };
        [
            plain(old.table, self.table_at, wide(self.table.len())),
            plain(old.xml, self.xml_at, wide(self.xml.len())),
            integrity,
        ]
    }

    /// The file as it will be, in the address space of all files.
    fn range(&self) -> Range<u64> {
        let start = self.part.range.start;
        start..start.saturating_add(self.len)
    }

    fn grow(&self, file: &File) -> Result<()> {
        let old_end = self.part.range.end;
        if self.range().end <= old_end {
            return Ok(());
        }
        PartOf::new(file.host.clone(), self.part.file)?
            .grow(self.len)
            .map_err(|error| error.at("image offset", format_args!("{old_end:#x}")))
            .map_err(|error| self.part.climb(error))
    }

    /// Writes the tables and the header. `boot` is the metadata of the boot image.
    fn write(&self, file: &File, boot: Resource, dirty: &mut Vec<Range<u64>>) -> Result<()> {
        let start = self.part.range.start;
        let [table, xml, integrity] = self.tables();
        if !self.kept {
            let table = table.shifted(start);
            file.host.write_at(table.offset, &self.table)?;
            dirty.push(table.range());
            file.host.write_at(xml.shifted(start).offset, &self.xml)?;
        }
        let header = self.part.header.with(table, xml, boot, integrity)?;
        file.host.write_at(start, &header)
    }
}

/// Finds places, writes everything, zeros the rest. `xml` is that of each file.
pub(super) fn write(
    wim: &Wim,
    mut table: Vec<Entry>,
    recoded: &[Recoded],
    xml: Vec<Xml>,
) -> Result<()> {
    let file = &wim.file;
    let header = &file.header;
    // Solid resources are those of an archive of one file: none goes to another.
    let moves = moves(file, &mut table, recoded)?;
    let mut sheets = Vec::with_capacity(file.parts.len());
    let mut rest = table.as_mut_slice();
    for ((index, part), xml) in file.parts.iter().enumerate().zip(xml) {
        // The table is in the order of the parts.
        let own = |entry: &&Entry| file.part_of(&entry.blob) == index;
        let count = rest.iter().take_while(own).count();
        let (entries, more) = rest.split_at_mut(count);
        rest = more;
        sheets.push(Sheet::new(file, part, entries, xml).map_err(|error| part.climb(error))?);
    }
    if sheets.len() != file.parts.len() || !rest.is_empty() {
        return Err(Error::internal("WIM blob table: an entry of no part"));
    }
    for sheet in &sheets {
        sheet.grow(file)?;
    }

    let mut dirty: Vec<Range<u64>> = Vec::new();
    // Before anything else: what is written otherwise may lie where a moved one was.
    for one in &moves {
        copy(file, &one.recoded.pieces(one.to)?)?;
        dirty.push(one.to..one.to.saturating_add(one.recoded.size));
    }
    for one in recoded {
        dirty.extend(one.written.iter().cloned());
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
    let boot = usize::try_from(header.boot_index).unwrap_or(0);
    let new_boot = table
        .iter()
        .filter(|entry| entry.blob.is_metadata())
        .nth(boot.wrapping_sub(1))
        .map_or(header.boot, |entry| {
            let part = file.parts.get(file.part_of(&entry.blob));
            let start = part.map_or(0, |part| part.range.start);
            entry.blob.resource.inside(start)
        });
    let mut used: Vec<Range<u64>> = table
        .iter()
        .filter(|entry| is_placed(entry))
        .map(|entry| entry.blob.resource.range())
        .collect();
    for sheet in &sheets {
        // The other parts may say it, too.
        let boot = match sheet.part.header.boot == header.boot {
            true => new_boot,
            false => sheet.part.header.boot,
        };
        sheet.write(file, boot, &mut dirty)?;
        let start = sheet.part.range.start;
        used.extend(sheet.tables().map(|one| one.shifted(start).range()));
    }
    let files = sheets.iter().map(Sheet::range).collect();
    for gap in unused(used, files) {
        zero(file, gap, &mut dirty)?;
    }
    for sheet in &sheets {
        let range = sheet.range();
        let own = dirty.iter().filter(|one| range.contains(&one.start));
        let own: Vec<Range<u64>> = own.cloned().collect();
        if let Some(integrity) = sheet.integrity.as_ref()
            && !(sheet.kept && own.is_empty())
        {
            integrity.write(file, sheet.covered(), &own, sheet.integrity_at)?;
        }
    }
    Ok(())
}

/// What nothing takes of the files that take these ranges.
fn unused(mut used: Vec<Range<u64>>, mut files: Vec<Range<u64>>) -> Vec<Range<u64>> {
    files.sort_unstable_by_key(|file| file.start);
    let mut before = 0;
    for file in files {
        used.push(before..file.start.saturating_add(format::HEADER_END));
        before = file.end;
    }
    used.push(before..before.saturating_add(1));
    Room::new(used, 0).free
}

/// What of the files nothing takes.
pub(super) fn gaps(file: &File) -> Vec<Range<u64>> {
    let used = file.resources().map(|one| one.range()).collect();
    let files = file.parts.iter().map(|part| part.range.clone()).collect();
    unused(used, files)
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
