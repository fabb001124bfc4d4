//! Crashes every moment of a run, recovers, crashes the recovery, and judges what is left.

use std::fmt;

use declone::{
    apply::{
        change::State,
        journal::{self, Role},
        protocol::Recovered,
    },
    error::Kind,
};

use super::{
    chance::{Breadth, Chance, Subset, subsets},
    machine::{Fault, Fill, Fs, Hurt, Image, Machine, Moment, Name, Op, place},
    scenarios::{Act, Plan, Scenario, patches, says_unchanged},
};

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Power cuts at every moment of a run without faults.
    pub first: Breadth,
    /// Power cuts at every moment after a fault.
    pub after_fault: Breadth,
    /// Power cuts at every moment of a recovery.
    pub nested: Breadth,
    /// Of the starts of a scenario, the first and one in so many is used.
    pub start_one_in: u64,
    /// At how many places inside a write, at most.
    pub torn: usize,
    /// The recovery of one in so many crash states is crashed again, for a change of one page.
    pub nest_one_in: u64,
    /// Of those, the recovery of one in so many is crashed a third time.
    pub third_one_in: u64,
    /// One in so many runs with a fault is done.
    pub fault_one_in: u64,
}

/// What was looked at and found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Crash states of runs: recovered and judged.
    pub states: u64,
    /// Crash states of recoveries, twice and three times deep.
    pub nested: u64,
    /// Of those, the third crash in a row.
    pub third: u64,
    /// Runs with a fault.
    pub faults: u64,
    pub bad: u64,
    /// The first few of them, in words.
    pub messages: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.states += other.states;
        self.nested += other.nested;
        self.third += other.third;
        self.faults += other.faults;
        self.bad += other.bad;
        self.messages.extend(other.messages);
        self.messages.truncate(12);
    }
}

/// How a state came about.
#[derive(Clone, Copy)]
enum How<'a> {
    Cut(&'a Subset, Fill),
    Killed,
    LostWriteback,
    Returned,
}

/// The way to a state, innermost last.
#[derive(Clone, Copy)]
struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    op: usize,
    call: Option<Op>,
    torn: Option<usize>,
    how: How<'a>,
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            write!(f, "{up}; then, in its recovery, ")?;
        }
        match self.call {
            Some(call) => write!(f, "before call {} ({call:?})", self.op)?,
            None => write!(f, "after {} calls", self.op)?,
        }
        if let Some(torn) = self.torn {
            write!(f, " behind sector {torn} of it")?;
        }
        match self.how {
            How::Cut(kept, fill) => write!(f, " a power cut that keeps units {kept:?}, {fill:?}"),
            How::Killed => write!(f, " a kill"),
            How::LostWriteback => write!(f, " a kill and a failed write-back"),
            How::Returned => write!(f, " a return"),
        }
    }
}

/// What may be found.
#[derive(Clone, Copy)]
struct Expect<'a> {
    images: &'a [Image],
    /// Nothing is pending: no journal may be there.
    quiet: bool,
}

/// One run and all its crashes.
pub struct Explorer<'a> {
    pub scenario: &'a Scenario,
    pub plan: &'a Plan,
    pub budget: Budget,
    pub chance: Chance,
    /// In messages: which run this is.
    pub label: String,
    pub tally: Tally,
    /// For mutants: one is enough.
    pub stop_at_first: bool,
}

