//! New files, whole or not at all: what `generate` makes appears under its name complete, private keys
//! readable by their owner alone from the first byte, and nothing that exists is ever overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Why a file was not created.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is one already.
    #[error(
        "{} exists already and is not overwritten: remove it first, or choose another name",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error(
        "{} cannot be written: check that its folder exists and that this user may write there",
        path.display()
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Creates the file `path` with `bytes`, of mode 0600 if it is `private`. Others see it complete or not at
/// all.
///
/// # Errors
///
/// [`WriteError::Exists`] if there is a file of this name, which is then left as it is;
/// [`WriteError::Failed`] if it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], private: bool) -> Result<(), WriteError> {
    let result = temporary_beside(path).and_then(|temporary| {
        let written = fill(&temporary, bytes, private)
            // Unlike a rename, a link fails when the name is taken.
            .and_then(|()| fs::hard_link(&temporary, path));
        // A leftover is harmless: it is hidden, as private as the file, and never read.
        let _ = fs::remove_file(&temporary);
        written
    });
    result.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists { path: path.to_owned() },
        _ => WriteError::Failed { path: path.to_owned(), source },
    })
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}", rand::random::<u64>()));
    Ok(path.with_file_name(hidden))
}

fn fill(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if private { 0o600 } else { 0o644 });
    #[cfg(not(unix))]
    let _ = private;
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
