//! A directory of the host: the verbs as for an image, without an overlay and without a journal.

use std::{path::Path, sync::Arc};

use super::{
    CleanArgs, Common, clean, evidence, facts, foresee,
    progress::Bar,
    scan::{self, Aim},
};
use crate::{
    apply::{
        Intent,
        directory::{self, Work},
        interrupt,
        stage::{self, StagedVolume},
    },
    device::refuse_writers,
    error::{Error, Kind, Result},
    image::{
        self, Image, UNIT_DIRECTORY,
        directory::{Directory, Why},
    },
    plan::{self, NotScanned, Plan, VolumePlan, tokens, tokens::Token},
    report::{Done, ErrorFacts, ImageReport, Phase, RemovalFacts, Searched, verdict::Terms},
    rules::Rule,
    text::escape,
    tree::{FileEntry, FileTree, UnseenClass},
    verify::{
        self, Expected, residue,
        residue::{Residue, Where},
        search::{MAX_LISTED, Searcher},
    },
};

/// Why a temporary file of ours is not looked at.
const LEFTOVER: &str = "a temporary file of a clean that was interrupted; `clean` removes it";
/// `--format` for it.
const FORMAT: &str = "dir";
/// Links and the like are named one by one up to here, and counted.
const MAX_NAMED: usize = 20;

/// Whether this is a directory; options that mean nothing there are a usage error.
pub(super) fn is_one(path: &Path, common: &Common) -> Result<bool> {
    let is_directory = std::fs::metadata(path).is_ok_and(|meta| meta.is_dir());
    let wrong = |what: &str, why: &str| Err(Error::new(Kind::Usage, what).advise(why));
    match (common.format.as_deref(), is_directory) {
        (Some(FORMAT), false) => {
            return wrong(
                "--format dir: a directory expected, found something else",
                "leave --format away for an image file",
            );
        }
        (Some(format), true) if format != FORMAT => {
            return wrong(
                "--format: an image file expected, found a directory",
                "leave --format away, or pass --format dir",
            );
        }
        (_, false) => return Ok(false),
        _ => {}
    }
    let useless = [
        ("--partition", common.partition.is_some()),
        ("--image-index", common.image_index.is_some()),
        ("--hash", common.hash.is_some()),
        ("--allow-file", !common.allow_file.is_empty()),
        ("--journal", common.journal.path.is_some()),
    ];
    match useless.iter().find(|(_, given)| *given) {
        Some((option, _)) => wrong(
            &format!("{option}: an image file expected, found a directory"),
            "a directory is one tree of files: leave the option away",
        ),
        None => Ok(true),
    }
}

/// There is one way to clean a directory.
pub(super) fn check_usage(args: &CleanArgs) -> Result<()> {
    let wrong = |what: &str, why: &str| Err(Error::new(Kind::Usage, what).advise(why));
    if args.output.is_some() {
        return wrong(
            "clean -o: an image file expected, found a directory: declone makes no copy of one",
            "copy it yourself, or clean it as it is with --in-place; -n shows the plan",
        );
    }
    if args.to.is_some() {
        return wrong(
            "clean --to: an image file expected, found a directory: there is no disk in it",
            "leave --to away",
        );
    }
    if args.undo.is_some() {
        return wrong(
            "clean --undo: an image file expected, found a directory: its file system frees what is \
             replaced, and there are no pages to put back",
            "keep a copy of the hive and of the files yourself, or clean the image",
        );
    }
    if args.prove {
        return wrong(
            "clean --prove: an image file expected, found a directory: free clusters are not to be seen \
             through it",
            "clean the image or the device instead; `verify` searches the contents of every file",
        );
    }
    match args.in_place || args.dry_run {
        true => Ok(()),
        false => wrong(
            "clean: a directory is cleaned as it is, which has to be asked for",
            "pass --in-place, or -n to see the plan without writing anything",
        ),
    }
}

