//! What a node logs of each request and each flow.

use clap::Args;

use super::ConfigError;
use crate::{
    access_log::{self, LoggedHeader},
    auth::Doors,
};

/// The access log.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessLogArgs {
    /// Log each request and each flow of a client when it has ended: at level info, with the target adit::access.
    #[arg(long)]
    access_log: bool,
    /// Log this header of requests too (repeatable). Those that hold secrets are refused.
    #[arg(long, value_name = "NAME")]
    access_log_header: Vec<LoggedHeader>,
}

impl AccessLogArgs {
    /// What is logged, if anything, by a node with these doors.
    pub(super) fn config(self, doors: &Doors) -> Result<Option<access_log::Config>, ConfigError> {
        let Self { access_log, access_log_header: headers } = self;
        if !access_log {
            return match headers.is_empty() {
                true => Ok(None),
                false => Err(ConfigError::Half { given: "--access-log-header", missing: "--access-log" }),
            };
        }
        match headers.iter().find(|header| doors.open_by(header.name())) {
            Some(header) => Err(ConfigError::LoggedSecret(header.name().clone())),
            None => Ok(Some(access_log::Config { headers })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::from_words, *};
    use crate::auth::{Access, Door};

    fn read(words: &[&str]) -> Result<Option<usize>, String> {
        let access = Access { headers: vec!["x-door=open".parse().unwrap()], ..Access::default() };
        let door = Door { tenant: Default::default(), endpoints: "web-*".parse().unwrap(), access };
        let args: AccessLogArgs = from_words(words).map_err(|error| error.to_string())?;
        let config = args.config(&vec![door].into()).map_err(|error| error.to_string())?;
        Ok(config.map(|config| config.headers.len()))
    }

    #[test]
    fn it_is_off_unless_it_is_asked_for() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["--access-log"]), Ok(Some(0)));
        let both = ["--access-log", "--access-log-header", "user-agent", "--access-log-header=referer"];
        assert_eq!(read(&both), Ok(Some(2)));
        let told = read(&both[1..]).unwrap_err();
        assert!(told.starts_with("--access-log-header needs --access-log"), "{told}");
    }

    #[test]
    fn a_header_that_is_a_secret_is_refused_with_the_reason() {
        for (name, why) in
            [("Cookie", "hold secrets"), ("x-adit-tenant", "are for nodes"), ("a b", "the name of")]
        {
            let told = read(&["--access-log", "--access-log-header", name]).unwrap_err();
            assert!(told.contains("--access-log-header") && told.contains(why), "{told}");
        }
        let told = read(&["--access-log", "--access-log-header", "X-Door"]).unwrap_err();
        assert!(told.starts_with("--access-log-header x-door: a [[door]] is opened by it"), "{told}");
    }
}
