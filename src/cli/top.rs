//! `adit top`: the cluster as a node sees it, live on the terminal.
//!
//! This has the flags, and drives: what the node tells, which the task of `feed` reads out of its `events`, and the keys that are
//! pressed go into a `screen`, and `view` draws that whenever there is something new. All but `feed` and `terminal` is pure.
//! `tables` knows what rows there are, and the `board` has them.

mod board;
mod events;
mod feed;
mod screen;
mod tables;
mod terminal;
mod text;
mod view;

use std::{io::IsTerminal, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::StreamExt;
use ratatui::crossterm::event::Event;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    failure::Failure,
    operator::{Admin, AdminArgs},
    plain::is_colour_wanted,
    process::{self, Signals},
};
use crate::drain::Tasks;
use feed::Feed;
use screen::Screen;
use terminal::Terminal;

/// The same is said on the terminal, at `?`.
pub(super) const KEYS: &str = "\
Keys: q or Escape ends it. Tab and 1 to 4 change the table, arrows, Page Up and Page Down scroll, s sorts by the next column and r \
the other way round, / filters, p pauses, ? shows all of them.";

/// How often the age of what is shown is brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// Watch the cluster as a node sees it: the nodes, the endpoints by how much they are asked, the agents, and the links between
/// nodes.
///
/// It shows what the dashboard shows, and changes nothing. It needs a terminal: `adit status --watch` is for files and pipes.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(Failure::Usage(anyhow!(
            "`adit top` draws on a terminal and reads its keys, and this is none: `adit status --watch` is for files and pipes"
        )));
    }
    let admin = Admin::new(&args.admin)?;
    process::block_on(async {
        let tasks = Tasks::new();
        let result = watch(admin, &tasks).await;
        tasks.abort();
        result
    })
}

async fn watch(admin: Admin, tasks: &Tasks) -> Result<(), Failure> {
    let mut signals = Signals::of_terminal()?;
    // A mistake in the flags is told as by other commands, before the terminal is taken.
    let feed = tokio::select! {
        feed = Feed::open(admin) => feed?,
        () = signals.next() => return Ok(()),
    };
    let mut screen = Screen::new(feed.url().to_string(), is_colour_wanted());
    // What is not taken yet waits at the node, which tells it in one with what follows.
    let (to, mut told) = mpsc::channel(1);
    tasks.spawn(feed.run(to));
    let mut terminal = Terminal::take()?;
    let mut keys = terminal.events();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| {
            screen.fit(frame.area());
            view::draw(&screen, Instant::now(), frame.area(), frame.buffer_mut());
        })?;
        tokio::select! {
            () = signals.next() => return Ok(()),
            event = keys.next() => {
                let event = event.context("the terminal is gone")?.context("the terminal cannot be read")?;
                // Another size, for one, is drawn for all the same.
                if let Event::Key(key) = event && screen.key(key).is_break() {
                    return Ok(());
                }
            }
            heard = told.recv() => {
                screen.hear(heard.context("nobody reads what the node tells any more")?, Instant::now());
            }
            _ = tick.tick() => {}
        }
    }
}
