//! How many instructions things take: a figure that a busy machine does not change, so that a change of a few per cent shows.
//!
//! `cargo bench --bench instructions` runs each under valgrind's callgrind, once with some rounds and once with more, and
//! prints what one more costs. With a name and a number it does that many rounds, to be looked at with any profiler.

#![allow(clippy::print_stdout, reason = "it prints what it is for")]

use std::{error::Error, hint::black_box, process::Command};

use adit::{
    client::{self, Client},
    cluster::table::{Name, Table},
    config::{NodeArgs, from_words},
    drain::Tasks,
    node::Node,
    protocol::{EndpointId, Flow, Hop, Kind, Open, TenantId, decode, encode},
    splice::{Counts, splice},
    tls::Trust,
};
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Failure = Box<dyn Error + Send + Sync>;

/// The fewer rounds, and by how many times there are more.
const ROUNDS: [(&str, u64); 4] = [("frame", 10_000), ("lookup", 10_000), ("splice", 200), ("request", 300)];
const MORE: u64 = 3;

/// What a service answers, and what a splice is given at once.
const BODY: usize = 1024;
const CHUNK: usize = 64 * 1024;

fn main() -> Result<(), Failure> {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match &words[..] {
        [what, rounds] => run(what, rounds.parse()?),
        _ => {
            println!("| what | instructions |\n| --- | --- |");
            for (what, rounds) in ROUNDS {
                let (fewer, more) = (counted(what, rounds)?, counted(what, rounds * MORE)?);
                println!("| one {what} | {} |", more.saturating_sub(fewer) / (rounds * (MORE - 1)));
            }
            Ok(())
        }
    }
}

/// The instructions of a run.
fn counted(what: &str, rounds: u64) -> Result<u64, Failure> {
    let program = std::env::current_exe()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.arg(what).arg(rounds.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    match collected {
        Some((_, number)) if output.status.success() => Ok(number.trim().parse()?),
        _ => Err(format!("{what}: {text}").into()),
    }
}

fn run(what: &str, rounds: u64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match what {
        "frame" => frames(rounds),
        "lookup" => lookups(rounds),
        "splice" => runtime.block_on(splices(rounds)),
        "request" => runtime.block_on(requests(rounds)),
        other => Err(format!("there is no {other:?}").into()),
    }
}

/// The first frame of a flow, there and back.
fn frames(rounds: u64) -> Result<(), Failure> {
    let open = Flow::Open(Open {
        endpoint: EndpointId::new("orders.example")?,
        tenant: None,
        kind: Kind::Http,
        hop: Hop::Final,
        agent: None,
        client: None,
        server: None,
        trace: None,
    });
    let mut bytes = BytesMut::new();
    for _ in 0..rounds {
        encode(black_box(&open), &mut bytes);
        black_box(decode::<Flow>(&mut bytes)?);
        bytes.clear();
    }
    Ok(())
}

/// Finding an endpoint among ten thousand.
fn lookups(rounds: u64) -> Result<(), Failure> {
    let name = |number: u64| -> Result<Name, Failure> {
        let endpoint = EndpointId::new(&format!("service-{number}"))?;
        Ok(Name { tenant: TenantId::default(), endpoint })
    };
    let mut table = Table::<Name, u64>::default();
    for number in 0..10_000 {
        table = table.with(&name(number)?, |_| vec![number]);
    }
    let wanted = name(4711)?;
    for _ in 0..rounds {
        black_box(table.get(black_box(&wanted)));
    }
    Ok(())
}

async fn pair() -> Result<(TcpStream, TcpStream), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    Ok((near?, far?.0))
}

/// Chunks through a join of two connections; what writes and reads them is in it.
async fn splices(rounds: u64) -> Result<(), Failure> {
    let ((mut near, left), (right, mut far)) = (pair().await?, pair().await?);
    let tasks = Tasks::new();
    tasks.spawn(async move { drop(splice(left, right, &Counts::default()).await) });
    let mut chunk = vec![7; CHUNK];
    for _ in 0..rounds {
        near.write_all(&chunk).await?;
        far.read_exact(&mut chunk).await?;
    }
    Ok(())
}

/// Requests through a node and a link to a service, all in this process.
async fn requests(rounds: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let certs = folder.path().display().to_string();
    let any = "127.0.0.1:0";
    let words =
        ["--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any, "--certs", &certs];
    let node = Node::start(from_words::<NodeArgs>(&words)?.into_config()?).await?;

    let trust = Trust::Roots(Trust::roots_from_file(&folder.path().join("ca.pem"))?);
    let client = Client::new(client::Config::new(node.addresses().link.to_string().parse()?, &trust)?)?;
    let mut listener = client.listen(EndpointId::new("bench")?, Kind::Http).await?;
    let tasks = Tasks::new();
    let flows = tasks.clone();
    tasks.spawn(async move {
        while let Some(incoming) = listener.accept().await {
            let Ok(flow) = incoming.accept().await else { continue };
            // A flow that breaks ends the client's connection, which fails the run.
            flows.spawn(async move { drop(serve(flow).await) });
        }
    });

    let mut stream = TcpStream::connect(node.addresses().edge).await?;
    let mut response = vec![0; 4 * BODY];
    for _ in 0..rounds {
        stream.write_all(b"GET /orders HTTP/1.1\r\nhost: bench.example.com\r\naccept: */*\r\n\r\n").await?;
        let mut len = 0;
        while !complete(&response[..len])? {
            match stream.read(&mut response[len..]).await? {
                0 => return Err("the connection ended".into()),
                read => len += read,
            }
        }
    }
    Ok(())
}

/// Whether a response is there as a whole.
fn complete(bytes: &[u8]) -> Result<bool, Failure> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    if !bytes.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(bytes).into());
    }
    Ok(bytes.len() >= end + 4 + BODY)
}

async fn serve(mut flow: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<(), Failure> {
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    response.resize(response.len() + BODY, b'x');
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            if flow.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        request.clear();
        flow.write_all(&response).await?;
    }
}
