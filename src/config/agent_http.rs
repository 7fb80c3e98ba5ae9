//! The flags of `adit agent http` for requests, which are keys of an `[[endpoint]]` too.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use http::{HeaderValue, uri::Authority};

use super::{ConfigError, agent::some_time, port_or_address};
use crate::{
    agent::{Field, FieldName, HttpOptions, Rewrite, Service},
    protocol::{EndpointId, Kind},
};

/// Named in each, since it would otherwise go on for whatever arguments follow.
const HEADING: &str = "Requests";

/// What the agent does with requests.
#[derive(Debug, Clone, Default, Args)]
pub struct HttpArgs {
    /// Send this as the Host of requests; `service` stands for the service's own host and port. By default, what the client
    /// has sent.
    #[arg(help_heading = HEADING, long, value_name = "HOST[:PORT]|service", value_parser = host_header)]
    host_header: Option<HostHeader>,
    /// Add this header to requests, or replace the client's of that name (repeatable).
    #[arg(help_heading = HEADING, long, value_name = "NAME=VALUE", hide_default_value = true)]
    header: Vec<Field>,
    /// Remove this header from requests, before any is added (repeatable).
    #[arg(help_heading = HEADING, long, value_name = "NAME")]
    strip_header: Vec<FieldName>,
    /// Log each request when its response has ended: at level info, with the target adit::access.
    #[arg(help_heading = HEADING, long)]
    access_log: bool,
    /// Answer 504 when the service has not begun its response so long after the request's end. By default, the node alone
    /// limits that.
    #[arg(help_heading = HEADING, long, value_name = "DURATION", value_parser = some_time)]
    response_header_timeout: Option<Duration>,
}

/// The agent's inspector.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct InspectArgs {
    /// Show the last requests and responses, and send requests again, at this address of this machine. Whoever reaches it
    /// may: see docs/inspector.md.
    #[arg(help_heading = HEADING, long, value_name = "[ADDRESS:]PORT", value_parser = local)]
    pub(super) inspect: Option<SocketAddr>,
}

const LOCAL_ALONE: &str = "whoever reaches the inspector sees requests and sends them again, so it is for this machine alone: \
                           use 127.0.0.1 or [::1], and from elsewhere a tunnel such as `ssh -L 4040:127.0.0.1:4040`";

/// An address that no other machine reaches.
fn local(text: &str) -> Result<SocketAddr, &'static str> {
    let address =
        port_or_address(text).ok_or("expected a port, or ADDRESS:PORT in numbers, such as 127.0.0.1:4040")?;
    if address.ip().is_loopback() { Ok(address) } else { Err(LOCAL_ALONE) }
}

/// What the host of requests is replaced with.
#[derive(Debug, Clone)]
enum HostHeader {
    /// The service's own.
    Service,
    /// This.
    Value(HeaderValue),
}

fn host_header(text: &str) -> Result<HostHeader, &'static str> {
    if text == "service" {
        return Ok(HostHeader::Service);
    }
    // The whole of it: neither a user before the host nor a port that is no number.
    let whole = |read: &Authority| {
        let host = read.host();
        text == host || read.port_u16().is_some_and(|port| text == format!("{host}:{port}"))
    };
    let host = text.parse::<Authority>().ok().filter(whole);
    let value = host.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    value
        .map(HostHeader::Value)
        .ok_or("expected `service`, or a host with or without a port, such as app.internal:3000")
}

impl HttpArgs {
    /// The options, if there are any, for an endpoint of this kind with this service.
    pub(super) fn into_options(
        self,
        endpoint: &EndpointId,
        kind: Kind,
        service: &Service,
    ) -> Result<Option<HttpOptions>, ConfigError> {
        if kind != Kind::Http
            && let Some(option) = self.first()
        {
            return Err(ConfigError::NotHttp { option, endpoint: endpoint.clone() });
        }
        let host = match self.host_header {
            Some(HostHeader::Service) => Some(service.host_header()?),
            Some(HostHeader::Value(value)) => Some(value),
            None => None,
        };
        let options = HttpOptions {
            rewrite: Rewrite { strip: self.strip_header, set: self.header, host },
            access_log: self.access_log,
            response_timeout: self.response_header_timeout,
        };
        Ok((!options.is_empty()).then_some(options))
    }

    /// The first option that is given.
    fn first(&self) -> Option<&'static str> {
        let given = [
            (self.host_header.is_some(), "--host-header"),
            (!self.header.is_empty(), "--header"),
            (!self.strip_header.is_empty(), "--strip-header"),
            (self.access_log, "--access-log"),
            (self.response_header_timeout.is_some(), "--response-header-timeout"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inspector_is_for_this_machine_alone() {
        for (text, address) in [
            ("4040", "127.0.0.1:4040"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.8.0.1:1", "127.8.0.1:1"),
            ("[::1]:4040", "[::1]:4040"),
        ] {
            assert_eq!(local(text).unwrap().to_string(), address);
        }
        for outside in ["0.0.0.0:4040", "[::]:4040", "10.0.0.1:4040", "[2001:db8::1]:4040"] {
            assert_eq!(local(outside), Err(LOCAL_ALONE), "{outside}");
        }
        for bad in ["", "localhost:4040", "127.0.0.1", "70000", "http://127.0.0.1:4040"] {
            assert!(local(bad).unwrap_err().contains("such as 127.0.0.1:4040"), "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_word_or_an_authority() {
        assert!(matches!(host_header("service"), Ok(HostHeader::Service)));
        for good in ["app", "app.internal:3000", "[::1]:80", "10.0.0.1", "service:80"] {
            assert!(matches!(host_header(good), Ok(HostHeader::Value(value)) if value == good), "{good}");
        }
        for bad in ["", "http://app", "app/path", "user@app", "a b", "app:x"] {
            assert!(host_header(bad).is_err(), "{bad}");
        }
    }
}
