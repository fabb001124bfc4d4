//! The files that an image consists of, as one address space.
//!
//! Each file begins at a start of its own; between the end of one and the start of the next lie at
//! least 4 GiB that nothing can read or write. So an offset names a byte of one file, a file can grow
//! without meeting the next, and what lies above (overlay, guard, journal) knows one address space.
//! An image of one file is a set of one, with the file's own offsets.

use std::{ops::Range, path::Path, sync::Arc};

use super::{BlockDevice, Device, HostFile, Lease, Part, check_inside, outside};
use crate::{
    error::{At, Error, Result},
    text::escape,
};

/// Starts are multiples of this: whole pages, and easy to read.
const ALIGN: u64 = 1 << 20;
/// Room behind each file: as much as one clean can write (`apply::guard`).
const ROOM: u64 = 4 << 30;
/// Most files of a set: VMDK's 64 TiB in pieces of 2 GiB are 32,768.
const FILES_LIMIT: usize = 65_536;
/// Starts end here: what is behind means other things (`container::BELOW`).
const END: u64 = 1 << 62;

/// One file of a set.
#[derive(Debug)]
struct Member {
    name: String,
    start: u64,
    file: Arc<HostFile>,
}

/// The files of an image, the one that the user named first.
#[derive(Debug)]
pub struct HostSet {
    members: Vec<Member>,
}

impl HostSet {
    /// An image of one file.
    #[must_use]
    pub fn alone(file: Arc<HostFile>) -> Self {
        Self {
            members: vec![Member {
                name: String::new(),
                start: 0,
                file,
            }],
        }
    }

    /// The file that the user named, and those that belong to it, by the names that the image gives
    /// them. `Refused` unless all are different regular files.
    pub fn of(first: Arc<HostFile>, others: Vec<(String, Arc<HostFile>)>) -> Result<Self> {
        let mut set = Self::alone(first);
        for (name, file) in others {
            let last = set
                .members
                .last()
                .map_or(0, |last| last.start.saturating_add(last.file.len()));
            let start = last.saturating_add(ROOM).next_multiple_of(ALIGN);
            set.push(name, start, file)?;
        }
        Ok(set)
    }

    /// The same with starts that are known: those of a journal.
    pub fn placed(first: Arc<HostFile>, others: Vec<(String, u64, Arc<HostFile>)>) -> Result<Self> {
        let mut set = Self::alone(first);
        for (name, start, file) in others {
            set.push(name, start, file)?;
        }
        Ok(set)
    }

    fn push(&mut self, name: String, start: u64, file: Arc<HostFile>) -> Result<()> {
        let end = self
            .members
            .last()
            .map_or(0, |last| last.start.saturating_add(last.file.len()));
        if self.members.len() >= FILES_LIMIT || start < end || start > END || file.len() > END {
            return Err(Error::limit(format!(
                "image: at most {FILES_LIMIT} files and 2^62 bytes expected, found more"
            )));
        }
        let regular = file.is_regular() && self.members.iter().all(|other| other.file.is_regular());
        if !regular
            || self
                .members
                .iter()
                .any(|other| other.file.is_same_file(&file))
        {
            return Err(Error::refused(
                "image: a regular file of its own for each name expected, found one twice, or a \
                 device",
            )
            .at("file", escape(&name)));
        }
        self.members.push(Member { name, start, file });
        Ok(())
    }

    /// The file that the user named.
    #[must_use]
    pub fn first(&self) -> &Arc<HostFile> {
        // There is always one: both constructors begin with it.
        &self.members[0].file
    }

