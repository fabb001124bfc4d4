//! VHDX files that were not closed, or are damaged: the log replayed, everything else named.

use std::{fs, path::Path, sync::Arc};

use declone::{
    container,
    device::{BlockDevice, Device, Memory, Neighbours, Overlay},
    error::Kind,
};

use crate::{
    containers::{findings, fixture, machine_disk},
    containers_vhdx::{check_headers, open, open_device, read_all, small_raw, small_shape},
    judges::{called, tool},
    run::{arg, declone, digest, scratch},
    support::vhdx_builder::{self as vhdx, Entry, ITEMS, METADATA, Shape, Step},
};

const MIB: usize = 1 << 20;

// --- the log ---

/// The first page of the block table, and the same with nothing allocated.
fn pages(file: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (file[vhdx::BAT..vhdx::BAT + 4096].to_vec(), vec![0; 4096])
}

/// A file whose block table lies in the log only.
fn dirty(file: &[u8], log: impl Fn(&mut [u8], &Step, &Step)) -> Vec<u8> {
    let (good, empty) = pages(file);
    let at = vhdx::BAT as u64;
    let mut dirty = file.to_vec();
    vhdx::put(&mut dirty, vhdx::BAT, &empty);
    log(&mut dirty, &Step::Data(at, good), &Step::Data(at, empty));
    dirty
}

/// Three entries around the end of the ring, the last of them torn, among others that are dead.
fn wrapped(file: &mut [u8], good: &Step, bad: &Step) {
    let tail = (vhdx::LOG_LEN - 8192) as u32;
    let first = Entry::new(10, tail, vec![bad.clone()], file);
    let zeros = Step::Zero(vhdx::BAT as u64, 4096);
    let second = Entry::new(11, tail, vec![zeros, good.clone()], file);
    let torn = Entry::new(12, tail, vec![bad.clone()], file);
    let next = vhdx::log(file, tail as usize, &[first, second, torn]);
    file[vhdx::LOG + next - 1] ^= 1;
    // Older, complete; newer, without the entry its tail names; of another log.
    let older = Entry::new(5, 0x8000, vec![bad.clone()], file);
    vhdx::log(file, 0x8000, &[older]);
    let cut = Entry::new(900, 0x1_0000, vec![bad.clone()], file);
    vhdx::log(file, 0x1_4000, &[cut]);
    let foreign = Entry::new(999, 0x2_0000, vec![bad.clone()], file);
    vhdx::log(file, 0x2_0000, &[foreign]);
    file[vhdx::LOG + 0x2_0000 + 32] ^= 1;
    vhdx::seal(&mut file[vhdx::LOG + 0x2_0000..vhdx::LOG + 0x2_2000]);
}

