//! Packed copies of hives (`repair\software._`): read like the others, never written.
//!
//! A packed file cannot be edited where it lies: what comes out smaller or larger than it was needs
//! another allocation, and declone never allocates. So a copy that holds the identity stands in the
//! way of a clean, like a dirty copy does; one that does not is read, and that is all.

use std::sync::Mutex;

use super::{Look, look_at};
use crate::{
    error::{Error, Result},
    hive::{self, Probe, read_base},
    image::{self, Volume},
    plan::{Gathered, HivePlan, NotScanned, View, VolumePlan},
    rules::{Action, HiveName, Rule},
    tree::{FileTree, UnseenClass},
    windows::{
        HiveFile,
        packed::{Packing, UNPACKED_LIMIT, unpack},
    },
};

/// What is packed is not longer than what may come out, or hardly: the rest is some other cabinet.
const PACKED_LIMIT: u64 = 256 << 20;

#[expect(clippy::too_many_arguments, reason = "as plan_hive, and what it found")]
pub(super) fn plan(
    volume: &Volume,
    tree: &dyn FileTree,
    file: &HiveFile,
    packing: Packing,
    role: &str,
    rules: &[Rule],
    gathered: &mut Gathered,
    part: &mut VolumePlan,
) -> Result<()> {
    let path = file.entry.path();
    if file.entry.len > PACKED_LIMIT {
        return Err(Error::limit(format!(
            "packed file: at most {PACKED_LIMIT} bytes expected, found {}",
            file.entry.len
        )));
    }
    let packed = image::read_whole(tree, &file.entry)?;
    let bytes = unpack(&packed, packing, UNPACKED_LIMIT)?;
    drop(packed);
    if hive::probe(&bytes) != Probe::Regf {
        if !file.by_name_only() {
            let reason = format!("packed ({}): there is no hive in it", packing.name());
            part.skip(NotScanned::of_file(UnseenClass::Packed, &file.entry, reason).harmless());
        }
        return Ok(());
    }
    let Look {
        findings, skipped, ..
    } = look_at(
        volume,
        HiveName::Software,
        &path,
        &bytes,
        &[],
        rules,
        gathered,
    )?;
    let what = format!("packed ({})", packing.name());
    if skipped > 0 {
        let reason = format!("{what}: {skipped} damaged entries of the hive");
        part.skip(NotScanned::of_file(
            UnseenClass::Damaged,
            &file.entry,
            reason,
        ));
    }
    if findings
        .iter()
        .any(|finding| finding.action == Action::Delete)
    {
        part.blockers.push(
            Error::refused(format!(
                "{role}: a hive that can be edited expected, it is {what} and holds the identity"
            ))
            .at("file", &path)
            .at(volume.unit, volume.partition)
            .advise(
                "delete it on the master (rdisk /s makes a new one), or unpack it there (expand) \
                 to SOFTWARE in the same directory and delete the packed file; then capture again",
            ),
        );
    }
    part.findings
        .extend(findings.into_iter().map(|mut finding| {
            finding.view = Some(View::Packed);
            finding
                .evidence
                .push_str(&format!(" (inside a copy, {what})"));
            finding
        }));
    let state = match read_base(&bytes)?.1 {
        hive::State::Clean => what,
        _ => format!("{what}; dirty, shown as it is in the file"),
    };
    part.hives.push(HivePlan {
        entry: file.entry.clone(),
        role: role.to_owned(),
        state,
        replay: None,
        logs: Vec::new(),
        edits: Vec::new(),
        wipe: false,
        packed: Some(packing),
        bytes: Mutex::new(None),
    });
    Ok(())
}
