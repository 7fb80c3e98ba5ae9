//! TLS that is passed on unopened: clients reach the service's own certificate, by the name that they ask for.

use std::{io, net::SocketAddr, process::Stdio, sync::Arc};

use adit::{
    agent::Endpoint,
    protocol::Kind,
    tls::{self, Trust},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::support::{
    Fabric,
    cluster::Nodes,
    ok,
    postgres::Postgres,
    program::{output, tool},
    random,
    service::{self, Running, drain, tell_count},
    soon,
};

/// What PostgreSQL clients send first.
const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

/// The alert `unrecognized_name`, fatal.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

fn any() -> Option<SocketAddr> {
    Some(([127, 0, 0, 1], 0).into())
}

async fn start() -> Fabric {
    Fabric::with(|config| config.edge.sni = any()).await
}

fn port(fabric: &Fabric) -> SocketAddr {
    fabric.addresses.edge_sni.expect("it was asked for")
}

async fn connect(fabric: &Fabric) -> TcpStream {
    ok(TcpStream::connect(port(fabric)).await)
}

/// A TLS client that trusts the fabric's authority.
fn client(fabric: &Fabric, sni: bool) -> TlsConnector {
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let mut config = ok(tls::client_config(&trust, None, &[]));
    config.enable_sni = sni;
    TlsConnector::from(Arc::new(config))
}

async fn handshake<S>(fabric: &Fabric, name: &str, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ok(ServerName::try_from(name.to_owned()));
    soon(client(fabric, true).connect(name, stream)).await
}

/// A service with a certificate of its own, which counts what it is sent.
async fn counter(fabric: &Fabric, name: &str) -> Running {
    service::tls(fabric.service_tls(&[name], &[]), tell_count).await
}

async fn assert_counted(stream: &mut TlsStream<TcpStream>, size: usize) {
    ok(stream.write_all(&random(size)).await);
    ok(stream.shutdown().await);
    let mut answer = String::new();
    ok(soon(stream.read_to_string(&mut answer)).await);
    assert_eq!(answer, size.to_string());
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_leads_to_the_services_own_certificate() {
    let fabric = start().await;
    let (one, two) = (counter(&fabric, "one.example.com").await, counter(&fabric, "two.example.com").await);
    let _one = fabric.agent("one", Kind::Tcp, one.address).await;
    let _two = fabric.agent("two", Kind::Tcp, two.address).await;
    for name in ["one.example.com", "two.example.com", "one.example.com"] {
        let mut stream = ok(handshake(&fabric, name, connect(&fabric).await).await);
        assert_counted(&mut stream, 1 << 20).await;
    }
    assert_eq!((one.accepted(), two.accepted()), (2, 1));
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"joined\"} 3").await;
}

#[tokio::test]
async fn tls_is_passed_on_to_an_agent_of_another_node() {
    let nodes = Nodes::with(2, |config| config.edge.sni = any()).await;
    let service = counter(&nodes.all[1], "count.example.com").await;
    let (_agent, entry) = nodes.agent_elsewhere("count", Kind::Tcp, service.address).await;
    let fabric = &nodes.all[entry];
    let mut stream = ok(handshake(fabric, "count.example.com", connect(fabric).await).await);
    assert_counted(&mut stream, 1 << 20).await;
}

#[tokio::test]
async fn a_name_that_is_mapped_leads_to_its_endpoint() {
    let fabric = start().await;
    let service = counter(&fabric, "app.customer.com").await;
    let mapped = |endpoint: &mut Endpoint| endpoint.hosts = vec![ok("app.customer.com".parse())];
    let _agent = ok(fabric.agent_with("db", Kind::Tcp, service.address, mapped).await);
    let mut stream = ok(handshake(&fabric, "app.customer.com", connect(&fabric).await).await);
    assert_counted(&mut stream, 1).await;
}

#[tokio::test]
async fn a_first_message_that_comes_in_pieces_is_read() {
    let fabric = start().await;
    let service = counter(&fabric, "count.example.com").await;
    let _agent = fabric.agent("count", Kind::Tcp, service.address).await;
    // Each byte a packet of its own, on its way through a pipe.
    let (near, mut far) = tokio::io::duplex(1);
    let mut stream = connect(&fabric).await;
    ok(stream.set_nodelay(true));
    let slowly = async {
        let mut hello = [0; 600];
        for byte in &mut hello {
            *byte = ok(far.read_u8().await);
            ok(stream.write_u8(*byte).await);
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut far, &mut stream).await
    };
    let talk = async {
        let mut stream = ok(handshake(&fabric, "count.example.com", near).await);
        ok(stream.write_all(b"hello").await);
        ok(stream.shutdown().await);
        let mut answer = String::new();
        ok(soon(stream.read_to_string(&mut answer)).await);
        assert_eq!(answer, "5");
    };
    let ((), passed) = tokio::join!(talk, slowly);
    ok(passed);
}

#[tokio::test]
async fn a_client_that_asks_for_no_name_or_one_of_nobody_is_told_by_an_alert() {
    let fabric = start().await;
    for name in ["nobody.example.com", "localhost"] {
        let error = handshake(&fabric, name, connect(&fabric).await).await.expect_err("there is nobody");
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    let nameless =
        client(&fabric, false).connect(ok(ServerName::try_from("a.example.com")), connect(&fabric).await);
    let error = soon(nameless).await.expect_err("there is nobody");
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"no_upstream\"} 1").await;
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"no_name\"} 2").await;
}