    /// Whether it is more than one file.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.members.len() > 1
    }

    /// The file, if it is only one, and no device: what can be mapped.
    #[must_use]
    pub fn single(&self) -> Option<&HostFile> {
        (!self.is_set() && self.first().is_regular()).then_some(self.first())
    }

    /// All files with their starts.
    pub fn files(&self) -> impl Iterator<Item = (u64, &Arc<HostFile>)> {
        self.members
            .iter()
            .map(|member| (member.start, &member.file))
    }

    /// The name by which the image knows file `number`; empty for the first.
    #[must_use]
    pub fn name(&self, number: usize) -> &str {
        self.members.get(number).map_or("", |member| &member.name)
    }

    /// The file in which a byte lies, and its offset there.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<(usize, u64)> {
        let number = self
            .members
            .partition_point(|member| member.start <= offset)
            .checked_sub(1)?;
        let member = self.members.get(number)?;
        Some((number, offset - member.start))
    }

    /// Bytes in all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.file.len()).sum()
    }

    /// Whether a path is one of the files: a new file must not take its place.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        std::fs::canonicalize(path).is_ok_and(|real| {
            self.members
                .iter()
                .any(|member| member.file.real_path() == real)
        })
    }

    /// Does it with each file; a failure names the file.
    fn each<T>(&self, mut work: impl FnMut(&HostFile) -> Result<T>) -> Result<Vec<T>> {
        self.members
            .iter()
            .map(|member| {
                work(&member.file).map_err(|error| match member.name.as_str() {
                    "" => error,
                    name => error.at("file", escape(name)),
                })
            })
            .collect()
    }

    /// As [`HostFile::remarks`].
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut out = Vec::new();
        for member in &self.members {
            for remark in member.file.remarks() {
                out.push(match member.name.as_str() {
                    "" => remark.clone(),
                    name => format!("{}: {remark}", escape(name)),
                });
            }
        }
        out
    }

    /// As [`HostFile::check_reads`].
    pub fn check_reads(&self) -> Result<()> {
        self.each(HostFile::check_reads).map(drop)
    }

    /// As [`HostFile::check_unchanged`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.each(HostFile::check_unchanged).map(drop)
    }

    /// As [`HostFile::accept_changes`].
    pub fn accept_changes(&self) -> Result<()> {
        self.each(HostFile::accept_changes).map(drop)
    }

    /// As [`HostFile::lease`], for all files.
    pub fn lease(&self) -> Result<Leases> {
        self.each(HostFile::lease).map(Leases)
    }

    fn member(&self, what: &str, offset: u64, len: usize) -> Result<(&Member, u64)> {
        let (number, inside) = self.locate(offset).unwrap_or_default();
        let member = &self.members[number];
        match inside.checked_add(len as u64) {
            Some(end) if end <= member.file.len() => Ok((member, inside)),
            _ => Err(outside(what, offset, len, member.start + member.file.len())),
        }
    }
}

/// The leases of all files of a set.
#[derive(Debug)]
pub struct Leases(Vec<Lease>);

impl Leases {
    /// As [`Lease::check`].
    pub fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(Lease::check)
    }
}

impl BlockDevice for HostSet {
    fn len(&self) -> u64 {
        self.members
            .last()
            .map_or(0, |last| last.start.saturating_add(last.file.len()))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if !self.is_set() {
            return self.first().read_at(offset, buf);
        }
        let (member, inside) = self.member("image", offset, buf.len())?;
        member
            .file
            .read_at(inside, buf)
            .at("file", escape(&member.name))
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        for member in &self.members {
            let inside = from.saturating_sub(member.start);
            if inside >= member.file.len() {
                continue;
            }
            if let Some(data) = member.file.next_data(inside)? {
                return Ok(Some(data.start + member.start..data.end + member.start));
            }
        }
        Ok(None)
    }

    fn parts(&self) -> Vec<Part> {
        self.members
            .iter()
            .map(|member| Part {
                name: member.name.clone(),
                start: member.start,
                len: member.file.len(),
            })
            .collect()
    }

    fn part_len(&self, number: usize) -> Option<u64> {
        self.members.get(number).map(|member| member.file.len())
    }
}

/// One file of a set as a device of its own.
#[derive(Clone, Debug)]
pub struct PartOf {
    under: Device,
    number: usize,
    start: u64,
}

impl PartOf {
    /// The file with this number of a device that has several.
    pub fn new(under: Device, number: usize) -> Result<Self> {
        let start = under
            .parts()
            .get(number)
            .map(|part| part.start)
            .ok_or_else(|| Error::internal(format!("image: file {number} of fewer")))?;
        Ok(Self {
            under,
            number,
            start,
        })
    }

    /// Where it starts in the set.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }
}

