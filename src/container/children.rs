//! Files beside an image that are the changes to it: writing to it would break them.

use super::{Edges, FORMATS, Facts, qcow2, vdi, vhd, vhdx, vmdk};
use crate::{
    device::{Device, HostFile, Neighbours},
    error::Result,
};

/// What a file says about the one it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The disk with this identity ([`super::Facts::id`]).
    Id(String),
    /// The file of this name.
    Name(String),
}

/// What a format's file says about its parent, if it has one.
type Reader = fn(&Device) -> Result<Option<Wanted>>;

/// Formats whose files can stand on others.
const READERS: &[(&str, Reader)] = &[
    ("qcow2", qcow2::wanted_parent),
    ("vdi", vdi::wanted_parent),
    ("vhd", vhd::wanted_parent),
    ("vhdx", vhdx::wanted_parent),
    ("vmdk", vmdk::wanted_parent),
];

/// Most files of a directory that are looked at.
const LIMIT: usize = 10_000;

/// The names of the files beside the image that stand on it, as far as they can be read.
pub fn children(image: &Facts, near: &Neighbours) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in near.names(LIMIT)? {
        if near.is_member(&name) {
            continue;
        }
        let Ok(file) = near.look(&name) else {
            continue;
        };
        if stands_on(file, image, near.own_name()).unwrap_or(false) {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn stands_on(file: HostFile, image: &Facts, own: Option<&str>) -> Result<bool> {
    let device: Device = std::sync::Arc::new(file);
    let edges = Edges::read(&device)?;
    let format = FORMATS
        .iter()
        .find(|format| (format.probe)(&edges).is_some());
    let reader = format.and_then(|format| READERS.iter().find(|(name, _)| *name == format.name));
    let Some((_, reader)) = reader else {
        return Ok(false);
    };
    Ok(match reader(&device)? {
        Some(Wanted::Id(id)) => image.id.as_ref() == Some(&id),
        // Wherever the name says it lies: a file that was moved here is still meant.
        Some(Wanted::Name(name)) => name.rsplit(['/', '\\']).next() == own,
        None => false,
    })
}
