//! What an in-place run writes, page by page: where, the new bytes, and digests that tell the old
//! page, the new page and a torn mixture of both from anything else.
//!
//! A file can become longer (an archive whose contents compress worse than before), or shorter again
//! (its undo). The pages behind the shorter end are all part of the change: what a crash leaves in a
//! part that is just growing is anything.

use std::{collections::BTreeMap, ops::Range};

use sha2::{Digest, Sha256};

use super::guard;
use crate::{
    bytes::all_zero,
    device::{PAGE_LEN, Page, Patch},
    error::{Error, Result},
};

/// Most bytes an in-place run may change: their old state is held in memory, to be put back when a
/// write fails.
pub const MAX_IN_PLACE_BYTES: u64 = 1 << 30;
/// What a power cut cannot tear: every disk since 1990 writes at least this many bytes at once.
pub const SECTOR_LEN: usize = 512;
/// Sectors in a page.
pub const SECTORS: usize = PAGE_LEN / SECTOR_LEN;

static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// SHA-256.
pub type Sha = [u8; 32];
/// The first 16 bytes of the SHA-256 of an old sector.
pub type SectorSha = [u8; 16];

/// A file of the image, before and after the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLen {
    /// Where it starts in the image's address space.
    pub start: u64,
    /// Its length before.
    pub old: u64,
    /// Its length after.
    pub new: u64,
}

impl FileLen {
    /// An image of one file that keeps its length.
    #[must_use]
    pub fn fixed(len: u64) -> Self {
        Self {
            start: 0,
            old: len,
            new: len,
        }
    }

    /// Whether its length is between those before and after, or one of them.
    #[must_use]
    pub fn may_be(&self, len: u64) -> bool {
        (self.old.min(self.new)..=self.old.max(self.new)).contains(&len)
    }

    /// How many bytes of the page at `offset` a file of `len` bytes has.
    fn in_page(&self, offset: u64, len: u64) -> usize {
        let end = self.start.saturating_add(len);
        end.saturating_sub(offset).min(PAGE_LEN as u64) as usize
    }
}

/// One page that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageChange {
    /// Image offset, a multiple of [`PAGE_LEN`].
    pub offset: u64,
    /// Bytes before: [`PAGE_LEN`], or less at the end of a file that had fewer.
    pub old_len: usize,
    /// Bytes after.
    pub len: usize,
    /// What goes there.
    pub page: Page,
    /// Digest of the page before.
    pub old: Sha,
    /// Digest of the page after.
    pub new: Sha,
    /// Digests of the sectors before, as far as they stay; the others are zero.
    pub sectors: [SectorSha; SECTORS],
}

/// What a page on disk turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As before the change.
    Old,
    /// As after it.
    New,
    /// Some sectors old, some new: a write was cut.
    Torn,
    /// Neither; somebody else wrote here.
    Foreign,
}

impl PageChange {
    /// Bytes that the page has or had, whichever is more: as many as the file has are to be read.
    #[must_use]
    pub fn span(&self) -> usize {
        self.len.max(self.old_len)
    }

    /// Bytes that the page has before and after.
    fn stays(&self) -> usize {
        self.len.min(self.old_len)
    }

    /// The new bytes.
    #[must_use]
    pub fn new_bytes(&self) -> &[u8] {
        match &self.page {
            Page::Data(bytes) => bytes,
            Page::Zero => ZEROS.get(..self.len).unwrap_or(&ZEROS),
        }
    }

    /// Whether `found` is the new page.
    #[must_use]
    pub fn is_new(&self, found: &[u8]) -> bool {
        match &self.page {
            Page::Data(bytes) => found == &bytes[..],
            Page::Zero => found.len() == self.len && all_zero(found),
        }
    }

    /// Tells what is on disk: as much of [`PageChange::span`] as the file has.
    #[must_use]
    pub fn state(&self, found: &[u8]) -> State {
        if self.is_new(found) {
            return State::New;
        }
        // Behind its old end a file that grows may hold anything.
        if found
            .get(..self.old_len)
            .is_some_and(|old| sha(old) == self.old)
        {
            return State::Old;
        }
        let new = self.new_bytes();
        // What comes or goes may hold anything: a power cut can keep the length and lose the bytes, or
        // the other way round. What stays is old or new, sector by sector.
        let stays = self.stays();
        let torn = found
            .get(..stays)
            .zip(new.get(..stays))
            .is_some_and(|(found, new)| {
                found
                    .chunks(SECTOR_LEN)
                    .zip(new.chunks(SECTOR_LEN))
                    .zip(&self.sectors)
                    .all(|((found, new), old)| found == new || sector_sha(found) == *old)
            });
        if torn { State::Torn } else { State::Foreign }
    }
}

