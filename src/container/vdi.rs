//! VDI 1.1: blocks behind one map.
//!
//! # Why
//! - **A write gives it a new modification UUID.** VirtualBox does so at the first write
//!   (`VD.cpp`, `vdResetModifiedFlag`); a differencing image remembers its parent's, and does not
//!   open over another one. So a child of a cleaned disk is refused by VirtualBox instead of showing
//!   a mixture. The new UUID is made from the old one and from what is written: the same clean of the
//!   same file gives the same file, and two different ones give two UUIDs.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    Disk, Edges, Facts, Format, Named, Open, ScanOnly, Source, TO_RAW,
    children::Wanted,
    format::{self, SECTOR, vdi as facts},
    runs::{Laid, Runs, Stale},
};
use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
    text::escape,
};

pub(super) const FORMAT: Format = Format {
    name: "vdi",
    title: "a VirtualBox VDI",
    probe: |edges: &Edges| {
        edges
            .has(format::VDI_AT, format::VDI)
            .then(|| format!("7f 10 da be at {:#x}", format::VDI_AT))
    },
    open: Open::Disk(open),
};

/// Longest block map that is read: that of 16 TiB in blocks of 1 MiB.
const MAP_LIMIT: u64 = 64 << 20;

const CONVERT: &str = "convert it: qemu-img convert -O raw IMAGE disk.raw, and clean that";

/// What a report calls an image that is the changes to another one.
const DIFFERENCING: &str = "differencing";

const MERGE: &str = "merge it in VirtualBox (delete the snapshot), or clone it to one file: VBoxManage \
                     clonemedium";

/// Most files of a directory among which a parent is looked for.
const SIBLINGS_LIMIT: usize = 10_000;

/// A UUID as VirtualBox writes it: its first three fields are little-endian.
fn uuid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let [i, j, last @ ..] = rest;
    format!(
        "{}-{}-{}-{}-{}",
        hex::encode([d, c, b, a]),
        hex::encode([f, e]),
        hex::encode([h, g]),
        hex::encode([i, j]),
        hex::encode(last)
    )
}

/// The modification UUID behind this one: version 8 (RFC 9562), the digest of the old and of what is
/// written.
fn next_uuid(old: &[u8], written: &[u8]) -> Vec<u8> {
    let digest = Sha256::new()
        .chain_update(b"declone VDI modification\0")
        .chain_update(old)
        .chain_update(written)
        .finalize();
    let mut new: Vec<u8> = digest.iter().copied().take(16).collect();
    // The version is in the high half of the third field, the variant in the fourth.
    if let Some(byte) = new.get_mut(7) {
        *byte = (*byte & 0x0F) | 0x80;
    }
    if let Some(byte) = new.get_mut(8) {
        *byte = (*byte & 0x3F) | 0x80;
    }
    new
}

fn check_kind(kind: u32) -> Result<&'static str> {
    match kind {
        facts::DYNAMIC => Ok("dynamic"),
        facts::STATIC => Ok("static"),
        facts::DIFFERENCING => Ok(DIFFERENCING),
        facts::UNDO => Err(Error::refused(
            "VDI header: a disk of its own expected, found an undo image, the changes to another one",
        )
        .advise(MERGE)),
        other => Err(Error::malformed(format!(
            "VDI header: type 1 to 4 expected, found {other}"
        ))),
    }
}

/// The UUID of the image on which a file stands, if it does.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let mut bytes = vec![0; facts::HEADER_BYTES];
    host.read_at(0, &mut bytes)?;
    let parent = View::new(&bytes, "VDI header").array::<16>(facts::PARENT)?;
    Ok((parent != [0; 16]).then(|| Wanted::Id(uuid(parent))))
}

