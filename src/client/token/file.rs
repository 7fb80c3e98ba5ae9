//! Tokens from a file that something else keeps up to date.

use std::{path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;

use super::{GetTokenError, MAX_OUTPUT, TokenSource, read};
use crate::protocol::Secret;

/// How often its content is looked at. It is read, rather than watched by its time or the system, which a mounted file or
/// one that is replaced by renaming may not tell.
const LOOK: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn read(&self) -> Result<Secret, GetTokenError> {
        let failed = |source| GetTokenError::File { path: self.path.clone(), source };
        let file = tokio::fs::File::open(&self.path).await.map_err(failed)?;
        let mut content = Vec::new();
        file.take(MAX_OUTPUT).read_to_end(&mut content).await.map_err(failed)?;
        read(&content)
    }
}

impl TokenSource for File {
    fn token(&self) -> BoxFuture<'_, Result<Secret, GetTokenError>> {
        Box::pin(self.read())
    }

    fn look(&self) -> Option<Duration> {
        Some(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_content_of_the_moment_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::new(folder.path().join("token"));
        let failed = file.read().await.unwrap_err();
        assert!(
            matches!(&failed, GetTokenError::File { .. })
                && failed.to_string().contains("token cannot be read")
        );
        for token in ["first", "second"] {
            std::fs::write(&file.path, format!("{token}\n")).unwrap();
            assert_eq!(file.read().await.unwrap(), Secret::new(token));
        }
        std::fs::write(&file.path, vec![b'a'; 1 << 20]).unwrap();
        assert!(matches!(file.read().await, Err(GetTokenError::TooLong)));
    }
}
