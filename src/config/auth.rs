//! The flags that say whose tokens a port takes: the same for each port, behind the port's name.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{ConfigError, duration, limits::time};
use crate::{
    auth::{self, JwksSettings, JwksSource, KeysConfig, Rules, load_keys, read_keys},
    protocol::Secret,
    tls::Trust,
};

/// What was given for one port; the names are those of the flags, for errors.
struct Given {
    names: Names,
    key: Option<Secret>,
    key_file: Option<PathBuf>,
    jwks: Option<String>,
    jwks_ca: Option<PathBuf>,
    jwks_ttl: Option<Duration>,
    jwks_timeout: Option<Duration>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    skew: Option<Duration>,
}

struct Names {
    key: &'static str,
    key_file: &'static str,
    jwks: &'static str,
    jwks_ca: &'static str,
    jwks_ttl: &'static str,
    jwks_timeout: &'static str,
    issuer: &'static str,
    audience: &'static str,
    skew: &'static str,
}

/// By whom the server of a set is judged: the authorities of a file, or those of the system.
pub(super) fn trust_in_source(ca: Option<&Path>) -> Result<Trust, ConfigError> {
    Ok(match ca {
        Some(path) => Trust::Roots(Trust::roots_from_file(path)?),
        None => Trust::Platform { extra: Vec::new() },
    })
}

impl Given {
    fn config(self) -> Result<Option<auth::Config>, ConfigError> {
        let names = &self.names;
        let keys = match (&self.key, &self.key_file, &self.jwks) {
            (Some(_), Some(_), _) => {
                return Err(ConfigError::Conflict { one: names.key, other: names.key_file });
            }
            (Some(_), _, Some(_)) => return Err(ConfigError::Conflict { one: names.key, other: names.jwks }),
            (_, Some(_), Some(_)) => {
                return Err(ConfigError::Conflict { one: names.key_file, other: names.jwks });
            }
            (Some(key), None, None) => {
                let keys = read_keys(key.expose().as_bytes());
                KeysConfig::Fixed(keys.map_err(|source| ConfigError::AuthKey { option: names.key, source })?)
            }
            (None, Some(path), None) => KeysConfig::Fixed(load_keys(path)?),
            (None, None, Some(url)) => KeysConfig::Jwks(self.source(url)?, self.settings()),
            (None, None, None) => return self.nothing().map(|()| None),
        };
        self.only_with_jwks()?;
        let rules = Rules {
            issuers: self.issuers,
            audiences: self.audiences,
            skew: self.skew.unwrap_or(Rules::SKEW),
            ..Rules::default()
        };
        Ok(Some(auth::Config { keys, rules }))
    }

    fn source(&self, url: &str) -> Result<JwksSource, ConfigError> {
        let trust = trust_in_source(self.jwks_ca.as_deref())?;
        JwksSource::new(url, &trust)
            .map_err(|source| ConfigError::AuthSource { option: self.names.jwks, source })
    }

    fn settings(&self) -> JwksSettings {
        let default = JwksSettings::default();
        JwksSettings {
            lifetime: self.jwks_ttl.unwrap_or(default.lifetime),
            timeout: self.jwks_timeout.unwrap_or(default.timeout),
            ..default
        }
    }

    fn only_with_jwks(&self) -> Result<(), ConfigError> {
        let Names { jwks, jwks_ca, jwks_ttl, jwks_timeout, .. } = self.names;
        let given = [
            (self.jwks_ca.is_some(), jwks_ca),
            (self.jwks_ttl.is_some(), jwks_ttl),
            (self.jwks_timeout.is_some(), jwks_timeout),
        ];
        match given.into_iter().find(|(given, _)| *given && self.jwks.is_none()) {
            Some((_, given)) => Err(ConfigError::Half { given, missing: jwks }),
            None => Ok(()),
        }
    }

    /// Demands on tokens without keys would demand nothing.
    fn nothing(&self) -> Result<(), ConfigError> {
        self.only_with_jwks()?;
        let Names { issuer, audience, skew, .. } = self.names;
        let given = [
            (!self.issuers.is_empty(), issuer),
            (!self.audiences.is_empty(), audience),
            (self.skew.is_some(), skew),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, given)) => Err(ConfigError::NoAuthKeys { given, key: self.names.key_file }),
            None => Ok(()),
        }
    }
}

