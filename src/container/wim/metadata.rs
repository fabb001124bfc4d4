//! The tree of one image: dentries as they stand in its metadata.

use std::collections::HashSet;

use super::{
    format::{self, ALIGN, HASH_LEN, attribute, dentry, stream},
    read::{Hash, narrow, wide},
};
use crate::{
    bytes::View,
    error::{Error, Result},
    text::Name,
};

/// Deepest nesting of directories.
const DEPTH_LIMIT: u32 = 16_384;

/// A stream of a file.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Empty for the main one.
    pub name: Name,
    pub hash: Hash,
    /// Where its hash stands in the metadata.
    pub hash_at: usize,
}

/// A file or directory of the image.
#[derive(Clone, Debug)]
pub(super) struct Dentry {
    /// Where it stands in the metadata.
    pub at: usize,
    /// Bytes of it and of its extra streams, aligned.
    pub total: usize,
    /// Number of the directory it is in; the root's is its own.
    pub parent: usize,
    pub attributes: u32,
    pub security: u32,
    pub link: u64,
    pub times: [u8; dentry::TIMES_LEN],
    pub name: Name,
    pub short: Name,
    /// Offset of the list of its children; 0 for none.
    pub children: u64,
    /// Streams with contents, or with a name.
    pub streams: Vec<Stream>,
    /// Index in `streams` of the main data, if it has any.
    pub data: Option<usize>,
}

impl Dentry {
    pub(super) fn is_directory(&self) -> bool {
        self.attributes & attribute::DIRECTORY != 0
    }

    pub(super) fn is_reparse(&self) -> bool {
        self.attributes & attribute::REPARSE != 0
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.attributes & attribute::ENCRYPTED != 0
    }
}

/// An image's metadata, walked once.
#[derive(Debug)]
pub(super) struct Metadata {
    pub bytes: Vec<u8>,
    /// Bytes of the security data at the front.
    pub security_len: usize,
    /// The root is the first.
    pub dentries: Vec<Dentry>,
    /// Lists of children as they follow each other: offset, number of the directory, dentries.
    pub lists: Vec<(u64, usize, Vec<usize>)>,
}

fn aligned(len: u64) -> u64 {
    len.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)
}

