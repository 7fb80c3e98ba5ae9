//! Draws a screen, however small: what matters least goes first. Pure.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Widget,
};
use tokio::time::Instant;

use super::{
    board::Shown,
    screen::Screen,
    tables::{Look, Table},
    text,
};
use crate::cli::plain::plain;

/// No column is wider, as long as there are others.
const WIDEST: usize = 40;

/// What is between two columns.
const GAP: u16 = 2;

const HELP: [(&str, &str); 11] = [
    ("q, Escape", "end it (Escape clears the filter first)"),
    ("Tab, 1 to 4", "the next table, or that one"),
    ("arrows, PgUp, PgDn", "scroll; Home and End go to the first and last row"),
    ("s", "sort by the next column"),
    ("r", "the other way round"),
    ("/", "only rows with these words; Enter keeps them, Escape clears"),
    ("p", "hold what is shown, or go on"),
    ("50%, 99%", "so many requests had their response's head within that"),
    ("OPENED/S", "requests and flows that the node asked has opened"),
    ("SENT/S, RECV/S", "bytes to agents and forwarders, and from them"),
    ("LOST", "packets of the last seconds, both ways"),
];

/// The lines of a screen.
#[derive(Debug)]
struct Plan {
    title: Option<Rect>,
    /// The rates of the cluster, or why nothing more comes.
    news: Option<Rect>,
    tabs: Option<Rect>,
    head: Rect,
    rows: Rect,
    foot: Option<Rect>,
}

impl Plan {
    fn new(area: Rect) -> Self {
        let mut left = area;
        let mut line = |wanted: bool| {
            let wanted = wanted && left.height > 0;
            let line = Rect { height: 1, ..left };
            if wanted {
                (left.y, left.height) = (left.y + 1, left.height - 1);
            }
            wanted.then_some(line)
        };
        let title = line(area.height >= 5);
        let news = line(area.height >= 3);
        let tabs = line(area.height >= 4);
        let head = line(true).unwrap_or(Rect { height: 0, ..area });
        let foot = (area.height >= 6).then(|| Rect { y: left.bottom() - 1, height: 1, ..left });
        let rows = Rect { height: left.height - u16::from(foot.is_some()), ..left };
        Self { title, news, tabs, head, rows, foot }
    }
}

/// How many rows there is room for.
pub(super) fn room(area: Rect) -> usize {
    Plan::new(area).rows.height.into()
}

/// Draws it as it is at this time.
pub(super) fn draw(screen: &Screen, now: Instant, area: Rect, buffer: &mut Buffer) {
    let plan = Plan::new(area);
    let paint = Paint { colour: screen.is_coloured() };
    if let Some(line) = plan.title {
        both(title(screen), state(screen, now, paint), line, buffer);
    }
    if let Some(line) = plan.news {
        news(screen, now, paint).render(line, buffer);
    }
    if let Some(line) = plan.tabs {
        tabs(screen, paint).render(line, buffer);
    }
    if screen.is_helping() {
        help(plan.head.union(plan.rows), buffer);
    } else {
        table(screen, paint, &plan, buffer);
    }
    if let Some(line) = plan.foot {
        foot(screen, plan.rows.height.into(), paint).render(line, buffer);
    }
}

/// How things are made to stand out.
#[derive(Debug, Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn look(self, look: Look) -> Style {
        match look {
            Look::Plain => Style::new(),
            Look::Odd => self.coloured(Color::Yellow),
            Look::Bad => self.coloured(Color::Red),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// What must be seen, without colours too.
    fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    fn bold() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn dim() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

fn title(screen: &Screen) -> Line<'static> {
    let head = &screen.board().head;
    let text = match head.node.as_str() {
        "" => format!("adit top, asking {}", screen.admin()),
        node => {
            format!("node {node} of cluster {}, adit {}, at {}", head.cluster, head.release, screen.admin())
        }
    };
    Line::from(plain(&text)).style(Paint::bold())
}

