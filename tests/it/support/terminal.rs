//! A terminal of its own for a program, and what is to be seen on its screen.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

use super::{eventually, ok};

/// A terminal, and the program that has it. Dropping it ends the program.
#[derive(Debug)]
pub(crate) struct Terminal {
    keys: File,
    terminal: OwnedFd,
    screen: Arc<Mutex<Screen>>,
    pub(crate) child: Child,
}

impl Terminal {
    /// Starts `adit` on one of so many columns and rows.
    pub(crate) fn start(
        (columns, rows): (u16, u16),
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let keys = ok(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC));
        ok(grantpt(&keys));
        ok(unlockpt(&keys));
        let name = ok(ptsname(&keys, Vec::new()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = ok(rustix::fs::open(name.as_c_str(), flags, Mode::empty()));
        let terminal_size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        ok(tcsetwinsize(&keys, terminal_size));
        let end = || ok(terminal.try_clone());
        // The size is asked of the terminal that controls a process, which is to be this one.
        let child = ok(Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_adit")])
            .args(arguments)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn());
        let screen = Arc::new(Mutex::new(Screen::new(columns.into(), rows.into())));
        let keys = File::from(keys);
        let mut output = ok(keys.try_clone());
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with an error, once the last who had the terminal has closed it.
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).take(&bytes[..read]);
            }
        });
        Self { keys, terminal, screen, child }
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        ok(self.keys.write_all(keys.as_bytes()));
    }

    /// The lines of the screen.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).lines()
    }

    /// The lines that have a text in them.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Waits for a text on the screen.
    pub(crate) async fn shows(&self, text: &str) {
        self.until(text, |screen| !screen.with(text).is_empty()).await;
    }

    /// Waits for something on the screen.
    pub(crate) async fn until(&self, what: &str, is_shown: impl Fn(&Self) -> bool) {
        let shown = std::panic::AssertUnwindSafe(eventually(what, async || is_shown(self)));
        let shown = futures_util::FutureExt::catch_unwind(shown).await;
        assert!(shown.is_ok(), "{what} is not on the screen:\n{}", self.lines().join("\n"));
    }

    /// How it takes keys and shows text. A program that draws changes this, and is to leave it as it was.
    pub(crate) fn modes(&self) -> String {
        let modes = ok(tcgetattr(&self.terminal));
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "{:?} {:?} {:?}, alternate: {}, cursor: {}",
            modes.input_modes, modes.output_modes, modes.local_modes, screen.alternate, screen.cursor
        )
    }

    /// All that was written to it, as it came.
    pub(crate) fn written(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).written.clone()
    }

    /// How the program ended, once it has.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        eventually("the program ends", async || ok(self.child.try_wait()).is_some()).await;
        ok(self.child.wait()).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// As much of a terminal as programs that draw whole screens need: places, clearing, two screens.
#[derive(Debug)]
struct Screen {
    written: String,
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    alternate: bool,
    cursor: bool,
    /// The beginning of a sequence or of a character that has not come whole.
    rest: Vec<u8>,
}

impl Screen {
    fn new(columns: usize, rows: usize) -> Self {
        let cells = vec![vec![' '; columns]; rows];
        Self { written: String::new(), cells, at: (0, 0), alternate: false, cursor: true, rest: Vec::new() }
    }

    fn lines(&self) -> Vec<String> {
        self.cells.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        let mut left = text.as_str();
        while let Some(first) = left.chars().next() {
            left = match left.strip_prefix("\x1b[") {
                Some(sequence) => {
                    let Some(end) = sequence.find(|c: char| ('@'..='~').contains(&c)) else { break };
                    self.does(&sequence[..end], &sequence[end..=end]);
                    &sequence[end + 1..]
                }
                None if left == "\x1b" => break,
                None => {
                    self.puts(first);
                    &left[first.len_utf8()..]
                }
            };
        }
        let done = text.len() - left.len();
        self.written.push_str(&text[..done]);
        self.rest.drain(..done);
    }

    fn does(&mut self, arguments: &str, name: &str) {
        let numbers: Vec<usize> = arguments.split(';').map(|number| number.parse().unwrap_or(0)).collect();
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0);
        match (name, arguments) {
            ("H", _) => self.at = (number(0).max(1) - 1, number(1).max(1) - 1),
            ("J", _) => self.cells.iter_mut().for_each(|line| line.fill(' ')),
            ("K", _) => self.cells[self.at.0][self.at.1..].fill(' '),
            ("h" | "l", "?1049") => self.alternate = name == "h",
            ("h" | "l", "?25") => self.cursor = name == "h",
            // How letters look.
            _ => {}
        }
    }

    fn puts(&mut self, c: char) {
        match c {
            '\r' => self.at.1 = 0,
            '\n' => self.at.0 = (self.at.0 + 1).min(self.cells.len() - 1),
            c => {
                let (line, column) = self.at;
                if let Some(cell) = self.cells.get_mut(line).and_then(|line| line.get_mut(column)) {
                    *cell = c;
                }
                self.at.1 += 1;
            }
        }
    }
}
