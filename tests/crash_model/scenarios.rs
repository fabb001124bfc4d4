//! What is driven through the crashes: images, changes, and the acts that make them.

use declone::{
    apply::{
        change::{Change, FileLen},
        journal::{self, Bond, BondFile, Role},
        protocol::{self, Step},
        undo,
    },
    device::{Page, Patch},
    error::{Error, Kind, Result},
};

use super::{
    chance::{Breadth, Chance, subsets},
    machine::{Fill, Fs, Image, Machine, Name, Op, START, Twist, place},
};

pub const PAGE: usize = 4096;

/// The code under test: the real steps, or a mutant's.
#[derive(Clone, Debug)]
pub struct Plan {
    pub commit: Vec<Step>,
    pub recover: Vec<Step>,
    pub digest: bool,
    pub twist: Twist,
}

impl Plan {
    pub fn real() -> Self {
        Self {
            commit: protocol::COMMIT.to_vec(),
            recover: protocol::RECOVER.to_vec(),
            digest: true,
            twist: Twist::None,
        }
    }

    pub fn recover(&self, machine: &mut Machine) -> Result<protocol::Recovered> {
        protocol::recover_with(machine, &self.recover, self.digest)
    }
}

/// What the owner asks for. Each verb first finishes what an earlier run left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Clean,
    /// With an undo file, written before the journal.
    CleanWithUndoFile,
    Undo,
    Recover,
}

/// A course of events without crashes: act `n` makes `stages[n + 1]` of `stages[n]`.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub stages: Vec<Image>,
    pub acts: Vec<Act>,
    /// The file systems that it starts on.
    pub starts: Vec<Fs>,
}

impl Scenario {
    /// With an image of one file.
    fn new(name: &'static str, stages: Vec<Vec<u8>>, acts: &[Act]) -> Self {
        Self::of(
            name,
            stages.into_iter().map(|file| vec![file]).collect(),
            acts,
        )
    }

    fn of(name: &'static str, stages: Vec<Image>, acts: &[Act]) -> Self {
        let starts = vec![Fs::new(&stages[0])];
        Self {
            name,
            stages,
            acts: acts.to_vec(),
            starts,
        }
    }

    fn starting(mut self, starts: Vec<Fs>) -> Self {
        assert!(!starts.is_empty(), "{}", self.name);
        self.starts = starts;
        self
    }

    fn on_a_cache_that_stays(mut self) -> Self {
        for start in &mut self.starts {
            start.forgets = false;
        }
        self
    }

    /// The images that are right after `done` acts: before and after the next one.
    pub fn allowed(&self, done: usize) -> &[Image] {
        &self.stages[done..self.stages.len().min(done + 2)]
    }

    /// Does act `number`.
    pub fn act(&self, machine: &mut Machine, plan: &Plan, number: usize) -> Result<()> {
        let act = self.acts[number];
        let (old, new) = (&self.stages[number], &self.stages[number + 1]);
        plan.recover(machine)?;
        if act == Act::Recover || machine.fs.shows(new) {
            return Ok(());
        }
        let image = machine.fs.image();
        let (patches, lens) = match act {
            Act::Undo => {
                let (_, back) = journal::read(Role::Undo, &undo_file(new, old))?;
                let lens: Vec<u64> = image.iter().map(|file| file.len() as u64).collect();
                undo::check(&back, &lens, &mut reader(&image))?;
                (back.patches(), back.files().to_vec())
            }
            _ => (patches(old, new), lens(old, new)),
        };
        let change = Change::prepare(&patches, &lens, &mut reader(&image))?;
        machine.prepared_at = machine.calls.len();
        let bond = bond(&lens);
        if act == Act::CleanWithUndoFile {
            machine
                .write_undo(&undo_file(old, new))
                .map_err(|e| Error::io("undo file", &e))?;
        }
        protocol::run(machine, &bond, &change, &plan.commit)
    }

    /// The calls of a run without faults.
    pub fn calls(&self, plan: &Plan, start: &Fs) -> Vec<Op> {
        let mut machine = Machine::new(start.clone(), plan.twist);
        for number in 0..self.acts.len() {
            // A mutant may fail here; what it did until then is what there is.
            if self.act(&mut machine, plan, number).is_err() {
                break;
            }
        }
        machine.calls
    }
}

