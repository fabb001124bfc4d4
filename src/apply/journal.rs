//! The journal and the undo file: one format, two magics. Our own, so this is its specification.
//!
//! | offset | size | header (4096 bytes) |
//! |---|---|---|
//! | 0 | 8 | `DCLNJRNL` (journal: new bytes) or `DCLNUNDO` (undo file: old bytes) |
//! | 8 | 4 | version, 1 or 2 |
//! | 12 | 4 | bytes of the image's path |
//! | 16 | 8 | length of the image (of its first file, before the change) |
//! | 24 | 8 | device number of the image's file system; a hint for people |
//! | 32 | 8 | inode number of the image; a hint for people |
//! | 40 | 8 | number of records |
//! | 48 | 8 | length of this file |
//! | 56 | 32 | [`Change::seal`]: which change this is |
//! | 88 | .. | the image's path |
//! | 4016 | 8 | version 2: length of the table of files, which follows the header |
//! | 4024 | 8 | version 2: number of its entries |
//! | 4032 | 32 | version 2: SHA-256 of the table |
//! | 4064 | 32 | SHA-256 of bytes 0..4064 |
//!
//! | offset | size | record |
//! |---|---|---|
//! | 0 | 8 | image offset |
//! | 8 | 4 | length of the page after the change; in version 2 two bytes of that, two of that before |
//! | 12 | 4 | 0: the page's new bytes follow; 1: it becomes zeros and nothing follows |
//! | 16 | 32 | SHA-256 of the old page |
//! | 48 | 32 | SHA-256 of the new page |
//! | 80 | 128 | 8 times the first 16 bytes of the SHA-256 of an old 512-byte sector, as far as it stays |
//! | 208 | 0 or length | new bytes |
//!
//! Version 1 is a change of one file that keeps its length. Anything else is version 2:
//!
//! | offset | size | entry of the table of files |
//! |---|---|---|
//! | 0 | 8 | where the file starts in the image's address space; the first is the image itself, at 0 |
//! | 8 | 8 | its length before the change |
//! | 16 | 8 | its length after it |
//! | 24 | 16 | device and inode number; hints to find the journal from the file |
//! | 40 | 2 | length of its name |
//! | 42 | .. | its name, in the directory of the image |
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

use super::change::{Change, FileLen, PageChange, SECTORS, Sha, sha};
use crate::{
    bytes::View,
    device::{PAGE_LEN, Page},
    error::{Error, Result},
};

const HEADER: usize = 4096;
const RECORD: usize = 208;
const TRAILER: usize = 32;
const PLAIN: u32 = 1;
const FILES: u32 = 2;
const PATH_AT: usize = 88;
/// Of the table of files: length, count, digest.
const TABLE_AT: usize = 4016;
const MAX_PATH: usize = HEADER - 32 - PATH_AT;
const ENTRY: usize = 42;
/// Longest table: 65,536 files with names of 255 bytes.
const MAX_TABLE: u64 = 65_536 * (ENTRY as u64 + 255);
/// Written in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Longest file that is read as a journal: every page of the largest change with its record.
pub const MAX_LEN: u64 = (super::change::MAX_IN_PLACE_BYTES / PAGE_LEN as u64)
    * (PAGE_LEN as u64 + RECORD as u64)
    + HEADER as u64
    + MAX_TABLE
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
    /// Length of the image in bytes: of its first file, before the change.
    pub image_len: u64,
    /// Device number of the host's file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Path of the image, as the host gave it.
    pub path: Vec<u8>,
    /// All files of the image, the first among them; empty if it is one that keeps its length.
    pub files: Vec<BondFile>,
}

/// One of the files of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondFile {
    /// Its name in the directory of the image.
    pub name: Vec<u8>,
    /// Device number of the host's file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Where it starts and how long it is, before and after.
    pub len: FileLen,
}

impl Bond {
    /// Start and lengths of all files.
    #[must_use]
    pub fn lens(&self) -> Vec<FileLen> {
        match self.files.as_slice() {
            [] => vec![FileLen::fixed(self.image_len)],
            files => files.iter().map(|file| file.len).collect(),
        }
    }

    /// Whether it is the bond of a change of these files.
    #[must_use]
    pub fn fits(&self, change: &Change) -> bool {
        self.lens() == change.files()
    }

    /// The same image as a file with the change's reverse has it.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut out = self.clone();
        for file in &mut out.files {
            std::mem::swap(&mut file.len.old, &mut file.len.new);
        }
        if let Some(first) = out.files.first() {
            out.image_len = first.len.old;
        }
        out
    }
}

/// Length of the file that [`write()`] makes.
#[must_use]
pub fn len(bond: &Bond, change: &Change) -> u64 {
    let records: u64 = change
        .pages()
        .iter()
        .map(|page| (RECORD as u64).saturating_add(payload(page).len() as u64))
        .fold(0, u64::saturating_add);
    records
        .saturating_add((HEADER + TRAILER) as u64)
        .saturating_add(table(bond).len() as u64)
}

