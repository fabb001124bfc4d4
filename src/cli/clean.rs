//! `declone clean`: plan, stage on an overlay, verify the staged image, and only then write.

use std::{collections::HashSet, ops::Range, path::Path, sync::Arc};

use super::{
    CleanArgs, evidence, facts,
    place::{self, Writable},
    present,
};
use crate::{
    apply::{
        change::{Change, FileLen},
        clone::{self, Method, Output},
        clone_set::OutputSet,
        outputs,
        stage::{self, StagedVolume},
        undo,
    },
    container::Written,
    device::{Access, BlockDevice, Device, HostFile, HostSet, Neighbours, Overlay, Part, Patch},
    error::{Error, Kind, Result},
    image::{self, Content, Image, Options},
    plan::{self, Plan},
    report::{
        Done, ImageFacts, ImageReport, NO_WINDOWS, PatchFacts, Phase, RemovalFacts, Searched,
        verdict::Terms,
    },
    rules::Rule,
    text::{WinPath, escape},
    tree::{Disposition, UnseenClass},
    verify::{
        self, Expected, ExpectedHive, Readable, Verification, residue,
        search::{Hit, MAX_HITS, MAX_LISTED},
    },
};

pub(super) fn check_usage(args: &CleanArgs) -> Result<()> {
    if super::directory::is_one(&args.image, &args.common)? {
        return super::directory::check_usage(args);
    }
    if args.output.is_none() && !args.dry_run && !args.in_place {
        return Err(Error::new(Kind::Usage, "clean: where to write?").advise(
            "pass -o OUT for a cleaned copy (the image stays as it is), --in-place to clean the \
             image itself, or -n to see the plan without writing anything",
        ));
    }
    if let Some(path) = &args.undo {
        if !args.in_place {
            return Err(Error::new(
                Kind::Usage,
                "clean --undo: --in-place expected with it; a copy leaves the image as it is",
            ));
        }
        undo::check_new(path)?;
        outputs::check_place("--undo", path)?;
    }
    if let Some(path) = &args.output {
        outputs::check_place("-o", path)?;
    }
    args.common.journal.check()
}