/// Reads from an image.
fn reader(image: &Image) -> impl FnMut(u64, &mut [u8]) -> Result<()> + '_ {
    |offset, out| {
        let (file, at) = place(offset);
        out.copy_from_slice(&image[file][at..][..out.len()]);
        Ok(())
    }
}

/// The lengths of the files of two images.
fn lens(old: &Image, new: &Image) -> Vec<FileLen> {
    let files = old.iter().zip(new).enumerate();
    files
        .map(|(number, (old, new))| FileLen {
            start: (number * START) as u64,
            old: old.len() as u64,
            new: new.len() as u64,
        })
        .collect()
}

fn bond(lens: &[FileLen]) -> Bond {
    let plain = lens.len() == 1 && lens[0].old == lens[0].new;
    let files = lens.iter().zip(1..).map(|(len, number)| BondFile {
        name: format!("windows-{number}.img").into_bytes(),
        device: 1,
        inode: 1 + number,
        len: *len,
    });
    Bond {
        image_len: lens[0].old,
        device: 1,
        inode: 2,
        path: b"/images/windows.img".to_vec(),
        files: if plain { Vec::new() } else { files.collect() },
    }
}

fn prepare(old: &Image, new: &Image) -> Change {
    Change::prepare(&patches(old, new), &lens(old, new), &mut reader(old)).unwrap()
}

/// The pages in which two images differ.
pub fn patches(old: &Image, new: &Image) -> Vec<Patch> {
    let files = old.iter().zip(new).enumerate();
    files
        .flat_map(|(number, (old, new))| {
            let same =
                move |at: usize, page: &[u8]| old.get(at..(at + PAGE).min(old.len())) == Some(page);
            let pages = new.chunks(PAGE).enumerate();
            pages
                .map(|(page, bytes)| (page * PAGE, bytes))
                .filter(move |(at, bytes)| !same(*at, bytes))
                .map(move |(at, bytes)| Patch {
                    offset: (number * START + at) as u64,
                    len: bytes.len() as u64,
                    page: if bytes.iter().all(|b| *b == 0) {
                        Page::Zero
                    } else {
                        Page::Data(bytes.into())
                    },
                })
        })
        .collect()
}