#[test]
fn a_log_is_replayed_in_memory() {
    let raw = small_raw();
    let file = vhdx::build(&raw, small_shape());
    let one = dirty(&file, |file, good, _| {
        let entry = Entry::new(1 << 40, 0, vec![good.clone()], file);
        vhdx::log(file, 0, &[entry]);
    });
    let opened = open(&one).unwrap();
    assert!(read_all(&opened) == raw);
    let facts = opened.facts.log.unwrap();
    assert_eq!(facts, "1 entry, replayed in memory");
    let two = dirty(&file, wrapped);
    let opened = open(&two).unwrap();
    assert!(read_all(&opened) == raw);
    let facts = opened.facts.log.unwrap();
    assert_eq!(facts, "2 entries, replayed in memory");
    assert!(opened.scan_only.is_none());
    // More descriptors than the entry's first sector has room for.
    let many = dirty(&file, |file, good, bad| {
        let mut steps = vec![bad.clone(); 130];
        steps.push(good.clone());
        let entry = Entry::new(3, 4096, steps, file);
        assert!(entry.bytes().len() == 4096 * 133);
        vhdx::log(file, 4096, &[entry]);
    });
    assert!(read_all(&open(&many).unwrap()) == raw);
    // What is written to a replay would be lost: it is refused, until it is settled.
    let overlay = Arc::new(Overlay::new(Arc::new(Memory::new(two.clone()))));
    let opened = open_device(overlay.clone()).unwrap();
    assert_eq!(
        opened.disk.write_at(0, &[1]).unwrap_err().kind(),
        Kind::Internal
    );
    assert_eq!(opened.places.seal().unwrap_err().kind(), Kind::Internal);
    assert!(overlay.diff().unwrap().is_empty());
    opened.places.settle().unwrap();
    let mut now = vec![0; two.len()];
    overlay.read_at(0, &mut now).unwrap();
    assert!(vhdx::guest(&now) == raw);
    let old = vhdx::both_headers(&two);
    let new = vhdx::both_headers(&now);
    assert_eq!(new.each_ref().map(|header| header.sequence), [9, 10]);
    for header in &new {
        assert_eq!(header.log, [0; 16]);
        assert_eq!(header.data_write, old[0].data_write);
        assert_ne!(header.file_write, old[0].file_write);
    }
    let again = open_device(overlay.clone()).unwrap();
    assert_eq!(again.facts.log.as_deref(), Some("empty"));
    again.disk.write_at(0, &[1]).unwrap();
    again.places.seal().unwrap();
    overlay.read_at(0, &mut now).unwrap();
    check_headers("settled and sealed", &two, &now, 4);
}

#[test]
fn a_disk_with_a_log_is_scanned_as_it_is_and_cleaned_settled() {
    let raw = machine_disk();
    let whole = vhdx::build(&raw, Shape::default());
    let file = dirty(&whole, wrapped);
    let dir = scratch();
    let path = |end: &str| dir.path().join(end);
    let (plain, image) = (path("raw.img"), path("disk.vhdx"));
    fs::write(&plain, &raw).unwrap();
    vhdx::write(&image, &file);
    let json = |image: &Path| {
        declone(&["scan", arg(image), "--json", "-"])
            .exits(1)
            .json()
    };
    let said = json(&image);
    assert_eq!(findings(&said).0, findings(&json(&plain)).0);
    assert!(said.to_string().contains("2 entries, replayed in memory"));
    assert!(fs::read(&image).unwrap() == file, "a scan wrote");
    let (plain_out, out) = (path("raw.out"), path("out.vhdx"));
    declone(&["clean", arg(&plain), "-o", arg(&plain_out), "--prove"]).exits(0);
    declone(&["clean", arg(&image), "-o", arg(&out), "--prove"]).exits(0);
    let cleaned = fs::read(&out).unwrap();
    assert!(vhdx::guest(&cleaned) == fs::read(&plain_out).unwrap());
    assert!(
        vhdx::metadata(&cleaned) == {
            // The table as the replay leaves it; the log's own bytes stay.
            let mut want = file.clone();
            vhdx::put(&mut want, vhdx::BAT, &pages(&whole).0);
            vhdx::metadata(&want)
        }
    );
    check_headers("cleaned", &file, &cleaned, 4);
    declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
    assert_eq!(digest(&image), digest(&out));
    // Nothing to clean is no reason to settle.
    let clean = dirty(&cleaned, wrapped);
    vhdx::write(&image, &clean);
    declone(&["clean", arg(&image), "--in-place", "--prove"]).exits(0);
    assert!(fs::read(&image).unwrap() == clean, "an idle clean wrote");
    if called("qemu-img on a settled log") {
        tool("qemu-img", &["check", "-f", "vhdx", arg(&out)]);
    }
}

