//! Aligned columns for people, and the two colours: yellow for what may need a look, and red for what does.

use std::fmt;

use clap::builder::styling::{AnsiColor, Style};

use crate::cli::plain::plain;

/// One cell. What it says is mostly another process' text.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

fn styled(text: &str, style: Style, colour: bool) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// A line that says that something is wrong.
pub(super) fn bad(text: &str, colour: bool) -> String {
    styled(&plain(text), AnsiColor::Red.on_default(), colour)
}

impl Cell {
    pub(super) fn new(text: impl fmt::Display) -> Self {
        Self { text: plain(&text.to_string()), style: Style::new() }
    }

    /// The same, or that there is nothing to say.
    pub(super) fn of(text: Option<impl fmt::Display>) -> Self {
        text.map_or_else(|| Self::new('-'), Self::new)
    }

    /// One of which the bad half says that it needs a look soon, and the other that it may need one.
    pub(super) fn looked_at(self, is_bad: bool, is_odd: bool) -> Self {
        let style = match (is_bad, is_odd) {
            (true, _) => AnsiColor::Red.on_default(),
            (false, true) => AnsiColor::Yellow.on_default(),
            (false, false) => Style::new(),
        };
        Self { style, ..self }
    }

    pub(super) fn render(&self, colour: bool) -> String {
        styled(&self.text, self.style, colour && self.style != Style::new())
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Columns as wide as their widest cell; what is said where there is no row.
pub(super) fn table(empty: &str, head: &[&str], rows: Vec<Vec<Cell>>, colour: bool) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let head = head.iter().map(Cell::new).collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&cell.render(colour));
            line.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_aligned_whatever_is_coloured_and_nothing_steers_the_terminal() {
        let row = |name: &str, state: Cell| vec![Cell::new(name), state, Cell::new("end")];
        let rows = || {
            vec![
                row("a", Cell::new("ready")),
                row("lap\u{202e}top", Cell::new("gone").looked_at(true, true)),
                row("größe", Cell::new("odd").looked_at(false, true)),
            ]
        };
        let head = ["NAME", "STATE", "X"];
        assert_eq!(
            table("none", &head, rows(), false),
            "NAME     STATE  X\n\
             a        ready  end\n\
             lap?top  gone   end\n\
             größe    odd    end\n"
        );
        assert_eq!(
            table("none", &head, rows(), true),
            "NAME     STATE  X\n\
             a        ready  end\n\
             lap?top  \u{1b}[31mgone\u{1b}[0m   end\n\
             größe    \u{1b}[33modd\u{1b}[0m    end\n"
        );
        assert_eq!(table("none", &head, Vec::new(), true), "none\n");
    }
}
