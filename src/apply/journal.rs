//! The journal and the undo file: one format, two magics. Our own, so this is its specification.
//!
//! | offset | size | header (4096 bytes) |
//! |---|---|---|
//! | 0 | 8 | `DCLNJRNL` (journal: new bytes) or `DCLNUNDO` (undo file: old bytes) |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | bytes of the image's path |
//! | 16 | 8 | length of the image |
//! | 24 | 8 | device number of the image's file system; a hint for people |
//! | 32 | 8 | inode number of the image; a hint for people |
//! | 40 | 8 | number of records |
//! | 48 | 8 | length of this file |
//! | 56 | 32 | [`Change::seal`]: which change this is |
//! | 88 | .. | the image's path |
//! | 4064 | 32 | SHA-256 of bytes 0..4064 |
//!
//! | offset | size | record |
//! |---|---|---|
//! | 0 | 8 | image offset |
//! | 8 | 4 | length of the page |
//! | 12 | 4 | 0: the page's new bytes follow; 1: it becomes zeros and nothing follows |
//! | 16 | 32 | SHA-256 of the old page |
//! | 48 | 32 | SHA-256 of the new page |
//! | 80 | 128 | 8 times the first 16 bytes of the SHA-256 of an old 512-byte sector |
//! | 208 | 0 or length | new bytes |
//!
//! The file ends with the SHA-256 of everything before. All numbers are little-endian. A journal
//! holds no old byte: the identity is never copied into a second file.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::io;

use sha2::{Digest, Sha256};

use super::change::{Change, PageChange, SECTORS, Sha, sha};
use crate::{
    bytes::View,
    device::{PAGE_LEN, Page},
    error::{Error, Result},
};

const HEADER: usize = 4096;
const RECORD: usize = 208;
const TRAILER: usize = 32;
const VERSION: u32 = 1;
const PATH_AT: usize = 88;
const MAX_PATH: usize = HEADER - 32 - PATH_AT;
/// Written in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Longest file that is read as a journal: every page of the largest change with its record.
pub const MAX_LEN: u64 = (super::change::MAX_IN_PLACE_BYTES / PAGE_LEN as u64)
    * (PAGE_LEN as u64 + RECORD as u64)
    + HEADER as u64
    + TRAILER as u64;

/// Which of the two files it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Redo: what an interrupted run has yet to write.
    Journal,
    /// Undo: what was there before.
    Undo,
}

impl Role {
    fn magic(self) -> [u8; 8] {
        match self {
            Role::Journal => *b"DCLNJRNL",
            Role::Undo => *b"DCLNUNDO",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Journal => "journal",
            Role::Undo => "undo file",
        }
    }
}

/// Which image it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// Length of the image in bytes.
    pub image_len: u64,
    /// Device number of the host's file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Path of the image, as the host gave it.
    pub path: Vec<u8>,
}

/// Length of the file that [`write()`] makes.
#[must_use]
pub fn len(change: &Change) -> u64 {
    let records: u64 = change
        .pages()
        .iter()
        .map(|page| (RECORD as u64).saturating_add(payload(page).len() as u64))
        .fold(0, u64::saturating_add);
    records.saturating_add((HEADER + TRAILER) as u64)
}

fn payload(page: &PageChange) -> &[u8] {
    match &page.page {
        Page::Data(bytes) => bytes,
        Page::Zero => &[],
    }
}

/// Writes the file piece by piece into `sink`.
pub fn write(
    role: Role,
    bond: &Bond,
    change: &Change,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut piece = Vec::with_capacity(PIECE.saturating_add(HEADER + RECORD));
    piece.extend_from_slice(&header(role, bond, change));
    for page in change.pages() {
        piece.extend_from_slice(&page.offset.to_le_bytes());
        piece.extend_from_slice(&(page.len as u32).to_le_bytes());
        let zeros = matches!(page.page, Page::Zero);
        piece.extend_from_slice(&u32::from(zeros).to_le_bytes());
        piece.extend_from_slice(&page.old);
        piece.extend_from_slice(&page.new);
        for sector in &page.sectors {
            piece.extend_from_slice(sector);
        }
        piece.extend_from_slice(payload(page));
        if piece.len() >= PIECE {
            hash.update(&piece);
            sink(&piece)?;
            piece.clear();
        }
    }
    hash.update(&piece);
    piece.extend_from_slice(&hash.finalize());
    sink(&piece)
}

fn header(role: Role, bond: &Bond, change: &Change) -> Vec<u8> {
    // A path that is too long is left out: it is a convenience, the digests are the bond.
    let path: &[u8] = if bond.path.len() <= MAX_PATH {
        &bond.path
    } else {
        &[]
    };
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(&role.magic());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(path.len() as u32).to_le_bytes());
    out.extend_from_slice(&bond.image_len.to_le_bytes());
    out.extend_from_slice(&bond.device.to_le_bytes());
    out.extend_from_slice(&bond.inode.to_le_bytes());
    out.extend_from_slice(&(change.pages().len() as u64).to_le_bytes());
    out.extend_from_slice(&len(change).to_le_bytes());
    out.extend_from_slice(&change.seal());
    out.extend_from_slice(path);
    out.resize(HEADER - 32, 0);
    let digest = sha(&out);
    out.extend_from_slice(&digest);
    out
}