/// How far what is shown can be believed.
fn state(screen: &Screen, now: Instant, paint: Paint) -> Line<'static> {
    let age = screen.age(now).map(|age| text::age(age.as_secs()));
    let old = age.map_or_else(String::new, |age| format!(", {age} old"));
    let (word, style) = match (screen.is_paused(), screen.lost(now), old.is_empty()) {
        (true, ..) => ("PAUSED", paint.look(Look::Odd).add_modifier(Modifier::BOLD)),
        (_, Some(_), _) => ("LOST", paint.alarm()),
        (.., true) => ("waiting for the node", Style::new()),
        _ => ("live", Style::new()),
    };
    Line::from(format!("{word}{old}")).style(style)
}

/// One at the left and one at the right, which is whole.
fn both(left: Line<'_>, right: Line<'_>, area: Rect, buffer: &mut Buffer) {
    let width = u16::try_from(right.width()).unwrap_or(u16::MAX).min(area.width);
    let rest = area.width - width;
    left.render(Rect { width: rest.saturating_sub(1), ..area }, buffer);
    right.render(Rect { x: area.x + rest, width, ..area }, buffer);
}

fn news(screen: &Screen, now: Instant, paint: Paint) -> Line<'static> {
    if let Some((why, since)) = screen.lost(now) {
        let since = text::age(since.as_secs());
        return Line::from(format!("connection lost {since} ago, and tried again: {why}"))
            .style(paint.alarm());
    }
    let Some(rates) = &screen.board().head.rates else { return Line::default() };
    let wait = |ms: Option<f64>| ms.map_or_else(|| "-".into(), text::ms);
    let parts = [
        format!("{} req/s", text::rate(rates.requests_s)),
        format!("{} err/s", text::rate(rates.errors_s)),
        format!("50% {}", wait(rates.p50_ms)),
        format!("99% {}", wait(rates.p99_ms)),
        format!("sent {}/s", text::bytes(rates.sent_bytes_s)),
        format!("recv {}/s", text::bytes(rates.received_bytes_s)),
    ];
    let mut line = Line::default();
    for (place, part) in parts.into_iter().enumerate() {
        let look = if place == 1 && rates.errors_s > 0.0 { Look::Odd } else { Look::Plain };
        line.push_span(Span::styled(part, paint.look(look)));
        line.push_span("   ");
    }
    line
}

fn tabs(screen: &Screen, paint: Paint) -> Line<'static> {
    let mut line = Line::default();
    for (number, table) in (1..).zip(Table::ALL) {
        let all = text::count(screen.board().rows(table).len() as u64);
        let style = if table == screen.table() {
            Paint::bold().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        line.push_span(Span::styled(format!(" {number} {} {all} ", table.name()), style));
    }
    if screen.board().head.more {
        line.push_span(Span::styled(" and more: see adit status", paint.look(Look::Odd)));
    }
    line
}

fn foot(screen: &Screen, room: usize, paint: Paint) -> Line<'static> {
    let (first, all) = (screen.top(), screen.found());
    let place = match all {
        0 => String::new(),
        all => {
            let [first, last, all] =
                [first + 1, all.min(first + room), all].map(|row| text::count(row as u64));
            format!("{first} to {last} of {all}   ")
        }
    };
    let rest = match screen.filter() {
        Some((filter, true)) => Span::styled(format!("filter: {filter}_"), paint.look(Look::Odd)),
        Some((filter, false)) => {
            Span::styled(format!("filter: {filter} (Escape clears it)"), paint.look(Look::Odd))
        }
        None => Span::styled("q quit  Tab table  s sort  r reverse  / filter  p pause  ? help", Paint::dim()),
    };
    Line::from(vec![Span::raw(place), rest])
}

fn help(area: Rect, buffer: &mut Buffer) {
    for (row, (key, what)) in area.rows().zip(HELP) {
        Line::from(vec![Span::styled(format!("{key:20}"), Paint::bold()), Span::raw(what)])
            .render(row, buffer);
    }
}

/// A column with a place on the screen.
struct Placed {
    number: usize,
    x: u16,
    width: u16,
}