/// A dentry, or the end of its list.
fn read_dentry(bytes: &[u8], at: u64, parent: usize) -> Result<Option<Dentry>> {
    let place = |error: Error| error.at("metadata offset", format_args!("{at:#x}"));
    let start = narrow(at, "WIM dentry")?;
    let view = View::new(bytes, "WIM dentry");
    let length = view
        .sub(start, 8, "WIM dentry")
        .and_then(|v| v.u64(0))
        .map_err(place)?;
    if length == 0 {
        return Ok(None);
    }
    let len = narrow(length, "WIM dentry")?;
    if len < dentry::LEN {
        return Err(place(Error::malformed(format!(
            "WIM dentry: at least {} bytes expected, found {len}",
            dentry::LEN
        ))));
    }
    let one = view.sub(start, len, "WIM dentry").map_err(place)?;
    let read = || -> Result<Dentry> {
        let attributes = one.u32(dentry::ATTRIBUTES)?;
        let name_len = usize::from(one.u16(dentry::NAME_LEN)?);
        let short_len = usize::from(one.u16(dentry::SHORT_LEN)?);
        if !name_len.is_multiple_of(2) || !short_len.is_multiple_of(2) {
            return Err(Error::malformed(format!(
                "WIM dentry: names in whole UTF-16 units expected, found {name_len} and \
                 {short_len} bytes"
            )));
        }
        let name = Name(one.units(dentry::NAME, name_len / 2)?);
        let short_at = match name_len {
            0 => dentry::NAME,
            len => dentry::NAME.saturating_add(len).saturating_add(2),
        };
        let short = Name(one.units(short_at, short_len / 2)?);
        let main: Hash = one.array(dentry::HASH)?;
        let count = one.u16(dentry::STREAMS)?;
        // Most have just that.
        let mut streams = Vec::with_capacity(1);
        let mut unnamed = Vec::new();
        let mut next = aligned(at.saturating_add(length));
        if main != format::NO_HASH || count == 0 {
            unnamed.push(0);
            streams.push(Stream {
                name: Name::default(),
                hash: main,
                hash_at: start.saturating_add(dentry::HASH),
            });
        }
        for _ in 0..count {
            let here = narrow(next, "WIM stream")?;
            let len = view.sub(here, 8, "WIM stream")?.u64(stream::LENGTH)?;
            let extra = view.sub(here, narrow(len, "WIM stream")?, "WIM stream")?;
            let name_len = usize::from(extra.u16(stream::NAME_LEN)?);
            if !name_len.is_multiple_of(2) {
                return Err(Error::malformed(format!(
                    "WIM stream: a name in whole UTF-16 units expected, found {name_len} bytes"
                )));
            }
            let name = Name(extra.units(stream::NAME, name_len / 2)?);
            if name.units().is_empty() {
                unnamed.push(streams.len());
            }
            streams.push(Stream {
                name,
                hash: extra.array(stream::HASH)?,
                hash_at: here.saturating_add(stream::HASH),
            });
            next = aligned(next.saturating_add(len));
        }
        if narrow(next, "WIM dentry")? > bytes.len() {
            return Err(Error::malformed(format!(
                "WIM dentry: its end before {:#x} expected, found {next:#x}",
                bytes.len()
            )));
        }
        // The first unnamed stream of a reparse point is its target, the second its data.
        let data = match attributes & attribute::REPARSE != 0 {
            true => unnamed.get(1),
            false => unnamed.first(),
        };
        Ok(Dentry {
            at: start,
            total: narrow(next.saturating_sub(at), "WIM dentry")?,
            parent,
            attributes,
            security: one.u32(dentry::SECURITY)?,
            // A reparse point has its tag there.
            link: match attributes & attribute::REPARSE != 0 {
                true => 0,
                false => one.u64(dentry::LINK)?,
            },
            times: one.array(dentry::TIMES)?,
            name,
            short,
            children: one.u64(dentry::CHILDREN)?,
            data: data.copied(),
            streams,
        })
    };
    read().map(Some).map_err(place)
}

