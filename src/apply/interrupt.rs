//! Signals: what SIGTERM, SIGINT and SIGHUP may end, and what must not stay behind when they do.
//!
//! A thread of its own waits for them, so nothing here runs inside a signal handler. It and the
//! worker share one lock: a [`Hold`] cannot begin while the thread is ending the program, and the
//! thread cannot end the program while there is a [`Hold`].
//!
//! The program ends by the signal itself, not with a code: a shell that runs it in a loop then ends the
//! loop, too.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::AtFlags,
    process::{Resource, Rlimit},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGIO, SIGTERM, SIGXFSZ},
    iterator::Signals,
};

use crate::error::{Error, Result};

/// The exit code of an end that left the image as it was, should the signal itself not end the program.
const UNCHANGED: i32 = 5;
/// Signals that end the program.
const ENDING: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];
/// Signals that would kill and only say what the failing call says too: a file grew beyond
/// RLIMIT_FSIZE (then it is EFBIG), somebody else wants a leased file.
const HARMLESS: [i32; 2] = [SIGXFSZ, SIGIO];
/// How long a message may wait for whoever reads standard error.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signal(i32);

impl Signal {
    fn name(self) -> &'static str {
        signal_hook::low_level::signal_name(self.0).unwrap_or("a signal")
    }

    /// Ends the program by it, as if it had never been caught.
    fn end(self) -> ! {
        // The first process of a container: the kernel does not let a signal of default effect end it.
        // What a shell makes of such an end is the next best.
        if rustix::process::getpid().is_init() {
            signal_hook::low_level::exit(128_i32.saturating_add(self.0));
        }
        signal_hook::low_level::emulate_default_handler(self.0).ok();
        // `_exit`: exit handlers and buffers belong to threads that still run.
        signal_hook::low_level::exit(UNCHANGED)
    }
}

#[derive(Debug)]
struct State {
    holds: usize,
    /// The first signal that came during a hold.
    stopped: Option<Signal>,
    scratch: Vec<(u64, OwnedFd, String, AtFlags)>,
    next: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    holds: 0,
    stopped: None,
    scratch: Vec::new(),
    next: 0,
});

/// A panic elsewhere (it is caught and reported) must not make the program unstoppable.
fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over the signals and forbids core dumps, once per process; for every verb that touches
/// images. A signal that was ignored at the start (`nohup`) stays ignored.
pub fn install() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| take_over().map_err(|e| e.to_string()))
        .clone()
        .map_err(|e| Error::io("signals", &std::io::Error::other(e)))
}

fn take_over() -> std::io::Result<()> {
    no_core_dumps()?;
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let wanted = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    for signal in HARMLESS.into_iter().filter(wanted) {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let mut signals = Signals::new(ENDING.into_iter().filter(wanted))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                arrived(Signal(signal));
            }
        })?;
    Ok(())
}