pub(super) fn run(args: &CleanArgs, rules: &[Rule], report: &mut ImageReport) -> Result<()> {
    let common = &args.common;
    if super::directory::is_one(&args.image, common)? {
        return super::directory::clean(args, rules, report);
    }
    let options = common.options(&args.image);
    let bar = common.progress();
    let journal = common.journal.path.as_deref();
    let mut writable = None;
    let mut may_resume = false;
    // Why OUT cannot be made, if it is there and may be this clean's.
    let mut taken = None;
    if args.in_place && !args.dry_run {
        evidence::check(&common.voice)?;
    }
    let host = if args.in_place {
        if !args.dry_run && journal.is_none() {
            outputs::check_beside(&args.image)?;
        }
        let mut image = Writable::open(&args.image, journal)?;
        if args.dry_run {
            place::refuse_pending(&image.host, journal)?;
        } else {
            image.recover_first(report)?;
        }
        image.gather(&options)?;
        let host = image.host.clone();
        if !args.dry_run {
            let asked = asked(args);
            may_resume = evidence::pick_up(&common.voice, Some(&asked), &host, report)?;
        }
        writable = Some(image);
        host
    } else {
        let host = image::open_files(&args.image, Access::Copy, &options)?;
        place::refuse_pending(&host, journal)?;
        if let (Some(out), false, None) = (&args.output, args.dry_run, args.to) {
            match host.is_set() {
                true => OutputSet::precheck(&host, out)?,
                false => {
                    if let Err(error) = Output::precheck(host.first(), out, args.force) {
                        if args.force || !present::may_be_done(host.first(), out) {
                            return Err(error);
                        }
                        taken = Some(error);
                    }
                }
            }
        }
        host
    };
    report.remarks.extend(host.remarks());
    let Subject {
        image,
        options,
        near,
        disk,
        shown,
    } = Subject::open(args, &host, options)?;
    let base: Device = disk.clone().unwrap_or_else(|| host.clone());
    let mut plan = plan::make(&image, rules, &mut |s, done, total| {
        bar.tick(s, done, total)
    })?;
    plan.tokens.extend(args.seek.tokens()?);
    plan::tokens::tidy(&mut plan.tokens);
    facts::fill(report, &image, &plan)?;
    if let Some(shown) = shown {
        report.remarks.push(
            "--to raw: offsets are those of the disk inside the image, and of OUT".to_owned(),
        );
        report.image = Some(shown);
    }
    host.check_reads()?;
    refuse(&image, &mut plan, &options, args, report)?;
    let terms = common.accepted.terms();
    if !plan.has_edits() && !report.has_windows() && !terms.no_windows {
        say_no_windows(report, &terms, rules);
        return Ok(());
    }
    if args.quick {
        let mut unseen = plan::NotScanned::new(
            UnseenClass::Unsearched,
            "free space and unchanged files",
            "not searched (--quick)",
        )
        .remedy("`declone verify` searches every byte");
        unseen.accepted = true;
        report.not_scanned.push(unseen);
    }
    if args.in_place && plan.has_edits() {
        refuse_parent(&image, &options)?;
    }
    if common.hash.is_some()
        && let Some(facts) = &mut report.image
    {
        facts.sha256 = Some(place::digest_of(&host, &bar)?);
    }

    let before = verify::readable(&image);
    let is_archive = image.writer.is_some();
    let places = image.places.clone();
    // What is staged is opened anew, and the memory of an archive's trees counts.
    drop(image);
    let overlay = Arc::new(Overlay::new(base.clone()));
    let mut done = Done::default();
    let mut edited = false;
    let prove = !args.quick;
    if plan.has_edits() || prove || is_archive {
        let mut clean = Clean {
            base: &base,
            before: &before,
            is_archive,
            rules,
            plan: &plan,
            options: &options,
            bar: &bar,
            report,
            waived: args.waived(),
        };
        let verified = clean.stage_and_verify(&overlay, prove, &mut done);
        // A read that failed explains whatever else went wrong.
        host.check_reads()?;
        near.check_reads()?;
        edited = verified?;
        if disk.is_none() {
            place::name_residues(&host, &mut report.residues);
        }
    }
    let patches = match edited {
        true => overlay.diff()?,
        // A container's log may have been replayed: no reason to write.
        false => Vec::new(),
    };
    let after = match edited {
        true => overlay.parts(),
        false => base.parts(),
    };
    drop(overlay);
    host.check_reads()?;
    near.check_reads()?;
    near.check_unchanged()?;
    // Before the expensive part: a copy of 200 GB that is refused then helps nobody.
    let ranges: Vec<Range<u64>> = after
        .iter()
        .map(|part| part.start..part.start + part.len)
        .collect();
    crate::apply::guard::check(&patches, &ranges)?;
    let lens = lens(&base.parts(), &after);
    if !is_archive && let Some(file) = lens.iter().find(|file| file.old != file.new) {
        return Err(Error::internal(format!(
            "disk: a file of {} bytes expected, found {} after the edit",
            file.old, file.new
        )));
    }
    done.changed_bytes = patches.iter().map(|patch| patch.len).sum();
    report.result = if patches.is_empty() {
        "clean"
    } else {
        "planned"
    };
    // Before anything is written: what is written down of the run tells the same verdict.
    report.settle_clean(&terms, rules);
    if args.dry_run {
        done.patches = patch_facts(
            disk.is_none().then_some(host.as_ref()),
            base.as_ref(),
            &patches,
        )?;
    } else if let Some(image) = &mut writable {
        let read = &mut |at: u64, buf: &mut [u8]| host.read_at(at, buf);
        let change = Change::prepare(&patches, &lens, read)?;
        drop(patches);
        done.patches = place::patches(&host, &change);
        done.in_place = true;
        if !change.is_empty() {
            for page in &mut done.patches {
                page.disk_offset = places.disk_offset(page.at);
            }
            done = write_in_place(image, &change, (args, rules), done, report)?;
        }
        if common.hash.is_some() {
            match place::digest_of(&host, &bar) {
                Ok(digest) => done.sha256 = Some(digest),
                Err(error) => report.errors.push((&error).into()),
            }
        }
        if may_resume && change.is_empty() {
            evidence::resume(report, done.sha256.as_deref());
        }
    } else if let Some(out) = &args.output {
        done.patches = patch_facts(
            disk.is_none().then_some(host.as_ref()),
            base.as_ref(),
            &patches,
        )?;
        let copy = Copy {
            host: &host,
            disk: disk.as_ref(),
            near: &near,
            options: match disk {
                Some(_) => options,
                None => common.options(&args.image),
            },
        };
        let new_len = ranges.last().map_or(0, |range| range.end);
        match (taken, host.is_set() && disk.is_none()) {
            (Some(error), _) => {
                let mut tick = |at| bar.tick("comparing", at, new_len);
                if !present::is_written(out, base.as_ref(), (&patches, new_len), &mut tick)? {
                    return Err(error);
                }
                host.first().check_unchanged()?;
                done.written = true;
                done.output = Some(escape(&out.display().to_string()));
                report.remarks.push(
                    "OUT was there already and is, byte for byte, what this clean writes: it was left \
                     as it is"
                        .to_owned(),
                );
            }
            (None, true) => copy.write_set(out, (&patches, &ranges), rules, &bar, &mut done)?,
            (None, false) => {
                copy.write(out, (&patches, new_len), args, rules, &bar, &mut done)?;
            }
        }
        if common.hash.is_some() {
            let written = copy.written(out)?;
            done.sha256 = Some(place::digest_of(&written, &bar)?);
        }
        if !patches.is_empty() {
            report.result = "cleaned";
        }
    }
    for page in &mut done.patches {
        page.disk_offset = places.disk_offset(page.at);
    }
    report.done = Some(done);
    Ok(())
}

