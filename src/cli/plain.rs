//! What may be written to a terminal: no text of others steers it, and colours come only where they are wanted.

/// Whether colours are wanted of what goes to a terminal (<https://no-color.org>).
pub(super) fn is_colour_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// A text in which nothing steers the terminal.
pub(super) fn plain(text: &str) -> String {
    // Those that change the direction of what follows are no control characters.
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}
