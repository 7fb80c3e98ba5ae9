//! Layers: flags beat the environment, which beats the file, which beats the defaults.
//!
//! What the file and the environment say becomes the default values of the command's arguments, each checked by its
//! argument's own parser first, so that a mistake is told with the place where it stands. Then clap reads the command line.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Id, Parser,
    error::{ContextKind, ContextValue},
};
use toml::{Table, Value};

use super::{ConfigError, given::Given, line_of, unknown};

/// Why a command line, with its environment and its file, says nothing that can be done.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The command line is wrong, or asks for help.
    #[error(transparent)]
    Line(#[from] clap::Error),
    /// The environment or the file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A command line that was read, and what it was made of.
#[derive(Debug)]
pub struct Read<P> {
    /// What it says.
    pub line: P,
    /// What was given for each flag.
    pub given: Given,
}

/// Reads a command line, whose first word is the program. `variable` looks up the environment; the subcommands in `plain`
/// have their flags alone.
///
/// # Errors
/// See [`ParseError`].
pub fn parse<P: Parser>(
    line: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    plain: &[&str],
) -> Result<P, ParseError> {
    read(line, variable, plain).map(|read| read.line)
}

/// The same, for whoever will want to know what has changed when it is read again.
///
/// # Errors
/// See [`ParseError`].
pub fn read<P: Parser>(
    line: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    plain: &[&str],
) -> Result<Read<P>, ParseError> {
    let line: Vec<OsString> = line.into_iter().collect();
    let mut root = P::command();
    let (path, leaf) = subcommand(&root, &line);
    if path.first().is_some_and(|first| plain.contains(&first.as_str())) {
        let line = P::from_arg_matches(&root.try_get_matches_from(line)?)?;
        return Ok(Read { line, given: Given::default() });
    }
    let environment = environment(leaf, variable)?;
    let leaf = leaf.clone();
    root = with_defaults(root, &path, &environment);
    let mut matches = root.clone().try_get_matches_from(&line)?;
    if let Some(file) = config_file(&matches) {
        let file = from_file(file, &leaf)?;
        root = with_defaults(with_defaults(root, &path, &file), &path, &environment);
        matches = root.try_get_matches_from(&line)?;
    }
    let given = Given::of(&leaf, innermost(&matches));
    Ok(Read { line: P::from_arg_matches(&matches)?, given })
}

/// Reads arguments from words alone: no environment, no file.
///
/// # Errors
/// When the words are not what the arguments ask for.
pub fn from_words<T: Args>(words: &[&str]) -> Result<T, clap::Error> {
    let matches = T::augment_args(Command::new("adit").no_binary_name(true)).try_get_matches_from(words)?;
    T::from_arg_matches(&matches)
}

/// A value parser: reads a table of the file, as TOML writes it in one line. The keys are the flags of `T`.
pub(super) fn table<T: Args>(text: &str) -> Result<T, String> {
    let value: Value = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let Value::Table(table) = value else {
        return Err("expected a table".into());
    };
    let command = T::augment_args(Command::new("table").no_binary_name(true));
    let values = from_table(&table, &command).map_err(|fault| match fault {
        Fault::Key { key, nearest } => unknown(&key, nearest.as_deref()),
        Fault::Value { key, reason } => format!("{key}: {reason}"),
    })?;
    let given = |arg: &Arg| values.iter().any(|(id, _)| id == arg.get_id());
    let missing = command.get_arguments().find(|arg| arg.is_required_set() && !given(arg));
    if let Some(missing) = missing.and_then(Arg::get_long) {
        return Err(format!("`{missing}` is missing"));
    }
    let read = with_defaults(command, &[], &values).try_get_matches_from([""; 0]);
    read.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| error.to_string())
}

/// New default values.
type Values = Vec<(Id, Vec<String>)>;

fn with_defaults(command: Command, path: &[String], values: &Values) -> Command {
    match path {
        [first, rest @ ..] => command.mut_subcommand(first, |command| with_defaults(command, rest, values)),
        [] => values.iter().fold(command, |command, (id, values)| {
            command.mut_arg(id, |arg| arg.required(false).default_values(values.clone()))
        }),
    }
}

/// The subcommand that the line names. No flags come before one but those that it has as well (global ones), so all else of
/// the line's first words is the path.
fn subcommand<'a>(root: &'a Command, line: &[OsString]) -> (Vec<String>, &'a Command) {
    let (mut path, mut command) = (Vec::new(), root);
    let mut words = line.iter().skip(1);
    while let Some(word) = words.next() {
        if let Some(next) = command.find_subcommand(word) {
            path.push(next.get_name().to_owned());
            command = next;
        } else if let Some(flag) = global_flag(command, word) {
            let is_value_next = flag.get_action().takes_values() && !flag.is_require_equals_set();
            if is_value_next && !word.as_encoded_bytes().contains(&b'=') {
                words.next();
            }
        } else {
            break;
        }
    }
    (path, command)
}

