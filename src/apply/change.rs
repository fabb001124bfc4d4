//! What an in-place run writes, page by page: where, the new bytes, and digests that tell the old
//! page, the new page and a torn mixture of both from anything else.

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

/// One page that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageChange {
    /// Image offset, a multiple of [`PAGE_LEN`].
    pub offset: u64,
    /// Length in bytes: [`PAGE_LEN`], or less at the end of the image.
    pub len: usize,
    /// What goes there.
    pub page: Page,
    /// Digest of the page before.
    pub old: Sha,
    /// Digest of the page after.
    pub new: Sha,
    /// Digests of the sectors before; those behind the end of a short page are zero.
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

    /// Tells what is on disk.
    #[must_use]
    pub fn state(&self, found: &[u8]) -> State {
        if self.is_new(found) {
            return State::New;
        }
        if sha(found) == self.old {
            return State::Old;
        }
        let torn = found.len() == self.len
            && found
                .chunks(SECTOR_LEN)
                .zip(self.new_bytes().chunks(SECTOR_LEN))
                .zip(&self.sectors)
                .all(|((found, new), old)| found == new || sector_sha(found) == *old);
        if torn { State::Torn } else { State::Foreign }
    }
}

/// A set of page changes that has passed the write guard, with the old bytes where they are known.
#[derive(Clone, Debug)]
pub struct Change {
    pages: Vec<PageChange>,
    /// The old bytes, [`PAGE_LEN`] a page; empty when the change was read from a journal.
    old: Vec<u8>,
}

impl Change {
    /// Reads the old bytes of every patch from the image and takes digests.
    pub fn prepare(
        patches: &[Patch],
        image_len: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        guard::check(patches, image_len)?;
        let total: u64 = patches.iter().map(|patch| patch.len).sum();
        if total > MAX_IN_PLACE_BYTES {
            return Err(Error::limit(format!(
                "change in place: at most {MAX_IN_PLACE_BYTES} bytes expected, found {total}"
            ))
            .advise("write a cleaned copy with -o OUT"));
        }
        let mut old = Vec::new();
        let room = patches.len().saturating_mul(PAGE_LEN);
        old.try_reserve_exact(room)
            .map_err(|_| Error::limit(format!("change in place: {room} bytes of memory")))?;
        old.resize(room, 0);
        let mut pages = Vec::with_capacity(patches.len());
        for (patch, slot) in patches.iter().zip(old.chunks_mut(PAGE_LEN)) {
            let slot = slot
                .get_mut(..patch.len as usize)
                .ok_or_else(|| Error::internal("change: a patch longer than a page"))?;
            read(patch.offset, slot)?;
            let mut change = PageChange {
                offset: patch.offset,
                len: slot.len(),
                page: patch.page.clone(),
                old: sha(slot),
                new: [0; 32],
                sectors: sector_shas(slot),
            };
            change.new = sha(change.new_bytes());
            pages.push(change);
        }
        Ok(Self { pages, old })
    }

    /// A change read back from a journal; its old bytes are on the disk, or gone.
    pub(super) fn without_old(pages: Vec<PageChange>, image_len: u64) -> Result<Self> {
        let patches: Vec<Patch> = pages.iter().map(patch_of).collect();
        guard::check(&patches, image_len)?;
        Ok(Self {
            pages,
            old: Vec::new(),
        })
    }

    /// The pages, in ascending order.
    #[must_use]
    pub fn pages(&self) -> &[PageChange] {
        &self.pages
    }

    /// The old bytes of page `number`, if they are known.
    #[must_use]
    pub fn old_bytes(&self, number: usize) -> Option<&[u8]> {
        let len = self.pages.get(number)?.len;
        let at = number.checked_mul(PAGE_LEN)?;
        self.old.get(at..at.checked_add(len)?)
    }

    /// Number of bytes that change.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.len as u64).sum()
    }

    /// What identifies this change: a digest over all places and digests, the same for the journal
    /// and the undo file (which is the reverse change).
    #[must_use]
    pub fn seal(&self) -> Sha {
        let mut hash = Sha256::new();
        for page in &self.pages {
            hash.update(page.offset.to_le_bytes());
            hash.update((page.len as u64).to_le_bytes());
            // Both directions give the same seal.
            let (a, b) = if page.old <= page.new {
                (page.old, page.new)
            } else {
                (page.new, page.old)
            };
            hash.update(a);
            hash.update(b);
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
                len: page.len,
                page: if all_zero(old) {
                    Page::Zero
                } else {
                    Page::Data(old.into())
                },
                old: page.new,
                new: page.old,
                sectors: sector_shas(page.new_bytes()),
            });
        }
        Ok(Self {
            pages,
            old: Vec::new(),
        })
    }

    /// As patches, for [`Change::prepare`] over an image that is to take them.
    #[must_use]
    pub fn patches(&self) -> Vec<Patch> {
        self.pages.iter().map(patch_of).collect()
    }
}

fn patch_of(page: &PageChange) -> Patch {
    Patch {
        offset: page.offset,
        len: page.len as u64,
        page: page.page.clone(),
    }
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
        let change = Change::prepare(&patches, image.len() as u64, &mut |at, out| {
            out.copy_from_slice(&image[at as usize..][..out.len()]);
            Ok(())
        })
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
        let error = Change::prepare(&patches, 2 << 30, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Limit);
    }
}