/// Expects the codes of a scan and of cleans, a word in what was said, and an unchanged file.
#[track_caller]
fn refused(what: &str, file: &[u8], scan: i32, clean: i32, word: &str) {
    let dir = scratch();
    let (image, out) = (dir.path().join("a.vhdx"), dir.path().join("b.vhdx"));
    vhdx::write(&image, file);
    let ran = declone(&["scan", arg(&image)]);
    assert_eq!(ran.code, scan, "{what}: scan: {}{}", ran.out, ran.err);
    assert!(ran.out.contains(word), "{what}: {word}: {}", ran.out);
    for args in [
        &["clean", arg(&image), "-o", arg(&out)][..],
        &["clean", arg(&image), "--in-place"],
    ] {
        let ran = declone(args);
        assert_eq!(ran.code, clean, "{what}: {args:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.contains(word), "{what}: {word}: {}", ran.out);
    }
    assert!(fs::read(&image).unwrap() == file, "{what}: it was written");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{what}");
}

fn small() -> Vec<u8> {
    vhdx::build(&fixture("tiny-superfloppy.img"), small_shape())
}

#[test]
fn logs_that_cannot_be_replayed_are_refused() {
    let whole = small();
    let case = |what: &str, change: &dyn Fn(&mut Entry), scan, clean, word: &str| {
        let file = dirty(&whole, |file, good, _| {
            let mut entry = Entry::new(7, 0, vec![good.clone()], file);
            change(&mut entry);
            vhdx::log(file, 0, &[entry]);
        });
        refused(what, &file, scan, clean, word);
    };
    let len = whole.len() as u64;
    case("cut", &|e| e.flushed = len + 1, 4, 4, "it was cut");
    case("grows", &|e| e.last = len + 4096, 1, 3, "make it longer");
    let past = |at: u64| move |e: &mut Entry| e.steps.push(Step::Zero(at, 8192));
    case("a header", &past(64 << 10), 4, 4, "outside the log");
    case("the log", &past(1 << 20), 4, 4, "outside the log");
    case(
        "into the log",
        &past((1 << 20) - 4096),
        4,
        4,
        "outside the log",
    );
    case("behind the end", &past(len - 4096), 4, 4, "outside the log");
    case("far behind", &past(!4095), 4, 4, "outside the log");
    // No valid entry: what is in the file is shown, and not written.
    let lost = |what: &str, change: &dyn Fn(&mut [u8])| {
        let mut file = whole.clone();
        let step = Step::Data(vhdx::BAT as u64, pages(&whole).1);
        let entry = Entry::new(7, 0, vec![step], &file);
        vhdx::log(&mut file, 0, &[entry]);
        change(&mut file);
        refused(what, &file, 1, 3, "sequence of valid entries");
    };
    let at = vhdx::LOG;
    let sealed = |change: fn(&mut [u8])| {
        move |f: &mut [u8]| {
            change(&mut f[at..at + 8192]);
            vhdx::seal(&mut f[at..at + 8192]);
        }
    };
    lost("checksum", &|f| f[at + 5000] ^= 1);
    lost("another log", &sealed(|e| e[32] ^= 1));
    lost("sequence 0", &sealed(|e| e[16] = 0));
    lost("tail", &sealed(|e| e[13] = 0x40));
    lost("data sector", &sealed(|e| e[4096] ^= 1));
    lost("half an old sector", &sealed(|e| e[8188] ^= 1));
    lost("descriptor", &sealed(|e| e[64] ^= 1));
    lost("descriptors", &sealed(|e| e[27] = 0xFF));
    lost("unaligned", &sealed(|e| e[64 + 17] = 1));
    // Every flipped byte of an entry: replayed as it was written, or not at all.
    let raw = small_raw();
    let file = vhdx::build(&raw, small_shape());
    let file = dirty(&file, |file, good, _| {
        let entry = Entry::new(1, 0, vec![good.clone()], file);
        vhdx::log(file, 0, &[entry]);
    });
    let host: Device = Arc::new(Memory::new(file.clone()));
    for place in (at..at + 128).chain((at + 128..at + 8192).step_by(61)) {
        let overlay = Arc::new(Overlay::new(host.clone()));
        overlay
            .write_at(place as u64, &[file[place] ^ 0x41])
            .unwrap();
        let opened = open_device(overlay).unwrap();
        assert!(opened.scan_only.is_some(), "{place:#x}");
    }
    // An unknown version, a log too long.
    let mut file = whole.clone();
    vhdx::headers(&mut file, 48, &[1; 16]);
    vhdx::headers(&mut file, 64, &[1, 0]);
    refused("version", &file, 4, 4, "VHDX log: version 0");
}

// --- damage ---

#[test]
fn damaged_files_are_refused_and_stay_as_they_are() {
    let good = small();
    let case = |what: &str, change: &dyn Fn(&mut Vec<u8>), scan, clean, word: &str| {
        let mut file = good.clone();
        change(&mut file);
        refused(what, &file, scan, clean, word);
    };
    let len = good.len();
    let item = |i: usize| METADATA + ITEMS[i];
    // C10
    for size in [0_u32, 1, 512 << 10, 3 << 20, 512 << 20, u32::MAX] {
        let new = size.to_le_bytes();
        case(
            "block",
            &|f| vhdx::put(f, item(0), &new),
            4,
            4,
            "VHDX block size",
        );
    }
    for size in [0_u32, 513, 1024, u32::MAX] {
        let new = size.to_le_bytes();
        case(
            "sector",
            &|f| vhdx::put(f, item(3), &new),
            4,
            4,
            "sector size",
        );
    }
    for size in [0_u64, 513, (64 << 40) + 512, u64::MAX] {
        let new = size.to_le_bytes();
        case(
            "size",
            &|f| vhdx::put(f, item(1), &new),
            4,
            4,
            "VHDX disk size",
        );
    }
    let huge = (1_u64 << 40).to_le_bytes();
    case(
        "C5",
        &|f| vhdx::put(f, item(1), &huge),
        4,
        4,
        "VHDX block table",
    );
    // C11
    let (a, b) = (vhdx::HEADERS[0], vhdx::HEADERS[1]);
    let both = |f: &mut Vec<u8>| {
        f[a + 100] ^= 1;
        f[b + 100] ^= 1;
    };
    case("both headers", &both, 4, 4, "VHDX header: checksum");
    let same = |f: &mut Vec<u8>| {
        vhdx::put(f, a + 8, &9_u64.to_le_bytes());
        vhdx::put(f, b + 8, &9_u64.to_le_bytes());
        f[b + 17] ^= 1;
        vhdx::seal_all(f);
    };
    case("equal sequences", &same, 4, 4, "different headers");
    case(
        "version",
        &|f| vhdx::headers(f, 66, &[2]),
        4,
        4,
        "version 1",
    );
    let last = u64::MAX.to_le_bytes();
    case(
        "sequence",
        &|f| vhdx::headers(f, 8, &last),
        4,
        4,
        "counted up",
    );
    for at in [0_u64, 4096, (1 << 20) + 512, 2 << 20, u64::MAX] {
        let new = at.to_le_bytes();
        case("log place", &|f| vhdx::headers(f, 72, &new), 4, 4, "log");
    }
    let (a, b) = (vhdx::REGIONS[0], vhdx::REGIONS[1]);
    let both = |f: &mut Vec<u8>| {
        f[a + 900] ^= 1;
        f[b + 900] ^= 1;
    };
    case("both tables", &both, 4, 4, "VHDX region table: checksum");
    case("one table", &|f| f[a + 900] ^= 1, 1, 3, "two good copies");
    case("the other", &|f| f[b] ^= 1, 1, 3, "two good copies");
    let other = |f: &mut Vec<u8>| {
        f[b + 16 + 18] ^= 0x80;
        vhdx::seal_all(f);
    };
    case("two tables", &other, 4, 4, "same regions");
    case(
        "unknown region",
        &|f| vhdx::regions(f, 16, &[9; 16]),
        4,
        4,
        "09090909",
    );
    case(
        "count",
        &|f| vhdx::regions(f, 8, &[0, 8]),
        4,
        4,
        "at most 2047",
    );
    case(
        "no regions",
        &|f| vhdx::regions(f, 8, &[0]),
        4,
        4,
        "found none",
    );
    let twice = |f: &mut Vec<u8>| {
        let entry = f[a + 16..a + 48].to_vec();
        vhdx::regions(f, 48, &entry);
    };
    case("a region twice", &twice, 4, 4, "twice");
    for (what, at) in [
        ("front", 0_u64),
        ("unaligned", (3 << 20) + 512),
        ("on the log", 1 << 20),
        ("on metadata", 2 << 20),
        ("behind the end", 1 << 40),
        ("overflow", !0 << 20),
    ] {
        let new = at.to_le_bytes();
        case(what, &|f| vhdx::regions(f, 32, &new), 4, 4, "VHDX");
    }
    case(
        "metadata",
        &|f| f[METADATA] ^= 1,
        4,
        4,
        "VHDX metadata table",
    );
    let unknown = |f: &mut Vec<u8>| vhdx::put(f, METADATA + 32 + 64, &[8; 16]);
    case("unknown item", &unknown, 4, 4, "08080808");
    let twice = |f: &mut Vec<u8>| f.copy_within(METADATA + 32..METADATA + 64, METADATA + 64);
    case("an item twice", &twice, 4, 4, "twice");
    let gone = |f: &mut Vec<u8>| f[METADATA + 10] = 1;
    case("no size", &gone, 4, 4, "found none");
    for at in [0_u32, 0xFFFF, (1 << 20) - 4, u32::MAX] {
        let new = at.to_le_bytes();
        let out = |f: &mut Vec<u8>| vhdx::put(f, METADATA + 32 + 16, &new);
        case("item place", &out, 4, 4, "VHDX metadata table: item");
    }
    // C6
    let entry = vhdx::entry_at(&good, 0);
    for (what, value) in [
        ("nowhere", 6_u64),
        ("on the log", 1 << 20 | 6),
        ("on metadata", 2 << 20 | 6),
        ("on the table", 3 << 20 | 6),
        ("at the end", len as u64 | 6),
        ("far away", !0 << 20 | 6),
        ("state 4", 4 << 20 | 4),
        ("in part", 4 << 20 | 7),
    ] {
        let new = value.to_le_bytes();
        let put = |f: &mut Vec<u8>| vhdx::put(f, entry, &new);
        case(what, &put, 4, 4, "VHDX block table: block 0");
    }
    // A flag that says there is a parent.
    case(
        "parent",
        &|f| f[item(0) + 4] |= 2,
        4,
        4,
        "VHDX parent locator",
    );
    // C7
    let file = vhdx::build(&machine_disk(), Shape::default());
    let mut twice = file.clone();
    let from = vhdx::entry_at(&file, 0);
    let to = (1..12)
        .map(|number| vhdx::entry_at(&file, number))
        .find(|at| file[*at] == 0)
        .unwrap();
    twice.copy_within(from..from + 8, to);
    refused("C7", &twice, 1, 3, "block 0 and");
}

#[test]
fn any_flipped_byte_is_read_or_refused() {
    let raw = small_raw();
    let file = vhdx::build(&raw, small_shape());
    let host: Device = Arc::new(Memory::new(file.clone()));
    let flipped = |at: usize, flip: u8| {
        let overlay = Arc::new(Overlay::new(host.clone()));
        overlay.write_at(at as u64, &[file[at] ^ flip]).unwrap();
        match open_device(overlay) {
            Ok(opened) => Some(opened),
            Err(error) => {
                let known = [
                    Kind::Malformed,
                    Kind::Unsupported,
                    Kind::Refused,
                    Kind::Limit,
                ];
                assert!(known.contains(&error.kind()), "{at:#x}: {error}");
                None
            }
        }
    };
    let sparse =
        |from: usize, len: usize| (from..from + 128).chain((from..from + len).step_by(499));
    for at in vhdx::HEADERS.into_iter().flat_map(|at| sparse(at, 4096)) {
        // One header will do: it was torn while it was written.
        let opened = flipped(at, 0x81).unwrap();
        assert!(opened.scan_only.is_none() && read_all(&opened) == raw);
        assert!(opened.notes[0].contains("damaged"), "{:?}", opened.notes);
    }
    for at in vhdx::REGIONS.into_iter().flat_map(|at| sparse(at, 65536)) {
        let opened = flipped(at, 0x81).unwrap();
        assert!(opened.scan_only.is_some() && read_all(&opened) == raw);
    }
    // No checksum: what cannot be right is refused, what can be is read to its end.
    let metadata = (METADATA..METADATA + 32 + 5 * 32)
        .chain(METADATA + ITEMS[0]..METADATA + ITEMS[5])
        .chain(vhdx::BAT..vhdx::BAT + 40);
    let mut refusals = 0;
    for at in metadata {
        for flip in [0x01, 0x02, 0x80, 0xFF] {
            match flipped(at, flip) {
                Some(opened) => {
                    let mut bytes = vec![0; MIB];
                    let len = opened.virtual_len;
                    for from in (0..len.min(16 << 20)).step_by(MIB) {
                        let part = (len - from).min(MIB as u64) as usize;
                        opened.disk.read_at(from, &mut bytes[..part]).unwrap();
                    }
                }
                None => refusals += 1,
            }
        }
    }
    assert!(refusals > 400, "{refusals}");
    for at in 0..8 {
        assert!(flipped(at, 0x10).is_none());
    }
    for len in (0..64).map(|i| file.len() * i / 64) {
        if let Ok(opened) = open(&file[..len]) {
            assert!(read_all(&opened) == raw, "cut to {len}");
        }
    }
    let shown = file.len() - MIB + 8192;
    assert!(open(&file[..shown]).is_ok() && open(&file[..shown - 1]).is_err());
}

#[test]
fn a_vast_disk_needs_its_table_and_no_more() {
    // 64 TiB in blocks of 32 MiB: a table of 16 MiB.
    let shape = Shape {
        block: 32 * MIB,
        ..Shape::default()
    };
    let mut file = vhdx::build(&[1; 4096], shape);
    let bat_len = 17_u32 << 20;
    vhdx::put(
        &mut file,
        METADATA + ITEMS[1],
        &(64_u64 << 40).to_le_bytes(),
    );
    vhdx::regions(&mut file, 16 + 24, &bat_len.to_le_bytes());
    // The one block goes behind the longer table.
    file.splice(4 * MIB..4 * MIB, vec![0; 16 * MIB]);
    let entry = 20_u64 << 20 | 6;
    vhdx::put(&mut file, vhdx::BAT, &entry.to_le_bytes());
    let opened = open(&file).unwrap();
    assert_eq!(opened.virtual_len, 64 << 40);
    assert_eq!(opened.facts.blocks, Some(2 << 20));
    let data = opened.disk.next_data(0).unwrap().unwrap();
    assert_eq!(data, 0..32 << 20);
    assert_eq!(opened.disk.next_data(32 << 20).unwrap(), None);
    let mut last = [1; 512];
    opened.disk.read_at((64 << 40) - 512, &mut last).unwrap();
    assert_eq!(last, [0; 512]);
    assert_eq!(opened.places.seams(), [0_u64; 0]);
    // The same in blocks of 1 MiB: more than is read.
    vhdx::put(&mut file, METADATA + ITEMS[0], &(1_u32 << 20).to_le_bytes());
    let long = (513_u32 << 20).to_le_bytes();
    vhdx::regions(&mut file, 16 + 24, &long);
    let host = Arc::new(Memory::new(file));
    let sparse = Arc::new(Behind(host));
    let error = container::open(sparse, Some("vhdx"), &Neighbours::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
}

/// A file with a TiB of zeros behind it.
#[derive(Debug)]
struct Behind(Arc<Memory>);

impl BlockDevice for Behind {
    fn len(&self) -> u64 {
        1 << 40
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> declone::error::Result<()> {
        buf.fill(0);
        let there = self.0.len().saturating_sub(offset).min(buf.len() as u64);
        self.0
            .read_at(offset.min(self.0.len()), &mut buf[..there as usize])
    }
}
