//! Services whose bodies come back as they came, have no end, or break off.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{
    body::Body,
    eventually, http2, ok, random, reset,
    service::{self, Running, read_request},
};

/// Sends each request's body back as it comes, trailers too.
pub(crate) async fn mirror_bodies() -> Running {
    service::http(mirror).await
}

/// The same over HTTP/2.
pub(crate) async fn mirror_http2_bodies() -> Running {
    http2::http(mirror).await
}

async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let trailer = request.headers().get(header::TRAILER).cloned();
    let mut response = Response::new(Body::new(request.into_body().map_err(io::Error::other)));
    if let Some(trailer) = trailer {
        response.headers_mut().insert(header::TRAILER, trailer);
    }
    response
}

/// Waits until a count stands still, and gives it.
pub(crate) async fn standing(count: &AtomicU64) -> u64 {
    let mut last = (u64::MAX, 0);
    eventually("the count stands still", async || {
        sleep(Duration::from_millis(50)).await;
        let now = count.load(Relaxed);
        last = (now, if now == last.0 { last.1 + 1 } else { 0 });
        // As long as anything flows, it does so many times a second.
        now > 0 && last.1 == 20
    })
    .await;
    last.0
}

/// A service that answers with an endless body and counts what is taken of it; tells when writing has failed.
pub(crate) async fn endless() -> (Running, Arc<AtomicU64>, mpsc::Receiver<io::Error>) {
    let (taken, (ends, ended)) = (Arc::new(AtomicU64::new(0)), mpsc::channel(8));
    let counted = Arc::clone(&taken);
    let running = service::tcp(move |mut stream| {
        let (taken, ends) = (Arc::clone(&counted), ends.clone());
        async move {
            read_request(&mut stream).await;
            ok(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            let chunk = random(16 * 1024);
            let error = loop {
                match stream.write(&chunk).await {
                    Ok(len) => taken.fetch_add(len as u64, Relaxed),
                    Err(error) => break error,
                };
            };
            drop(ends.send(error).await);
        }
    });
    (running.await, taken, ended)
}

/// Sends half a response, framed as the path says, and breaks it off when told to.
pub(crate) async fn breaking() -> (Running, Arc<Notify>) {
    let now = Arc::new(Notify::new());
    let told = Arc::clone(&now);
    let running = service::tcp(move |mut stream| {
        let now = Arc::clone(&told);
        async move {
            let request = read_request(&mut stream).await.expect("there is a request");
            let path = request.split(' ').nth(1).unwrap_or_default();
            let fields = match path {
                "/length" => "content-length: 100\r\n\r\n",
                "/chunked" => "transfer-encoding: chunked\r\n\r\n100\r\n",
                _ => "\r\n",
            };
            ok(stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}half").as_bytes()).await);
            now.notified().await;
            // Without a length, the end of the connection is that of the response; only a reset is a break.
            if path == "/until-close" {
                reset(stream);
            }
        }
    });
    (running.await, now)
}
