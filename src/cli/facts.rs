//! Fills the report's plain facts from an image and a plan.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::{
    container::Facts,
    error::Result,
    image::{Content, Image, Volume},
    partition::Scheme,
    plan::{Plan, VolumePlan, machines},
    report::{
        AreaFacts, ContainerFacts, HiveFacts, IdentityFacts, ImageFacts, ImageReport,
        ObstacleFacts, VolumeFacts,
    },
    text::escape,
    units::VolumeOffset,
};

/// Container and partition table.
pub(super) fn image_facts(image: &Image) -> ImageFacts {
    let mut notes = image.notes.clone();
    notes.extend(
        image
            .scan_only
            .iter()
            .map(|state| format!("scan only: {}", state.reason)),
    );
    notes.extend(image.table.problems.iter().cloned());
    notes.extend(
        image
            .table
            .scan_only
            .iter()
            .map(|reason| format!("scan only: {reason}")),
    );
    ImageFacts {
        format: image.format.to_owned(),
        evidence: image.evidence.clone(),
        file_len: image.file_len,
        disk_len: image.disk_len,
        scheme: match image.table.scheme {
            Scheme::Mbr => "MBR",
            Scheme::Gpt => "GPT",
            Scheme::WholeDisk => "unpartitioned",
            Scheme::Archive => "archive",
            Scheme::Directory => "directory",
        }
        .to_owned(),
        sector_len: image.table.sector_len,
        notes,
        container: container_facts(&image.facts),
        identity: identity_facts(image),
        sha256: None,
    }
}

fn identity_facts(image: &Image) -> Option<IdentityFacts> {
    if image.directory.is_some() {
        return None;
    }
    let head = image.lasting_head();
    Some(IdentityFacts {
        container_id: image.facts.id.clone(),
        len: head.is_some().then_some(image.disk_len),
        disk_id: image.table.disk_id.clone(),
        head_sha256: head.map(|head| hex::encode(Sha256::digest(&head))),
    })
}

fn container_facts(facts: &Facts) -> ContainerFacts {
    ContainerFacts {
        kind: facts.kind.clone(),
        creator: facts.creator.as_deref().map(escape),
        block_size: facts.block_size,
        blocks: facts.blocks,
        allocated: facts.allocated,
        log: facts.log.clone(),
        chain: facts.chain.iter().map(|name| escape(name)).collect(),
        files: facts.files.iter().map(|name| escape(name)).collect(),
        id: facts.id.clone(),
    }
}

/// Most stretches of one volume: a file in thousands of pieces is drawn as its first ones.
const MAX_AREAS: usize = 512;

/// Where the structures, hives and logs of a volume lie. What cannot be found out is left out: it is
/// drawn only.
fn areas(volume: &Volume, part: &VolumePlan) -> Vec<AreaFacts> {
    let Some(tree) = volume.tree().filter(|_| !volume.is_image()) else {
        return Vec::new();
    };
    let mut found: Vec<(&'static str, String, Range<u64>)> = Vec::new();
    for (what, ranges) in tree.structures().unwrap_or_default() {
        found.extend(
            ranges
                .into_iter()
                .map(|range| ("structure", what.clone(), range)),
        );
    }
    for hive in &part.hives {
        let files = std::iter::once(("hive", &hive.entry));
        for (kind, entry) in files.chain(hive.logs.iter().map(|log| ("log", log))) {
            for extent in tree.extents(entry.id).unwrap_or_default() {
                let Some(at) = extent.volume_offset else {
                    continue;
                };
                let range = at.get()..at.get().saturating_add(extent.len);
                found.push((kind, entry.path(), range));
            }
        }
    }
    found
        .into_iter()
        .take(MAX_AREAS)
        .filter_map(|(kind, what, range)| {
            Some(AreaFacts {
                kind,
                what,
                disk_offset: volume.disk_offset(VolumeOffset(range.start))?.get(),
                len: range.end.saturating_sub(range.start),
            })
        })
        .collect()
}

/// Everything the plan knows, into the report.
pub(super) fn fill(report: &mut ImageReport, image: &Image, plan: &Plan) -> Result<()> {
    report.image = Some(image_facts(image));
    report.volumes = image
        .volumes
        .iter()
        .zip(&plan.volumes)
        .map(|(volume, part)| VolumeFacts {
            partition: volume.partition,
            unit: volume.unit,
            disk_offset: volume.start.get(),
            len: match volume.is_image() {
                true => image.file_len,
                false => volume.len,
            },
            slot_kind: volume.slot_kind.clone(),
            slot_name: volume.slot_name.as_deref().map(escape),
            filesystem: volume.filesystem.clone(),
            closed: match &volume.content {
                Content::Files(_) => None,
                Content::Closed(reason) => Some(reason.clone()),
                Content::Broken(error) => Some(error.to_string()),
                Content::Skipped => Some(format!("another {} was chosen", volume.unit)),
            },
            files: part.listing.files,
            installations: part.installations.clone(),
            hives: part
                .hives
                .iter()
                .map(|hive| HiveFacts {
                    path: hive.entry.path(),
                    role: hive.role.clone(),
                    state: hive.state.clone(),
                    len: hive.entry.len,
                    replay: hive.replay.clone(),
                })
                .collect(),
            areas: areas(volume, part),
            obstacles: part.obstacles.iter().map(ObstacleFacts::from).collect(),
            problems: part.problems.clone(),
        })
        .collect();
    report.findings = plan.findings().cloned().collect();
    report.other_ids = plan.other_ids()?;
    report.not_scanned = plan.not_scanned().cloned().collect();
    let volumes = plan.volumes.iter();
    report.left = volumes.flat_map(|part| part.left.iter().cloned()).collect();
    report.tokens = plan.tokens.clone();
    report.machines = machines::look(image, plan)?;
    Ok(())
}
