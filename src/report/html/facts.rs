//! The parts of a page that list plain facts.

use super::{IN_JSON, card, count, tag::Html};
use crate::{
    error::Kind,
    report::{ImageReport, VolumeFacts, text::size},
};

/// Most lines of one list.
const MAX_LINES: usize = 200;

/// A list that says how much of it is not shown.
fn list<T>(h: &mut Html<'_>, items: &[T], mut show: impl FnMut(&mut Html<'_>, &T)) {
    h.class("ul", "plain", |h| {
        for item in items.iter().take(MAX_LINES) {
            h.el("li", |h| show(h, item));
        }
        if items.len() > MAX_LINES {
            let more = items.len() - MAX_LINES;
            h.class("li", "soft", |h| {
                h.text(format_args!("... and {more} more: {IN_JSON}"));
            });
        }
    });
}

/// What the file is, below its name.
pub(super) fn container(h: &mut Html<'_>, report: &ImageReport) {
    let Some(image) = &report.image else { return };
    let facts = &image.container;
    let mut parts = vec![
        match facts.kind.as_deref() {
            Some(kind) => format!("{} ({kind})", image.format),
            None => image.format.clone(),
        },
        format!("{} disk of {}", image.scheme, size(image.disk_len)),
        format!("file of {}", size(image.file_len)),
    ];
    parts.extend(facts.creator.iter().map(|name| format!("made by {name}")));
    parts.extend(
        facts
            .block_size
            .map(|len| format!("blocks of {}", size(len))),
    );
    if let (Some(allocated), Some(blocks)) = (facts.allocated, facts.blocks) {
        parts.push(format!("{allocated} of {blocks} blocks allocated"));
    }
    parts.extend(facts.log.iter().map(|log| format!("log: {log}")));
    parts.extend(facts.id.iter().map(|id| format!("disk id {id}")));
    parts.extend(facts.chain.iter().map(|name| format!("on top of {name}")));
    h.line("p", "soft", parts.join(" · "));
    h.line(
        "p",
        "soft small",
        format_args!("recognised by {}", image.evidence),
    );
    for note in &image.notes {
        h.line("p", "note warn", note);
    }
}

/// What stood in the way, or went wrong.
pub(super) fn errors(h: &mut Html<'_>, report: &ImageReport) {
    let obstacles = report.volumes.iter().flat_map(|volume| {
        let at = format!("{} {}", volume.unit, volume.partition);
        volume.obstacles.iter().map(move |o| (at.clone(), o))
    });
    let obstacles: Vec<_> = obstacles.collect();
    if report.errors.is_empty() && obstacles.is_empty() {
        return;
    }
    let looked = ["scan", "verify"].contains(&report.verb);
    card(h, "What stands in the way", |h| {
        for error in report.errors.iter().take(MAX_LINES) {
            let (head, class) = match error.kind {
                _ if error.foreseen => ("a clean would be refused", "note warn"),
                Kind::Refused if looked => ("a clean would be refused", "note warn"),
                Kind::Refused => ("refused", "note warn"),
                _ => ("error", "note bad"),
            };
            h.class("div", class, |h| {
                h.el("b", |h| h.text(head));
                h.text(format_args!(": {}", error.what));
                if !error.trail.is_empty() {
                    h.class("dl", "ladder", |h| {
                        for place in &error.trail {
                            h.el("dt", |h| h.text(place.space));
                            h.el("dd", |h| h.text(&place.value));
                        }
                    });
                }
                if let Some(advice) = &error.advice {
                    h.el("p", |h| h.text(format_args!("What to do: {advice}")));
                }
            });
        }
        for (at, obstacle) in obstacles.iter().take(MAX_LINES) {
            h.class("div", "note warn", |h| {
                h.el("b", |h| h.text(format_args!("{at} must not be written")));
                h.text(format_args!(": {}", obstacle.what));
                h.el("p", |h| {
                    h.text(format_args!("What to do: {}", obstacle.advice))
                });
            });
        }
    });
}

