//! What the check of a written archive can see: a byte that becomes another behind the writer's back, with
//! and without knowledge of what was written.

use std::{ops::Range, sync::Arc};

use declone::{
    apply::stage,
    container::Written,
    device::{BlockDevice, Device, Memory, Overlay},
    image::{self, ImageIndex, Options},
    plan,
};

use crate::{
    machine::{self, HIVE},
    support::{
        random::Random,
        wim_builder::{self as wim, Node, Wim},
    },
    wim::tree,
};

/// A clean that was staged and not written.
struct Staged {
    overlay: Arc<Overlay>,
    written: Written,
    touched: Vec<Range<u64>>,
    options: Options,
}

fn staged(file: &[u8]) -> Staged {
    staged_with(file, Options::default())
}

fn staged_with(file: &[u8], options: Options) -> Staged {
    let base: Device = Arc::new(Memory::new(file.to_vec()));
    let overlay = Arc::new(Overlay::new(base));
    let image = image::open(overlay.clone(), &options).unwrap();
    let rules = declone::rules::select(&["sms".to_owned()]).unwrap();
    let plan = plan::make(&image, &rules, &mut |_, _, _| {}).unwrap();
    stage::stage(&image, &plan).unwrap();
    let written = image.writer.as_ref().unwrap().write(false).unwrap();
    let touched = overlay.touched().unwrap();
    Staged {
        overlay,
        written,
        touched,
        options,
    }
}

impl Staged {
    /// What is wrong with it, for one who is told what was written and for one who is not.
    fn problems(&self, told: bool) -> Vec<String> {
        let image = match image::open(self.overlay.clone(), &self.options) {
            Ok(image) => image,
            Err(error) => return vec![error.to_string()],
        };
        if told {
            image
                .writer
                .as_ref()
                .unwrap()
                .expect(&self.written)
                .unwrap();
        }
        let trees = image.volumes.iter().filter_map(|volume| volume.tree());
        trees
            .flat_map(|tree| match tree.check_touched(&self.touched) {
                Ok(problems) => problems,
                Err(error) => vec![error.to_string()],
            })
            .collect()
    }
}

/// The solid resource of an archive: its chunks, which are stored as they are.
fn chunks(file: &[u8], chunk: usize) -> Vec<Range<usize>> {
    let table = wim::place(file, 0x30);
    let entries = file[table.at..table.at + table.size].chunks(50);
    let mut solid = entries
        .map(|entry| wim::place(entry, 0))
        .filter(|one| one.flags & 0x10 != 0 && one.len == 1 << 32);
    let one = solid.next().unwrap();
    assert!(solid.next().is_none(), "one resource");
    let len = wim::get64(file, one.at);
    let start = one.at + 16 + 4 * len.div_ceil(chunk);
    (0..len)
        .step_by(chunk)
        .map(|at| start + at..start + (at + chunk).min(len))
        .collect()
}

#[test]
fn a_byte_that_changes_behind_the_writers_back_is_noticed() {
    for size in [1 << 15, 1 << 17, 1 << 26] {
        let mut archive = Wim::new(vec![tree()]);
        archive.solid = Some(size);
        let file = archive.build();
        let staged = staged(&file);
        for told in [false, true] {
            let problems = staged.problems(told);
            assert!(problems.is_empty(), "{size}, told {told}: {problems:?}");
        }
        let mut now = vec![0; file.len()];
        staged.overlay.read_at(0, &mut now).unwrap();
        let chunks = chunks(&file, size as usize);
        let written: Vec<_> = chunks
            .iter()
            .filter(|chunk| file[(*chunk).clone()] != now[(*chunk).clone()])
            .collect();
        let few = size < 1 << 17;
        assert!(!written.is_empty() && (written.len() < chunks.len() || !few));
        let mut random = Random(u64::from(size));
        let mut flips = 0;
        for chunk in written {
            let mut places = vec![chunk.start, chunk.end - 1];
            places.extend((0..40).map(|_| chunk.start + random.below(chunk.len())));
            for at in places {
                for told in [false, true] {
                    staged
                        .overlay
                        .write_at(at as u64, &[now[at] ^ 0x10])
                        .unwrap();
                    let problems = staged.problems(told);
                    assert!(!problems.is_empty(), "{size}, told {told}: {at:#x}");
                    staged.overlay.write_at(at as u64, &[now[at]]).unwrap();
                    flips += 1;
                }
            }
        }
        assert!(flips >= 84, "{size}: {flips} flips");
        assert!(staged.problems(true).is_empty());
    }
}

/// In the pages that a large file begins and ends in others lie, too: that they were touched says nothing.
#[test]
fn contents_that_were_written_are_checked_to_their_last_byte() {
    let mut root = Node::directory("");
    let mut hive = machine::hive(5);
    hive.spare_bins(300);
    let len = hive.build().len();
    assert!(len > 1 << 20);
    root.add(
        r"\WINDOWS\before.txt",
        b"so that the hive begins in the midst of a page",
    );
    root.add(HIVE, &hive.build());
    let file = Wim::new(vec![root]).build();
    let mut staged = staged(&file);
    assert!(staged.problems(true).is_empty());
    let mut now = vec![0; file.len()];
    staged.overlay.read_at(0, &mut now).unwrap();
    let start = now.windows(4).position(|four| four == b"regf").unwrap();
    assert!(!start.is_multiple_of(4096) && !(start + len).is_multiple_of(4096));
    let last = (start + len - 1) / 4096 * 4096;
    staged.touched = vec![last as u64..last as u64 + 4096];
    for at in [
        start,
        start + 1,
        start + len / 2,
        start + len - 2,
        start + len - 1,
    ] {
        staged.overlay.write_at(at as u64, &[now[at] ^ 1]).unwrap();
        assert!(!staged.problems(true).is_empty(), "{:#x}", at - start);
        staged.overlay.write_at(at as u64, &[now[at]]).unwrap();
    }
    assert!(staged.problems(true).is_empty());
}

/// What all images share is checked whichever of them is cleaned.
#[test]
fn one_image_alone_is_checked_like_all() {
    for number in [1, 2] {
        let mut archive = Wim::new(vec![tree(), tree()]);
        archive.solid = Some(1 << 15);
        let file = archive.build();
        let options = Options {
            image_index: Some(ImageIndex::One(number)),
            ..Options::default()
        };
        let staged = staged_with(&file, options);
        assert!(staged.problems(true).is_empty());
        let mut now = vec![0; staged.overlay.len() as usize];
        staged.overlay.read_at(0, &mut now).unwrap();
        // The hive got contents of its own: where they begin, nothing was or something else.
        let mut hives = (0..now.len() - 4).filter(|at| &now[*at..at + 4] == b"regf");
        let at = hives.find(|at| file.get(*at..at + 4) != Some(b"regf"));
        let at = at.unwrap() + 600;
        staged.overlay.write_at(at as u64, &[!now[at]]).unwrap();
        for told in [false, true] {
            let problems = staged.problems(told);
            assert!(!problems.is_empty(), "image {number}, told {told}");
        }
    }
}
