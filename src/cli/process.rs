//! What commands that stay have in common: the runtime, signals, logs, the limit of open files.

use std::future::Future;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncReadExt, Stdin};

use super::failure::Failure;
use crate::{
    config::LogArgs,
    telemetry::{self, Log},
};

/// Starts logging as the flags say.
pub(super) fn log(args: &LogArgs) -> Result<Log, Failure> {
    Ok(telemetry::init(args.format, &args.level)?)
}

/// Runs a command to its end.
pub(super) fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the runtime")?;
    let result = runtime.block_on(command);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Set for a process that is to leave when its standard input ends, as it does when whoever has the other end of it ends:
/// `adit bench` starts others so.
pub(super) const LEAVE_WITH_STDIN: &str = "ADIT_LEAVE_WITH_STDIN";

/// SIGINT and SIGTERM, from when it is made; for [`LEAVE_WITH_STDIN`], the end of standard input too.
pub(super) struct Signals {
    stdin: Option<Stdin>,
    /// For commands that stay when it comes, but not when it says that their terminal is gone.
    hangup: Option<Hangups>,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Which of a terminal's own end the command as well.
    #[cfg(unix)]
    terminal: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Self { stdin: stdin(), hangup: None, interrupt, terminate, terminal: None })
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { stdin: stdin(), hangup: None })
    }

    /// The same for a command that reads its configuration again at SIGHUP.
    pub(super) fn with_hangups() -> Result<(Self, Hangups), Failure> {
        Ok((Self { hangup: Some(Hangups::new()?), ..Self::new()? }, Hangups::new()?))
    }

    /// The same for a command that has taken its terminal, and is to give it back whatever ends it.
    pub(super) fn of_terminal() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let quit = signal(SignalKind::quit()).context("cannot listen for signals")?;
            let hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
            Ok(Self { terminal: Some([quit, hangup]), ..Self::new()? })
        }
        #[cfg(not(unix))]
        Self::new()
    }

    /// The next signal. Cancel safe.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = gone(&mut self.hangup) => {}
            () = left(&mut self.terminal) => {}
            () = ended(&mut self.stdin) => {}
        }
        #[cfg(not(unix))]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = gone(&mut self.hangup) => {}
            () = ended(&mut self.stdin) => {}
        }
    }

    /// Leaves: waits for what is under way, at most until the next signal.
    pub(super) async fn leave<E>(&mut self, drain: impl Future<Output = Result<(), E>>) -> Result<(), Failure>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        tracing::info!("leaving; a second signal ends this at once");
        tokio::select! {
            drained = drain => Ok(drained.context("not everything could finish within --grace-period")?),
            () = self.next() => Err(anyhow!("a second signal came: what was under way is cut").into()),
        }
    }
}

fn stdin() -> Option<Stdin> {
    std::env::var_os(LEAVE_WITH_STDIN).map(|_| tokio::io::stdin())
}

/// SIGHUP: what daemons take as a call to read their configuration again, and what a terminal sends as it closes.
pub(super) struct Hangups {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
    /// Whether the process was started from a terminal that has not closed.
    terminal: bool,
}

impl Hangups {
    #[cfg(unix)]
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
        Ok(Self { hangup, terminal: has_terminal() })
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self, Failure> {
        Ok(Self { terminal: false })
    }

    /// The next one that somebody has sent. Cancel safe.
    pub(super) async fn next(&mut self) {
        while self.is_terminals().await {}
    }

    /// Whether the next one is that of a terminal which is gone.
    async fn is_terminals(&mut self) -> bool {
        #[cfg(unix)]
        if self.hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
        self.terminal && !has_terminal()
    }
}

/// Whether there is a terminal that controls this process: it can be opened by this name until it closes.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Waits until the terminal is gone.
async fn gone(hangups: &mut Option<Hangups>) {
    let Some(hangups) = hangups else { return std::future::pending().await };
    while !hangups.is_terminals().await {}
}

/// Waits for a signal of the terminal's.
#[cfg(unix)]
async fn left(terminal: &mut Option<[tokio::signal::unix::Signal; 2]>) {
    let Some([quit, hangup]) = terminal else { return std::future::pending().await };
    tokio::select! {
        _ = quit.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Waits for the end of standard input, which comes once.
async fn ended(stdin: &mut Option<Stdin>) {
    let Some(input) = stdin else { return std::future::pending().await };
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(1..)) {}
    *stdin = None;
}

/// Every connection is an open file, and the usual limit of 1024 is soon reached.
pub(super) fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "the limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}
