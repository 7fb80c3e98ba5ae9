//! Real balancers in front of link ports, configured as docs/balancers.md says, with a certificate of the nodes' authority.

use std::{fmt::Write, fs, net::SocketAddr, path::Path};

use adit::{
    client::{self, Transport},
    node::Addresses,
    tls::{Authority, Trust},
};

use super::{Fabric, fabric::issue, ok, program::Server};

const DOCUMENT: &str = include_str!("../../../docs/balancers.md");

/// Which balancer, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It ends TLS, and leaves the path as it is.
    Nginx,
    /// The same, and takes the prefix from the path.
    NginxStripping,
    /// It ends TLS.
    HAProxy,
    /// It ends TLS, and speaks TLS with the nodes too.
    HAProxyTls,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::NginxStripping, Self::HAProxy, Self::HAProxyTls];
}

/// A balancer of this kind before these nodes, where it is installed.
pub(crate) async fn balancer(kind: Kind, authority: &Authority, nodes: &[&Addresses]) -> Option<Server> {
    let mut servers = String::new();
    for (index, node) in nodes.iter().enumerate() {
        let (link, admin) = (node.link, node.admin.port());
        ok(match kind {
            Kind::Nginx | Kind::NginxStripping => writeln!(servers, "server {link};"),
            Kind::HAProxy => writeln!(servers, "    server n{index} {link} check port {admin}"),
            Kind::HAProxyTls => writeln!(
                servers,
                "    server n{index} {link} check port {admin} ssl verify required ca-file ca.pem verifyhost localhost"
            ),
        });
    }
    let certificate = |folder: &Path| {
        let (cert, key) = (folder.join("tunnel.pem"), folder.join("tunnel.key"));
        issue(authority, &["127.0.0.1"], &cert, &key);
        ok(authority.pem().write(&folder.join("ca.pem"), &folder.join("ca.key")));
        // HAProxy has both in one file.
        let both = ok(fs::read_to_string(&cert)) + &ok(fs::read_to_string(&key));
        ok(fs::write(cert, both));
    };
    let servers = servers.as_str();
    let nginx = |passed: &'static str| {
        move |address: SocketAddr, folder: &Path| {
            certificate(folder);
            documented(
                "nginx",
                &[
                    ("server 10.0.0.1:8001;", servers),
                    ("server 10.0.0.2:8001;", ""),
                    ("listen 443 ssl;", &format!("listen {address} ssl;")),
                    ("/etc/ssl/", ""),
                    ("proxy_pass http://adit;", passed),
                ],
            )
        }
    };
    match kind {
        Kind::Nginx => Server::nginx(nginx("proxy_pass http://adit;")).await,
        Kind::NginxStripping => Server::nginx(nginx("proxy_pass http://adit/;")).await,
        Kind::HAProxy | Kind::HAProxyTls => {
            Server::haproxy(|address, folder| {
                certificate(folder);
                documented(
                    "haproxy",
                    &[
                        ("    server n1 10.0.0.1:8001 check port 8002\n", servers),
                        ("    server n2 10.0.0.2:8001 check port 8002\n", ""),
                        ("bind :443 ssl", &format!("bind {address} ssl")),
                        ("/etc/ssl/", ""),
                    ],
                )
            })
            .await
        }
    }
}

/// A configuration of the document with its names replaced by those of a test.
fn documented(language: &str, replaced: &[(&str, &str)]) -> String {
    let after = DOCUMENT.split_once(&format!("```{language}\n")).map(|(_, after)| after);
    let mut text = after.and_then(|after| after.split_once("```")).expect("the document has it").0.to_owned();
    for (name, with) in replaced {
        assert!(text.contains(name), "the document has no {name}");
        text = text.replace(name, with);
    }
    text
}

/// How a client reaches what is behind a balancer. The nodes' own ports are of no use to it.
pub(crate) fn client_behind(fabric: &Fabric, balancer: &Server, transport: Transport) -> client::Config {
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let connect = format!("https://{}/base", balancer.address);
    client::Config { transport, ..ok(client::Config::new(ok(connect.parse()), &trust)) }
}