/// The file whose UUID this is, beside the image or allowed: a VDI names its parent by that alone.
fn open_parent(source: &Source<'_>, header: &View<'_>) -> Result<Named> {
    let wanted: [u8; 16] = header.array(facts::PARENT)?;
    let shown = uuid(wanted);
    // What the user allowed comes first, as it does where a parent has a name.
    let mut names = source.near.allowed_names();
    names.extend(source.near.names(SIBLINGS_LIMIT)?);
    for name in names {
        let Ok(file) = source.near.look(&name) else {
            continue;
        };
        let file: Device = Arc::new(file);
        let mut bytes = vec![0; facts::HEADER_BYTES];
        if file.len() < SECTOR || file.read_at(0, &mut bytes).is_err() {
            continue;
        }
        let view = View::new(&bytes, "VDI header");
        let magic = view.get(format::VDI_AT, format::VDI.len())?;
        if magic != format::VDI || view.array::<16>(facts::UUID)? != wanted {
            continue;
        }
        let parent = source.open_named(&name, |format| format.name == FORMAT.name)?;
        if view.array::<16>(facts::MODIFIED)? != header.array(facts::PARENT_MODIFIED)? {
            return Err(Error::refused(format!(
                "VDI: the parent {shown} as it was when this image was made expected, found one that \
                 was changed since"
            ))
            .at("file", escape(&name))
            .advise(
                "put the parent with which the image was made beside it, or say where it is: \
                 --allow-file PATH",
            ));
        }
        return Ok(parent);
    }
    Err(Error::refused(format!(
        "VDI: the parent {shown} beside the image expected, found no file with that UUID"
    ))
    .advise(
        "put the parent beside the image, or say where it is: --allow-file PATH; or make one file of \
         both: VBoxManage clonemedium",
    ))
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let mut bytes = vec![0; facts::HEADER_BYTES];
    host.read_at(0, &mut bytes)?;
    let view = View::new(&bytes, "VDI header");
    let version = view.u32(facts::VERSION)?;
    if version != facts::VERSION_1_1 {
        return Err(Error::unsupported(format!(
            "VDI header: version 1.1 expected, found {}.{}",
            version >> 16,
            version & 0xFFFF
        ))
        .advise(CONVERT));
    }
    let header_len = view.u32(facts::HEADER_LEN)?;
    if header_len < facts::MIN_HEADER_LEN {
        return Err(Error::malformed(format!(
            "VDI header: at least {} bytes expected, found {header_len}",
            facts::MIN_HEADER_LEN
        )));
    }
    let kind = check_kind(view.u32(facts::TYPE)?)?;
    let len = view.u64(facts::DISK_LEN)?;
    let sector = view.u32(facts::SECTOR_LEN)?;
    let block = u64::from(view.u32(facts::BLOCK_LEN)?);
    let extra = view.u32(facts::BLOCK_EXTRA)?;
    let blocks = u64::from(view.u32(facts::BLOCKS)?);
    if !matches!(sector, 0 | 512) || extra != 0 {
        return Err(Error::unsupported(format!(
            "VDI header: sectors of 512 bytes and blocks without a prefix expected, found {sector} \
             and {extra}"
        ))
        .advise(CONVERT));
    }
    if !block.is_power_of_two() || block < SECTOR {
        return Err(Error::malformed(format!(
            "VDI header: a block size that is a power of two of at least {SECTOR} expected, found \
             {block}"
        )));
    }
    if len == 0 || !len.is_multiple_of(SECTOR) || len.div_ceil(block) > blocks {
        return Err(Error::malformed(format!(
            "VDI header: a disk of whole sectors in {blocks} blocks of {block} bytes expected, \
             found {len} bytes"
        )));
    }
    let map_at = u64::from(view.u32(facts::MAP_OFFSET)?);
    let data_at = u64::from(view.u32(facts::DATA_OFFSET)?);
    let map_len = blocks.saturating_mul(facts::ENTRY_LEN);
    if map_len > MAP_LIMIT {
        return Err(Error::limit(format!(
            "VDI block map: at most {MAP_LIMIT} bytes expected, found {map_len}"
        )));
    }
    let map_end = map_at.saturating_add(map_len);
    let header_end = u64::from(header_len).saturating_add(0x48).max(SECTOR);
    if map_at < header_end || map_end > data_at || data_at > host.len() {
        return Err(Error::malformed(format!(
            "VDI block map: header, map and data in this order inside the file ({:#x} bytes) \
             expected, found the map at {map_at:#x} to {map_end:#x} and data at {data_at:#x}",
            host.len()
        )));
    }
    if !data_at.is_multiple_of(SECTOR) {
        return Err(Error::malformed(format!(
            "VDI header: data at a whole sector expected, found it at {data_at:#x}"
        )));
    }
    let mut map = vec![0; usize::try_from(map_len).unwrap_or(0)];
    host.read_at(map_at, &mut map)
        .at("image offset", format_args!("{map_at:#x}"))?;
    let mut runs = Runs::new(len);
    let mut allocated = 0_u64;
    let (entries, _) = map.as_chunks::<4>();
    for (number, entry) in (0_u64..).zip(entries) {
        let disk = number.saturating_mul(block);
        let shown = len.saturating_sub(disk).min(block);
        match u32::from_le_bytes(*entry) {
            facts::FREE => {}
            facts::ZERO => runs.push(disk, None, block)?,
            entry => {
                let at = data_at.saturating_add(u64::from(entry).saturating_mul(block));
                let end = at.saturating_add(shown);
                if end > host.len() {
                    return Err(Error::malformed(format!(
                        "VDI block map: block {number} inside the file ({:#x} bytes) expected, \
                         found its end at {end:#x}",
                        host.len()
                    ))
                    .at(
                        "image offset",
                        format_args!(
                            "{:#x}",
                            map_at.saturating_add(number.saturating_mul(facts::ENTRY_LEN))
                        ),
                    ));
                }
                allocated = allocated.saturating_add(1);
                runs.push(disk, Some(at), block)?;
            }
        }
    }
    let mut scan_only = runs.settle("VDI block map", vec![0..header_end, map_at..map_end])?;
    let modified = view.get(facts::MODIFIED, 16)?;
    let below = match kind {
        DIFFERENCING => Some(open_parent(source, &view)?),
        _ => None,
    };
    if below.is_none() && view.array::<16>(facts::PARENT)? != [0; 16] {
        scan_only.get_or_insert_with(|| ScanOnly {
            reason: "VDI header: no parent expected for a disk of its own, found the UUID of one"
                .to_owned(),
            advice: TO_RAW,
        });
    }
    let said = view.u32(facts::ALLOCATED)?;
    let shown = Facts {
        kind: Some(kind.to_owned()),
        creator: creator(view.get(0, format::VDI_AT)?),
        block_size: Some(block),
        blocks: Some(blocks),
        allocated: Some(allocated),
        id: Some(uuid(view.array(facts::UUID)?)),
        chain: below.as_ref().map(Named::chain).unwrap_or_default(),
        ..Facts::default()
    };
    let layout = Laid {
        host: Arc::clone(host),
        runs,
        below: below.map(|parent| parent.disk.device),
        stale: vec![Stale {
            at: facts::MODIFIED_AT,
            old: modified.to_vec(),
            next: next_uuid,
        }],
    }
    .shared();
    let mut disk = Disk::mapped(host, layout, shown);
    if u64::from(said) != allocated {
        disk.notes.push(format!(
            "the header counts {said} blocks, the map has {allocated}"
        ));
    }
    disk.scan_only = scan_only;
    Ok(disk)
}

/// `<<< Oracle VM VirtualBox Disk Image >>>` without the frame.
fn creator(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(text.get(..end.unwrap_or(text.len()))?).into_owned();
    let name = text.trim_matches(['<', '>', ' ', '\r', '\n']);
    (!name.is_empty()).then(|| name.to_owned())
}
