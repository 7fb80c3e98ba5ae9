//! Tokens that a command prints.

use std::process::Stdio;

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process,
};

use super::{GetTokenError, MAX_OUTPUT, TokenSource, read};
use crate::protocol::Secret;

/// How much of what a command says on its standard error is logged.
const MAX_SAID: u64 = 4096;

#[derive(Debug)]
pub(super) struct Command {
    line: String,
}

impl Command {
    pub(super) fn new(line: String) -> Self {
        Self { line }
    }

    async fn run(&self) -> Result<Secret, GetTokenError> {
        let mut command = shell(&self.line);
        // What takes too long is dropped, and must not run on.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(GetTokenError::Run)?;
        let printed = bounded(child.stdout.take(), MAX_OUTPUT);
        let said = bounded(child.stderr.take(), MAX_SAID);
        let (printed, said, status) = tokio::join!(printed, said, child.wait());
        let status = status.map_err(GetTokenError::Run)?;
        for line in String::from_utf8_lossy(&said).lines().filter(|line| !line.trim().is_empty()) {
            match status.success() {
                true => tracing::info!(said = line, "the token's command"),
                false => tracing::warn!(said = line, "the token's command, which has failed"),
            }
        }
        if status.success() { read(&printed) } else { Err(GetTokenError::Failed(status)) }
    }
}

/// A shell's command is one text wherever it is given, and needs no rules of quoting but the shell's own.
#[cfg(unix)]
fn shell(line: &str) -> process::Command {
    let mut command = process::Command::new("sh");
    command.args(["-c", line]);
    command
}

#[cfg(windows)]
fn shell(line: &str) -> process::Command {
    let mut command = process::Command::new("cmd");
    command.arg("/C").raw_arg(line);
    command
}

/// The beginning of what a command writes. The rest is read too, since the command would wait for that, and dropped.
async fn bounded(output: Option<impl AsyncRead + Unpin>, max: u64) -> Vec<u8> {
    let mut beginning = Vec::new();
    if let Some(mut output) = output {
        // What was read before an error counts; the command's status says whether it is all.
        let read = (&mut output).take(max).read_to_end(&mut beginning).await;
        if read.is_ok() {
            drop(tokio::io::copy(&mut output, &mut tokio::io::sink()).await);
        }
    }
    beginning
}

impl TokenSource for Command {
    fn token(&self) -> BoxFuture<'_, Result<Secret, GetTokenError>> {
        Box::pin(self.run())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn run(line: &str) -> Result<Secret, GetTokenError> {
        Command::new(line.into()).run().await
    }

    #[tokio::test]
    async fn what_it_prints_is_the_token() {
        assert_eq!(run("echo 'a.b' | tr b c").await.unwrap(), Secret::new("a.c"));
        assert_eq!(run("echo hunter2; echo not this >&2").await.unwrap(), Secret::new("hunter2"));
    }

    #[tokio::test]
    async fn a_command_that_fails_gives_no_token() {
        assert!(
            matches!(run("echo hunter2; exit 3").await, Err(GetTokenError::Failed(status)) if status.code() == Some(3))
        );
        assert!(matches!(run("true").await, Err(GetTokenError::Empty)));
        assert!(matches!(run("echo two words").await, Err(GetTokenError::NoToken)));
        let flood = "head -c 10000000 /dev/zero | tr '\\0' a; head -c 10000000 /dev/zero >&2";
        assert!(matches!(run(flood).await, Err(GetTokenError::TooLong)));
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_does_not_run_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let line = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", file.display());
        let command = Command::new(line);
        let process = tokio::select! {
            run = command.run() => panic!("{run:?}"),
            read = async {
                loop {
                    if let Ok(read) = std::fs::read_to_string(&file) {
                        break read;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => read.trim().to_owned(),
        };
        let runs = || {
            std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
        };
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
