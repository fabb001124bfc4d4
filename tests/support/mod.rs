//! Builders of hives, volumes and disks for the tests: independent of declone's own readers and
//! writers, so that the two can be held against each other.
//!
//! - [`hive_builder`]: registry hives, 1.3 to 1.6, with planted residue.
//! - [`hive_log_builder`]: transaction logs of both formats.
//! - [`hive_gen`]: hives and logs of every kind, decided by a seed.
//! - [`random`]: numbers that a seed decides.
//! - [`ntfs_builder`]: NTFS volumes of every geometry, sparse and fast.
//! - [`packed_builder`]: SZDD files and cabinets of one file.
//! - [`fat_builder`]: FAT12, FAT16 and FAT32 volumes.
//! - [`exfat_builder`]: exFAT volumes.
//! - [`disk_builder`]: MBR, GPT, or no table around volumes.
//! - [`machine_builder`]: installations of every generation of Windows.
//! - [`sms`]: whole scenes that carry the identity declone is about.
//! - [`volumes`]: volumes named by what is special about them.
//! - [`qcow2_builder`], [`vdi_builder`], [`vmdk_builder`]: the same for those formats; [`tables`] is
//!   what they share.
//! - [`vhd_builder`]: VHD around a raw disk, and the disk out of a VHD.
//! - [`vhdx_builder`]: the same for VHDX, and its log.
//! - [`wim_builder`]: WIM archives without compression, and a strict reader of them.
//! - [`ewf_builder`], [`ex01_builder`]: EnCase and SMART evidence files, one or a set.
//! - [`fixtures`]: the recipes of what lies in `fixtures/`.
//! - [`pack`]: the small form in which built images lie in `fixtures/`.
//! - [`aff4_builder`]: AFF4 evidence files.
#![allow(dead_code, unreachable_pub, missing_docs, unused_imports)]

pub mod aff4_builder;
pub mod disk_builder;
pub mod ewf_builder;
pub mod ex01_builder;
pub mod exfat_builder;
pub mod fat_builder;
pub mod fixtures;
pub mod hive_builder;
pub mod hive_gen;
pub mod hive_log_builder;
pub mod machine_builder;
pub mod ntfs_builder;
pub mod pack;
pub mod packed_builder;
pub mod put;
pub mod qcow2_builder;
pub mod random;
pub mod sd;
pub mod sms;
pub mod tables;
pub mod upcase;
pub mod vdi_builder;
pub mod vhd_builder;
pub mod vhdx_builder;
pub mod vmdk_builder;
pub mod volumes;
pub mod wim_builder;

pub use sms::sms2003_disk;
