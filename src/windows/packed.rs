//! Single files packed by Microsoft's setup tools: SZDD (`compress.exe`) and cabinets with MSZIP
//! (`rdisk.exe` packs NT 4.0's `repair\software._`).
//!
//! In: the bytes of a packed file. Out: the bytes of the file inside; nothing is ever packed again.
//! Facts from: [MS-CAB] 2.1 to 2.6 and the MSZIP specification (cabinets); the format of `compress.exe` as in
//! `libmspack/mspack/szddd.c` and `lzssd.c` (SZDD). LZX and Quantum cabinets and KWAJ are named, not
//! unpacked.
//!
//! # Why
//!
//! The crate `cab` (0.6.0) indexes past its list of blocks when a file begins behind its folder's end,
//! and asserts capacities of its own buffers: hostile bytes make it panic. A cabinet of one file is a
//! header and a chain of blocks.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{
        DecompressorOxide, decompress,
        inflate_flags::{TINFL_FLAG_IGNORE_ADLER32, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF},
    },
};

use crate::{
    bytes::View,
    error::{Error, Result},
};

/// A SOFTWARE hive is loaded into paged pool by the systems that pack copies of it: 200 MiB is far
/// more than any of them could.
pub const UNPACKED_LIMIT: usize = 256 << 20;

/// What a packed file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `compress.exe`, LZSS.
    Szdd,
    /// `compress.exe` of MS-DOS 6; not unpacked.
    Kwaj,
    /// A cabinet.
    Cabinet,
}

impl Packing {
    /// By the first bytes of a file.
    #[must_use]
    pub fn probe(head: &[u8]) -> Option<Self> {
        match head.first_chunk::<8>()? {
            szdd::MAGIC => Some(Self::Szdd),
            b"KWAJ\x88\xf0\x27\xd1" => Some(Self::Kwaj),
            [b'M', b'S', b'C', b'F', 0, 0, 0, 0] => Some(Self::Cabinet),
            _ => None,
        }
    }

    /// For reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Szdd => "SZDD",
            Self::Kwaj => "KWAJ",
            Self::Cabinet => "cabinet",
        }
    }
}

/// The file inside; at most `limit` bytes of it.
pub fn unpack(bytes: &[u8], packing: Packing, limit: usize) -> Result<Vec<u8>> {
    match packing {
        Packing::Szdd => szdd::unpack(bytes, limit),
        Packing::Kwaj => Err(Error::unsupported(
            "packed file: SZDD or a cabinet with MSZIP expected, found KWAJ",
        )),
        Packing::Cabinet => cabinet::unpack(bytes, limit),
    }
}

fn too_large(what: &str, limit: usize) -> Error {
    Error::limit(format!(
        "{what}: at most {limit} bytes after unpacking expected, found more"
    ))
}

mod szdd {
    use super::{Error, Result, View, too_large};

    /// 0x00 of the file.
    pub(super) const MAGIC: &[u8; 8] = b"SZDD\x88\xf0\x27\x33";
    /// 0x08, one byte: the only mode there is.
    const MODE: usize = 0x08;
    /// 0x0a, u32: length of the file inside.
    const LEN: usize = 0x0a;
    /// 0x0e: groups of a flag byte and eight items, each a byte as it is (bit set, lowest first) or
    /// a match of two bytes.
    const DATA: usize = 0x0e;
    /// The window is a ring, filled with blanks.
    const WINDOW: usize = 4096;
    /// Where the first byte goes in the ring.
    const START: usize = WINDOW - 16;
    /// Shortest match; a match's length is stored less this.
    const MIN_MATCH: usize = 3;

