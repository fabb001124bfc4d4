//! Who each installation is, for a person: ten lines, then the evidence.

use std::fmt::{self, Write};

use crate::plan::machines::{Evidence, Identity, MachineFacts, Status};

/// Most lines of one installation, its heading included.
const MAX_LINES: usize = 10;

/// Most event logs, and most of the values that Sysprep should have deleted, shown one by one.
const MAX_OF_A_SORT: usize = 10;

/// Writes one short block an installation.
pub(super) fn write(out: &mut String, machines: &[MachineFacts]) -> fmt::Result {
    for machine in machines {
        let lines = block(machine);
        let (shown, more) = match lines.len().checked_sub(MAX_LINES) {
            None | Some(0) => (lines.len(), 0),
            Some(over) => (MAX_LINES - 1, over + 1),
        };
        writeln!(out)?;
        for line in lines.iter().take(shown) {
            writeln!(out, "{line}")?;
        }
        if more > 0 {
            writeln!(out, "  ... and {more} more lines, see --json")?;
        }
        if let Some(verdict) = &machine.generalization {
            evidence(out, &verdict.evidence)?;
        }
        for what in &machine.unread {
            writeln!(out, "  NOT READ: {what}")?;
        }
    }
    Ok(())
}

/// What is there, a line each; what is not, by name.
fn evidence(out: &mut String, lines: &[Evidence]) -> fmt::Result {
    writeln!(out, "  evidence of generalization:")?;
    let mut sorts: Vec<(&str, usize)> = Vec::new();
    for line in lines {
        let Some(value) = &line.value else { continue };
        let at = match sorts.iter().position(|(id, _)| *id == line.id) {
            Some(at) => at,
            None => {
                sorts.push((&line.id, 0));
                sorts.len() - 1
            }
        };
        sorts[at].1 += 1;
        if sorts[at].1 <= MAX_OF_A_SORT {
            let value = if value.is_empty() { "(empty)" } else { value };
            writeln!(out, "    {}: {value} [{}]", line.id, line.source)?;
        }
    }
    for (id, count) in sorts.iter().filter(|(_, n)| *n > MAX_OF_A_SORT) {
        let more = count - MAX_OF_A_SORT;
        writeln!(out, "    {id}: {more} more, see --json")?;
    }
    let mut absent: Vec<&str> = lines
        .iter()
        .filter(|line| line.value.is_none() && !sorts.iter().any(|(id, _)| *id == line.id))
        .map(|line| line.id.as_ref())
        .collect();
    absent.dedup();
    if !absent.is_empty() {
        writeln!(out, "    looked for and not there: {}", absent.join(", "))?;
    }
    Ok(())
}

/// The most important first: what does not fit is in the JSON.
fn block(machine: &MachineFacts) -> Vec<String> {
    let mut lines = vec![format!(
        "Machine in {} ({} {})",
        machine.root, machine.unit, machine.partition
    )];
    if let Some(identity) = &machine.identity {
        lines.push(format!("  {}", who(identity)));
        if let Some(sid) = &identity.computer_sid {
            lines.push(format!("  computer SID {sid}"));
        }
    }
    if let Some(verdict) = &machine.generalization {
        lines.push(format!(
            "  generalized: {} ({}): {}",
            match verdict.status {
                Status::Generalized => "yes",
                Status::Unknown => "UNKNOWN",
                _ => "NO",
            },
            verdict.status.name(),
            verdict.reason
        ));
        lines.extend(
            verdict
                .contradictions
                .iter()
                .map(|c| format!("  CONTRADICTION: {c}")),
        );
        if let Some(advice) = verdict.advice {
            lines.push(format!("  what to do: {advice}"));
        }
    }
    if let Some(identity) = &machine.identity {
        lines.extend(
            identity
                .mismatches
                .iter()
                .map(|m| format!("  MISMATCH: {}", m.what)),
        );
    }
    for hive in &machine.hives {
        if let Some(reason) = &hive.reason {
            lines.push(format!("  {} is {}: {reason}", hive.name, hive.state));
        } else if hive.state == "missing" {
            lines.push(format!("  {} is missing", hive.name));
        }
    }
    if let Some(identity) = &machine.identity {
        let mut seen = Vec::new();
        for fact in identity.facts.iter().filter(|fact| fact.identifies) {
            let said = identity.computer_sid.as_ref() == Some(&fact.value);
            if said || seen.contains(&(&fact.kind, &fact.value)) {
                continue;
            }
            seen.push((&fact.kind, &fact.value));
            let decoded = fact.decoded.as_ref().map(|text| format!(" ({text})"));
            lines.push(format!(
                "  {} {}{}",
                fact.title,
                fact.value,
                decoded.unwrap_or_default()
            ));
        }
    }
    lines
}

fn who(identity: &Identity) -> String {
    let name = identity.computer_name.as_deref();
    let mut text = name.unwrap_or("a computer without a name").to_owned();
    match (&identity.domain, &identity.domain_sid) {
        (Some(domain), Some(_)) => text.push_str(&format!(", member of domain {domain}")),
        (Some(group), None) => text.push_str(&format!(", workgroup {group}")),
        (None, _) => {}
    }
    let windows = &identity.windows;
    let known = windows
        .generation
        .map(|generation| generation.name().to_owned());
    if let Some(product) = windows.product.clone().or(known) {
        text.push_str(&format!("; {product}"));
    }
    if let Some(build) = &windows.build {
        text.push_str(&format!(", build {build}"));
    }
    text
}