impl Explorer<'_> {
    fn bad(&mut self, what: &str, trail: &Trail<'_>) {
        self.tally.bad += 1;
        if self.tally.messages.len() < 6 {
            let label = &self.label;
            self.tally
                .messages
                .push(format!("{label}: {trail}: {what}"));
        }
    }

    fn stopped(&self) -> bool {
        self.stop_at_first && self.tally.bad > 0
    }

    /// Runs the scenario from one start, with or without a fault, and crashes it everywhere.
    pub fn drive(&mut self, start: &Fs, fault: Option<Fault>) {
        let mut machine = Machine::new(start.clone(), self.plan.twist).recording(self.budget.torn);
        machine.fault = fault;
        let scenario = self.scenario;
        for number in 0..scenario.acts.len() {
            let before = machine.fs.clone();
            let was = before.image();
            let result = scenario.act(&mut machine, self.plan, number);
            let trail = Trail {
                up: None,
                op: machine.calls.len(),
                call: None,
                torn: None,
                how: How::Returned,
            };
            let allowed = scenario.allowed(number);
            let expect = match &result {
                Ok(()) => {
                    machine.done += 1;
                    if !machine.fs.shows(&scenario.stages[number + 1])
                        && scenario.acts[number] != Act::Recover
                    {
                        self.bad("success, and the image is not new", &trail);
                    }
                    // A recovery may find that the change never began.
                    match scenario.acts[number] {
                        Act::Recover => Expect {
                            images: allowed,
                            quiet: true,
                        },
                        _ => Expect {
                            images: &allowed[1..],
                            quiet: true,
                        },
                    }
                }
                Err(error) if says_unchanged(error.kind()) => {
                    let journal = before.file(Name::Journal).is_some();
                    let same = machine.fs.shows(&was);
                    let whole = shows_one_of(&machine.fs, allowed);
                    if !(same || journal && whole) {
                        self.bad(&format!("`{error}`, and the image has changed"), &trail);
                    }
                    match journal || before.units() > 0 {
                        // Nothing was written: what waited before still waits.
                        true => Expect {
                            images: allowed,
                            quiet: false,
                        },
                        // What it was may be new already, if an earlier run had come to its end.
                        false => Expect {
                            images: std::slice::from_ref(&was),
                            quiet: true,
                        },
                    }
                }
                Err(error) => {
                    if error.kind() != Kind::Interrupted || fault.is_none() {
                        self.bad(&format!("the run ended with `{error}`"), &trail);
                    }
                    Expect {
                        images: allowed,
                        quiet: false,
                    }
                }
            };
            if let Err(error) = &result
                && fault.is_none()
            {
                self.bad(&format!("without a fault: `{error}`"), &trail);
            }
            let breadth = self.breadth(fault);
            let moment = Moment {
                fs: machine.fs.clone(),
                op: machine.calls.len(),
                call: Op::ReadJournal,
                torn: None,
                done: number,
            };
            self.crash(&moment, None, expect, breadth, 1, true);
            if result.is_err() || self.stopped() {
                break;
            }
        }
        let breadth = self.breadth(fault);
        for moment in machine.moments.take().unwrap_or_default() {
            // What comes before the fault was looked at in the run without it.
            if fault.is_some_and(|fault| moment.op <= fault.op)
                || moment.done >= scenario.acts.len()
            {
                continue;
            }
            let expect = Expect {
                images: scenario.allowed(moment.done),
                quiet: false,
            };
            self.crash(&moment, None, expect, breadth, 1, false);
            if self.stopped() {
                return;
            }
        }
    }

    fn breadth(&self, fault: Option<Fault>) -> Breadth {
        match fault {
            None => self.budget.first,
            Some(_) => self.budget.after_fault,
        }
    }

    /// Power cuts, a kill, and a kill with a failed write-back, at one moment.
    fn crash(
        &mut self,
        moment: &Moment,
        up: Option<&Trail<'_>>,
        expect: Expect<'_>,
        breadth: Breadth,
        depth: u32,
        returned: bool,
    ) {
        let call = (!returned).then_some(moment.call);
        let (op, torn) = (moment.op, moment.torn);
        // The cuts inside a write are among those after it.
        let breadth = match moment.torn {
            None => breadth,
            Some(_) => Breadth {
                all_up_to: 1,
                structured: false,
                random: 2,
            },
        };
        let units = moment.fs.units();
        let fills: &[Fill] = match moment.fs.grows() {
            true => &[Fill::Zeros, Fill::Garbage],
            false => &[Fill::Zeros],
        };
        for subset in subsets(units, breadth, &mut self.chance) {
            for fill in fills {
                let cut = moment.fs.after_cut(&subset, *fill);
                let how = How::Cut(&subset, *fill);
                let trail = Trail {
                    up,
                    op,
                    call,
                    torn,
                    how,
                };
                self.survive(cut, expect, depth, &trail);
                if self.stopped() {
                    return;
                }
            }
        }
        let how = How::Killed;
        let trail = Trail {
            up,
            op,
            call,
            torn,
            how,
        };
        self.survive(moment.fs.clone(), expect, depth, &trail);
        if let Some(lost) = moment.fs.after_lost_writeback(&mut self.chance) {
            let how = How::LostWriteback;
            let trail = Trail {
                up,
                op,
                call,
                torn,
                how,
            };
            self.survive(lost, expect, depth, &trail);
        }
    }

    /// Recovers a crashed file system and judges it.
    fn survive(&mut self, fs: Fs, expect: Expect<'_>, depth: u32, trail: &Trail<'_>) {
        match depth {
            1 => self.tally.states += 1,
            _ => self.tally.nested += 1,
        }
        self.tally.third += u64::from(depth == 3);
        let journal = fs.file(Name::Journal).map(<[u8]>::to_vec);
        if expect.quiet && journal.is_some() {
            return self.bad("a journal came back after the end", trail);
        }
        // A large change has more moments, and each costs more.
        let size = (fs.size() as u64 / 12_288).max(1);
        let deeper = match depth {
            1 => self.chance.one_in(self.budget.nest_one_in * size),
            2 => self.chance.one_in(self.budget.third_one_in * size),
            _ => false,
        };
        let before = (depth == 1).then(|| fs.image());
        let mut machine = Machine::new(fs, self.plan.twist);
        if deeper {
            machine = machine.recording(2);
        }
        let found = match self.plan.recover(&mut machine) {
            Ok(found) => found,
            Err(error) => return self.bad(&format!("recovery says `{error}`"), trail),
        };
        if !shows_one_of(&machine.fs, expect.images) {
            return self.bad("the image is neither old nor new", trail);
        }
        if (found == Recovered::Nothing) != journal.is_none() {
            return self.bad("recovery does not say what it did", trail);
        }
        if let (Some(before), Some(journal)) = (before, &journal)
            && !goes_where_the_journal_says(before, journal, &machine.fs)
        {
            return self.bad("recovery made something else than the journal says", trail);
        }
        if machine.fs.file(Name::Journal).is_some() {
            return self.bad("recovery left a journal", trail);
        }
        if self.settled(&machine.fs, trail) && depth == 1 {
            self.goes_on(&machine.fs, expect, trail);
        }
        for moment in machine.moments.take().unwrap_or_default() {
            self.crash(
                &moment,
                Some(trail),
                expect,
                self.budget.nested,
                depth + 1,
                false,
            );
            if self.stopped() {
                return;
            }
        }
    }

    /// After an acknowledged recovery no power cut changes anything.
    fn settled(&mut self, fs: &Fs, trail: &Trail<'_>) -> bool {
        let breadth = Breadth {
            all_up_to: 3,
            structured: false,
            random: 6,
        };
        for subset in subsets(fs.units(), breadth, &mut self.chance) {
            let cut = fs.after_cut(&subset, Fill::Garbage);
            let wrong = if cut
                .image
                .iter()
                .zip(&fs.image)
                .any(|(a, b)| a.live != b.live)
            {
                "another image"
            } else if cut.file(Name::Journal).is_some() {
                "a journal"
            } else {
                continue;
            };
            self.bad(
                &format!("after the recovery a power cut that keeps {subset:?} brings {wrong}"),
                trail,
            );
            return false;
        }
        true
    }

    /// Recovery again finds nothing, and what was asked for can be done now.
    fn goes_on(&mut self, fs: &Fs, expect: Expect<'_>, trail: &Trail<'_>) {
        let scenario = self.scenario;
        let mut machine = Machine::new(fs.clone(), self.plan.twist);
        if !matches!(self.plan.recover(&mut machine), Ok(Recovered::Nothing))
            || machine.fs.image != fs.image
        {
            return self.bad("a second recovery finds something", trail);
        }
        let last = expect.images.last();
        let new = last.is_some_and(|new| machine.fs.shows(new));
        // The undo file is durable before the image can be new.
        if scenario.acts.contains(&Act::CleanWithUndoFile) && machine.fs.shows(&scenario.stages[1])
        {
            let undo = machine.fs.file(Name::Undo).unwrap_or_default();
            if undo != super::scenarios::undo_file(&scenario.stages[0], &scenario.stages[1]) {
                return self.bad("the image is new, and the undo file is not whole", trail);
            }
        }
        if new || expect.images.len() < 2 || !self.chance.one_in(8) {
            return;
        }
        let Some(number) = (0..scenario.acts.len()).find(|number| {
            machine.fs.shows(&scenario.stages[*number])
                && Some(&scenario.stages[number + 1]) == last
                && scenario.acts[*number] != Act::Recover
        }) else {
            return;
        };
        let result = scenario.act(&mut machine, self.plan, number);
        if result.is_err() || !last.is_some_and(|last| machine.fs.shows(last)) {
            self.bad(
                "what was asked for cannot be done after the recovery",
                trail,
            );
        }
    }

    /// Another program writes after the change was made ready and before the image is looked at.
    pub fn foreign_before_the_check(&mut self) {
        let scenario = self.scenario;
        let start = &scenario.starts[0];
        let mut dry = Machine::new(start.clone(), self.plan.twist);
        if scenario.act(&mut dry, self.plan, 0).is_err() {
            return;
        }
        let looked = dry.calls[dry.prepared_at..]
            .iter()
            .position(|op| matches!(op, Op::ReadImage(_) | Op::WriteImage(_)));
        let last = dry.prepared_at + looked.unwrap_or_default();
        let pages: Vec<u64> = patches(&scenario.stages[0], &scenario.stages[1])
            .iter()
            .filter(|patch| {
                let (file, at) = place(patch.offset);
                at + 78 <= scenario.stages[0][file].len()
            })
            .map(|patch| patch.offset)
            .collect();
        for op in dry.prepared_at..=last {
            for byte in [pages[0], pages[pages.len() - 1] + 77] {
                let mut machine =
                    Machine::new(start.clone(), self.plan.twist).recording(self.budget.torn);
                machine.meddler = Some((op, byte));
                let result = scenario.act(&mut machine, self.plan, 0);
                let mut theirs = scenario.stages[0].clone();
                let (file, at) = place(byte);
                theirs[file][at] ^= 0x55;
                let trail = Trail {
                    up: None,
                    op,
                    call: Some(dry.calls[op]),
                    torn: None,
                    how: How::Returned,
                };
                if !matches!(&result, Err(e) if e.kind() == Kind::Refused) {
                    self.bad("a foreign write was not refused", &trail);
                }
                if !machine.fs.shows(&theirs) {
                    self.bad("a foreign write was written over", &trail);
                }
                if !self.settled(&machine.fs, &trail) {
                    return;
                }
                for moment in machine.moments.take().unwrap_or_default() {
                    if moment.op > op {
                        self.foreign_stays(&moment, &theirs);
                    }
                }
                if self.stopped() {
                    return;
                }
            }
        }
    }

    /// A crash of a run that will refuse: nothing is ever written over the foreign bytes.
    fn foreign_stays(&mut self, moment: &Moment, theirs: &Image) {
        for subset in subsets(moment.fs.units(), self.budget.nested, &mut self.chance) {
            let fs = moment.fs.after_cut(&subset, Fill::Garbage);
            self.tally.states += 1;
            let mut machine = Machine::new(fs, self.plan.twist);
            let result = self.plan.recover(&mut machine);
            let fine = match result {
                Ok(found) => found == Recovered::Nothing,
                Err(error) => error.kind() == Kind::Refused,
            };
            if !fine || !machine.fs.holds(theirs) {
                let trail = Trail {
                    up: None,
                    op: moment.op,
                    call: Some(moment.call),
                    torn: moment.torn,
                    how: How::Cut(&subset, Fill::Garbage),
                };
                self.bad("recovery wrote over a foreign write", &trail);
            }
        }
    }

    /// Another program writes between the crash and the recovery: refused, and nothing is written.
    pub fn foreign_before_the_recovery(&mut self) {
        for (number, start) in self.scenario.starts.iter().enumerate() {
            let Some(bytes) = start.file(Name::Journal) else {
                continue;
            };
            let (_, change) = journal::read(Role::Journal, bytes).unwrap();
            for page in change.pages() {
                for inside in [0, 513, 4095] {
                    let mut fs = start.clone();
                    // What comes or goes is nobody's.
                    if inside >= page.len.min(page.old_len) {
                        continue;
                    }
                    fs.meddle(page.offset + inside as u64);
                    let (file, at) = place(page.offset);
                    let found = &fs.image[file].live[at..];
                    let found = &found[..found.len().min(page.span())];
                    assert_eq!(page.state(found), State::Foreign);
                    self.tally.states += 1;
                    let mut machine = Machine::new(fs.clone(), self.plan.twist);
                    let result = self.plan.recover(&mut machine);
                    let trail = Trail {
                        up: None,
                        op: number,
                        call: None,
                        torn: None,
                        how: How::Killed,
                    };
                    if !matches!(&result, Err(e) if e.kind() == Kind::Refused) {
                        self.bad("recovery over a foreign write was not refused", &trail);
                    }
                    if machine.fs.image != fs.image
                        || machine.fs.file(Name::Journal) != fs.file(Name::Journal)
                    {
                        self.bad("a refused recovery changed something", &trail);
                    }
                }
            }
        }
    }
}

