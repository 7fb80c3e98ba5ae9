//! Holds the table of which module may use which, and the order in which `lib.rs` lists them.
//!
//! It reads the sources as text: it sees paths that start at `crate`, at `adit`, or at a `super` that reaches the
//! crate root. It does not see what a macro builds, what travels in a closure, or an alias of the crate root.
//! Comments, literals, `#[cfg(test)]` modules and files named tests.rs do not count. `lib.rs` may re-export anything,
//! but a module must name the module that it uses and not such a re-export, which would hide the arrow.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A module, then what it may use. A row names only modules of rows above it, so the table has no cycle; `lib.rs`
/// lists the modules in the same order. A module that does not exist yet keeps its row.
#[rustfmt::skip]
const TABLE: &[(&str, &str)] = &[
    ("protocol", ""),
    ("drain", ""),
    ("net", ""),
    ("telemetry", ""),
    ("tls", "telemetry drain"),
    ("otlp", "net tls telemetry drain"),
    ("splice", "net telemetry"),
    ("auth", "protocol net tls telemetry drain"),
    ("transport", "protocol net splice tls telemetry drain"),
    ("client", "protocol net splice transport tls telemetry drain"),
    ("cluster", "protocol net tls transport telemetry drain"),
    ("upstream", "protocol transport cluster auth telemetry drain"),
    ("access_log", "protocol splice upstream telemetry drain"),
    ("relay", "protocol splice transport cluster upstream access_log auth telemetry drain"),
    ("edge", "protocol net splice transport upstream access_log auth tls telemetry drain"),
    ("admin", "protocol net upstream cluster auth tls telemetry drain"),
    // Everything above but `client`.
    ("node", "protocol drain net telemetry tls otlp splice auth transport cluster upstream access_log relay edge admin"),
    ("probes", "net telemetry drain"),
    ("agent", "protocol net otlp splice auth client probes tls telemetry drain"),
    ("forward", "protocol net splice client probes telemetry drain"),
    ("load", "protocol net client tls telemetry drain"),
    // Every module that has a config, and `protocol` for the names that a config holds.
    ("config", "protocol drain net telemetry tls otlp auth transport client cluster upstream access_log relay edge admin \
                node agent forward load"),
    // `config`, and what the commands start.
    ("cli", "config net node agent forward client auth tls telemetry drain admin protocol load edge transport upstream"),
];

/// The binary's row.
const MAIN: (&str, &str) = ("main", "cli");

#[test]
fn modules_use_only_what_the_table_lists() {
    let mut faults = table_faults(TABLE);
    for source in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        faults.extend(forbidden(&source.0, &source.1));
    }
    assert!(faults.is_empty(), "the table forbids:\n  {}", faults.join("\n  "));
}

#[test]
fn lib_lists_the_modules_in_the_order_of_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let exists = |name: &&str| src.join(name).is_dir() || src.join(name).with_extension("rs").is_file();
    let expected: Vec<&str> = TABLE.iter().map(|row| row.0).filter(exists).collect();
    let lib = fs::read_to_string(src.join("lib.rs")).expect("src/lib.rs can be read");
    let items = lib.lines().filter_map(|line| line.split_once("mod "));
    let modules = items.filter(|(before, _)| ["", "pub ", "pub(crate) "].contains(before));
    let declared: Vec<&str> = modules.map(|(_, name)| name.trim_end_matches(';')).collect();
    assert_eq!(declared, expected, "left: src/lib.rs, right: the table");
}

#[test]
fn the_table_has_no_cycle_and_no_unknown_name() {
    assert_eq!(table_faults(&[("a", "b"), ("b", "a")]), ["a -> b: no row above"]);
    assert_eq!(table_faults(&[("a", "a")]), ["a -> a: no row above"]);
}

