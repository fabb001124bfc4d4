//! An image and its journal, as the verbs meet them: looked at, or opened to be written.

use std::{path::Path, sync::Arc};

use super::progress::Bar;
use crate::{
    apply::{
        change::Change,
        clone,
        host::{self, InPlace, Place},
        interrupt::{self, Hold},
        journal::{self, Bond, Role},
        protocol::{self, Recovered},
        undo,
    },
    device::{Access, BlockDevice, HostFile, HostSet},
    error::{Error, Kind, Result},
    image::{self, Options},
    report::{Done, ImageReport, PatchFacts, Phase},
    text::escape,
    verify::residue::Residue,
};

/// Fails with `Interrupted` when an in-place change of this image, or of one of its files, waits to be
/// finished.
pub(super) fn refuse_pending(image: &HostSet, journal: Option<&Path>) -> Result<()> {
    for (number, (_, file)) in image.files().enumerate() {
        if !file.is_regular() && journal.is_none() {
            // Nobody but the user knows where the journal of a block device lies.
            continue;
        }
        let place = Place::of(file, journal)?;
        if place.is_taken() {
            let named = (number > 0).then(|| file.path());
            return Err(pending(place.path(), named));
        }
        refuse_member(file)?;
    }
    Ok(())
}

/// Fails with `Interrupted` when the file is one of several, and the journal of another waits to write
/// it.
fn refuse_member(file: &HostFile) -> Result<()> {
    match host::pending_elsewhere(file)? {
        Some(journal) => {
            let shown = journal.to_string_lossy().into_owned();
            let image = shown
                .strip_suffix(host::SUFFIX)
                .unwrap_or(&shown)
                .to_owned();
            Err(pending(&journal, Some(Path::new(&image))))
        }
        None => Ok(()),
    }
}

fn pending(journal: &Path, image: Option<&Path>) -> Error {
    let error = Error::new(
        Kind::Interrupted,
        format!(
            "journal {}: none expected, found one of an in-place change that was interrupted",
            escape(&journal.display().to_string())
        ),
    );
    match image {
        None => error.advise("do not use the image yet; run `declone recover` first"),
        Some(image) => error.advise(format!(
            "do not use the files of this image yet; run `declone recover {}` first",
            escape(&image.display().to_string())
        )),
    }
}

/// What a look was worth: an error if the image got shorter, a remark if somebody wrote to it.
pub(super) fn remark_changes(host: &HostSet, report: &mut ImageReport) -> Result<()> {
    match host.check_unchanged() {
        Err(error) if error.kind() == Kind::Refused => {
            report.remarks.push(
                "it was written while it was read: what was read may not hold together".to_owned(),
            );
            Ok(())
        }
        other => other,
    }
}

/// An image opened to be written, with whatever was pending finished.
pub(super) struct Writable {
    /// Its files: only the first until [`Writable::gather`].
    pub(super) host: Arc<HostSet>,
    in_place: InPlace,
    /// The change that was finished on opening.
    pub(super) finished: Option<Change>,
    /// Kept from finishing it: a signal would otherwise end the program as if nothing had changed.
    hold: Option<Hold>,
}

impl Writable {
    /// Opens and locks the file that was named; nothing is written yet.
    pub(super) fn open(path: &Path, journal: Option<&Path>) -> Result<Self> {
        let first = Arc::new(HostFile::open_for(path, Access::InPlace)?);
        let place = Place::of(&first, journal)?;
        if !place.is_taken() {
            refuse_member(&first)?;
        }
        let host = Arc::new(HostSet::alone(first));
        Ok(Self {
            in_place: InPlace::new(host.clone(), place),
            host,
            finished: None,
            hold: None,
        })
    }

    fn set(&mut self, host: HostSet) {
        self.host = Arc::new(host);
        self.in_place.set_image(Arc::clone(&self.host));
    }

    /// Opens and locks the other files of the image, too, as its format names them. `Interrupted` if a
    /// change of one of them waits to be finished.
    pub(super) fn gather(&mut self, options: &Options) -> Result<()> {
        let first = Arc::clone(self.host.first());
        // Not twice at the same time: a lock of this process is in its own way.
        self.set(HostSet::alone(Arc::clone(&first)));
        let host = image::gather(first, Access::InPlace, options)?;
        if host.is_set() {
            InPlace::check_beside(&host)?;
            refuse_pending(&host, None)?;
        }
        self.host = host;
        self.in_place.set_image(Arc::clone(&self.host));
        Ok(())
    }

    /// Opens and locks the files that a journal or undo file names.
    pub(super) fn open_bonded(&mut self, bond: &Bond) -> Result<()> {
        if !bond.files.is_empty() {
            let first = Arc::clone(self.host.first());
            self.set(HostSet::alone(Arc::clone(&first)));
            self.set(host::open_bonded(first, bond)?);
        }
        Ok(())
    }

