//! Formats that are recognised and not yet, or never, opened.
//!
//! A format that gets its own file takes its row with it.

use super::{Edges, Format, Open, format};
use crate::text::escape;

/// Of an archive that only the program that made it can restore.
const RESTORE: &str = "restore it to a disk or a virtual disk with the program that made it, and give \
                       that";
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
    open: Open::Refuse("convert it first: qemu-img convert -f qed -O raw IMAGE disk.raw"),
};

pub(super) const PARALLELS: Format = Format {
    name: "parallels",
    title: "a Parallels disk",
    probe: |edges| {
        format::PARALLELS
            .into_iter()
            .find_map(|known| magic(edges, 0, known, "its signature"))
    },
    open: Open::Refuse("convert it first: qemu-img convert -f parallels -O raw IMAGE disk.raw"),
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
    open: Open::Refuse("convert it first: qemu-img convert -f dmg -O raw IMAGE disk.raw"),
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
    open: Open::Refuse("unpack it first: unzip IMAGE"),
};

pub(super) const SEVEN_ZIP: Format = Format {
    name: "7z",
    title: "a 7z archive",
    probe: |edges| magic(edges, 0, format::SEVEN_ZIP, "7z"),
    open: Open::Refuse("unpack it first: 7z x IMAGE"),
};

pub(super) const XZ: Format = Format {
    name: "xz",
    title: "an xz file",
    probe: |edges| magic(edges, 0, format::XZ, "its signature"),
    open: Open::Refuse("unpack it first: xz -dc IMAGE > disk.img"),
};

pub(super) const ZSTD: Format = Format {
    name: "zstd",
    title: "a Zstandard file",
    probe: |edges| magic(edges, 0, format::ZSTD, "its signature"),
    open: Open::Refuse("unpack it first: zstd -dc IMAGE > disk.img"),
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
    open: Open::Refuse("unpack it first: bzip2 -dc IMAGE > disk.img"),
};

