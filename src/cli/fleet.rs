//! Many images: named in a list, divided among hosts, looked at side by side.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use clap::Args;

use crate::{
    error::{Error, Kind, Result},
    report::ImageReport,
    text::escape,
};

/// Longest list: a path for each of a few hundred thousand images.
const MAX_LIST: u64 = 64 << 20;

/// More images than one names by hand.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Also take the images named in FILE, one a line (or one after each NUL byte)
    #[arg(long, value_name = "FILE")]
    pub(super) list: Option<PathBuf>,
}

impl List {
    /// Those named, then those of the list.
    pub(super) fn inputs(&self, named: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut all = named.to_vec();
        if let Some(path) = &self.list {
            all.append(&mut read(path)?);
        }
        Ok(all)
    }
}

fn read(path: &Path) -> Result<Vec<PathBuf>> {
    let shown = escape(&path.display().to_string());
    let wrong = |what: String| Error::new(Kind::Usage, format!("--list {shown}: {what}"));
    let len = std::fs::metadata(path)
        .map_err(|e| wrong(e.to_string()))?
        .len();
    if len > MAX_LIST {
        return Err(wrong(format!(
            "at most {MAX_LIST} bytes expected, found {len}"
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let end = match bytes.contains(&0) {
        true => 0,
        false => b'\n',
    };
    let names = bytes
        .split(|byte| *byte == end)
        .map(|name| match end {
            0 => name,
            _ => name.strip_suffix(b"\r").unwrap_or(name),
        })
        .filter(|name| !name.is_empty());
    let paths: Vec<PathBuf> = names
        .map(|name| PathBuf::from(OsStr::from_bytes(name)))
        .collect();
    match paths.is_empty() {
        true => Err(wrong("names of images expected, found none".to_owned())),
        false => Ok(paths),
    }
}

/// Part I of N of the images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard {
    number: usize,
    of: usize,
}

impl Shard {
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let parts = text
            .split_once('/')
            .map(|(i, n)| (i.parse().ok(), n.parse().ok()));
        match parts {
            Some((Some(number), Some(of))) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("I/N expected, with I from 1 to N".to_owned()),
        }
    }

    /// Every Nth image, beginning with the Ith.
    pub(super) fn take(self, all: Vec<PathBuf>) -> Vec<PathBuf> {
        all.into_iter()
            .skip(self.number - 1)
            .step_by(self.of)
            .collect()
    }
}

/// Looks at all images, `jobs` at a time; the reports are in the order of the images.
pub(super) fn all(
    images: &[PathBuf],
    jobs: usize,
    look: impl Fn(&Path) -> ImageReport + Sync,
) -> Vec<ImageReport> {
    if jobs <= 1 {
        return images.iter().map(|image| look(image)).collect();
    }
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, ImageReport)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(images.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(image) = images.get(number) else {
                        return;
                    };
                    let report = look(image);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((number, report));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, report)| report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_divide_the_images() {
        let all: Vec<PathBuf> = (0..11).map(|i| PathBuf::from(i.to_string())).collect();
        let mut seen: Vec<PathBuf> = (1..=3)
            .flat_map(|i| Shard::parse(&format!("{i}/3")).unwrap().take(all.clone()))
            .collect();
        seen.sort_by_key(|path| path.to_str().unwrap().parse::<u32>().unwrap());
        assert_eq!(seen, all);
        for bad in ["0/3", "4/3", "1", "1/0", "/", "a/b", "-1/2"] {
            assert!(Shard::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reports_come_in_the_order_of_the_images() {
        let images: Vec<PathBuf> = (0..50).map(|i| PathBuf::from(i.to_string())).collect();
        let reports = all(&images, 7, |path| ImageReport {
            path: path.display().to_string(),
            ..ImageReport::default()
        });
        let names: Vec<PathBuf> = reports
            .iter()
            .map(|report| PathBuf::from(&report.path))
            .collect();
        assert_eq!(names, images);
    }
}