/// There is nothing to clean, and no Windows: that is no clean image.
pub(super) fn say_no_windows(report: &mut ImageReport, terms: &Terms, rules: &[Rule]) {
    report.list_left(terms, rules);
    report.add_no_windows();
    report.result = "no_windows";
    report.exit_code = NO_WINDOWS;
}

/// What decides which changes a clean makes, and what is said of them.
pub(super) fn asked(args: &CleanArgs) -> String {
    let common = &args.common;
    format!(
        "{:?}",
        (
            &common.rules,
            &common.format,
            common.partition,
            common.image_index,
            args.quick,
            args.accept_dirty,
            args.waived(),
            (&common.accepted, &args.seek),
        )
    )
}

/// What is cleaned.
struct Subject {
    image: Image,
    options: Options,
    /// The files that the container stands on.
    near: Arc<Neighbours>,
    /// The disk inside the image, if that is to be the file that is written.
    disk: Option<Device>,
    /// What the report then shows of the image.
    shown: Option<ImageFacts>,
}

impl Subject {
    /// The image; or, with `--to raw`, the disk inside it as if it were a raw file.
    fn open(args: &CleanArgs, host: &Arc<HostSet>, options: Options) -> Result<Self> {
        let image = image::open(host.clone(), &options)?;
        let near = Arc::clone(&options.near);
        if args.to.is_none() {
            return Ok(Self {
                image,
                options,
                near,
                disk: None,
                shown: None,
            });
        }
        if image.writer.is_some() {
            return Err(Error::unsupported(format!(
                "--to raw: a disk expected, found an archive ({})",
                image.format
            ))
            .advise("clean it as it is: leave --to away"));
        }
        let disk = Arc::clone(&image.disk);
        if let (Some(out), false) = (&args.output, args.dry_run) {
            if near.has_opened(out) || host.has(out) {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "-o {}: a new file expected, the image is made of it",
                        escape(&out.display().to_string())
                    ),
                ));
            }
            Output::precheck_disk(host.first(), disk.as_ref(), out, args.force)?;
        }
        let options = Options {
            format: Some("raw".to_owned()),
            partition: options.partition,
            near: Arc::default(),
            image_index: None,
        };
        Ok(Self {
            image: image::open(Arc::clone(&disk), &options)?,
            options,
            near,
            disk: Some(disk),
            shown: Some(facts::image_facts(&image)),
        })
    }
}

