//! declone takes the cloned machine identity out of a captured Windows image, offline, and proves
//! that it is gone.
//!
//! # The street
//!
//! ```text
//! image file | container | partition | volume | (windows finds) hive + files | rules -> plan
//!            | stage on overlay | verify staged | clone + patch, or journal + commit
//!            | verify written | report
//! ```
//!
//! One room per noun of that road; arrows only go down (`tests/architecture.rs` enforces it).
//!
//! | floor | rooms |
//! |---|---|
//! | ground | [`units`], [`error`], [`bytes`], [`text`], [`device`], [`tree`] |
//! | formats | [`container`], [`partition`], [`volume`], [`hive`]: `format` (facts), `read`, `edit`, `check` |
//! | stairwell | [`image`]: the only place that knows container + partition + volume together |
//! | meaning | [`windows`] (where hives are), [`rules`] (what identifies a machine), [`plan`] |
//! | deeds | [`apply`] (the only writer), [`verify`] (looks again, never edits), [`report`], [`cli`] |
//!
//! # The address ladder
//!
//! hive -> file -> volume -> disk -> image offset, a newtype each ([`units`]). Edits go down it;
//! errors climb it, and every room adds the rung it knows.
//!
//! # Invariants
//!
//! 1. Nothing is written before the staged result was read again and found right: editors work on
//!    a [`device::Overlay`], and what leaves the house is its diff.
//! 2. Cleaning never allocates inside a disk image. What would need it is refused with the reason.
//! 3. Untrusted bytes are sliced in [`bytes`] only; on-disk arithmetic is checked; walks are
//!    iterative, bounded and never visit anything twice.
//! 4. The rules are data. No code outside `src/rules/*.toml` knows what SMS is.
//! 5. An image changes in place only through [`apply::protocol`]: journal first, then pages, then the
//!    journal goes. A crash anywhere leaves old, new, or a journal that finishes it.
//!    A directory of the host has no pages: there [`apply::directory`] replaces and removes whole files,
//!    in an order in which a crash needs only a second run.
//! 6. `not_scanned` lists what was not looked at: "clean" never hides ignorance.
//!
//! # How to add
//!
//! | new | touch |
//! |---|---|
//! | container | `container/<name>.rs` + one row in its `FORMATS` + a test case |
//! | file system | `volume/<name>/` + one row in its `FILESYSTEMS` + a test case |
//! | identity artifact | one entry in `src/rules/*.toml` + a test case; code only for a new kind |
//! | subcommand | `cli/<verb>.rs` + one enum arm |

pub mod apply;
pub mod bytes;
pub mod cli;
pub mod container;
pub mod device;
pub mod error;
pub mod hive;
pub mod image;
pub mod partition;
pub mod plan;
pub mod report;
pub mod rules;
pub mod text;
pub mod tree;
pub mod units;
pub mod verify;
pub mod volume;
pub mod windows;