/// The flag of this word, if it may come before a subcommand.
fn global_flag<'a>(command: &'a Command, word: &OsStr) -> Option<&'a Arg> {
    let word = word.to_str()?.strip_prefix("--")?;
    let long = word.split_once('=').map_or(word, |(long, _)| long);
    command.get_arguments().find(|arg| arg.is_global_set() && arg.get_long() == Some(long))
}

fn config_file(matches: &ArgMatches) -> Option<&Path> {
    innermost(matches).try_get_one::<PathBuf>("config").ok().flatten().map(PathBuf::as_path)
}

/// The matches of the subcommand that was named.
fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, next)) = matches.subcommand() {
        matches = next;
    }
    matches
}

/// What the environment says: `ADIT_EDGE_BIND` for `--edge-bind`, the values of a list separated by commas. An empty
/// variable says nothing.
fn environment(
    command: &Command,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Values, ConfigError> {
    let mut values = Values::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let Some(long) = arg.get_long() else { continue };
        let name = format!("ADIT_{}", long.replace('-', "_").to_ascii_uppercase());
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let wrong = |reason| ConfigError::Value { place: format!("{name} in the environment"), reason };
        let value = value.into_string().map_err(|_| wrong("this is not UTF-8".into()))?;
        let given = match arg.get_action() {
            ArgAction::Append => value.split(',').map(|value| value.trim().to_owned()).collect(),
            ArgAction::SetTrue => vec![switch(&value).map_err(wrong)?.to_string()],
            _ => vec![value],
        };
        for value in &given {
            check(arg, value).map_err(wrong)?;
        }
        values.push((arg.get_id().clone(), given));
    }
    Ok(values)
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// What the file says.
fn from_file(path: &Path, command: &Command) -> Result<Values, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(&text, &error),
        reason: error.message().trim().replace('\n', ", "),
    })?;
    from_table(&table, command).map_err(|fault| match fault {
        Fault::Key { key, nearest } => ConfigError::UnknownKey { path: path.to_owned(), key, nearest },
        Fault::Value { key, reason } => {
            ConfigError::Value { place: format!("{}: {key}", path.display()), reason }
        }
    })
}

/// What is wrong with a table.
enum Fault {
    Key { key: String, nearest: Option<String> },
    Value { key: String, reason: String },
}

fn from_table(table: &Table, command: &Command) -> Result<Values, Fault> {
    table.iter().map(|(key, value)| from_entry(key, value, command)).collect()
}

fn from_entry(key: &str, value: &Value, command: &Command) -> Result<(Id, Vec<String>), Fault> {
    let long = key.replace('_', "-");
    let known = || command.get_arguments().filter(|arg| arg.get_id() != "config");
    let named = |arg: &&Arg| arg.get_long() == Some(&long);
    let arg = known()
        .find(named)
        .ok_or_else(|| Fault::Key { key: key.into(), nearest: nearest(&long, known()) })?;
    let many = matches!(arg.get_action(), ArgAction::Append);
    let values = match value {
        Value::Array(values) if many => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let read = values.iter().enumerate().map(|(index, value)| {
        text(arg, value).and_then(|text| check(arg, &text).map(|()| text)).map_err(|reason| {
            let key = if values.len() > 1 { format!("{key} {}", index + 1) } else { key.to_owned() };
            Fault::Value { key, reason }
        })
    });
    Ok((arg.get_id().clone(), read.collect::<Result<_, _>>()?))
}

/// A value as it would stand on the command line.
fn text(arg: &Arg, value: &Value) -> Result<String, String> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(value)) => Ok(value.to_string()),
        (ArgAction::SetTrue, _) => Err("expected true or false".into()),
        (_, Value::Array(_)) => Err("expected one value, not a list".into()),
        (_, Value::String(value)) => Ok(value.clone()),
        // Only the tables that the file has by design are hidden arguments.
        (_, Value::Table(_)) if !arg.is_hide_set() => Err("expected a value, not a table".into()),
        (_, other) => Ok(other.to_string()),
    }
}

/// Asks the parser of one argument alone what it thinks of a value.
fn check(arg: &Arg, value: &str) -> Result<(), String> {
    let alone = arg.clone().required(false).default_values([""; 0]);
    let Some(long) = arg.get_long() else { return Ok(()) };
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    let line = [format!("--{long}={value}")];
    let read = Command::new("check").no_binary_name(true).arg(alone).try_get_matches_from(line);
    read.map(drop).map_err(|error| reason(&error, arg.is_hide_set(), value))
}

/// What a value parser said, without the frame that clap puts around it.
fn reason(error: &clap::Error, table: bool, value: &str) -> String {
    match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(source), _) if table || source.to_string().contains(&format!("{value:?}")) => {
            source.to_string()
        }
        (Some(source), _) => format!("{value:?} cannot be used: {source}"),
        (None, Some(ContextValue::Strings(valid))) => {
            format!("{value:?} cannot be used: expected {}", valid.join(" or "))
        }
        (None, _) => format!("{value:?} cannot be used"),
    }
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a Arg>) -> Option<String> {
    let likeness = |long: &&str| strsim::normalized_damerau_levenshtein(key, long);
    let alike = known.filter_map(Arg::get_long).filter(|long| likeness(long) > 0.4);
    alike.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).map(str::to_owned)
}
