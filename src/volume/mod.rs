//! Volumes: which file system is it, and the two that declone edits; a directory of the host.
//!
//! In: a device that starts at a boot sector. Out: a [`Probe`] by evidence, a [`ntfs::Ntfs`], a [`fat::Fat`].
//! Or: a path. Out: a [`directory::Directory`].
//! Knows: units, error, bytes, text, device, tree. Facts from: `ntfs/format.rs`, `fat/format.rs`,
//! `probe.rs`.
//! Never: knows which files matter, what a hive is, or where the volume lies on the disk.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod directory;
pub mod fat;
pub mod ntfs;
mod probe;
pub mod widths;

pub use probe::{FILESYSTEMS, FileSystem, Kind, Probe, probe};
