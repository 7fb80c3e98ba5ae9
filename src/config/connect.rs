//! How agents and forwarders reach a node: its address, whom they believe, and who they are.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{ConfigError, LinkArgs, TrustArgs, server_name};
use crate::{
    client::{self, Address, Backoff, Token, Transport},
    net::{InvalidProxy, Proxy},
    protocol::{ALPN_LINK, Secret, TenantId},
    tls,
};

/// The link to the cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link to the cluster")]
pub struct ConnectArgs {
    #[arg(long, value_name = "HOST:PORT|URL", default_value = "127.0.0.1:8001")]
    #[arg(
        help = "The link port of a node, or the URL of a balancer in front of it: https://HOST[:PORT][/BASE]"
    )]
    connect: Address,
    /// Over what to link: QUIC (UDP), WebSocket (TCP), or QUIC with WebSocket where UDP comes to nothing.
    #[arg(long, value_enum, default_value = "auto")]
    transport: TransportArg,
    /// Link through this HTTP proxy where the link is over WebSocket. Else HTTPS_PROXY and NO_PROXY hold.
    // Read only when it is used: what clap says of a value that it does not take shows all of it.
    #[arg(long, value_name = "http://[USER:PASSWORD@]HOST:PORT", hide_default_value = true)]
    proxy: Option<Secret>,
    /// The name that the node's certificate must have, if not the host of --connect.
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server_name: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Tenant to ask for.
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantId>,
    /// Token to show to the node. In ADIT_TOKEN it stays out of the list of processes.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// Show the token in this file, and another one as soon as the file has one: links are renewed in place.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Show the token that this command prints, and run it again ahead of that token's end. It is run by the shell.
    // Its words may be secrets.
    #[arg(long, value_name = "COMMAND", hide_default_value = true)]
    token_command: Option<Secret>,
    /// A label of this process for people, shown by `adit status`.
    #[arg(long, value_name = "LABEL")]
    name: Option<String>,
    #[command(flatten)]
    link: LinkArgs,
}

/// `--transport`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TransportArg {
    Auto,
    Quic,
    Websocket,
}

impl ConnectArgs {
    pub(super) fn into_config(self) -> Result<client::Config, ConfigError> {
        if !self.connect.tls && !is_loopback(&self.connect.at.host) {
            tracing::warn!(
                connect = %self.connect,
                "http: whoever is on the way can read and change everything that goes over WebSocket; use https"
            );
        }
        let proxy = match (&self.proxy, self.transport) {
            // QUIC goes past all proxies, those that cannot be used among them.
            (_, TransportArg::Quic) => None,
            (Some(proxy), _) => Some(read_proxy("--proxy", proxy.expose())?),
            (None, _) => proxy_of(&self.connect.at.host, |name| std::env::var(name).ok())?,
        };
        let trust = self.trust.trust(&self.connect)?;
        let token = token(self.token, self.token_file, self.token_command)?;
        let identity = self.trust.identity()?;
        Ok(client::Config {
            connect: self.connect,
            transport: match self.transport {
                TransportArg::Auto => Transport::Auto,
                TransportArg::Quic => Transport::Quic,
                TransportArg::Websocket => Transport::WebSocket,
            },
            proxy,
            tls: tls::client_config(&trust, identity.as_ref(), &[ALPN_LINK])?,
            server_name: self.server_name,
            name: self.name,
            tenant: self.tenant,
            token,
            settings: self.link.settings()?,
            backoff: Backoff::default(),
            refused: client::Config::REFUSED,
            quic_again: client::Config::QUIC_AGAIN,
            links: client::Config::LINKS,
        })
    }
}

