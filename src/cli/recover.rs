//! `declone recover`: finish what was interrupted.

use super::{
    RecoverArgs, exit_code,
    place::{self, Writable},
};
use crate::{
    apply::{
        host::{self, Place},
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
            report.done = image
                .finished
                .as_ref()
                .map(|change| place::done(&image.host, change));
        }
    }
    // It was not asked for what that clean was asked: its own result stays, and its code.
    report.resumed = super::evidence::pick_up(&args.voice, None, &image.host, report)?;
    Ok(())
}

/// Looks only, and does not need the image for itself.
fn status(args: &RecoverArgs, report: &mut ImageReport) -> Result<()> {
    let host = HostFile::open(&args.image)?;
    let place = Place::of(&host, args.journal.path.as_deref())?;
    let Some(bytes) = place.read(&host)? else {
        if let Some(journal) = host::pending_elsewhere(&host)? {
            report.result = "pending";
            report.exit_code = exit_code(Kind::Interrupted);
            report.remarks.push(format!(
                "{} waits to write it as one of several files",
                crate::text::escape(&journal.display().to_string())
            ));
            return Ok(());
        }
        report.result = "whole";
        return Ok(());
    };
    let (bond, change) = journal::read(Role::Journal, &bytes)?;
    report.result = "pending";
    report.exit_code = exit_code(Kind::Interrupted);
    report.remarks.push(format!(
        "{} waits to write {} bytes in {} pages",
        crate::text::escape(&place.path().display().to_string()),
        change.bytes(),
        change.pages().len()
    ));
    if bond.files.len() > 1 {
        let names: Vec<String> = bond
            .files
            .iter()
            .map(|file| crate::text::escape(&String::from_utf8_lossy(&file.name)))
            .collect();
        report
            .remarks
            .push(format!("of the files {}", names.join(", ")));
    }
    Ok(())
}
