//! The files of an archive. A split one (SWM) is several: each is a WIM with header, tables and XML data
//! of its own, its offsets begin at its own start, and its blob table lists what lies in it. An archive
//! of one file is a set of one.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    format,
    read::{Header, Resource},
};
use crate::{
    container::Source,
    device::PartOf,
    error::{At, Error, Result},
    text::escape,
};

/// Most files of the directory that are looked at.
const NAMES_LIMIT: usize = 100_000;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Part {
    pub header: Header,
    /// What it takes of the address space of all files.
    pub range: Range<u64>,
    /// Its number among the files of the image, of which the one that the user named is the first.
    pub file: usize,
    /// Its name, if it is one of several.
    pub name: String,
}

impl Part {
    /// A resource of its header, in the address space of all files.
    fn placed(&self, one: Resource) -> Resource {
        one.shifted(self.range.start)
    }

    pub(super) fn table(&self) -> Resource {
        self.placed(self.header.table)
    }

    pub(super) fn xml(&self) -> Resource {
        self.placed(self.header.xml)
    }

    pub(super) fn integrity(&self) -> Resource {
        self.placed(self.header.integrity)
    }

    /// An error with the name of the file, if it is one of several.
    pub(super) fn climb(&self, error: Error) -> Error {
        match self.name.as_str() {
            "" => error,
            name => error.at("file", escape(name)),
        }
    }

    /// What something is called, with the name of the file, if it is one of several.
    pub(super) fn of(&self, what: &str) -> String {
        match self.name.as_str() {
            "" => what.to_owned(),
            name => format!("{what} of `{}`", escape(name)),
        }
    }
}

/// The names of the other parts of a set, in their order. The files do not name each other: they have a
/// GUID in common, and the ends of their names.
///
/// `Refused` if one is missing or there twice, or if a part of another split lies among them.
pub(in super::super) fn files(source: &Source<'_>) -> Result<Vec<String>> {
    let own = Header::read(source.host.as_ref())?;
    if own.parts <= 1 {
        return Ok(Vec::new());
    }
    let own_name = source.own_name().unwrap_or_default().to_owned();
    let ending = |name: &str| name.rsplit_once('.').map(|(_, end)| end.to_lowercase());
    let mut names = source.names_beside(NAMES_LIMIT)?;
    names.retain(|name| ending(name) == ending(&own_name));
    names.sort_unstable();
    let guid = own.guid().map(<[u8]>::to_vec);
    let mut found = vec![(own, own_name)];
    let mut unread = None;
    for name in names {
        let file = match source.near.look(&name) {
            Ok(file) => file,
            Err(error) => {
                unread.get_or_insert((name, error));
                continue;
            }
        };
        // The image itself, which was named through a link.
        if source.near.is_image(&file) {
            continue;
        }
        let Ok(header) = Header::read(&file) else {
            continue;
        };
        if header.guid() == guid.as_deref() {
            found.push((header, name));
        }
    }
    let all: Vec<(&Header, &str)> = found
        .iter()
        .map(|(header, name)| (header, name.as_str()))
        .collect();
    check(&all).map_err(|error| match &unread {
        Some((name, why)) => error.advise(format!(
            "`{}`, which could be a part, cannot be looked at: {}",
            escape(name),
            why.what()
        )),
        None => error,
    })?;
    let mut others = found.split_off(1);
    others.sort_unstable_by_key(|(header, _)| header.part);
    Ok(others.into_iter().map(|(_, name)| name).collect())
}

/// The files of the archive that was opened, in the order of their numbers.
pub(super) fn parts(source: &Source<'_>) -> Result<Vec<Part>> {
    let whole = source.whole();
    let files = whole.parts();
    let several = files.len() > 1;
    let mut parts = Vec::with_capacity(files.len());
    for (file, one) in files.into_iter().enumerate() {
        let name = match (several, file) {
            (false, _) => String::new(),
            (true, 0) => source.own_name().unwrap_or_default().to_owned(),
            (true, _) => one.name,
        };
        let device = PartOf::new(Arc::clone(whole), file)?;
        let header = match several {
            true => Header::read(&device).at("file", escape(&name))?,
            false => Header::read(&device)?,
        };
        parts.push(Part {
            header,
            range: one.start..one.start.saturating_add(one.len),
            file,
            name,
        });
    }
    let all: Vec<(&Header, &str)> = parts
        .iter()
        .map(|part| (&part.header, part.name.as_str()))
        .collect();
    check(&all)?;
    parts.sort_unstable_by_key(|part| part.header.part);
    Ok(parts)
}

/// Whether these files are all parts of one split, each once.
fn check(found: &[(&Header, &str)]) -> Result<()> {
    let Some((own, _)) = found.first() else {
        return Err(Error::internal("WIM parts: none"));
    };
    let only = "leave only the parts of one split in the directory";
    let mut known: BTreeMap<u16, &str> = BTreeMap::new();
    for (header, name) in found {
        if header.part == 0 || header.part > header.parts {
            return Err(Error::malformed(format!(
                "WIM header: a part from 1 to {} expected, found {}",
                header.parts, header.part
            ))
            .at("image offset", format_args!("{:#x}", format::PART)));
        }
        if let Some(other) = known.insert(header.part, name) {
            return Err(Error::refused(format!(
                "WIM parts: part {} once expected, found `{}` and `{}`",
                header.part,
                escape(other),
                escape(name)
            ))
            .advise(only));
        }
        let split = |one: &Header| (one.parts, one.images, one.chunk_size);
        let same = header.guid() == own.guid() && split(header) == split(own);
        if !same || header.method()? != own.method()? {
            return Err(Error::refused(format!(
                "WIM parts: {} parts of one split expected, found `{}`, a part of one into {}",
                own.parts,
                escape(name),
                header.parts
            ))
            .advise(only));
        }
    }
    let mut missing = (1..=own.parts).filter(|number| !known.contains_key(number));
    let Some(first) = missing.next() else {
        return Ok(());
    };
    let more = match missing.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Err(Error::refused(format!(
        "WIM parts: all {} parts beside each other expected, part {first}{more} not found",
        own.parts
    ))
    .advise("put all parts of the set into one directory, with their own names"))
}
