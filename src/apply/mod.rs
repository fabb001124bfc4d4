//! Stage, clone, patch, journal, commit, recover, undo: the only room that writes to the host.
//!
//! In: a plan and the image over an overlay. Out: a verified file beside the wanted name, renamed
//! into place. Knows: device, tree, hive, image, plan. Facts from: `shared/facts/robustness.md` 6.
//! Never: decides what to remove; parses between the first written byte and the last.

pub mod change;
pub mod clone;
pub mod clone_set;
pub mod directory;
pub mod guard;
pub mod host;
pub mod interrupt;
pub mod journal;
pub mod outputs;
pub mod protocol;
mod report_file;
pub mod stage;
pub mod undo;

pub use report_file::{
    Intent, check_intent, check_report, read_intent, write_intent, write_report,
};
