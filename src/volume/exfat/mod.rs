//! exFAT: one volume, read strictly, edited through an overlay.
//!
//! In: a device that starts at an exFAT boot sector. Out: [`Exfat`], a
//! [`FileTree`](crate::tree::FileTree): entries, bytes, obstacles, owners, problems.
//! Knows: units, error, bytes, text, device, tree. Facts from: `format.rs`.
//! Never: repairs anything, gives a cluster to two owners, trusts a length it has not checked, or
//! knows which files matter.

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
mod entry;
pub mod format;
mod table;
mod upcase;
mod walk;

use boot::Geometry;
use format::slot;
pub use walk::{Entry, Remains, Seen};

use super::clusters::{
    Chain, Format, Judgement, Node, Raw, Stale, Table, Taken, Volume, Walk, byte,
};
use crate::{
    error::Result,
    tree::{Listing, NamePattern},
};

/// An exFAT volume.
pub type Exfat = Volume<ExfatFormat>;

/// exFAT 1.x.
#[derive(Clone, Copy, Debug)]
pub struct ExfatFormat;

impl Format for ExfatFormat {
    const NAME: &'static str = "exFAT";
    const CHKDSK: &'static str = "check the volume in Windows (chkdsk /f), then capture it again";
    const JUDGEMENTS: &'static [(&'static str, Judgement<Self>)] = &[
        ("volume-truncated", Exfat::check_length),
        ("dirty-flag", check::check_flags),
        ("boot-region", check::check_regions),
        ("texfat", check::check_copies),
        ("structure", Exfat::check_structure),
    ];
    type Geometry = Geometry;
    type Entry = Entry;
    type Remains = Remains;
    type Seen = Seen;

    fn label(_geometry: &Geometry) -> String {
        "exFAT".to_owned()
    }

    fn take(exfat: &Exfat) -> Result<Walk<Self>> {
        walk::take(exfat)
    }

    fn upcase(walk: &Walk<Self>, unit: u16) -> u16 {
        walk.seen.upcase.unit(unit)
    }

    fn fixed(walk: &Walk<Self>) -> Listing {
        Listing {
            sum: walk.seen.fixed_sum,
            ..Listing::default()
        }
    }

    /// Where the entries stand, everything in them, and whose directory they are in.
    fn listing(node: &Node<Entry>, parent: u64) -> Listing {
        let sum = u128::from_le_bytes(node.entry.digest);
        Listing {
            files: 1,
            names: 1,
            sum: sum.wrapping_mul(u128::from(parent).wrapping_mul(2).wrapping_add(1)),
        }
    }

    fn remains(remains: &Remains, _patterns: &[NamePattern]) -> Vec<u8> {
        let units = remains.name.units().iter();
        let mut bytes: Vec<u8> = units.flat_map(|unit| unit.to_le_bytes()).collect();
        bytes.extend([0, 0]);
        bytes
    }

    /// Clusters of entries that are not understood go with their file (section 8.2).
    fn chains(table: &mut Table<'_, Self>, entry: &Entry) -> Result<Vec<Chain>> {
        let all = std::iter::once(&entry.set.data).chain(&entry.set.extra);
        all.map(|of| table.chain(*of)).collect()
    }

    fn is_free(table: &mut Table<'_, Self>, walk: &Walk<Self>, cluster: u32) -> Result<bool> {
        walk.is_free(table.volume(), cluster)
    }

    fn is_owned(_table: &mut Table<'_, Self>, walk: &Walk<Self>, cluster: u32) -> Result<bool> {
        Ok(walk.seen.taken.has(cluster))
    }

    fn is_live(raw: &Raw, is_stale: bool) -> bool {
        byte(raw, 0) & slot::IN_USE != 0 && !is_stale
    }

    fn is_mark(first: u8) -> bool {
        first & slot::IN_USE == 0
    }

    /// Its type, marked as not in use: a type of 0 would end the directory.
    fn mark(raw: &Raw) -> u8 {
        byte(raw, 0) & !slot::IN_USE
    }

    fn needs_mark(_raw: &Raw, stale: Option<&Stale<Remains>>) -> bool {
        stale.is_none_or(|stale| !stale.remains.behind_end)
    }

    fn stale_slots(_number: u64, stale: Option<&Stale<Remains>>) -> Vec<u64> {
        stale.map_or(Vec::new(), |stale| stale.slots.to_vec())
    }

    fn free(exfat: &Exfat, walk: &Walk<Self>, chains: &[Chain], freed: &Taken) -> Result<()> {
        edit::free(exfat, walk, chains, freed)
    }

    fn check_counts(_exfat: &Exfat, walk: &Walk<Self>, lines: &mut Vec<String>) -> Result<()> {
        if walk.seen.lost > 0 {
            lines.push(format!(
                "allocation bitmap: no cluster without an owner expected, found {}",
                walk.seen.lost
            ));
        }
        Ok(())
    }
}
