//! The PROXY protocol of HAProxy: the header by which a service learns whose connection it is, before all else on it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use proxy_header::{ProxiedAddress, ProxyHeader};

use crate::protocol::Open;

/// Which header a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why a text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither v1 nor v2")]
pub struct InvalidVersion(String);

impl FromStr for ProxyVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(InvalidVersion(text.into())),
        }
    }
}

/// Both ends of a client's connection, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    client: Option<SocketAddr>,
    server: Option<SocketAddr>,
}

impl From<&Open> for Ends {
    fn from(open: &Open) -> Self {
        Self { client: open.client, server: open.server }
    }
}

impl Ends {
    /// The header that says so. Without a client it says that the connection is the agent's own: `LOCAL`, or `UNKNOWN` in
    /// version 1.
    pub(super) fn header(self, version: ProxyVersion) -> io::Result<Vec<u8>> {
        let header = match self.client {
            None => ProxyHeader::with_local(),
            Some(client) => {
                let client = canonical(client);
                ProxyHeader::with_address(ProxiedAddress::stream(client, beside(client, self.server)))
            }
        };
        let mut bytes = Vec::new();
        match version {
            ProxyVersion::V1 => header.encode_v1(&mut bytes),
            ProxyVersion::V2 => header.encode_v2(&mut bytes),
        }
        .map_err(io::Error::other)?;
        Ok(bytes)
    }
}

/// The address that a client connected to, in the client's family: a header has both of one. What is not known, or of the
/// other family, is the address that stands for none.
fn beside(client: SocketAddr, server: Option<SocketAddr>) -> SocketAddr {
    let none: IpAddr = match client {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let server = server.map_or_else(|| SocketAddr::new(none, 0), canonical);
    if server.is_ipv4() == client.is_ipv4() { server } else { SocketAddr::new(none, server.port()) }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(client: &str, server: &str) -> String {
        let address =
            |text: &str| Some(text).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        let ends = Ends { client: address(client), server: address(server) };
        String::from_utf8(ends.header(ProxyVersion::V1).unwrap()).unwrap()
    }

    #[test]
    fn both_ends_are_of_one_family_and_what_is_not_known_is_none() {
        for (client, server, header) in [
            ("192.0.2.1:5", "198.51.100.9:443", "PROXY TCP4 192.0.2.1 198.51.100.9 5 443\r\n"),
            ("[2001:db8::1]:5", "[2001:db8::2]:443", "PROXY TCP6 2001:db8::1 2001:db8::2 5 443\r\n"),
            ("[::ffff:192.0.2.1]:5", "198.51.100.9:443", "PROXY TCP4 192.0.2.1 198.51.100.9 5 443\r\n"),
            ("192.0.2.1:5", "[2001:db8::2]:443", "PROXY TCP4 192.0.2.1 0.0.0.0 5 443\r\n"),
            ("[2001:db8::1]:5", "198.51.100.9:443", "PROXY TCP6 2001:db8::1 :: 5 443\r\n"),
            ("192.0.2.1:5", "", "PROXY TCP4 192.0.2.1 0.0.0.0 5 0\r\n"),
            ("", "198.51.100.9:443", "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(v1(client, server), header);
        }
    }

    #[test]
    fn version_2_has_the_bytes_of_its_specification() {
        let ends = |client| Ends { client, server: Some("198.51.100.9:443".parse().unwrap()) };
        let known = ends(Some("192.0.2.1:5".parse().unwrap())).header(ProxyVersion::V2).unwrap();
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let addresses = [192, 0, 2, 1, 198, 51, 100, 9, 0, 5, 1, 187];
        assert_eq!(known, [&signature[..], &[0x21, 0x11, 0, 12], &addresses].concat());
        let unknown = ends(None).header(ProxyVersion::V2).unwrap();
        assert_eq!(unknown, [&signature[..], &[0x20, 0, 0, 0]].concat());
    }

    #[test]
    fn a_version_is_v1_or_v2() {
        assert_eq!("v1".parse(), Ok(ProxyVersion::V1));
        assert_eq!("v2".parse(), Ok(ProxyVersion::V2));
        for bad in ["", "1", "v3"] {
            assert!(bad.parse::<ProxyVersion>().is_err(), "{bad}");
        }
    }
}
