//! Volumes: which file system is it, and the three that declone edits.
//!
//! In: a device that starts at a boot sector. Out: a [`Probe`] by evidence, a [`ntfs::Ntfs`],
//! a [`fat::Fat`], an [`exfat::Exfat`].
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

pub mod exfat;
pub mod fat;
pub mod ntfs;
mod probe;
pub mod widths;

pub use probe::{FILESYSTEMS, FileSystem, Kind, Probe, probe};

/// Bytes of a directory entry of FAT and exFAT, whose records are numbered by it.
pub const SLOT_LEN: u64 = 32;
