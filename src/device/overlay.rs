//! Copy-on-write: editors write here, readers see the result, the device below stays as it is.
//!
//! The unit is a 4 KiB page of the device below (a redo journal of whole pages cannot tear a
//! neighbour). A page that was only zeroed is remembered without its zeros, so wiping a large file
//! costs a few bytes a page.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{BlockDevice, Device, Part, outside};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
};

/// Bytes in a page.
pub const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;

/// What a changed page holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Nothing but zeros.
    Zero,
    /// These bytes; the last page of a device may be short.
    Data(Box<[u8]>),
}

/// A run of changed bytes: whole pages, in ascending order, never overlapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where it goes.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// What goes there.
    pub page: Page,
}

/// A device whose writes stay in memory.
#[derive(Debug)]
pub struct Overlay {
    under: Device,
    files: Vec<File>,
    pages: RwLock<BTreeMap<u64, Page>>,
    writes: AtomicU64,
}

/// One of the files of the device below.
#[derive(Debug)]
struct File {
    name: String,
    start: u64,
    /// How long it is there.
    under: u64,
    /// It can become longer than that, and reads as zeros there.
    len: AtomicU64,
}

impl File {
    fn end(&self) -> u64 {
        self.start + self.len.load(Ordering::Relaxed)
    }
}

impl Overlay {
    /// Lays an empty overlay over a device.
    #[must_use]
    pub fn new(under: Device) -> Self {
        Self {
            files: under
                .parts()
                .into_iter()
                .map(|part| File {
                    name: part.name,
                    start: part.start,
                    under: part.len,
                    len: AtomicU64::new(part.len),
                })
                .collect(),
            under,
            pages: RwLock::new(BTreeMap::new()),
            writes: AtomicU64::new(0),
        }
    }

    /// The device below, unchanged.
    #[must_use]
    pub fn under(&self) -> &Device {
        &self.under
    }

    fn pages(&self) -> Result<RwLockReadGuard<'_, BTreeMap<u64, Page>>> {
        self.pages
            .read()
            .map_err(|_| Error::internal("overlay: lock poisoned"))
    }

    /// How often it was written to: while that stays, what was read stays true.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn pages_mut(&self) -> Result<RwLockWriteGuard<'_, BTreeMap<u64, Page>>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.pages
            .write()
            .map_err(|_| Error::internal("overlay: lock poisoned"))
    }

    /// The file in which a byte lies: that which starts last before it.
    fn file(&self, offset: u64) -> &File {
        let next = self.files.partition_point(|file| file.start <= offset);
        &self.files[next.saturating_sub(1)]
    }

    /// Bytes of a page: up to the end of its file.
    fn page_len(&self, page: u64) -> usize {
        let at = page * PAGE;
        self.file(at).end().saturating_sub(at).min(PAGE) as usize
    }

    /// Fails unless `len` bytes at `offset` lie in one file.
    fn check_inside(&self, offset: u64, len: u64) -> Result<()> {
        let end = self.file(offset).end();
        match offset.checked_add(len) {
            Some(stop) if stop <= end => Ok(()),
            _ => Err(outside("overlay", offset, len as usize, end)),
        }
    }

    fn read_under(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.file(offset);
        let there = (file.start + file.under).saturating_sub(offset);
        let there = there.min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        match there {
            0 => Ok(()),
            _ => self.under.read_at(offset, &mut buf[..there]),
        }
    }

    /// Everything that differs from the device below, page by page in ascending order.
    pub fn diff(&self) -> Result<Vec<Patch>> {
        let mut patches = Vec::new();
        let mut old = vec![0; PAGE_LEN];
        for (page, now) in self.pages()?.iter() {
            let len = self.page_len(*page);
            self.read_under(page * PAGE, &mut old[..len])?;
            let same = match now {
                Page::Zero => all_zero(&old[..len]),
                Page::Data(bytes) => bytes[..] == old[..len],
            };
            if !same {
                patches.push(Patch {
                    offset: page * PAGE,
                    len: len as u64,
                    page: now.clone(),
                });
            }
        }
        Ok(patches)
    }

    /// The ranges of touched pages (changed or not), merged; for searching what was touched.
    pub fn touched(&self) -> Result<Vec<Range<u64>>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for page in self.pages()?.keys() {
            let range = page * PAGE..page * PAGE + self.page_len(*page) as u64;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        Ok(ranges)
    }
}

