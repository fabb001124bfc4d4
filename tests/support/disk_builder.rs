//! Builds disks around volumes: MBR with logical partitions, GPT with both copies, or no table.
//!
//! Sources: UEFI specification 2.10 chapter 5 (GPT, CRC32), Microsoft's description of the MBR and
//! of the chain of extended boot records.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::ntfs_builder::{Built, NtfsBuilder};
use super::put;

/// GPT type of ordinary Windows partitions.
pub const BASIC_DATA: [u8; 16] = guid(0xebd0_a0a2, 0xb9e5, 0x4433, 0x87c0_68b6_b726_99c7);
/// GPT type of the reserved partition Windows makes first.
pub const RESERVED: [u8; 16] = guid(0xe3c9_e316, 0x0b5c, 0x4db8, 0x817d_f92d_f002_15ae);

/// The on-disk form of a GUID.
pub const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        d.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

/// The partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// None: the disk is the volume.
    None,
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// What a partition holds.
#[derive(Clone, Debug)]
pub enum Inside {
    /// An NTFS volume.
    Ntfs(Box<NtfsBuilder>),
    /// These bytes at its start, zeros behind.
    Raw(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Partition {
    first: u64,
    sectors: u64,
    kind: u8,
    type_id: [u8; 16],
    logical: bool,
    inside: Inside,
}

/// A disk being described.
#[derive(Clone, Debug)]
pub struct DiskBuilder {
    len: u64,
    sector: u64,
    table: Table,
    partitions: Vec<Partition>,
}

/// One partition as built.
#[derive(Clone, Debug)]
pub struct BuiltPartition {
    /// Disk offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The volume, if it is NTFS.
    pub volume: Option<Built>,
}

impl DiskBuilder {
    fn new(len: u64, sector: u64, table: Table) -> Self {
        Self {
            len,
            sector,
            table,
            partitions: Vec::new(),
        }
    }

    /// A disk of `len` bytes with a master boot record.
    pub fn mbr(len: u64) -> Self {
        Self::new(len, 512, Table::Mbr)
    }

    /// A disk of `len` bytes with a GPT, in sectors of 512 or 4096 bytes.
    pub fn gpt(len: u64, sector: u64) -> Self {
        Self::new(len, sector, Table::Gpt)
    }

    /// A disk that is one volume.
    pub fn superfloppy(volume: NtfsBuilder) -> Self {
        let mut disk = Self::new(volume.size(), 512, Table::None);
        disk.add(0, 7, false, volume);
        disk
    }

    fn add(&mut self, first: u64, kind: u8, logical: bool, mut volume: NtfsBuilder) {
        let sectors = volume.size() / self.sector;
        if self.table != Table::None {
            volume.hidden_sectors(u32::try_from(first).unwrap());
        }
        let inside = Inside::Ntfs(Box::new(volume));
        let type_id = BASIC_DATA;
        self.partitions.push(Partition {
            first,
            sectors,
            kind,
            type_id,
            logical,
            inside,
        });
    }

    /// A primary (MBR) or ordinary (GPT) partition from sector `first` on.
    pub fn partition(mut self, first: u64, volume: NtfsBuilder) -> Self {
        self.add(first, 7, false, volume);
        self
    }

    /// A logical partition (MBR); its boot record lies 63 sectors before it.
    pub fn logical(mut self, first: u64, volume: NtfsBuilder) -> Self {
        self.add(first, 7, true, volume);
        self
    }

    /// A partition of `sectors` with `bytes` at its start; `kind` is the MBR type.
    pub fn raw(mut self, first: u64, sectors: u64, kind: u8, bytes: &[u8]) -> Self {
        let inside = Inside::Raw(bytes.to_vec());
        let type_id = if kind == 0 { RESERVED } else { BASIC_DATA };
        let logical = false;
        self.partitions.push(Partition {
            first,
            sectors,
            kind,
            type_id,
            logical,
            inside,
        });
        self
    }

    /// Bytes of the whole disk.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Writes the disk into an empty file.
    pub fn write_to(&self, file: &mut File) -> Vec<BuiltPartition> {
        file.set_len(self.len)
            .expect("room for the disk being built");
        let mut built = Vec::new();
        for p in &self.partitions {
            let offset = p.first * self.sector;
            let len = p.sectors * self.sector;
            assert!(offset + len <= self.len, "a partition ends beyond the disk");
            let volume = match &p.inside {
                Inside::Ntfs(volume) => Some(volume.write_to(file, offset)),
                Inside::Raw(bytes) => {
                    put_at(file, offset, bytes);
                    None
                }
            };
            built.push(BuiltPartition {
                offset,
                len,
                volume,
            });
        }
        match self.table {
            Table::None => {}
            Table::Mbr => self.write_mbr(file),
            Table::Gpt => self.write_gpt(file),
        }
        built
    }

    /// The disk in memory (through a temporary file).
    pub fn to_vec(&self) -> (Vec<u8>, Vec<BuiltPartition>) {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let built = self.write_to(&mut file);
        let mut v = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("seek");
        file.read_to_end(&mut v).expect("read back");
        (v, built)
    }

    fn write_mbr(&self, file: &mut File) {
        let mut record = boot_record();
        put::u32(&mut record, 440, 0x4a3b_2c1d);
        let mut slot = 0;
        for p in self.partitions.iter().filter(|p| !p.logical) {
            let active = if slot == 0 { 0x80 } else { 0 };
            entry(&mut record, slot, active, p.kind, p.first, p.sectors);
            slot += 1;
        }
        let logical: Vec<&Partition> = self.partitions.iter().filter(|p| p.logical).collect();
        if let (Some(first), Some(last)) = (logical.first(), logical.last()) {
            let start = first.first - 63;
            entry(
                &mut record,
                slot,
                0,
                0x0f,
                start,
                last.first + last.sectors - start,
            );
            for (i, p) in logical.iter().enumerate() {
                let mut extended = boot_record();
                entry(&mut extended, 0, 0, p.kind, 63, p.sectors);
                if let Some(next) = logical.get(i + 1) {
                    entry(
                        &mut extended,
                        1,
                        0,
                        5,
                        next.first - 63 - start,
                        next.sectors + 63,
                    );
                }
                put_at(file, (p.first - 63) * self.sector, &extended);
            }
        }
        put_at(file, 0, &record);
    }

    fn write_gpt(&self, file: &mut File) {
        let mut protective = boot_record();
        let last = self.len / self.sector - 1;
        entry(&mut protective, 0, 0, 0xee, 1, last.min(0xffff_ffff));
        put_at(file, 0, &protective);
        let mut entries = vec![0; 128 * 128];
        for (i, p) in self.partitions.iter().enumerate() {
            let b = &mut entries[128 * i..128 * (i + 1)];
            put::bytes(b, 0, &p.type_id);
            let unique = guid(
                0x1bad_cafe,
                0x0d15,
                0x4c00,
                0x8000_0000_0000_0000 | i as u64,
            );
            put::bytes(b, 16, &unique);
            put::u64(b, 32, p.first);
            put::u64(b, 40, p.first + p.sectors - 1);
            put::bytes(b, 56, &put::utf16("Basic data partition"));
        }
        let entry_sectors = (entries.len() as u64).div_ceil(self.sector);
        let header = |me: u64, other: u64, entries_at: u64| {
            let mut h = vec![0; 92];
            put::bytes(&mut h, 0, b"EFI PART");
            put::u32(&mut h, 8, 0x0001_0000);
            put::u32(&mut h, 12, 92);
            put::u64(&mut h, 24, me);
            put::u64(&mut h, 32, other);
            put::u64(&mut h, 40, 2 + entry_sectors);
            put::u64(&mut h, 48, last - 1 - entry_sectors);
            put::bytes(
                &mut h,
                56,
                &guid(0x00c0_ffee, 0xd15c, 0x4001, 0x8123_4567_89ab_cdef),
            );
            put::u64(&mut h, 72, entries_at);
            put::u32(&mut h, 80, 128);
            put::u32(&mut h, 84, 128);
            put::u32(&mut h, 88, crc32(&entries));
            let sum = crc32(&h);
            put::u32(&mut h, 16, sum);
            h
        };
        put_at(file, self.sector, &header(1, last, 2));
        put_at(file, 2 * self.sector, &entries);
        put_at(file, (last - entry_sectors) * self.sector, &entries);
        put_at(
            file,
            last * self.sector,
            &header(last, 1, last - entry_sectors),
        );
    }
}

fn boot_record() -> Vec<u8> {
    let mut v = vec![0; 512];
    put::u16(&mut v, 510, 0xaa55);
    v
}

/// Fills one of the four entries of a boot record.
fn entry(record: &mut [u8], slot: usize, active: u8, kind: u8, first: u64, sectors: u64) {
    let b = &mut record[446 + 16 * slot..462 + 16 * slot];
    b[0] = active;
    put::bytes(b, 1, &chs(first));
    b[4] = kind;
    put::bytes(b, 5, &chs(first + sectors - 1));
    put::u32(b, 8, u32::try_from(first).unwrap());
    put::u32(b, 12, u32::try_from(sectors).unwrap());
}

/// Head, sector and cylinder on 255 heads and 63 sectors.
fn chs(lba: u64) -> [u8; 3] {
    let (cylinder, rest) = (lba / (255 * 63), lba % (255 * 63));
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let byte = |v: u64| u8::try_from(v & 0xff).unwrap();
    [
        byte(rest / 63),
        byte((rest % 63 + 1) | (cylinder >> 2 & 0xc0)),
        byte(cylinder),
    ]
}

fn put_at(file: &mut File, at: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at))
        .expect("seek in the disk being built");
    file.write_all(bytes)
        .expect("write to the disk being built");
}

/// CRC-32 as GPT and gzip use it.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, slot) in table.iter_mut().enumerate() {
        let mut c = u32::try_from(i).unwrap();
        for _ in 0..8 {
            c = if c & 1 == 1 {
                0xedb8_8320 ^ c >> 1
            } else {
                c >> 1
            };
        }
        *slot = c;
    }
    !bytes.iter().fold(!0u32, |c, b| {
        table[usize::from(c.to_le_bytes()[0] ^ b)] ^ c >> 8
    })
}
