//! An HTTP proxy that leads wherever it is asked to a node, or refuses.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use adit::drain::Tasks;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{ok, service::read_head};

/// What the proxy does with a request of the right user.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// Connects to this address, whatever was asked for: it alone resolves names.
    Leads(SocketAddr),
    /// Answers this status.
    Answers(u16),
}

/// A running proxy. Dropping it ends all of its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Proxy {
    /// One that everybody may use, or only who sends these credentials in `Proxy-Authorization`.
    pub(crate) async fn start(does: Does, credentials: Option<&'static str>) -> Self {
        let listener = ok(TcpListener::bind("127.0.0.1:0").await);
        let proxy = Self { address: ok(listener.local_addr()), heads: Arc::default(), tasks: Tasks::new() };
        let (tasks, heads) = (proxy.tasks.clone(), Arc::clone(&proxy.heads));
        proxy.tasks.spawn(async move {
            loop {
                let (stream, _) = ok(listener.accept().await);
                tasks.spawn(serve(stream, does, credentials, Arc::clone(&heads)));
            }
        });
        proxy
    }

    /// The first line of each request so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.iter().filter_map(|head| head.lines().next()).map(str::to_owned).collect()
    }
}

async fn serve(
    mut client: TcpStream,
    does: Does,
    credentials: Option<&'static str>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let Some(head) = read_head(&mut client).await else { return };
    let known = credentials.is_none_or(|credentials| {
        head.lines().any(|line| line.strip_prefix("Proxy-Authorization: ") == Some(credentials))
    });
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    let refuse = async |mut client: TcpStream, head: String| drop(client.write_all(head.as_bytes()).await);
    match does {
        _ if !known => {
            let head =
                "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\r\n";
            refuse(client, head.into()).await;
        }
        Does::Answers(status) => refuse(client, format!("HTTP/1.1 {status} No\r\n\r\n")).await,
        Does::Leads(to) => {
            let mut node = ok(TcpStream::connect(to).await);
            ok(client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await);
            drop(tokio::io::copy_bidirectional(&mut client, &mut node).await);
        }
    }
}