/// What a clean did, or would do.
pub(super) fn done(h: &mut Html<'_>, report: &ImageReport) {
    let Some(done) = &report.done else { return };
    let title = match done.written {
        true => "What was done",
        false => "What would be done",
    };
    card(h, title, |h| {
        let mut lines: Vec<(String, String)> = Vec::new();
        for hive in &done.hives {
            let stale = hive.wiped_free + hive.wiped_leaked + hive.wiped_slack + hive.wiped_tail;
            let notes: String = hive.notes.iter().map(|note| format!("; {note}")).collect();
            lines.push((
                hive.path.clone(),
                format!(
                    "{} values and {} keys taken out, {stale} stale bytes zeroed (free cells {}, \
                     slack {}, behind the bins {}){notes}",
                    hive.values,
                    hive.keys,
                    hive.wiped_free + hive.wiped_leaked,
                    hive.wiped_slack,
                    hive.wiped_tail
                ),
            ));
        }
        for log in &done.logs {
            let what = "transaction log, filled with zeros to the end of its last cluster";
            lines.push((log.clone(), what.to_owned()));
        }
        for removal in &done.removals {
            let paths = removal.paths.join(", ");
            lines.push((
                format!("{} {}", removal.unit, removal.partition),
                format!(
                    "{} removed ({} file records, {} index entries, {} clusters freed and zeroed): \
                     {paths}",
                    count(removal.paths.len(), "file"),
                    removal.records,
                    removal.index_entries,
                    removal.clusters
                ),
            ));
        }
        let wiped = done
            .wiped
            .iter()
            .map(|what| ("stale copy zeroed".to_owned(), what.clone()));
        lines.extend(wiped);
        let seen = done
            .witnesses
            .iter()
            .map(|what| ("second witness".to_owned(), what.clone()));
        lines.extend(seen);
        if done.in_place && done.written {
            let what = "written in place through a journal, read back and compared";
            lines.push(("image".to_owned(), what.to_owned()));
        }
        if let Some(output) = &done.output {
            let method = done.method.unwrap_or("copy");
            lines.push(("new file".to_owned(), format!("{output} ({method})")));
        }
        if let Some(undo) = &done.undo {
            let what = "holds the removed identity; delete it when the image is good";
            lines.push(("undo file".to_owned(), format!("{undo}: {what}")));
        }
        pairs(h, &lines);
        if done.patches.is_empty() {
            return;
        }
        h.el("details", |h| {
            let pages = count(done.patches.len(), "changed page");
            h.el("summary", |h| h.text(format_args!("{pages}, with digests")));
            h.class("table", "list", |h| {
                header(
                    h,
                    &["Image offset", "Length", "SHA-256 before", "SHA-256 after"],
                );
                h.el("tbody", |h| {
                    for patch in done.patches.iter().take(MAX_LINES) {
                        h.el("tr", |h| {
                            h.cell("Offset", |h| {
                                h.line("span", "mono", format_args!("{:#x}", patch.offset));
                            });
                            h.cell("Length", |h| h.text(patch.len));
                            h.cell("Before", |h| h.line("span", "mono", &patch.sha256_old));
                            h.cell("After", |h| h.line("span", "mono", &patch.sha256_new));
                        });
                    }
                });
            });
            if done.patches.len() > MAX_LINES {
                let more = done.patches.len() - MAX_LINES;
                h.line("p", "soft", format_args!("... and {more} more: {IN_JSON}"));
            }
        });
    });
}

/// What was searched, and what was found.
pub(super) fn search(h: &mut Html<'_>, report: &ImageReport) {
    if report.searched.is_empty() {
        return;
    }
    card(h, "Search of raw bytes", |h| {
        let left: Vec<_> = report.residues.iter().filter(|r| r.is_identity()).collect();
        let mentions = report.residues.len() - left.len();
        h.el("p", |h| {
            let tokens = count(report.tokens.len(), "byte string");
            h.text(format_args!("{tokens} searched for. "));
            match left.len() {
                0 => h.text("Nothing of the identity was found."),
                n => h.text(format_args!("{} LEFT:", count(n, "trace"))),
            }
            if mentions > 0 {
                let live = count(mentions, "live mention");
                h.text(format_args!(" {live} of the names alone (no identity)."));
            }
        });
        if !left.is_empty() {
            h.class("table", "list", |h| {
                header(h, &["What", "Whose", "Where"]);
                h.el("tbody", |h| {
                    for residue in left.iter().take(MAX_LINES) {
                        h.el("tr", |h| {
                            h.cell("What", |h| h.text(&residue.token));
                            h.cell("Whose", |h| h.text(&residue.owner));
                            h.cell("Where", |h| {
                                let at = |at: Option<u64>| at.map(|at| format!("{at:#x}"));
                                h.class("dl", "ladder", |h| {
                                    let steps = [
                                        ("partition", residue.partition.map(|n| n.to_string())),
                                        ("volume offset", at(residue.volume_offset)),
                                        ("image offset", at(residue.image_offset)),
                                        ("file", residue.file.clone()),
                                        ("file offset", at(residue.file_offset)),
                                    ];
                                    for (space, value) in steps {
                                        let Some(value) = value else { continue };
                                        h.el("dt", |h| h.text(space));
                                        h.el("dd", |h| h.text(value));
                                    }
                                });
                            });
                        });
                    }
                });
            });
            if left.len() > MAX_LINES {
                let more = left.len() - MAX_LINES;
                h.line("p", "soft", format_args!("... and {more} more: {IN_JSON}"));
            }
        }
        h.el("details", |h| {
            h.el("summary", |h| h.text("What was searched"));
            let areas: Vec<_> = report
                .searched
                .iter()
                .map(|area| (area.what.clone(), size(area.bytes)))
                .collect();
            pairs(h, &areas);
        });
    });
}

