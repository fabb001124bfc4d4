//! An image and its journal, as the verbs meet them: looked at, or opened to be written.

use std::{path::Path, sync::Arc};

use crate::{
    apply::{
        change::Change,
        host::{InPlace, Place},
        interrupt::{self, Hold},
        protocol::{self, Recovered},
        undo,
    },
    device::{Access, HostFile},
    error::{Error, Kind, Result},
    report::{Done, ImageReport, PatchFacts, Phase},
    text::escape,
};

/// Fails with `Interrupted` when an in-place change of this image waits to be finished.
pub(super) fn refuse_pending(host: &HostFile, journal: Option<&Path>) -> Result<()> {
    if !host.is_regular() && journal.is_none() {
        // Nobody but the user knows where the journal of a block device lies.
        return Ok(());
    }
    let place = Place::of(host, journal)?;
    if !place.is_taken() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Interrupted,
        format!(
            "journal {}: none expected, found one of an in-place change that was interrupted",
            escape(&place.path().display().to_string())
        ),
    )
    .advise("do not use the image yet; run `declone recover` first"))
}

/// What a look was worth: an error if the image got shorter, a remark if somebody wrote to it.
pub(super) fn remark_changes(host: &HostFile, report: &mut ImageReport) -> Result<()> {
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
    pub(super) host: Arc<HostFile>,
    in_place: InPlace,
    /// The change that was finished on opening.
    pub(super) finished: Option<Change>,
    /// Kept from finishing it: a signal would otherwise end the program as if nothing had changed.
    hold: Option<Hold>,
}

impl Writable {
    /// Opens and locks; nothing is written yet.
    pub(super) fn open(path: &Path, journal: Option<&Path>) -> Result<Self> {
        let host = Arc::new(HostFile::open_for(path, Access::InPlace)?);
        let place = Place::of(&host, journal)?;
        Ok(Self {
            in_place: InPlace::new(host.clone(), place),
            host,
            finished: None,
            hold: None,
        })
    }

    /// Finishes an interrupted change, if one waits.
    pub(super) fn recover(&mut self, report: &mut ImageReport) -> Result<Recovered> {
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
        let bond = self.in_place.bond()?;
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
pub(super) fn done(change: &Change) -> Done {
    Done {
        written: true,
        in_place: true,
        changed_bytes: change.bytes(),
        patches: patches(change),
        ..Done::default()
    }
}

/// The changed pages with their digests.
pub(super) fn patches(change: &Change) -> Vec<PatchFacts> {
    change
        .pages()
        .iter()
        .map(|page| PatchFacts {
            offset: page.offset,
            disk_offset: None,
            len: page.len as u64,
            sha256_old: hex::encode(page.old),
            sha256_new: hex::encode(page.new),
        })
        .collect()
}
