//! (room under construction)
pub mod ntfs;
