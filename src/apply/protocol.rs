//! The write protocol: in which order an image is changed so that a crash at any moment leaves the
//! old image, the new one, or a journal that finishes it.
//!
//! It is a table of steps and one loop. The table is data so that the crash model
//! (`tests/crash_model/`) can leave out or swap every step and see that it matters.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::io;

use super::{
    change::{Change, FileLen, PageChange, State},
    journal::{self, Bond, Role},
};
use crate::{
    device::PAGE_LEN,
    error::{Error, Kind, Result},
};

/// What the protocol needs of the host: the image, and one directory with two names in it, the
/// journal and the temporary file that becomes the journal.
pub trait Host {
    /// Lengths of the image's files, as they are at this moment, in the order of the journal's table.
    fn lens(&mut self) -> io::Result<Vec<u64>>;
    /// Makes a file of the image this long. What is new reads as zeros and has its room on the disk.
    fn set_len(&mut self, file: usize, len: u64) -> io::Result<()>;
    /// Fills `buf` from the image; no short reads. Never more than one file.
    fn read_image(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes`; no short writes.
    fn write_image(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written to a file of the image durable, and its length.
    fn sync_image(&mut self, file: usize) -> io::Result<()>;
    /// Drops the host's clean cached copy of a range, so that the next read asks the disk.
    fn forget_image(&mut self, offset: u64, len: u64);
    /// Makes an empty temporary file and reserves `len` bytes for it. One that an interrupted run
    /// left behind is replaced.
    fn create_temporary(&mut self, len: u64) -> io::Result<()>;
    /// Appends to the temporary file.
    fn append_temporary(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file that is, or became, the journal durable.
    fn sync_journal(&mut self) -> io::Result<()>;
    /// Renames the temporary file to the journal's name; an existing journal is an error.
    fn publish(&mut self) -> io::Result<()>;
    /// Makes the names in the directory durable.
    fn sync_directory(&mut self) -> io::Result<()>;
    /// Removes the temporary file, if there is one.
    fn remove_temporary(&mut self) -> io::Result<()>;
    /// Removes the journal.
    fn remove_journal(&mut self) -> io::Result<()>;
    /// All bytes of the journal; `None` when there is none. Refuses what may not be ours: a link,
    /// another owner, a file that others may write.
    fn read_journal(&mut self) -> Result<Option<Vec<u8>>>;
    /// The same of the temporary file.
    fn read_temporary(&mut self) -> Result<Option<Vec<u8>>>;
}

/// One step of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The journal is written under its temporary name.
    WriteJournal,
    /// The journal's bytes become durable. Without it the name could outlive the contents.
    SyncJournal,
    /// It is read and checked as recovery would do it. A host that gives files another
    /// owner or mode (vfat, ntfs-3g, CIFS, NFS with squashed users), or that says it wrote and did
    /// not, is found out while the image is still whole.
    ReadJournal,
    /// It gets its name: from here on a crash is finished, not forgotten.
    Publish,
    /// The name becomes durable before the first byte of the image changes.
    SyncPublished,
    /// Every page is still what the change was made for.
    CheckOld,
    /// Every page is old, new or torn, nothing else (recovery).
    CheckResumable,
    /// Files that become longer get their length, and its room on the disk: where there is none, no
    /// byte that was there has changed.
    Extend,
    /// The pages are written.
    Patch,
    /// They become durable, in every file, before the journal may go.
    SyncImage,
    /// Files that become shorter lose their end; behind the sync, so that no end is lost with old
    /// bytes before it.
    Cut,
    /// That becomes durable, too.
    SyncCut,
    /// They are read again from the disk: a write can lie.
    ReadBack,
    /// The journal goes.
    RemoveJournal,
    /// It stays gone: a journal that comes back would undo what the owner did since.
    SyncRemoved,
}

/// Changing an image in place.
pub const COMMIT: &[Step] = &[
    Step::WriteJournal,
    Step::SyncJournal,
    Step::ReadJournal,
    Step::Publish,
    Step::SyncPublished,
    Step::CheckOld,
    Step::Extend,
    Step::Patch,
    Step::SyncImage,
    Step::Cut,
    Step::SyncCut,
    Step::ReadBack,
    Step::RemoveJournal,
    Step::SyncRemoved,
];

/// Finishing what an interrupted run left. The journal and its name are made durable first: the run
/// may have been killed between the rename and the sync, and what is found may be in memory only.
pub const RECOVER: &[Step] = &[
    Step::SyncJournal,
    Step::SyncPublished,
    Step::CheckResumable,
    Step::Extend,
    Step::Patch,
    Step::SyncImage,
    Step::Cut,
    Step::SyncCut,
    Step::ReadBack,
    Step::RemoveJournal,
    Step::SyncRemoved,
];

/// How far a run got; decides what a failure has to take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Reached {
    Nothing,
    Temporary,
    Published,
    /// Pages before this number may have been written, and lengths changed.
    Patched(usize),
    /// The image is new and durable.
    Durable,
}

/// Why a step failed. Holds no text of its own: nothing is formatted while the image is half
/// written.
#[derive(Debug)]
enum Failure {
    Host(io::Error),
    /// The journal cannot be read back. Only before the image changes.
    Journal(Error),
    Foreign(u64),
    Lying(u64),
}

/// Changes the image. `Ok`: it is new, durable and read back, and no journal is left or can come
/// back. An error of kind `Io` or `Refused`: it is byte-identical to what it was, durably, and no
/// journal is left or can come back. Of kind `Interrupted`: only [`recover`] can tell. It finishes
/// the journal; or finds none, if only the sync after its removal had failed, and then the image is
/// the old or the new one as a whole.
pub fn commit(host: &mut dyn Host, bond: &Bond, change: &Change) -> Result<()> {
    run(host, bond, change, COMMIT)
}

/// As [`commit`] with other steps; for the crash model.
#[doc(hidden)]
pub fn run(host: &mut dyn Host, bond: &Bond, change: &Change, steps: &[Step]) -> Result<()> {
    let mut buffer = [0; PAGE_LEN];
    let mut reached = Reached::Nothing;
    for step in steps {
        if let Err(failure) = perform(host, bond, change, *step, &mut reached, &mut buffer) {
            return Err(back_out(
                host,
                change,
                *step,
                reached,
                &failure,
                &mut buffer,
            ));
        }
    }
    Ok(())
}

/// What [`recover`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// No journal: nothing to do.
    Nothing,
    /// The change was finished.
    Finished {
        /// Pages written.
        pages: usize,
        /// Bytes written.
        bytes: u64,
    },
}

/// Whether a journal waits, and if so, what it would do. Writes nothing.
pub fn pending(host: &mut dyn Host) -> Result<Option<(Bond, Change)>> {
    let Some(bytes) = host.read_journal()? else {
        return Ok(None);
    };
    let (bond, change) = journal::read(Role::Journal, &bytes)?;
    check_len(host, &change)?;
    Ok(Some((bond, change)))
}

/// Whether every file is as long as before the change, as after it, or between.
fn check_len(host: &mut dyn Host, change: &Change) -> Result<()> {
    let lens = host
        .lens()
        .map_err(|e| Error::io("image: its length", &e))?;
    let files = change.files();
    let wrong = files
        .iter()
        .zip(&lens)
        .find(|(file, len)| !file.may_be(**len));
    let advice =
        "the journal belongs to another image, or this one was resized; nothing was written";
    match wrong {
        None if lens.len() == files.len() => Ok(()),
        None => Err(Error::refused(format!(
            "journal: an image of {} files expected, found {}",
            files.len(),
            lens.len()
        ))
        .advise(advice)),
        Some((file, len)) => Err(Error::refused(format!(
            "journal: an image of {} bytes expected, found {len} bytes",
            file.old
        ))
        .advise(advice)),
    }
}

/// Finishes what an interrupted run left; removes a temporary file that never became a journal.
/// `Interrupted`: it is still not finished and can be tried again. Any other error: nothing was
/// written.
pub fn recover(host: &mut dyn Host) -> Result<Recovered> {
    recover_with(host, RECOVER, true)
}

/// As [`recover`] with other steps, or without the check of the journal's digest; for the crash
/// model.
#[doc(hidden)]
pub fn recover_with(host: &mut dyn Host, steps: &[Step], digest: bool) -> Result<Recovered> {
    let Some(bytes) = host.read_journal()? else {
        host.remove_temporary()
            .map_err(|e| Error::io("journal: removal of a temporary file", &e))?;
        // A run may have been killed between the removal of its journal and the sync: what is not
        // seen now could come back after a power cut, when the owner has long used the image.
        host.sync_directory()
            .map_err(|e| Error::io("journal: fsync of its directory", &e))?;
        return Ok(Recovered::Nothing);
    };
    let (bond, change) = journal::read_with(Role::Journal, &bytes, digest)?;
    drop(bytes);
    check_len(host, &change)?;
    let mut buffer = [0; PAGE_LEN];
    let mut reached = Reached::Published;
    for step in steps {
        if let Err(failure) = perform(host, &bond, &change, *step, &mut reached, &mut buffer) {
            return Err(match failure {
                Failure::Foreign(offset) => foreign(
                    offset,
                    "the journal belongs to another image, or this one was changed since; restore \
                     it from a backup, or delete the journal if the image is known to be whole",
                ),
                other => interrupted(*step, &other),
            });
        }
    }
    // Beside a journal there may be a newer temporary file of a run that was stopped later.
    host.remove_temporary().ok();
    Ok(Recovered::Finished {
        pages: change.pages().len(),
        bytes: change.bytes(),
    })
}

fn perform(
    host: &mut dyn Host,
    bond: &Bond,
    change: &Change,
    step: Step,
    reached: &mut Reached,
    buffer: &mut [u8; PAGE_LEN],
) -> std::result::Result<(), Failure> {
    match step {
        Step::WriteJournal => {
            host.create_temporary(journal::len(bond, change))?;
            *reached = Reached::Temporary;
            journal::write(Role::Journal, bond, change, &mut |piece| {
                host.append_temporary(piece)
            })?;
        }
        Step::SyncJournal => host.sync_journal()?,
        Step::ReadJournal => {
            let bytes = host.read_temporary().map_err(Failure::Journal)?;
            journal::check(Role::Journal, &bytes.unwrap_or_default(), change)
                .map_err(Failure::Journal)?;
        }
        Step::Publish => {
            host.publish()?;
            *reached = Reached::Published;
        }
        Step::SyncPublished | Step::SyncRemoved => host.sync_directory()?,
        Step::CheckOld => {
            if !are(&host.lens()?, change, |file| file.old) {
                return Err(Failure::Foreign(0));
            }
            check(host, change, buffer, |page, found| {
                page.state(found) == State::Old
            })?;
        }
        Step::CheckResumable => check(host, change, buffer, |page, found| {
            page.state(found) != State::Foreign
        })?,
        Step::Extend => {
            for (number, file) in change.files().iter().enumerate() {
                if file.new > file.old {
                    *reached = Reached::Patched(0);
                    host.set_len(number, file.new)?;
                }
            }
        }
        Step::Patch => {
            for (number, page) in change.pages().iter().enumerate() {
                *reached = Reached::Patched(number.saturating_add(1));
                if page.len > 0 {
                    host.write_image(page.offset, page.new_bytes())?;
                }
            }
        }
        Step::SyncImage => {
            for number in 0..change.files().len() {
                host.sync_image(number)?;
            }
        }
        Step::Cut => {
            for (number, file) in change.files().iter().enumerate() {
                if file.new < file.old {
                    host.set_len(number, file.new)?;
                }
            }
        }
        Step::SyncCut => {
            for (number, file) in change.files().iter().enumerate() {
                if file.new < file.old {
                    host.sync_image(number)?;
                }
            }
        }
        Step::ReadBack => {
            for page in change.pages() {
                let found = buffer.get_mut(..page.len).unwrap_or_default();
                if found.is_empty() {
                    continue;
                }
                host.forget_image(page.offset, page.len as u64);
                host.read_image(page.offset, found)?;
                if !page.is_new(found) {
                    return Err(Failure::Lying(page.offset));
                }
            }
            if !change.is_plain() && !are(&host.lens()?, change, |file| file.new) {
                return Err(Failure::Lying(0));
            }
            *reached = Reached::Durable;
        }
        Step::RemoveJournal => host.remove_journal()?,
    }
    Ok(())
}

fn check(
    host: &mut dyn Host,
    change: &Change,
    buffer: &mut [u8; PAGE_LEN],
    good: impl Fn(&PageChange, &[u8]) -> bool,
) -> std::result::Result<(), Failure> {
    let lens = host.lens()?;
    for page in change.pages() {
        // As much of it as there is.
        let number = change.file_of(page.offset).unwrap_or_default();
        let end = change.files().get(number).zip(lens.get(number));
        let end = end.map_or(0, |(file, len)| file.start.saturating_add(*len));
        let there = end.saturating_sub(page.offset).min(page.span() as u64);
        let found = buffer.get_mut(..there as usize).unwrap_or_default();
        if !found.is_empty() {
            host.read_image(page.offset, found)?;
        }
        if !good(page, found) {
            return Err(Failure::Foreign(page.offset));
        }
    }
    Ok(())
}

/// Whether the files have these lengths.
fn are(lens: &[u64], change: &Change, wanted: impl Fn(&FileLen) -> u64) -> bool {
    lens.iter().copied().eq(change.files().iter().map(wanted))
}

/// Takes back what a failed run did. What cannot be taken back is left to recovery.
fn back_out(
    host: &mut dyn Host,
    change: &Change,
    step: Step,
    reached: Reached,
    failure: &Failure,
    buffer: &mut [u8; PAGE_LEN],
) -> Error {
    let undone = match reached {
        Reached::Nothing => true,
        Reached::Temporary => {
            // A rename can fail after its work: an answer that was lost on the way.
            let published = match step {
                Step::Publish => host.read_journal().map(|journal| {
                    journal
                        .is_some_and(|bytes| journal::check(Role::Journal, &bytes, change).is_ok())
                }),
                _ => Ok(false),
            };
            // Left behind, it is ignored and replaced.
            host.remove_temporary().ok();
            match published {
                Ok(published) => !published || withdraw(host),
                Err(_) => false,
            }
        }
        Reached::Published => withdraw(host),
        Reached::Patched(count) => put_back(host, change, count, buffer) && withdraw(host),
        Reached::Durable => false,
    };
    if !undone {
        return interrupted(step, failure);
    }
    match failure {
        Failure::Host(error) => Error::io(doing(step), error).advise(
            "the image is as it was; find out what is wrong with the disk that holds it, then try \
             again",
        ),
        Failure::Journal(error) => Error::new(
            if error.kind() == Kind::Refused {
                Kind::Refused
            } else {
                Kind::Io
            },
            format!("journal, read back before it is needed: {}", error.what()),
        )
        .advise(
            "the image is as it was; the file system beside it does not keep a journal as it was \
             written: work on another disk, or write a cleaned copy with -o OUT",
        ),
        Failure::Foreign(offset) => foreign(
            *offset,
            "make sure that no other program writes to it, then try again",
        ),
        Failure::Lying(offset) => Error::new(
            Kind::Io,
            "image: the host said that it wrote, and other bytes were read back",
        )
        .at("image offset", format_args!("{offset:#x}"))
        .advise("the old bytes were put back; do not trust the disk that holds the image"),
    }
}

/// Takes a published journal away again, durably.
fn withdraw(host: &mut dyn Host) -> bool {
    host.remove_journal().is_ok() && host.sync_directory().is_ok()
}

/// Puts the old bytes of the first `count` pages back, durably, and looks whether they are there.
fn put_back(
    host: &mut dyn Host,
    change: &Change,
    count: usize,
    buffer: &mut [u8; PAGE_LEN],
) -> bool {
    let pages = || change.pages().iter().enumerate().take(count);
    let resized = || {
        let files = change.files().iter().enumerate();
        files.filter(|(_, file)| file.old != file.new)
    };
    for (number, file) in resized() {
        // What cannot be done is found out below.
        host.set_len(number, file.old).ok();
    }
    for (number, page) in pages() {
        let Some(old) = change.old_bytes(number) else {
            return false;
        };
        // A write that fails here may be the one that failed before, and have changed nothing (a
        // full host disk): what is read back below decides.
        if !old.is_empty() {
            host.write_image(page.offset, old).ok();
        }
    }
    for number in 0..change.files().len() {
        if host.sync_image(number).is_err() {
            return false;
        }
    }
    for (number, page) in pages() {
        let found = buffer.get_mut(..page.old_len).unwrap_or_default();
        if found.is_empty() {
            continue;
        }
        host.forget_image(page.offset, page.old_len as u64);
        if host.read_image(page.offset, found).is_err() || change.old_bytes(number) != Some(found) {
            return false;
        }
    }
    change.is_plain()
        || host
            .lens()
            .is_ok_and(|lens| are(&lens, change, |file| file.old))
}

fn foreign(offset: u64, advice: &str) -> Error {
    Error::refused("image: the bytes that the change was made for expected, found others")
        .at("image offset", format_args!("{offset:#x}"))
        .advise(advice)
}

fn interrupted(step: Step, failure: &Failure) -> Error {
    let (why, offset) = match failure {
        Failure::Host(error) => (error.to_string(), None),
        Failure::Journal(error) => (error.what().to_owned(), None),
        Failure::Foreign(offset) => ("found other bytes".to_owned(), Some(*offset)),
        Failure::Lying(offset) => (
            "what was written was not read back".to_owned(),
            Some(*offset),
        ),
    };
    let error = Error::new(Kind::Interrupted, format!("{}: {why}", doing(step)));
    let error = match offset {
        Some(offset) => error.at("image offset", format_args!("{offset:#x}")),
        None => error,
    };
    error.advise(
        "do not use the image yet; when the disk that holds it works again, run `declone recover`",
    )
}

fn doing(step: Step) -> &'static str {
    match step {
        Step::WriteJournal => "journal: write",
        Step::SyncJournal => "journal: fsync",
        Step::Publish => "journal: rename",
        Step::SyncPublished => "journal: fsync of its directory",
        Step::ReadJournal => "journal: read back",
        Step::CheckOld | Step::CheckResumable => "image: read",
        Step::Extend => "image: room for what is longer",
        Step::Patch => "image: write",
        Step::Cut => "image: its new length",
        Step::SyncImage | Step::SyncCut => "image: fsync",
        Step::ReadBack => "image: read back",
        Step::RemoveJournal => "journal: removal",
        Step::SyncRemoved => "journal: fsync of its directory after the removal",
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Host(error)
    }
}