#[tokio::test]
async fn a_service_that_refuses_resets_the_client() {
    let fabric = start().await;
    let _agent = fabric.agent("off", Kind::Tcp, service::refusing()).await;
    let error = handshake(&fabric, "off.example.com", connect(&fabric).await).await.expect_err("it is off");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"upstream_refused\"} 1").await;
}

/// Writes bytes and reads to the end: what came.
async fn answer_to(fabric: &Fabric, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(fabric).await;
    ok(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    // It may end by a reset, since what was sent is not read to its end.
    drop(soon(stream.read_to_end(&mut answer)).await);
    answer
}

#[tokio::test]
async fn what_is_not_tls_and_what_never_ends_is_refused() {
    let fabric = start().await;
    assert_eq!(answer_to(&fabric, b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n").await, b"");
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"not_tls\"} 1").await;
    // A PostgreSQL client that wants no TLS.
    assert_eq!(answer_to(&fabric, b"\0\0\0\x08\0\x03\0\0").await, b"");
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"broken\"} 1").await;
    // The head of a ClientHello of 60,000 bytes, in records as long as may be.
    let record = |first: &[u8]| [b"\x16\x03\x01\x40\0", first, &[0; 0x4000][first.len()..]].concat();
    let endless = [record(b"\x01\0\xea\x60"), record(b"")].concat();
    assert_eq!(answer_to(&fabric, &endless).await, b"");
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"too_long\"} 1").await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go_after_ten_seconds() {
    let fabric = start().await;
    let mut silent = connect(&fabric).await;
    let mut halfway = connect(&fabric).await;
    ok(halfway.write_all(b"\x16\x03\x01").await);
    let (one, two) = soon(async { tokio::join!(drain(&mut silent), drain(&mut halfway)) }).await;
    assert_eq!((one.0, two.0), (0, 0));
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"silent\"} 2").await;
}

/// A service that takes TLS as PostgreSQL does, and answers its request for it with `agree`.
async fn postgres(fabric: &Fabric, agree: &'static [u8]) -> Running {
    let acceptor = TlsAcceptor::from(fabric.service_tls(&["db.example.com"], &[]));
    service::tcp(move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut request = [0; 8];
            ok(stream.read_exact(&mut request).await);
            assert_eq!(request, SSL_REQUEST);
            ok(stream.write_all(agree).await);
            if let Ok(mut stream) = acceptor.accept(stream).await {
                tell_count(&mut stream).await;
            }
        }
    })
    .await
}

/// Asks for encryption as libpq does, and gives the answer.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> u8 {
    ok(stream.write_all(request).await);
    ok(soon(stream.read_u8()).await)
}

