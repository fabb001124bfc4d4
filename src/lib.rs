//! declone
pub mod bytes;
pub mod container;
pub mod device;
pub mod error;
pub mod hive;
pub mod partition;
pub mod rules;
pub mod text;
pub mod tree;
pub mod units;
pub mod verify;
pub mod volume;
