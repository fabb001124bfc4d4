//! What is driven through the crashes: images, changes, and the acts that make them.

use declone::{
    apply::{
        change::Change,
        journal::{self, Bond, Role},
        protocol::{self, Step},
        undo,
    },
    device::{Page, Patch},
    error::{Error, Kind, Result},
};

use super::{
    chance::{Breadth, Chance, subsets},
    machine::{Fill, Fs, Machine, Name, Op, Twist},
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
    pub stages: Vec<Vec<u8>>,
    pub acts: Vec<Act>,
    /// The file systems that it starts on.
    pub starts: Vec<Fs>,
}

impl Scenario {
    fn new(name: &'static str, stages: Vec<Vec<u8>>, acts: &[Act]) -> Self {
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
    pub fn allowed(&self, done: usize) -> &[Vec<u8>] {
        &self.stages[done..self.stages.len().min(done + 2)]
    }

    /// Does act `number`.
    pub fn act(&self, machine: &mut Machine, plan: &Plan, number: usize) -> Result<()> {
        let act = self.acts[number];
        let (old, new) = (&self.stages[number], &self.stages[number + 1]);
        plan.recover(machine)?;
        if act == Act::Recover || machine.fs.image.live == *new {
            return Ok(());
        }
        let patches = match act {
            Act::Undo => {
                let (bond, back) = journal::read(Role::Undo, &undo_file(new, old))?;
                let image = &machine.fs.image.live;
                undo::check(&back, &bond, image.len() as u64, &mut |at, out| {
                    out.copy_from_slice(&image[at as usize..][..out.len()]);
                    Ok(())
                })?;
                back.patches()
            }
            _ => patches(old, new),
        };
        let change = prepare(&machine.fs.image.live, &patches)?;
        machine.prepared_at = machine.calls.len();
        let bond = bond(old);
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

pub fn bond(image: &[u8]) -> Bond {
    Bond {
        image_len: image.len() as u64,
        device: 1,
        inode: 2,
        path: b"/images/windows.img".to_vec(),
    }
}

pub fn prepare(image: &[u8], patches: &[Patch]) -> Result<Change> {
    Change::prepare(patches, image.len() as u64, &mut |at, out| {
        out.copy_from_slice(&image[at as usize..][..out.len()]);
        Ok(())
    })
}

/// The pages in which two images differ.
pub fn patches(old: &[u8], new: &[u8]) -> Vec<Patch> {
    let pages = old.chunks(PAGE).zip(new.chunks(PAGE)).enumerate();
    pages
        .filter(|(_, (old, new))| old != new)
        .map(|(number, (_, new))| Patch {
            offset: (number * PAGE) as u64,
            len: new.len() as u64,
            page: if new.iter().all(|b| *b == 0) {
                Page::Zero
            } else {
                Page::Data(new.into())
            },
        })
        .collect()
}

fn bytes_of(role: Role, old: &[u8], change: &Change) -> Vec<u8> {
    let mut out = Vec::new();
    journal::write(role, &bond(old), change, &mut |piece| {
        out.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    out
}

/// The journal of the change from `old` to `new`.
pub fn journal_file(old: &[u8], new: &[u8]) -> Vec<u8> {
    bytes_of(
        Role::Journal,
        old,
        &prepare(old, &patches(old, new)).unwrap(),
    )
}

/// The undo file of the change from `old` to `new`.
pub fn undo_file(old: &[u8], new: &[u8]) -> Vec<u8> {
    let change = prepare(old, &patches(old, new)).unwrap();
    bytes_of(Role::Undo, old, &change.reversed().unwrap())
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
    Scenario::new(
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

/// All courses of events. Sizes differ so that no two images are alike.
pub fn all() -> Vec<Scenario> {
    let small = image(3 * PAGE);
    let six = image(6 * PAGE);
    let odd = image(4 * PAGE + 700);
    let tiny = image(300);
    let large = image(24 * PAGE);
    let three = three_pages();
    let one_new = with(&small, 1, &[1], &[]);
    let pair = || vec![small.clone(), one_new.clone()];
    let one = Scenario::new("one page", pair(), &[Act::Clean]);
    let one_sector = {
        let mut new = small.clone();
        new[PAGE + 600] ^= 1;
        vec![small.clone(), new]
    };
    let leftover = |bytes: Vec<u8>| Fs::new(&small).with_file(Name::Temporary, bytes);
    let undone = |stages: &[Vec<u8>]| vec![stages[1].clone(), stages[0].clone()];
    let partly = |pages: &[usize], sectors: usize| {
        let (old, new) = (&three.stages[0], &three.stages[1]);
        let mut mixed = old.clone();
        for page in pages {
            let range = page * PAGE..page * PAGE + sectors * 512;
            mixed[range.clone()].copy_from_slice(&new[range]);
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
            leftover(journal_file(&one_new, &small)),
        ]),
        Scenario::new("clean after an interrupted clean", pair(), &[Act::Clean]).starting(crashes(
            &one,
            1,
            |_| true,
        )),
        interrupted(),
        Scenario::new(
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
        Scenario::new("undo", undone(&three.stages), &[Act::Undo]),
        Scenario::new(
            "undo after an interrupted clean",
            undone(&pair()),
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
    ]
}

/// Whether a run may say that the image is unchanged.
pub fn says_unchanged(kind: Kind) -> bool {
    matches!(kind, Kind::Io | Kind::Refused)
}