/// The lengths of the files before and after.
fn lens(before: &[Part], after: &[Part]) -> Vec<FileLen> {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| FileLen {
            start: before.start,
            old: before.len,
            new: after.len,
        })
        .collect()
}

/// What the report says of each patch. `set` is what is patched, unless that is a disk inside it.
fn patch_facts(
    set: Option<&HostSet>,
    host: &dyn BlockDevice,
    patches: &[Patch],
) -> Result<Vec<PatchFacts>> {
    let parts = host.parts();
    patches
        .iter()
        .map(|patch| {
            let next = parts.partition_point(|part| part.start <= patch.offset);
            let part = next.checked_sub(1).and_then(|number| parts.get(number));
            let end = part.map_or(0, |part| part.start + part.len);
            let (sha256_old, sha256_new) = clone::digests(host, patch, end)?;
            let (file, offset) =
                set.map_or((None, patch.offset), |set| place::named(set, patch.offset));
            Ok(PatchFacts {
                file,
                offset,
                at: patch.offset,
                disk_offset: None,
                len: patch.len,
                sha256_old,
                sha256_new,
            })
        })
        .collect()
}

/// Changes the image itself: what the report will be, undo file, journal, pages, in that order.
fn write_in_place(
    image: &mut Writable,
    change: &Change,
    (args, rules): (&CleanArgs, &[Rule]),
    mut done: Done,
    report: &mut ImageReport,
) -> Result<Done> {
    let before = report.result;
    report.result = "cleaned";
    done.written = true;
    done.undo = args
        .undo
        .as_ref()
        .map(|path| crate::text::escape(&path.display().to_string()));
    report.done = Some(done);
    let (voice, host) = (&args.common.voice, image.host.clone());
    let pages = evidence::pages(change);
    let path = host.first().path();
    let promise = evidence::promise(voice, &asked(args), path, pages, rules, report);
    let done = report.done.take().unwrap_or_default();
    report.result = before;
    let promise = promise?;
    if let Err(error) = image.commit(change, args.undo.as_deref(), report) {
        if report.phase == Phase::Untouched
            && let Some(promise) = promise
        {
            promise.remove();
        }
        return Err(error);
    }
    report.result = "cleaned";
    Ok(done)
}

/// How the cleaned copy is made.
struct Copy<'a> {
    host: &'a HostSet,
    /// The disk inside it, if OUT is to be that.
    disk: Option<&'a Device>,
    near: &'a Neighbours,
    /// For reading OUT.
    options: Options,
}

