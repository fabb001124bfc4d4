//! [`FileTree`] over a directory: census, entries, bytes; what editors write is kept.

use std::{collections::BTreeMap, ops::Range, os::fd::AsFd, sync::Arc};

use rustix::fs::FileType;

use super::{
    Directory, failed, locked, stat,
    walk::{FileNode, Item, Known, Link, is_temporary, name_of, names_in},
};
use crate::{
    error::{At, Error, Kind, Result},
    text::{Name, WinPath, ascii_upcase},
    tree::{
        Census, Contents, Disposition, Extent, FileEntry, FileId, FileTree, Listing, MetadataChunk,
        NamePattern, Obstacle, Owner, Removal, Storage,
    },
    units::{FileOffset, VolumeOffset},
    volume::widths::{narrow, wide},
};

/// Bytes of a file that are searched at once.
const PIECE: u64 = 1 << 20;

/// A [`Directory`] as a file tree.
#[derive(Clone, Debug)]
pub struct Tree(pub Arc<Directory>);

fn matches(name: &Name, patterns: &[NamePattern]) -> bool {
    let folded: Vec<u16> = name
        .units()
        .iter()
        .map(|unit| ascii_upcase(*unit))
        .collect();
    patterns
        .iter()
        .any(|pattern| pattern.matches_folded(&folded))
}

impl Tree {
    fn entry_of(known: &Known, ino: u64) -> Result<FileEntry> {
        if let Some(file) = known.files.get(&ino) {
            return Ok(Self::entry_with(known, ino, file));
        }
        let dir = known
            .dirs
            .get(&ino)
            .ok_or_else(|| Error::internal("directory: a file that was found"))?;
        Ok(FileEntry {
            id: FileId(ino),
            paths: vec![known.path(&dir.link)],
            names: vec![name_of(&dir.link.name)],
            parents: vec![FileId(dir.link.parent)],
            len: 0,
            storage: Storage::None,
            is_directory: true,
            orphan: false,
            listing: Listing::default(),
        })
    }

    fn entry_with(known: &Known, ino: u64, file: &FileNode) -> FileEntry {
        FileEntry {
            id: FileId(ino),
            paths: file.links.iter().map(|link| known.path(link)).collect(),
            names: file.links.iter().map(|link| name_of(&link.name)).collect(),
            parents: file.links.iter().map(|link| FileId(link.parent)).collect(),
            len: file.stat.len,
            storage: Storage::Plain,
            is_directory: false,
            orphan: false,
            listing: file.listing,
        }
    }

    /// Keeps a name of a file; the listing counts the file once.
    fn keep(known: &mut Known, item: Item<'_>) {
        let file = known
            .files
            .entry(item.stat.ino)
            .or_insert_with(|| FileNode {
                stat: item.stat,
                links: Vec::new(),
                listing: Listing {
                    files: 1,
                    ..Listing::default()
                },
            });
        if !file.links.contains(&item.link) {
            file.listing.names = file.listing.names.saturating_add(item.listing.names);
            file.listing.sum = file.listing.sum.wrapping_add(item.listing.sum);
            file.links.push(item.link);
        }
    }

    /// The regular files and directories of a directory that was read.
    fn children(&self, directory: u64) -> Result<Vec<u64>> {
        let any = Link {
            parent: directory,
            name: Box::default(),
        };
        let fd = self.0.parent(&any)?;
        let names = names_in(&fd)?;
        let gone = locked(&self.0.pending).gone.clone();
        let mut known = locked(&self.0.known);
        let mut found = Vec::new();
        for name in names.into_iter().filter(|name| !is_temporary(name)) {
            let Ok(stat) = stat(&fd, &name) else { continue };
            if self.0.root.is_elsewhere(&stat) || gone.contains(&stat.ino) {
                continue;
            }
            match stat.kind {
                FileType::Directory if known.dirs.contains_key(&stat.ino) => {}
                FileType::RegularFile => {
                    let link = Link {
                        parent: directory,
                        name,
                    };
                    let listing = known.listing_of(&link, &stat);
                    let item = Item {
                        dir: fd.as_fd(),
                        name: name_of(&link.name),
                        link,
                        stat,
                        listing,
                    };
                    Self::keep(&mut known, item);
                }
                _ => continue,
            }
            if !found.contains(&stat.ino) {
                found.push(stat.ino);
            }
        }
        Ok(found)
    }

