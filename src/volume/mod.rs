//! Volumes: which file system is it, and the three that declone edits; a directory of the host.
//!
//! In: a device that starts at a boot sector. Out: a [`Probe`] by evidence, a [`ntfs::Ntfs`],
//! a [`fat::Fat`], an [`exfat::Exfat`]; the latter two are one [`clusters::Volume`] each.
//! Or: a path. Out: a [`directory::Directory`].
//! Knows: units, error, bytes, text, device, tree. Facts from: `ntfs/format.rs`, `fat/format.rs`,
//! `exfat/format.rs`, `probe.rs`.
//! Never: knows which files matter, what a hive is, or where the volume lies on the disk.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod clusters;
pub mod directory;
pub mod exfat;
pub mod fat;
pub mod ntfs;
mod probe;
pub mod widths;

pub use probe::{FILESYSTEMS, FileSystem, Kind, Probe, probe};

/// Where the directory entry of this number stands in its volume: FAT and exFAT name a file by it. The
/// number is the volume offset over 32.
#[must_use]
pub fn entry_place(number: u64) -> String {
    format!("{:#x}", number.saturating_mul(32))
}