#[tokio::test]
async fn a_postgresql_client_asks_for_tls_first_and_so_does_the_node_at_its_service() {
    let fabric = start().await;
    let service = postgres(&fabric, b"S").await;
    let _agent = fabric.agent("db", Kind::Tcp, service.address).await;
    for gssapi_first in [false, true] {
        let mut stream = connect(&fabric).await;
        if gssapi_first {
            assert_eq!(ask(&mut stream, GSS_REQUEST).await, b'N');
        }
        assert_eq!(ask(&mut stream, SSL_REQUEST).await, b'S');
        let mut stream = ok(handshake(&fabric, "db.example.com", stream).await);
        assert_counted(&mut stream, 1 << 20).await;
    }
    assert_eq!(service.accepted(), 2);
    // Nobody of that name: the alert comes inside of what was agreed.
    let mut stream = connect(&fabric).await;
    assert_eq!(ask(&mut stream, SSL_REQUEST).await, b'S');
    let error = handshake(&fabric, "nobody.example.com", stream).await.expect_err("there is nobody");
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn a_postgresql_service_without_tls_resets_the_client() {
    let fabric = start().await;
    let service = postgres(&fabric, b"N").await;
    let _agent = fabric.agent("db", Kind::Tcp, service.address).await;
    let mut stream = connect(&fabric).await;
    assert_eq!(ask(&mut stream, SSL_REQUEST).await, b'S');
    let error = handshake(&fabric, "db.example.com", stream).await.expect_err("it has no TLS");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    fabric.tells("adit_tcp_connections_total{door=\"sni\",outcome=\"upstream_tls\"} 1").await;
}

/// The authority's certificate in a file.
fn authority_file(fabric: &Fabric) -> (tempfile::TempDir, String) {
    let folder = ok(tempfile::tempdir());
    let (cert, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
    ok(fabric.authority.pem().write(&cert, &key));
    let name = cert.to_str().expect("it is text").to_owned();
    (folder, name)
}

#[tokio::test]
async fn psql_reaches_a_real_postgresql_through_two_nodes_and_verifies_it() {
    let Some(psql) = tool("psql") else { return };
    let nodes = Nodes::with(2, |config| config.edge.sni = any()).await;
    let Some(server) = Postgres::start(&nodes.all[1].authority, &["db.example.com"]).await else { return };
    let address = format!("127.0.0.1:{}", server.port);
    let (_agent, _) = nodes.agent_elsewhere("db", Kind::Tcp, address).await;
    let (_folder, ca) = authority_file(&nodes.all[1]);
    for fabric in &nodes.all {
        for mode in ["require", "verify-full"] {
            let to = format!(
                "host=db.example.com hostaddr=127.0.0.1 port={} user=postgres dbname=postgres \
                 sslmode={mode} sslrootcert={ca} connect_timeout=10",
                port(fabric).port()
            );
            let mut command = std::process::Command::new(&psql);
            command.args([&to, "-Atc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"]);
            let printed = output(command).await;
            let error = String::from_utf8_lossy(&printed.stderr);
            assert_eq!(String::from_utf8_lossy(&printed.stdout), "t\n", "{mode}: {error}");
        }
    }
}

#[tokio::test]
async fn openssl_reaches_the_services_own_certificate_and_is_told_of_a_name_of_nobody() {
    let Some(openssl) = tool("openssl") else { return };
    let fabric = start().await;
    let service = service::tls(fabric.service_tls(&["greet.example.com"], &[]), |mut stream| async move {
        ok(stream.write_all(b"220 ready\n").await);
        ok(stream.shutdown().await);
    })
    .await;
    let _agent = fabric.agent("greet", Kind::Tcp, service.address).await;
    let (_folder, ca) = authority_file(&fabric);
    let to = port(&fabric).to_string();
    let run = async |name: &str| {
        let mut command = std::process::Command::new(&openssl);
        command.args(["s_client", "-connect", &to, "-servername", name, "-verify_hostname", name]);
        command.args(["-verify_return_error", "-CAfile", &ca, "-quiet", "-ign_eof"]).stdin(Stdio::null());
        let printed = output(command).await;
        (
            String::from_utf8_lossy(&printed.stdout).into_owned(),
            String::from_utf8_lossy(&printed.stderr).into_owned(),
        )
    };
    let (told, error) = run("greet.example.com").await;
    assert_eq!(told, "220 ready\n", "{error}");
    let (_, error) = run("nobody.example.com").await;
    assert!(error.contains("unrecognized name"), "{error}");
}

#[tokio::test]
async fn the_alert_is_one_record_of_tls() {
    let fabric = start().await;
    // A ClientHello of TLS 1.2 with one cipher suite and one extension, the signatures that it takes.
    let head = b"\x16\x03\x01\0\x37\x01\0\0\x33\x03\x03";
    let rest = b"\0\0\x02\xc0\x2b\x01\0\0\x08\0\x0d\0\x04\0\x02\x04\x03";
    assert_eq!(answer_to(&fabric, &[&head[..], &[7; 32], rest].concat()).await, UNRECOGNIZED_NAME);
}
