//! The new format (8.1 and later): entries with sequence numbers and hashes, one after the other.

use super::{
    AppliedEntry, Page,
    format::{SECTOR, entry},
    header::is_bins_len,
    marvin::marvin32,
};
use crate::{
    bytes::View,
    error::{Error, Result},
    hive::{
        format::{count, index},
        record::shown,
    },
};

/// An entry whose hashes are right.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) applied: AppliedEntry,
    /// Bit 0 for the base block's flags.
    pub(super) flags: u32,
    /// Both hashes: two entries with the same ones are the same.
    pub(super) hashes: (u64, u64),
    pub(super) pages: Vec<Page<'a>>,
}

/// The entries of one log up to the first that is not the next one, and why that is not.
#[derive(Clone, Debug)]
pub(super) struct Run<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) end: String,
}

/// One place of a log: the next entry, or what is there instead.
enum Found<'a> {
    Next(Entry<'a>, usize),
    End(String),
}

/// Reads entries with the numbers from `sequence` on. A torn or old entry ends the run, which is
/// normal; the error is an entry with right hashes that nonetheless makes no sense.
pub(super) fn read_run(bytes: &[u8], mut sequence: u32) -> Result<Run<'_>> {
    let mut entries = Vec::new();
    let mut at = entry::FIRST;
    // Every step goes on by 512 bytes at least.
    loop {
        match read_entry(bytes, at, sequence)? {
            Found::Next(next, end) => {
                entries.push(next);
                at = end;
                sequence = sequence.wrapping_add(1);
            }
            Found::End(end) => return Ok(Run { entries, end }),
        }
    }
}

/// The numbers of everything that is, or was, the beginning of an entry: its own fields are whole,
/// its pages may not be. One short look per sector.
pub(super) fn sequences(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let view = View::new(bytes, "log entry");
    (entry::FIRST..bytes.len())
        .step_by(index(SECTOR))
        .filter_map(move |at| {
            let head = view.sub(at, entry::REFERENCES, "log entry").ok()?;
            let hashed = head.get(0, entry::HASHED).ok()?;
            let is_entry = hashed.starts_with(entry::SIGNATURE)
                && head.u64(entry::HASH_2).ok()? == marvin32(hashed);
            is_entry.then(|| head.u32(entry::SEQUENCE).ok()).flatten()
        })
}

fn read_entry(bytes: &[u8], at: usize, sequence: u32) -> Result<Found<'_>> {
    let end = |what: String| Ok(Found::End(format!("at log offset {at:#x}: {what}")));
    let whole = View::new(bytes, "log entry");
    let rest = bytes.len().saturating_sub(at);
    let Ok(head) = whole.sub(at, entry::REFERENCES, "log entry") else {
        return end(format!("log entry: the log ends ({rest} bytes are left)"));
    };
    let signature = head.get(0, 4)?;
    if signature != entry::SIGNATURE {
        return end(format!(
            "log entry: signature HvLE expected, found {}",
            shown(signature)
        ));
    }
    let found = head.u32(entry::SEQUENCE)?;
    if found != sequence {
        return end(format!(
            "log entry: sequence number {sequence} expected, found {found}"
        ));
    }
    let len = head.u32(entry::LEN)?;
    if len < SECTOR || !len.is_multiple_of(SECTOR) {
        return end(format!(
            "log entry: length as a multiple of 512 expected, found {len:#x}"
        ));
    }
    let bins_len = head.u32(entry::BINS_LEN)?;
    if !is_bins_len(bins_len) {
        return end(format!(
            "log entry: length of bins as a multiple of 4096 expected, found {bins_len:#x}"
        ));
    }
    let number = head.u32(entry::PAGES)?;
    if number == 0 {
        return end("log entry: at least one dirty page expected, found none".to_owned());
    }
    let Ok(body) = whole.sub(at, index(len), "log entry") else {
        return end(format!("log entry: {len} bytes expected, found {rest}"));
    };
    let hashes = (head.u64(entry::HASH_1)?, head.u64(entry::HASH_2)?);
    let hashed = body.len().saturating_sub(entry::REFERENCES);
    let computed = (
        marvin32(body.get(entry::REFERENCES, hashed)?),
        marvin32(head.get(0, entry::HASHED)?),
    );
    if hashes != computed {
        return end(format!(
            "log entry {found}: hashes {:016x} and {:016x} expected, found {:016x} and {:016x}",
            computed.0, computed.1, hashes.0, hashes.1
        ));
    }
    let pages = read_pages(body, number, bins_len).map_err(|e| {
        e.at("log entry", found)
            .at("log offset", format!("{at:#x}"))
    })?;
    let applied = AppliedEntry {
        sequence: found,
        log_offset: count(at),
        pages: number,
        bytes: pages
            .iter()
            .map(|page| count(page.bytes.len()))
            .fold(0, u64::saturating_add),
        bins_len,
    };
    let next = Entry {
        applied,
        flags: head.u32(entry::FLAGS)?,
        hashes,
        pages,
    };
    Ok(Found::Next(next, at.saturating_add(index(len))))
}

fn read_pages<'a>(body: View<'a>, number: u32, bins_len: u32) -> Result<Vec<Page<'a>>> {
    let references_len = index(number).saturating_mul(entry::REFERENCE_LEN);
    let references = body.sub(entry::REFERENCES, references_len, "page references")?;
    let mut from = entry::REFERENCES.saturating_add(references_len);
    let mut pages = Vec::new();
    let mut at = 0;
    while at < references_len {
        let target = references.u32(at)?;
        let len = references.u32(at.saturating_add(4))?;
        if target.checked_add(len).is_none_or(|end| end > bins_len) {
            return Err(Error::malformed(format!(
                "page reference: a page inside {bins_len:#x} bytes of bins expected, found \
                 {len:#x} bytes at {target:#x}"
            )));
        }
        pages.push(Page {
            at: index(target),
            bytes: body.get(from, index(len))?,
        });
        from = from.saturating_add(index(len));
        at = at.saturating_add(entry::REFERENCE_LEN);
    }
    Ok(pages)
}