/// The plan, with what this way of looking cannot see.
fn look(
    directory: &Arc<Directory>,
    rules: &[Rule],
    bar: &Bar,
    report: &mut ImageReport,
) -> Result<(Image, Plan)> {
    let image = image::of_directory(directory);
    let mut plan = plan::make(&image, rules, &mut |stage, done, total| {
        bar.tick(stage, done, total)
    })?;
    for part in &mut plan.volumes {
        add_unseen(directory, part)?;
        refuse_twins(part);
    }
    facts::fill(report, &image, &plan)?;
    Ok((image, plan))
}

pub(super) fn scan(
    path: &Path,
    common: &Common,
    (rules, terms): (&[Rule], &Terms),
    aim: Aim,
    report: &mut ImageReport,
) -> Result<()> {
    let bar = common.progress();
    let directory = Directory::open(path)?;
    let (image, mut plan) = look(&directory, rules, &bar, report)?;
    scan::settle(report, &image, &plan, (rules, terms));
    if aim != Aim::Ids {
        plan.volumes.iter_mut().for_each(refuse_links);
        foresee::of_directory(report, &image, plan, &common.options(path));
    }
    Ok(())
}

pub(super) fn verify(
    path: &Path,
    common: &Common,
    (rules, terms): (&[Rule], &Terms),
    against: Vec<Token>,
    report: &mut ImageReport,
) -> Result<()> {
    let bar = common.progress();
    let directory = Directory::open(path)?;
    let (image, plan) = look(&directory, rules, &bar, report)?;
    report.tokens.extend(against);
    tokens::tidy(&mut report.tokens);
    let tick = |done, total| bar.tick("searching", done, total);
    let raw = residue::raw(
        &image,
        image.file.as_ref(),
        None,
        &report.tokens,
        true,
        MAX_LISTED,
        &tick,
    )?;
    report.searched.push(Searched {
        what: "contents of every file".into(),
        bytes: raw.contents,
    });
    let more = raw.unlisted();
    if more > 0 {
        report.not_scanned.push(NotScanned::new(
            UnseenClass::Unsearched,
            format!("{more} more hits"),
            "only the first few thousand are listed with their owner",
        ));
    }
    report.residues = raw.residues;
    scan::settle(report, &image, &plan, (rules, terms));
    Ok(())
}

/// What is not looked at, and what a directory does not show at all.
fn add_unseen(directory: &Directory, part: &mut VolumePlan) -> Result<()> {
    let mut below = NotScanned::new(
        UnseenClass::Unsearched,
        "freed clusters, slack and journals of the file system",
        "a directory shows files only: what its file system keeps of removed files and replaced hives \
         stays until it is overwritten",
    )
    .remedy("to have that wiped, unmount and clean the image or the device");
    // Whoever names a directory asked for its files.
    below.accepted = true;
    part.not_scanned.push(below);
    let (mut skipped, count) = directory.skipped();
    skipped.sort_by_key(|one| !one.named_so);
    let mut named = 0_u64;
    for one in &skipped {
        let mut class = UnseenClass::Elsewhere;
        let reason = match &one.why {
            Why::Unread(kind, what) => {
                class = UnseenClass::Damaged;
                let error = Error::new(*kind, what.clone())
                    .at("file", &one.path)
                    .advise("run declone as a user who may read all of the directory");
                part.blockers.push(error);
                what.clone()
            }
            _ if named >= MAX_NAMED as u64 => continue,
            Why::Link(target) => format!("a symbolic link to {target}: not followed"),
            Why::Mount => "something else is mounted there: not entered".to_owned(),
            Why::Special(what) => format!("it is {what}: not opened"),
        };
        named += 1;
        // A Windows volume has dozens of links within itself; only one called like what is looked for may
        // stand for it.
        let unseen = NotScanned::new(class, one.path.to_string(), reason);
        let is_harmless = matches!(one.why, Why::Link(_) | Why::Special(_)) && !one.named_so;
        part.not_scanned.push(match is_harmless {
            true => unseen.harmless(),
            false => unseen,
        });
    }
    let mut say = |class: UnseenClass, what: String, reason: String| {
        part.not_scanned.push(NotScanned::new(class, what, reason));
    };
    if count > named {
        say(
            UnseenClass::Elsewhere,
            format!("{} more names", count - named),
            "links, other mounts, devices and the like: not followed, entered or opened".to_owned(),
        );
    }
    for (link, _) in directory.temporaries() {
        say(
            UnseenClass::Unsearched,
            directory.path(&link).to_string(),
            LEFTOVER.to_owned(),
        );
    }
    let hives = part.hives.iter().filter(|hive| hive.is_written());
    let entries: Vec<&FileEntry> = hives
        .map(|hive| &hive.entry)
        .chain(&part.removals)
        .collect();
    for entry in entries {
        let outside = directory.names_outside(entry.id)?;
        if outside > 0 {
            say(
                UnseenClass::Elsewhere,
                entry.path(),
                format!(
                    "{outside} more names of this file lie outside of the directory (hard links): they \
                     keep what is in it"
                ),
            );
        }
    }
    Ok(())
}

