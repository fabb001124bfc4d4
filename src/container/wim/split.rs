//! Split archives (SWM): the parts, one behind the other, are one space of bytes. Offsets of a part's
//! resources begin at its own start.

use std::{ops::Range, sync::Arc};

use super::{
    format,
    read::{Header, wide},
};
use crate::{
    container::Source,
    device::{BlockDevice, Device},
    error::{Error, Result},
    text::escape,
};

/// Most files of the directory that are looked at, and most parts of a set.
const NAMES_LIMIT: usize = 100_000;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Part {
    pub header: Header,
    /// Where it begins in the space of all parts.
    pub range: Range<u64>,
    /// Its name, of one that is not the image itself.
    pub name: String,
}

/// The bytes of several files, one behind the other.
#[derive(Debug)]
struct Joined {
    parts: Vec<(Range<u64>, Device)>,
    len: u64,
}

impl BlockDevice for Joined {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(wide(buf.len()));
        if end > self.len {
            return Err(Error::malformed(format!(
                "WIM parts: {} bytes expected at {offset:#x}, they end at {:#x}",
                buf.len(),
                self.len
            )));
        }
        let mut rest = buf;
        let mut at = offset;
        for (range, device) in &self.parts {
            if rest.is_empty() || at < range.start || at >= range.end {
                continue;
            }
            let there = range.end.saturating_sub(at);
            let take = usize::try_from(there).unwrap_or(usize::MAX).min(rest.len());
            let (piece, more) = rest.split_at_mut(take);
            device.read_at(at.saturating_sub(range.start), piece)?;
            rest = more;
            at = at.saturating_add(wide(take));
        }
        Ok(())
    }
}

/// Finds the other parts of a set beside the image and puts them together.
///
/// `Refused` if one is missing or there twice, or if a part of another split lies among them.
pub(super) fn join(source: &Source<'_>, own: &Header) -> Result<(Device, Vec<Part>)> {
    if own.part == 0 || own.part > own.parts {
        return Err(Error::malformed(format!(
            "WIM header: a part from 1 to {} expected, found {}",
            own.parts, own.part
        ))
        .at("image offset", format_args!("{:#x}", format::PART)));
    }
    let own_name = source.near.own_name().unwrap_or_default().to_owned();
    let mut found: Vec<(Header, String, Device)> =
        vec![(own.clone(), own_name.clone(), source.host.clone())];
    let ending = |name: &str| name.rsplit_once('.').map(|(_, end)| end.to_lowercase());
    let mut names = source.near.names(NAMES_LIMIT)?;
    names.retain(|name| ending(name) == ending(&own_name));
    names.sort_unstable();
    for name in names {
        let Ok(file) = source.near.look(&name) else {
            continue;
        };
        let Ok(header) = Header::read(&file) else {
            continue;
        };
        if header.guid() != own.guid() {
            continue;
        }
        let other = found.iter().find(|(known, _, _)| known.part == header.part);
        if let Some((_, other, _)) = other {
            return Err(Error::refused(format!(
                "WIM parts: part {} once expected, found `{}` and `{}`",
                header.part,
                escape(other),
                escape(&name)
            ))
            .advise("leave only the parts of one split in the directory"));
        }
        if (header.parts, header.images, header.chunk_size)
            != (own.parts, own.images, own.chunk_size)
            || header.method()? != own.method()?
        {
            return Err(Error::refused(format!(
                "WIM parts: {} parts of one split expected, found `{}`, a part of one into {}",
                own.parts,
                escape(&name),
                header.parts
            ))
            .advise("leave only the parts of one split in the directory"));
        }
        let device: Device = source.near.open(&name)?;
        found.push((header, name, device));
    }
    found.sort_unstable_by_key(|(header, _, _)| header.part);
    let missing: Vec<String> = (1..=own.parts)
        .filter(|number| found.iter().all(|(header, _, _)| header.part != *number))
        .map(|number| number.to_string())
        .collect();
    if let Some(first) = missing.first() {
        let more = match missing.len() {
            1 => String::new(),
            n => format!(" and {} more", n.saturating_sub(1)),
        };
        return Err(Error::refused(format!(
            "WIM parts: all {} parts beside each other expected, part {first}{more} not found",
            own.parts
        ))
        .advise("put all parts of the set into one directory, with their own names"));
    }
    let mut parts = Vec::new();
    let mut joined = Vec::new();
    let mut at = 0_u64;
    for (header, name, device) in found {
        let end = at.saturating_add(device.len());
        joined.push((at..end, device));
        parts.push(Part {
            header,
            range: at..end,
            name,
        });
        at = end;
    }
    let device = Joined {
        parts: joined,
        len: at,
    };
    Ok((Arc::new(device), parts))
}
