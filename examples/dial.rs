//! A client inside a program: it dials an endpoint and speaks to the service behind it, without a local port.
//!
//! ```sh
//! cargo run --release -- demo           # in one terminal
//! cargo run --release --example dial    # in another
//! ```
//!
//! `NODE` (default 127.0.0.1:8001) and `CA` (default certs/ca.pem) in the environment say where the node is and whom to
//! trust; `ENDPOINT` (default hello, the demo's web service) whom to ask.

use std::{env, error::Error, time::Duration};

use adit::{
    client::{Client, Config},
    protocol::EndpointId,
    tls::Trust,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = env::var("NODE").unwrap_or_else(|_| "127.0.0.1:8001".into());
    let ca = env::var("CA").unwrap_or_else(|_| "certs/ca.pem".into());
    let endpoint = EndpointId::new(&env::var("ENDPOINT").unwrap_or_else(|_| "hello".into()))?;

    let trust = Trust::Roots(Trust::roots_from_file(ca.as_ref())?);
    let client = Client::new(Config::new(node.parse()?, &trust)?)?;

    // A flow is a stream like a TCP connection's: anything can be spoken over it, here HTTP by hand.
    let mut flow = client.dial(&endpoint).await?;
    flow.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    flow.read_to_string(&mut answer).await?;
    flow.shutdown().await?;
    // A flow is open until it is dropped, and a client that closes waits for its flows.
    drop(flow);
    println!("{answer}");

    client.close(Duration::from_secs(5)).await?;
    Ok(())
}