/// Two hives of one name, but for the case: Windows opens one of them, and nobody can say which.
fn refuse_twins(part: &mut VolumePlan) {
    let folded = |entry: &FileEntry| -> Vec<String> {
        let paths = entry.paths.iter();
        paths.map(|path| path.to_string().to_uppercase()).collect()
    };
    let mut twins: Vec<(String, String)> = Vec::new();
    let mut seen: std::collections::HashMap<String, &FileEntry> = std::collections::HashMap::new();
    let written = part.hives.iter().any(plan::HivePlan::is_written);
    let hives = part
        .hives
        .iter()
        .flat_map(|h| std::iter::once(&h.entry).chain(&h.logs));
    for entry in hives.filter(|_| written) {
        for path in folded(entry) {
            match seen.get(&path) {
                Some(other) if other.id != entry.id => twins.push((other.path(), entry.path())),
                _ => drop(seen.insert(path, entry)),
            }
        }
    }
    for (one, other) in twins {
        part.blockers.push(
            Error::refused(format!(
                "hive: one file of its name expected, found {one} and {other}"
            ))
            .at(part.unit, part.partition)
            .advise("take the one that Windows does not use out of the directory"),
        );
    }
}

/// A hive with two names cannot be replaced under both at once.
fn refuse_links(part: &mut VolumePlan) {
    for hive in part.hives.iter().filter(|hive| hive.is_written()) {
        if let [one, other, ..] = hive.entry.paths.as_slice() {
            part.blockers.push(
                Error::refused(format!("hive: one name expected, found {one} = {other}"))
                    .at(part.unit, part.partition)
                    .advise("remove the hard link, then try again"),
            );
        }
    }
}

/// A system that runs from this directory holds its hives open.
fn refuse_live(directory: &Directory, part: &VolumePlan) -> Result<()> {
    let hives = part.hives.iter().filter(|hive| hive.is_written());
    for entry in hives.map(|hive| &hive.entry).chain(&part.log_wipes) {
        let file = directory.look(entry.id)?;
        refuse_writers(&file, &format!("{} (in the directory)", entry.path()))?;
    }
    Ok(())
}

