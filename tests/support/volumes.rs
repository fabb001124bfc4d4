//! Volumes with characters: one per thing that is special about NTFS. Named by what is special.

use super::ntfs_builder::{Content, Fill, Geometry, List, Log, Names, NtfsBuilder, Version};

const MIB: u64 = 1 << 20;

/// A name that is no 8.3 name, `n` units long, different for every `i`.
pub fn long_name(i: u32, n: usize) -> String {
    let mut s = format!("{:08x} ", i.wrapping_mul(0x9e37_79b1));
    while s.len() < n {
        s.push(char::from(b'a' + u8::try_from(s.len() % 26).unwrap()));
    }
    s
}

/// Some files of every ordinary kind.
fn ordinary(v: &mut NtfsBuilder) {
    v.file(
        r"WINDOWS\win.ini",
        "; for 16-bit app support\r\n[fonts]\r\n",
    );
    v.file(
        r"WINDOWS\Smscfg.ini",
        "[Configuration - Client Properties]\r\n",
    )
    .hidden();
    v.file(r"WINDOWS\system32\kernel32.dll", Content::filler(7, 90_001));
    v.file("empty.txt", "");
    v.file("A long name with spaces.text", "long")
        .names(Names::Auto);
    v.file("A long name with spaces.texts", "long, too");
    v.dir(r"Documents and Settings\All Users");
}

fn on(geometry: Geometry, size: u64) -> NtfsBuilder {
    let mut v = NtfsBuilder::new(size);
    v.geometry(geometry).log_len(262_144);
    ordinary(&mut v);
    v
}

fn sized(sector: u64, cluster: u64, record: u64, index: u64, size: u64) -> NtfsBuilder {
    on(
        Geometry {
            sector,
            cluster,
            record,
            index,
        },
        size,
    )
}

fn plain() -> NtfsBuilder {
    on(Geometry::default(), 32 * MIB)
}

fn large_directories() -> NtfsBuilder {
    let mut v = plain();
    for i in 0..600u32 {
        v.file(&format!(r"leaf\file{i:04}.txt"), "x");
    }
    for i in 0..1500 {
        let len = 12 + usize::try_from(i * 7 % 215).unwrap();
        v.file(&format!(r"deep\{}", long_name(i, len)), "y");
    }
    v.dir("deep")
        .fill(Fill {
            block: 60,
            root: 300,
        })
        .pieces(3);
    for i in 0..40 {
        v.file(&format!(r"endroot\{}", long_name(i, 60)), "z");
    }
    v.dir("endroot").fill(Fill {
        block: 100,
        root: 0,
    });
    v
}

fn attribute_lists() -> NtfsBuilder {
    let mut v = plain();
    v.file(r"lists\few pieces.bin", Content::filler(1, 300_000))
        .pieces(2);
    v.file(r"lists\resident.bin", Content::filler(2, 30_000))
        .list(List::Resident);
    v.file(r"lists\clusters.bin", Content::filler(3, 30_000))
        .list(List::NonResident);
    v.file(r"lists\outside.bin", Content::filler(4, 3_000))
        .list(List::NamesOutside);
    v.file(r"lists\many.bin", Content::filler(5, 3_600_000))
        .pieces(1);
    let mut e = v.dir(r"lists\streams in a directory");
    for i in 0..40 {
        e = e.stream(&format!("stream number {i}"), Content::filler(i, 100));
    }
    for i in 0..60 {
        v.file(
            &format!(r"lists\streams in a directory\{}", long_name(i, 40)),
            "x",
        );
    }
    v.file("linked.txt", "forty names");
    for i in 0..40 {
        v.link(
            "linked.txt",
            &format!(r"links{}\{}", i % 3, long_name(i, 90)),
        );
    }
    v
}

fn names() -> NtfsBuilder {
    let mut v = plain();
    v.file(r"names\Case.txt", "1").names(Names::Posix);
    v.file(r"names\CASE.TXT", "2").names(Names::Posix);
    v.file(r"names\Smsuid.dat", "3")
        .names(Names::Pair("SMSUID~1.DAT".into()));
    v.file(r"names\a name without a short one.txt", "4")
        .names(Names::Win32);
    v.file(r"names\Ключ и замок.txt", "5").names(Names::Win32);
    v.file("names\\\u{1f511}.txt", "6").names(Names::Win32);
    v.file(r"names\linked.txt", "7");
    v.link(r"names\linked.txt", r"elsewhere\other name.txt");
    v.link(r"names\linked.txt", "third.txt");
    v
}

