//! `declone scan`: look, say, touch nothing.

use std::path::Path;

use super::{Common, exit_code, facts, foresee, guarded, place, place::digest_of};
use crate::{
    device::{Access, Device},
    error::{Error, Kind, Result},
    image::{self, Content, Image},
    plan::{self, Plan},
    report::{ErrorFacts, ImageReport, verdict::Terms},
    rules::Rule,
    verify::residue,
};

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To tell what is in the image, with progress.
    Alone,
    /// As that, while others are looked at: then there is no progress.
    AmongOthers,
    /// Its ids only: what a clean would do is not asked.
    Ids,
}

/// Looks at one image.
pub(super) fn run(
    path: &Path,
    common: &Common,
    (rules, terms): (&[Rule], &Terms),
    aim: Aim,
) -> ImageReport {
    let mut report = guarded("scan", path, |report| {
        let bar = match aim {
            Aim::AmongOthers => super::progress::Bar::new(true),
            Aim::Alone | Aim::Ids => common.progress(),
        };
        scan(path, common, (rules, terms), (aim, &bar), report)
    });
    report.name_rules(rules);
    let pending = report
        .errors
        .iter()
        .any(|error| error.kind == Kind::Interrupted);
    if pending {
        // What was seen may be half old, half new: that outweighs everything else.
        report.result = "interrupted";
        report.exit_code = exit_code(Kind::Interrupted);
    }
    report
}

fn scan(
    path: &Path,
    common: &Common,
    (rules, terms): (&[Rule], &Terms),
    (aim, bar): (Aim, &super::progress::Bar),
    report: &mut ImageReport,
) -> Result<()> {
    if super::directory::is_one(path, common)? {
        return super::directory::scan(path, common, (rules, terms), aim, report);
    }
    let options = common.options(path);
    let host = image::open_files(path, Access::Look, &options)?;
    report.remarks.extend(host.remarks());
    if let Err(error) = place::refuse_pending(&host, common.journal.path.as_deref()) {
        report.errors.push(ErrorFacts::from(&error));
    }
    let image = image::open(host.clone(), &options)?;
    let plan = plan::make(&image, rules, &mut |stage, done, total| {
        bar.tick(stage, done, total)
    })?;
    facts::fill(report, &image, &plan)?;
    report.residues.extend(residue::unreferenced(&image)?);
    if common.hash.is_some()
        && let Some(facts) = &mut report.image
    {
        let digest = digest_of(&host, bar)?;
        facts.sha256 = Some(digest);
    }
    place::remark_changes(&host, report)?;
    settle(report, &image, &plan, (rules, terms));
    if aim != Aim::Ids {
        let base: Device = host.clone();
        foresee::of_image(report, &base, image, plan, &options);
    }
    options.near.check_reads()?;
    host.check_reads()
}

/// Result and exit code of a look: damage outweighs findings, findings outweigh nothing.
pub(super) fn settle(
    report: &mut ImageReport,
    image: &Image,
    plan: &Plan,
    (rules, terms): (&[Rule], &Terms),
) {
    let looked = image.volumes.iter().any(|volume| volume.tree().is_some());
    report.settle_look(terms, rules, looked);
    let found = report.result == "findings";
    let broken = image
        .volumes
        .iter()
        .filter_map(|volume| match &volume.content {
            Content::Broken(error) => Some(error),
            _ => None,
        });
    let damaged = plan
        .volumes
        .iter()
        .flat_map(|part| part.blockers.iter().chain(&part.dirty));
    for error in broken.chain(damaged) {
        add_error(report, error);
    }
    // "Nothing found" would be read as "clean", by programs above all.
    if !found && !looked && report.errors.is_empty() {
        let what = "image: a volume that declone reads expected, found none";
        let advice = "what is there stands under \"Not looked at\"; decrypt or capture it anew";
        add_error(report, &Error::new(Kind::Unsupported, what).advise(advice));
    }
}

/// A scan goes on past damage, but does not end as if there were none. A state in which only a
/// write would be unsafe is no failure of a scan.
fn add_error(report: &mut ImageReport, error: &Error) {
    report.errors.push(ErrorFacts {
        foreseen: error.kind() == Kind::Refused,
        ..ErrorFacts::from(error)
    });
    if error.kind() != Kind::Refused {
        report.exit_code = report.exit_code.max(exit_code(error.kind()));
    }
}
