//! A flow lives for as long as its ends want: neither silence nor work nor the end of one direction makes a timer run.
//!
//! All flows are held at the same time, for several times the request time-out, which is the one timer that there is.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::sleep,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{
        fabric::{TcpPath, Web},
        ok,
        service::{self, drain, tell_count},
        soon,
        switch::{switched, switching},
        websocket,
    },
    timeouts::{TIMEOUT, short},
};

/// For how long flows are held.
const HELD: Duration = TIMEOUT.saturating_mul(4);

/// What busy flows carry meanwhile.
const PIECE: &[u8] = &[7; 1000];
const PIECES: u32 = 80;

const BUSY: usize = PIECE.len() * PIECES as usize;

/// Where the service reports what came after it had ended its own side.
type Reports = mpsc::Sender<usize>;

/// Sends for as long as flows are held.
async fn send(stream: &mut (impl AsyncWriteExt + Unpin)) {
    for _ in 0..PIECES {
        sleep(HELD / PIECES).await;
        ok(stream.write_all(PIECE).await);
    }
}

/// What a connection's first byte asks for.
async fn serve(mut stream: TcpStream, reports: Reports) {
    match ok(stream.read_u8().await) {
        b'e' => {
            let (mut read, mut write) = stream.split();
            ok(tokio::io::copy(&mut read, &mut write).await);
        }
        b'c' => tell_count(stream).await,
        b's' => send(&mut stream).await,
        b'q' => {
            sleep(HELD).await;
            ok(stream.write_all(b"at last").await);
        }
        _ => {
            ok(stream.shutdown().await);
            let (count, end) = drain(&mut stream).await;
            ok(end);
            ok(reports.send(count).await);
        }
    }
}

async fn asked(mut stream: TcpStream, what: u8) -> TcpStream {
    ok(stream.write_u8(what).await);
    stream
}

async fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    ok(stream.write_all(bytes).await);
    ok(soon(stream.read_exact(&mut answer)).await);
    assert_eq!(answer, bytes);
}

async fn silent(stream: TcpStream) {
    let mut stream = asked(stream, b'e').await;
    echoes(&mut stream, b"hello").await;
    sleep(HELD).await;
    echoes(&mut stream, b"hello").await;
}

async fn busy_both_ways(stream: TcpStream) {
    let mut stream = asked(stream, b'e').await;
    for _ in 0..PIECES {
        sleep(HELD / PIECES).await;
        echoes(&mut stream, PIECE).await;
    }
}

async fn busy_towards_the_service(stream: TcpStream) {
    let mut stream = asked(stream, b'c').await;
    send(&mut stream).await;
    ok(stream.shutdown().await);
    let mut answer = String::new();
    ok(soon(stream.read_to_string(&mut answer)).await);
    assert_eq!(answer, BUSY.to_string());
}

/// The client may have ended its own side at once.
async fn busy_towards_the_client(stream: TcpStream, ended: bool) {
    let mut stream = asked(stream, b's').await;
    if ended {
        ok(stream.shutdown().await);
    }
    let (count, end) = soon(drain(&mut stream)).await;
    ok(end);
    assert_eq!(count, BUSY);
}

async fn ended_by_the_client_and_silent(stream: TcpStream) {
    let mut stream = asked(stream, b'q').await;
    ok(stream.shutdown().await);
    let mut answer = String::new();
    ok(soon(stream.read_to_string(&mut answer)).await);
    assert_eq!(answer, "at last");
}

async fn ended_by_the_service(stream: TcpStream, busy: bool) {
    let mut stream = asked(stream, b'h').await;
    assert_eq!(ok(soon(stream.read(&mut [0])).await), 0);
    if busy {
        send(&mut stream).await;
    } else {
        sleep(HELD).await;
        ok(stream.write_all(b"at last").await);
    }
    ok(stream.shutdown().await);
}

/// Holds flows of every kind, each on a connection that `connect` makes.
async fn hold(connect: impl AsyncFn() -> TcpStream, mut reports: mpsc::Receiver<usize>) {
    tokio::join!(
        async { silent(connect().await).await },
        async { busy_both_ways(connect().await).await },
        async { busy_towards_the_service(connect().await).await },
        async { busy_towards_the_client(connect().await, false).await },
        async { busy_towards_the_client(connect().await, true).await },
        async { ended_by_the_client_and_silent(connect().await).await },
        async { ended_by_the_service(connect().await, true).await },
        async { ended_by_the_service(connect().await, false).await },
    );
    let mut counts = [0; 2];
    for count in &mut counts {
        *count = soon(reports.recv()).await.expect("the service reports");
    }
    counts.sort_unstable();
    assert_eq!(counts, ["at last".len(), BUSY]);
}

async fn tcp(nodes: usize) {
    let (report, reports) = mpsc::channel(2);
    let service = service::tcp(move |stream| serve(stream, report.clone())).await;
    let path = TcpPath::over_with(nodes, short, service.address).await;
    hold(async || path.connect().await, reports).await;
}

async fn switched_connections(nodes: usize) {
    let (report, reports) = mpsc::channel(2);
    let service = switching("", move |stream| serve(stream, report.clone())).await;
    let web = Web::over_with(nodes, short, service.address).await;
    hold(async || switched(web.edge, "").await, reports).await;
}

async fn websockets(nodes: usize) {
    let service = websocket::echo().await;
    let web = Web::over_with(nodes, short, service.address).await;
    let held = async |pieces: u32| {
        let (mut socket, _) = ok(websocket::connect(web.edge, "web").await);
        for number in 0..=pieces {
            if number > 0 {
                sleep(HELD / pieces).await;
            }
            let message = Message::text(number.to_string());
            ok(socket.send(message.clone()).await);
            assert_eq!(ok(soon(socket.next()).await.expect("it is open")), message);
        }
    };
    tokio::join!(held(1), held(PIECES));
}

#[tokio::test]
async fn no_flow_ends_with_the_request_time_out() {
    flows_live_on(1).await;
}

pub(crate) async fn flows_live_on(nodes: usize) {
    tokio::join!(tcp(nodes), switched_connections(nodes), websockets(nodes));
}
