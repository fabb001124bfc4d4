//! The report for a person: what it is, what was found, the articles' steps ticked off, what was
//! not looked at.

use std::fmt::{self, Write};

use super::{ContainerFacts, Done, ImageFacts, ImageReport, VolumeFacts, count};
use crate::{
    error::Kind,
    plan::{Finding, Subject, tokens::Class},
    rules::{Action, Confidence, Rule},
    tree::UnseenClass,
    verify::residue::Residue,
};

/// Most hits printed one by one; the JSON has them all.
const MAX_LINES: usize = 20;

/// Writes the whole report of one image.
pub fn write(out: &mut String, report: &ImageReport, rules: &[Rule]) -> fmt::Result {
    writeln!(out, "{}", report.path)?;
    if let Some(image) = &report.image {
        match report.is_directory() {
            true => writeln!(out, "  {} {}", image.format, image.evidence)?,
            false => writeln!(
                out,
                "  {}, {}, {} disk of {}",
                image.format,
                image.evidence,
                image.scheme,
                size(image.disk_len)
            )?,
        }
        write_container(out, image)?;
        for note in &image.notes {
            writeln!(out, "  note: {note}")?;
        }
        if let Some(digest) = &image.sha256 {
            writeln!(out, "  sha256 {digest}")?;
        }
    }
    for remark in &report.remarks {
        writeln!(out, "  note: {remark}")?;
    }
    for volume in &report.volumes {
        write_volume(out, volume)?;
    }
    super::machines::write(out, &report.machines)?;
    if ["scan", "clean"].contains(&report.verb) || !report.findings.is_empty() {
        write_steps(out, report, rules)?;
    }
    if let Some(done) = &report.done {
        write_done(out, done, report.is_directory())?;
    }
    write_search(out, report)?;
    write_left(out, report)?;
    write_unseen(out, report)?;
    if !report.missing.is_empty() {
        writeln!(out, "\nRequired, and not so")?;
        for missing in &report.missing {
            writeln!(out, "  {missing}")?;
        }
    }
    for error in &report.errors {
        let head = match error.kind {
            _ if error.foreseen => "a clean would be refused",
            Kind::Refused
                if ["scan", "verify"].contains(&report.verb) && report.image.is_some() =>
            {
                "a clean would be refused"
            }
            Kind::Refused => "refused",
            _ => "error",
        };
        write!(out, "\n{}: {head}: ", report.path)?;
        write!(out, "{}", error.what)?;
        if !error.trail.is_empty() {
            let trail: Vec<String> = error
                .trail
                .iter()
                .map(|p| format!("{} {}", p.space, p.value))
                .collect();
            write!(out, " ({})", trail.join(", "))?;
        }
        if let Some(advice) = &error.advice {
            write!(out, "\n  what to do: {advice}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "\n{}", verdict(report))?;
    match report.result {
        "findings" if report.verb == "scan" && deletable(report) > 0 && report.is_directory() => {
            writeln!(
                out,
                "What next: `declone clean DIR -n` shows what a clean would do, `declone clean DIR \
                 --in-place` cleans it."
            )
        }
        "findings" if report.verb == "scan" && deletable(report) > 0 => writeln!(
            out,
            "What next: `declone clean IMAGE -n` shows what a clean would do and checks what this look \
             left out (the staged result read again, the search), `declone clean IMAGE -o OUT` writes a \
             cleaned copy."
        ),
        _ => Ok(()),
    }
}

fn write_container(out: &mut String, image: &ImageFacts) -> fmt::Result {
    let facts = &image.container;
    if *facts == ContainerFacts::default() {
        return Ok(());
    }
    let mut parts: Vec<String> = facts.kind.iter().cloned().collect();
    parts.push(format!("file of {}", size(image.file_len)));
    parts.extend(facts.creator.iter().map(|name| format!("made by {name}")));
    parts.extend(
        facts
            .block_size
            .map(|bytes| format!("blocks of {}", size(bytes))),
    );
    if let (Some(allocated), Some(blocks)) = (facts.allocated, facts.blocks) {
        parts.push(format!("{allocated} of {blocks} allocated"));
    }
    parts.extend(facts.log.iter().map(|log| format!("log: {log}")));
    parts.extend(facts.id.iter().map(|id| format!("disk id {id}")));
    match facts.files.as_slice() {
        [] => {}
        [only] => parts.push(format!("with {only}")),
        [first, .., last] => parts.push(format!(
            "with {} files, {first} to {last}",
            facts.files.len()
        )),
    }
    if !facts.chain.is_empty() {
        parts.push(format!("on top of {}", facts.chain.join(", on top of ")));
    }
    writeln!(out, "  container: {}", parts.join(", "))
}

fn deletable(report: &ImageReport) -> usize {
    let findings = report.findings.iter();
    findings.filter(|f| f.action == Action::Delete).count()
}

pub(super) fn verdict(report: &ImageReport) -> String {
    let deletable = deletable(report);
    let unread = match report.unseen_count() {
        0 => String::new(),
        1 => "; 1 thing was not looked at, see above".to_owned(),
        n => format!("; {n} things were not looked at, see above"),
    };
    let traces = report.left.iter().filter(|left| !left.accepted).count();
    let left = match traces {
        0 => String::new(),
        1 => "; 1 trace is LEFT, see above".to_owned(),
        n => format!("; {n} traces are LEFT, see above"),
    };
    let accepted = match report.accepted.as_slice() {
        [] => String::new(),
        all => format!("; taken into account by you: {}", all.join(", ")),
    };
    let scope = scope(report);
    match report.result {
        "clean" | "clean_other_ids" if report.verb == "clean" => {
            format!("Nothing to do: no rule matches{scope}{accepted}.")
        }
        "clean" | "clean_other_ids" if report.verb == "verify" => {
            format!("Clean: no rule matches, and the search found nothing{scope}{accepted}.")
        }
        "clean" | "clean_other_ids" => format!(
            "Clean as far as the rules look{scope}{accepted}. Free space and other files are searched by \
             `declone verify`."
        ),
        "incomplete" => {
            format!("No rule matches{scope}, but that is no proof{left}{unread}{accepted}.")
        }
        "requirements" => format!(
            "No rule matches{scope}{accepted}, but the image is not what is required, see above."
        ),
        "no_windows" => "Nothing was checked: there is no Windows in it.".to_owned(),
        "unread" => "Nothing was looked into: there is no volume that declone reads.".to_owned(),
        "findings" if deletable == 0 => {
            format!("Found, and no rule removes it: see above{left}{unread}{scope}{accepted}.")
        }
        "findings" => format!(
            "Found: {} the machine's identity{left}{unread}{scope}{accepted}.",
            match deletable {
                1 => "1 item carries".to_owned(),
                n => format!("{n} items carry"),
            }
        ),
        "planned" => format!(
            "Planned: {} would be removed, and the staged result passed verification{left}{unread}{scope}\
             {accepted}. Nothing was written.",
            count(deletable, "item")
        ),
        "cleaned" if left.is_empty() && unread.is_empty() => {
            format!(
                "Cleaned: {} removed, and nothing of them is left where it was searched{scope}{accepted}.",
                count(deletable, "item")
            )
        }
        "cleaned" => format!(
            "Cleaned: {} removed{left}{unread}{scope}{accepted}.",
            count(deletable, "item")
        ),
        "refused" => "Refused: nothing was written.".to_owned(),
        "interrupted" if report.is_directory() => {
            "Interrupted: the directory is changed and not clean yet; run the same command again."
                .to_owned()
        }
        "interrupted" => {
            "Interrupted: do not use the image before `declone recover` has finished it.".to_owned()
        }
        "pending" => {
            "Pending: an in-place change was interrupted; `declone recover` finishes it.".to_owned()
        }
        "whole" => "Nothing to recover: no journal lies there.".to_owned(),
        "recovered" => "Recovered: the interrupted change is finished.".to_owned(),
        "undone" => "Undone: every changed byte is what it was before the clean.".to_owned(),
        _ if report.image.is_none() => "Failed: nothing was written.".to_owned(),
        _ => "Failed: the input is unchanged.".to_owned(),
    }
}

/// Ids that the chosen rules leave alone and another set removes.
fn others(report: &ImageReport) -> String {
    let all = report.other_ids.iter().map(|other| {
        let ids = count(other.count, "id");
        format!(
            "; {ids} that another rule set removes: --rules {}",
            other.set
        )
    });
    all.collect()
}

/// What the verdict speaks of.
fn scope(report: &ImageReport) -> String {
    let quick = report.not_scanned.iter().any(|unseen| {
        unseen.accepted
            && unseen.class == UnseenClass::Unsearched
            && unseen.reason.contains("--quick")
    });
    let quick = match quick {
        true => "; free space and unchanged files were not searched (--quick)",
        false => "",
    };
    let sets: Vec<&str> = {
        let mut all: Vec<&str> = report.rule_sets.iter().map(String::as_str).collect();
        all.dedup();
        all
    };
    let others = others(report);
    match sets.as_slice() {
        [] => format!("{quick}{others}"),
        sets => format!(" (rules: {}){quick}{others}", sets.join(", ")),
    }
}

/// What was seen and is not removed.
fn write_left(out: &mut String, report: &ImageReport) -> fmt::Result {
    if report.left.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nLeft")?;
    for left in report.left.iter().take(MAX_LINES) {
        let at = match left.image_offset {
            Some(at) => format!(", image offset {at:#x}"),
            None => String::new(),
        };
        let times = match left.count {
            0 | 1 => String::new(),
            n => format!(", {n} places"),
        };
        let accepted = if left.accepted { ", accepted" } else { "" };
        let class = left.class.name();
        writeln!(
            out,
            "  {}: {} [{class}{accepted}]{times}{at}",
            left.owner, left.what
        )?;
        writeln!(out, "    what to do: {}", left.remedy)?;
    }
    if report.left.len() > MAX_LINES {
        writeln!(out, "  ... and {} more", report.left.len() - MAX_LINES)?;
    }
    Ok(())
}

fn write_unseen(out: &mut String, report: &ImageReport) -> fmt::Result {
    if report.not_scanned.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nNot looked at")?;
    for item in &report.not_scanned {
        let note = match (item.harmless, item.accepted) {
            (true, _) => ", harmless",
            (false, true) => ", accepted",
            (false, false) => "",
        };
        let class = item.class.name();
        let size = match item.len {
            Some(len) => format!(", {}", size(len)),
            None => String::new(),
        };
        writeln!(
            out,
            "  {}: {} [{class}{note}{size}]",
            item.what, item.reason
        )?;
        if let Some(remedy) = &item.remedy {
            writeln!(out, "    what to do: {remedy}")?;
        }
    }
    Ok(())
}

fn write_volume(out: &mut String, volume: &VolumeFacts) -> fmt::Result {
    let name = volume
        .slot_name
        .as_ref()
        .map(|n| format!(" \"{n}\""))
        .unwrap_or_default();
    write!(
        out,
        "  {} {}: {}{name}, ",
        volume.unit, volume.partition, volume.filesystem
    )?;
    // An image of an archive has no place of its own.
    match volume.unit {
        "image" | "directory" => writeln!(out, "{}", volume.slot_kind)?,
        _ => writeln!(
            out,
            "{} at disk offset {:#x}",
            size(volume.len),
            volume.disk_offset
        )?,
    }
    if let Some(reason) = &volume.closed {
        writeln!(out, "    not read: {reason}")?;
        return Ok(());
    }
    writeln!(out, "    {} files and directories", volume.files)?;
    for root in &volume.installations {
        writeln!(out, "    Windows in {root}")?;
    }
    for hive in &volume.hives {
        writeln!(
            out,
            "    {} ({}, {}, {})",
            hive.path,
            hive.role,
            size(hive.len),
            hive.state
        )?;
        for log in hive.replay.iter().flat_map(|replay| &replay.logs) {
            let fate = log.fate.replace('_', " ");
            writeln!(out, "      {} ({}): {fate}", log.path, size(log.len))?;
            if !log.detail.is_empty() {
                writeln!(out, "        {}", log.detail)?;
            }
        }
    }
    for obstacle in &volume.obstacles {
        writeln!(out, "    must not be written: {}", obstacle.what)?;
        if !obstacle.advice.is_empty() {
            writeln!(out, "      what to do: {}", obstacle.advice)?;
        }
    }
    for problem in volume.problems.iter().take(MAX_LINES) {
        writeln!(out, "    damaged: {problem}")?;
    }
    Ok(())
}

fn write_steps(out: &mut String, report: &ImageReport, rules: &[Rule]) -> fmt::Result {
    if report.image.is_none() || report.result == "unread" {
        return Ok(());
    }
    writeln!(
        out,
        "\nSteps of the articles ([x] nothing left to do, [ ] to do, [-] planned, [!] look yourself)"
    )?;
    let mark = match report.result {
        "cleaned" => "[x]",
        "planned" => "[-]",
        _ => "[ ]",
    };
    for (number, rule) in rules.iter().enumerate() {
        let found: Vec<&Finding> = report
            .findings
            .iter()
            .filter(|f| f.rule == rule.id)
            .collect();
        let sources = rule.sources.join(", ");
        let mark = match found.first() {
            None => "[x]",
            Some(f) if f.action == Action::Report => "[!]",
            Some(_) => mark,
        };
        writeln!(out, "  {mark} {}. {} ({sources})", number + 1, rule.step)?;
        if found.is_empty() {
            writeln!(out, "        nothing found")?;
        }
        for finding in found {
            write_finding(out, report, finding)?;
        }
    }
    Ok(())
}

fn write_finding(out: &mut String, report: &ImageReport, finding: &Finding) -> fmt::Result {
    let what = match &finding.subject {
        Subject::Value {
            hive, key, value, ..
        } => format!("{hive}: {key}, value \"{value}\""),
        Subject::Key { hive, key } => format!("{hive}: {key}"),
        Subject::File { path, links, .. } if links.is_empty() => path.clone(),
        Subject::File { path, links, .. } => format!("{path} (= {})", links.join(" = ")),
    };
    let fate = match (finding.action, report.result) {
        (Action::Delete, "cleaned") => "removed",
        (Action::Delete, "planned") => "would remove",
        _ => "found",
    };
    writeln!(out, "        {fate} {what}")?;
    let doubt = match finding.confidence {
        Confidence::A => "",
        Confidence::B => " (confidence B: several tools agree)",
        Confidence::C => " (confidence C: general knowledge)",
    };
    writeln!(out, "              {}{doubt}", finding.evidence)?;
    let places: Vec<String> = finding
        .places
        .iter()
        .filter(|p| p.space != "file" && p.space != "disk offset")
        .map(|p| format!("{} {}", p.space, p.value))
        .collect();
    writeln!(out, "              {}", places.join(", "))?;
    if finding.action == Action::Report {
        writeln!(
            out,
            "              reported only; remove it by hand if it is a client's"
        )?;
    }
    Ok(())
}

fn write_done(out: &mut String, done: &Done, directory: bool) -> fmt::Result {
    writeln!(out, "\n{}", if done.written { "Done" } else { "Plan" })?;
    for hive in &done.hives {
        writeln!(
            out,
            "  {}: {} values and {} keys taken out; stale bytes zeroed: {} in free cells, {} in \
             slack, {} behind the bins",
            hive.path,
            hive.values,
            hive.keys,
            hive.wiped_free + hive.wiped_leaked,
            hive.wiped_slack,
            hive.wiped_tail
        )?;
        for note in &hive.notes {
            writeln!(out, "    note: {note}")?;
        }
    }
    for log in &done.logs {
        let reach = match directory {
            true => "",
            false => " to the end of its last cluster",
        };
        writeln!(out, "  {log}: transaction log, filled with zeros{reach}")?;
    }
    for removal in &done.removals {
        if removal.unit != "partition" {
            writeln!(
                out,
                "  {} {}: {} removed ({})",
                removal.unit,
                removal.partition,
                count(removal.paths.len(), "file"),
                count(
                    usize::try_from(removal.index_entries).unwrap_or(usize::MAX),
                    "name"
                )
            )?;
            continue;
        }
        let entries = match removal.records {
            0 => format!("{} directory entries", removal.index_entries),
            records => format!(
                "{records} file records, {} index entries",
                removal.index_entries
            ),
        };
        writeln!(
            out,
            "  partition {}: {} removed ({entries}, {} clusters freed and zeroed)",
            removal.partition,
            count(removal.paths.len(), "file"),
            removal.clusters
        )?;
    }
    for wiped in &done.wiped {
        writeln!(out, "  stale copy zeroed: {wiped}")?;
    }
    for witness in &done.witnesses {
        writeln!(out, "  witness: {witness}")?;
    }
    if directory {
        writeln!(
            out,
            "  {} of hives and logs differ; {}",
            size(done.changed_bytes),
            match done.written {
                true => "each hive was replaced by a new file, and read again",
                false => "each hive would be replaced by a new file",
            }
        )?;
    } else {
        writeln!(
            out,
            "  {} in {} pages",
            size(done.changed_bytes),
            done.patches.len()
        )?;
    }
    if done.in_place && done.written && !directory {
        writeln!(out, "  written in place, read back and compared")?;
    }
    if let Some(undo) = &done.undo {
        writeln!(
            out,
            "  undo file {undo}: it HOLDS THE REMOVED IDENTITY; keep it from others, delete it when \
             the image is good"
        )?;
    }
    if let Some(output) = &done.output {
        let method = done.method.unwrap_or("copy");
        writeln!(out, "  written to {output} ({method})")?;
    }
    if let Some(digest) = &done.sha256 {
        writeln!(out, "  sha256 {digest}")?;
    }
    Ok(())
}

fn write_search(out: &mut String, report: &ImageReport) -> fmt::Result {
    if report.searched.is_empty() {
        return Ok(());
    }
    let total: u64 = report.searched.iter().map(|s| s.bytes).sum();
    let left: Vec<&Residue> = report.residues.iter().filter(|r| r.is_identity()).collect();
    let mentions = report.residues.len() - left.len();
    writeln!(
        out,
        "\nSearch for {} byte strings in {}",
        report.tokens.len(),
        size(total)
    )?;
    for area in &report.searched {
        writeln!(out, "  {}: {}", area.what, size(area.bytes))?;
    }
    if left.is_empty() {
        let found = match report.tokens.iter().any(|token| token.class != Class::Name) {
            true => "nothing of the identity was found",
            false => {
                "no id is known: any client's id (GUID:...) was looked for, and none was found"
            }
        };
        writeln!(out, "  {found}")?;
    }
    for residue in left.iter().take(MAX_LINES) {
        writeln!(
            out,
            "  left: {} in {} ({})",
            residue.token,
            residue.owner,
            match (residue.image_offset, residue.volume_offset) {
                (Some(at), _) => match (&residue.file, residue.file_offset) {
                    (Some(file), Some(at)) => format!("{file}, offset {at:#x}"),
                    _ => format!("image offset {at:#x}"),
                },
                (None, Some(at)) => format!("volume offset {at:#x}"),
                (None, None) if report.is_directory() => "not by declone's doing".to_owned(),
                (None, None) => "not a byte of this file".to_owned(),
            }
        )?;
    }
    if left.len() > MAX_LINES {
        writeln!(out, "  ... and {} more", left.len() - MAX_LINES)?;
    }
    if mentions > 0 {
        writeln!(
            out,
            "  {mentions} live mentions of the names alone (no identity), see --json"
        )?;
    }
    Ok(())
}

/// A length for people: decimal up to 10 KiB, then binary units.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 10_240 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 10_240.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value >= 1024.0 && unit + 1 < UNITS.len() {
        format!("{:.1} {}", value / 1024.0, UNITS[unit + 1])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(512), "512 bytes");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size(24 << 30), "24.0 GiB");
    }
}
