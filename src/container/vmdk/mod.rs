//! VMDK: a descriptor, which is text, and extents: sparse ones have grains behind tables of two
//! levels, flat ones are the disk's bytes.
//!
//! # Why
//! - **The extents of a split disk are members of one set** ([`crate::device::HostSet`]): the runs of
//!   all of them lie over its address space, so that one write set and one journal serve them all. Where
//!   they are opened alone (the parent of a delta) the disk is for looking only.
//! - **A write gives it a new content ID**, as every program that writes one does: a delta names the
//!   content ID of its parent, and does not open over another one. It is made from the old one and from
//!   what is written, of as many digits, so that nothing moves.

use std::sync::Arc;

use super::{
    Disk, Edges, Facts, Format, Open, Places, ScanOnly, Source, TO_RAW,
    children::Wanted,
    format::{self, SECTOR, vmdk as facts},
    mapped::{Mapped, wide},
    packed::{Piece, Pieces, Wrap},
    runs::{Laid, Runs, Stale},
};
use crate::{
    device::Device,
    error::{At, Error, Result},
};

mod descriptor;
mod set;
mod sparse;

pub(super) use set::files;

use descriptor::{Descriptor, next_cid, same_cid};
use set::open_set;
use sparse::{Extent, Sparse};

pub(super) const FORMAT: Format = Format {
    name: "vmdk",
    title: "a VMDK",
    probe: |edges: &Edges| {
        [
            (format::VMDK_SPARSE, "KDMV, a sparse extent,"),
            (format::VMDK_COW, "COWD, an ESX extent,"),
            (format::VMDK_DESCRIPTOR, "a disk descriptor"),
        ]
        .into_iter()
        .find(|(magic, _)| edges.has(0, magic))
        .map(|(_, shown)| format!("{shown} at 0x0"))
    },
    open: Open::Disk(open),
};

/// Longest descriptor that is read: VMware's has 20 sectors.
const DESCRIPTOR_LIMIT: u64 = 1 << 20;

const CONVERT: &str = "convert it: qemu-img convert -f vmdk -O raw IMAGE disk.raw, and clean that";

fn sectors(count: u64) -> u64 {
    count.saturating_mul(SECTOR)
}

fn buffer(len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| Error::internal("VMDK: the length of a table"))?;
    Ok(vec![0; len])
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let mut magic = [0; 4];
    host.read_at(0, &mut magic)?;
    if magic == format::VMDK_SPARSE {
        return open_sparse(source);
    }
    if magic == format::VMDK_COW {
        return Err(Error::unsupported(
            "VMDK: a sparse extent (KDMV) or a descriptor expected, found an ESX extent (COWD)",
        )
        .advise(CONVERT));
    }
    open_set(source)
}

/// The content ID of the disk on which a file stands, if it does.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let mut magic = [0; 4];
    host.read_at(0, &mut magic)?;
    let text = match magic == format::VMDK_SPARSE {
        true => Sparse::read(host)?.text(host)?,
        false if host.len() <= DESCRIPTOR_LIMIT => {
            let mut text = buffer(host.len())?;
            host.read_at(0, &mut text)?;
            Some(text)
        }
        false => None,
    };
    let descriptor = text.map(|text| Descriptor::parse(&text)).transpose()?;
    let parent = descriptor.and_then(|text| text.parent().map(same_cid));
    Ok(parent.map(Wanted::Id))
}

/// One file with its descriptor inside.
fn open_sparse(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let header = Sparse::read(host)?;
    let Some(text) = header.text(host)? else {
        return Err(Error::refused(
            "VMDK: a disk with its descriptor inside expected, found one extent of a split disk",
        )
        .advise("give the descriptor, the small .vmdk file that names it"));
    };
    let descriptor = Descriptor::parse(&text).at(
        "image offset",
        format_args!("{:#x}", header.descriptor.start),
    )?;
    let below = descriptor.open_parent(source)?;
    let extent = Extent::read(host, &header)?;
    let mut scan_only = descriptor.reason();
    if descriptor.extents.len() != 1 {
        scan_only.get_or_insert_with(|| ScanOnly {
            reason: format!(
                "VMDK descriptor: one extent expected in a file with a descriptor inside, found {}",
                descriptor.extents.len()
            ),
            advice: TO_RAW,
        });
    }
    let mut stale = Vec::new();
    match &descriptor.cid {
        Some((old, inside)) => {
            let at = header.descriptor.start.saturating_add(wide(*inside));
            stale.push(Stale {
                at,
                old: old.clone().into_bytes(),
                next: next_cid,
            });
        }
        None => {
            scan_only.get_or_insert_with(no_cid);
        }
    }
    let (below, chain) = below.unzip();
    let facts = Facts {
        block_size: Some(header.grain),
        blocks: Some(header.grains()),
        allocated: Some(extent.allocated),
        chain: chain.unwrap_or_default(),
        ..descriptor.facts()
    };
    let scan_only = scan_only.or(extent.scan_only);
    let layout = Laid {
        host: Arc::clone(host),
        runs: extent.runs,
        below,
        stale,
    }
    .shared();
    let mut disk = Disk::mapped(host, Arc::clone(&layout), facts);
    if extent.pieces.count() > 0 {
        disk.opaque = true;
        disk.places = Places::none();
        let plain = Arc::new(Mapped::new(Arc::clone(host), layout));
        disk.device = extent.pieces.over(Arc::clone(host), plain);
    }
    disk.scan_only = scan_only;
    Ok(disk)
}

fn no_cid() -> ScanOnly {
    ScanOnly {
        reason: "VMDK descriptor: a content ID (CID) expected, found none".to_owned(),
        advice: TO_RAW,
    }
}