/// What was not looked at: never folded away.
pub(super) fn not_scanned(h: &mut Html<'_>, report: &ImageReport) {
    card(h, "Not looked at", |h| {
        if report.image.is_none() {
            h.line("p", "soft", "Everything: the image was not read.");
        } else if report.not_scanned.is_empty() {
            h.line("p", "soft", "Nothing was left out.");
        }
        list(h, &report.not_scanned, |h, item| {
            h.el("b", |h| h.text(&item.what));
            h.text(format_args!(": {} ({})", item.reason, item.class.name()));
            if let Some(remedy) = &item.remedy {
                h.text(format_args!(" What to do: {remedy}."));
            }
        });
    });
}

/// What of the identity was seen and is not removed.
pub(super) fn left(h: &mut Html<'_>, report: &ImageReport) {
    if report.left.is_empty() {
        return;
    }
    card(h, "Left", |h| {
        list(h, &report.left, |h, item| {
            h.el("b", |h| h.text(&item.owner));
            h.text(format_args!(": {} ({})", item.what, item.class.name()));
            h.text(format_args!(" What to do: {}.", item.remedy));
        });
    });
}

/// Every volume with its Windows directories and hives.
pub(super) fn volumes(h: &mut Html<'_>, report: &ImageReport) {
    if report.volumes.is_empty() {
        return;
    }
    card(h, "Volumes", |h| {
        for volume in report.volumes.iter().take(MAX_LINES) {
            h.el("h4", |h| {
                let name = volume.slot_name.as_ref().map(|name| format!(" \"{name}\""));
                h.text(format_args!(
                    "{} {}: {}{}",
                    volume.unit,
                    volume.partition,
                    volume.filesystem,
                    name.unwrap_or_default()
                ));
            });
            one_volume(h, volume);
        }
    });
}

fn one_volume(h: &mut Html<'_>, volume: &VolumeFacts) {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut add = |what: &str, value: String| lines.push((what.to_owned(), value));
    match volume.unit {
        "image" => add("image of the archive", volume.slot_kind.clone()),
        _ => {
            let at = format!(
                "disk offset {:#x}, {}",
                volume.disk_offset,
                size(volume.len)
            );
            add("place", at);
            add("partition type", volume.slot_kind.clone());
        }
    }
    match &volume.closed {
        Some(reason) => add("not read", reason.clone()),
        None => add(
            "contents",
            format!("{} files and directories", volume.files),
        ),
    }
    for root in &volume.installations {
        add("Windows", root.clone());
    }
    for hive in &volume.hives {
        let state = format!(
            "{} ({}, {}, {})",
            hive.path,
            hive.role,
            size(hive.len),
            hive.state
        );
        add("hive", state);
        for log in hive.replay.iter().flat_map(|replay| &replay.logs) {
            let fate = log.fate.replace('_', " ");
            add(
                "its log",
                format!("{} ({}): {fate} {}", log.path, size(log.len), log.detail),
            );
        }
    }
    for problem in volume.problems.iter().take(MAX_LINES) {
        add("damaged", problem.clone());
    }
    pairs(h, &lines);
}

/// Digests of whole files.
pub(super) fn digests(h: &mut Html<'_>, report: &ImageReport) {
    let before = report
        .image
        .as_ref()
        .and_then(|image| image.sha256.as_ref());
    let after = report.done.as_ref().and_then(|done| done.sha256.as_ref());
    if before.is_none() && after.is_none() {
        return;
    }
    card(h, "SHA-256 of whole files", |h| {
        let lines = [
            ("the image, as it was read", before),
            ("the file, as it is now", after),
        ];
        let lines: Vec<_> = lines
            .into_iter()
            .filter_map(|(what, digest)| Some((what.to_owned(), digest?.clone())))
            .collect();
        h.class("dl", "facts", |h| {
            for (what, digest) in &lines {
                h.el("dt", |h| h.text(what));
                h.line("dd", "mono", digest);
            }
        });
    });
}

/// Names and what is said of them.
pub(super) fn pairs(h: &mut Html<'_>, lines: &[(String, String)]) {
    h.class("dl", "facts", |h| {
        for (what, value) in lines.iter().take(MAX_LINES) {
            h.el("dt", |h| h.text(what));
            h.el("dd", |h| h.text(value));
        }
    });
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        h.line("p", "soft", format_args!("... and {more} more: {IN_JSON}"));
    }
}

/// The head of a table.
pub(super) fn header(h: &mut Html<'_>, names: &[&'static str]) {
    h.el("thead", |h| {
        h.el("tr", |h| {
            for name in names {
                h.el("th", |h| h.text(name));
            }
        });
    });
}
