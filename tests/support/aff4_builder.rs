//! Builds AFF4 files, without declone's reader.
//!
//! Layout: "AFF4 Standard v1.0a"; PKWARE APPNOTE for the archive.

use md5::Digest;

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Stored,
    Deflate,
    Zlib,
    Snappy,
    Lz4,
}

/// What is built.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Bytes in a chunk.
    pub chunk: usize,
    /// Chunks in a bevy.
    pub bevy: usize,
    pub method: Method,
    /// A map over the stream leaves out chunks of zeros, or of one other byte.
    pub map: bool,
    /// Lengths and offsets of the archive have 64 bits.
    pub zip64: bool,
    /// Small members are deflated.
    pub deflated: bool,
    /// The stream lies in folders of the archive's own name.
    pub relative: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            chunk: 32 << 10,
            bevy: 64,
            method: Method::Snappy,
            map: true,
            zip64: true,
            deflated: true,
            relative: false,
        }
    }
}

pub const VOLUME: &str = "aff4://11111111-2222-3333-4444-555555555555";
const IMAGE: &str = "aff4://aaaaaaaa-0000-0000-0000-000000000001";
const MAP: &str = "aff4://aaaaaaaa-0000-0000-0000-000000000002";

/// A member of the archive: name, bytes, whether it may be deflated.
pub type Member = (String, Vec<u8>, bool);

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    !crc
}

/// A zip archive.
pub fn zip(members: &[Member], zip64: bool, deflated: bool) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes, may) in members {
        let packed = match deflated && *may {
            true => miniz_oxide::deflate::compress_to_vec(bytes, 6),
            false => bytes.clone(),
        };
        let method: u16 = if deflated && *may { 8 } else { 0 };
        let at = out.len() as u64;
        let lens = [bytes.len() as u64, packed.len() as u64];
        let common = |extra_len: u16| {
            let mut part = vec![45, 0, 0, 0];
            part.extend(method.to_le_bytes());
            part.extend([0; 4]);
            part.extend(crc(bytes).to_le_bytes());
            for len in [lens[1], lens[0]] {
                let short = if zip64 { u32::MAX } else { len as u32 };
                part.extend(short.to_le_bytes());
            }
            part.extend((name.len() as u16).to_le_bytes());
            part.extend(extra_len.to_le_bytes());
            part
        };
        let extra = |with_offset: bool| {
            let mut extra = Vec::new();
            if zip64 {
                extra.extend([1, 0, if with_offset { 24 } else { 16 }, 0]);
                extra.extend(lens.iter().flat_map(|len| len.to_le_bytes()));
                if with_offset {
                    extra.extend(at.to_le_bytes());
                }
            }
            extra
        };
        out.extend(b"PK\x03\x04");
        out.extend(common(extra(false).len() as u16));
        out.extend(name.as_bytes());
        out.extend(extra(false));
        out.extend(&packed);
        directory.extend(b"PK\x01\x02\x2d\0");
        directory.extend(common(extra(true).len() as u16));
        directory.extend([0; 10]);
        let short = if zip64 { u32::MAX } else { at as u32 };
        directory.extend(short.to_le_bytes());
        directory.extend(name.as_bytes());
        directory.extend(extra(true));
    }
    let (at, len) = (out.len() as u64, directory.len() as u64);
    let count = members.len() as u64;
    out.extend(directory);
    if zip64 {
        let end = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(44_u64.to_le_bytes());
        out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for value in [count, count, len, at] {
            out.extend(value.to_le_bytes());
        }
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(end.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    let short = |value: u64| if zip64 { u32::MAX } else { value as u32 };
    for _ in 0..2 {
        out.extend((short(count) as u16).to_le_bytes());
    }
    out.extend(short(len).to_le_bytes());
    out.extend(short(at).to_le_bytes());
    out.extend((VOLUME.len() as u16).to_le_bytes());
    out.extend(VOLUME.as_bytes());
    out
}

fn pack(bytes: &[u8], method: Method) -> Vec<u8> {
    match method {
        Method::Stored => bytes.to_vec(),
        Method::Deflate => miniz_oxide::deflate::compress_to_vec(bytes, 6),
        Method::Zlib => miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6),
        Method::Snappy => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
        Method::Lz4 => lz4(bytes),
    }
}

/// An LZ4 block of literals, and matches of runs of one byte.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let long = |out: &mut Vec<u8>, mut len: usize| {
        while len >= 255 {
            out.push(255);
            len -= 255;
        }
        out.push(len as u8);
    };
    let (mut from, mut at) = (0, 1);
    while at + 32 < bytes.len() {
        let run = bytes[at..bytes.len() - 16]
            .iter()
            .take_while(|byte| **byte == bytes[at - 1])
            .count();
        if run < 20 {
            at += run.max(1);
            continue;
        }
        let literals = &bytes[from..at];
        out.push((literals.len().min(15) as u8) << 4 | 15);
        if literals.len() >= 15 {
            long(&mut out, literals.len() - 15);
        }
        out.extend(literals);
        out.extend([1, 0]);
        long(&mut out, run - 4 - 15);
        at += run;
        from = at;
        at += 1;
    }
    let literals = &bytes[from..];
    out.push((literals.len().min(15) as u8) << 4);
    if literals.len() >= 15 {
        long(&mut out, literals.len() - 15);
    }
    out.extend(literals);
    out
}

