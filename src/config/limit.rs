//! What a node limits its callers to.

use std::{collections::HashSet, num::NonZeroU64};

use clap::Args;

use super::{ConfigError, bytes};
use crate::auth::{Limit, What};

/// How much each caller may have, and how often.
#[derive(Debug, Clone, Default, Args)]
pub struct CallerLimitArgs {
    /// Limit what each client address, agent (or forwarder), endpoint or tenant has of this node (repeatable), as in
    /// client.requests=100 or tenant.bytes=10MB. SCOPE is client, agent, endpoint or tenant; WHAT is links, flows or
    /// endpoints at once, or requests or bytes a second.
    #[arg(long, value_name = "SCOPE.WHAT=NUMBER", value_parser = limit)]
    limit: Vec<Limit>,
}

impl CallerLimitArgs {
    /// The limits.
    ///
    /// # Errors
    /// When one is given twice.
    pub(super) fn limits(&self) -> Result<Vec<Limit>, ConfigError> {
        let mut seen = HashSet::new();
        match self.limit.iter().find(|limit| !seen.insert((limit.scope(), limit.what()))) {
            Some(twice) => Err(ConfigError::LimitTwice { scope: twice.scope(), what: twice.what() }),
            None => Ok(self.limit.clone()),
        }
    }
}

/// A limit as people write it.
fn limit(text: &str) -> Result<Limit, String> {
    let (name, most) =
        text.split_once('=').ok_or("expected SCOPE.WHAT=NUMBER, such as client.requests=100")?;
    let limit = Limit::new(name, NonZeroU64::MIN).map_err(|error| error.to_string())?;
    let most = match limit.what() {
        What::Bytes => bytes(most)?,
        _ => most.parse().map_err(|_| "expected a number, such as 100")?,
    };
    let most = NonZeroU64::new(most).ok_or("nothing at all would be let through: it must be 1 or more")?;
    Limit::new(name, most).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::from_words, *};

    fn read(words: &[&str]) -> Result<Vec<(String, u64)>, String> {
        let words: Vec<_> = words.iter().flat_map(|word| ["--limit", word]).collect();
        let args: CallerLimitArgs = from_words(&words).map_err(|error| error.to_string())?;
        let limits = args.limits().map_err(|error| error.to_string())?;
        let name = |limit: &Limit| (format!("{}.{}", limit.scope(), limit.what()), limit.most().get());
        Ok(limits.iter().map(name).collect())
    }

    #[test]
    fn limits_are_numbers_and_those_of_bytes_may_have_a_unit() {
        let limits = read(&["client.requests=100", "tenant.bytes=10MB", "agent.bytes=1KiB"]).unwrap();
        let expected = [("client.requests", 100), ("tenant.bytes", 10_000_000), ("agent.bytes", 1024)];
        assert_eq!(limits, expected.map(|(name, most)| (name.to_owned(), most)));
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_limited_is_refused_by_name() {
        for (words, told) in [
            (&["client.requests"][..], "expected SCOPE.WHAT=NUMBER"),
            (&["client.endpoints=1"], "there is no limit \"client.endpoints\"; there are client.links, "),
            (&["client.links=0"], "it must be 1 or more"),
            (&["client.links=10MB"], "expected a number, such as 100"),
            (&["client.bytes=10Mb"], "expected a number of bytes"),
            (&["client.links=1", "client.links=2"], "--limit client.links is given twice"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
