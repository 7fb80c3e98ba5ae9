//! A client's token: a fixed one, or a source that is asked for another before the last one ends.
//!
//! Owns where tokens come from and when the next one is got; each link takes the token of the moment with its `Hello` and
//! sends those that come later in `Token`. [`Keeper`] drives it. A token is never verified here: of what it says, only when
//! it ends is read, and it is neither logged nor shown.

#[cfg(feature = "server")]
mod command;
mod ends;
mod file;
mod keeper;
mod schedule;

use std::{fmt, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::protocol::{Hello, Secret};

pub(super) use keeper::{Keeper, Tokens};

/// How long a source has for one token.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a client's tokens come from.
#[derive(Clone)]
pub struct Token(Origin);

#[derive(Clone)]
enum Origin {
    Fixed(Secret),
    Source(Arc<dyn TokenSource>),
}

/// What tokens are got from: a file, a command, or an asynchronous closure such as one that asks an identity provider.
pub trait TokenSource: Send + Sync + 'static {
    /// Gets a token: for a link that is to be opened, and ahead of the end of the last one, which it may be again. Dropped
    /// when it takes longer than 30 s.
    fn token(&self) -> BoxFuture<'_, Result<Secret, GetTokenError>>;

    /// How often to look whether there is another token before the last one ends. Absent where that costs something.
    fn look(&self) -> Option<Duration> {
        None
    }
}

impl<F, T> TokenSource for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = Result<Secret, BoxError>> + Send + 'static,
{
    fn token(&self) -> BoxFuture<'_, Result<Secret, GetTokenError>> {
        let token = self();
        Box::pin(async move { token.await.map_err(GetTokenError::Other) })
    }
}

impl Token {
    /// The same token for ever.
    pub fn fixed(token: Secret) -> Self {
        Self(Origin::Fixed(token))
    }

    /// The content of a file, without the white space around it. It is read for each link and every few seconds.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::from_source(file::File::new(path.into()))
    }

    /// What a command prints, without the white space around it. The shell runs it, for a token that is to be had by one
    /// program often goes through another. What it says on its standard error is logged, what it prints never.
    #[cfg(feature = "server")]
    pub fn command(command: impl Into<String>) -> Self {
        Self::from_source(command::Command::new(command.into()))
    }

    /// What a source gives; [`TokenSource`] says when it is asked.
    pub fn from_source(source: impl TokenSource) -> Self {
        Self(Origin::Source(Arc::new(source)))
    }

    /// The token, where it is always the same.
    pub(super) fn as_fixed(&self) -> Option<&Secret> {
        match &self.0 {
            Origin::Fixed(token) => Some(token),
            Origin::Source(_) => None,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Origin::Fixed(_) => "[redacted]",
            Origin::Source(_) => "[from a source]",
        })
    }
}

/// Why there is no token. None of them holds what a source has given in its place.
#[derive(Debug, thiserror::Error)]
pub enum GetTokenError {
    /// The file cannot be read.
    #[error("the token's file {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command cannot be run.
    #[error("the token's command cannot be run")]
    Run(#[source] io::Error),
    /// The command failed.
    #[error("the token's command has failed ({0}); what it said is in the log before this")]
    Failed(std::process::ExitStatus),
    /// An embedder's source failed.
    #[error("the source of tokens has failed")]
    Other(#[source] BoxError),
    /// It gave nothing.
    #[error("the source of tokens has given nothing")]
    Empty,
    /// It gave more than a node would read.
    #[error("the source of tokens has given more than the {} bytes that a token may have", Hello::MAX_TOKEN)]
    TooLong,
    /// It gave something else, such as a message.
    #[error("the source of tokens has given something else than one word of ASCII")]
    NoToken,
    /// It took too long.
    #[error("the source of tokens has given nothing within {0:?}")]
    Late(Duration),
    /// The client is being closed.
    #[error("the client is closed")]
    Closed,
}

/// Reads a token, without the white space around it.
fn read(bytes: &[u8]) -> Result<Secret, GetTokenError> {
    match bytes.trim_ascii() {
        [] => Err(GetTokenError::Empty),
        token if token.len() > Hello::MAX_TOKEN => Err(GetTokenError::TooLong),
        token if !token.iter().all(u8::is_ascii_graphic) => Err(GetTokenError::NoToken),
        token => str::from_utf8(token).map(Secret::new).map_err(|_| GetTokenError::NoToken),
    }
}

/// How much of a source's output is read: a token and white space, and no more than shows that it is too long.
const MAX_OUTPUT: u64 = Hello::MAX_TOKEN as u64 + 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_of_bounded_length() {
        assert_eq!(read(b"\n a.b-c_d \r\n").unwrap(), Secret::new("a.b-c_d"));
        let is = |bytes: &[u8]| read(bytes).unwrap_err();
        assert!(matches!(is(b" \n"), GetTokenError::Empty));
        assert!(matches!(is(b"token: a"), GetTokenError::NoToken));
        assert!(matches!(is("\u{e9}".as_bytes()), GetTokenError::NoToken));
        assert!(read(&[b'a'; Hello::MAX_TOKEN]).is_ok());
        assert!(matches!(is(&[b'a'; Hello::MAX_TOKEN + 1]), GetTokenError::TooLong));
    }

    #[test]
    fn a_token_is_not_shown() {
        let shown =
            format!("{:?} {:?}", Token::fixed(Secret::new("hunter2")), read(b"hunter2 x").unwrap_err());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[tokio::test]
    async fn a_closure_is_a_source() {
        let token = Token::from_source(async || Ok(Secret::new("a")));
        let Origin::Source(source) = &token.0 else { panic!("it is a source") };
        assert_eq!(source.token().await.unwrap(), Secret::new("a"));
        let failing = async || -> Result<Secret, BoxError> { Err("no".into()) };
        assert!(matches!(failing.token().await, Err(GetTokenError::Other(_))));
    }
}