fn table(screen: &Screen, paint: Paint, plan: &Plan, buffer: &mut Buffer) {
    let all = screen.rows();
    let rows: Vec<_> = all.into_iter().skip(screen.top()).take(plan.rows.height.into()).collect();
    let columns = screen.table().columns();
    let (sorted, falling) = screen.sorted();
    let titles: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(number, column)| match (number == sorted, falling) {
            (true, true) => format!("{}▼", column.title),
            (true, false) => format!("{}▲", column.title),
            (false, _) => column.title.to_owned(),
        })
        .collect();
    if rows.is_empty() {
        let none = match screen.filter() {
            // Nothing has been told yet.
            _ if screen.board().head.node.is_empty() => String::new(),
            None => format!("no {}", screen.table().name()),
            Some(_) => format!("no {} with these words", screen.table().name()),
        };
        Line::from(none).render(plan.rows, buffer);
    }
    for Placed { number, x, width } in placed(&titles, &rows, plan.head) {
        let right = columns[number].is_number;
        let mut put = |text: &str, y: u16, style: Style| cell(buffer, (x, y), width, text, right, style);
        if plan.head.height > 0 {
            put(&titles[number], plan.head.y, Paint::bold());
        }
        for (y, row) in (plan.rows.y..).zip(&rows) {
            let cell = &row.cells[number];
            put(&cell.text, y, paint.look(cell.look));
        }
    }
}

/// The columns that there is room for, each as wide as what is in it.
fn placed(titles: &[String], rows: &[&Shown], area: Rect) -> Vec<Placed> {
    let mut placed = Vec::new();
    let mut x = area.x;
    for (number, title) in titles.iter().enumerate() {
        let cells = rows.iter().map(|row| Span::raw(row.cells[number].text.as_str()).width());
        let widest = cells.chain([Span::raw(title.as_str()).width()]).max().unwrap_or(0).min(WIDEST);
        let left = area.right().saturating_sub(x);
        let width = u16::try_from(widest).unwrap_or(u16::MAX);
        // The last may be cut, where something of it is still to be read.
        let enough = width.min(u16::try_from(title.chars().count() + 4).unwrap_or(u16::MAX));
        if left < enough && !placed.is_empty() {
            break;
        }
        placed.push(Placed { number, x, width: width.min(left) });
        x = x.saturating_add(width).saturating_add(GAP).min(area.right());
    }
    placed
}