impl Copy<'_> {
    fn create(&self, out: &Path, force: bool) -> Result<Output> {
        match self.disk {
            Some(disk) => Output::create_disk(self.host.first(), disk.as_ref(), out, force),
            None => Output::create(self.host.first(), out, force),
        }
    }

    fn fill(&self, output: &Output, bar: &super::progress::Bar) -> Result<Method> {
        let Some(disk) = self.disk else {
            let len = self.host.len();
            return output.clone_from(self.host.first(), &mut |at| bar.tick("copying", at, len));
        };
        let tick = &mut |at| bar.tick("copying", at, disk.len());
        let method = output.fill_from(disk.as_ref(), tick)?;
        self.host.check_unchanged()?;
        self.host.check_reads()?;
        self.near.check_reads()?;
        self.near.check_unchanged()?;
        Ok(method)
    }

    /// The files that were written.
    fn written(&self, out: &Path) -> Result<Arc<HostSet>> {
        match (self.host.first().path().file_name(), self.disk) {
            (Some(name), None) if self.host.is_set() => {
                self.open_copy(&out.join(name)).map(|(set, _)| set)
            }
            _ => Ok(Arc::new(HostSet::alone(Arc::new(HostFile::open(out)?)))),
        }
    }

    /// Opens a copy of the set by its first file, with what lies beside it and nothing else.
    fn open_copy(&self, first: &Path) -> Result<(Arc<HostSet>, Options)> {
        let options = Options {
            near: Arc::new(Neighbours::of(first, &[])),
            ..self.options.clone()
        };
        let set = image::open_files(first, Access::Look, &options)?;
        Ok((set, options))
    }

    /// All files of a set, in a new directory.
    fn write_set(
        &self,
        out: &Path,
        (patches, places): (&[Patch], &[Range<u64>]),
        rules: &[Rule],
        bar: &super::progress::Bar,
        done: &mut Done,
    ) -> Result<()> {
        let old: Vec<String> = done
            .patches
            .iter()
            .map(|patch| patch.sha256_old.clone())
            .collect();
        let mut output = OutputSet::create(self.host, out)?;
        let (mut before, all) = (0, self.host.bytes());
        for ((_, file), place) in self.host.files().zip(places) {
            let tick = &mut |at| bar.tick("copying", before + at, all);
            let method = output.write(file, place.clone(), (patches, &old), tick)?;
            done.method = Some(method.name());
            before += file.len();
        }
        // Of one state from the opening of the first to the copy of the last.
        self.host.check_unchanged()?;
        let first = output.path_of(self.host.first())?;
        let not_found = |error: Error| match error.kind() {
            Kind::Refused => error.advise(
                "in the copy all files lie in one directory, under their own names, where the \
                 image must find them: clean the disk inside it into one file (--to raw)",
            ),
            _ => error,
        };
        let (set, options) = self.open_copy(&first).map_err(not_found)?;
        if set.files().count() != self.host.files().count() {
            return Err(Error::new(
                Kind::Verification,
                "written files: as many as the image has expected, found others",
            ));
        }
        // Fresh eyes on the written files: same readers, nothing staged.
        let again = image::open(set.clone(), &options)?;
        if !patches.is_empty() {
            let left = plan::make(&again, rules, &mut |s, done, total| {
                bar.tick(s, done, total)
            })?;
            nothing_left(&left)?;
        }
        set.check_reads()?;
        drop(again);
        output.finish()?;
        done.written = true;
        done.output = Some(escape(&out.display().to_string()));
        Ok(())
    }

    fn write(
        &self,
        out: &Path,
        (patches, new_len): (&[Patch], u64),
        args: &CleanArgs,
        rules: &[Rule],
        bar: &super::progress::Bar,
        done: &mut Done,
    ) -> Result<()> {
        let output = self.create(out, args.force)?;
        done.method = Some(self.fill(&output, bar)?.name());
        let old: Vec<String> = done
            .patches
            .iter()
            .map(|patch| patch.sha256_old.clone())
            .collect();
        output.grow(new_len)?;
        output.check_old(patches, &old)?;
        output.patch(patches)?;
        output.sync_and_check(patches)?;
        if !patches.is_empty() {
            // Fresh eyes on the written file: same readers, nothing staged.
            let written: Arc<HostFile> = Arc::new(HostFile::open(&output.temporary_path(out))?);
            let again = image::open(written.clone(), &self.options)?;
            let left = plan::make(&again, rules, &mut |s, done, total| {
                bar.tick(s, done, total)
            })?;
            written.check_reads()?;
            nothing_left(&left)?;
        }
        output.finish(self.host.first())?;
        done.written = true;
        done.output = Some(crate::text::escape(&out.display().to_string()));
        Ok(())
    }
}

fn nothing_left(plan: &Plan) -> Result<()> {
    match plan.to_delete() {
        0 => Ok(()),
        left => Err(Error::new(
            Kind::Verification,
            format!("written file: nothing left expected, found {left} items"),
        )),
    }
}

/// A disk on which others stand is not changed under them.
fn refuse_parent(image: &Image, options: &Options) -> Result<()> {
    let children = image.children(&options.near)?;
    let Some(first) = children.first() else {
        return Ok(());
    };
    let more = match children.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Err(Error::refused(format!(
        "container: a disk on which no other stands expected, found its child {}{more}",
        escape(first)
    ))
    .advise(
        "a change to it would break its children: clean them, or a copy (-o OUT), or merge them \
         first",
    ))
}

