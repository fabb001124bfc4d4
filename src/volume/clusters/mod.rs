//! What FAT and exFAT have in common: a heap of clusters, chains of them, directories of slots.
//!
//! In: a device that starts at a boot sector, and a [`Format`]: what its boot sector, its FAT and its
//! directory entries mean. Out: a [`Volume`], which is a [`FileTree`](crate::tree::FileTree).
//! Knows: units, error, bytes, text, device, tree. Facts from: `../fat/format.rs`,
//! `../exfat/format.rs`.
//! Never: parses an entry, allocates, or repairs anything.
//!
//! # Why
//!
//! The pass over the directories itself is not here: a FAT name stands before its entry and a set of
//! exFAT behind it, FAT gives clusters out by links and exFAT by a bitmap. What is done with the tree
//! that the pass finds is the same.

mod chain;
mod check;
mod edit;
mod owners;
mod slot;
mod table;
mod tree;
mod walk;

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
};

pub use chain::{Chain, Heap, Run, Taken, Tortoise};
pub use check::{Judgement, MAX_NAMED};
pub use edit::{PIECE, zero_range};
pub use slot::{Raw, SLOT_LEN, byte, dword, each_slot, qword, slot_offset, word};
pub use table::Table;
pub use walk::{Entry, Node, Stale, System, Walk};

use crate::{
    device::Device,
    error::{At, Error, Result},
    text::ascii_upcase,
    tree::{Listing, NamePattern},
};

/// What a boot sector says, checked.
pub trait Geometry: Clone + Debug + Send + Sync + Sized {
    /// Reads the boot sector.
    fn parse(sector: &[u8]) -> Result<Self>;
    /// Where the clusters lie.
    fn heap(&self) -> &Heap;
    /// Bytes a sector.
    fn sector_len(&self) -> u64;
    /// Length of the volume.
    fn volume_len(&self) -> u64;
    /// The FAT that is read: volume offset and length.
    fn active_fat(&self) -> (u64, u64);
}

/// What tells one file system of clusters from another.
pub trait Format: Debug + Send + Sync + Sized + 'static {
    /// How messages name it.
    const NAME: &'static str;
    /// What to do about a broken structure.
    const CHKDSK: &'static str;
    /// What is judged before anything is written, in order, and as what an error counts.
    const JUDGEMENTS: &'static [(&'static str, Judgement<Self>)];
    /// What its boot sector says.
    type Geometry: Geometry;
    /// What an entry says, besides where it stands.
    type Entry: Entry;
    /// What can be read of a deleted entry.
    type Remains: Clone + Debug + Send + Sync;
    /// What the pass saw besides the tree.
    type Seen: Debug + Default + Send + Sync;

    /// Format and version, for people.
    fn label(geometry: &Self::Geometry) -> String;

    /// The pass over the whole volume.
    fn take(volume: &Volume<Self>) -> Result<Walk<Self>>;

    /// A unit of a name in upper case.
    fn upcase(_walk: &Walk<Self>, unit: u16) -> u16 {
        ascii_upcase(unit)
    }

    /// The part of the listing that no file is.
    fn fixed(_walk: &Walk<Self>) -> Listing {
        Listing::default()
    }

    /// The part of a file or directory.
    fn listing(node: &Node<Self::Entry>, parent: u64) -> Listing;

    /// The names that can be read of a deleted entry, as UTF-16.
    fn remains(remains: &Self::Remains, patterns: &[NamePattern]) -> Vec<u8>;

    /// The clusters of a file's data, and then those that its entry has besides. Too few are a
    /// problem of the chain.
    fn chains(table: &mut Table<'_, Self>, entry: &Self::Entry) -> Result<Vec<Chain>>;

    /// Whether nobody owns a cluster.
    fn is_free(table: &mut Table<'_, Self>, walk: &Walk<Self>, cluster: u32) -> Result<bool>;

    /// Whether somebody may be asked for who owns a cluster.
    fn is_owned(table: &mut Table<'_, Self>, walk: &Walk<Self>, cluster: u32) -> Result<bool>;

    /// Whether a slot of no file is in use.
    fn is_live(raw: &Raw, is_stale: bool) -> bool;

    /// Whether a byte where a slot begins says no more than that the slot is not in use.
    fn is_mark(first: u8) -> bool;

    /// What an emptied slot begins with, so that its directory does not end there.
    fn mark(raw: &Raw) -> u8;

    /// Whether an emptied slot needs that mark.
    fn needs_mark(raw: &Raw, stale: Option<&Stale<Self::Remains>>) -> bool;

    /// The slots that go with a slot that is not in use.
    fn stale_slots(number: u64, stale: Option<&Stale<Self::Remains>>) -> Vec<u64>;

    /// Marks the clusters of these chains as free, and counts them.
    fn free(
        volume: &Volume<Self>,
        walk: &Walk<Self>,
        chains: &[Chain],
        freed: &Taken,
    ) -> Result<()>;

    /// Adds a line for every count that is wrong.
    fn check_counts(
        volume: &Volume<Self>,
        walk: &Walk<Self>,
        lines: &mut Vec<String>,
    ) -> Result<()>;
}

/// A volume.
#[derive(Debug)]
pub struct Volume<F: Format> {
    pub(in crate::volume) device: Device,
    pub(in crate::volume) geometry: F::Geometry,
    /// What the last pass saw; forgotten when entries or chains are edited.
    walk: Mutex<Option<Arc<Walk<F>>>>,
}

impl<F: Format> Volume<F> {
    /// Opens a volume by its boot sector. Whatever else is damaged is an obstacle to writing.
    pub fn open(device: Device) -> Result<Self> {
        let mut sector = [0; 512];
        device.read_at(0, &mut sector).at("volume offset", "0x0")?;
        let geometry = F::Geometry::parse(&sector)?;
        Ok(Self {
            device,
            geometry,
            walk: Mutex::new(None),
        })
    }

    /// The geometry.
    #[must_use]
    pub fn geometry(&self) -> &F::Geometry {
        &self.geometry
    }

    pub(in crate::volume) fn heap(&self) -> &Heap {
        self.geometry.heap()
    }

    /// The tree as it is now.
    pub(in crate::volume) fn walk(&self) -> Result<Arc<Walk<F>>> {
        let mut kept = self.lock()?;
        if let Some(walk) = kept.as_ref() {
            return Ok(walk.clone());
        }
        let walk = Arc::new(F::take(self)?);
        *kept = Some(walk.clone());
        Ok(walk)
    }

    fn forget_walk(&self) -> Result<()> {
        *self.lock()? = None;
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<Arc<Walk<F>>>>> {
        self.walk.lock().map_err(|_| {
            Error::internal(format!("{}: a thread died while it read the tree", F::NAME))
        })
    }
}
