//! A disk inside a container, from all sides: the same findings, the same cleaned disk as raw, in place
//! as in a copy, undone, and a container that is otherwise the same.

use std::path::Path;

use serde_json::Value;

use crate::{
    containers::findings,
    machine::GUID,
    oracle,
    run::{arg, declone, digest, scratch},
    support::{sms, vhdx_builder::write},
};

/// A kind of container, by the test's own means.
pub struct Contained<'a> {
    /// Its name in reports.
    pub format: &'a str,
    /// The disk in a file.
    pub guest: &'a dyn Fn(&[u8]) -> Vec<u8>,
    /// What must hold of a file before and after a clean, beside the disk.
    pub rest: &'a dyn Fn(&[u8], &[u8]),
}

impl Contained<'_> {
    /// Scan, clean to a copy, clean in place, undo: against the raw disk that is inside. What a scan
    /// says of the image.
    pub fn check(&self, name: &str, raw: &[u8], file: &[u8]) -> Value {
        assert!((self.guest)(file) == raw, "{name}: the builder");
        let dir = scratch();
        let path = |end: &str| dir.path().join(end);
        let (plain, image) = (path("raw.img"), path("disk.bin"));
        write(&plain, raw);
        write(&image, file);
        let before = digest(&image);
        let scan = |image: &Path| {
            declone(&["scan", arg(image), "--json", "-"])
                .exits(1)
                .json()
        };
        let (want, _) = findings(&scan(&plain));
        let mut said = scan(&image);
        let (found, pairs) = findings(&said);
        assert_eq!(found, want, "{name}");
        let facts = said["images"][0]["image"].take();
        assert_eq!(facts["format"], self.format, "{name}");
        assert!(!pairs.is_empty(), "{name}");
        for (disk, at) in pairs {
            let (disk, at) = (disk as usize, at as usize);
            assert_eq!(file[at..at + 16], raw[disk..disk + 16], "{name}: {at:#x}");
        }

        let (clean_raw, out, report) = (path("raw.out"), path("disk.out"), path("report.json"));
        declone(&["clean", arg(&plain), "-o", arg(&clean_raw), "--prove"]).exits(0);
        let args = ["clean", arg(&image), "-o", arg(&out), "--prove"];
        let ran = declone(&[&args[..], &["--json", arg(&report)]].concat()).exits(0);
        assert!(!ran.out.contains("LEFT"), "{name}: {}", ran.out);
        assert_eq!(digest(&image), before, "{name}");
        let cleaned = std::fs::read(&out).unwrap();
        assert_eq!(cleaned.len(), file.len(), "{name}");
        assert!(
            (self.guest)(&cleaned) == std::fs::read(&clean_raw).unwrap(),
            "{name}: the cleaned disk is another one than raw"
        );
        (self.rest)(file, &cleaned);
        for guid in [GUID, sms::GUID, sms::SECOND_GUID] {
            for form in oracle::guid_forms(guid) {
                assert_eq!(oracle::find_all(&cleaned, &form), [0_usize; 0], "{name}");
            }
        }
        declone(&["scan", arg(&out)]).exits(0);
        declone(&["verify", arg(&out), "--against", arg(&report)]).exits(0);
        let again = path("again.bin");
        let ran = declone(&["clean", arg(&out), "-o", arg(&again)]).exits(0);
        assert!(ran.out.contains("Nothing to do"), "{name}: {}", ran.out);
        assert_eq!(digest(&out), digest(&again), "{name}");

        let undo = path("disk.undo");
        let args = ["clean", arg(&image), "--in-place", "--prove"];
        declone(&[&args[..], &["--undo", arg(&undo)]].concat()).exits(0);
        assert_eq!(digest(&image), digest(&out), "{name}: in place");
        declone(&["undo", arg(&undo)]).exits(0);
        assert_eq!(digest(&image), before, "{name}: undone");
        facts
    }
}
