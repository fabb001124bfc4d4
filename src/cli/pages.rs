//! The manual pages: one for the program, one for each command.

use std::path::Path;

use clap::Command;

use crate::{
    error::{Error, Result},
    text::escape,
};

/// Writes every page into a directory that exists.
pub(super) fn write_all(dir: &Path, command: Command) -> Result<()> {
    let shown = escape(&dir.display().to_string());
    let failed = |e: &std::io::Error| Error::io(format!("manual pages in {shown}"), e);
    // A page for each `help` of a command would say nothing.
    let mut command = command.disable_help_subcommand(true);
    // Names of the commands as they are typed: `declone rules list` is declone-rules-list.
    command.build();
    clap_mangen::generate_to(command, dir).map_err(|e| failed(&e))
}
