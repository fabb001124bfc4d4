//! Registry hives: read leniently, check strictly, delete without a trace.
//!
//! In: the bytes of one hive file and of the logs beside it. Out: the hive as Windows would see it
//! ([`open()`]), what it holds ([`Hive`]), whether every cell of it is sound ([`check()`]), and the same
//! bytes with values and subtrees gone and nothing stale left ([`edit()`]).
//! Knows: units, error, bytes, text.
//! Facts from: `format` and `log::format` (the on-disk layouts and their sources).
//! Never: sees a device or a file; knows which keys matter; panics on hostile bytes.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod bins;
mod bits;
mod check;
mod digest;
mod edit;
mod format;
mod log;
mod plan;
mod read;
mod record;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests_check;
#[cfg(test)]
mod tests_edit;
mod walk;

pub use check::{Checked, Problem, Summary, check};
pub use edit::{EditOutcome, HiveEdit, KeyPath, Wiped, edit, edit_and_wipe, stale_pieces};
pub use log::{
    AppliedEntry, Fate, LogFormat, LogReport, Opened, Replay, differences, open, seal, settle,
};
pub use read::{BaseBlock, Hive, KeyRef, Probe, State, ValueRef, probe, read_base};