/// Reads the header only: which image the file belongs to.
pub fn read_bond(role: Role, bytes: &[u8]) -> Result<Bond> {
    read_header(role, &View::new(bytes, role.name())).map(|(bond, ..)| bond)
}

fn read_header(role: Role, view: &View<'_>) -> Result<(Bond, u64, u64, Sha)> {
    let bad = |what: &str| damaged(role, what);
    if view.len() < HEADER {
        return Err(bad(&format!(
            "a header of {HEADER} bytes expected, found {} bytes",
            view.len()
        )));
    }
    if view.array::<8>(0)? != role.magic() {
        return Err(bad("its magic expected, found something else"));
    }
    if view.array::<32>(HEADER - 32)? != sha(view.get(0, HEADER - 32)?) {
        return Err(bad(
            "a header that fits its digest expected, found other bytes",
        ));
    }
    let version = view.u32(8)?;
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "{}: version {VERSION} expected, found {version}",
            role.name()
        ))
        .advise("use the version of declone that wrote it"));
    }
    let path_len = view.u32(12)? as usize;
    if path_len > MAX_PATH {
        return Err(bad("a path inside the header expected, found a longer one"));
    }
    let bond = Bond {
        image_len: view.u64(16)?,
        device: view.u64(24)?,
        inode: view.u64(32)?,
        path: view.get(PATH_AT, path_len)?.to_vec(),
    };
    Ok((bond, view.u64(40)?, view.u64(48)?, view.array(56)?))
}

/// Checks that these bytes are the whole file of this very change. Costs no memory.
pub fn check(role: Role, bytes: &[u8], change: &Change) -> Result<()> {
    let (_, _, seal, _) = read_frame(role, &View::new(bytes, role.name()), true)?;
    if bytes.len() as u64 != len(change) || seal != change.seal() {
        return Err(damaged(
            role,
            "the change that was written expected, found another",
        ));
    }
    Ok(())
}

/// Header, length and trailer; also returns where the trailer begins.
fn read_frame(role: Role, view: &View<'_>, digest: bool) -> Result<(Bond, u64, Sha, usize)> {
    let bad = |what: &str| damaged(role, what);
    let (bond, count, len, seal) = read_header(role, view)?;
    if len != view.len() as u64 {
        return Err(bad(&format!(
            "{len} bytes expected, found {} bytes",
            view.len()
        )));
    }
    let end = view
        .len()
        .checked_sub(TRAILER)
        .filter(|end| *end >= HEADER)
        .ok_or_else(|| bad("a trailer expected, found none"))?;
    if digest && view.array::<TRAILER>(end)? != sha(view.get(0, end)?) {
        return Err(bad(
            "bytes that fit the digest at the end expected, found others",
        ));
    }
    Ok((bond, count, seal, end))
}

/// Reads and checks the whole file. Whatever is wrong with it, nothing of it is used.
pub fn read(role: Role, bytes: &[u8]) -> Result<(Bond, Change)> {
    read_with(role, bytes, true)
}

/// As [`read`]; `digest` off leaves out the check of the trailer. Only the crash model does that,
/// to see that it matters.
#[doc(hidden)]
pub fn read_with(role: Role, bytes: &[u8], digest: bool) -> Result<(Bond, Change)> {
    let bad = |what: String| damaged(role, &what);
    let view = View::new(bytes, role.name());
    let (bond, count, seal, end) = read_frame(role, &view, digest)?;
    let body = view.sub(HEADER, end.saturating_sub(HEADER), role.name())?;
    let mut pages = Vec::new();
    let mut at = 0_usize;
    while at < body.len() {
        let (page, next) = read_record(role, &body, at)?;
        pages.push(page);
        at = next;
    }
    if pages.len() as u64 != count {
        return Err(bad(format!(
            "{count} records expected, found {}",
            pages.len()
        )));
    }
    let change = Change::without_old(pages, bond.image_len)
        .map_err(|e| bad(format!("pages inside the image expected: {}", e.what())))?;
    if change.seal() != seal {
        return Err(bad("records that fit the seal expected".to_owned()));
    }
    Ok((bond, change))
}