pub(super) fn clean(args: &CleanArgs, rules: &[Rule], report: &mut ImageReport) -> Result<()> {
    let common = &args.common;
    let bar = common.progress();
    if !args.dry_run {
        evidence::check(&common.voice)?;
    }
    let directory = Directory::open(&args.image)?;
    let (image, mut plan) = look(&directory, rules, &bar, report)?;
    let asked = clean::asked(args);
    let mut waiting = None;
    if !args.dry_run {
        waiting = evidence::rest_of(&common.voice, &asked, &args.image, report)?;
    }
    // These go with whatever else is done.
    for unseen in &mut report.not_scanned {
        unseen.harmless |= unseen.reason == LEFTOVER;
    }
    plan.tokens.extend(args.seek.tokens()?);
    tokens::tidy(&mut plan.tokens);
    report.tokens.clone_from(&plan.tokens);
    for part in &mut plan.volumes {
        refuse_links(part);
        // A second run after a crash knows less of what is stale: all of it goes the first time.
        for hive in part.hives.iter_mut().filter(|hive| hive.is_written()) {
            hive.wipe = true;
        }
    }
    let options = common.options(&args.image);
    clean::refuse(&image, &mut plan, &options, args, report)?;
    let Some((part, tree)) = plan.volumes.first().zip(image.volumes[0].tree()) else {
        return Err(Error::internal("directory: its tree"));
    };
    refuse_live(&directory, part)?;
    let settled = directory::settled(tree, part)?;
    let mut done = Done {
        in_place: !args.dry_run,
        ..Done::default()
    };
    let staged = stage::stage(&image, &plan)?;
    let expected: Vec<Expected> = staged
        .iter()
        .zip(&plan.volumes)
        .map(|(staged, part)| clean::expect(staged, part))
        .collect();
    for staged in &staged {
        tell(staged, part, &mut done);
    }
    let work = Work::new(&directory, tree, part, settled)?;
    done.changed_bytes = work.changed_bytes();
    if part.has_edits() {
        // Opened anew: a reader that remembers what it wrote would prove nothing.
        let fresh = image::of_directory(&directory.again());
        let mut tick = |s: &str, done, total| bar.tick(s, done, total);
        let tokens = &plan.tokens;
        let seen = verify::staged(&fresh, rules, tokens, &expected, &[], &mut tick)?;
        clean::fail_on(&seen.problems)?;
        done.witnesses = seen.witnesses;
        let searched = seen.searched.into_iter();
        report.searched = searched
            .map(|(what, bytes)| Searched { what, bytes })
            .collect();
        search_kept(tree, part, tokens, report)?;
    }
    let nothing = work.is_empty();
    report.result = if nothing { "clean" } else { "planned" };
    let terms = common.accepted.terms();
    if nothing && !report.has_windows() && !terms.no_windows {
        clean::say_no_windows(report, &terms, rules);
        return Ok(());
    }
    if args.dry_run || nothing {
        report.done = Some(done);
        report.settle_clean(&terms, rules);
        if let Some(waiting) = waiting {
            waiting.finish(report);
        }
        return Ok(());
    }
    directory.close();
    // What an earlier run wrote down tells of this rest, too.
    let mut promise = None;
    if waiting.is_none() {
        promise = promise_of(args, &asked, rules, &mut done, report)?;
    }
    let hold = interrupt::hold();
    report.phase = Phase::Writing;
    let outcome = directory::commit(&directory, &work, &mut |_| {});
    report.remarks.extend(outcome.notes);
    let failed = outcome.failed.iter();
    report.errors.extend(failed.map(ErrorFacts::from));
    match outcome.error {
        None => {}
        Some(error) if error.kind() == Kind::Interrupted => {
            done.written = true;
            report.done = Some(done);
            return Err(error);
        }
        Some(error) => {
            report.phase = Phase::Untouched;
            hold.release();
            if let Some(promise) = promise {
                promise.remove();
            }
            return Err(error);
        }
    }
    done.written = true;
    report.done = Some(done);
    check_written(&directory, rules, &work, &expected, &bar, report)?;
    report.phase = Phase::Changed;
    report.result = "cleaned";
    report.settle_clean(&terms, rules);
    if let Some(waiting) = waiting {
        waiting.finish(report);
    }
    Ok(())
}

