//! NTFS: one volume, read strictly, edited through an overlay.
//!
//! In: a device that starts at an NTFS boot sector. Out: [`Ntfs`], a
//! [`FileTree`](crate::tree::FileTree): entries, bytes, obstacles, owners, problems.
//! Knows: units, error, bytes, text, device, tree. Facts from: `format.rs`.
//! Never: repairs anything, follows a reparse point, replays the log, trusts a length it has not
//! checked, or keeps anything but geometry, $MFT's runs and $UpCase between two calls.

pub mod attribute;
pub mod attribute_list;
pub mod boot;
mod census;
mod check;
pub mod edit;
mod entry;
pub mod file;
pub mod format;
pub mod index;
pub mod lznt1;
pub mod mft;
mod opaque;
mod owners;
pub mod record;
pub mod runs;
mod scan;
mod state;
pub mod stream;
mod tree;
mod unreadable;
pub mod upcase;

pub use attribute::{Attribute, Body, FileName};
pub use boot::Geometry;
pub use file::File;
pub use index::{Block, Entry, Hit, Index, Node, NodeHeader};
pub use record::{Fixup, Record, apply_fixup, undo_fixup};
pub use runs::{Run, parse_runs};
pub use stream::{Content, Piece, Stream};
pub use upcase::UpCase;

use crate::{
    bytes::View,
    device::Device,
    error::{At, Result},
    units::{Lcn, VolumeOffset},
};
use format::{code, number, volume_information};

/// An NTFS volume.
#[derive(Debug)]
pub struct Ntfs {
    device: Device,
    geometry: Geometry,
    mft: Stream,
    upcase: UpCase,
    version: (u8, u8),
}

impl Ntfs {
    /// Opens a volume: boot sector, $MFT, $UpCase, version. A damaged $UpCase or $Volume does not
    /// keep it from opening: they are obstacles to writing.
    pub fn open(device: Device) -> Result<Self> {
        let mut sector = [0; 512];
        device.read_at(0, &mut sector).at("volume offset", "0x0")?;
        let geometry = Geometry::parse(&sector)?;
        let mft = mft::bootstrap(&device, geometry)?;
        let mut ntfs = Self {
            device,
            geometry,
            mft,
            upcase: UpCase::fallback(),
            version: (0, 0),
        };
        ntfs.upcase = UpCase::read(&ntfs);
        if let Ok((version, _)) = ntfs.volume_information() {
            ntfs.version = version;
        }
        Ok(ntfs)
    }

    /// The device it lies on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The geometry.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// $MFT's data stream.
    #[must_use]
    pub fn mft(&self) -> &Stream {
        &self.mft
    }

    /// The table that folds names.
    #[must_use]
    pub fn upcase(&self) -> &UpCase {
        &self.upcase
    }

    /// NTFS version (3, 1); (0, 0) if $Volume is damaged.
    #[must_use]
    pub fn version(&self) -> (u8, u8) {
        self.version
    }

    /// Version and flags as they stand in $Volume now.
    pub fn volume_information(&self) -> Result<((u8, u8), u16)> {
        let file = self.file(number::VOLUME)?;
        let stream = file.require(code::VOLUME_INFORMATION, "")?;
        let bytes = self.read_whole(&stream)?;
        let view = View::new(&bytes, "$VOLUME_INFORMATION");
        Ok((
            (
                view.u8(volume_information::MAJOR)?,
                view.u8(volume_information::MINOR)?,
            ),
            view.u16(volume_information::FLAGS)?,
        ))
    }

    /// Where a cluster starts.
    #[must_use]
    pub fn cluster_offset(&self, lcn: Lcn) -> VolumeOffset {
        self.geometry.cluster_offset(lcn)
    }
}