/// A file, `|`, its text (`~` is a line break), `|`, the faults to be found.
const SAMPLES: &str = r####"
src/edge/http.rs | use std::io;~use crate::{drain::Tasks, upstream::{self, pick::{A, B}},~cluster::{C}}; | edge -> cluster (src/edge/http.rs:3)
src/edge.rs      | fn f() { crate::relay::run(super::node::A) } | edge -> relay (src/edge.rs:1), edge -> node (src/edge.rs:1)
src/edge/mod.rs  | ~use super::relay;                           | edge -> relay (src/edge/mod.rs:2)
src/edge/http.rs | use super::{super::relay, tcp}; use super::super::tls; | edge -> relay (src/edge/http.rs:1)
src/edge.rs      | mod a { use super::super::relay; } use super::tls; | edge -> relay (src/edge.rs:1)
src/edge.rs      | fn f<'a>(x: &'a crate::r#relay::X, y: char) { y == '"' } | edge -> relay (src/edge.rs:1)
src/edge.rs      | const A: (char, &str) = ('\'', "\""); use crate::relay; | edge -> relay (src/edge.rs:1)
src/edge.rs      | #[cfg(not(test))] mod live { use crate::relay; } | edge -> relay (src/edge.rs:1)
src/edge.rs      | #[cfg(test)] mod tests { fn f() {} } use crate::relay; | edge -> relay (src/edge.rs:1)
src/node.rs      | use crate::{client::Client, edge};           | node -> client (src/node.rs:1)
src/main.rs      | fn main() { adit::cli::main(adit::node::A) } | main -> node (src/main.rs:1)
src/edge.rs      | use crate::Client; | edge -> Client (src/edge.rs:1): name the module, not the crate root
src/edge.rs      | use super::*;      | edge -> * (src/edge.rs:1): name the module, not the crate root
src/utils/x.rs   | use crate::edge;   | utils has no row (src/utils/x.rs)
src/edge.rs      | //! crate::relay~/* crate::relay~ */ pub(crate) use crate::upstream; pub(in crate::edge) fn f() {} |
src/edge.rs      | const A: &str = "crate::relay \" crate::relay"; const B: &str = r#"" crate::relay"#; |
src/edge.rs      | mod inner { pub(super) use super::*; } use self::http; |
src/edge.rs      | #[cfg(test)]~#[rustfmt::skip]~pub(crate) mod tests { use crate::relay; fn f() { {} } } |
src/edge.rs      | #[cfg(all(test, unix))] mod a { use crate::relay; } #[cfg(test)] mod b { use crate::relay; } |
src/edge/tests.rs | use crate::relay; |
"####;

#[test]
fn the_checker_finds_planted_arrows_and_only_those() {
    for sample in SAMPLES.lines().filter(|line| !line.is_empty()) {
        let columns: Vec<&str> = sample.split('|').map(str::trim).collect();
        let found = forbidden(columns[0], &columns[1].replace('~', "\n"));
        assert_eq!(found.join(", "), columns[2], "{sample}");
    }
}

fn table_faults(table: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut above = BTreeSet::new();
    for (name, uses) in table {
        let unknown = uses.split_whitespace().filter(|used| !above.contains(used));
        faults.extend(unknown.map(|used| format!("{name} -> {used}: no row above")));
        above.insert(*name);
    }
    faults
}

/// The arrows of one file that its module's row does not list.
fn forbidden(path: &str, text: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inner = inner.trim_end_matches("/mod");
    if inner == "lib" || inner.ends_with("/tests") {
        return Vec::new();
    }
    let module = inner.split('/').next().expect("a split gives one part at least");
    let Some((_, allowed)) = TABLE.iter().chain([&MAIN]).find(|row| row.0 == module) else {
        return vec![format!("{module} has no row ({path})")];
    };
    let depth = inner.split('/').count() * usize::from(inner != "main");
    let mut arrows = arrows(&tokens(text), depth);
    arrows.retain(|(_, used)| *used != module && !allowed.split(' ').any(|one| one == *used));
    let fault = |(line, used): (usize, &str)| {
        let hint = match TABLE.iter().any(|row| row.0 == used) {
            true => "",
            false => ": name the module, not the crate root",
        };
        format!("{module} -> {used} ({path}:{line}){hint}")
    };
    arrows.into_iter().map(fault).collect()
}

/// The sources below a folder of the repository, each as its path and its text.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR"));
            let name = name.expect("src/ is in the repository").to_string_lossy();
            found.push((name.replace('\\', "/"), fs::read_to_string(&path).expect("a source is UTF-8")));
        }
    }
    found.sort();
    found
}

type Token<'a> = (usize, &'a str);

/// Words, `::` and single other characters, with their lines; comments and literals are gone.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let past_word = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        let token = match rest.starts_with("::") {
            true => 2,
            false => (rest.len() - past_word.len()).max(first.len_utf8()),
        };
        let skip = skipped(rest);
        if skip.is_none() && !first.is_whitespace() {
            found.push((line, &rest[..token]));
        }
        let (passed, left) = rest.split_at(skip.unwrap_or(token));
        line += passed.matches('\n').count();
        rest = left;
    }
    found
}