/// Every reason not to write, before anything is staged.
pub(super) fn refuse(
    image: &Image,
    plan: &mut Plan,
    options: &Options,
    args: &CleanArgs,
    report: &mut ImageReport,
) -> Result<()> {
    let waived = args.waived();
    let ids: Vec<&str> = waived.iter().map(|(id, _)| *id).collect();
    let reasons = reasons(image, plan, options, (args.accept_dirty, &ids));
    let obstacles = plan.volumes.iter().flat_map(|part| &part.obstacles);
    let mut said = HashSet::new();
    for obstacle in obstacles {
        if let Some((_, option)) = waived.iter().find(|(id, _)| *id == obstacle.id)
            && said.insert(*option)
        {
            report.remarks.push(format!(
                "{option}: not heeded, and left as it is: {}",
                obstacle.what
            ));
        }
    }
    for error in plan.volumes.iter().flat_map(|part| &part.dirty) {
        report.remarks.push(format!(
            "--accept-dirty: THIS HIVE IS TAKEN AS IT IS ON DISK, and what only its logs hold is \
             lost if it is edited; {}{}",
            error.what(),
            error
                .trail()
                .iter()
                .filter(|place| ["file", "log", "partition", "image"].contains(&place.space))
                .map(|place| format!(", {} {}", place.space, place.value))
                .collect::<String>()
        ));
    }
    let mut reasons = reasons.into_iter();
    let Some(first) = reasons.next() else {
        return Ok(());
    };
    for other in reasons {
        report.errors.push((&other).into());
    }
    Err(first)
}

/// The reasons that the image itself gives. They are taken out of `plan`.
pub(super) fn reasons(
    image: &Image,
    plan: &mut Plan,
    options: &Options,
    (accept_dirty, waived): (bool, &[&str]),
) -> Vec<Error> {
    let mut reasons = plan::refusals(image, plan, accept_dirty, waived);
    // A volume that cannot be looked into may hold the identity: say so instead of "clean".
    let readable = image.volumes.iter().any(|volume| volume.tree().is_some());
    for volume in &image.volumes {
        match &volume.content {
            Content::Broken(error) => reasons.push(
                Error::new(error.kind(), error.what().to_owned())
                    .at(volume.unit, volume.partition)
                    .advise(
                        "choose another partition with --partition if this one does not matter",
                    ),
            ),
            Content::Closed(reason)
                if !readable || volume.kind == Some(crate::volume::Kind::BitLocker) =>
            {
                reasons.push(
                    Error::refused(format!("{} volume: {reason}", volume.filesystem))
                        .at(volume.unit, volume.partition),
                );
            }
            _ => {}
        }
    }
    if !readable && reasons.is_empty() {
        let advice = if options.partition.is_some() {
            "choose another --partition"
        } else {
            ""
        };
        let error = Error::refused("image: a readable NTFS volume expected, found none");
        reasons.push(if advice.is_empty() {
            error
        } else {
            error.advise(advice)
        });
    }
    reasons
}

struct Clean<'a> {
    /// The image as it is.
    base: &'a Device,
    before: &'a [Readable],
    is_archive: bool,
    rules: &'a [Rule],
    plan: &'a Plan,
    options: &'a Options,
    bar: &'a super::progress::Bar,
    report: &'a mut ImageReport,
    waived: Vec<(&'static str, &'static str)>,
}