    fn check_hibernation(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let Some(entry) = self.lookup(&["hiberfil.sys"])? else {
            return Ok(());
        };
        if entry.is_directory || entry.len < 4 {
            return Ok(());
        }
        let mut signature = [0; 4];
        self.read_at(entry.id, FileOffset(0), &mut signature)
            .at("file", entry.path())?;
        signature.make_ascii_lowercase();
        // As in `volume/ntfs/state.rs`.
        if !matches!(&signature, b"wake" | b"brkp" | [0, 0, 0, 0]) {
            found.push(Obstacle {
                id: "hibernated",
                what: format!(
                    "{}: no hibernated session expected, found signature {}",
                    entry.path(),
                    crate::text::escape(&String::from_utf8_lossy(&signature))
                ),
                advice:
                    "resume the machine, turn fast startup off (powercfg /h off), shut it down \
                         and mount it again"
                        .to_owned(),
            });
        }
        Ok(())
    }
}

/// Puts what is pending over what was read.
fn put_over(pending: &BTreeMap<u64, Vec<u8>>, offset: u64, buf: &mut [u8]) {
    let end = offset.saturating_add(wide(buf.len()));
    for (at, bytes) in pending.range(..end) {
        let skip = usize::try_from(offset.saturating_sub(*at)).unwrap_or(usize::MAX);
        let from = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        let source = bytes.get(skip..).unwrap_or_default();
        let room = buf.get_mut(from..).unwrap_or_default();
        for (to, byte) in room.iter_mut().zip(source) {
            *to = *byte;
        }
    }
}

impl FileTree for Tree {
    fn label(&self) -> String {
        self.0.mounted().kind
    }

    fn obstacles(&self) -> Result<Vec<Obstacle>> {
        let mut found = Vec::new();
        let read_only = self
            .0
            .root
            .is_read_only()
            .map_err(|e| failed("directory: its file system", e))?;
        if read_only {
            found.push(Obstacle {
                id: "read-only",
                what: "mounted file system: one that can be written expected, it is mounted \
                       read-only"
                    .to_owned(),
                advice:
                    "find out why (ntfs-3g does that with a hibernated or unclean volume), and \
                         mount it for writing"
                        .to_owned(),
            });
        }
        self.check_hibernation(&mut found)?;
        Ok(found)
    }

    fn census(
        &self,
        patterns: &[NamePattern],
        _search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census> {
        let gone = locked(&self.0.pending).gone.clone();
        let mut known = Known::default();
        let mut census = Census {
            listing: Listing {
                files: 1,
                names: 0,
                sum: 0,
            },
            ..Census::default()
        };
        let mut found = Vec::new();
        let named_so = |name: &Name| matches(name, patterns);
        known.walk(&self.0.root, &gone, &named_so, &mut |known, item| {
            if is_temporary(&item.link.name) && item.stat.kind == FileType::RegularFile {
                return Ok(());
            }
            let named = matches(&item.name, patterns);
            if named {
                found.push(item.stat.ino);
            }
            let is_file = item.stat.kind == FileType::RegularFile;
            // A file with several names counts once, when all of them are known.
            if is_file && (named || item.stat.nlink > 1) {
                Self::keep(known, item);
            } else {
                census.listing.add(&item.listing);
            }
            Ok(())
        })?;
        for file in known.files.values() {
            census.listing.add(&file.listing);
        }
        let mut seen = std::collections::HashSet::new();
        for ino in found {
            if seen.insert(ino) {
                census.found.push(Self::entry_of(&known, ino)?);
            }
        }
        let mut kept = locked(&self.0.known);
        known.take_files(&kept);
        *kept = known;
        drop(kept);
        self.0.close();
        Ok(census)
    }

    fn entry(&self, id: FileId) -> Result<FileEntry> {
        Self::entry_of(&locked(&self.0.known), id.0)
    }

    fn lookup(&self, path: &[&str]) -> Result<Option<FileEntry>> {
        // Names that differ in case only lead to several places.
        let mut at = vec![self.0.root.stat().ino];
        for want in path {
            let mut next = Vec::new();
            for directory in at {
                if !locked(&self.0.known).dirs.contains_key(&directory) {
                    continue;
                }
                for child in self.children(directory)? {
                    let entry = self.entry(FileId(child))?;
                    if entry.names.iter().any(|name| name.eq_ascii(want)) {
                        next.push(child);
                    }
                }
            }
            at = next;
        }
        at.first().map(|ino| self.entry(FileId(*ino))).transpose()
    }

    fn list(&self, directory: FileId) -> Result<Vec<FileEntry>> {
        let children = self.children(directory.0)?;
        children
            .into_iter()
            .map(|ino| self.entry(FileId(ino)))
            .collect()
    }

    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let (zeroed, writes) = {
            let pending = locked(&self.0.pending);
            let writes = pending.writes.get(&id.0).cloned();
            (pending.zeroed.contains(&id.0), writes)
        };
        match zeroed {
            true => buf.fill(0),
            false => self.0.read_host(id, offset.get(), buf)?,
        }
        if let Some(writes) = writes {
            put_over(&writes, offset.get(), buf);
        }
        Ok(())
    }

