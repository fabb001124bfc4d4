//! What a clean would be refused for. A look runs the checks of a clean, up to the edits themselves, which
//! are made in memory and dropped.
//!
//! Left out, as they cost as much as the clean or need its target: writing an archive's resources, the second
//! look at the staged result, the search, locks, room, and disks that stand on this one. `clean -n` does the
//! first three.

use std::sync::Arc;

use super::clean;
use crate::{
    apply::{guard, stage},
    device::{BlockDevice, Device, Overlay},
    error::{Error, Result},
    image::{self, Image, Options},
    plan::Plan,
    report::{ErrorFacts, ImageReport},
};

/// Adds to the report's errors what a clean with the same rules would end with. Their kinds do not make the
/// look fail: it did see everything that it tells.
pub(super) fn of_image(
    report: &mut ImageReport,
    base: &Device,
    image: Image,
    mut plan: Plan,
    options: &Options,
) {
    if !refusals(report, &image, &mut plan, options) || !plan.has_edits() {
        return;
    }
    let is_archive = image.writer.is_some();
    // The edits are made in an image that is opened anew, and the memory of an archive's trees counts.
    drop(image);
    if let Err(error) = stage(base, &plan, is_archive, options) {
        add(report, &error);
    }
}

/// As [`of_image`], for a directory, whose files are replaced whole.
pub(super) fn of_directory(
    report: &mut ImageReport,
    image: &Image,
    mut plan: Plan,
    options: &Options,
) {
    if refusals(report, image, &mut plan, options)
        && plan.has_edits()
        && let Err(error) = stage::stage(image, &plan)
    {
        add(report, &error);
    }
}

/// False if there is any. An image in which nothing can be read is no subject: the look itself says so.
fn refusals(report: &mut ImageReport, image: &Image, plan: &mut Plan, options: &Options) -> bool {
    if !image.volumes.iter().any(|volume| volume.tree().is_some()) {
        return false;
    }
    // Obstacles stand in the report with their volume.
    let obstacles = plan.volumes.iter().filter(|part| part.has_edits());
    let told: Vec<&str> = obstacles
        .flat_map(|part| part.obstacles.iter().map(|obstacle| obstacle.id))
        .collect();
    let reasons = clean::reasons(image, plan, options, (false, &told));
    for reason in &reasons {
        add(report, reason);
    }
    reasons.is_empty() && told.is_empty()
}

fn stage(base: &Device, plan: &Plan, is_archive: bool, options: &Options) -> Result<()> {
    let overlay = Arc::new(Overlay::new(Arc::clone(base)));
    if !is_archive {
        image::open(overlay.clone(), options)?.places.settle()?;
    }
    let target = image::open(overlay.clone(), options)?;
    stage::stage(&target, plan)?;
    if !is_archive {
        target.places.seal()?;
        let parts = overlay.parts();
        let ranges = parts.iter().map(|part| part.start..part.start + part.len);
        guard::check(&overlay.diff()?, &ranges.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn add(report: &mut ImageReport, error: &Error) {
    let new = ErrorFacts::from(error);
    let same = |old: &ErrorFacts| {
        // Damage that the look itself met has an address of its own.
        old.what == new.what && (!old.foreseen || old.trail == new.trail)
    };
    if report.errors.iter().any(same) {
        return;
    }
    report.errors.push(ErrorFacts {
        foreseen: true,
        ..new
    });
}