fn goes_where_the_journal_says(mut image: Image, journal: &[u8], found: &Fs) -> bool {
    let Ok((_, change)) = journal::read(Role::Journal, journal) else {
        return false;
    };
    for (file, len) in image.iter_mut().zip(change.files()) {
        file.resize(len.new as usize, 0);
    }
    for page in change.pages() {
        let (file, at) = place(page.offset);
        if page.len > 0 {
            image[file][at..at + page.len].copy_from_slice(page.new_bytes());
        }
    }
    found.shows(&image)
}

fn shows_one_of(fs: &Fs, images: &[Image]) -> bool {
    images.iter().any(|image| fs.shows(image))
}

/// What can go wrong in a call.
pub fn hurts(op: Op, forgets: bool) -> Vec<Hurt> {
    match op {
        Op::ReadImage(_) | Op::ReadJournal | Op::ReadTemporary => vec![Hurt::Refused],
        Op::WriteImage(_) => {
            let mut out = vec![
                Hurt::Refused,
                Hurt::Short(1),
                Hurt::Short(5),
                Hurt::Done,
                Hurt::Skipped,
            ];
            if forgets {
                out.extend([Hurt::Lie(0xFF), Hurt::Lie(1), Hurt::Lie(0xAA)]);
            }
            out
        }
        Op::Append => vec![Hurt::Refused, Hurt::Short(1), Hurt::Done, Hurt::Skipped],
        Op::AppendUndo => vec![Hurt::Refused, Hurt::Short(1), Hurt::Done],
        Op::SyncImage(_) => vec![
            Hurt::Refused,
            Hurt::Done,
            Hurt::Forgotten(1),
            Hurt::Forgotten(2),
        ],
        Op::SyncJournal => vec![Hurt::Refused, Hurt::Done, Hurt::Forgotten(3)],
        _ => vec![Hurt::Refused, Hurt::Done],
    }
}
