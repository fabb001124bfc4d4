//! The small form of a disk image: its pages that are not zero, filtered, deflated.
//!
//! ```text
//! 0   "DCFX0001"
//! 8   length of the image, u64
//! 16  length of the packed part when inflated, u64
//! 24  CRC-32 of the inflated part, u32
//! 28  deflate stream of: for each 4,096-byte page that is not zero, in order:
//!     u32 page number, u8 filter (0 none, 1 differences of 16-bit words), 4,096 bytes
//! ```
//!
//! The filter is there for `$UpCase`, which otherwise would be most of a packed volume. All numbers
//! are little-endian. Packing the same image always gives the same page list; the deflated bytes
//! may change with the version of the compressor.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::disk_builder::crc32;
use super::put;

const MAGIC: &[u8; 8] = b"DCFX0001";
const PAGE: usize = 4096;
const HEAD: usize = 28;

/// Length of the image in `file` and its pages that are not zero, filtered.
pub fn pages(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut pages = Vec::new();
    let mut buffer = vec![0; 256 * PAGE];
    let mut at = 0;
    while at < len {
        let n = usize::try_from((len - at).min(buffer.len() as u64)).unwrap();
        file.read_exact(&mut buffer[..n])?;
        for (i, page) in buffer[..n].chunks(PAGE).enumerate() {
            if page.iter().any(|b| *b != 0) {
                let number = u32::try_from(at / PAGE as u64).unwrap() + u32::try_from(i).unwrap();
                pages.extend(number.to_le_bytes());
                push_page(&mut pages, page);
            }
        }
        at += n as u64;
    }
    Ok((len, pages))
}

/// Packs the image in `file`.
pub fn pack(file: &mut File) -> io::Result<Vec<u8>> {
    let (len, pages) = pages(file)?;
    let mut out = vec![0; HEAD];
    put::bytes(&mut out, 0, MAGIC);
    put::u64(&mut out, 8, len);
    put::u64(&mut out, 16, pages.len() as u64);
    put::u32(&mut out, 24, crc32(&pages));
    out.extend(miniz_oxide::deflate::compress_to_vec(&pages, 9));
    Ok(out)
}

fn push_page(out: &mut Vec<u8>, page: &[u8]) {
    let mut page = page.to_vec();
    page.resize(PAGE, 0);
    let words: Vec<u16> = page.chunks_exact(2).map(|w| put::get16(w, 0)).collect();
    let step = |i: usize| words[i].wrapping_sub(if i == 0 { 0 } else { words[i - 1] });
    let ones = (0..words.len()).filter(|i| step(*i) == 1).count();
    if ones > words.len() / 2 {
        out.push(1);
        for i in 0..words.len() {
            out.extend(step(i).to_le_bytes());
        }
    } else {
        out.push(0);
        out.extend(page);
    }
}

/// The length and the pages of a packed image, checked.
pub fn inflate(packed: &[u8]) -> io::Result<(u64, Vec<u8>)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("fixture: {what}"));
    if packed.len() < HEAD || &packed[..8] != MAGIC {
        return Err(bad("signature DCFX0001 expected"));
    }
    let number = |at: usize| u64::from_le_bytes(packed[at..at + 8].try_into().unwrap());
    let pages = miniz_oxide::inflate::decompress_to_vec(&packed[HEAD..])
        .map_err(|e| bad(&format!("deflate stream: {e}")))?;
    if pages.len() as u64 != number(16) || crc32(&pages).to_le_bytes() != packed[24..28] {
        return Err(bad("length or checksum differs"));
    }
    Ok((number(8), pages))
}

/// Unpacks into an empty file, leaving holes.
pub fn unpack(packed: &[u8], file: &mut File) -> io::Result<()> {
    let (image_len, pages) = inflate(packed)?;
    file.set_len(image_len)?;
    for entry in pages.chunks_exact(5 + PAGE) {
        let at = u64::from(u32::from_le_bytes(entry[..4].try_into().unwrap())) * PAGE as u64;
        let mut page = entry[5..].to_vec();
        if entry[4] == 1 {
            let mut last = 0u16;
            for i in (0..PAGE).step_by(2) {
                last = last.wrapping_add(put::get16(&page, i));
                put::u16(&mut page, i, last);
            }
        }
        let len = usize::try_from((image_len - at).min(PAGE as u64)).unwrap();
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&page[..len])?;
    }
    Ok(())
}

/// The whole image in memory.
pub fn unpack_to_vec(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut file = tempfile::tempfile()?;
    unpack(packed, &mut file)?;
    let mut v = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut v)?;
    Ok(v)
}