    /// Finishes an interrupted change, if one waits.
    pub(super) fn recover(&mut self, report: &mut ImageReport) -> Result<Recovered> {
        if let Some(bytes) = self.in_place.place().read(self.host.first())? {
            self.open_bonded(&journal::read_bond(Role::Journal, &bytes)?)?;
        }
        let waiting = protocol::pending(&mut self.in_place)?;
        let lease = self.host.lease()?;
        lease.check()?;
        let hold = interrupt::hold();
        report.phase = Phase::Writing;
        let recovered = protocol::recover(&mut self.in_place);
        drop(lease);
        match &recovered {
            Ok(Recovered::Finished { .. }) => self.hold = Some(hold),
            // Never released.
            Err(error) if error.kind() == Kind::Interrupted => {}
            _ => hold.release(),
        }
        report.phase = match &recovered {
            Err(error) if error.kind() == Kind::Interrupted => Phase::Writing,
            Ok(Recovered::Finished { .. }) => Phase::Changed,
            _ => Phase::Untouched,
        };
        let recovered = recovered?;
        if recovered != Recovered::Nothing {
            self.finished = waiting.map(|(_, change)| change);
        }
        Ok(recovered)
    }

    /// As [`Writable::recover`], for the verbs whose work comes after it.
    pub(super) fn recover_first(&mut self, report: &mut ImageReport) -> Result<()> {
        if let Recovered::Finished { pages, bytes } = self.recover(report)? {
            report.remarks.push(format!(
                "an in-place change that was interrupted was finished first: {bytes} bytes in \
                 {pages} pages"
            ));
            // From here on the image is what it was when this run began its own work.
            self.host.accept_changes()?;
            report.phase = Phase::Untouched;
            if let Some(hold) = self.hold.take() {
                hold.release();
            }
        }
        Ok(())
    }

    /// Changes the image, under a lease that keeps others from opening it meanwhile; writes the undo
    /// file first, if one is wanted.
    pub(super) fn commit(
        &mut self,
        change: &Change,
        undo: Option<&Path>,
        report: &mut ImageReport,
    ) -> Result<()> {
        let bond = self.in_place.bond(change.files())?;
        let lease = self.host.lease()?;
        self.host.check_unchanged()?;
        let hold = interrupt::hold();
        if let Some(path) = undo
            && let Err(error) = undo::write(path, &bond, change)
        {
            hold.release();
            return Err(error);
        }
        let result = lease.check().and_then(|()| {
            report.phase = Phase::Writing;
            protocol::commit(&mut self.in_place, &bond, change)
        });
        drop(lease);
        if result.is_ok() {
            // Its length may be another.
            self.host.accept_changes().ok();
        }
        report.phase = match &result {
            Ok(()) => Phase::Changed,
            Err(error) if error.kind() == Kind::Interrupted => Phase::Writing,
            Err(_) => {
                if let Some(path) = undo {
                    undo::remove(path);
                }
                hold.release();
                Phase::Untouched
            }
        };
        result
    }
}

/// A change as the report tells it.
pub(super) fn done(host: &HostSet, change: &Change) -> Done {
    Done {
        written: true,
        in_place: true,
        changed_bytes: change.bytes(),
        patches: patches(host, change),
        ..Done::default()
    }
}

/// The changed pages with their digests.
pub(super) fn patches(host: &HostSet, change: &Change) -> Vec<PatchFacts> {
    change
        .pages()
        .iter()
        .map(|page| {
            let (file, offset) = named(host, page.offset);
            PatchFacts {
                file,
                offset,
                at: page.offset,
                disk_offset: None,
                len: page.span() as u64,
                sha256_old: hex::encode(page.old),
                sha256_new: hex::encode(page.new),
            }
        })
        .collect()
}

/// A byte of the image as a report names it: the file, if it is one of several, and the offset there.
pub(super) fn named(host: &HostSet, offset: u64) -> (Option<String>, u64) {
    if !host.is_set() {
        return (None, offset);
    }
    let (number, inside) = host.locate(offset).unwrap_or_default();
    let name = host.files().nth(number).and_then(|(_, file)| {
        let name = file.path().file_name()?;
        Some(escape(&name.to_string_lossy()))
    });
    (name, inside)
}

/// Says of each trace in which file it lies, if the image is several.
pub(super) fn name_residues(host: &HostSet, residues: &mut [Residue]) {
    for residue in residues.iter_mut().filter(|_| host.is_set()) {
        if let Some(at) = residue.image_offset {
            let (file, inside) = named(host, at);
            residue.file = file;
            residue.file_offset = Some(inside);
        }
    }
}

/// The lengths of the files, of which only one may be meant to change.
pub(super) fn lens(host: &HostSet) -> Vec<u64> {
    host.parts().iter().map(|part| part.len).collect()
}

/// SHA-256 of the image's file; of several, one behind the other.
pub(super) fn digest_of(host: &HostSet, bar: &Bar) -> Result<String> {
    let files: Vec<&HostFile> = host.files().map(|(_, file)| file.as_ref()).collect();
    clone::file_digest(&files, &mut |done| bar.tick("hashing", done, host.bytes()))
}
