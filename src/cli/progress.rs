//! Progress on a terminal, for anything longer than a second; silence in a pipe.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that appears after a second, if there is somebody to see it.
#[derive(Debug)]
pub(super) struct Bar {
    started: Instant,
    silent: bool,
    shown: AtomicBool,
    bar: ProgressBar,
    stage: Mutex<String>,
}

impl Bar {
    pub(super) fn new(silent: bool) -> Self {
        let silent = silent || !super::is_interactive();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            started: Instant::now(),
            silent,
            shown: AtomicBool::new(false),
            bar,
            stage: Mutex::default(),
        }
    }

    /// Says how far `stage` is; a total of 0 is unknown.
    pub(super) fn tick(&self, stage: &str, done: u64, total: u64) {
        if self.silent || self.started.elapsed() < Duration::from_secs(1) {
            return;
        }
        if !self.shown.swap(true, Ordering::Relaxed) {
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        if let Ok(mut current) = self.stage.lock()
            && *current != stage
        {
            stage.clone_into(&mut current);
            let template = if total > 0 {
                "{msg} {bar:30} {percent}% {eta}"
            } else {
                "{msg} {pos}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_message(stage.to_owned());
        }
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
