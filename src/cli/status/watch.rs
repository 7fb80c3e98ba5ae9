//! Asking again and again: drawn in place on a terminal, one answer after the other elsewhere.

use std::{
    io::{self, Write},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Shown, ask::Asker};
use crate::cli::{failure::Failure, process::Signals};

/// The top left corner of the screen.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line, and of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_SCREEN: &str = "\x1b[J";

/// Asks until Ctrl-C, or until nobody reads any more. A node that does not answer may do so later.
pub(super) async fn run(
    asker: &Asker,
    shown: &Shown,
    every: Duration,
    in_place: bool,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut turn = interval(every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        let asked = async {
            turn.tick().await;
            asker.ask().await.and_then(|answer| shown.text(&answer))
        };
        let text = tokio::select! {
            asked = asked => asked.unwrap_or_else(|error| shown.failure(&error)),
            () = signals.next() => return Ok(()),
        };
        let every = humantime::format_duration(every);
        let written = match (in_place, shown.json) {
            (true, _) => draw(&format!("{}, every {every}; Ctrl-C ends it\n\n{text}", asker.admin()), first),
            (false, true) => print(&text),
            (false, false) => print(&if first { text } else { format!("\n{text}") }),
        };
        if written.is_err() {
            return Ok(());
        }
        first = false;
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Draws over what was drawn before, so that nothing flickers.
fn draw(text: &str, first: bool) -> io::Result<()> {
    let mut frame = String::from(HOME);
    if first {
        frame.push_str(CLEAR_SCREEN);
    }
    for line in text.lines() {
        frame.push_str(line);
        frame.push_str(CLEAR_LINE);
        frame.push('\n');
    }
    frame.push_str(CLEAR_SCREEN);
    let mut out = io::stdout().lock();
    out.write_all(frame.as_bytes())?;
    out.flush()
}
