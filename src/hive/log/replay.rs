//! Which logs apply, in which order; applying them; looking at what came out.

use super::{
    Fate, LogFormat, LogReport, Opened, Page, Replay,
    format::{copy, first_bin},
    header::{Header, Identity, read_header},
    new::{Entry, read_run, sequences},
    old,
};
use crate::{
    bytes::{View, all_zero, put},
    error::{At, Error, Kind, Result},
    hive::{
        bins::bins,
        format::{BASE_LEN, base, count, index},
        read::{BaseBlock, State, checksum, read_base, read_image},
        record::offset,
    },
    units::HiveOffset,
};

/// Numbers up to this far ahead are later, the others are earlier: sequence numbers wrap.
const AHEAD: u32 = u32::MAX >> 1;

/// The fate of a log with a valid header until something is decided about it.
const NOT_REACHED: &str = "what comes before it could not be applied";

/// A log with its header, if that is valid.
struct Log<'a> {
    name: &'a str,
    bytes: &'a [u8],
    header: Option<Header>,
    /// What is known of it so far.
    fate: Fate,
}

impl<'a> Log<'a> {
    fn new((name, bytes): (&'a str, &'a [u8])) -> Self {
        let (header, fate) = if all_zero(bytes) {
            (None, Fate::Empty)
        } else {
            match read_header(bytes) {
                Ok(header) => (Some(header), Fate::NotUsed(NOT_REACHED.to_owned())),
                Err(error) => (None, Fate::Unusable(error.at("log", name))),
            }
        };
        Self {
            name,
            bytes,
            header,
            fate,
        }
    }

    fn is(&self, format: LogFormat) -> bool {
        matches!(&self.header, Some(header) if header.format == format)
    }

    fn report(self) -> LogReport {
        LogReport {
            name: self.name.to_owned(),
            len: count(self.bytes.len()),
            format: self.header.as_ref().map(|header| header.format),
            sequence: self.header.as_ref().map(|header| header.sequence),
            fate: self.fate,
        }
    }
}

/// The log of a clean hive.
pub(super) fn describe(log: (&str, &[u8])) -> LogReport {
    let mut log = Log::new(log);
    if log.header.is_some() {
        log.fate = Fate::Stale("the hive is clean".to_owned());
    }
    log.report()
}

/// What is to be written, and where the base block comes from.
struct Plan<'a> {
    format: LogFormat,
    /// The log to take the base block from.
    base_from: Option<usize>,
    sequence: u32,
    bins_len: u32,
    /// Bit 0 of the base block's flags; `None` leaves it.
    flags: Option<u32>,
    /// In the order of writing.
    pages: Vec<Page<'a>>,
    /// Pages that Windows does not write although they come before: they must make no difference.
    skipped: Vec<Page<'a>>,
}

/// Finishes the write that left `primary` dirty. `header` is `None` when the base block is damaged.
pub(super) fn finish(
    primary: &[u8],
    header: Option<&BaseBlock>,
    state: State,
    logs: &[(&str, &[u8])],
) -> Result<Opened> {
    let mut logs: Vec<Log<'_>> = logs.iter().map(|log| Log::new(*log)).collect();
    let replayed = choose(primary, header, &mut logs)
        .and_then(|plan| Ok((apply(primary, &plan, &logs)?, plan)));
    let refused = |why: Error| {
        let advice = "start and shut down Windows once on the master, then capture it again";
        why.into_kind(Kind::Refused).advise(advice)
    };
    match replayed {
        Ok((bytes, plan)) => Ok(Opened::Replayed {
            replay: Replay {
                state,
                format: plan.format,
                base_block_from: plan
                    .base_from
                    .and_then(|i| logs.get(i))
                    .map(|log| log.name.to_owned()),
                sequence: plan.sequence,
                len_before: count(primary.len()),
                len_after: count(bytes.len()),
                bins_len_before: View::new(primary, "hive header").u32(base::BINS_LEN)?,
                bins_len_after: plan.bins_len,
                logs: logs.into_iter().map(Log::report).collect(),
            },
            bytes,
        }),
        Err(error) if !matches!(error.kind(), Kind::Refused | Kind::Malformed) => Err(error),
        Err(error) => Ok(Opened::Refused {
            why: refused(error),
            logs: logs.into_iter().map(Log::report).collect(),
        }),
    }
}

