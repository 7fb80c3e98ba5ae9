//! The demo's services: a small web service and a TCP echo, on ports of loopback that the system chooses.
//!
//! They know nothing of tunnels: what they answer could come from any program.

use std::{convert::Infallible, fmt::Write as _, io, net::SocketAddr, time::Duration};

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, net::TcpListener, time::MissedTickBehavior};

use crate::{drain::Tasks, net};

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Both services, while they run.
pub(super) struct Services {
    /// Where the web service listens.
    pub(super) web: SocketAddr,
    /// Where the TCP echo listens.
    pub(super) echo: SocketAddr,
    tasks: Tasks,
}

impl Services {
    pub(super) async fn start() -> io::Result<Self> {
        let tasks = Tasks::new();
        let (web, echo) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let services = Self { web: web.local_addr()?, echo: echo.local_addr()?, tasks };
        services.tasks.spawn(serve_web(web, services.tasks.clone()));
        services.tasks.spawn(serve_echo(echo, services.tasks.clone()));
        Ok(services)
    }

    /// Ends the streams of events, which would go on for ever.
    pub(super) fn finish_streams(&self) {
        self.tasks.signal();
    }

    pub(super) fn stop(&self) {
        self.tasks.abort();
    }
}

async fn serve_echo(listener: TcpListener, tasks: Tasks) {
    loop {
        let (mut stream, _) = net::accept(&listener).await;
        tasks.spawn(async move {
            let (mut read, mut write) = stream.split();
            // Whoever breaks the connection off knows it already.
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                drop(write.shutdown().await);
            }
        });
    }
}

async fn serve_web(listener: TcpListener, tasks: Tasks) {
    loop {
        let (stream, _) = net::accept(&listener).await;
        let events = tasks.clone();
        let service = service_fn(move |request| {
            let response = respond(request, &events);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of the demo's web service broke");
            }
        });
    }
}

fn respond(request: Request<Incoming>, tasks: &Tasks) -> Response<Body> {
    let (kind, body) = match request.uri().path() {
        "/echo" => {
            let kind = request.headers().get(CONTENT_TYPE).cloned();
            let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
            (kind, request.into_body().boxed_unsync())
        }
        "/events" => (HeaderValue::from_static("text/event-stream"), events(tasks)),
        _ => (HeaderValue::from_static("text/html; charset=utf-8"), full(page(&request))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// One event a second, until the demo ends.
fn events(tasks: &Tasks) -> Body {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold((0_u64, ticks, tasks.clone()), |(count, mut ticks, tasks)| async move {
        tokio::select! {
            _ = ticks.tick() => {}
            () = tasks.signalled() => return None,
        }
        let event = Bytes::from(format!("id: {count}\ndata: second {count}\n\n"));
        Some((Ok(Frame::data(event)), (count + 1, ticks, tasks)))
    });
    StreamBody::new(events).boxed_unsync()
}

/// What the service got, as a page.
fn page(request: &Request<Incoming>) -> String {
    let mut rows = String::new();
    for (name, value) in request.headers() {
        let value = escape(&String::from_utf8_lossy(value.as_bytes()));
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "    <tr><th>{}</th><td>{value}</td></tr>", escape(name.as_str()));
    }
    let line = escape(&format!("{} {}", request.method(), request.uri()));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\">\n  <title>adit demo</title>\n  \
         <style>\n    body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}\n    \
         th {{ text-align: left; padding-right: 1.5rem; font-weight: 600; white-space: nowrap }}\n    \
         td, code {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere }}\n  </style>\n</head>\n<body>\n  \
         <h1>It came through the tunnel</h1>\n  <p>This page is from a service that the node cannot connect to: its agent \
         linked to the node, and your request came back along that link.</p>\n  <p><code>{line}</code></p>\n  <table>\n{rows}  \
         </table>\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_is_not_taken_for_html() {
        assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
