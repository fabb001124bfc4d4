//! `declone undo`: put back what a clean in place replaced.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use super::{
    UndoArgs,
    place::{self, Writable},
};
use crate::{
    apply::{change::Change, outputs, undo},
    device::BlockDevice,
    error::{Error, Kind, Result},
    report::ImageReport,
    text::escape,
};

/// The image that will be written, as far as it is known before the undo file was checked.
pub(super) fn image_path(args: &UndoArgs) -> Option<PathBuf> {
    args.image.clone().or_else(|| {
        let (bond, ..) = undo::read(&args.file).ok()?;
        (!bond.path.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&bond.path)))
    })
}

pub(super) fn run(args: &UndoArgs, report: &mut ImageReport) -> Result<()> {
    let (bond, back, owner) = undo::read(&args.file)?;
    let path = match &args.image {
        Some(path) => path.clone(),
        None if bond.path.is_empty() => {
            return Err(Error::new(
                Kind::Usage,
                "undo file: the path of its image expected, found none",
            )
            .advise("pass --image IMAGE"));
        }
        None => PathBuf::from(OsStr::from_bytes(&bond.path)),
    };
    report.path = escape(&path.display().to_string());
    if args.journal.path.is_none() {
        outputs::check_beside(&path)?;
    }
    let mut image = Writable::open(&path, args.journal.path.as_deref()).map_err(|e| {
        if args.image.is_none() && e.kind() == Kind::Io {
            e.advise("if the image was moved since, pass --image IMAGE")
        } else {
            e
        }
    })?;
    undo::check_owner(owner, image.host.first())?;
    image.recover_first(report)?;
    image.open_bonded(&bond)?;
    let host = image.host.clone();
    let mut read = |at: u64, buf: &mut [u8]| host.read_at(at, buf);
    // An undo that was interrupted and is run again: finishing it was the whole job.
    let finished_it = image.finished.as_ref().is_some_and(|change| {
        change.seal() == back.seal()
            && change
                .pages()
                .iter()
                .zip(back.pages())
                .all(|(a, b)| a.new == b.new)
    });
    if !finished_it {
        undo::check(&back, &place::lens(&host), &mut read)?;
        let change = Change::prepare(&back.patches(), back.files(), &mut read)?;
        if change.seal() != back.seal() {
            return Err(Error::refused(
                "image: the bytes that the clean wrote expected, found others",
            )
            .advise("another program writes to it; try again when it is at rest"));
        }
        image.commit(&change, None, report)?;
    }
    report.result = "undone";
    report.done = Some(place::done(&host, &back));
    report.remarks.push(format!(
        "{} still holds the identity; so does the image now",
        escape(&args.file.display().to_string())
    ));
    Ok(())
}
