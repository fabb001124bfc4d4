//! Protocols with one step missing or out of place. The model must tell each of them from the real
//! one, or it tests nothing.

use declone::apply::protocol::{
    COMMIT, RECOVER,
    Step::{self, *},
};

use super::{machine::Twist, scenarios::Plan};

#[derive(Debug)]
pub struct Mutant {
    pub name: &'static str,
    /// For a mutant that does no harm: why.
    pub why: &'static str,
    pub plan: Plan,
}

fn mutant(name: &'static str, change: impl FnOnce(&mut Plan)) -> Mutant {
    let mut plan = Plan::real();
    change(&mut plan);
    Mutant {
        name,
        why: "",
        plan,
    }
}

fn without(steps: &[Step], gone: &[Step]) -> Vec<Step> {
    let left: Vec<Step> = steps
        .iter()
        .copied()
        .filter(|s| !gone.contains(s))
        .collect();
    assert!(left.len() < steps.len(), "{gone:?} is no step");
    left
}

/// Moves a step before another.
fn moved(steps: &[Step], step: Step, before: Step) -> Vec<Step> {
    let mut out = without(steps, &[step]);
    let at = out.iter().position(|s| *s == before).unwrap();
    out.insert(at, step);
    assert_ne!(out, steps);
    out
}

fn commit(name: &'static str, steps: Vec<Step>) -> Mutant {
    mutant(name, |plan| plan.commit = steps)
}

fn recover(name: &'static str, steps: Vec<Step>) -> Mutant {
    mutant(name, |plan| plan.recover = steps)
}

fn twisted(name: &'static str, twist: Twist) -> Mutant {
    mutant(name, |plan| plan.twist = twist)
}

pub fn harmful() -> Vec<Mutant> {
    // With the look at the old bytes at the front, so that the write alone is out of place.
    let looked = moved(COMMIT, CheckOld, WriteJournal);
    vec![
        commit(
            "no journal at all",
            vec![CheckOld, Patch, SyncImage, ReadBack],
        ),
        commit("no fsync of the journal", without(COMMIT, &[SyncJournal])),
        mutant("no fsync of the journal and no digest in it", |plan| {
            plan.commit = without(COMMIT, &[SyncJournal]);
            plan.digest = false;
        }),
        commit(
            "the journal gets its name before its fsync",
            moved(&without(COMMIT, &[ReadJournal]), Publish, SyncJournal),
        ),
        commit(
            "no fsync of the directory after the rename",
            without(COMMIT, &[SyncPublished]),
        ),
        commit(
            "the image is written before the journal has its name",
            moved(&looked, Patch, Publish),
        ),
        commit(
            "the image is written before the journal's name is durable",
            moved(&looked, Patch, SyncPublished),
        ),
        commit(
            "the journal is not read before it gets its name",
            without(COMMIT, &[ReadJournal]),
        ),
        commit("no look at the old bytes", without(COMMIT, &[CheckOld])),
        commit(
            "a file grows before the journal's name is durable",
            moved(&looked, Extend, Publish),
        ),
        commit("no file gets longer", without(COMMIT, &[Extend])),
        commit("no file gets shorter", without(COMMIT, &[Cut])),
        commit(
            "a file is cut before the pages are durable",
            moved(COMMIT, Cut, SyncImage),
        ),
        commit(
            "no fsync of a file that was cut",
            without(COMMIT, &[SyncCut]),
        ),
        commit("no fsync of the image", without(COMMIT, &[SyncImage])),
        commit("no reading back", without(COMMIT, &[ReadBack])),
        commit(
            "reading back before the fsync",
            moved(COMMIT, ReadBack, SyncImage),
        ),
        commit(
            "the journal goes before the image is durable",
            moved(COMMIT, RemoveJournal, SyncImage),
        ),
        commit(
            "the journal goes before the reading back",
            moved(COMMIT, RemoveJournal, ReadBack),
        ),
        commit("the journal never goes", without(COMMIT, &[RemoveJournal])),
        commit(
            "no fsync of the directory after the removal",
            without(COMMIT, &[SyncRemoved]),
        ),
        recover(
            "recovery: no fsync of the directory first",
            without(RECOVER, &[SyncPublished]),
        ),
        recover(
            "recovery: no look at the bytes",
            without(RECOVER, &[CheckResumable]),
        ),
        recover(
            "recovery: the look at the bytes after the write",
            moved(RECOVER, CheckResumable, SyncImage),
        ),
        recover("recovery: no file gets longer", without(RECOVER, &[Extend])),
        recover("recovery: no file gets shorter", without(RECOVER, &[Cut])),
        recover(
            "recovery: no fsync of a file that was cut",
            without(RECOVER, &[SyncCut]),
        ),
        twisted(
            "only the first file is synced",
            Twist::SyncsOnlyTheFirstFile,
        ),
        twisted(
            "putting back: the files stay as long as they are",
            Twist::RollbackKeepsLengths,
        ),
        recover("recovery: nothing is written", without(RECOVER, &[Patch])),
        recover(
            "recovery: no fsync of the image",
            without(RECOVER, &[SyncImage]),
        ),
        recover("recovery: no reading back", without(RECOVER, &[ReadBack])),
        recover(
            "recovery: the journal goes first",
            moved(RECOVER, RemoveJournal, Patch),
        ),
        recover(
            "recovery: the journal goes before the fsync",
            moved(RECOVER, RemoveJournal, SyncImage),
        ),
        recover(
            "recovery: the journal stays",
            without(RECOVER, &[RemoveJournal]),
        ),
        recover(
            "recovery: no fsync of the directory last",
            without(RECOVER, &[SyncRemoved]),
        ),
        twisted(
            "recovery: that there is no journal is not made durable",
            Twist::NothingWithoutSyncDirectory,
        ),
        twisted(
            "recovery: pages that read as new are not written again",
            Twist::SkipsNewPages,
        ),
        twisted(
            "putting back: no fsync of the image",
            Twist::RollbackWithoutSyncImage,
        ),
        twisted(
            "putting back: no fsync of the directory",
            Twist::RollbackWithoutSyncDirectory,
        ),
        twisted(
            "putting back: a failed rename is taken for no rename",
            Twist::RollbackBelievesRename,
        ),
        twisted("the journal has no temporary name", Twist::NoTemporaryName),
        twisted("reading back from the cache", Twist::NoForget),
        twisted("no fsync of the undo file", Twist::UndoFileWithoutSync),
    ]
}

/// Mutants that the model finds harmless, as it should.
pub fn equivalent() -> Vec<Mutant> {
    vec![
        Mutant {
            why: "a journal has its name only after its fsync has succeeded, so what recovery finds \
                  under that name is durable; the step stays for journals that people copied",
            ..recover(
                "recovery: no fsync of the journal",
                without(RECOVER, &[SyncJournal]),
            )
        },
        Mutant {
            why: "no crash damages a synced journal; the digest is for disks that do, and is tested \
                  bit by bit in src/apply/journal.rs",
            ..mutant("no digest of the journal", |plan| plan.digest = false)
        },
    ]
}