/// The members of a file that holds `disk`.
pub fn members(disk: &[u8], shape: &Shape) -> Vec<Member> {
    let stream = match shape.relative {
        true => format!("{VOLUME}/stream"),
        false => "aff4://aaaaaaaa-0000-0000-0000-000000000003".to_owned(),
    };
    let folder = |urn: &str| match urn.strip_prefix(VOLUME) {
        Some(inside) => inside.trim_start_matches('/').to_owned(),
        None => urn.replacen("://", "%3A%2F%2F", 1),
    };
    // What the stream holds, and the map.
    let (mut data, mut map) = (Vec::new(), Vec::new());
    let mut entry = |disk: usize, len: usize, at: usize, target: u32| {
        for value in [disk as u64, len as u64, at as u64] {
            map.extend(value.to_le_bytes());
        }
        map.extend(target.to_le_bytes());
    };
    for (index, part) in disk.chunks(shape.chunk).enumerate() {
        let at = index * shape.chunk;
        let same = part.iter().all(|byte| *byte == part[0]);
        match (shape.map && same, part[0]) {
            (true, 0) if index % 2 == 0 => {}
            (true, 0) => entry(at, part.len(), at, 1),
            (true, 0x5A) => entry(at, part.len(), at, 2),
            _ => {
                entry(at, part.len(), data.len(), 0);
                data.extend(part);
            }
        }
    }
    let len = data.len();
    let mut all: Vec<Member> = vec![
        ("container.description".into(), VOLUME.into(), true),
        (
            "version.txt".into(),
            b"major=1\nminor=0\ntool=Tester 9.9\n".to_vec(),
            true,
        ),
    ];
    for (number, bevy) in data.chunks(shape.chunk * shape.bevy).enumerate() {
        let (mut bytes, mut index) = (Vec::new(), Vec::new());
        for part in bevy.chunks(shape.chunk) {
            let mut part = part.to_vec();
            part.resize(shape.chunk, 0);
            let packed = pack(&part, shape.method);
            let packed = if packed.len() + 16 < part.len() {
                packed
            } else {
                part
            };
            index.extend((bytes.len() as u64).to_le_bytes());
            index.extend((packed.len() as u32).to_le_bytes());
            bytes.extend(packed);
        }
        let name = format!("{}/{number:08}", folder(&stream));
        all.push((name.clone(), bytes, false));
        all.push((format!("{name}.index"), index, true));
    }
    let mut text = format!(
        "@prefix : <{VOLUME}> .\n@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .\n\
         @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n\
         @prefix aff4: <http://aff4.org/Schema#> .\n\n\
         <{IMAGE}> a aff4:DiskImage, aff4:ContiguousImage, aff4:Image ;\n\
         \taff4:dataStream <{}> ;\n\taff4:size \"{}\"^^xsd:long ;\n\
         \taff4:hash \"{}\"^^aff4:SHA1 , \"{}\"^^aff4:MD5 .\n\n",
        if shape.map { MAP } else { &stream },
        disk.len(),
        hex::encode(sha1::Sha1::digest(disk)),
        hex::encode(md5::Md5::digest(disk)),
    );
    let method = match shape.method {
        Method::Stored => "<http://aff4.org/Schema#NullCompressor>",
        Method::Deflate => "<https://tools.ietf.org/html/rfc1951>",
        Method::Zlib => "<https://www.ietf.org/rfc/rfc1950.txt>",
        Method::Snappy => "<http://code.google.com/p/snappy/>",
        Method::Lz4 => "<https://code.google.com/p/lz4/>",
    };
    text += &format!(
        "<{stream}> a aff4:ImageStream ;\n\taff4:chunkSize \"{}\"^^xsd:int ;\n\
         \taff4:chunksInSegment \"{}\"^^xsd:int ;\n\taff4:compressionMethod {method} ;\n\
         \taff4:size \"{len}\"^^xsd:long ;\n\taff4:stored <{VOLUME}> .\n\n",
        shape.chunk, shape.bevy
    );
    if shape.map {
        text += &format!(
            "<{MAP}> a aff4:Map ;\n\taff4:size \"{}\"^^xsd:long ;\n\
             \taff4:dependentStream <{stream}> .\n",
            disk.len()
        );
        let schema = "http://aff4.org/Schema#";
        let names = format!("{stream}\n{schema}Zero\n{schema}SymbolicStream5A\n");
        all.push((format!("{}/idx", folder(MAP)), names.into(), true));
        all.push((format!("{}/map", folder(MAP)), map, true));
    }
    all.push(("information.turtle".into(), text.into(), true));
    all
}

/// A file that holds `disk`.
pub fn image(disk: &[u8], shape: &Shape) -> Vec<u8> {
    zip(&members(disk, shape), shape.zip64, shape.deflated)
}
