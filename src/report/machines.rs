//! Who each installation is, for a person: a few lines; the JSON has every line of evidence.

use std::fmt::{self, Write};

use crate::plan::machines::MachineFacts;

/// Writes one short block an installation.
pub(super) fn write(out: &mut String, machines: &[MachineFacts]) -> fmt::Result {
    for machine in machines {
        writeln!(
            out,
            "\nMachine in {} ({} {})",
            machine.root, machine.unit, machine.partition
        )?;
        for hive in &machine.hives {
            if let Some(reason) = &hive.reason {
                writeln!(out, "  {}: {}: {reason}", hive.name, hive.state)?;
            }
        }
        let Some(identity) = &machine.identity else {
            continue;
        };
        let or_not = |text: &Option<String>| text.clone().unwrap_or_else(|| "not found".to_owned());
        writeln!(out, "  computer {}", or_not(&identity.computer_name))?;
        writeln!(out, "  SID {}", or_not(&identity.computer_sid))?;
        for mismatch in &identity.mismatches {
            writeln!(out, "  MISMATCH: {}", mismatch.what)?;
        }
    }
    Ok(())
}
