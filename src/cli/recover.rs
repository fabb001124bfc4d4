//! `declone recover`: finish what was interrupted.

use super::{
    RecoverArgs, exit_code,
    place::{self, Writable},
};
use crate::{
    apply::{
        host::Place,
        journal::{self, Role},
        protocol::Recovered,
    },
    device::HostFile,
    error::{Error, Kind, Result},
    report::ImageReport,
};

pub(super) fn run(args: &RecoverArgs, report: &mut ImageReport) -> Result<()> {
    if args.image.is_dir() {
        return Err(Error::new(
            Kind::Usage,
            "recover: an image expected, found a directory: there is no journal for one",
        )
        .advise("run `declone clean DIR --in-place` again: it finishes what is left"));
    }
    let journal = args.journal.path.as_deref();
    if args.status {
        return status(args, report);
    }
    let mut image = Writable::open(&args.image, journal)?;
    match image.recover(report)? {
        Recovered::Nothing => report.result = "whole",
        Recovered::Finished { .. } => {
            report.result = "recovered";
            report.done = image.finished.as_ref().map(place::done);
        }
    }
    Ok(())
}

/// Looks only, and does not need the image for itself.
fn status(args: &RecoverArgs, report: &mut ImageReport) -> Result<()> {
    let host = HostFile::open(&args.image)?;
    let place = Place::of(&host, args.journal.path.as_deref())?;
    let Some(bytes) = place.read(&host)? else {
        report.result = "whole";
        return Ok(());
    };
    let (_, change) = journal::read(Role::Journal, &bytes)?;
    report.result = "pending";
    report.exit_code = exit_code(Kind::Interrupted);
    report.remarks.push(format!(
        "{} waits to write {} bytes in {} pages",
        crate::text::escape(&place.path().display().to_string()),
        change.bytes(),
        change.pages().len()
    ));
    Ok(())
}
