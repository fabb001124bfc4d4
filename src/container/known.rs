//! Formats that are recognised and not yet, or never, opened.
//!
//! A format that gets its own file takes its row with it.

use super::{Edges, Format, Open, format};

const CONVERT: &str = "convert it first: qemu-img convert -O raw IMAGE disk.raw";
const UNPACK: &str = "unpack it first";
const EVIDENCE: &str = "declone never writes evidence; export a raw copy first (ewfexport, \
                        affuse or the tool that made it)";

/// The evidence of a magic number at a fixed place.
fn magic(edges: &Edges, at: usize, magic: &[u8], shown: &str) -> Option<String> {
    edges.has(at, magic).then(|| format!("{shown} at {at:#x}"))
}

pub(super) const QED: Format = Format {
    name: "qed",
    title: "a QED image",
    probe: |edges| magic(edges, 0, format::QED, "QED"),
    open: Open::Refuse(CONVERT),
};

pub(super) const PARALLELS: Format = Format {
    name: "parallels",
    title: "a Parallels disk",
    probe: |edges| {
        format::PARALLELS
            .into_iter()
            .find_map(|known| magic(edges, 0, known, "its signature"))
    },
    open: Open::Refuse(CONVERT),
};

pub(super) const WIM_PIPABLE: Format = Format {
    name: "wim-pipable",
    title: "a pipable WIM archive",
    probe: |edges| magic(edges, 0, format::WIM_PIPABLE, "WLPWM"),
    open: Open::Refuse("make an ordinary one of it: wimexport IMAGE all new.wim --not-pipable"),
};

pub(super) const FFU: Format = Format {
    name: "ffu",
    title: "a Full Flash Update image",
    probe: |edges| magic(edges, format::FFU_AT, format::FFU, "SignedImage"),
    open: Open::Refuse("its blocks are hashed and signed; apply it to a disk with DISM first"),
};

pub(super) const L01: Format = Format {
    name: "l01",
    title: "an EnCase logical evidence file (L01)",
    probe: |edges| magic(edges, 0, format::L01, "LVF, single files,"),
    open: Open::Refuse("it holds single files, not a disk; export them with the tool that made it"),
};

pub(super) const LX01: Format = Format {
    name: "lx01",
    title: "an EnCase logical evidence file (Lx01)",
    probe: |edges| magic(edges, 0, format::LX01, "LEF2, single files,"),
    open: Open::Refuse("it holds single files, not a disk; export them with the tool that made it"),
};

pub(super) const AFF: Format = Format {
    name: "aff",
    title: "an AFF evidence file",
    probe: |edges| magic(edges, 0, format::AFF, "AFF10"),
    open: Open::Refuse(EVIDENCE),
};

pub(super) const PARTCLONE: Format = Format {
    name: "partclone",
    title: "a partclone image",
    probe: |edges| magic(edges, 0, format::PARTCLONE, "partclone-image"),
    open: Open::Refuse(
        "restore it to a raw file first: partclone.restore -C --restore_raw_file -s IMAGE -o \
         volume.raw",
    ),
};

pub(super) const DMG: Format = Format {
    name: "dmg",
    title: "an Apple disk image",
    probe: |edges| {
        edges
            .has_before_end(format::DMG_TRAILER, format::DMG)
            .then(|| "koly 512 bytes before the end".to_owned())
    },
    open: Open::Refuse(CONVERT),
};

pub(super) const ISO: Format = Format {
    name: "iso",
    title: "a CD or DVD image",
    probe: |edges| {
        magic(edges, format::ISO_AT, format::ISO, "CD001")
            .or_else(|| magic(edges, format::ISO_AT, format::UDF, "BEA01"))
    },
    open: Open::Refuse("extract the Windows image from it (sources\\install.wim) first"),
};

pub(super) const ZIP: Format = Format {
    name: "zip",
    title: "a zip archive",
    probe: |edges| magic(edges, 0, format::ZIP, "PK"),
    open: Open::Refuse(UNPACK),
};

pub(super) const SEVEN_ZIP: Format = Format {
    name: "7z",
    title: "a 7z archive",
    probe: |edges| magic(edges, 0, format::SEVEN_ZIP, "7z"),
    open: Open::Refuse(UNPACK),
};

pub(super) const XZ: Format = Format {
    name: "xz",
    title: "an xz file",
    probe: |edges| magic(edges, 0, format::XZ, "its signature"),
    open: Open::Refuse(UNPACK),
};

pub(super) const ZSTD: Format = Format {
    name: "zstd",
    title: "a Zstandard file",
    probe: |edges| magic(edges, 0, format::ZSTD, "its signature"),
    open: Open::Refuse(UNPACK),
};

pub(super) const BZIP2: Format = Format {
    name: "bzip2",
    title: "a bzip2 file",
    probe: |edges| {
        edges
            .has(4, format::BZIP2_BLOCK)
            .then(|| magic(edges, 0, format::BZIP2, "BZh"))
            .flatten()
    },
    open: Open::Refuse(UNPACK),
};

pub(super) const GZIP: Format = Format {
    name: "gzip",
    title: "a gzip file",
    probe: |edges| magic(edges, 0, format::GZIP, "1f 8b 08"),
    open: Open::Refuse(UNPACK),
};

pub(super) const HIVE: Format = Format {
    name: "hive",
    title: "a registry hive, not a disk",
    probe: |edges| magic(edges, 0, format::HIVE, "regf"),
    open: Open::Refuse(
        "a hive alone is not cleaned: its logs and its copies hold the identity too; give the \
         disk image it comes from",
    ),
};
