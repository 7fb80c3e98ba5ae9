//! The real binary, as users run it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use super::ok;

/// A running `adit`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `adit` with these arguments, in a folder of its own (where `certs/` is found or made).
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = ok(Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn());
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let logged = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                logged.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, lines, log }
    }

    /// The lines of its log so far that have a text in them.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// The next line of standard output that has a text in it.
    pub(crate) fn line_with(&self, text: &str) -> String {
        let end = std::time::Instant::now() + super::SOON;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The address in the next line that begins with a name, such as `edge   http://127.0.0.1:8000`.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let line = self.line_with(&format!("{name} "));
        let address = line.rsplit("://").next().and_then(|rest| rest.split_whitespace().next());
        ok(address.expect("the line has an address").parse())
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

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