impl BlockDevice for Overlay {
    fn change_digest(&self) -> Result<Vec<u8>> {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for patch in self.diff()? {
            hash.update(patch.offset.to_le_bytes());
            hash.update(patch.len.to_le_bytes());
            match patch.page {
                Page::Zero => hash.update([0]),
                Page::Data(bytes) => hash.update(&bytes[..]),
            }
        }
        Ok(hash.finalize().to_vec())
    }

    fn len(&self) -> u64 {
        self.files.last().map_or(0, File::end)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_inside(offset, buf.len() as u64)?;
        self.read_under(offset, buf)?;
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset + buf.len() as u64;
        for (page, now) in self.pages()?.range(offset / PAGE..end.div_ceil(PAGE)) {
            let page_start = page * PAGE;
            let from = page_start.max(offset);
            let to = (page_start + self.page_len(*page) as u64).min(end);
            let target = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match now {
                Page::Zero => target.fill(0),
                Page::Data(bytes) => target.copy_from_slice(
                    &bytes[(from - page_start) as usize..(to - page_start) as usize],
                ),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> Result<()> {
        self.check_inside(offset, new.len() as u64)?;
        let mut pages = self.pages_mut()?;
        let mut done = 0;
        while done < new.len() {
            let at = offset + done as u64;
            let page = at / PAGE;
            let inside = (at % PAGE) as usize;
            let len = self.page_len(page);
            let take = (len - inside).min(new.len() - done);
            let mut bytes = match pages.remove(&page) {
                Some(Page::Data(bytes)) => bytes,
                Some(Page::Zero) => vec![0; len].into_boxed_slice(),
                None => {
                    let mut bytes = vec![0; len].into_boxed_slice();
                    self.read_under(page * PAGE, &mut bytes)?;
                    bytes
                }
            };
            bytes[inside..inside + take].copy_from_slice(&new[done..done + take]);
            pages.insert(
                page,
                if all_zero(&bytes) {
                    Page::Zero
                } else {
                    Page::Data(bytes)
                },
            );
            done += take;
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check_inside(offset, len)
            .map_err(|_| Error::internal(format!("overlay: zeroing {len} at {offset:#x}")))?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let page = at / PAGE;
            let page_end = page * PAGE + self.page_len(page) as u64;
            let stop = page_end.min(end);
            if at == page * PAGE && stop == page_end {
                self.pages_mut()?.insert(page, Page::Zero);
            } else {
                self.write_at(at, &vec![0; (stop - at) as usize])?;
            }
            at = stop;
        }
        Ok(())
    }

    fn grow(&self, len: u64) -> Result<()> {
        match self.files.len() {
            1 => self.grow_part(0, len),
            _ => Err(Error::internal("overlay: growth of one of several files")),
        }
    }

    fn parts(&self) -> Vec<Part> {
        self.files
            .iter()
            .map(|file| Part {
                name: file.name.clone(),
                start: file.start,
                len: file.len.load(Ordering::Relaxed),
            })
            .collect()
    }

    fn part_len(&self, number: usize) -> Option<u64> {
        Some(self.files.get(number)?.len.load(Ordering::Relaxed))
    }

    fn grow_part(&self, number: usize, len: u64) -> Result<()> {
        let file = self
            .files
            .get(number)
            .ok_or_else(|| Error::internal(format!("overlay: file {number}")))?;
        let next = self
            .files
            .get(number + 1)
            .map_or(u64::MAX, |next| next.start);
        let end = file.start.checked_add(len).filter(|end| *end <= next);
        let Some(end) = end else {
            return Err(Error::limit(format!(
                "image: a file of at most {} bytes expected, {len} are needed",
                next - file.start
            )));
        };
        let mut pages = self.pages_mut()?;
        if end > file.end() {
            file.len.store(len, Ordering::Relaxed);
            // The page that was the last one may be longer now.
            let last = pages
                .range_mut(file.start / PAGE..end.div_ceil(PAGE))
                .next_back();
            if let Some((page, Page::Data(bytes))) = last {
                let mut longer = bytes.to_vec();
                longer.resize(self.page_len(*page), 0);
                *bytes = longer.into_boxed_slice();
            }
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let below = self.under.next_data(from)?;
        let first = self
            .pages()?
            .range(from / PAGE..)
            .filter(|(_, page)| matches!(page, Page::Data(_)))
            .map(|(page, _)| {
                let end = page * PAGE + self.page_len(*page) as u64;
                (page * PAGE).max(from)..end
            })
            // A short page at the end of one of several files ends before the next begins.
            .find(|data| data.start < data.end);
        Ok(match (below, first) {
            (Some(a), Some(b)) => Some(if b.start < a.start { b } else { a }),
            (a, b) => a.or(b),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Memory;
    use super::*;

    fn sample() -> (Arc<Memory>, Overlay) {
        let disk = Arc::new(Memory::new(
            (0..10_000_u32).map(|i| (i % 251) as u8 + 1).collect(),
        ));
        let overlay = Overlay::new(disk.clone());
        (disk, overlay)
    }

    #[test]
    fn it_grows_and_the_device_below_does_not() {
        let (disk, overlay) = sample();
        overlay.write_at(9_990, &[7; 10]).unwrap();
        assert!(overlay.write_at(9_995, &[7; 10]).is_err());
        overlay.grow(20_000).unwrap();
        overlay.write_at(15_000, &[9; 100]).unwrap();
        let mut all = vec![1; 20_000];
        overlay.read_at(0, &mut all).unwrap();
        assert!(overlay.read_at(1, &mut all).is_err());
        let mut want = disk.to_vec();
        want.resize(20_000, 0);
        want[9_990..10_000].fill(7);
        want[15_000..15_100].fill(9);
        assert!(all == want);
        let patches = overlay.diff().unwrap();
        let at: Vec<(u64, u64)> = patches.iter().map(|p| (p.offset, p.len)).collect();
        assert_eq!(at, [(8192, 4096), (12_288, 4096)]);
        assert_eq!(disk.len(), 10_000);
        overlay.grow(10).unwrap();
        assert_eq!(overlay.len(), 20_000);
    }

    #[test]
    fn writes_are_seen_above_and_never_below() {
        let (disk, overlay) = sample();
        let before = disk.to_vec();
        overlay.write_at(4090, &[0xEE; 12]).unwrap();
        overlay.zero_at(8000, 2000).unwrap();
        let mut now = vec![0; 10_000];
        overlay.read_at(0, &mut now).unwrap();
        let mut want = before.clone();
        want[4090..4102].fill(0xEE);
        want[8000..].fill(0);
        assert_eq!(now, want);
        assert_eq!(disk.to_vec(), before);
    }

    #[test]
    fn the_diff_is_whole_pages_and_forgets_what_went_back() {
        let (disk, overlay) = sample();
        let old = disk.to_vec();
        overlay.write_at(5000, &[1, 2, 3]).unwrap();
        overlay.zero_at(8192, 10_000 - 8192).unwrap();
        let diff = overlay.diff().unwrap();
        assert_eq!(diff.len(), 2);
        assert_eq!((diff[0].offset, diff[0].len), (4096, 4096));
        assert_eq!(
            (diff[1].offset, diff[1].len, &diff[1].page),
            (8192, 1808, &Page::Zero)
        );
        overlay.write_at(5000, &old[5000..5003]).unwrap();
        overlay.write_at(8192, &old[8192..]).unwrap();
        assert!(overlay.diff().unwrap().is_empty());
    }

    #[test]
    fn a_walk_goes_on_behind_the_end_of_a_file() {
        let (_, overlay) = sample();
        overlay.write_at(9_999, &[1]).unwrap();
        assert_eq!(overlay.next_data(9_999).unwrap(), Some(9_999..10_000));
        assert_eq!(overlay.next_data(10_000).unwrap(), None);
    }

    #[test]
    fn nothing_is_written_past_the_end() {
        let (_, overlay) = sample();
        assert!(overlay.write_at(9_999, &[1, 2]).is_err());
        assert!(overlay.zero_at(9_999, 2).is_err());
        assert!(overlay.diff().unwrap().is_empty());
    }
}
