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
mod owners;
mod table;
mod tree;
mod upcase;
mod walk;

use std::sync::{Arc, Mutex};

use boot::Geometry;
use walk::Walk;

use crate::{
    device::Device,
    error::{At, Error, Result},
};

/// An exFAT volume.
#[derive(Debug)]
pub struct Exfat {
    device: Device,
    geometry: Geometry,
    /// What the last pass saw; forgotten when entries or chains are edited.
    walk: Mutex<Option<Arc<Walk>>>,
}

impl Exfat {
    /// Opens a volume by its boot sector. Whatever else is damaged is an obstacle to writing.
    pub fn open(device: Device) -> Result<Self> {
        let mut sector = [0; 512];
        device.read_at(0, &mut sector).at("volume offset", "0x0")?;
        let geometry = Geometry::parse(&sector)?;
        Ok(Self {
            device,
            geometry,
            walk: Mutex::new(None),
        })
    }

    /// The geometry.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The tree as it is now.
    fn walk(&self) -> Result<Arc<Walk>> {
        let mut kept = self.lock()?;
        if let Some(walk) = kept.as_ref() {
            return Ok(walk.clone());
        }
        let walk = Arc::new(Walk::take(self)?);
        *kept = Some(walk.clone());
        Ok(walk)
    }

    fn forget_walk(&self) -> Result<()> {
        *self.lock()? = None;
        Ok(())
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Option<Arc<Walk>>>> {
        self.walk
            .lock()
            .map_err(|_| Error::internal("exFAT: a thread died while it read the tree"))
    }
}
