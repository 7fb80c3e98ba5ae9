//! What is in the files that a configuration is made of, as digests, for whoever wants to know whether it has changed.
//!
//! A folder stands for the certificates and keys in it. A file can name others: whichever text of a TOML file is the path of
//! a file counts as well. Symbolic links are followed, so that a folder whose link is put elsewhere has changed.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use toml::Value;

/// A larger file is known by its size and its times: nobody writes so much to configure something.
const LARGE: u64 = 1024 * 1024;

/// A file that was written within this time is read each time: it may be written again in the same tick of its clock.
const JUST_NOW: Duration = Duration::from_secs(3);

pub(super) type Digest = [u8; 32];

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

/// Each file and its digest, if it can be read.
pub(super) type State = BTreeMap<PathBuf, Option<Digest>>;

/// Looks at files, and reads those alone that seem to have changed.
#[derive(Default)]
pub(super) struct Files {
    seen: BTreeMap<PathBuf, Seen>,
}

struct Seen {
    known_by: String,
    digest: Digest,
    /// What it names.
    names: Vec<PathBuf>,
}

impl Files {
    /// Adds what these paths are now to `state`.
    pub(super) fn look<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>, state: &mut State) {
        for path in paths {
            // Itself too: it may be a folder later, or no more.
            for file in std::iter::once(path.clone()).chain(in_folder(path)) {
                let names = self.look_at(&file, state);
                for name in names {
                    self.look_at(&name, state);
                }
            }
        }
        self.seen.retain(|path, _| state.contains_key(path));
    }

    /// Adds what a file is now, and gives what it names.
    fn look_at(&mut self, path: &Path, state: &mut State) -> Vec<PathBuf> {
        // What is no file may be read once, by whom it is for, or never ends.
        let Some(metadata) = fs::metadata(path).ok().filter(Metadata::is_file) else {
            state.insert(path.to_owned(), None);
            return Vec::new();
        };
        let known_by = known_by(&metadata);
        let settled = metadata.modified().is_ok_and(|at| at + JUST_NOW < SystemTime::now());
        let seen = self.seen.remove(path).filter(|seen| settled && seen.known_by == known_by);
        let Some(seen) = seen.or_else(|| Seen::of(path, &metadata, known_by)) else {
            state.insert(path.to_owned(), None);
            return Vec::new();
        };
        state.insert(path.to_owned(), Some(seen.digest));
        let names = seen.names.clone();
        self.seen.insert(path.to_owned(), seen);
        names
    }
}

impl Seen {
    fn of(path: &Path, metadata: &Metadata, known_by: String) -> Option<Self> {
        if metadata.len() > LARGE {
            return Some(Self { digest: digest(known_by.as_bytes()), known_by, names: Vec::new() });
        }
        let bytes = fs::read(path).ok()?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let names = std::str::from_utf8(&bytes).map(|text| named(text, folder)).unwrap_or_default();
        Some(Self { digest: digest(&bytes), known_by, names })
    }
}

/// The certificates and keys in a folder.
fn in_folder(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|end| end == "pem" || end == "key"))
}

/// What the texts of a TOML document would be as paths.
pub(super) fn named(text: &str, folder: &Path) -> Vec<PathBuf> {
    fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) if !text.is_empty() => found.push(text),
            Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
            Value::Table(table) => table.values().for_each(|value| texts(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let document = text.parse::<toml::Table>().map(Value::Table).or_else(|_| text.parse::<Value>());
    if let Ok(document) = &document {
        texts(document, &mut found);
    }
    found.into_iter().map(|text| folder.join(text)).collect()
}

#[cfg(unix)]
fn known_by(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let (dev, ino, size) = (metadata.dev(), metadata.ino(), metadata.size());
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    format!("{dev} {ino} {size} {times:?}")
}

#[cfg(not(unix))]
fn known_by(metadata: &Metadata) -> String {
    format!("{} {:?}", metadata.len(), metadata.modified())
}