/// Where tokens come from, which is one place.
fn token(
    fixed: Option<Secret>,
    file: Option<PathBuf>,
    command: Option<Secret>,
) -> Result<Option<Token>, ConfigError> {
    let excluded = |one, other| Err(ConfigError::Conflict { one, other });
    match (fixed, file, command) {
        (Some(_), Some(_), _) => excluded("--token", "--token-file"),
        (Some(_), _, Some(_)) => excluded("--token", "--token-command"),
        (_, Some(_), Some(_)) => excluded("--token-file", "--token-command"),
        (Some(token), None, None) => Ok(Some(Token::fixed(token))),
        (None, Some(file), None) => Ok(Some(Token::file(file))),
        (None, None, Some(command)) => Ok(Some(Token::command(command.expose()))),
        (None, None, None) => Ok(None),
    }
}

/// The proxy that the environment names for a host, as curl reads it.
fn proxy_of(host: &str, env: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, UnusableProxy> {
    let either = |upper: &'static str, lower: &'static str| {
        let found = [upper, lower].into_iter().find_map(|name| Some((name, env(name)?)));
        found.filter(|(_, value)| !value.is_empty())
    };
    let host = host.to_ascii_lowercase();
    let excepted = either("NO_PROXY", "no_proxy").is_some_and(|(_, list)| {
        let list = list.to_ascii_lowercase();
        list.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
            let below = host.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            entry == "*" || (!entry.is_empty() && below)
        })
    });
    match either("HTTPS_PROXY", "https_proxy") {
        Some((name, value)) if !excepted => read_proxy(name, &value).map(Some),
        _ => Ok(None),
    }
}

fn read_proxy(from: &'static str, text: &str) -> Result<Proxy, UnusableProxy> {
    text.parse().map_err(|source| UnusableProxy { from, source })
}

/// A proxy that is none. It may have a password, so it is not shown.
#[derive(Debug, thiserror::Error)]
#[error("{from} cannot be used: {source}")]
pub struct UnusableProxy {
    from: &'static str,
    source: InvalidProxy,
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_from_one_place() {
        let (secret, file) = (Some(Secret::new("hunter2")), Some(PathBuf::from("token")));
        let of = |fixed: &Option<Secret>, file: &Option<PathBuf>, command: &Option<Secret>| {
            token(fixed.clone(), file.clone(), command.clone()).map(|token| token.is_some())
        };
        assert!(matches!(of(&None, &None, &None), Ok(false)));
        for (fixed, file, command) in
            [(&secret, &None, &None), (&None, &file, &None), (&None, &None, &secret)]
        {
            assert!(matches!(of(fixed, file, command), Ok(true)));
        }
        for (fixed, file, command) in [
            (&secret, &file, &None),
            (&secret, &None, &secret),
            (&None, &file, &secret),
            (&secret, &file, &secret),
        ] {
            let told = of(fixed, file, command).unwrap_err().to_string();
            assert!(told.contains("exclude each other") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy_and_hosts_without_one() {
        let of = |host: &str, vars: &[(&str, &str)]| {
            let env =
                |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            proxy_of(host, env)
                .map(|proxy| proxy.map(|proxy| proxy.to_string()))
                .map_err(|error| error.to_string())
        };
        let (upper, lower) = (("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2"));
        assert_eq!(of("x.example.com", &[]), Ok(None));
        assert_eq!(of("x.example.com", &[lower, upper]), Ok(Some("http://a:1".into())));
        assert_eq!(of("x.example.com", &[lower]), Ok(Some("http://b:2".into())));
        assert_eq!(of("x.example.com", &[("HTTPS_PROXY", "")]), Ok(None));
        for (list, excepted) in [
            ("example.com", true),
            ("y, .example.com", true),
            ("*", true),
            ("Example.COM", true),
            ("ample.com", false),
            ("", false),
        ] {
            assert_eq!(
                of("x.example.com", &[upper, ("NO_PROXY", list)]).unwrap().is_none(),
                excepted,
                "{list}"
            );
        }
        let bad = of("x", &[("HTTPS_PROXY", "socks5://a:1")]).unwrap_err();
        assert!(bad.contains("HTTPS_PROXY") && bad.contains("socks5"), "{bad}");
    }
}