/// A set of page changes that has passed the write guard, with the old bytes where they are known.
#[derive(Clone, Debug)]
pub struct Change {
    files: Vec<FileLen>,
    pages: Vec<PageChange>,
    /// The old bytes, [`PAGE_LEN`] a page; empty when the change was read from a journal.
    old: Vec<u8>,
}

impl Change {
    /// Reads the old bytes of every patch from the image and takes digests. `read` is asked for bytes
    /// that the files have before the change. Pages behind the shorter of a file's two lengths are
    /// added.
    pub fn prepare(
        patches: &[Patch],
        files: &[FileLen],
        read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let after: Vec<Range<u64>> = files
            .iter()
            .map(|file| file.start..file.start.saturating_add(file.new))
            .collect();
        guard::check(patches, &after)?;
        let moved: u64 = files.iter().map(|file| file.old.abs_diff(file.new)).sum();
        let total: u64 = patches.iter().map(|patch| patch.len).sum();
        let total = total.saturating_add(moved);
        if total > MAX_IN_PLACE_BYTES {
            return Err(Error::limit(format!(
                "change in place: at most {MAX_IN_PLACE_BYTES} bytes expected, found {total}"
            ))
            .advise("write a cleaned copy with -o OUT"));
        }
        let wanted = wanted(patches, files);
        let mut old = Vec::new();
        let room = wanted.len().saturating_mul(PAGE_LEN);
        old.try_reserve_exact(room)
            .map_err(|_| Error::limit(format!("change in place: {room} bytes of memory")))?;
        old.resize(room, 0);
        let mut pages = Vec::with_capacity(wanted.len());
        for ((offset, page), slot) in wanted.into_iter().zip(old.chunks_mut(PAGE_LEN)) {
            let file = file_of(files, offset)
                .ok_or_else(|| Error::internal("change: a page outside the files"))?;
            let (old_len, len) = (
                file.in_page(offset, file.old),
                file.in_page(offset, file.new),
            );
            let slot = slot
                .get_mut(..old_len)
                .ok_or_else(|| Error::internal("change: a patch longer than a page"))?;
            if !slot.is_empty() {
                read(offset, slot)?;
            }
            let page = page.unwrap_or_else(|| {
                // What was there before, as far as there is room, and zeros.
                let mut bytes = slot.to_vec();
                bytes.resize(len, 0);
                match all_zero(&bytes) {
                    true => Page::Zero,
                    false => Page::Data(bytes.into()),
                }
            });
            let mut change = PageChange {
                offset,
                old_len,
                len,
                page,
                old: sha(slot),
                new: [0; 32],
                sectors: sector_shas(slot.get(..len).unwrap_or(slot)),
            };
            change.new = sha(change.new_bytes());
            pages.push(change);
        }
        Ok(Self {
            files: files.to_vec(),
            pages,
            old,
        })
    }

    /// A change read back from a journal; its old bytes are on the disk, or gone. What it says of the
    /// lengths of pages must be what the lengths of the files say.
    pub(super) fn without_old(pages: Vec<PageChange>, files: Vec<FileLen>) -> Result<Self> {
        let after: Vec<Range<u64>> = files
            .iter()
            .map(|file| file.start..file.start.saturating_add(file.new))
            .collect();
        let mut ends = files.iter().map(|file| {
            let longest = file.old.max(file.new);
            (file.start, file.start.checked_add(longest))
        });
        let mut last = ends
            .next()
            .and_then(|(start, end)| (start == 0).then_some(end?));
        for (start, end) in ends {
            last = last
                .filter(|last| *last <= start && start % PAGE_LEN as u64 == 0)
                .and(end);
        }
        if last.is_none() {
            return Err(Error::internal(
                "write guard: files one behind the other expected",
            ));
        }
        let change = Self {
            files,
            pages,
            old: Vec::new(),
        };
        guard::check(&change.patches(), &after)?;
        let mut end = 0;
        for page in &change.pages {
            let fits = file_of(&change.files, page.offset).is_some_and(|file| {
                page.len == file.in_page(page.offset, file.new)
                    && page.old_len == file.in_page(page.offset, file.old)
            });
            if !fits || page.span() == 0 || page.offset < end || page.offset % PAGE_LEN as u64 != 0
            {
                return Err(Error::internal(format!(
                    "write guard: pages as long as the files have them expected, found another at \
                     {:#x}",
                    page.offset
                )));
            }
            end = page.offset.saturating_add(PAGE_LEN as u64);
        }
        Ok(change)
    }