fn streams_and_points() -> NtfsBuilder {
    let mut v = plain();
    v.file(r"s\ads.txt", "main")
        .stream("Zone.Identifier", "[ZoneTransfer]\r\nZoneId=3\r\n")
        .stream("big", Content::filler(9, 50_000));
    v.file(r"s\compressed.txt", "LZNT1 ".repeat(60_000).as_str())
        .compressed();
    v.file(r"s\packed noise.bin", Content::filler(8, 200_000))
        .compressed();
    let pieces = vec![(0, vec![1; 100]), (500_000, vec![2; 70_000])];
    v.file(
        r"s\sparse.bin",
        Content::Sparse {
            len: 2_000_000,
            pieces,
        },
    );
    v.file(r"s\short.bin", Content::filler(1, 9000))
        .initialised(5000);
    v.file(r"s\tail.bin", Content::filler(2, 5000))
        .cluster_tail(b"left behind in the tail");
    for i in 0..30u8 {
        v.file(&format!(r"ids\id{i}.txt"), "x")
            .object_id([i.wrapping_mul(0x4d) ^ 0x5a; 16]);
        let target = format!(r"\??\C:\target{i}");
        v.dir(&format!(r"points\p{i}"))
            .reparse(0xa000_0003, &junction(&target));
    }
    v.file_of_streams(r"$Extend\$UsnJrnl")
        .stream("$Max", vec![0; 32])
        .stream(
            "$J",
            Content::Sparse {
                len: 300_000,
                pieces: vec![(262_144, vec![0x60; 64])],
            },
        );
    v
}

/// The data of a mount point.
fn junction(target: &str) -> Vec<u8> {
    let text = super::put::utf16(target);
    let len = u16::try_from(text.len()).unwrap();
    let mut v = Vec::new();
    for word in [0, len, len + 2, 0] {
        v.extend(u16::to_le_bytes(word));
    }
    v.extend(text);
    v.extend([0; 4]);
    v
}

fn residue() -> NtfsBuilder {
    let mut v = plain();
    v.plant_free_cluster(b"GUID:stale in a free cluster")
        .plant_free_cluster(&[0x41; 6000]);
    v.entry(r"WINDOWS\win.ini")
        .record_slack(b"stale in a record");
    for i in 0..200u32 {
        v.file(&format!(r"many\f{i}.txt"), "x");
    }
    v.dir("many").index_slack(b"stale in an index block");
    v.deleted_file(r"WINDOWS\Smsuid.old", "GUID:deleted and resident");
    v.deleted_file(r"WINDOWS\Gone.bin", Content::filler(6, 20_000));
    v.log(Log::Clean11)
        .plant_in_log(0x9000, b"stale in the log");
    v
}

fn split_mft() -> NtfsBuilder {
    let mut v = sized(512, 512, 1024, 4096, 32 * MIB);
    v.mft_pieces(1);
    for i in 0..1500u32 {
        v.file(&format!(r"dir{}\file{i}.txt", i % 7), "x");
    }
    v
}

fn fragmented_mft() -> NtfsBuilder {
    let mut v = plain();
    v.mft_pieces(2);
    for i in 0..6000u32 {
        v.file(&format!(r"dir{}\file{i}.txt", i % 7), "x");
    }
    v
}

fn versioned(version: Version) -> NtfsBuilder {
    let mut v = plain();
    v.version(version);
    v
}

fn logged(log: Log) -> NtfsBuilder {
    let mut v = plain();
    v.log(log);
    v
}

/// A tiny volume of 2 MiB.
fn tiny() -> NtfsBuilder {
    sized(512, 512, 1024, 4096, 2 * MIB)
}

/// Every volume, by name.
pub fn all() -> Vec<(&'static str, NtfsBuilder)> {
    vec![
        ("plain", plain()),
        ("tiny", tiny()),
        ("clusters-512", sized(512, 512, 1024, 4096, 16 * MIB)),
        ("clusters-1k", sized(512, 1024, 1024, 4096, 16 * MIB)),
        ("clusters-64k", sized(512, 65_536, 1024, 4096, 64 * MIB)),
        ("clusters-128k", sized(512, 131_072, 1024, 4096, 128 * MIB)),
        ("clusters-2m", sized(512, 2 << 20, 1024, 4096, 256 * MIB)),
        ("sectors-256", sized(256, 2048, 1024, 4096, 16 * MIB)),
        ("sectors-1k", sized(1024, 4096, 1024, 4096, 16 * MIB)),
        ("sectors-2k", sized(2048, 4096, 2048, 4096, 16 * MIB)),
        ("sectors-4k", sized(4096, 4096, 4096, 4096, 16 * MIB)),
        (
            "sectors-4k-clusters-128k",
            sized(4096, 131_072, 4096, 4096, 128 * MIB),
        ),
        ("index-16k", sized(512, 4096, 1024, 16_384, 32 * MIB)),
        ("index-2k", sized(512, 4096, 1024, 2048, 32 * MIB)),
        ("large-directories", large_directories()),
        ("attribute-lists", attribute_lists()),
        ("names", names()),
        ("streams-and-points", streams_and_points()),
        ("residue", residue()),
        ("split-mft", split_mft()),
        ("fragmented-mft", fragmented_mft()),
        ("windows-2000", versioned(Version::V30)),
        ("windows-nt4", versioned(Version::V12)),
        ("log-clean", logged(Log::Clean11)),
        ("log-dirty", logged(Log::Dirty11)),
        ("log-v2-dirty", logged(Log::Dirty20)),
        ("marked-dirty", {
            let mut v = plain();
            v.volume_flags(0x0001);
            v
        }),
        ("windows-10-flag", {
            let mut v = plain();
            v.volume_flags(0x0080);
            v
        }),
    ]
}
