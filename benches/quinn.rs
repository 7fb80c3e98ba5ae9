//! What quinn itself does on this machine, as it comes: one stream, from one endpoint to another in one process, with its
//! default settings. `benches/peers/run.py tcp --quinn` divides it by the hops of a path. Prints one line of JSON.
//!
//! `cargo bench --bench quinn -- --seconds 6`

#![allow(clippy::print_stdout, reason = "it prints what it is for")]

use std::{error::Error, fs, sync::Arc, time::Duration};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{task::JoinSet, time::Instant};

type Failure = Box<dyn Error + Send + Sync>;

const ALPN: &[u8] = b"bulk";

/// As much as `splice` hands over at once.
const CHUNK: usize = 64 * 1024;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip_while(|word| word != "--seconds").skip(1);
    let seconds = words.next().map_or(Ok(6), |word| word.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (bytes, time, cpu) = runtime.block_on(bulk(Duration::from_secs(seconds)))?;
    let gbits = bytes as f64 * 8e-9 / time.as_secs_f64();
    let cpu = cpu * 1e9 / bytes as f64;
    println!(r#"{{"gbits": {gbits:.3}, "cpu": {cpu:.3}, "each": [{cpu:.3}]}}"#);
    Ok(())
}

/// How many bytes arrived, in which time, and how many processor seconds both ends have used.
async fn bulk(time: Duration) -> Result<(u64, Duration, f64), Failure> {
    let (server, client) = configs()?;
    let accepting = quinn::Endpoint::server(server, ([127, 0, 0, 1], 0).into())?;
    let mut dialling = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
    dialling.set_default_client_config(client);
    let dial = async { Ok::<_, Failure>(dialling.connect(accepting.local_addr()?, "localhost")?.await?) };
    let accept = async { Ok::<_, Failure>(accepting.accept().await.ok_or("no connection")?.await?) };
    let (to, from) = tokio::try_join!(dial, accept)?;

    let (mut send, _) = to.open_bi().await?;
    let (began, before) = (Instant::now(), cpu()?);
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let chunk = vec![7; CHUNK];
        while began.elapsed() < time {
            send.write_all(&chunk).await?;
        }
        send.finish()?;
        Ok::<_, Failure>(())
    });
    let (_, mut receive) = from.accept_bi().await?;
    let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
    while let Some(len) = receive.read(&mut chunk).await? {
        bytes += len as u64;
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok((bytes, began.elapsed(), cpu()? - before))
}

fn configs() -> Result<(quinn::ServerConfig, quinn::ClientConfig), Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = CertificateDer::from(made.cert);
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    server.alpn_protocols = vec![ALPN.into()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.into()];
    let server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    Ok((server, quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?))))
}

/// Processor seconds of this process, as Linux accounts them: to 10 ms.
fn cpu() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no process in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}