    pub(super) fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
        let view = View::new(bytes, "SZDD file");
        let mode = view.u8(MODE)?;
        if mode != b'A' {
            return Err(Error::unsupported(format!(
                "SZDD file: mode 0x41 expected, found {mode:#04x}"
            )));
        }
        let len = usize::try_from(view.u32(LEN)?).map_err(|_| too_large("SZDD file", limit))?;
        if len > limit {
            return Err(too_large("SZDD file", limit));
        }
        let mut input = bytes.get(DATA..).unwrap_or_default().iter().copied();
        // Two bytes give at most 18: no length field makes the buffer larger than the file warrants.
        let mut out = Vec::with_capacity(len.min(input.len().saturating_mul(9)));
        while out.len() < len {
            let Some(flags) = input.next() else { break };
            for bit in 0..8_u32 {
                if out.len() >= len {
                    break;
                }
                let Some(first) = input.next() else { break };
                if flags.wrapping_shr(bit) & 1 == 1 {
                    out.push(first);
                    continue;
                }
                let Some(second) = input.next() else { break };
                let at = usize::from(first) | usize::from(second & 0xf0).wrapping_shl(4);
                let count = usize::from(second & 0x0f).saturating_add(MIN_MATCH);
                let count = count.min(len.saturating_sub(out.len()));
                copy(&mut out, at, count);
            }
        }
        if out.len() != len {
            return Err(Error::malformed(format!(
                "SZDD file: {len} bytes after unpacking expected, found {} (the file is cut off)",
                out.len()
            )));
        }
        Ok(out)
    }

    /// `at` is a place in the ring: how far back it is depends on where the next byte goes.
    fn copy(out: &mut Vec<u8>, at: usize, count: usize) {
        let next = START.wrapping_add(out.len()) % WINDOW;
        let mut back = next.wrapping_sub(at) % WINDOW;
        if back == 0 {
            back = WINDOW;
        }
        for _ in 0..count {
            let from = out.len().checked_sub(back).and_then(|at| out.get(at));
            let byte = from.copied().unwrap_or(b' ');
            out.push(byte);
        }
    }
}

mod cabinet {
    use super::{
        DecompressorOxide, Error, Result, TINFL_FLAG_IGNORE_ADLER32,
        TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF, TINFLStatus, View, decompress, too_large,
    };

    /// CFHEADER: 0x10 u32 offset of the first CFFILE; 0x1a u16 folders, 0x1c u16 files, 0x1e u16
    /// flags; 0x24 what the flags announce.
    mod header {
        pub(super) const FILES_AT: usize = 0x10;
        pub(super) const FOLDERS: usize = 0x1a;
        pub(super) const FILES: usize = 0x1c;
        pub(super) const FLAGS: usize = 0x1e;
        pub(super) const END: usize = 0x24;
        /// Flags: the cabinet goes on from, or in, another one.
        pub(super) const SPANS: u16 = 3;
        /// Flag: u16, u8 and u8 lengths of reserved areas (header, folder, block) stand at 0x24.
        pub(super) const RESERVE: u16 = 4;
    }
    /// CFFOLDER: u32 offset of the first CFDATA, u16 number of them, u16 compression.
    mod folder {
        pub(super) const DATA_AT: usize = 0;
        pub(super) const BLOCKS: usize = 4;
        pub(super) const COMPRESSION: usize = 6;
    }
    /// CFFILE: u32 length, u32 offset in the folder.
    mod file {
        pub(super) const LEN: usize = 0;
        pub(super) const IN_FOLDER: usize = 4;
    }
    /// CFDATA: u32 checksum, u16 packed and u16 unpacked length, reserved area, bytes.
    mod block {
        pub(super) const PACKED: usize = 4;
        pub(super) const LEN: usize = 6;
        pub(super) const END: usize = 8;
        /// Most bytes that one block unpacks to ([MS-CAB] 2.4).
        pub(super) const MAX: usize = 0x8000;
    }

    fn wide(value: u32) -> Result<usize> {
        usize::try_from(value).map_err(|_| Error::limit("cabinet: offset does not fit"))
    }

    pub(super) fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
        let view = View::new(bytes, "cabinet header");
        let (folders, files) = (view.u16(header::FOLDERS)?, view.u16(header::FILES)?);
        let flags = view.u16(header::FLAGS)?;
        if (folders, files) != (1, 1) || flags & header::SPANS != 0 {
            return Err(Error::unsupported(format!(
                "cabinet: a single file in a single folder expected, found {files} in {folders}{}",
                if flags & header::SPANS == 0 {
                    ""
                } else {
                    ", with other cabinets"
                }
            )));
        }
        let (mut at, mut block_reserve) = (header::END, 0);
        if flags & header::RESERVE != 0 {
            let own = usize::from(view.u16(header::END)?);
            block_reserve = usize::from(view.u8(header::END.saturating_add(3))?);
            at = at.saturating_add(4).saturating_add(own);
        }
        let folder = View::new(bytes.get(at..).unwrap_or_default(), "cabinet folder");
        let stored = match folder.u16(folder::COMPRESSION)? & 0x0f {
            0 => true,
            1 => false,
            other => {
                return Err(Error::unsupported(format!(
                    "cabinet: compression none or MSZIP expected, found {}",
                    match other {
                        2 => "Quantum".to_owned(),
                        3 => "LZX".to_owned(),
                        other => format!("type {other}"),
                    }
                )));
            }
        };
        let at = wide(view.u32(header::FILES_AT)?)?;
        let file = View::new(bytes.get(at..).unwrap_or_default(), "cabinet file");
        let (len, start) = (
            wide(file.u32(file::LEN)?)?,
            wide(file.u32(file::IN_FOLDER)?)?,
        );
        let end = start.checked_add(len).filter(|end| *end <= limit);
        let end = end.ok_or_else(|| too_large("cabinet", limit))?;