pub(super) const GZIP: Format = Format {
    name: "gzip",
    title: "a gzip file",
    probe: |edges| magic(edges, 0, format::GZIP, "1f 8b 08"),
    open: Open::Refuse("unpack it first: gzip -dc IMAGE > disk.img"),
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

/// The name of the first member of a tar archive whose header's sum is right: that much is no accident,
/// and no boot sector.
fn tar(edges: &Edges) -> Option<String> {
    let header = edges.front(0, format::TAR_HEADER)?;
    if !edges.has(format::TAR_AT, format::TAR) {
        return None;
    }
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| match format::TAR_SUM.contains(&at) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    let digits = std::str::from_utf8(header.get(format::TAR_SUM)?).ok()?;
    let digits = digits.trim_matches([' ', '\0']);
    if u32::from_str_radix(digits, 8) != Ok(sum) {
        return None;
    }
    let name = header.get(..format::TAR_NAME)?.split(|byte| *byte == 0);
    Some(String::from_utf8_lossy(name.into_iter().next()?).into_owned())
}

/// The evidence of a tar archive whose first member's name ends like this.
fn tar_of(edges: &Edges, end: &str) -> Option<String> {
    let first = tar(edges)?;
    let ends = first.to_ascii_lowercase().ends_with(end);
    ends.then(|| format!("ustar at 0x101, its first file is `{}`", escape(&first)))
}

pub(super) const OVA: Format = Format {
    name: "ova",
    title: "an OVA, which is a tar archive with a virtual machine",
    probe: |edges| tar_of(edges, ".ovf"),
    open: Open::Refuse("unpack it first: tar -xf IMAGE, and give the disk in it (*.vmdk)"),
};

pub(super) const XVA: Format = Format {
    name: "xva",
    title: "an XVA, which is a tar archive with a virtual machine of XenServer",
    probe: |edges| tar_of(edges, "ova.xml"),
    open: Open::Refuse(
        "its disk is cut into pieces: import it in XenServer, and export the disk alone (as raw or \
         VHD)",
    ),
};

pub(super) const TAR: Format = Format {
    name: "tar",
    title: "a tar archive",
    probe: |edges| tar_of(edges, ""),
    open: Open::Refuse("unpack it first: tar -xf IMAGE, and give the disk in it"),
};

pub(super) const NTFSCLONE: Format = Format {
    name: "ntfsclone",
    title: "an ntfsclone image",
    probe: |edges| magic(edges, 0, format::NTFSCLONE, "ntfsclone-image"),
    open: Open::Refuse(
        "restore it to a raw file first: ntfsclone --restore-image -O volume.raw IMAGE",
    ),
};

pub(super) const PARTIMAGE: Format = Format {
    name: "partimage",
    title: "a Partition Image archive",
    probe: |edges| magic(edges, 0, format::PARTIMAGE, "PaRtImAgE-VoLuMe"),
    open: Open::Refuse(RESTORE),
};

pub(super) const LZ4: Format = Format {
    name: "lz4",
    title: "an lz4 file",
    probe: |edges| {
        let mut known = format::LZ4.into_iter();
        known.find_map(|known| magic(edges, 0, known, "its signature"))
    },
    open: Open::Refuse("unpack it first: lz4 -dc IMAGE > disk.img"),
};

pub(super) const LZOP: Format = Format {
    name: "lzop",
    title: "an lzop file",
    probe: |edges| magic(edges, 0, format::LZOP, "LZO"),
    open: Open::Refuse("unpack it first: lzop -dc IMAGE > disk.img"),
};

pub(super) const CAB: Format = Format {
    name: "cab",
    title: "a cabinet",
    probe: |edges| magic(edges, 0, format::CAB, "MSCF"),
    open: Open::Refuse("unpack it first: cabextract IMAGE"),
};

pub(super) const RAR: Format = Format {
    name: "rar",
    title: "a RAR archive",
    probe: |edges| magic(edges, 0, format::RAR, "Rar!"),
    open: Open::Refuse("unpack it first, and give the disk in it"),
};

pub(super) const GHOST: Format = Format {
    name: "ghost",
    title: "a Norton Ghost image",
    probe: |edges| magic(edges, 0, format::GHOST, "fe ef 01"),
    open: Open::Refuse(RESTORE),
};

pub(super) const TIB: Format = Format {
    name: "tib",
    title: "an Acronis True Image archive",
    probe: |edges| {
        let mut known = format::TIB.into_iter();
        known.find_map(|known| magic(edges, 0, known, "its signature"))
    },
    open: Open::Refuse(RESTORE),
};

pub(super) const VMA: Format = Format {
    name: "vma",
    title: "a Proxmox backup (VMA)",
    probe: |edges| magic(edges, 0, format::VMA, "VMA, version 1,"),
    open: Open::Refuse(
        "unpack it first, on a Proxmox host: vma extract IMAGE DIR, and give the raw disk in DIR",
    ),
};

pub(super) const SESPARSE: Format = Format {
    name: "sesparse",
    title: "an extent of an ESXi snapshot (VMDK, SESPARSE)",
    probe: |edges| magic(edges, 0, format::VMDK_SESPARSE, "0xcafebabe"),
    open: Open::Refuse(
        "delete the snapshots in VMware, which makes one disk of them; or convert what the small \
         .vmdk file shows that names it: qemu-img convert -f vmdk -O raw NAME.vmdk disk.raw",
    ),
};

pub(super) const LUKS: Format = Format {
    name: "luks",
    title: "a disk that is encrypted with LUKS",
    probe: |edges| magic(edges, 0, format::LUKS, "LUKS"),
    open: Open::Refuse(
        "decrypt it first, with its passphrase in the file PASS: qemu-img convert --object \
         secret,id=s,file=PASS --image-opts driver=luks,key-secret=s,file.filename=IMAGE -O raw \
         disk.raw",
    ),
};

/// What a file of an unknown format is, by the end of its name alone.
const NAMES: &[(&str, &str)] = &[
    ("adi", "an Active@ Disk Image"),
    ("fbk", "a FarStone backup"),
    ("fsa", "an FSArchiver archive"),
    ("gho", "a Norton Ghost image"),
    ("ghs", "a further part of a Norton Ghost image"),
    ("mrimg", "a Macrium Reflect image"),
    ("mrimgx", "a Macrium Reflect image"),
    ("pbd", "a Paragon archive"),
    ("pvhd", "a Paragon virtual disk"),
    ("spf", "a ShadowProtect image"),
    ("spi", "a ShadowProtect increment"),
    ("tib", "an Acronis True Image archive"),
    ("tibx", "an Acronis archive (TIBX)"),
    ("v2i", "a Symantec or Veritas System Recovery image"),
    ("vbk", "a Veeam backup"),
    ("vib", "a Veeam increment"),
    ("xva", "a XenServer machine"),
];

/// What a file of an unknown format may be, as its name says, and what to do.
pub(super) fn by_its_name(name: &str) -> Option<String> {
    let (_, end) = name.rsplit_once('.')?;
    let end = end.to_ascii_lowercase();
    let (_, title) = NAMES.iter().find(|(known, _)| *known == end)?;
    Some(format!("by its name it is {title}: {RESTORE}"))
}
