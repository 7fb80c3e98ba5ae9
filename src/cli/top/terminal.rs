//! The terminal, from when it is taken until it is given back: at the end, by whatever error, at a panic.

use std::io;

use anyhow::Context as _;
use ratatui::{DefaultTerminal, Frame, crossterm::event::EventStream};

/// A terminal that is drawn on, and whose keys come one by one. Dropping it gives it back as it was.
pub(super) struct Terminal(DefaultTerminal);

impl Terminal {
    /// Takes it. A panic gives it back before it is told, so that it is told where it can be read.
    pub(super) fn take() -> anyhow::Result<Self> {
        let taken = ratatui::try_init();
        taken.map(Self).map_err(given_back).context("the terminal cannot be drawn on")
    }

    /// What is pressed, and when its size changes.
    pub(super) fn events(&self) -> EventStream {
        EventStream::new()
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.0.draw(draw).map(drop).context("the terminal cannot be drawn on")
    }
}

/// It may have been taken by half.
fn given_back(error: io::Error) -> io::Error {
    // That error is the one to tell.
    drop(ratatui::try_restore());
    error
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody is left to tell when it is gone.
        drop(self.0.show_cursor());
        drop(ratatui::try_restore());
    }
}