/// The table of files; empty in version 1.
fn table(bond: &Bond) -> Vec<u8> {
    let mut out = Vec::new();
    for file in &bond.files {
        for number in [
            file.len.start,
            file.len.old,
            file.len.new,
            file.device,
            file.inode,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let name = file.name.get(..MAX_NAME).unwrap_or(&file.name);
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
    }
    out
}

/// Longest name of a file on any host.
const MAX_NAME: usize = 255;

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
    piece.extend_from_slice(&table(bond));
    for page in change.pages() {
        piece.extend_from_slice(&page.offset.to_le_bytes());
        // Version 1 has one length, of four bytes: the second two are zeros there.
        let old_len = if bond.files.is_empty() {
            0
        } else {
            page.old_len
        };
        piece.extend_from_slice(&(page.len as u16).to_le_bytes());
        piece.extend_from_slice(&(old_len as u16).to_le_bytes());
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
    let table = table(bond);
    let (version, room) = match bond.files.is_empty() {
        true => (PLAIN, MAX_PATH),
        false => (FILES, TABLE_AT - PATH_AT),
    };
    // A path that is too long is left out: it is a convenience, the digests are the bond.
    let path: &[u8] = if bond.path.len() <= room {
        &bond.path
    } else {
        &[]
    };
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(&role.magic());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(path.len() as u32).to_le_bytes());
    out.extend_from_slice(&bond.image_len.to_le_bytes());
    out.extend_from_slice(&bond.device.to_le_bytes());
    out.extend_from_slice(&bond.inode.to_le_bytes());
    out.extend_from_slice(&(change.pages().len() as u64).to_le_bytes());
    out.extend_from_slice(&len(bond, change).to_le_bytes());
    out.extend_from_slice(&change.seal());
    out.extend_from_slice(path);
    if version == FILES {
        out.resize(TABLE_AT, 0);
        out.extend_from_slice(&(table.len() as u64).to_le_bytes());
        out.extend_from_slice(&(bond.files.len() as u64).to_le_bytes());
        out.extend_from_slice(&sha(&table));
    }
    out.resize(HEADER - 32, 0);
    let digest = sha(&out);
    out.extend_from_slice(&digest);
    out
}

/// What stands before the records.
struct Front {
    bond: Bond,
    count: u64,
    len: u64,
    seal: Sha,
    /// Where the records begin.
    body: usize,
}

/// Reads what stands before the records: which image the file belongs to. The rest may be missing.
pub fn read_bond(role: Role, bytes: &[u8]) -> Result<Bond> {
    read_front(role, &View::new(bytes, role.name())).map(|front| front.bond)
}

/// How many bytes [`read_bond`] needs; `None` if they begin no file of this role.
#[must_use]
pub fn bond_len(role: Role, header: &[u8]) -> Option<usize> {
    let view = View::new(header, role.name());
    let is = view.array::<8>(0).ok()? == role.magic();
    let table = match view.u32(8).ok()? {
        FILES => view.u64(TABLE_AT).ok()?,
        _ => 0,
    };
    let table = usize::try_from(table.min(MAX_TABLE)).ok()?;
    is.then(|| HEADER.saturating_add(table))
}

/// Bytes of the header.
pub const HEADER_LEN: usize = HEADER;

fn read_front(role: Role, view: &View<'_>) -> Result<Front> {
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
    if version != PLAIN && version != FILES {
        return Err(Error::unsupported(format!(
            "{}: version {PLAIN} or {FILES} expected, found {version}",
            role.name()
        ))
        .advise("use the version of declone that wrote it"));
    }
    let path_len = view.u32(12)? as usize;
    if path_len > MAX_PATH || (version == FILES && path_len > TABLE_AT - PATH_AT) {
        return Err(bad("a path inside the header expected, found a longer one"));
    }
    let (files, body) = match version {
        FILES => read_table(role, view)?,
        _ => (Vec::new(), HEADER),
    };
    let bond = Bond {
        image_len: view.u64(16)?,
        device: view.u64(24)?,
        inode: view.u64(32)?,
        path: view.get(PATH_AT, path_len)?.to_vec(),
        files,
    };
    Ok(Front {
        bond,
        count: view.u64(40)?,
        len: view.u64(48)?,
        seal: view.array(56)?,
        body,
    })
}

