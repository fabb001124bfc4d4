//! The integration tests: one binary, one link step. Each module is a file beside this one. The crash
//! model alone is a binary of its own (`crash_model/`).

// Helpers are `pub` for each other; tests write scratch files and speak of single ranges.
#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::single_range_in_vec_init
)]

mod advice;
mod architecture;
mod bounds;
mod cases_hive;
mod cases_logs;
mod cases_ntfs_edit;
mod cases_ntfs_read;
mod clean;
mod clean_then_verify;
mod cli;
mod clusters;
mod compare;
mod contained;
mod containers;
mod containers_aff4;
mod containers_ewf;
mod containers_ex01;
mod containers_fields;
mod containers_outside;
mod containers_qcow2;
mod containers_rows;
mod containers_vdi_vmdk;
mod containers_vhdx;
mod containers_vhdx_damage;
mod copies;
mod damage;
mod directory;
mod directory_faults;
mod directory_mounts;
mod dirty;
mod disks;
mod exfat;
mod exfat_judges;
mod fat;
mod faults;
mod fixtures;
mod folders;
mod hive_random;
mod hive_rows;
mod hostile_formats;
mod hostile_names;
mod in_place;
mod judges;
mod locks;
mod machine;
mod machines;
mod machines_judged;
mod opaque;
mod oracle;
mod outputs;
mod recycled;
mod refuse;
mod report;
mod report_files;
mod rules;
mod rules_keys;
mod run;
mod sets;
mod sets_copy;
mod support;
mod traces_protected;
mod two_owners;
mod unreadable;
mod verdict;
mod wim;
mod wim_check;
mod wim_hostile;
mod wim_judges;
mod wim_rows;
mod wim_swm;
mod witness;
