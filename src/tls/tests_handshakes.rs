//! Handshakes: who is believed, who is refused, and which certificate is shown.

use std::process::Command;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

use super::tests::*;
use super::*;

/// The certificate that the client saw and the protocol that was agreed on.
#[derive(Debug)]
struct Agreed {
    leaf: Fingerprint,
    client: Option<Fingerprint>,
    protocol: Option<Vec<u8>>,
}

/// Carries bytes between the two until both are done or one of them refuses.
fn handshake(client: ClientConfig, server: ServerConfig, name: &str) -> Result<Agreed, Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Agreed {
        leaf: Fingerprint::of(&client.peer_certificates().unwrap()[0]),
        client: server.peer_certificates().map(|chain| Fingerprint::of(&chain[0])),
        protocol: client.alpn_protocol().map(<[u8]>::to_vec),
    })
}

fn serve(identity: &Identity) -> ServerConfig {
    server_config(std::slice::from_ref(identity), ClientAuth::None, &[]).unwrap()
}

fn connect(trust: &Trust, server: &Identity, name: &str) -> Result<Agreed, Error> {
    handshake(client_config(trust, None, &[]).unwrap(), serve(server), name)
}

fn refusal(result: Result<Agreed, Error>) -> CertificateError {
    match result {
        Err(Error::InvalidCertificate(error)) => error,
        other => panic!("expected a refused certificate, got {other:?}"),
    }
}

#[test]
fn roots_believe_what_they_signed_for_its_names_and_time() {
    let ca = authority();
    let node = issue(&ca, &["node.example", "*.wild.example", "127.0.0.1", "::1"]);
    let trust = Trust::Roots(roots(&ca));
    for name in ["node.example", "NODE.example", "a.wild.example", "127.0.0.1", "::1"] {
        assert_eq!(connect(&trust, &node, name).unwrap().leaf, node.fingerprint(), "{name}");
    }
    for name in ["other.example", "a.b.wild.example", "wild.example", "127.0.0.2"] {
        let error = refusal(connect(&trust, &node, name));
        assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{name}: {error:?}");
    }
    let stranger = Trust::Roots(roots(&authority()));
    let error = refusal(connect(&stranger, &node, "node.example"));
    assert!(matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature), "{error:?}");
    let late = identity_of(&expired(&ca, &["node.example"]));
    let error = refusal(connect(&trust, &late, "node.example"));
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
}

#[test]
fn pins_believe_one_leaf_whatever_its_names_chain_and_time() {
    let ca = authority();
    let (node, other) = (issue(&ca, &["node.example"]), issue(&ca, &["node.example"]));
    let pins = Trust::Pins(vec![other.fingerprint(), node.fingerprint()]);
    assert_eq!(connect(&pins, &node, "elsewhere.example").unwrap().leaf, node.fingerprint());
    let late = identity_of(&expired(&ca, &["node.example"]));
    connect(&Trust::Pins(vec![late.fingerprint()]), &late, "node.example").unwrap();

    let error = refusal(connect(&Trust::Pins(vec![node.fingerprint()]), &other, "node.example"));
    let CertificateError::Other(error) = error else { panic!("{error:?}") };
    let mismatch = error.0.downcast_ref::<PinMismatch>().unwrap();
    assert_eq!(mismatch.presented, other.fingerprint());
}

#[test]
fn insecure_believes_anybody() {
    let late = identity_of(&expired(&authority(), &["node.example"]));
    connect(&Trust::Insecure, &late, "elsewhere.example").unwrap();
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused_by_every_trust() {
    let ca = authority();
    let (node, thief) = (issue(&ca, &["node.example"]), issue(&ca, &["node.example"]));
    let forged = CertifiedKey::new(node.chain().to_vec(), Arc::clone(&thief.certified().key));
    for version in [&TLS12, &TLS13] {
        for trust in [
            Trust::Pins(vec![node.fingerprint()]),
            Trust::Insecure,
            Trust::Roots(roots(&ca)),
            Trust::Platform { extra: roots(&ca) },
        ] {
            let server = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(forged.clone())));
            let client = client_config(&trust, None, &[]).unwrap();
            let error = refusal(handshake(client, server, "node.example"));
            assert_eq!(error, CertificateError::BadSignature, "{version:?} {trust:?}");
        }
    }
}