fn read_record(role: Role, body: &View<'_>, at: usize) -> Result<(PageChange, usize)> {
    let head = body.sub(at, RECORD, role.name())?;
    let len = head.u32(8)? as usize;
    if len == 0 || len > PAGE_LEN {
        return Err(damaged(
            role,
            &format!("a page of 1 to {PAGE_LEN} bytes expected, found {len}"),
        ));
    }
    let after = at.saturating_add(RECORD);
    let (page, next) = match head.u32(12)? {
        0 => (
            Page::Data(body.get(after, len)?.into()),
            after.saturating_add(len),
        ),
        1 => (Page::Zero, after),
        other => {
            return Err(damaged(
                role,
                &format!("record kind 0 or 1 expected, found {other}"),
            ));
        }
    };
    let mut sectors = [[0; 16]; SECTORS];
    for (sector, bytes) in sectors.iter_mut().zip(head.get(80, 128)?.chunks(16)) {
        sector.copy_from_slice(bytes);
    }
    let change = PageChange {
        offset: head.u64(0)?,
        len,
        page,
        old: head.array(16)?,
        new: head.array(48)?,
        sectors,
    };
    Ok((change, next))
}

fn damaged(role: Role, what: &str) -> Error {
    Error::malformed(format!("{}: {what}", role.name())).advise(match role {
        Role::Journal => {
            "a crash cannot do this to a journal, so nothing was written; if the image is known to \
             be whole, delete the journal, else restore the image from a backup"
        }
        Role::Undo => "the file is damaged or is no undo file; nothing was written",
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used
    )]
    use super::*;
    use crate::device::Patch;

    fn sample() -> (Bond, Change) {
        let patches = [
            Patch {
                offset: 0,
                len: 4096,
                page: Page::Data(vec![7; 4096].into()),
            },
            Patch {
                offset: 8192,
                len: 100,
                page: Page::Zero,
            },
        ];
        let change = Change::prepare(&patches, 8292, &mut |at, out| {
            out.fill(at as u8 + 3);
            Ok(())
        })
        .unwrap();
        let bond = Bond {
            image_len: 8292,
            device: 5,
            inode: 6,
            path: b"/a/b.img".to_vec(),
        };
        (bond, change)
    }

    fn written(role: Role) -> Vec<u8> {
        let (bond, change) = sample();
        let mut out = Vec::new();
        write(role, &bond, &change, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(out.len() as u64, len(&change));
        out
    }

    #[test]
    fn what_was_written_is_read() {
        for role in [Role::Journal, Role::Undo] {
            let (bond, change) = read(role, &written(role)).unwrap();
            let (want_bond, want) = sample();
            assert_eq!(bond, want_bond);
            assert_eq!(change.pages(), want.pages());
            assert_eq!(read_bond(role, &written(role)).unwrap(), want_bond);
            check(role, &written(role), &want).unwrap();
            let shorter = Change::without_old(want.pages()[..1].to_vec(), 8292).unwrap();
            assert!(check(role, &written(role), &shorter).is_err());
        }
        assert!(read(Role::Undo, &written(Role::Journal)).is_err());
    }

    #[test]
    fn no_flipped_bit_no_cut_and_no_appended_byte_passes() {
        let good = written(Role::Journal);
        for at in 0..good.len() {
            for bit in [1, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                assert!(read(Role::Journal, &bad).is_err(), "flip at {at}");
                assert!(check(Role::Journal, &bad, &sample().1).is_err());
            }
            assert!(read(Role::Journal, &good[..at]).is_err(), "cut at {at}");
        }
        for more in [1, 32, 4096] {
            let mut bad = good.clone();
            bad.resize(good.len() + more, 0);
            assert!(read(Role::Journal, &bad).is_err());
        }
    }

    #[test]
    fn lies_with_right_digests_are_refused() {
        // Offset, record, what is put there.
        let lies: [(usize, &[u8]); 6] = [
            (HEADER, &u64::MAX.to_le_bytes()),
            (HEADER, &4097_u64.to_le_bytes()),
            (HEADER, &(1_u64 << 63).to_le_bytes()),
            (HEADER + 8, &0_u32.to_le_bytes()),
            (HEADER + 12, &2_u32.to_le_bytes()),
            (HEADER + RECORD + PAGE_LEN, &0_u64.to_le_bytes()),
        ];
        for (at, lie) in lies {
            let mut bad = written(Role::Journal);
            bad[at..at + lie.len()].copy_from_slice(lie);
            let end = bad.len() - TRAILER;
            let digest = sha(&bad[..end]);
            bad[end..].copy_from_slice(&digest);
            let error = read(Role::Journal, &bad).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Malformed, "{error}");
        }
    }

    #[test]
    fn the_journal_holds_no_old_byte() {
        let patches = [Patch {
            offset: 0,
            len: 4096,
            page: Page::Zero,
        }];
        let change = Change::prepare(&patches, 4096, &mut |_, out| {
            out[..16].copy_from_slice(b"GUID:secret-1234");
            Ok(())
        })
        .unwrap();
        let mut out = Vec::new();
        write(Role::Journal, &Bond::default(), &change, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert!(!out.windows(6).any(|w| w == b"secret"));
    }
}
