//! A web service inside a program, with no port of its own: the tunnel is its only way in.
//!
//! ```sh
//! cargo run --release -- demo            # in one terminal
//! cargo run --release --example serve    # in another
//! curl -H 'x-adit-endpoint: example' http://127.0.0.1:8000/
//! ```
//!
//! `NODE` (default 127.0.0.1:8001) and `CA` (default certs/ca.pem) in the environment say where the node is and whom to
//! trust; `REQUESTS` how many to answer before leaving (default: no end).

use std::{convert::Infallible, env, error::Error, time::Duration};

use adit::{
    client::{Client, Config},
    drain::Tasks,
    protocol::{EndpointId, Kind},
    tls::Trust,
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<&'static [u8]>>, Infallible> {
    eprintln_line(&format!("{} {}", request.method(), request.uri()));
    Ok(Response::new(Full::new(b"served from inside a program\n")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = env::var("NODE").unwrap_or_else(|_| "127.0.0.1:8001".into());
    let ca = env::var("CA").unwrap_or_else(|_| "certs/ca.pem".into());
    let requests = env::var("REQUESTS").ok().map(|text| text.parse::<u64>()).transpose()?;

    let trust = Trust::Roots(Trust::roots_from_file(ca.as_ref())?);
    let client = Client::new(Config::new(node.parse()?, &trust)?)?;
    let mut listener = client.listen(EndpointId::new("example")?, Kind::Http).await?;
    eprintln_line("serving the endpoint \"example\"");

    let tasks = Tasks::new();
    let mut answered = 0;
    while requests.is_none_or(|requests| answered < requests) {
        let Some(incoming) = listener.accept().await else { break };
        let flow = incoming.accept().await?;
        answered += 1;
        // Each flow is a connection of HTTP/1.1 that carries one request after the other.
        tasks.spawn(async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(flow), service_fn(answer)).await;
            if let Err(error) = served {
                eprintln_line(&format!("a flow ended with an error: {error}"));
            }
        });
    }
    // Flows that are open finish first.
    client.close(Duration::from_secs(10)).await?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "an example talks to whoever runs it")]
fn eprintln_line(text: &str) {
    eprintln!("{text}");
}
