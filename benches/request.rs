//! What a request costs over a link, without a network: the link's two ends face each other over a pipe in memory.
//!
//! It is one over WebSocket, since QUIC needs sockets. A request on a flow that is open stands beside one that asks for its flow
//! first, and beside the same over the pipe alone.

use std::time::Duration;

use adit::{
    drain::Tasks,
    net::websocket,
    protocol::{EndpointId, Flow, Hop, Kind, Open},
    transport::{self, Link, Settings, Stream},
};
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, duplex},
    runtime::{Builder, Runtime},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

/// What the pipe has under way at most, in bytes.
const PIPE: usize = 64 * 1024;

/// Longer than a flow is waited for.
const SOON: Duration = Duration::from_secs(10);

/// What the service answers.
static BODY: [u8; 1024] = [b'x'; 1024];

async fn socket(io: DuplexStream, role: Role) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, role, Some(websocket::config())).await
}

/// The end that asks for flows, of a link at whose other end each is a connection with the service.
async fn link(tasks: &Tasks) -> Link {
    let (near, far) = duplex(PIPE);
    let (settings, nowhere) = (Settings::default(), ([127, 0, 0, 1], 1).into());
    let (near, near_driver) =
        transport::websocket::opened(socket(near, Role::Client).await, nowhere, Vec::new(), &settings);
    let (far, far_driver) =
        transport::websocket::accepted(socket(far, Role::Server).await, nowhere, Vec::new(), &settings);
    far.set_max_flows(settings.max_flows);
    for driver in [near_driver, far_driver] {
        tasks.spawn(async move {
            driver.run().await;
        });
    }
    let flows = tasks.clone();
    tasks.spawn(async move {
        while let Ok(mut stream) = far.accept().await {
            flows.spawn(async move {
                let open = transport::read_flow(&mut stream.recv).await.expect("a flow begins with a frame");
                assert!(matches!(open, Flow::Open(_)), "{open:?}");
                transport::write_flow(&mut stream, &Flow::Opened).await.expect("it is waited for");
                serve(stream).await;
            });
        }
    });
    near
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(&BODY))))
    });
    // A flow that breaks fails the request that is under way on it.
    drop(http1::Builder::new().serve_connection(TokioIo::new(io), service).await);
}

/// A flow of the link.
async fn flow(link: &Link) -> Stream {
    let open = Open {
        endpoint: EndpointId::new("orders.example").expect("the name is valid"),
        tenant: None,
        kind: Kind::Http,
        hop: Hop::Final,
        agent: None,
        client: None,
        server: None,
        trace: None,
    };
    let mut stream = link.open(SOON).await.expect("the link takes flows");
    transport::ask(&mut stream, open).await.expect("the flow is opened");
    stream
}

/// What asks on a connection.
async fn client(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tasks: &Tasks,
) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = handshake(TokioIo::new(io)).await.expect("the connection is new");
    tasks.spawn(async move { drop(connection.await) });
    sender
}

async fn request(sender: &mut SendRequest<Empty<Bytes>>) {
    let request = Request::get("/orders").header("host", "orders.example").body(Empty::new());
    let response = sender.send_request(request.expect("it is valid")).await.expect("the service answers");
    let body = response.into_body().collect().await.expect("the answer is whole").to_bytes();
    assert_eq!(body.len(), BODY.len());
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

fn requests(criterion: &mut Criterion) {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let mut group = criterion.benchmark_group("a request of 1 KiB");
    let (mut direct, mut open, link) = runtime.block_on(async {
        let (near, far) = duplex(PIPE);
        tasks.spawn(serve(far));
        let link = link(&tasks).await;
        (client(near, &tasks).await, client(flow(&link).await, &tasks).await, link)
    });
    group.bench_function("direct", |bencher| bencher.iter(|| runtime.block_on(request(&mut direct))));
    group.bench_function("over a flow", |bencher| bencher.iter(|| runtime.block_on(request(&mut open))));
    group.bench_function("over a new flow", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut sender = client(flow(&link).await, &tasks).await;
                request(&mut sender).await;
            });
        });
    });
    group.finish();
    tasks.abort();
}

criterion_group!(benches, requests);
criterion_main!(benches);
