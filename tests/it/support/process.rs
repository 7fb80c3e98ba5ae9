//! The real binary, as users run it.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use super::ok;

/// A running `adit`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Log>,
    /// How much of the log [`Process::log_with`] has gone through.
    seen: AtomicUsize,
}

/// What a process has written to its standard error.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Starts `adit` with these arguments, in a folder of its own (where `certs/` is found or made).
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_in(folder, arguments, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        // Whoever runs the tests may need a proxy; they do not.
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        let mut child = ok(command
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn());
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::<Log>::default();
        let logged = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                logged.lines().push(line);
                logged.more.notify_all();
            }
        });
        Self { child, lines, log, seen: AtomicUsize::new(0) }
    }

    /// The lines of its log so far that have a text in them.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        self.log.lines().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// The first line of its log that has a text in it, once there is one. Unlike [`Process::log_with`], this leaves the thread
    /// to what it waits for.
    pub(crate) async fn logs(&self, text: &str) -> String {
        super::eventually(&format!("{text:?} is logged"), async || !self.logged(text).is_empty()).await;
        self.logged(text).remove(0)
    }

    /// The next line of standard output that has a text in it.
    pub(crate) fn line_with(&self, text: &str) -> String {
        next_with(&self.lines, text)
    }

    /// The same, once there is one; it leaves the thread to what it waits for.
    pub(crate) async fn printed(&self, text: &str) -> String {
        let mut found = None;
        super::eventually(&format!("{text:?} is printed"), async || {
            found = self.lines.try_iter().find(|line| line.contains(text));
            found.is_some()
        })
        .await;
        found.expect("it has been found")
    }

    /// The next line of the log that has a text in it.
    pub(crate) fn log_with(&self, text: &str) -> String {
        let end = Instant::now() + super::SOON;
        let mut lines = self.log.lines();
        loop {
            let seen = self.seen.load(Relaxed);
            if let Some(at) = lines.iter().skip(seen).position(|line| line.contains(text)) {
                self.seen.store(seen + at + 1, Relaxed);
                return lines[seen + at].clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} is not logged: {lines:?}");
            lines = self.log.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The address in the next line that begins with a name, such as `edge   http://127.0.0.1:8000`.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        address_in(&self.line_with(&format!("{name} ")))
    }

    /// The next line of standard output that has a text in it; nothing where that ends before.
    async fn printed_unless_it_ends(&self, text: &str) -> Option<String> {
        let mut found = None;
        super::eventually(&format!("{text:?} is printed, or nothing any more"), async || {
            loop {
                match self.lines.try_recv() {
                    Ok(line) if line.contains(text) => {
                        found = Some(line);
                        return true;
                    }
                    Ok(_) => {}
                    Err(TryRecvError::Empty) => return false,
                    Err(TryRecvError::Disconnected) => return true,
                }
            }
        })
        .await;
        found
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = ok(Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status());
        assert!(status.success(), "kill -{name}");
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        ok(self.child.try_wait()).is_none()
    }

    /// How it ended, once it has.
    pub(crate) async fn wait_in_time(&mut self) -> Option<i32> {
        super::eventually("the process ends", async || !self.runs()).await;
        self.wait()
    }

    /// How it ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        ok(self.child.wait()).code()
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = ok(std::fs::read_to_string(format!("/proc/{}/status", self.id())));
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
        let kib: u64 = ok(line.split_whitespace().nth(1).expect("a number follows").parse());
        kib * 1024
    }
}

/// A process that takes the ports again that one before it had, and the address in the first line that begins with a name.
/// One of the ports may be another test's for a while: then it ends before it prints that, and is started once more.
pub(crate) async fn restarted(folder: &Path, arguments: &[&str], name: &str) -> (Process, SocketAddr) {
    let end = Instant::now() + super::SOON;
    loop {
        let process = Process::start(folder, arguments);
        if let Some(line) = process.printed_unless_it_ends(&format!("{name} ")).await {
            return (process, address_in(&line));
        }
        assert!(Instant::now() < end, "it ends before it listens: {:?}", process.logged(""));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The address in a line such as `edge   http://127.0.0.1:8000`.
fn address_in(line: &str) -> SocketAddr {
    let address = line.rsplit("://").next().and_then(|rest| rest.split_whitespace().next());
    ok(address.expect("the line has an address").parse())
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    // What nobody waits for is read all the same, or the process would stand still.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn next_with(lines: &Receiver<String>, text: &str) -> String {
    let end = Instant::now() + super::SOON;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left);
        let line = line.unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
        if line.contains(text) {
            return line;
        }
    }
}
