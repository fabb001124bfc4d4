//! FAT12, FAT16 and FAT32: one volume, read strictly, edited through an overlay.
//!
//! In: a device that starts at a FAT boot sector. Out: [`Fat`], a
//! [`FileTree`](crate::tree::FileTree): entries, bytes, obstacles, owners, problems.
//! Knows: units, error, bytes, text, device, tree. Facts from: `format.rs`.
//! Never: repairs anything, follows a cluster twice, trusts a length it has not checked, or knows
//! which files matter.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod boot;
mod check;
mod edit;
pub mod format;
mod name;
mod table;
mod walk;

use boot::Geometry;
use format::slot;
use name::{as_short, is_long, short_bytes, short_name};
use sha1::{Digest, Sha1};
use table::Link;
pub use walk::{Entry, Remains, Seen};

use super::clusters::{
    Chain, Entry as _, Format, Judgement, Node, Raw, Stale, Table, Taken, Volume, Walk, byte,
};
use crate::{
    error::Result,
    text::Name,
    tree::{Listing, NamePart, NamePattern},
};

/// A FAT volume.
pub type Fat = Volume<FatFormat>;

/// FAT12, FAT16 or FAT32.
#[derive(Clone, Copy, Debug)]
pub struct FatFormat;

impl Format for FatFormat {
    const NAME: &'static str = "FAT";
    const CHKDSK: &'static str =
        "check the volume in Windows (chkdsk /f, scandisk), then capture it again";
    const JUDGEMENTS: &'static [(&'static str, Judgement<Self>)] = &[
        ("volume-truncated", Fat::check_length),
        ("fat-length", check::check_fat_length),
        ("dirty-flag", check::check_flags),
        ("fat-copies", check::check_copies),
        ("fsinfo", check::check_fsinfo),
        ("structure", Fat::check_structure),
        ("hibernated", check::check_hibernation),
    ];
    type Geometry = Geometry;
    type Entry = Entry;
    type Remains = Remains;
    type Seen = Seen;

    fn label(geometry: &Geometry) -> String {
        geometry.label().to_owned()
    }

    fn take(fat: &Fat) -> Result<Walk<Self>> {
        walk::take(fat)
    }

    /// Where the entry stands and everything in it; a name more for a long one.
    fn listing(node: &Node<Entry>, parent: u64) -> Listing {
        let mut hash = Sha1::new();
        hash.update(node.id.to_le_bytes());
        hash.update(parent.to_le_bytes());
        hash.update(node.entry.raw);
        for unit in node.entry.long.iter().flat_map(Name::units) {
            hash.update(unit.to_le_bytes());
        }
        let digest: [u8; 20] = hash.finalize().into();
        let front: [u8; 16] = std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0));
        Listing {
            files: u64::from(!node.is_label()),
            names: 1_u64.saturating_add(u64::from(node.entry.long.is_some())),
            sum: u128::from_le_bytes(front),
        }
    }

    /// The first byte of a short name is lost: it is taken from the searched names that the rest
    /// fits.
    fn remains(remains: &Remains, patterns: &[NamePattern]) -> Vec<u8> {
        let mut names = vec![remains.long.clone()];
        if let Some(raw) = &remains.short {
            names.push(short_name(raw));
            let found = short_bytes(raw);
            for pattern in patterns {
                let whole = pattern.part == NamePart::Whole;
                let wanted = as_short(&pattern.folded).filter(|_| whole);
                if wanted.is_some_and(|wanted| wanted.get(1..) == found.get(1..)) {
                    names.push(Name(pattern.folded.clone()));
                }
            }
        }
        let mut bytes = Vec::new();
        for name in names {
            bytes.extend(name.units().iter().flat_map(|unit| unit.to_le_bytes()));
            bytes.extend([0, 0]);
        }
        bytes
    }

    fn chains(table: &mut Table<'_, Self>, entry: &Entry) -> Result<Vec<Chain>> {
        let heap = table.volume().geometry.heap;
        let first = entry.first_cluster(table.volume().geometry.width);
        let len = entry.data_len();
        if first == 0 && len == 0 {
            return Ok(vec![Chain::default()]);
        }
        let mut chain = table.single(first)?;
        let room = chain.room(&heap);
        if room < len {
            chain.problem.get_or_insert_with(|| short(len, room));
        }
        Ok(vec![chain])
    }

    fn is_free(table: &mut Table<'_, Self>, _walk: &Walk<Self>, cluster: u32) -> Result<bool> {
        Ok(table.link(cluster)? == Link::Free)
    }

    fn is_owned(table: &mut Table<'_, Self>, _walk: &Walk<Self>, cluster: u32) -> Result<bool> {
        Ok(!matches!(table.link(cluster)?, Link::Free | Link::Bad))
    }

    /// `.` and `..` of a directory.
    fn is_live(raw: &Raw, _is_stale: bool) -> bool {
        raw.starts_with(b".          ") || raw.starts_with(b"..         ")
    }

    fn is_mark(first: u8) -> bool {
        first == slot::DELETED
    }

    fn mark(_raw: &Raw) -> u8 {
        slot::DELETED
    }

    /// Behind the end of a directory nothing is marked: there the first byte stays 0.
    fn needs_mark(raw: &Raw, _stale: Option<&Stale<Remains>>) -> bool {
        byte(raw, 0) == slot::DELETED || (is_long(raw) && byte(raw, 0) != 0)
    }

    /// A short name with its long one.
    fn stale_slots(number: u64, stale: Option<&Stale<Remains>>) -> Vec<u64> {
        stale.map_or(vec![number], |stale| stale.slots.to_vec())
    }

    fn free(fat: &Fat, _walk: &Walk<Self>, _chains: &[Chain], freed: &Taken) -> Result<()> {
        edit::free(fat, freed)
    }

    fn check_counts(fat: &Fat, walk: &Walk<Self>, lines: &mut Vec<String>) -> Result<()> {
        check::check_counts(fat, walk, lines)
    }
}

/// What is wrong with a chain that is too short.
fn short(len: u64, room: u64) -> String {
    format!("chain: clusters for {len} bytes expected, found {room} bytes")
}