/// Decides what is applied; the fates of the logs say the rest.
fn choose<'a>(
    primary: &[u8],
    header: Option<&BaseBlock>,
    logs: &mut [Log<'a>],
) -> Result<Plan<'a>> {
    let identity = match header {
        Some(_) => Some(Identity::read(View::new(primary, "hive header"))?),
        None => None,
    };
    // The old log of an installation image may lie beside the logs that are in use: new ones first.
    if let Some(plan) = choose_new(header, identity.as_ref(), logs)? {
        return Ok(plan);
    }
    if let Some(plan) = choose_old(primary, header, identity.as_ref(), logs)? {
        return Ok(plan);
    }
    let mut found = String::new();
    for log in logs.iter() {
        let what = match &log.fate {
            Fate::Empty => "it is empty",
            Fate::Unusable(error) => error.what(),
            Fate::Stale(what) | Fate::NotUsed(what) => what,
            Fate::Applied { end, .. } => end,
        };
        let separator = if found.is_empty() { "" } else { "; " };
        found.push_str(&format!("{separator}{}: {what}", log.name));
    }
    if found.is_empty() {
        found.push_str("no log");
    }
    let dirty = match header {
        Some(header) => format!(
            "sequence numbers {} and {} of an interrupted write",
            header.seq1, header.seq2
        ),
        None => "header checksum is wrong".to_owned(),
    };
    Err(Error::refused(format!(
        "hive: a log that finishes it expected ({dirty}), found {found}"
    )))
}

/// Refuses a log that Windows might apply but that looks like another hive's.
fn must_belong(expected: Option<&Identity>, log: &Log<'_>) -> Result<()> {
    let difference = expected
        .zip(log.header.as_ref())
        .and_then(|(expected, header)| expected.difference(&header.identity));
    match difference {
        Some(what) => {
            Err(Error::refused(format!("log of another hive: {what}")).at("log", log.name))
        }
        None => Ok(()),
    }
}

fn choose_new<'a>(
    header: Option<&BaseBlock>,
    identity: Option<&Identity>,
    logs: &mut [Log<'a>],
) -> Result<Option<Plan<'a>>> {
    let numbers: Vec<(usize, u32)> = logs
        .iter()
        .zip(0..)
        .filter(|(log, _)| log.is(LogFormat::New))
        .filter_map(|(log, i)| Some((i, log.header.as_ref()?.sequence)))
        .collect();
    let Some((_, any)) = numbers.first().copied() else {
        return Ok(None);
    };
    // How far ahead of the primary; without one, of any log, half a circle to each side.
    let start = header.map_or(any.wrapping_sub(AHEAD >> 1), |header| header.seq2);
    let mut candidates = Vec::new();
    for (i, sequence) in numbers {
        let ahead = sequence.wrapping_sub(start);
        if ahead <= AHEAD {
            candidates.push((ahead, i));
        } else if let Some(log) = logs.get_mut(i) {
            log.fate = Fate::Stale(format!(
                "log header: a sequence number from {start} on expected, found {sequence}"
            ));
        }
    }
    candidates.sort_unstable();
    let others = match header {
        Some(_) => Vec::new(),
        None => keep_latest(&mut candidates, logs)?,
    };
    let reference = match (identity, candidates.first()) {
        (None, Some((_, i))) => logs
            .get(*i)
            .and_then(|log| log.header.as_ref())
            .map(|header| header.identity.clone()),
        (identity, _) => identity.cloned(),
    };

    let mut chosen: Vec<(usize, Entry<'a>)> = Vec::new();
    let mut expected = None;
    for (_, i) in &candidates {
        let Some(log) = logs.get_mut(*i) else {
            continue;
        };
        must_belong(reference.as_ref(), log)?;
        let sequence = log.header.as_ref().map_or(0, |header| header.sequence);
        let run = read_run(log.bytes, sequence).at("log", log.name)?;
        must_agree(&chosen, &run.entries).at("log", log.name)?;
        if let Some(expected) = expected.filter(|expected| *expected != sequence) {
            log.fate = Fate::NotUsed(format!(
                "log header: sequence number {expected} expected, found {sequence}"
            ));
            continue;
        }
        let Some(last) = run.entries.last() else {
            log.fate = Fate::NotUsed(run.end);
            // Nothing that follows a missing first entry may be applied.
            if expected.is_none() {
                break;
            }
            continue;
        };
        expected = Some(last.applied.sequence.wrapping_add(1));
        log.fate = Fate::Applied {
            entries: run.entries.iter().map(|entry| entry.applied).collect(),
            end: run.end,
        };
        chosen.extend(run.entries.into_iter().map(|entry| (*i, entry)));
    }
    let (Some((first_log, first)), Some((_, last))) = (chosen.first(), chosen.last()) else {
        return Ok(None);
    };
    if header.is_some() {
        nothing_is_missing(start, first.applied.sequence, logs)?;
    }
    for log in logs.iter_mut().filter(|log| log.is(LogFormat::Old)) {
        log.fate = Fate::NotUsed("the logs in use are of the new format".to_owned());
    }
    let mut skipped = Vec::new();
    for log in others.iter().filter_map(|i| logs.get(*i)) {
        must_belong(reference.as_ref(), log)?;
        let sequence = log.header.as_ref().map_or(0, |header| header.sequence);
        let run = read_run(log.bytes, sequence).at("log", log.name)?;
        skipped.extend(run.entries.into_iter().flat_map(|entry| entry.pages));
    }
    let base_from = header.is_none().then_some(*first_log);
    let (sequence, bins_len) = (last.applied.sequence, last.applied.bins_len);
    let flags = Some(last.flags);
    let pages = chosen.into_iter().flat_map(|(_, entry)| entry.pages);
    Ok(Some(Plan {
        format: LogFormat::New,
        base_from,
        sequence,
        bins_len,
        flags,
        pages: pages.collect(),
        skipped,
    }))
}