impl BlockDevice for PartOf {
    fn len(&self) -> u64 {
        self.under.part_len(self.number).unwrap_or(0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_inside("image", offset, buf.len(), self.len())?;
        self.under.read_at(self.start + offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        check_inside("image", offset, bytes.len(), self.len())?;
        self.under.write_at(self.start + offset, bytes)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => self.under.zero_at(self.start + offset, len),
            _ => Err(Error::internal(format!(
                "image: zeroing {len} bytes at {offset:#x} leaves its file"
            ))),
        }
    }

    fn grow(&self, len: u64) -> Result<()> {
        self.under.grow_part(self.number, len)
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let len = self.len();
        if from >= len {
            return Ok(None);
        }
        let found = self.under.next_data(self.start + from)?;
        Ok(found
            .map(|data| data.start - self.start..(data.end - self.start).min(len))
            .filter(|data| data.start < data.end))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests write files of their own
mod tests {
    use super::super::{Overlay, PAGE_LEN};
    use super::*;
    use crate::error::Kind;

    fn set() -> (tempfile::TempDir, Arc<HostSet>) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, fill: u8, len: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![fill; len]).unwrap();
            Arc::new(HostFile::open(&path).unwrap())
        };
        let others = vec![
            ("b".to_owned(), open("b", 2, 5000)),
            ("c".to_owned(), open("c", 3, 0)),
            ("d".to_owned(), open("d", 4, 4096)),
        ];
        let set = HostSet::of(open("a", 1, 100), others).unwrap();
        (dir, Arc::new(set))
    }

    #[test]
    fn each_byte_of_the_address_space_is_of_one_file_or_none() {
        let (_dir, set) = set();
        assert!(set.is_set() && set.single().is_none());
        assert_eq!(set.bytes(), 9196);
        let parts = set.parts();
        assert_eq!(parts.len(), 4);
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(part.start % ALIGN, 0);
            assert_eq!(set.part_len(number), Some(part.len));
            assert_eq!(set.locate(part.start + 7), Some((number, 7)));
            let mut byte = [0];
            if part.len > 0 {
                for at in [0, part.len - 1] {
                    set.read_at(part.start + at, &mut byte).unwrap();
                    assert_eq!(usize::from(byte[0]), number + 1);
                }
            }
            assert!(set.read_at(part.start + part.len, &mut byte).is_err());
            assert!(
                set.read_at(part.start, &mut vec![0; part.len as usize + 1])
                    .is_err()
            );
        }
        let mut data = Vec::new();
        let mut at = 0;
        while let Some(range) = set.next_data(at).unwrap() {
            at = range.end;
            data.push(range.start);
        }
        assert_eq!(data, [parts[0].start, parts[1].start, parts[3].start]);
    }

    #[test]
    fn an_overlay_ends_its_pages_where_the_files_end() {
        let (_dir, set) = set();
        let parts = set.parts();
        let overlay: Device = Arc::new(Overlay::new(set.clone()));
        let second = PartOf::new(overlay.clone(), 1).unwrap();
        second.write_at(4990, &[9; 10]).unwrap();
        assert!(second.write_at(4995, &[9; 10]).is_err());
        assert!(overlay.write_at(parts[1].start + 4995, &[9; 10]).is_err());
        overlay.write_at(0, &[8]).unwrap();
        let third = PartOf::new(overlay.clone(), 2).unwrap();
        third.grow(10_000).unwrap();
        third.write_at(9_999, &[7]).unwrap();
        assert_eq!((third.len(), second.len()), (10_000, 5000));
        assert_eq!(overlay.parts()[2].len, 10_000);
        let mut all = vec![0; 5000];
        second.read_at(0, &mut all).unwrap();
        assert!(all[..4990].iter().all(|b| *b == 2) && all[4990..] == [9; 10]);
    }

    #[test]
    fn the_diff_of_a_set_is_whole_pages_of_its_files() {
        let (_dir, set) = set();
        let start = set.parts()[1].start;
        let overlay = Overlay::new(set);
        overlay.write_at(start + 4990, &[9; 10]).unwrap();
        overlay.write_at(50, &[8]).unwrap();
        let diff: Vec<(u64, u64)> = overlay
            .diff()
            .unwrap()
            .iter()
            .map(|patch| (patch.offset, patch.len))
            .collect();
        assert_eq!(diff, [(0, 100), (start + PAGE_LEN as u64, 904)]);
    }

    #[test]
    fn one_file_under_two_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [1; 100]).unwrap();
        let open = || Arc::new(HostFile::open(&path).unwrap());
        let error = HostSet::of(open(), vec![("b".to_owned(), open())]).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }
}