    /// The files of the image, before and after.
    #[must_use]
    pub fn files(&self) -> &[FileLen] {
        &self.files
    }

    /// Whether it is a change of one file that keeps its length.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self.files.as_slice(), [only] if only.old == only.new)
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.files.iter().all(|file| file.old == file.new)
    }

    /// The file in which a page lies.
    #[must_use]
    pub fn file_of(&self, offset: u64) -> Option<usize> {
        self.files
            .partition_point(|file| file.start <= offset)
            .checked_sub(1)
    }

    /// The pages, in ascending order.
    #[must_use]
    pub fn pages(&self) -> &[PageChange] {
        &self.pages
    }

    /// The old bytes of page `number`, if they are known.
    #[must_use]
    pub fn old_bytes(&self, number: usize) -> Option<&[u8]> {
        let len = self.pages.get(number)?.old_len;
        let at = number.checked_mul(PAGE_LEN)?;
        self.old.get(at..at.checked_add(len)?)
    }

    /// Number of bytes that change.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.span() as u64).sum()
    }

    /// What identifies this change: a digest over all places and digests, the same for the journal
    /// and the undo file (which is the reverse change).
    #[must_use]
    pub fn seal(&self) -> Sha {
        let mut hash = Sha256::new();
        for page in &self.pages {
            hash.update(page.offset.to_le_bytes());
            hash.update((page.span() as u64).to_le_bytes());
            // Both directions give the same seal.
            let (a, b) = if page.old <= page.new {
                (page.old, page.new)
            } else {
                (page.new, page.old)
            };
            hash.update(a);
            hash.update(b);
        }
        if !self.is_plain() {
            for file in &self.files {
                hash.update(file.start.to_le_bytes());
                hash.update(file.old.min(file.new).to_le_bytes());
                hash.update(file.old.max(file.new).to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    /// The change that takes this one back. Needs the old bytes.
    pub fn reversed(&self) -> Result<Self> {
        let mut pages = Vec::with_capacity(self.pages.len());
        for (number, page) in self.pages.iter().enumerate() {
            let old = self
                .old_bytes(number)
                .ok_or_else(|| Error::internal("change: the old bytes are not known"))?;
            pages.push(PageChange {
                offset: page.offset,
                old_len: page.len,
                len: page.old_len,
                page: if all_zero(old) {
                    Page::Zero
                } else {
                    Page::Data(old.into())
                },
                old: page.new,
                new: page.old,
                sectors: sector_shas(page.new_bytes().get(..page.stays()).unwrap_or_default()),
            });
        }
        let files = self.files.iter().map(|file| FileLen {
            old: file.new,
            new: file.old,
            ..*file
        });
        Ok(Self {
            files: files.collect(),
            pages,
            old: Vec::new(),
        })
    }

    /// As patches, for [`Change::prepare`] over an image that is to take them.
    #[must_use]
    pub fn patches(&self) -> Vec<Patch> {
        let there = self.pages.iter().filter(|page| page.len > 0);
        there
            .map(|page| Patch {
                offset: page.offset,
                len: page.len as u64,
                page: page.page.clone(),
            })
            .collect()
    }
}

/// The pages that change: those of the patches, and all behind the shorter end of a file.
fn wanted(patches: &[Patch], files: &[FileLen]) -> BTreeMap<u64, Option<Page>> {
    let mut wanted: BTreeMap<u64, Option<Page>> = patches
        .iter()
        .map(|patch| (patch.offset, Some(patch.page.clone())))
        .collect();
    let page = PAGE_LEN as u64;
    for file in files.iter().filter(|file| file.old != file.new) {
        let mut at = file.old.min(file.new) / page * page;
        while at < file.old.max(file.new) {
            wanted.entry(file.start.saturating_add(at)).or_insert(None);
            at += page;
        }
    }
    wanted
}

fn file_of(files: &[FileLen], offset: u64) -> Option<&FileLen> {
    let next = files.partition_point(|file| file.start <= offset);
    files.get(next.checked_sub(1)?)
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

fn sector_sha(bytes: &[u8]) -> SectorSha {
    let mut out = [0; 16];
    let digest = sha(bytes);
    out.copy_from_slice(digest.first_chunk::<16>().unwrap_or(&[0; 16]));
    out
}

fn sector_shas(page: &[u8]) -> [SectorSha; SECTORS] {
    let mut out = [[0; 16]; SECTORS];
    for (out, sector) in out.iter_mut().zip(page.chunks(SECTOR_LEN)) {
        *out = sector_sha(sector);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(new: Page) -> (Vec<u8>, Change) {
        let image: Vec<u8> = (0..9000_u32).map(|i| (i % 251) as u8 + 1).collect();
        let patches = [Patch {
            offset: 4096,
            len: 4096,
            page: new,
        }];
        let change = Change::prepare(
            &patches,
            &[FileLen::fixed(image.len() as u64)],
            &mut |at, out| {
                out.copy_from_slice(&image[at as usize..][..out.len()]);
                Ok(())
            },
        )
        .unwrap();
        (image, change)
    }

    #[test]
    fn old_new_torn_and_foreign_pages_are_told_apart() {
        for new in [Page::Zero, Page::Data(vec![0xEE; 4096].into())] {
            let (image, change) = change(new);
            let page = &change.pages()[0];
            let old = &image[4096..8192];
            assert_eq!(page.state(old), State::Old);
            assert_eq!(page.state(page.new_bytes()), State::New);
            let mut torn = old.to_vec();
            torn[512..1536].copy_from_slice(&page.new_bytes()[512..1536]);
            assert_eq!(page.state(&torn), State::Torn);
            torn[3] ^= 1;
            assert_eq!(page.state(&torn), State::Foreign);
            assert_eq!(page.state(&old[..100]), State::Foreign);
        }
    }

    #[test]
    fn the_reverse_of_a_change_restores_and_has_the_same_seal() {
        let (image, change) = change(Page::Zero);
        let back = change.reversed().unwrap();
        assert_eq!(back.pages()[0].new_bytes(), &image[4096..8192]);
        assert_eq!(back.pages()[0].state(&[0; 4096]), State::Old);
        assert_eq!(back.seal(), change.seal());
        assert_ne!(back.pages()[0].new, change.pages()[0].new);
        assert!(back.reversed().is_err(), "its old bytes are not known");
    }

    #[test]
    fn more_than_the_memory_for_putting_back_is_refused() {
        let patches: Vec<Patch> = (0..=MAX_IN_PLACE_BYTES / 4096)
            .map(|i| Patch {
                offset: i * 4096,
                len: 4096,
                page: Page::Zero,
            })
            .collect();
        let error =
            Change::prepare(&patches, &[FileLen::fixed(2 << 30)], &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Limit);
    }

    #[test]
    fn growth_and_its_reverse_hold_every_page_behind_the_shorter_end() {
        let old: Vec<u8> = (0..5000_u32).map(|i| (i % 251) as u8 + 1).collect();
        let mut new = old.clone();
        new.resize(14_000, 0);
        new[13_000] = 9;
        let files = [FileLen {
            start: 0,
            old: 5000,
            new: 14_000,
        }];
        let patches = [Patch {
            offset: 12_288,
            len: 1712,
            page: Page::Data(new[12_288..].into()),
        }];
        let read = |bytes: Vec<u8>| {
            move |at: u64, out: &mut [u8]| {
                out.copy_from_slice(&bytes[at as usize..][..out.len()]);
                Ok(())
            }
        };
        let change = Change::prepare(&patches, &files, &mut read(old.clone())).unwrap();
        let lens: Vec<_> = change
            .pages()
            .iter()
            .map(|p| (p.offset, p.old_len, p.len))
            .collect();
        assert_eq!(
            lens,
            [(4096, 904, 4096), (8192, 0, 4096), (12_288, 0, 1712)]
        );
        for page in change.pages() {
            let at = page.offset as usize;
            assert_eq!(page.new_bytes(), &new[at..at + page.len]);
            assert_eq!(page.state(page.new_bytes()), State::New);
            assert_eq!(
                page.state(&old[at.min(5000)..(at + page.old_len).max(at).min(5000)]),
                State::Old
            );
        }
        // Grown, and the data lost: garbage behind the old end, and none of it before.
        let mut torn = old[4096..].to_vec();
        torn.resize(4096, 0xA5);
        assert_eq!(change.pages()[0].state(&torn), State::Old);
        torn[100] ^= 1;
        assert_eq!(change.pages()[0].state(&torn), State::Foreign);
        assert_eq!(change.pages()[1].state(&[0xA5; 4096]), State::Old);
        let back = change.reversed().unwrap();
        assert_eq!(back.seal(), change.seal());
        let again = Change::prepare(&back.patches(), back.files(), &mut read(new)).unwrap();
        assert_eq!(again.pages(), back.pages());
        assert_eq!(again.seal(), back.seal());
        // Cut already, or not yet.
        assert_eq!(back.pages()[1].state(&[]), State::New);
        assert_eq!(back.pages()[1].state(&[0; 4096]), State::Old);
        assert_eq!(back.pages()[1].state(&[1; 4096]), State::Torn);
    }
}