        let mut at = wide(folder.u32(folder::DATA_AT)?)?;
        let mut out = Vec::new();
        let mut inflater = DecompressorOxide::new();
        for _ in 0..folder.u16(folder::BLOCKS)? {
            if out.len() >= end {
                break;
            }
            let head = View::new(bytes.get(at..).unwrap_or_default(), "cabinet block");
            let packed_len = usize::from(head.u16(block::PACKED)?);
            let unpacked_len = usize::from(head.u16(block::LEN)?);
            let skip = block::END.saturating_add(block_reserve);
            let packed = head
                .get(skip, packed_len)
                .map_err(|error| error.at("cabinet offset", format_args!("{at:#x}")))?;
            one(&mut inflater, stored, packed, unpacked_len, &mut out)
                .map_err(|error| error.at("cabinet offset", format_args!("{at:#x}")))?;
            at = at.saturating_add(skip).saturating_add(packed_len);
        }
        let found = out.len();
        out.truncate(end);
        match out.get(start..) {
            Some(file) if out.len() == end => Ok(file.to_vec()),
            _ => Err(Error::malformed(format!(
                "cabinet: {end} bytes after unpacking expected, found {found}"
            ))),
        }
    }

    /// A block stands for itself, but its matches reach back into what was unpacked before.
    fn one(
        inflater: &mut DecompressorOxide,
        stored: bool,
        packed: &[u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let wrong = |found: &str| {
            Error::malformed(format!(
                "cabinet block: {len} bytes after unpacking expected, found {found}"
            ))
        };
        if len > block::MAX {
            return Err(Error::malformed(format!(
                "cabinet block: at most {} bytes expected, found {len}",
                block::MAX
            )));
        }
        if stored {
            if packed.len() != len {
                return Err(wrong(&packed.len().to_string()));
            }
            out.extend_from_slice(packed);
            return Ok(());
        }
        let Some(deflated) = packed.strip_prefix(b"CK") else {
            return Err(Error::malformed(
                "cabinet block: signature CK expected, found otherwise",
            ));
        };
        let start = out.len();
        out.resize(start.saturating_add(len), 0);
        inflater.init();
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_IGNORE_ADLER32;
        let (status, _, written) = decompress(inflater, deflated, out, start, flags);
        if status != TINFLStatus::Done || written != len {
            return Err(wrong(&format!("{written} ({status:?})")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;

    fn szdd(len: u32, data: &[u8]) -> Vec<u8> {
        let mut file = szdd::MAGIC.to_vec();
        file.extend(b"Ae");
        file.extend(len.to_le_bytes());
        file.extend(data);
        file
    }

    fn cab(blocks: &[(&[u8], u16)], len: u32, compression: u16) -> Vec<u8> {
        let mut file = b"MSCF\0\0\0\0".to_vec();
        file.resize(0x24, 0);
        file[0x10] = 0x2c;
        (file[0x1a], file[0x1c]) = (1, 1);
        file.extend(0x3d_u32.to_le_bytes());
        file.extend((blocks.len() as u16).to_le_bytes());
        file.extend(compression.to_le_bytes());
        file.extend(len.to_le_bytes());
        file.extend([0; 4 + 2 + 6]);
        file.push(0);
        assert_eq!(file.len(), 0x3d);
        for (packed, unpacked) in blocks {
            file.extend([0; 4]);
            file.extend((packed.len() as u16).to_le_bytes());
            file.extend(unpacked.to_le_bytes());
            file.extend(*packed);
        }
        file
    }

    #[test]
    fn szdd_matches_are_places_in_a_ring_of_blanks() {
        let limit = UNPACKED_LIMIT;
        // "abc", then 18 bytes from where "abc" went: it runs into itself.
        let file = szdd(21, &[0b0111, b'a', b'b', b'c', 0xf0, 0xff]);
        let out = unpack(&file, Packing::Szdd, limit).unwrap();
        assert_eq!(out, b"abcabcabcabcabcabcabc");
        // From the ring as it was at first.
        let file = szdd(5, &[0, 0x00, 0x02]);
        assert_eq!(unpack(&file, Packing::Szdd, limit).unwrap(), b"     ");
        // A match on its own place is a whole turn back.
        let file = szdd(3, &[0, 0xf0, 0xf0]);
        assert_eq!(unpack(&file, Packing::Szdd, limit).unwrap(), b"   ");
    }

    #[test]
    fn cut_and_swollen_szdd_files_are_errors_and_cost_nothing() {
        let whole = szdd(21, &[0b0111, b'a', b'b', b'c', 0xf0, 0xff]);
        for cut in 0..whole.len() {
            unpack(&whole[..cut], Packing::Szdd, 100).unwrap_err();
        }
        let error = unpack(&szdd(101, &[]), Packing::Szdd, 100).unwrap_err();
        assert!(error.to_string().contains("at most 100"), "{error}");
        let mut other = whole;
        other[8] = b'B';
        unpack(&other, Packing::Szdd, 100).unwrap_err();
    }

    #[test]
    fn mszip_blocks_reach_back_into_the_one_before() {
        // Two blocks; a fixed-Huffman match of the second reaches back over the border.
        let first = [b"CK".as_slice(), &[1, 8, 0, 0xf7, 0xff], b"software"].concat();
        // Final, fixed codes: length 8 (code 262), distance 8 (code 5, extra bit 1), end of block.
        let mut bits = String::from("110");
        bits += "0000110";
        bits += "00101";
        bits += "1";
        bits += "0000000";
        let mut second = b"CK".to_vec();
        for chunk in bits.as_bytes().chunks(8) {
            let value = chunk.iter().enumerate();
            second.push(value.fold(0, |sum, (i, bit)| sum | (bit - b'0') << i));
        }
        let file = cab(&[(&first, 8), (&second, 8)], 16, 1);
        let out = unpack(&file, Packing::Cabinet, 100).unwrap();
        assert_eq!(out, b"softwaresoftware");
        for cut in 0..file.len() {
            unpack(&file[..cut], Packing::Cabinet, 100).unwrap_err();
        }
        unpack(&file, Packing::Cabinet, 15).unwrap_err();
        // The first block's match would reach back before the beginning.
        let file = cab(&[(&second, 8)], 8, 1);
        unpack(&file, Packing::Cabinet, 100).unwrap_err();
        let stored = cab(&[(b"soft", 4), (b"ware", 4)], 8, 0);
        assert_eq!(unpack(&stored, Packing::Cabinet, 100).unwrap(), b"software");
    }

    #[test]
    fn what_is_not_unpacked_says_what_it_is() {
        let says = |file: &[u8], packing| unpack(file, packing, 100).unwrap_err().to_string();
        assert!(says(&cab(&[], 8, 3), Packing::Cabinet).contains("LZX"));
        assert!(says(&cab(&[], 8, 2), Packing::Cabinet).contains("Quantum"));
        let mut two = cab(&[], 8, 1);
        two[0x1c] = 2;
        assert!(says(&two, Packing::Cabinet).contains("found 2 in 1"));
        assert!(says(b"", Packing::Kwaj).contains("KWAJ"));
    }

    #[test]
    fn changed_bytes_are_errors_or_other_bytes_never_panics() {
        let first = [b"CK".as_slice(), &[1, 8, 0, 0xf7, 0xff], b"software"].concat();
        let files = [
            (cab(&[(&first, 8)], 8, 1), Packing::Cabinet),
            (
                szdd(21, &[0b0111, b'a', b'b', b'c', 0xf0, 0xff]),
                Packing::Szdd,
            ),
        ];
        for (file, packing) in files {
            for at in 0..file.len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut other = file.clone();
                    other[at] = byte;
                    if let Ok(out) = unpack(&other, packing, 1 << 16) {
                        assert!(out.len() <= 1 << 16);
                    }
                }
            }
        }
    }
}