impl Clean<'_> {
    /// Whether anything was edited: else the overlay holds nothing that is worth a write.
    fn stage_and_verify(
        &mut self,
        overlay: &Arc<Overlay>,
        prove: bool,
        done: &mut Done,
    ) -> Result<bool> {
        // An archive has nothing to settle, and may list many files.
        if !self.is_archive {
            image::open(overlay.clone(), self.options)?
                .places
                .settle()?;
        }
        let target = image::open(overlay.clone(), self.options)?;
        let staged = stage::stage(&target, self.plan)?;
        let mut written = Written::default();
        if let Some(writer) = &target.writer {
            let mut obstacles = self.plan.volumes.iter().flat_map(|part| &part.obstacles);
            let minded =
                obstacles.find(|obstacle| !self.waived.iter().any(|(id, _)| *id == obstacle.id));
            written = writer.write(minded.is_none())?;
            self.report.remarks.append(&mut written.remarks);
            if written.scrubbed {
                done.wiped
                    .push("ranges of the archive that nothing references".to_owned());
            }
        }
        let expected: Vec<Expected> = staged
            .iter()
            .zip(&self.plan.volumes)
            .map(|(s, part)| expect(s, part))
            .collect();
        for (volume, (staged, part)) in target
            .volumes
            .iter()
            .zip(staged.iter().zip(&self.plan.volumes))
        {
            done.logs.extend(staged.logs.iter().cloned());
            done.hives
                .extend(staged.hives.iter().map(|hive| hive.done.clone()));
            if !part.removals.is_empty() {
                let paths = part
                    .removals
                    .iter()
                    .map(crate::tree::FileEntry::path)
                    .collect();
                done.removals.push(RemovalFacts::new(
                    (volume.unit, volume.partition),
                    paths,
                    &staged.removal,
                ));
            }
        }
        drop(target);
        // Opened anew: a reader that cached what it had written would prove nothing.
        let before = overlay.writes();
        let target = image::open(overlay.clone(), self.options)?;
        fail_on(&verify::volumes(&target, self.before))?;
        expect_of(&target, &written)?;
        let mut seen = self.look(&target, overlay, &expected, prove)?;
        let gone = wipe(&target, &mut seen, done)?;
        let mut edited = written.scrubbed;
        if self.plan.has_edits() || !gone.is_empty() {
            edited = true;
            target.places.seal()?;
        }
        if !gone.is_empty() {
            drop_gone(overlay.as_ref(), &mut seen)?;
        }
        let target = match overlay.writes() == before {
            true => target,
            false => {
                drop(target);
                let target = image::open(overlay.clone(), self.options)?;
                fail_on(&verify::volumes(&target, self.before))?;
                expect_of(&target, &written)?;
                target
            }
        };
        let tokens = &self.plan.tokens;
        let (problems, witnesses) = verify::structure(
            &target,
            &|| image::open(self.base.clone(), self.options),
            tokens,
            &expected,
            &gone,
            &overlay.touched()?,
        )?;
        fail_on(&problems)?;
        done.witnesses = seen.witnesses;
        done.witnesses.extend(witnesses);
        seen.loose.extend(residue::unreferenced(&target)?);
        seen.residues.append(&mut seen.loose);
        let more = seen.residues.len().saturating_sub(MAX_LISTED) as u64 + seen.unlisted;
        if more > 0 {
            self.report.not_scanned.push(plan::NotScanned::new(
                UnseenClass::Unsearched,
                format!("{more} more hits"),
                "they were searched and are left, but only the first are listed",
            ));
            // What is the identity's comes first; mentions of names are cut.
            seen.residues.sort_by_key(|residue| !residue.is_identity());
            seen.residues.truncate(MAX_LISTED);
        }
        self.report.residues = seen.residues;
        self.report.searched = seen
            .searched
            .into_iter()
            .map(|(what, bytes)| Searched { what, bytes })
            .collect();
        Ok(edited)
    }

    /// The staged image with fresh eyes; with `prove`, every byte of it.
    fn look(
        &self,
        target: &Image,
        overlay: &Arc<Overlay>,
        expected: &[Expected],
        prove: bool,
    ) -> Result<Verification> {
        let touched = overlay.touched()?;
        let mut tick = |s: &str, done, total| self.bar.tick(s, done, total);
        let tokens = &self.plan.tokens;
        let mut seen = verify::staged(target, self.rules, tokens, expected, &touched, &mut tick)?;
        fail_on(&seen.problems)?;
        if prove {
            let raw = residue::raw(
                target,
                overlay.as_ref(),
                None,
                tokens,
                true,
                MAX_HITS,
                &|done, total| {
                    self.bar.tick("searching", done, total);
                },
            )?;
            if raw.hit_count > raw.hits.len() as u64 {
                return Err(verify::too_many_hits());
            }
            seen.unlisted = raw.unlisted();
            seen.searched
                .push(("every data extent of the file".to_owned(), raw.searched));
            if raw.contents > 0 {
                let what = "contents of the archive, decompressed".to_owned();
                seen.searched.push((what, raw.contents));
            }
            let known: HashSet<Hit> = seen.hits.iter().copied().collect();
            // What was found in contents has no hit.
            seen.loose
                .extend_from_slice(&raw.residues[raw.hits.len()..]);
            for (hit, residue) in raw.hits.into_iter().zip(raw.residues) {
                if !known.contains(&hit) {
                    seen.hits.push(hit);
                    seen.residues.push(residue);
                }
            }
        }
        Ok(seen)
    }
}