/// With a damaged base block Windows takes the log with the latest entries, and that one alone. Gives
/// the earlier ones, in order.
fn keep_latest(candidates: &mut Vec<(u32, usize)>, logs: &mut [Log<'_>]) -> Result<Vec<usize>> {
    let Some((latest, kept)) = candidates.last().copied() else {
        return Ok(Vec::new());
    };
    let mut earlier = Vec::new();
    let others = std::mem::replace(candidates, vec![(latest, kept)]);
    let bytes = logs.get(kept).map(|log| log.bytes);
    for (ahead, i) in others.into_iter().filter(|(_, i)| *i != kept) {
        let Some(log) = logs.get_mut(i) else { continue };
        if ahead == latest && Some(log.bytes) != bytes {
            return Err(Error::refused(
                "logs: one latest log expected, found two with the same sequence number",
            )
            .at("log", log.name));
        }
        log.fate = Fate::NotUsed(
            "the hive's base block is damaged: only the log with the latest entries counts"
                .to_owned(),
        );
        earlier.push(i);
    }
    Ok(earlier)
}

/// Entries of two logs with the same number must be the same.
fn must_agree(chosen: &[(usize, Entry<'_>)], run: &[Entry<'_>]) -> Result<()> {
    let (Some((_, first)), Some(start)) = (chosen.first(), run.first()) else {
        return Ok(());
    };
    // Both are without gaps, so where they overlap is a matter of arithmetic.
    let skip = start.applied.sequence.wrapping_sub(first.applied.sequence);
    let pairs = chosen.iter().skip(index(skip)).zip(run);
    for ((_, a), b) in pairs {
        if a.hashes != b.hashes {
            return Err(Error::refused(format!(
                "logs: one entry {} expected, found two that differ",
                a.applied.sequence
            ))
            .at("log offset", format!("{:#x}", b.applied.log_offset)));
        }
    }
    Ok(())
}

/// A log whose header is damaged is ignored by Windows; if its entries come before the ones applied,
/// what came out would be a state that never was.
fn nothing_is_missing(start: u32, first: u32, logs: &[Log<'_>]) -> Result<()> {
    let missing = logs
        .iter()
        .filter(|log| matches!(log.fate, Fate::Unusable(_)))
        .find_map(|log| {
            let before = |sequence: &u32| sequence.wrapping_sub(start) < first.wrapping_sub(start);
            Some((log, sequences(log.bytes).find(before)?))
        });
    match missing {
        Some((log, sequence)) => Err(Error::refused(format!(
            "log header: a valid one expected, its entry {sequence} comes before entry {first}, \
             the first that could be applied"
        ))
        .at("log", log.name)),
        None => Ok(()),
    }
}

fn choose_old<'a>(
    primary: &[u8],
    header: Option<&BaseBlock>,
    identity: Option<&Identity>,
    logs: &mut [Log<'a>],
) -> Result<Option<Plan<'a>>> {
    let time = match header {
        Some(header) => header.timestamp,
        None => first_bin_time(primary).unwrap_or(0),
    };
    let mut chosen: Option<(usize, Plan<'a>)> = None;
    let mut later = None;
    for (i, log) in logs.iter_mut().enumerate() {
        let Some(found) = log
            .header
            .as_ref()
            .filter(|found| found.format == LogFormat::Old)
            .cloned()
        else {
            continue;
        };
        if found.time != time || (header.is_none() && time == 0) {
            log.fate = Fate::NotUsed(format!(
                "log header: time of the last write {time} expected, found {}",
                found.time
            ));
            if found.time > time {
                later = Some(log.name);
            }
            continue;
        }
        must_belong(identity, log)?;
        // XP writes the number before the last into the log, Vista the last.
        if let Some(header) =
            header.filter(|header| found.sequence != header.seq1 && found.sequence != header.seq2)
        {
            return Err(Error::refused(format!(
                "log header: sequence number {} or {} expected, found {}",
                header.seq1, header.seq2, found.sequence
            ))
            .at("log", log.name));
        }
        let (applied, pages) = match old::read_pages(log.bytes, &found) {
            Ok(read) => read,
            Err(error) => {
                log.fate = Fate::Unusable(error.at("log", log.name));
                continue;
            }
        };
        let plan = Plan {
            format: LogFormat::Old,
            base_from: header.is_none().then_some(i),
            sequence: header.map_or(found.sequence, |header| header.seq1),
            bins_len: found.bins_len,
            flags: None,
            pages,
            skipped: Vec::new(),
        };
        match &chosen {
            Some((_, other)) if is_same(other, &plan) => {
                log.fate = Fate::NotUsed("the same as another log".to_owned());
            }
            Some(_) => {
                return Err(Error::refused(
                    "logs: one log of the last write expected, found two that differ",
                )
                .at("log", log.name));
            }
            None => {
                log.fate = Fate::Applied {
                    entries: vec![applied],
                    end: "the dirty vector names no more pages".to_owned(),
                };
                chosen = Some((i, plan));
            }
        }
    }
    // Windows before 8 takes the log that matches, later ones the later log.
    match (chosen, later) {
        (Some(_), Some(later)) => Err(Error::refused(
            "logs: one log of the last write expected, found a later one besides",
        )
        .at("log", later)),
        (chosen, _) => Ok(chosen.map(|(_, plan)| plan)),
    }
}

fn is_same(a: &Plan<'_>, b: &Plan<'_>) -> bool {
    let pages = |plan: &Plan<'_>| plan.pages.len();
    a.sequence == b.sequence
        && a.bins_len == b.bins_len
        && pages(a) == pages(b)
        && a.pages
            .iter()
            .zip(&b.pages)
            .all(|(a, b)| a.at == b.at && a.bytes == b.bytes)
}

/// The time of the last write in the first bin, where a base block is damaged.
fn first_bin_time(primary: &[u8]) -> Result<u64> {
    let rest = primary.len().saturating_sub(BASE_LEN);
    let view = View::new(primary, "hbin").sub(BASE_LEN, rest, "hbin")?;
    if view.get(0, 4)? != b"hbin" {
        return Err(Error::malformed("hbin: signature hbin expected"));
    }
    view.u64(first_bin::TIME)
}

/// Does it, on a copy, and looks at what came out.
fn apply(primary: &[u8], plan: &Plan<'_>, logs: &[Log<'_>]) -> Result<Vec<u8>> {
    let end = |page: &Page<'_>| page.end().and_then(|end| end.checked_add(BASE_LEN));
    let written = plan
        .pages
        .iter()
        .map(|page| end(page).unwrap_or(usize::MAX))
        .fold(0, usize::max);
    let len = primary.len().max(written);
    let pages_len = plan
        .pages
        .iter()
        .fold(0_usize, |sum, page| sum.saturating_add(page.bytes.len()));
    let needed = BASE_LEN.saturating_add(index(plan.bins_len));
    // What a file grows by stands in the log: more would be a hole, and memory for nothing.
    if len.saturating_sub(primary.len()) > pages_len || needed > len {
        return Err(Error::refused(format!(
            "hive: {needed:#x} bytes in its file and its log expected, found {:#x} and {pages_len:#x}",
            primary.len()
        )));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::limit(format!("hive: {len} bytes of memory expected, found fewer")))?;
    bytes.extend_from_slice(primary);
    bytes.resize(len, 0);
    for page in &plan.pages {
        let at = BASE_LEN.saturating_add(page.at);
        put(&mut bytes, at, page.bytes, "hive")?;
    }
    nothing_is_lost(primary, &bytes, plan)?;
    let base_from = plan.base_from.and_then(|i| logs.get(i));
    write_base(&mut bytes, plan, base_from)?;
    let (header, state) = read_base(&bytes)?;
    if state != State::Clean {
        return Err(Error::internal(
            "hive: a clean header after the replay expected",
        ));
    }
    let image = read_image(&bytes, &header)?;
    for bin in bins(image) {
        bin.at("hive", "after the replay of its log")?;
    }
    let root = header.root.get();
    let key = image.cell(root, "root key")?;
    if key.get(0, 2)? != b"nk" {
        return Err(Error::malformed("root key: signature nk expected")
            .at("hive offset", offset(root))
            .at("hive", "after the replay of its log"));
    }
    Ok(bytes)
}

/// Windows passes over the earlier of two logs when the base block is damaged. Real hives show that
/// its pages need not be in the primary file yet; then what comes out would be a state that never was.
fn nothing_is_lost(primary: &[u8], result: &[u8], plan: &Plan<'_>) -> Result<()> {
    if plan.skipped.is_empty() {
        return Ok(());
    }
    let mut whole = primary.to_vec();
    whole.resize(result.len(), 0);
    for page in plan.skipped.iter().chain(&plan.pages) {
        let at = BASE_LEN.saturating_add(page.at);
        // A page behind the end belonged to a hive that has shrunk since.
        if page
            .end()
            .is_some_and(|end| end <= result.len().saturating_sub(BASE_LEN))
        {
            put(&mut whole, at, page.bytes, "hive")?;
        }
    }
    match whole.iter().zip(result).position(|(a, b)| a != b) {
        Some(at) => Err(Error::refused(
            "hive: with its base block damaged, every entry before the latest log expected in the \
             file, found some in the other log only",
        )
        .at("hive offset", HiveOffset(count(at)))),
        None => Ok(()),
    }
}

/// The base block of the result: the primary's, or a log's copy where that is damaged.
fn write_base(bytes: &mut [u8], plan: &Plan<'_>, from: Option<&Log<'_>>) -> Result<()> {
    const WHAT: &str = "hive header";
    if let Some(log) = from {
        let sector = View::new(log.bytes, "log header").get(0, copy::LEN)?;
        // Nothing vouches for the rest of a damaged base block, and Windows needs none of it.
        crate::bytes::zero(bytes, copy::LEN, BASE_LEN.saturating_sub(copy::LEN), WHAT)?;
        put(bytes, 0, sector, WHAT)?;
        put(bytes, base::TYPE, &0_u32.to_le_bytes(), WHAT)?;
    }
    if let Some(flags) = plan.flags {
        let old = View::new(bytes, WHAT).u32(copy::FLAGS)?;
        let new = (old & !copy::FLAG_LOCKED) | (flags & copy::FLAG_LOCKED);
        put(bytes, copy::FLAGS, &new.to_le_bytes(), WHAT)?;
    }
    for (at, value) in [
        (base::SEQ1, plan.sequence),
        (base::SEQ2, plan.sequence),
        (base::BINS_LEN, plan.bins_len),
    ] {
        put(bytes, at, &value.to_le_bytes(), WHAT)?;
    }
    let sum = checksum(bytes).to_le_bytes();
    put(bytes, base::CHECKSUM, &sum, WHAT)
}
