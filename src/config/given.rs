//! What was given for each flag of a command, so that two readings of one command line can be compared: by the values, and by
//! what is in the files that they name. Values are kept as digests, since some are secrets.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command};

use super::files::{Digest, Files, State, digest, named};

/// Flags whose files are not part of a configuration: one is read as flags itself, the other by those who use it, each time.
const OTHERWISE: [&str; 2] = ["config", "token-file"];

/// What was given for each flag of a command.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Given {
    flags: BTreeMap<String, Flag>,
    /// The command's file.
    config: Vec<PathBuf>,
}

#[derive(Clone, PartialEq, Eq)]
struct Flag {
    values: Digest,
    paths: BTreeSet<PathBuf>,
    contents: State,
}

/// A path may be a secret: any text of a table is taken for one.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.flags.keys()).finish()
    }
}

impl Given {
    pub(super) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let mut given = Self::default();
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let name = if arg.is_hide_set() { format!("[[{long}]]") } else { format!("--{long}") };
            let id = arg.get_id().as_str();
            let Ok(raw) = matches.try_get_raw(id) else { continue };
            let raw: Vec<&OsStr> = raw.into_iter().flatten().collect();
            let paths = paths(arg, &raw);
            if long == "config" {
                given.config.extend(paths);
                continue;
            }
            let paths = if OTHERWISE.contains(&long) { BTreeSet::new() } else { paths };
            let mut contents = State::new();
            Files::default().look(&paths, &mut contents);
            let values = digest(format!("{raw:?}").as_bytes());
            given.flags.insert(name, Flag { values, paths, contents });
        }
        given
    }

    /// All files, whether they are there or not.
    pub(super) fn paths(&self) -> BTreeSet<PathBuf> {
        self.flags.values().flat_map(|flag| &flag.paths).chain(&self.config).cloned().collect()
    }

    /// The flags that differ, in their values or in what is in their files, as they are written: `--flag`, and `[[table]]` for
    /// what the file alone has.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let differs = |(name, flag): &(&String, &Flag)| before.flags.get(*name) != Some(*flag);
        self.flags.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    /// Takes files to be as they are now, which whoever was given this has made.
    pub fn made(&mut self, files: &[PathBuf]) {
        for flag in self.flags.values_mut() {
            let mut now = State::new();
            Files::default().look(&flag.paths, &mut now);
            flag.contents.extend(now.into_iter().filter(|(path, _)| files.contains(path)));
        }
    }

    /// Takes over what was given for some flags.
    pub fn adopt(&mut self, flags: &[String], from: &Self) {
        for name in flags {
            if let Some(flag) = from.flags.get(name) {
                self.flags.insert(name.clone(), flag.clone());
            }
        }
    }
}

/// The paths that a flag was given. Hidden flags are tables of the file, which may name some.
fn paths(arg: &Arg, raw: &[&OsStr]) -> BTreeSet<PathBuf> {
    if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() {
        raw.iter().map(PathBuf::from).collect()
    } else if arg.is_hide_set() {
        let tables = raw.iter().filter_map(|table| table.to_str());
        tables.flat_map(|table| named(table, Path::new(""))).collect()
    } else {
        BTreeSet::new()
    }
}