/// Tells an archive that was opened anew what was written.
fn expect_of(target: &Image, written: &Written) -> Result<()> {
    match &target.writer {
        Some(writer) => writer.expect(written),
        None => Ok(()),
    }
}

/// What was wiped in one place may have stood in another with it: a file record in `$MFTMirr`. Hits of
/// which nothing but zeros is left are no hits any more.
fn drop_gone(overlay: &dyn BlockDevice, seen: &mut Verification) -> Result<()> {
    let mut keep = Vec::with_capacity(seen.hits.len());
    let mut bytes = Vec::new();
    for hit in &seen.hits {
        let end = hit.offset.checked_add(hit.len);
        keep.push(match end.filter(|end| *end <= overlay.len()) {
            Some(_) => {
                bytes.resize(hit.len as usize, 0);
                overlay.read_at(hit.offset, &mut bytes)?;
                !crate::bytes::all_zero(&bytes)
            }
            None => true,
        });
    }
    let mut kept = keep.iter();
    seen.residues.retain(|_| *kept.next().unwrap_or(&true));
    let mut kept = keep.iter();
    seen.hits.retain(|_| *kept.next().unwrap_or(&true));
    Ok(())
}

/// Wipes what is stale; those hits leave `seen` and are returned.
fn wipe(target: &Image, seen: &mut Verification, done: &mut Done) -> Result<HashSet<Hit>> {
    let stale: Vec<Hit> = seen
        .hits
        .iter()
        .zip(&seen.residues)
        .filter(|(_, residue)| residue.is_stale())
        .map(|(hit, _)| *hit)
        .collect();
    let ranges: Vec<Range<u64>> = stale
        .iter()
        .map(|hit| hit.offset..hit.offset.saturating_add(hit.len))
        .collect();
    let mut gone = HashSet::new();
    let mut said: HashSet<String> = done.wiped.iter().cloned().collect();
    for (hit, disposition) in stale.iter().zip(stage::wipe(target, &ranges)?) {
        if let Disposition::Wiped(what) = disposition {
            gone.insert(*hit);
            if said.insert(what.clone()) {
                done.wiped.push(what);
            }
        }
    }
    let mut keep = seen.hits.iter().map(|hit| !gone.contains(hit));
    seen.residues.retain(|_| keep.next().unwrap_or(true));
    seen.hits.retain(|hit| !gone.contains(hit));
    Ok(gone)
}

pub(super) fn fail_on(problems: &[String]) -> Result<()> {
    let Some(first) = problems.first() else {
        return Ok(());
    };
    let more = match problems.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Err(
        Error::new(Kind::Verification, format!("staged image: {first}{more}"))
            .advise("nothing was written; please report this with the image's scan --json"),
    )
}

pub(super) fn expect(staged: &StagedVolume, part: &plan::VolumePlan) -> Expected {
    Expected {
        listing: staged.listing,
        hives: staged
            .hives
            .iter()
            .map(|hive| ExpectedHive {
                entry: hive.entry.clone(),
                digest: hive.digest,
                edits: hive.edits.clone(),
                changed: hive.changed.clone(),
                logs: part
                    .hives
                    .iter()
                    .filter(|plan| plan.entry.id == hive.entry.id)
                    .flat_map(|plan| &plan.logs)
                    .filter(|log| part.log_wipes.iter().any(|wiped| wiped.id == log.id))
                    .cloned()
                    .collect(),
            })
            .collect(),
        gone: part
            .removals
            .iter()
            .flat_map(|entry| entry.paths.clone())
            .collect::<Vec<WinPath>>(),
        touched: part
            .removals
            .iter()
            .flat_map(|entry| entry.parents.clone())
            .chain(staged.hives.iter().map(|hive| hive.entry.id))
            .chain(part.log_wipes.iter().map(|log| log.id))
            .collect(),
        areas: staged.areas.clone(),
    }
}
