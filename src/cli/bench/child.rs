//! One process of this same program. It ends with this one, however this one ends: its standard input is a pipe from here,
//! and it leaves when that is closed, which the system does for a process that is killed.

use std::{fs::File, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child as Handle, ChildStdout, Command},
};

use super::super::process::LEAVE_WITH_STDIN;

/// How long a process has to say what it serves. It takes milliseconds.
const START: Duration = Duration::from_secs(30);

/// A process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: String,
    handle: Handle,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    log: std::path::PathBuf,
}

impl Child {
    /// Starts `adit` with these words. Its log goes to a file in `folder`. Only where it is to meet a cluster of the user's is it
    /// told what the user's environment says.
    pub(super) fn start(
        folder: &Path,
        name: &str,
        words: &[String],
        environment: bool,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let mut command = Command::new(program);
        if !environment {
            for (variable, _) in std::env::vars_os() {
                if variable.to_string_lossy().starts_with("ADIT_") {
                    command.env_remove(variable);
                }
            }
        }
        let file = File::options().create(true).append(true).open(&log);
        let mut handle = command
            .args(words)
            .args(["--log-level=warn", "--log-format=text"])
            .env(LEAVE_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file.with_context(|| format!("{} cannot be written", log.display()))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let stdout = handle.stdout.take().context("its output is a pipe")?;
        Ok(Self { name: name.into(), handle, lines: Some(BufReader::new(stdout).lines()), log })
    }

    /// The next line that it prints.
    pub(super) async fn line(&mut self) -> anyhow::Result<String> {
        let lines = self.lines.as_mut().context("nobody listens to it any more")?;
        match tokio::time::timeout(START, lines.next_line()).await {
            Err(_) => {
                bail!("{} has not said within {START:?} that it is there{}", self.name, self.last_words())
            }
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => bail!("{} has ended{}", self.name, self.last_words()),
        }
    }

    /// From now on nothing that it prints is of interest.
    pub(super) fn is_started(&mut self) {
        self.lines = None;
    }

    /// The end of its log, as the end of a sentence.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().map_or_else(String::new, |line| format!(": {line}"))
    }

    /// Its number, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.handle.id()
    }

    /// Fails if it does not run any more.
    pub(super) fn runs(&mut self) -> anyhow::Result<()> {
        match self.handle.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(anyhow!("{} has ended by itself, with {status}{}", self.name, self.last_words()))
            }
        }
    }

    /// Ends it without a word, and waits until it has ended.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.handle.kill().await?)
    }

    /// Lets it leave as it does at SIGTERM, and waits until it has.
    pub(super) async fn leave(&mut self) -> anyhow::Result<()> {
        drop(self.handle.stdin.take());
        let left = tokio::time::timeout(START, self.handle.wait()).await;
        left.with_context(|| format!("{} has not left within {START:?}", self.name))??;
        Ok(())
    }
}
