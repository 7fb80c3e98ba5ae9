//! How a command fails: what is said, and the exit code.
//!
//! 2 is for what the user can set right before anything has run: usage and configuration, a taken port among them. 1 is the
//! rest.

use std::{fmt, io, io::Write, process::ExitCode};

use crate::{
    agent,
    config::{ConfigError, ParseError},
    forward, node,
    telemetry::InvalidFilter,
};

/// Why a command ends without success.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be started like this.
    Usage(anyhow::Error),
    /// It was started, and failed.
    Run(anyhow::Error),
}

impl Failure {
    /// Says it in one sentence and gives the exit code.
    pub(super) fn tell(self) -> ExitCode {
        let (error, code) = match self {
            Self::Usage(error) => (error, 2),
            Self::Run(error) => (error, 1),
        };
        // With the alternate flag, anyhow writes the causes behind the error, in one line.
        drop(writeln!(io::stderr().lock(), "adit: {error:#}{}", hint(&error)));
        ExitCode::from(code)
    }
}

/// The way out for a port that cannot be bound, which the system's own text does not tell.
fn hint(error: &anyhow::Error) -> &'static str {
    if !(error.is::<node::StartError>() || error.is::<forward::StartError>()) {
        return "";
    }
    let system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    match system.map(io::Error::kind) {
        Some(io::ErrorKind::AddrInUse) => {
            "; end the process that has it, or choose another port (0: any that is free)"
        }
        Some(io::ErrorKind::AddrNotAvailable) => {
            "; choose an address of this host, or 0.0.0.0 for all of them"
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 are for privileged users, so choose a higher one"
        }
        _ => "",
    }
}

impl fmt::Display for Failure {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(error) | Self::Run(error)) = self;
        write!(f, "{error:#}")
    }
}

/// For a line that is read again, whose help nobody waits for.
impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        let error = match error {
            ParseError::Config(error) => error.into(),
            ParseError::Line(error) => {
                let text = error.to_string();
                let first = text.split("\n\n").next().unwrap_or_default();
                let words: Vec<_> = first.trim_start_matches("error: ").split_whitespace().collect();
                anyhow::anyhow!("{}", words.join(" "))
            }
        };
        Self::Usage(error)
    }
}

/// For what goes wrong while a command runs.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

macro_rules! usage {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Usage(error.into())
            }
        }
    )*};
}

usage!(ConfigError, InvalidFilter, node::StartError, agent::StartError, forward::StartError);
