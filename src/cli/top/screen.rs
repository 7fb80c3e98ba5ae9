//! What is looked at: the board, which table of it, how that is sorted and filtered and how far it is scrolled. Pure: what is
//! heard of the node goes in, with its time, and the keys that are pressed.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::Rect,
};
use tokio::time::Instant;

use super::{
    board::{Board, Shown},
    feed::Heard,
    tables::Table,
    view,
};
use crate::cli::plain::plain;

/// The longest filter.
const LONGEST: usize = 64;

/// How a table is looked at.
#[derive(Debug, Clone)]
struct Look {
    /// The column that it is sorted by.
    column: usize,
    /// Whether what comes first otherwise comes last.
    reversed: bool,
    /// The first row that is shown.
    top: usize,
}

/// Why nothing more comes, and since when.
#[derive(Debug)]
struct Lost {
    why: String,
    since: Instant,
}

/// Everything that is on the screen.
#[derive(Debug)]
pub(super) struct Screen {
    /// Where the node is asked.
    admin: String,
    colour: bool,
    board: Board,
    /// When that was last told of.
    heard: Option<Instant>,
    lost: Option<Lost>,
    /// What was there when it was paused.
    paused: Option<(Board, Option<Instant>)>,
    table: Table,
    looks: [Look; Table::ALL.len()],
    filter: String,
    /// Whether keys go into the filter.
    typing: bool,
    help: bool,
    /// How many rows there is room for.
    room: usize,
}

impl Screen {
    /// What is shown until the node has told something, with or without colour.
    pub(super) fn new(admin: String, colour: bool) -> Self {
        let look = |table: Table| Look { column: table.sorted_by(), reversed: false, top: 0 };
        Self {
            admin,
            colour,
            board: Board::default(),
            heard: None,
            lost: None,
            paused: None,
            table: Table::Nodes,
            looks: Table::ALL.map(look),
            filter: String::new(),
            typing: false,
            help: false,
            room: 0,
        }
    }