impl Metadata {
    /// Walks a tree. `Malformed` if it is none, `Limit` if it is too deep.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self> {
        let view = View::new(&bytes, "WIM security data");
        let total = u64::from(view.u32(format::SECURITY_TOTAL)?);
        let security_len = narrow(aligned(total.max(8)), "WIM security data")?;
        let root_at = wide(security_len);
        let Some(root) = read_dentry(&bytes, root_at, 0)? else {
            return Err(Error::malformed(
                "WIM metadata: a root directory expected, found none",
            ));
        };
        let mut dentries = vec![root];
        let mut lists = Vec::new();
        let mut seen = HashSet::new();
        let mut walked = 0_u64;
        let mut todo = vec![(0_usize, 0_u32)];
        while let Some((directory, depth)) = todo.pop() {
            let Some(start) = dentries.get(directory).map(|one| one.children) else {
                continue;
            };
            if start == 0 {
                continue;
            }
            let at_list = |error: Error| error.at("metadata offset", format_args!("{start:#x}"));
            if !start.is_multiple_of(ALIGN) || start < root_at || !seen.insert(start) {
                return Err(at_list(Error::malformed(
                    "WIM dentry: a list of children of its own behind the root expected, found \
                     another's or an impossible one",
                )));
            }
            if depth > DEPTH_LIMIT {
                return Err(at_list(Error::limit(format!(
                    "WIM metadata: at most {DEPTH_LIMIT} levels expected, found more"
                ))));
            }
            let mut children = Vec::new();
            let mut at = start;
            while let Some(child) = read_dentry(&bytes, at, directory)? {
                walked = walked.saturating_add(wide(child.total));
                if walked > wide(bytes.len()) {
                    return Err(at_list(Error::malformed(
                        "WIM metadata: lists of children side by side expected, found some on top \
                         of each other",
                    )));
                }
                at = at.saturating_add(wide(child.total));
                let number = dentries.len();
                if child.children != 0 {
                    todo.push((number, depth.saturating_add(1)));
                }
                children.push(number);
                dentries.push(child);
            }
            lists.push((start, directory, children));
        }
        lists.sort_unstable_by_key(|(start, _, _)| *start);
        // There are many, and they stay.
        dentries.shrink_to_fit();
        Ok(Self {
            bytes,
            security_len,
            dentries,
            lists,
        })
    }

    /// The names from the root to a dentry; bounded by the tree's depth.
    pub(super) fn path(&self, number: usize) -> Vec<Name> {
        let mut names = Vec::new();
        let mut at = number;
        while at != 0 {
            let Some(one) = self.dentries.get(at) else {
                break;
            };
            names.push(one.name.clone());
            at = one.parent;
        }
        names.reverse();
        names
    }

    /// How many bytes are not zero where no dentry is: what deleted ones left.
    pub(super) fn stale(&self) -> u64 {
        let dirt = |bytes: Option<&[u8]>| {
            let bytes = bytes.unwrap_or_default();
            wide(bytes.iter().filter(|byte| **byte != 0).count())
        };
        let used = self.dentries.iter().map(|one| {
            let end = one.at.saturating_add(one.total);
            dirt(self.bytes.get(one.at..end))
        });
        let used = used.fold(
            dirt(self.bytes.get(..self.security_len)),
            u64::saturating_add,
        );
        dirt(Some(&self.bytes)).saturating_sub(used)
    }

    /// The metadata without some dentries, and with other hashes in some places. What is kept keeps
    /// its bytes: only offsets of lists change.
    pub(super) fn rebuilt(
        &self,
        gone: &HashSet<usize>,
        hashes: &[(usize, Hash)],
    ) -> Result<Vec<u8>> {
        let lost = || Error::internal("WIM metadata: a piece of it");
        let mut source = self.bytes.clone();
        for (at, hash) in hashes {
            let place = at
                .checked_add(HASH_LEN)
                .and_then(|end| source.get_mut(*at..end));
            place.ok_or_else(lost)?.copy_from_slice(hash);
        }
        let piece = |number: usize| -> Result<&[u8]> {
            let one = self.dentries.get(number).ok_or_else(lost)?;
            let end = one.at.saturating_add(one.total);
            source.get(one.at..end).ok_or_else(lost)
        };
        let mut out = Vec::with_capacity(source.len());
        out.extend(source.get(..self.security_len).ok_or_else(lost)?);
        // Where each kept directory stands now, and where its list begins now.
        let mut places = vec![None; self.dentries.len()];
        let mut emit = |out: &mut Vec<u8>, number: usize| -> Result<()> {
            *places.get_mut(number).ok_or_else(lost)? = Some(out.len());
            out.extend(piece(number)?);
            Ok(())
        };
        emit(&mut out, 0)?;
        out.extend([0; 8]);
        let mut starts = Vec::with_capacity(self.lists.len());
        for (_, directory, children) in &self.lists {
            starts.push((*directory, wide(out.len())));
            for number in children.iter().filter(|number| !gone.contains(number)) {
                emit(&mut out, *number)?;
            }
            out.extend([0; 8]);
        }
        for (directory, start) in starts {
            let Some(at) = places.get(directory).copied().flatten() else {
                return Err(Error::internal("WIM metadata: a directory that is gone"));
            };
            let at = at.saturating_add(dentry::CHILDREN);
            crate::bytes::put(&mut out, at, &start.to_le_bytes(), "WIM dentry")?;
        }
        Ok(out)
    }
}