/// The signals that are ignored, as bits; without `/proc` (a rescue system) none is known.
fn ignored(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Memory holds the identity. A limit of 0 only stops dumps to files; 1 also stops those piped to a
/// collector (core(5)), and is still smaller than any file.
fn no_core_dumps() -> std::io::Result<()> {
    let now = rustix::process::getrlimit(Resource::Core);
    let limit = Rlimit {
        current: Some(now.maximum.unwrap_or(1).min(1)),
        maximum: now.maximum,
    };
    Ok(rustix::process::setrlimit(Resource::Core, limit)?)
}

fn arrived(signal: Signal) {
    let mut state = state();
    if state.holds == 0 {
        end(&state, signal);
    }
    state.stopped.get_or_insert(signal);
}

/// Ends the program while the lock is held, so that nobody renames or creates anything meanwhile.
fn end(state: &State, signal: Signal) -> ! {
    // The files in a directory were registered after it.
    for (_, dir, scratch, how) in state.scratch.iter().rev() {
        rustix::fs::unlinkat(dir, scratch.as_str(), *how).ok();
    }
    say(&format!(
        "declone: stopped by {}; the image is unchanged\n",
        signal.name()
    ));
    signal.end()
}

/// Says it on standard error: not through `std::io::stderr()`'s lock, and not into a pipe that nobody
/// reads, for neither may keep the program alive.
fn say(line: &str) {
    let stderr = std::io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    if rustix::event::poll(&mut ready, Some(&PATIENCE)).is_ok_and(|n| n > 0) {
        rustix::io::write(&stderr, line.as_bytes()).ok();
    }
}

/// The end of the program's work, with this exit code. A signal that came while a result was being
/// published ends it now; without one this does nothing.
pub fn end_of_work(code: u8) {
    if let Some(signal) = state().stopped {
        say(&format!(
            "declone: {} came while the result was written, which was finished first: exit code {code}\n",
            signal.name()
        ));
        signal.end();
    }
}

/// A time in which signals are remembered but do not stop the program: the result is being
/// published. It lasts until the process ends, because from then on "the image is unchanged" may
/// be untrue; only [`Hold::release`] ends it.
#[derive(Debug)]
#[must_use = "`release` says that nothing was published"]
pub struct Hold(());

/// Begins a [`Hold`]. Does not return if a signal is ending the program.
pub fn hold() -> Hold {
    state().holds += 1;
    Hold(())
}

impl Hold {
    /// Nothing was published after all: signals stop the program again, and one that came
    /// meanwhile does so now.
    pub fn release(self) {
        let mut state = state();
        state.holds = state.holds.saturating_sub(1);
        if state.holds == 0
            && let Some(signal) = state.stopped
        {
            end(&state, signal);
        }
    }
}

/// Name of the first signal that arrived during a [`Hold`], if any.
#[must_use]
pub fn stopped_by() -> Option<&'static str> {
    state().stopped.map(Signal::name)
}

/// A temporary file that is removed if a signal ends the program. Dropping this, or
/// [`Scratch::keep`], unregisters it and does not remove it.
#[derive(Debug)]
pub struct Scratch(u64);

/// Registers a file in `dir` (a duplicate of the directory's descriptor). To leave no gap, create
/// the file and call this inside one [`Hold`], then release that.
#[must_use]
pub fn scratch(dir: OwnedFd, name: String) -> Scratch {
    register(dir, name, AtFlags::empty())
}

/// As [`scratch`], for a directory: it is removed behind the files in it, which are registered later.
#[must_use]
pub fn scratch_dir(dir: OwnedFd, name: String) -> Scratch {
    register(dir, name, AtFlags::REMOVEDIR)
}

fn register(dir: OwnedFd, name: String, how: AtFlags) -> Scratch {
    let mut state = state();
    let id = state.next;
    state.next = state.next.wrapping_add(1);
    state.scratch.push((id, dir, name, how));
    Scratch(id)
}

impl Scratch {
    /// The file is what was wanted, or is gone: it is nobody's scratch now.
    pub fn keep(self) {}
}

impl Drop for Scratch {
    fn drop(&mut self) {
        state().scratch.retain(|(id, ..)| *id != self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000001001001\nSigCgt:\t2\n";
        let mask = ignored(status);
        let is = |signal: i32| mask & (1 << (signal - 1)) != 0;
        assert!(is(SIGHUP) && is(13) && is(SIGXFSZ));
        assert!(!is(SIGTERM) && !is(SIGINT) && !is(SIGIO));
        assert_eq!(ignored(""), 0);
        assert_eq!(ignored("SigIgn:\tzzz\n"), 0);
    }

    #[test]
    fn a_scratch_file_is_registered_while_it_lives_and_never_removed_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        let fd = || OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let count = || {
            state()
                .scratch
                .iter()
                .filter(|(_, _, n, _)| n == name)
                .count()
        };
        let (first, second) = (
            scratch(fd(), name.to_owned()),
            scratch(fd(), name.to_owned()),
        );
        assert_eq!(count(), 2);
        drop(first);
        assert_eq!(count(), 1);
        second.keep();
        assert_eq!(count(), 0);
        assert!(file.path().exists());
    }

    #[test]
    fn a_signal_during_a_hold_is_remembered_and_does_not_end_the_program() {
        // Both counted, not compared with fixed numbers: other tests hold, too. Never released:
        // that would end this process, which is what `tests/faults.rs` looks at.
        let before = state().holds;
        let _kept = hold();
        assert!(state().holds > before);
        arrived(Signal(SIGTERM));
        assert_eq!(stopped_by(), Some("SIGTERM"));
        arrived(Signal(SIGINT));
        assert_eq!(stopped_by(), Some("SIGTERM"), "the first is told");
    }
}