macro_rules! auth_args {
    ($(#[$doc:meta])* $name:ident, $port:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Args)]
        pub struct $name {
            /// Take only tokens that this key verifies: a public key or certificate as PEM, a JWK Set, or a shared secret, as
            /// it is or behind `base64:`.
            #[arg(id = concat!($port, "_auth_key"), long = concat!($port, "-auth-key"))]
            #[arg(value_name = "KEY", hide_default_value = true)]
            key: Option<Secret>,
            /// The same from a file, which may hold several keys.
            #[arg(id = concat!($port, "_auth_key_file"), long = concat!($port, "-auth-key-file"), value_name = "FILE")]
            key_file: Option<PathBuf>,
            /// Take only tokens that a key of this JWK Set verifies, which is fetched again and again: https://…, http://…
            /// or file:PATH.
            #[arg(id = concat!($port, "_auth_jwks"), long = concat!($port, "-auth-jwks"), value_name = "URL")]
            jwks: Option<String>,
            /// Trust only the authorities in this PEM file for an https:// set. By default, those of the system.
            #[arg(id = concat!($port, "_auth_jwks_ca"), long = concat!($port, "-auth-jwks-ca"), value_name = "FILE")]
            jwks_ca: Option<PathBuf>,
            /// How long a set is fresh whose source does not say. By default, 1h.
            #[arg(id = concat!($port, "_auth_jwks_ttl"), long = concat!($port, "-auth-jwks-ttl"))]
            #[arg(value_name = "DURATION", value_parser = time)]
            jwks_ttl: Option<Duration>,
            /// How long fetching a set may take. By default, 10s.
            #[arg(id = concat!($port, "_auth_jwks_timeout"), long = concat!($port, "-auth-jwks-timeout"))]
            #[arg(value_name = "DURATION", value_parser = time)]
            jwks_timeout: Option<Duration>,
            /// Take only tokens of this issuer (repeatable).
            #[arg(id = concat!($port, "_auth_issuer"), long = concat!($port, "-auth-issuer"), value_name = "NAME")]
            issuers: Vec<String>,
            /// Take only tokens for this audience (repeatable). Without it, only tokens that name none.
            #[arg(id = concat!($port, "_auth_audience"), long = concat!($port, "-auth-audience"), value_name = "NAME")]
            audiences: Vec<String>,
            /// By how much the clock of whoever makes tokens may differ. By default, 10s.
            #[arg(id = concat!($port, "_auth_skew"), long = concat!($port, "-auth-skew"))]
            #[arg(value_name = "DURATION", value_parser = duration)]
            skew: Option<Duration>,
            /// Whether what relies on a token ends with it.
            #[arg(id = concat!($port, "_auth_disconnect_on_expiry"), long = concat!($port, "-auth-disconnect-on-expiry"))]
            #[arg(value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
            // Operators are answered at once: nothing is open there that a token could end.
            #[arg(hide_possible_values = true, hide = $port == "admin")]
            disconnect_on_expiry: bool,
        }

        impl $name {
            /// Authentication of the port; none when nothing is given.
            ///
            /// # Errors
            /// What was given cannot be used, or does not go together.
            pub fn config(self) -> Result<Option<auth::Config>, ConfigError> {
                let Self {
                    key, key_file, jwks, jwks_ca, jwks_ttl, jwks_timeout, issuers, audiences, skew,
                    disconnect_on_expiry: _,
                } = self;
                let names = Names {
                    key: concat!("--", $port, "-auth-key"),
                    key_file: concat!("--", $port, "-auth-key-file"),
                    jwks: concat!("--", $port, "-auth-jwks"),
                    jwks_ca: concat!("--", $port, "-auth-jwks-ca"),
                    jwks_ttl: concat!("--", $port, "-auth-jwks-ttl"),
                    jwks_timeout: concat!("--", $port, "-auth-jwks-timeout"),
                    issuer: concat!("--", $port, "-auth-issuer"),
                    audience: concat!("--", $port, "-auth-audience"),
                    skew: concat!("--", $port, "-auth-skew"),
                };
                Given {
                    names, key, key_file, jwks, jwks_ca, jwks_ttl, jwks_timeout, issuers, audiences, skew,
                }
                .config()
            }

            /// Whether what relies on a token or certificate outlives it.
            pub fn keep_expired(&self) -> bool {
                !self.disconnect_on_expiry
            }
        }
    };
}

auth_args! {
    /// Whose tokens the edge takes.
    EdgeAuthArgs, "edge"
}

auth_args! {
    /// Whose tokens the link port takes.
    LinkAuthArgs, "link"
}

auth_args! {
    /// Whose tokens the admin port takes.
    AdminAuthArgs, "admin"
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::auth::{Algorithm, Kind, SigningKey};

    #[derive(Debug, Clone, Parser)]
    struct Line {
        #[command(flatten)]
        edge: EdgeAuthArgs,
        #[command(flatten)]
        link: LinkAuthArgs,
        #[command(flatten)]
        admin: AdminAuthArgs,
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn line(words: &[&str]) -> Line {
        Line::try_parse_from(std::iter::once("adit").chain(words.iter().copied())).unwrap()
    }

    fn fault(words: &[&str]) -> String {
        let error = line(words).edge.config().unwrap_err();
        crate::telemetry::report(&error)
    }

    #[test]
    fn each_port_has_flags_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token.pub");
        let pem = SigningKey::generate(Algorithm::Es256).unwrap().public_pem().unwrap().unwrap();
        std::fs::write(&file, pem).unwrap();
        let words = ["--edge-auth-key", SECRET, "--edge-auth-issuer=us", "--edge-auth-issuer=them"];
        let file = format!("--link-auth-key-file={}", file.display());
        let more = [file.as_str(), "--link-auth-disconnect-on-expiry=false", "--edge-auth-skew=1m"];
        let line = line(&[&words[..], &more].concat());
        assert!(!format!("{line:?}").contains(SECRET));

        assert!(!line.edge.keep_expired() && line.link.keep_expired());
        let edge = line.edge.config().unwrap().unwrap();
        assert_eq!(edge.rules.issuers, ["us", "them"]);
        assert_eq!(edge.rules.skew, Duration::from_secs(60));
        let kind = |config: &auth::Config| match &config.keys {
            KeysConfig::Fixed(keys) => keys.iter().map(auth::Key::kind).collect::<Vec<_>>(),
            KeysConfig::Jwks(..) => Vec::new(),
        };
        assert_eq!(kind(&edge), [Kind::Secret]);
        let link = line.link.config().unwrap().unwrap();
        assert_eq!(kind(&link), [Kind::P256]);
        assert!(line.admin.config().unwrap().is_none());
    }

    #[test]
    fn a_set_has_its_own_flags() {
        let words = [
            "--edge-auth-jwks=https://id.example.com/keys",
            "--edge-auth-jwks-ttl=5m",
            "--edge-auth-jwks-timeout=2s",
        ];
        let config = line(&words).edge.config().unwrap().unwrap();
        let KeysConfig::Jwks(source, settings) = config.keys else { panic!("keys are fetched") };
        assert_eq!(source.to_string(), "https://id.example.com:443/keys");
        assert_eq!((settings.lifetime, settings.timeout), (Duration::from_secs(300), Duration::from_secs(2)));
    }

    #[test]
    fn mistakes_name_the_flag_and_the_fix() {
        for (words, expected) in [
            (
                &["--edge-auth-key", SECRET, "--edge-auth-key-file=a"][..],
                "--edge-auth-key and --edge-auth-key-file exclude each other: leave one of them out",
            ),
            (
                &["--edge-auth-key", SECRET, "--edge-auth-jwks=file:a"],
                "--edge-auth-key and --edge-auth-jwks exclude each other: leave one of them out",
            ),
            (
                &["--edge-auth-key-file=a", "--edge-auth-jwks=file:a"],
                "--edge-auth-key-file and --edge-auth-jwks exclude each other: leave one of them out",
            ),
            (
                &["--edge-auth-key", SECRET, "--edge-auth-jwks-ttl=1h"],
                "--edge-auth-jwks-ttl needs --edge-auth-jwks: give both or neither",
            ),
            (&["--edge-auth-jwks-ca=a"], "--edge-auth-jwks-ca needs --edge-auth-jwks: give both or neither"),
            (
                &["--edge-auth-issuer=us"],
                "--edge-auth-issuer is given without a key, so that no token could be verified: give \
                 --edge-auth-key-file too",
            ),
            (
                &["--edge-auth-audience=us"],
                "--edge-auth-audience is given without a key, so that no token could be verified: give \
                 --edge-auth-key-file too",
            ),
            (
                &["--edge-auth-key=hunter2"],
                "--edge-auth-key cannot be used: the secret has 7 bytes, and at least 32 are needed: make one with \
                 `adit token key --alg HS256`",
            ),
            (
                &["--edge-auth-jwks=id.example.com"],
                "--edge-auth-jwks cannot be used: expected https://HOST/PATH, http://HOST/PATH or file:PATH",
            ),
        ] {
            assert_eq!(fault(words), expected);
        }
        let unreadable = fault(&["--edge-auth-key-file=/absent"]);
        assert!(unreadable.starts_with("/absent cannot be read"), "{unreadable}");
        let zero = Line::try_parse_from(["adit", "--edge-auth-jwks-timeout=0s"]);
        assert!(zero.unwrap_err().to_string().contains("longer than nothing"));
    }
}