fn bytes_of(role: Role, bond: &Bond, change: &Change) -> Vec<u8> {
    let mut out = Vec::new();
    journal::write(role, bond, change, &mut |piece| {
        out.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    out
}

/// The journal of the change from `old` to `new`.
pub fn journal_file(old: &Image, new: &Image) -> Vec<u8> {
    bytes_of(Role::Journal, &bond(&lens(old, new)), &prepare(old, new))
}

/// The undo file of the change from `old` to `new`.
pub fn undo_file(old: &Image, new: &Image) -> Vec<u8> {
    let back = prepare(old, new).reversed().unwrap();
    bytes_of(Role::Undo, &bond(&lens(old, new)).reversed(), &back)
}

/// An image in which no sector is like another.
fn image(len: usize) -> Vec<u8> {
    let mut chance = Chance::new(len as u64);
    (0..len).map(|_| chance.next() as u8 | 1).collect()
}

/// The image with some pages replaced by others (`salt`), or by zeros.
fn with(image: &[u8], salt: u64, data: &[usize], zeros: &[usize]) -> Vec<u8> {
    let mut out = image.to_vec();
    let mut chance = Chance::new(salt);
    for page in data {
        let end = out.len().min((page + 1) * PAGE);
        out[page * PAGE..end].fill_with(|| chance.next() as u8 | 1);
    }
    for page in zeros {
        let end = out.len().min((page + 1) * PAGE);
        out[page * PAGE..end].fill(0);
    }
    out
}

/// What crashes of the first act leave: after every call a kill, and some power cuts.
fn crashes(scenario: &Scenario, cuts: usize, wanted: impl Fn(&Fs) -> bool) -> Vec<Fs> {
    let plan = Plan::real();
    let mut machine = Machine::new(scenario.starts[0].clone(), plan.twist).recording(7);
    scenario.act(&mut machine, &plan, 0).unwrap();
    let mut chance = Chance::new(7);
    let mut out: Vec<Fs> = Vec::new();
    for moment in machine.moments.unwrap_or_default() {
        if moment.torn.is_some_and(|torn| torn != 3) {
            continue;
        }
        out.push(moment.fs.clone());
        let breadth = Breadth {
            all_up_to: 0,
            structured: false,
            random: cuts,
        };
        let kept = subsets(moment.fs.units(), breadth, &mut chance);
        for subset in kept.iter().rev().take(cuts) {
            out.push(moment.fs.after_cut(subset, Fill::Garbage));
        }
    }
    out.retain(wanted);
    out.dedup();
    out
}

/// States with a journal in view.
pub fn interrupted() -> Scenario {
    let clean = three_pages();
    let starts = crashes(&clean, 2, |fs| fs.file(Name::Journal).is_some());
    Scenario::of(
        "recovery of an interrupted clean",
        clean.stages,
        &[Act::Recover],
    )
    .starting(starts)
}

pub fn three_pages() -> Scenario {
    let old = image(8 * PAGE);
    let new = with(&old, 3, &[1, 4, 6], &[]);
    Scenario::new("three pages", vec![old, new], &[Act::Clean])
}

/// Three files, of which one has an odd length, and two of which change in several pages.
fn three_files() -> Scenario {
    let files = [image(3 * PAGE), image(2 * PAGE + 700), image(4 * PAGE)];
    let new = vec![
        with(&files[0], 1, &[1], &[]),
        with(&files[1], 2, &[2], &[]),
        with(&files[2], 3, &[0], &[3]),
    ];
    Scenario::of("three files", vec![files.to_vec(), new], &[Act::Clean])
}

/// A file that becomes longer, by less than a page and by more, or shorter.
fn resized(file: &[u8], len: usize, salt: u64, data: &[usize]) -> Vec<u8> {
    let mut out = file.to_vec();
    out.resize(len, 0);
    with(&out, salt, data, &[])
}

fn growing() -> Scenario {
    let odd = image(2 * PAGE + 900);
    let new = resized(&odd, 4 * PAGE + 300, 4, &[0, 2, 4]);
    Scenario::new("a file that grows", vec![odd, new], &[Act::Clean])
}

/// All courses of events. Sizes differ so that no two images are alike.
pub fn all() -> Vec<Scenario> {
    let small = image(3 * PAGE);
    let six = image(6 * PAGE);
    let odd = image(4 * PAGE + 700);
    let tiny = image(300);
    let large = image(24 * PAGE);
    let three = three_pages();
    let files = three_files();
    let grown = growing();
    let one_new = with(&small, 1, &[1], &[]);
    let pair = || vec![small.clone(), one_new.clone()];
    let one = Scenario::new("one page", pair(), &[Act::Clean]);
    let one_sector = {
        let mut new = small.clone();
        new[PAGE + 600] ^= 1;
        vec![small.clone(), new]
    };
    let alone = |file: &[u8]| vec![file.to_vec()];
    let leftover = |bytes: Vec<u8>| Fs::new(&alone(&small)).with_file(Name::Temporary, bytes);
    let undone = |stages: &[Image]| vec![stages[1].clone(), stages[0].clone()];
    let partly = |pages: &[usize], sectors: usize| {
        let (old, new) = (&three.stages[0], &three.stages[1]);
        let mut mixed = old.clone();
        for page in pages {
            let range = page * PAGE..page * PAGE + sectors * 512;
            mixed[0][range.clone()].copy_from_slice(&new[0][range]);
        }
        Fs::new(&mixed).with_file(Name::Journal, journal_file(old, new))
    };
    vec![
        one.clone(),
        Scenario::new("one byte of a page", one_sector, &[Act::Clean]),
        Scenario::new(
            "a page that becomes zeros",
            vec![small.clone(), with(&small, 1, &[], &[2])],
            &[Act::Clean],
        ),
        three.clone(),
        Scenario::new(
            "adjacent pages, data and zeros",
            vec![six.clone(), with(&six, 2, &[1, 2], &[3])],
            &[Act::Clean],
        ),
        Scenario::new(
            "the short last page of an odd image",
            vec![odd.clone(), with(&odd, 2, &[0, 4], &[])],
            &[Act::Clean],
        ),
        Scenario::new(
            "an image shorter than a page",
            vec![tiny.clone(), with(&tiny, 2, &[0], &[])],
            &[Act::Clean],
        ),
        Scenario::new(
            "a journal of several pieces",
            vec![
                large.clone(),
                with(&large, 2, &(2..22).collect::<Vec<_>>(), &[23]),
            ],
            &[Act::Clean],
        ),
        Scenario::new("a temporary file left behind", pair(), &[Act::Clean]).starting(vec![
            leftover(Vec::new()),
            leftover(vec![0xEE; 5000]),
            leftover(journal_file(&alone(&one_new), &alone(&small))),
        ]),
        Scenario::new("clean after an interrupted clean", pair(), &[Act::Clean]).starting(crashes(
            &one,
            1,
            |_| true,
        )),
        interrupted(),
        Scenario::of(
            "recovery of an image that is partly new",
            three.stages.clone(),
            &[Act::Recover],
        )
        .starting(vec![
            partly(&[], 0),
            partly(&[1], 8),
            partly(&[4], 3),
            partly(&[1, 4, 6], 1),
            partly(&[1, 4, 6], 8),
            partly(&[4, 6], 7).with_file(Name::Temporary, vec![1; 3000]),
        ]),
        Scenario::of("undo", undone(&three.stages), &[Act::Undo]),
        Scenario::of(
            "undo after an interrupted clean",
            undone(&one.stages),
            &[Act::Undo],
        )
        .starting(crashes(&one, 1, |_| true)),
        Scenario::new(
            "clean, then undo",
            vec![small.clone(), one_new.clone(), small.clone()],
            &[Act::Clean, Act::Undo],
        ),
        Scenario::new(
            "two cleans, one after the other",
            vec![
                six.clone(),
                with(&six, 5, &[1, 4], &[]),
                with(&with(&six, 5, &[1, 4], &[]), 6, &[4], &[5]),
            ],
            &[Act::Clean, Act::Clean],
        ),
        Scenario::new("clean with an undo file", pair(), &[Act::CleanWithUndoFile]),
        Scenario::new("a cache that is never dropped", pair(), &[Act::Clean])
            .on_a_cache_that_stays(),
        files.clone(),
        Scenario::of(
            "recovery of an interrupted clean of three files",
            files.stages.clone(),
            &[Act::Recover],
        )
        .starting(crashes(&files, 1, |fs| fs.file(Name::Journal).is_some())),
        Scenario::of("undo of three files", undone(&files.stages), &[Act::Undo]),
        grown.clone(),
        Scenario::new(
            "a file that grows within its last page",
            vec![tiny.clone(), resized(&tiny, 1500, 5, &[0])],
            &[Act::Clean],
        ),
        Scenario::of(
            "growth, then undo",
            vec![
                grown.stages[0].clone(),
                grown.stages[1].clone(),
                grown.stages[0].clone(),
            ],
            &[Act::CleanWithUndoFile, Act::Undo],
        ),
        Scenario::of(
            "recovery of an interrupted growth",
            grown.stages.clone(),
            &[Act::Recover],
        )
        .starting(crashes(&grown, 1, |fs| fs.file(Name::Journal).is_some())),
        Scenario::of(
            "undo after an interrupted growth",
            undone(&grown.stages),
            &[Act::Undo],
        )
        .starting(crashes(&grown, 1, |_| true)),
        Scenario::of(
            "one of two files grows",
            vec![
                vec![small.clone(), grown.stages[0][0].clone()],
                vec![one_new.clone(), grown.stages[1][0].clone()],
            ],
            &[Act::Clean],
        ),
    ]
}

/// Whether a run may say that the image is unchanged.
pub fn says_unchanged(kind: Kind) -> bool {
    matches!(kind, Kind::Io | Kind::Refused)
}
