//! One process of this same program. It ends with this one, however this one ends: its standard input is a pipe from here,
//! and it leaves when that is closed, which the system does for a process that is killed.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child as Handle, ChildStdout, Command},
};

use super::{super::process::LEAVE_WITH_STDIN, progress::Progress};

/// How long a process has to say what it serves. It takes milliseconds.
const START: Duration = Duration::from_secs(30);

/// One that says nothing for so long is spoken of.
const SLOW: Duration = Duration::from_secs(2);

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
        let line = self.line_within(START).await?;
        line.with_context(|| self.is_silent())
    }

    /// The same for one that waits for others, of which it may have to be told that they are not there.
    pub(super) async fn line_of_others(&mut self, progress: &Progress) -> anyhow::Result<String> {
        let (started, mut said) = (Instant::now(), None::<String>);
        while started.elapsed() < START {
            if let Some(line) = self.line_within(SLOW).await? {
                return Ok(line);
            }
            // What stands in its way may come to light later.
            let why = self.last_words();
            if said.as_ref() != Some(&why) {
                progress.notes(&format!("still waiting for {} to serve{why}", self.name));
                said = Some(why);
            }
        }
        bail!("{}", self.is_silent())
    }

    /// `None` when it has said nothing in that time.
    async fn line_within(&mut self, patience: Duration) -> anyhow::Result<Option<String>> {
        let lines = self.lines.as_mut().context("nobody listens to it any more")?;
        match tokio::time::timeout(patience, lines.next_line()).await {
            Err(_) => Ok(None),
            Ok(Ok(Some(line))) => Ok(Some(line)),
            Ok(_) => bail!("{} has ended{}", self.name, self.last_words()),
        }
    }

    fn is_silent(&self) -> String {
        format!("{} has not said within {START:?} that it is there{}", self.name, self.last_words())
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
    pub(super) async fn leave(&mut self, patience: Duration) -> anyhow::Result<()> {
        drop(self.handle.stdin.take());
        let left = tokio::time::timeout(patience, self.handle.wait()).await;
        left.with_context(|| format!("{} has not left within {patience:?}", self.name))??;
        Ok(())
    }
}