fn read_table(role: Role, view: &View<'_>) -> Result<(Vec<BondFile>, usize)> {
    let bad = |what: &str| damaged(role, what);
    let len = view.u64(TABLE_AT)?;
    if len > MAX_TABLE {
        return Err(bad("a shorter table of files expected"));
    }
    let table = view.sub(HEADER, len as usize, role.name())?;
    if view.array::<32>(TABLE_AT + 16)? != sha(table.get(0, table.len())?) {
        return Err(bad(
            "a table of files that fits its digest expected, found other bytes",
        ));
    }
    let mut files = Vec::new();
    let mut at = 0_usize;
    while at < table.len() {
        let entry = table.sub(at, ENTRY, role.name())?;
        let name_len = usize::from(entry.u16(40)?);
        let name = table.get(at.saturating_add(ENTRY), name_len)?.to_vec();
        // A name decides what is opened: one file in the image's own directory.
        let special = name.is_empty() || name == b"." || name == b"..";
        if special || name_len > MAX_NAME || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(bad("the plain name of a file expected, found another"));
        }
        files.push(BondFile {
            name,
            device: entry.u64(24)?,
            inode: entry.u64(32)?,
            len: FileLen {
                start: entry.u64(0)?,
                old: entry.u64(8)?,
                new: entry.u64(16)?,
            },
        });
        at = at.saturating_add(ENTRY).saturating_add(name_len);
    }
    if files.is_empty() || files.len() as u64 != view.u64(TABLE_AT + 8)? {
        return Err(bad("as many files as the header says expected"));
    }
    Ok((files, HEADER.saturating_add(table.len())))
}

/// Checks that these bytes are the whole file of this very change. Costs no memory.
pub fn check(role: Role, bytes: &[u8], change: &Change) -> Result<()> {
    let (front, _) = read_frame(role, &View::new(bytes, role.name()), true)?;
    let same = front.bond.fits(change) && front.seal == change.seal();
    if !same || bytes.len() as u64 != len(&front.bond, change) {
        return Err(damaged(
            role,
            "the change that was written expected, found another",
        ));
    }
    Ok(())
}

/// What stands before the records, length and trailer; also returns where the trailer begins.
fn read_frame(role: Role, view: &View<'_>, digest: bool) -> Result<(Front, usize)> {
    let bad = |what: &str| damaged(role, what);
    let front = read_front(role, view)?;
    if front.len != view.len() as u64 {
        return Err(bad(&format!(
            "{} bytes expected, found {} bytes",
            front.len,
            view.len()
        )));
    }
    let end = view
        .len()
        .checked_sub(TRAILER)
        .filter(|end| *end >= front.body)
        .ok_or_else(|| bad("a trailer expected, found none"))?;
    if digest && view.array::<TRAILER>(end)? != sha(view.get(0, end)?) {
        return Err(bad(
            "bytes that fit the digest at the end expected, found others",
        ));
    }
    Ok((front, end))
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
    let (front, end) = read_frame(role, &view, digest)?;
    let bond = front.bond;
    let body = view.sub(front.body, end.saturating_sub(front.body), role.name())?;
    let mut pages = Vec::new();
    let mut at = 0_usize;
    while at < body.len() {
        let (page, next) = read_record(role, &body, at, !bond.files.is_empty())?;
        pages.push(page);
        at = next;
    }
    if pages.len() as u64 != front.count {
        return Err(bad(format!(
            "{} records expected, found {}",
            front.count,
            pages.len()
        )));
    }
    let change = Change::without_old(pages, bond.lens())
        .map_err(|e| bad(format!("pages inside the image expected: {}", e.what())))?;
    if change.seal() != front.seal {
        return Err(bad("records that fit the seal expected".to_owned()));
    }
    Ok((bond, change))
}

fn read_record(
    role: Role,
    body: &View<'_>,
    at: usize,
    two_lens: bool,
) -> Result<(PageChange, usize)> {
    let head = body.sub(at, RECORD, role.name())?;
    let (len, old_len) = match two_lens {
        true => (usize::from(head.u16(8)?), usize::from(head.u16(10)?)),
        false => (head.u32(8)? as usize, head.u32(8)? as usize),
    };
    let longest = len.max(old_len);
    if longest == 0 || longest > PAGE_LEN {
        return Err(damaged(
            role,
            &format!("a page of 1 to {PAGE_LEN} bytes expected, found {longest}"),
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
        old_len,
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
        let change = Change::prepare(&patches, &[FileLen::fixed(8292)], &mut |at, out| {
            out.fill(at as u8 + 3);
            Ok(())
        })
        .unwrap();
        let bond = Bond {
            image_len: 8292,
            device: 5,
            inode: 6,
            path: b"/a/b.img".to_vec(),
            files: Vec::new(),
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
        assert_eq!(out.len() as u64, len(&bond, &change));
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
            let shorter =
                Change::without_old(want.pages()[..1].to_vec(), vec![FileLen::fixed(8292)])
                    .unwrap();
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
        let change = Change::prepare(&patches, &[FileLen::fixed(4096)], &mut |_, out| {
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