/// Writes down what the report will be.
fn promise_of(
    args: &CleanArgs,
    asked: &str,
    rules: &[Rule],
    done: &mut Done,
    report: &mut ImageReport,
) -> Result<Option<Intent>> {
    let (before, code) = (report.result, report.exit_code);
    let left = report.left.clone();
    report.result = "cleaned";
    done.written = true;
    report.done = Some(std::mem::take(done));
    report.settle_clean(&args.common.accepted.terms(), rules);
    let voice = &args.common.voice;
    let promise = evidence::promise(voice, asked, &args.image, Vec::new(), rules, report);
    *done = report.done.take().unwrap_or_default();
    done.written = false;
    (report.result, report.exit_code, report.left) = (before, code, left);
    promise
}

fn tell(staged: &StagedVolume, part: &VolumePlan, done: &mut Done) {
    done.logs.extend(staged.logs.iter().cloned());
    let hives = staged.hives.iter();
    done.hives.extend(hives.map(|hive| hive.done.clone()));
    if !part.removals.is_empty() {
        done.removals.push(RemovalFacts::new(
            (UNIT_DIRECTORY, part.partition),
            part.removals.iter().map(FileEntry::path).collect(),
            &staged.removal,
        ));
    }
}

/// What of the identity stays in the hives that are written and in the logs that are not.
fn search_kept(
    tree: &dyn FileTree,
    part: &VolumePlan,
    tokens: &[Token],
    report: &mut ImageReport,
) -> Result<()> {
    let searcher = Searcher::new(tokens, false)?;
    let hives = part.hives.iter().filter(|hive| hive.is_written());
    let hives = hives.map(|hive| &hive.entry);
    for (entry, is_log) in hives
        .map(|entry| (entry, false))
        .chain(part.logs.iter().map(|entry| (entry, true)))
    {
        let bytes = image::read_whole(tree, entry)?;
        let mut hits = Vec::new();
        searcher.find(&bytes, 0, &mut hits);
        for hit in hits.iter().take(MAX_LISTED) {
            let token = &searcher.tokens()[hit.token];
            report.residues.push(Residue {
                token: token.label.clone(),
                class: token.class,
                place: Where::LiveFile,
                owner: format!("{}, file offset {:#x}", entry.path(), hit.offset),
                partition: Some(part.partition),
                volume_offset: None,
                image_offset: None,
                file: None,
                file_offset: None,
                len: hit.len,
                generic: false,
            });
        }
        if is_log {
            report.searched.push(Searched {
                what: entry.path(),
                bytes: bytes.len() as u64,
            });
        }
    }
    Ok(())
}

/// Fresh eyes on what is there now.
fn check_written(
    directory: &Arc<Directory>,
    rules: &[Rule],
    work: &Work,
    expected: &[Expected],
    bar: &Bar,
    report: &mut ImageReport,
) -> Result<()> {
    let unfinished = |what: String| {
        Error::new(Kind::Interrupted, what).advise(
            "everything that was planned was done, so another program writes to the directory: end \
             it, then run the same command again",
        )
    };
    let there = directory.on_host();
    let image = image::of_directory(&there);
    let left = plan::make(&image, rules, &mut |stage, done, total| {
        bar.tick(stage, done, total)
    })
    .map_err(|error| unfinished(format!("look at what was written: {error}")))?;
    if left.to_delete() > 0 {
        return Err(unfinished(format!(
            "directory: nothing left expected, found {} items",
            left.to_delete()
        )));
    }
    work.check(directory)
        .map_err(|error| unfinished(format!("look at what was written: {error}")))?;
    let same = left
        .volumes
        .iter()
        .zip(expected)
        .all(|(part, want)| part.listing == want.listing);
    if !same {
        report.remarks.push(
            "the names, owners, modes, lengths and times of all files are not wholly those from before: \
             another program changed the directory meanwhile, or its file system does not keep them"
                .to_owned(),
        );
    }
    if there.mounted().kind.starts_with("fuse") {
        report.remarks.push(format!(
            "what {} keeps back is on the disk when it is unmounted",
            escape(&there.mounted().source)
        ));
    }
    Ok(())
}