#[test]
fn the_platform_believes_extra_authorities_too() {
    let ca = authority();
    let node = issue(&ca, &["node.example"]);
    let with = |extra| client_config(&Trust::Platform { extra }, None, &[]);
    handshake(with(roots(&ca)).unwrap(), serve(&node), "node.example").unwrap();
    refusal(handshake(with(roots(&ca)).unwrap(), serve(&node), "other.example"));
    refusal(handshake(with(roots(&authority())).unwrap(), serve(&node), "node.example"));
}

/// The store's place comes from the environment, which a process cannot safely change for itself: a second
/// one runs `on_a_bare_platform`.
#[cfg(target_os = "linux")]
#[test]
fn a_platform_without_a_store_believes_extra_authorities_only() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "tls::tests_handshakes::on_a_bare_platform"])
        .env_remove("SSL_CERT_FILE")
        .env("SSL_CERT_DIR", empty.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
#[ignore = "run by another test, in an environment without authorities"]
fn on_a_bare_platform() {
    let ca = authority();
    let node = issue(&ca, &["node.example"]);
    let alone = client_config(&Trust::Platform { extra: Vec::new() }, None, &[]);
    assert!(matches!(alone, Err(ConfigError::Platform(_))));
    connect(&Trust::Platform { extra: roots(&ca) }, &node, "node.example").unwrap();
}

#[test]
fn clients_are_asked_as_configured() {
    let (ca, foreign) = (authority(), authority());
    let node = issue(&ca, &["node.example"]);
    let only = |usage| identity_of(&ca.issue(&request(&["agent"], usage)).unwrap());
    let (agent, server_only) = (only(Usage::Client), only(Usage::Server));
    let stranger = issue(&foreign, &["agent"]);
    let try_as = |identity: Option<&Identity>, clients: ClientAuth| {
        let client = client_config(&Trust::Roots(roots(&ca)), identity, &[]).unwrap();
        let server = server_config(std::slice::from_ref(&node), clients, &[]).unwrap();
        handshake(client, server, "node.example")
    };
    let (optional, required) = (ClientAuth::Optional(roots(&ca)), ClientAuth::Required(roots(&ca)));

    assert_eq!(try_as(Some(&agent), ClientAuth::None).unwrap().client, None);
    assert_eq!(try_as(None, optional.clone()).unwrap().client, None);
    assert_eq!(try_as(None, required.clone()).unwrap_err(), Error::NoCertificatesPresented);
    for clients in [optional, required] {
        assert_eq!(try_as(Some(&agent), clients.clone()).unwrap().client, Some(agent.fingerprint()));
        refusal(try_as(Some(&stranger), clients.clone()));
        refusal(try_as(Some(&server_only), clients));
    }
    // Nor may an agent pose as a node.
    refusal(connect(&Trust::Roots(roots(&ca)), &agent, "agent"));
}

#[test]
fn the_certificate_is_chosen_by_the_name_asked_for() {
    let ca = authority();
    let first = issue(&ca, &["first.example"]);
    let wild = issue(&ca, &["*.example", "first.example"]);
    let exact = issue(&ca, &["Exact.example"]);
    let identities = [first.clone(), wild.clone(), exact.clone()];
    let shown = |name| {
        let server = server_config(&identities, ClientAuth::None, &[]).unwrap();
        handshake(client_config(&Trust::Insecure, None, &[]).unwrap(), server, name).unwrap().leaf
    };
    let table = [
        ("exact.example", &exact),
        ("any.example", &wild),
        ("first.example", &first),
        ("a.b.example", &first),
        ("example", &first),
        ("unknown.test", &first),
        ("192.0.2.1", &first),
    ];
    for (name, expected) in table {
        assert_eq!(shown(name), expected.fingerprint(), "{name}");
    }
}

#[test]
fn a_server_shows_and_asks_for_what_has_been_put_in_its_place() {
    let (ca, other) = (authority(), authority());
    let (before, after) = (issue(&ca, &["node.example"]), issue(&ca, &["node.example"]));
    let own = issue(&ca, &["client.example"]);
    let config = |identity: &Identity, clients| server_config(std::slice::from_ref(identity), clients, &[]);
    let server = ServerTls::new(config(&before, ClientAuth::None).unwrap());
    let client = client_config(&Trust::Roots(roots(&ca)), Some(&own), &[]).unwrap();
    let shown = || {
        let server = ServerConfig::clone(&server.current());
        handshake(client.clone(), server, "node.example").map(|agreed| agreed.leaf)
    };
    assert_eq!(shown().unwrap(), before.fingerprint());
    server.replace(config(&after, ClientAuth::Required(roots(&ca))).unwrap());
    assert_eq!(shown().unwrap(), after.fingerprint());
    // The client could resume its session, had it been kept.
    server.replace(config(&after, ClientAuth::Required(roots(&other))).unwrap());
    shown().unwrap_err();
}

#[test]
fn protocols_are_negotiated_in_the_servers_order() {
    let ca = authority();
    let node = issue(&ca, &["node.example"]);
    let agree = |offered: &[&[u8]], served: &[&[u8]]| {
        let client = client_config(&Trust::Insecure, None, offered).unwrap();
        let server = server_config(std::slice::from_ref(&node), ClientAuth::None, served).unwrap();
        handshake(client, server, "node.example").map(|agreed| agreed.protocol)
    };
    assert_eq!(agree(&[b"a", b"b"], &[b"b", b"a"]).unwrap().as_deref(), Some(&b"b"[..]));
    assert_eq!(agree(&[b"a"], &[b"b"]).unwrap_err(), Error::NoApplicationProtocol);
}

#[test]
fn configurations_that_could_never_work_are_refused() {
    let node = issue(&authority(), &["node.example"]);
    let identities = std::slice::from_ref(&node);
    let junk = vec![CertificateDer::from(vec![1, 2, 3])];
    let client = |trust| client_config(&trust, None, &[]).unwrap_err();
    let server = |clients| server_config(identities, clients, &[]).unwrap_err();
    assert!(matches!(client(Trust::Roots(Vec::new())), ConfigError::NoRoots));
    assert!(matches!(client(Trust::Roots(junk.clone())), ConfigError::BadRoot(_)));
    assert!(matches!(client(Trust::Pins(Vec::new())), ConfigError::NoPins));
    assert!(matches!(server(ClientAuth::Required(Vec::new())), ConfigError::NoRoots));
    assert!(matches!(server(ClientAuth::Optional(junk)), ConfigError::BadRoot(_)));
    assert!(matches!(server_config(&[], ClientAuth::None, &[]), Err(ConfigError::NoIdentity)));
}

#[tokio::test]
async fn both_sides_also_serve_quic() {
    let ca = authority();
    let node = issue(&ca, &["localhost"]);
    let required = ClientAuth::Required(roots(&ca));
    let server = server_config(std::slice::from_ref(&node), required, &[b"adit/1"]).unwrap();
    let client = client_config(&Trust::Roots(roots(&ca)), Some(&node), &[b"adit/1"]).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));

    let loopback = "127.0.0.1:0".parse().unwrap();
    let listener = quinn::Endpoint::server(server, loopback).unwrap();
    let dialler = quinn::Endpoint::client(loopback).unwrap();
    let dialled = dialler.connect_with(client, listener.local_addr().unwrap(), "localhost").unwrap();
    let accepted = async { listener.accept().await.unwrap().await };
    let (dialled, accepted) = tokio::join!(dialled, accepted);
    let (_dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let peer = accepted.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert_eq!(Fingerprint::of(&peer[0]), node.fingerprint());
}