    fn extents(&self, _id: FileId) -> Result<Vec<Extent>> {
        // Where a file's bytes lie is the file system's business.
        Ok(Vec::new())
    }

    fn trace_areas(&self, _ids: &[FileId]) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        Ok(Vec::new())
    }

    fn owners(&self, offsets: &[VolumeOffset], _likely: &[FileId]) -> Result<Vec<Owner>> {
        Ok(offsets.iter().map(|_| Owner::Outside).collect())
    }

    fn overwrite(&self, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        let (stat, _) = self.0.file(id)?;
        if offset.get().saturating_add(wide(bytes.len())) > stat.len {
            return Err(Error::internal("file: a write behind its end"));
        }
        let mut pending = locked(&self.0.pending);
        let writes = pending.writes.entry(id.0).or_default();
        writes.insert(offset.get(), bytes.to_vec());
        Ok(())
    }

    fn erase(&self, id: FileId) -> Result<u64> {
        let (seen, _) = self.0.file(id)?;
        let mut stale = 0_usize;
        let mut at = 0_u64;
        let mut buffer = vec![0; 1 << 16];
        while at < seen.len {
            let take = seen.len.saturating_sub(at).min(wide(buffer.len()));
            let piece = buffer
                .get_mut(..narrow(take, "file")?)
                .ok_or_else(|| Error::internal("file: its piece"))?;
            self.0.read_host(id, at, piece)?;
            stale = stale.saturating_add(piece.iter().filter(|byte| **byte != 0).count());
            at = at.saturating_add(take);
        }
        if stale > 0 {
            locked(&self.0.pending).zeroed.insert(id.0);
        }
        Ok(wide(stale))
    }

    fn remove(&self, ids: &[FileId]) -> Result<Removal> {
        let mut removal = Removal::default();
        for id in ids {
            let (_, links) = self.0.file(*id)?;
            locked(&self.0.pending).gone.insert(id.0);
            removal.records = removal.records.saturating_add(1);
            removal.index_entries = removal.index_entries.saturating_add(wide(links.len()));
        }
        Ok(removal)
    }

    fn wipe_residue(&self, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
        let left = || Disposition::Left("the business of the mounted file system".to_owned());
        Ok(hits.iter().map(|_| left()).collect())
    }

    fn contents(&self, tail: usize, look: &mut dyn FnMut(Contents<'_>)) -> Result<u64> {
        let gone = locked(&self.0.pending).gone.clone();
        let mut total = 0_u64;
        let mut seen = std::collections::HashSet::new();
        let mut known = Known::default();
        known.walk(&self.0.root, &gone, &|_| false, &mut |known, item| {
            let is_file = item.stat.kind == FileType::RegularFile;
            if !is_file || (item.stat.nlink > 1 && !seen.insert(item.stat.ino)) {
                return Ok(());
            }
            let path = known.path(&item.link);
            let read = self.show(&path, &item, tail, look);
            total = total.saturating_add(match read {
                Ok(read) => read,
                // It went meanwhile, or it is another now: nothing of it was planned.
                Err(error) if error.kind() == Kind::Refused => 0,
                Err(error) => return Err(error.at("file", path)),
            });
            Ok(())
        })?;
        Ok(total)
    }

    fn check_touched(&self, _touched: &[Range<u64>]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn record_offset(&self, record: u64, _inside: u64) -> Result<VolumeOffset> {
        Err(Error::internal("directory: a file has no record")).at("file record", record)
    }
}

impl Tree {
    /// Shows a file's bytes piece by piece, as they are on the host.
    fn show(
        &self,
        path: &WinPath,
        item: &Item<'_>,
        tail: usize,
        look: &mut dyn FnMut(Contents<'_>),
    ) -> Result<u64> {
        use std::os::unix::fs::FileExt;
        let file = self
            .0
            .root
            .look_in(item.dir, &item.link.name)
            .map_err(|e| failed("file: open", e))?;
        super::check_same(&file, &item.stat)?;
        let owner = path.to_string();
        let mut piece = Vec::new();
        let mut at = 0_u64;
        while at < item.stat.len {
            let take = item.stat.len.saturating_sub(at).min(PIECE);
            let kept = piece.len().min(tail);
            piece.drain(..piece.len().saturating_sub(kept));
            piece.resize(kept.saturating_add(narrow(take, "file")?), 0);
            if let Some(new) = piece.get_mut(kept..) {
                file.read_exact_at(new, at)
                    .map_err(|e| Error::io("file: read", &e))?;
            }
            look(Contents {
                owner: &owner,
                offset: at.saturating_sub(wide(kept)),
                bytes: &piece,
            });
            at = at.saturating_add(take);
        }
        Ok(item.stat.len)
    }
}