/// The length of the comment, the literal or the `r#` that `rest` starts with; comments are not taken to nest.
fn skipped(rest: &str) -> Option<usize> {
    let past = |end: &str, from: usize| {
        let at = rest[from..].find(end).map(|at| from + at + end.len());
        at.or(Some(rest.len()))
    };
    if rest.starts_with("//") {
        return past("\n", 0);
    } else if rest.starts_with("/*") {
        return past("*/", 2);
    }
    let raw = rest.trim_start_matches(['b', 'c']);
    let raw = raw.strip_prefix('r').unwrap_or("");
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if raw[hashes..].starts_with('"') {
        let body = rest.len() - raw.len() + hashes + 1;
        return past(&format!("\"{}", "#".repeat(hashes)), body);
    } else if rest.starts_with("r#") {
        return Some(2);
    }
    let mut chars = rest.chars();
    let (quote, next, last) = (chars.next()?, chars.next(), chars.next());
    if quote != '"' && (quote != '\'' || next != Some('\\') && last != Some('\'')) {
        return None; // Neither a string nor a character; it may be a lifetime.
    }
    let mut escaped = true; // So that the opening quote does not close.
    let closes = |c: char| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    };
    Some(rest.find(closes).map_or(rest.len(), |at| at + 1))
}

/// The modules that one file names below the crate root; the file's own module is `depth` levels below it.
fn arrows<'a>(tokens: &[Token<'a>], mut depth: usize) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    let mut braces = Vec::new(); // For each open brace, the levels that it adds: 1 for a module, else 0.
    let mut i = after_test_modules(tokens, 0);
    while i < tokens.len() {
        match at(tokens, i) {
            "{" => {
                braces.push(usize::from(i > 1 && at(tokens, i - 2) == "mod"));
                depth += braces[braces.len() - 1];
            }
            "}" => depth -= braces.pop().unwrap_or_default(),
            "adit" if at(tokens, i + 1) != "::" => {}
            "crate" | "super" | "adit" => i = follow(tokens, i, depth, &mut found) - 1,
            _ => {}
        }
        i = after_test_modules(tokens, i + 1);
    }
    found
}

/// Follows one path, or one branch of a `use` tree, from `depth` levels below the crate root; returns where it ends.
fn follow<'a>(tokens: &[Token<'a>], start: usize, mut depth: usize, found: &mut Vec<Token<'a>>) -> usize {
    let mut i = start;
    while i == start || at(tokens, i) == "::" {
        i += usize::from(i > start);
        match at(tokens, i) {
            "super" => depth = depth.saturating_sub(1),
            "crate" | "adit" => depth = 0,
            "self" => {}
            "{" => {
                i += 1;
                while !["", "}"].contains(&at(tokens, i)) {
                    i = follow(tokens, i, depth, found);
                    while !["", ",", "}"].contains(&at(tokens, i)) {
                        i = after_group(tokens, i);
                    }
                    i += usize::from(at(tokens, i) == ",");
                }
            }
            _ if depth == 0 => {
                found.extend(tokens.get(i));
                return i + 1;
            }
            _ => return i + 1,
        }
        i += 1;
    }
    i
}

/// Passes the modules that start here and are compiled for tests only, however many there are.
fn after_test_modules(tokens: &[Token<'_>], start: usize) -> usize {
    let text: String = tokens.iter().skip(start).take(8).map(|token| token.1).collect();
    let mut i = start;
    if text.starts_with("#[cfg(test)]") || text.starts_with("#[cfg(all(test,") {
        while ["#", "[", "pub", "("].contains(&at(tokens, i)) {
            i = after_group(tokens, i);
        }
    }
    match at(tokens, i) {
        "mod" if i > start => after_test_modules(tokens, after_group(tokens, i + 2)),
        _ => start,
    }
}

/// Passes one token, and all up to the closing bracket when it is an opening one.
fn after_group(tokens: &[Token<'_>], start: usize) -> usize {
    let mut depth = 0;
    for (i, (_, token)) in tokens.iter().enumerate().skip(start) {
        depth += i32::from(["(", "[", "{"].contains(token)) - i32::from([")", "]", "}"].contains(token));
        if depth <= 0 {
            return i + 1;
        }
    }
    tokens.len()
}

fn at<'a>(tokens: &[Token<'a>], i: usize) -> &'a str {
    tokens.get(i).map_or("", |token| token.1)
}