/// Writes into a cell that is so wide, and says where that is not all.
fn cell(buffer: &mut Buffer, (x, y): (u16, u16), width: u16, text: &str, right: bool, style: Style) {
    let needed = u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let free = width.saturating_sub(needed);
    if needed <= width {
        buffer.set_stringn(if right { x + free } else { x }, y, text, width.into(), style);
    } else if width > 0 {
        let (end, _) = buffer.set_stringn(x, y, text, usize::from(width) - 1, style);
        buffer.set_stringn(end, y, "…", 1, style);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};
    use serde_json::json;

    use super::*;
    use crate::cli::top::{
        feed::Heard,
        screen::tests::{changes, press, told},
    };

    /// A screen of this size, with what is heard at its beginning and the keys that are pressed then.
    fn screen(size: (u16, u16), heard: Vec<Heard>, keys: &str) -> (Screen, Instant) {
        let (mut screen, now) = (Screen::new("127.0.0.1:8002".into(), true), Instant::now());
        screen.fit(Rect::new(0, 0, size.0, size.1));
        for heard in heard {
            screen.hear(heard, now);
        }
        assert!(press(&mut screen, keys.chars().map(KeyCode::Char)));
        (screen, now)
    }

    fn drawn(screen: &mut Screen, now: Instant, (width, height): (u16, u16)) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| {
                screen.fit(frame.area());
                draw(screen, now, frame.area(), frame.buffer_mut());
            })
            .unwrap();
        terminal.backend().clone()
    }

    fn shown(size: (u16, u16), heard: Vec<Heard>, keys: &str, later: u64) -> String {
        let (mut screen, now) = screen(size, heard, keys);
        drawn(&mut screen, now + Duration::from_secs(later), size).to_string()
    }

    fn all() -> Heard {
        changes(told(&[("web", 120.5), ("db", 0.0), ("größe-\u{202e}\u{1b}x", 3.25)], 1000))
    }

    #[test]
    fn the_nodes() {
        insta::assert_snapshot!(shown((80, 12), vec![all()], "", 1));
    }

    #[test]
    fn the_nodes_where_there_is_room() {
        insta::assert_snapshot!(shown((140, 10), vec![all()], "", 0));
    }

    #[test]
    fn the_endpoints_by_rate() {
        insta::assert_snapshot!(shown((80, 12), vec![all()], "2", 0));
    }

    #[test]
    fn the_end_of_a_thousand_agents() {
        insta::assert_snapshot!(shown((80, 12), vec![all()], "3rG", 0));
    }

    #[test]
    fn the_links() {
        insta::assert_snapshot!(shown((60, 9), vec![all()], "4", 0));
    }

    #[test]
    fn a_filter_that_is_typed_and_finds_nothing() {
        insta::assert_snapshot!(shown((80, 10), vec![all()], "2/nothing", 0));
    }

    #[test]
    fn a_connection_that_is_lost() {
        let lost =
            Heard::Lost("no events from 127.0.0.1:8002: is a node running, with this --admin-bind?".into());
        insta::assert_snapshot!(shown((100, 10), vec![all(), lost], "", 75));
    }

    #[test]
    fn a_screen_that_is_paused() {
        insta::assert_snapshot!(shown((80, 10), vec![all()], "p", 3700));
    }

    #[test]
    fn the_help() {
        insta::assert_snapshot!(shown((80, 20), vec![all()], "?", 0));
    }

    #[test]
    fn a_node_that_has_told_nothing() {
        insta::assert_snapshot!(shown((80, 8), vec![], "", 0));
    }

    #[test]
    fn a_very_small_screen() {
        insta::assert_snapshot!(shown((24, 5), vec![all()], "2", 0));
    }

    #[test]
    fn no_size_is_too_small() {
        for heard in [0, 1, 2] {
            for (width, height) in [(0, 0), (1, 1), (10, 3), (3, 10), (1, 30), (300, 1), (2, 2), (5, 6)] {
                for keys in ["", "2", "3G", "4", "?", "2/x", "p"] {
                    let size = (width, height);
                    let all = [all(), Heard::Lost("why".into())];
                    let (mut screen, now) = screen(size, all.into_iter().take(heard).collect(), keys);
                    drawn(&mut screen, now, size);
                }
            }
        }
    }

    #[test]
    fn it_fits_whatever_size_it_has_become() {
        let (mut screen, now) = screen((80, 24), vec![all()], "3G");
        for size in [(80, 24), (10, 3), (200, 60), (0, 0), (80, 24)] {
            drawn(&mut screen, now, size);
        }
    }

    #[test]
    fn colours_are_for_what_needs_a_look_and_only_where_they_are_wanted() {
        let colours = |colour: bool, heard: Vec<Heard>| {
            let (mut screen, now) = (Screen::new("a:1".into(), colour), Instant::now());
            heard.into_iter().for_each(|heard| screen.hear(heard, now));
            let backend = drawn(&mut screen, now, (80, 10));
            let mut colours: Vec<_> = backend.buffer().content().iter().map(|cell| cell.fg).collect();
            colours.sort_by_key(|colour| format!("{colour:?}"));
            colours.dedup();
            colours
        };
        assert_eq!(colours(true, vec![all()]), [Color::Reset, Color::Yellow], "n2 is draining");
        let lost = || Heard::Lost("why".into());
        assert_eq!(colours(true, vec![all(), lost()]), [Color::Red, Color::Reset, Color::Yellow]);
        assert_eq!(colours(false, vec![all(), lost()]), [Color::Reset]);
    }

    #[test]
    fn nothing_of_what_others_chose_steers_the_terminal() {
        let mut told = told(&[("\u{1b}[2J\u{202e}", 1.0)], 1);
        told["node"] = json!("n\u{7}1");
        let screens = ["", "2", "3", "4"].map(|keys| {
            shown((120, 12), vec![changes(told.clone()), Heard::Lost("\u{9b}2J".into())], keys, 0)
        });
        let steers = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!screens.concat().chars().any(steers), "{screens:?}");
    }
}