    /// Takes in what is heard of the node.
    pub(super) fn hear(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Changes(changes) => {
                self.board.take(*changes);
                self.heard = Some(now);
                self.lost = None;
            }
            Heard::Lost(why) => {
                let since = self.lost.as_ref().map_or(now, |lost| lost.since);
                self.lost = Some(Lost { why: plain(&why), since });
            }
        }
        self.scroll(|top| top);
    }

    /// Takes in how large the screen is.
    pub(super) fn fit(&mut self, area: Rect) {
        self.room = view::room(area);
        self.scroll(|top| top);
    }

    /// Does what a key says, or ends.
    pub(super) fn key(&mut self, key: KeyEvent) -> ControlFlow<()> {
        if key.kind == KeyEventKind::Release {
            return ControlFlow::Continue(());
        }
        // What follows Escape at once comes as one key with Alt.
        if key.modifiers.contains(KeyModifiers::ALT) {
            self.key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE))?;
            return self.key(KeyEvent { modifiers: key.modifiers - KeyModifiers::ALT, ..key });
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
        }
        if self.typing {
            self.typed(key.code);
        } else if self.help {
            self.help = false;
        } else {
            return self.told(key.code);
        }
        ControlFlow::Continue(())
    }

    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) if self.filter.chars().count() < LONGEST => self.filter.push(c),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            KeyCode::Enter => self.typing = false,
            _ => {}
        }
        self.scroll(|top| top);
    }

    fn told(&mut self, code: KeyCode) -> ControlFlow<()> {
        let page = self.room.max(1);
        match code {
            KeyCode::Char('q') => return ControlFlow::Break(()),
            // What is filtered is shown whole before it is left.
            KeyCode::Esc if self.filter.is_empty() => return ControlFlow::Break(()),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Table::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.table = Table::ALL[digit as usize - '1' as usize],
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|top| top.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|top| top + 1),
            KeyCode::PageUp => self.scroll(|top| top.saturating_sub(page)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(|top| top + page),
            KeyCode::Home | KeyCode::Char('g') => self.scroll(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.scroll(|_| usize::MAX),
            KeyCode::Char('s') => {
                let columns = self.table.columns().len();
                let look = self.look_mut();
                *look = Look { column: (look.column + 1) % columns, reversed: false, top: 0 };
            }
            KeyCode::Char('r') => self.look_mut().reversed ^= true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p') => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some((self.board.clone(), self.heard)),
                };
            }
            KeyCode::Char('?' | 'h') => self.help = true,
            _ => {}
        }
        self.scroll(|top| top);
        ControlFlow::Continue(())
    }

    fn turn(&mut self, by: usize) {
        self.table = Table::ALL[(self.table as usize + by) % Table::ALL.len()];
    }

    fn look(&self) -> &Look {
        &self.looks[self.table as usize]
    }

    fn look_mut(&mut self) -> &mut Look {
        &mut self.looks[self.table as usize]
    }

    /// Scrolls, and never beyond the last row.
    fn scroll(&mut self, to: impl FnOnce(usize) -> usize) {
        let last = self.found().saturating_sub(self.room);
        let look = self.look_mut();
        look.top = to(look.top).min(last);
    }

    /// The rows of the table that fit the filter, in no order.
    fn fitting(&self) -> impl Iterator<Item = &Arc<Shown>> {
        let filter = self.filter.to_lowercase();
        self.board().rows(self.table).values().filter(move |row| row.has(filter.split_whitespace()))
    }

    /// What is shown.
    pub(super) fn board(&self) -> &Board {
        self.paused.as_ref().map_or(&self.board, |(board, _)| board)
    }

    /// How old that is.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        let heard = self.paused.as_ref().map_or(self.heard, |(_, heard)| *heard);
        heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// Why nothing more comes, and for how long nothing has.
    pub(super) fn lost(&self, now: Instant) -> Option<(&str, Duration)> {
        self.lost.as_ref().map(|lost| (lost.why.as_str(), now.saturating_duration_since(lost.since)))
    }

    pub(super) fn admin(&self) -> &str {
        &self.admin
    }

    pub(super) fn is_coloured(&self) -> bool {
        self.colour
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(super) fn is_helping(&self) -> bool {
        self.help
    }

    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// The filter, if there is one, and whether it is being typed.
    pub(super) fn filter(&self) -> Option<(&str, bool)> {
        (self.typing || !self.filter.is_empty()).then_some((self.filter.as_str(), self.typing))
    }

    /// The column that the table is sorted by, and whether its largest come first.
    pub(super) fn sorted(&self) -> (usize, bool) {
        let look = self.look();
        (look.column, self.table.columns()[look.column].is_number != look.reversed)
    }

    /// The first row that is shown.
    pub(super) fn top(&self) -> usize {
        self.look().top
    }

    /// How many rows of the table fit.
    pub(super) fn found(&self) -> usize {
        self.fitting().count()
    }

    /// All rows of the table that fit, in order.
    pub(super) fn rows(&self) -> Vec<&Shown> {
        let (column, falling) = self.sorted();
        let is_number = self.table.columns()[column].is_number;
        let mut rows: Vec<_> = self.fitting().map(AsRef::as_ref).collect();
        // A stable sort keeps the order of their keys among those that are alike.
        rows.sort_by(|a: &&Shown, b: &&Shown| {
            let (a, b) = (&a.cells[column], &b.cells[column]);
            let order = match (is_number, a.number, b.number) {
                (false, ..) => a.text.cmp(&b.text),
                (true, Some(a), Some(b)) => a.total_cmp(&b),
                // What is not known is less than anything.
                (true, a, b) => a.is_some().cmp(&b.is_some()),
            };
            if falling { order.reverse() } else { order }
        });
        rows
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Everything that a cluster of two nodes tells, with these endpoints and so many agents.
    pub(in crate::cli::top) fn told(endpoints: &[(&str, f64)], agents: usize) -> Value {
        let rates = json!({"requests_s": 12.5, "errors_s": 0.0, "sent_bytes_s": 1500.0, "received_bytes_s": 2.5e6,
            "p50_ms": 0.72, "p99_ms": 8.1});
        let endpoint = |(name, opened): &(&str, f64)| {
            json!({"key": format!("default/{name}"), "tenant": "default", "endpoint": name, "kind": "http", "hosts": [],
                "agents": 1, "suspects": 0, "nodes": ["n1"], "flows": 2, "opened_s": opened})
        };
        let agent = |number: usize| {
            json!({"key": format!("default/{number:08}"), "tenant": "default", "agent": format!("{number:08}"),
                "name": format!("agent-{number}"), "addresses": ["127.0.0.1:5"], "nodes": ["n1"], "endpoints": ["web"],
                "endpoints_total": 1, "flows": number, "rtt_ms": 0.4, "suspect": false, "state": "up"})
        };
        json!({
            "version": 1, "full": true, "node": "n1", "cluster": "adit", "release": "0.1.0", "rates": rates, "more": false,
            "nodes": [
                {"key": "n1", "phase": "ready", "this": true, "unlinked": false, "suspect": false, "address": "127.0.0.1:8003",
                    "version": "0.1.0", "up_s": 125, "agent_links": agents, "flows": 3, "rates": rates, "silent": null},
                {"key": "n2", "phase": "draining", "this": false, "unlinked": false, "suspect": false,
                    "address": "127.0.0.2:8003", "version": null, "up_s": null, "agent_links": 0, "flows": null,
                    "rates": null, "silent": "the node n2 does not answer"},
            ],
            "links": [{"key": "n1 n2", "nodes": ["n1", "n2"], "rtt_ms": 0.6, "suspect": false, "loss": 0.02,
                "bytes_s": 12345.0}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "agents": (0..agents).map(agent).collect::<Vec<_>>(),
            "gone": {"nodes": [], "links": [], "endpoints": [], "agents": []},
        })
    }

    pub(in crate::cli::top) fn changes(json: Value) -> Heard {
        Heard::Changes(serde_json::from_value(json).unwrap())
    }

    fn screen(endpoints: &[(&str, f64)], agents: usize) -> Screen {
        let mut screen = Screen::new("127.0.0.1:8002".into(), true);
        screen.hear(changes(told(endpoints, agents)), Instant::now());
        screen.fit(Rect::new(0, 0, 80, 24));
        screen
    }

    /// Presses keys; whether it goes on.
    pub(in crate::cli::top) fn press(screen: &mut Screen, keys: impl IntoIterator<Item = KeyCode>) -> bool {
        keys.into_iter().all(|code| screen.key(code.into()).is_continue())
    }

    fn text(text: &str) -> impl Iterator<Item = KeyCode> {
        text.chars().map(KeyCode::Char)
    }

    fn first(screen: &Screen) -> Vec<&str> {
        screen.rows().iter().map(|row| row.cells[0].text.as_str()).collect()
    }

    #[test]
    fn endpoints_are_by_rate_and_by_any_other_column_either_way() {
        let mut screen = screen(&[("a", 1.0), ("b", 20.0), ("c", 3.5)], 0);
        assert!(press(&mut screen, text("2")));
        assert_eq!(first(&screen), ["b", "c", "a"]);
        assert!(press(&mut screen, text("r")));
        assert_eq!(first(&screen), ["a", "c", "b"]);
        let columns = Table::Endpoints.columns().len();
        assert!(press(&mut screen, text(&"s".repeat(columns - 1))));
        assert_eq!((first(&screen), screen.sorted()), (vec!["a", "b", "c"], (0, false)));
        // Each table keeps how it is looked at.
        assert!(press(&mut screen, [KeyCode::Tab, KeyCode::BackTab]));
        assert_eq!(screen.sorted(), (0, false));
    }

    #[test]
    fn what_is_not_known_comes_after_what_is() {
        let mut screen = screen(&[], 0);
        assert!(press(&mut screen, text("ss")));
        assert_eq!(first(&screen), ["n1 (this)", "n2"]);
    }

    #[test]
    fn a_filter_finds_and_escape_clears_it_before_it_ends() {
        let mut screen = screen(&[("web", 1.0), ("db", 2.0)], 0);
        assert!(press(&mut screen, text("2/WEB def").chain([KeyCode::Enter])));
        assert_eq!((first(&screen), screen.filter()), (vec!["web"], Some(("WEB def", false))));
        // Among those are keys that mean something elsewhere.
        assert!(press(&mut screen, text("/q").chain([KeyCode::Backspace])));
        assert_eq!(screen.filter(), Some(("WEB def", true)));
        assert!(press(&mut screen, [KeyCode::Esc]));
        assert_eq!((first(&screen), screen.filter()), (vec!["db", "web"], None));
        assert!(press(&mut screen, text("/w").chain([KeyCode::Enter, KeyCode::Esc])));
        assert_eq!(screen.filter(), None);
        assert!(!press(&mut screen, [KeyCode::Esc]));
    }

    #[test]
    fn it_scrolls_to_the_last_row_and_no_further() {
        let mut screen = screen(&[], 1000);
        let room = screen.room;
        assert!(press(&mut screen, text("3G")));
        assert_eq!(screen.top(), 1000 - room);
        assert!(press(&mut screen, [KeyCode::Down, KeyCode::Up, KeyCode::PageUp]));
        assert_eq!(screen.top(), 1000 - 2 * room - 1);
        screen.hear(changes(told(&[], room + 3)), Instant::now());
        assert_eq!(screen.top(), 3, "there are fewer");
        assert!(press(&mut screen, text("/agent-1").chain([KeyCode::Enter])));
        assert_eq!(screen.top(), 0);
        assert!(press(&mut screen, [KeyCode::PageDown, KeyCode::Home]));
        assert_eq!(screen.top(), 0);
    }

    #[test]
    fn while_it_is_paused_nothing_changes_but_its_age() {
        let mut screen = screen(&[("web", 1.0)], 0);
        let paused = Instant::now();
        assert!(press(&mut screen, text("2p")));
        screen.hear(changes(told(&[("db", 1.0)], 0)), paused + Duration::from_secs(5));
        assert_eq!(first(&screen), ["web"]);
        assert!(screen.age(paused + Duration::from_secs(6)).unwrap() > Duration::from_secs(5));
        assert!(press(&mut screen, text("p")));
        assert_eq!(first(&screen), ["db"]);
        assert_eq!(screen.age(paused + Duration::from_secs(6)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_connection_that_is_lost_stays_so_from_then_on_until_the_node_tells_more() {
        let mut screen = screen(&[], 0);
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let (first, second) = (at(10), at(20));
        screen.hear(Heard::Lost("it \u{1b}broke".into()), first);
        screen.hear(Heard::Lost("it is not there".into()), second);
        assert_eq!(screen.lost(second), Some(("it is not there", second - first)));
        screen.hear(Heard::Lost("\u{1b}".into()), second);
        assert_eq!(screen.lost(first).map(|(why, _)| why), Some("?"));
        screen.hear(changes(told(&[], 0)), second);
        assert_eq!((screen.lost(second), screen.age(second)), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for before in ["", "/", "?", "p"] {
            let mut screen = screen(&[], 0);
            assert!(press(&mut screen, text(before)));
            assert!(screen.key(control_c).is_break(), "{before:?}");
        }
        assert!(!press(&mut screen(&[], 0), text("q")));
        let mut screen = screen(&[], 0);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyCode::Char('q').into() };
        assert!(screen.key(released).is_continue());
        assert!(press(&mut screen, text("?q")), "a key ends the help, and only that");
        assert!(!screen.is_helping());
    }
}
