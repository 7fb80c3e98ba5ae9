//! `adit bench http`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority};
use rustls::pki_types::ServerName;

use super::{
    OutputArgs, PaceArgs,
    fabric::{Fabric, FabricArgs, Wanted, client_tls, host_port},
    measure,
    meter::{Meter, Spent},
    progress::Progress,
    some_time,
};
use crate::{
    cli::failure::Failure,
    load::{
        Figure, Pace, Plan, Recorder, Run, Services, Speaks, Tally, Turns, Unit,
        http::{Body, Echo, Load, Target, Template, Version},
    },
    net::HostPort,
};

/// Requests in all, unless it is said otherwise.
const REQUESTS: u64 = 100_000;

/// What is said of bytes on the wire.
pub(super) const WIRE: &str = "The wire is the loopback interface, what others send over it among it, over all hops: client, \
                               links, service. Headers of packets that are handed over together are counted once.";

/// Measure requests.
#[derive(Debug, Args)]
pub(in crate::cli) struct HttpArgs {
    #[command(flatten)]
    pace: PaceArgs,
    /// Send from so many clients, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Send so many bytes with each request, to be sent back and compared; 0 for a GET.
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    size: usize,
    /// The version of HTTP. 3 is always with TLS.
    #[arg(long, value_name = "1|2|3", default_value = "1", value_parser = version)]
    http: Version,
    /// Use TLS at the edge of a cluster of its own.
    #[arg(long)]
    tls: bool,
    /// Give up a request that is not answered within so long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time)]
    timeout: Duration,
    /// Serve so many endpoints, which the requests are for in turn.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "What is served")]
    endpoints: usize,
    /// Serve them from so many services.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "What is served")]
    upstreams: usize,
    #[command(flatten)]
    fabric: FabricArgs,
    /// The edge of a real cluster.
    #[arg(long, value_name = "URL", requires = "link", value_parser = url, help_heading = "A real cluster")]
    edge: Option<Uri>,
    /// Measure what answers here, whatever it is. It is sent GET requests.
    #[arg(long, value_name = "URL", value_parser = url, help_heading = "Anything else")]
    #[arg(conflicts_with_all = ["edge", "link", "nodes", "forwarded", "tls"])]
    url: Option<Uri>,
    /// It sends back what it gets: send --size bytes, and compare.
    #[arg(long, requires = "url", help_heading = "Anything else")]
    echo: bool,
    /// Send this with each request, such as 'x-adit-endpoint: web'; may be repeated. Host is replaced.
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "url", value_parser = header_line)]
    #[arg(help_heading = "Anything else")]
    headers: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    output: OutputArgs,
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE, such as 'x-adit-endpoint: web'")?;
    let name: HeaderName = name.trim().parse().map_err(|_| format!("{name:?} is no name of a header"))?;
    let value = value.trim();
    match name {
        header::CONTENT_LENGTH | header::TRANSFER_ENCODING => {
            return Err(format!("{name} is the body's own: choose what is sent by --echo and --size"));
        }
        header::HOST if value.parse::<Authority>().is_err() => {
            return Err(format!("{value:?} is no host, such as web.example.com"));
        }
        _ => {}
    }
    let value =
        HeaderValue::from_str(value).map_err(|_| format!("the value of {name} has what none may have"))?;
    Ok((name, value))
}

fn version(text: &str) -> Result<Version, &'static str> {
    match text {
        "1" | "1.1" => Ok(Version::Http1),
        "2" => Ok(Version::Http2),
        "3" => Ok(Version::Http3),
        _ => Err("expected 1, 2 or 3"),
    }
}

fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some() => Ok(url),
        _ => Err("expected a whole URL, such as http://127.0.0.1:8000/".into()),
    }
}

pub(super) fn run(args: &HttpArgs) -> Result<(), Failure> {
    if args.url.is_none() {
        args.fabric.check(args.endpoints, args.upstreams).map_err(Failure::Usage)?;
    }
    if args.edge.is_none() && args.fabric.link.is_some() {
        return Err(Failure::Usage(anyhow::anyhow!("--link needs --edge: give both, or neither")));
    }
    let subject = args.subject();
    measure("http", &subject, &args.output, async |progress| once(args, progress).await)
}

impl HttpArgs {
    fn subject(&self) -> String {
        let what = match (&self.url, self.is_echo()) {
            (Some(url), _) if self.headers.is_empty() => url.to_string(),
            // Values may be secret.
            (Some(url), _) => {
                let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
                format!("{url} with {}", names.join(", "))
            }
            (None, _) => {
                let (endpoints, upstreams) = (self.endpoints, self.upstreams);
                format!("{}, {endpoints} endpoints, {upstreams} upstreams", self.fabric.describe())
            }
        };
        let version = match self.http {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
            Version::Http3 => "HTTP/3",
        };
        let body = match (self.is_echo(), self.size) {
            (true, 1..) => format!("{} bytes echoed and compared", self.size),
            _ => "GET".into(),
        };
        let rate = self.pace.rate.map_or_else(String::new, |rate| format!(", {rate} a second"));
        format!("{what}; {} clients, {version}, {body}{rate}", self.clients)
    }

    fn is_echo(&self) -> bool {
        self.size > 0 && (self.url.is_none() || self.echo)
    }

    fn plan(&self) -> Plan {
        self.pace.plan(REQUESTS)
    }

    fn with_tls(&self) -> bool {
        self.tls || self.http == Version::Http3
    }

    /// A server as clients connect to it.
    fn target(&self, url: &Uri, fabric: Option<&Fabric>) -> anyhow::Result<Target> {
        let host = url.host().context("a URL has a host")?.trim_matches(['[', ']']).to_owned();
        let tls = match (url.scheme_str(), self.http) {
            (Some("https"), version) => {
                let alpn: &[&[u8]] = match version {
                    Version::Http1 => &[b"http/1.1"],
                    Version::Http2 => &[b"h2"],
                    Version::Http3 => &[b"h3"],
                };
                let tls = client_tls(&self.fabric.trust(fabric)?, alpn)?;
                Some((tls, ServerName::try_from(host.clone())?))
            }
            (_, Version::Http3) => bail!("{url} is without TLS, which HTTP/3 needs: begin it with https://"),
            _ => None,
        };
        let port = url.port_u16().unwrap_or_else(|| if tls.is_some() { 443 } else { 80 });
        Ok(Target { address: HostPort { host, port }, tls })
    }

    /// What is asked of a server, for an endpoint if it has such.
    fn template(&self, url: &Uri, endpoint: Option<&str>) -> anyhow::Result<Template> {
        let mut headers = HeaderMap::new();
        let given = self.headers.iter().rev().find(|(name, _)| *name == header::HOST);
        let authority: Authority = match given {
            Some((_, host)) => host.to_str()?.parse()?,
            None => url.authority().context("a URL has a host")?.clone(),
        };
        let uri = match self.http {
            Version::Http1 => {
                headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
                url.path_and_query().map_or("/", |path| path.as_str()).parse()?
            }
            // There the host is part of the target.
            Version::Http2 | Version::Http3 => {
                let mut parts = url.clone().into_parts();
                parts.authority = Some(authority);
                Uri::from_parts(parts)?
            }
        };
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != header::HOST) {
            headers.append(name.clone(), value.clone());
        }
        if let Some(endpoint) = endpoint {
            headers.insert("x-adit-endpoint", HeaderValue::from_str(endpoint)?);
        }
        let method = if self.is_echo() { Method::POST } else { Method::GET };
        Ok(Template { method, uri, headers })
    }

    /// The URLs that clients go to.
    fn urls(&self, fabric: Option<&Fabric>) -> anyhow::Result<Vec<Uri>> {
        if let Some(url) = self.url.as_ref().or(self.edge.as_ref()) {
            return Ok(vec![url.clone()]);
        }
        let fabric = fabric.context("there is something to measure")?;
        let edge = |&entry: &usize| {
            let node = &fabric.nodes[entry];
            let url = match node.edge_tls {
                Some(edge) => format!("https://{}/", host_port(edge)),
                None => format!("http://{}/", host_port(node.edge)),
            };
            Ok(url.parse()?)
        };
        fabric.entries.iter().map(edge).collect()
    }
}

async fn once(args: &HttpArgs, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let mut own = None;
    if args.url.is_none() {
        let services = Services::start(args.upstreams, Speaks::Http).await?;
        let wanted = Wanted {
            kind: "http",
            endpoints: args.endpoints,
            services: &services.addresses,
            tls: args.with_tls(),
            port: false,
        };
        own = Some((Fabric::start(&args.fabric.setup(), &wanted, progress).await?, services));
    }
    let fabric = own.as_ref().map(|(fabric, _)| fabric);
    let urls = args.urls(fabric)?;
    let targets = urls.iter().map(|url| args.target(url, fabric)).collect::<Result<Vec<_>, _>>()?;
    // Any node answers any endpoint, whatever host it is asked for.
    let templates = match fabric {
        None => vec![args.template(&urls[0], None)?],
        Some(fabric) => {
            let names = fabric.endpoints.iter();
            names.map(|name| args.template(&urls[0], Some(name))).collect::<Result<_, _>>()?
        }
    };
    let load = Arc::new(Load {
        targets,
        templates,
        body: if args.is_echo() { Body::Echo(Echo::new(args.size)) } else { Body::None },
        version: args.http,
        clients: args.clients as usize,
        patience: args.timeout,
    });
    let meter = Meter::start(fabric.into_iter().flat_map(Fabric::children));
    let tally = drive(&load, args.plan(), progress).await?;
    let spent = meter.end();
    if let Some((fabric, _)) = &mut own {
        fabric.runs()?;
        fabric.leave(&[]).await;
    }
    // From the client to the edge, between nodes, to the agent, to its service.
    let hops = match args.fabric.count() {
        0 => None,
        _ if args.fabric.forwarded => Some(4.0),
        1 => Some(3.0),
        _ => None,
    };
    Ok(result(tally, spent, hops))
}

/// Runs the clients, with a bar.
pub(super) async fn drive(load: &Arc<Load>, plan: Plan, progress: &Progress) -> anyhow::Result<Tally> {
    let start = Instant::now();
    let recorder = Arc::new(Recorder::new(start));
    let turns = Arc::new(Turns::new(Pace::new(plan, start), load.clients)?);
    let running = load.run(turns, &recorder);
    progress.during(running, |elapsed| progress.of("requests", &recorder, &plan, elapsed)).await;
    Ok(recorder.tally())
}

/// What is told of a run of requests.
fn result(tally: Tally, spent: Spent, hops: Option<f64>) -> Run {
    let seconds = tally.elapsed.as_secs_f64();
    let mut figures = vec![
        Figure::plain("requests", tally.good as f64, Unit::Count),
        Figure::more("rate", tally.good as f64 / seconds.max(1e-9), Unit::PerSecond),
    ];
    figures.extend(tally.latency.iter().flat_map(|latency| latency.figures("")));
    let asked = (tally.good + tally.failed).max(1) as f64;
    figures.extend(cpu_figures(&spent, asked / 1000.0, "per 1,000 requests"));
    let wire = spent.wire.zip(hops).filter(|_| tally.bytes > 0);
    figures.extend(wire.map(|(wire, hops)| {
        Figure::less(
            "bytes on the wire per byte and hop",
            wire as f64 / hops / tally.bytes as f64,
            Unit::Ratio,
        )
    }));
    let mut notes = Vec::new();
    if hops.is_some() && wire.is_some() {
        notes.push(WIRE.into());
    }
    spent.into_run(tally, "requests/s", figures, notes)
}

/// Linux accounts processor time in hundredths of a second, so that none of them is not known to be none at all, and is left out.
/// Half of one, as differences of such numbers are a little off.
const TICK: f64 = 0.005;

/// Processor time of nodes, of agents, of both together, and of this process, for so many of something.
pub(super) fn cpu_figures(spent: &Spent, amount: f64, per: &str) -> Vec<Figure> {
    let (nodes, agents) = (spent.cpu("node"), spent.cpu("agent"));
    let both = nodes.map(|nodes| nodes + agents.unwrap_or(0.0));
    let named = [
        ("nodes and agents", both),
        ("nodes", nodes),
        ("agents", agents),
        ("this process", spent.cpu("bench")),
    ];
    let figure = |(who, cpu): (&str, Option<f64>)| {
        let cpu = cpu.filter(|cpu| *cpu >= TICK)?;
        Some(Figure::less(&format!("CPU {per}, {who}"), cpu / amount, Unit::CpuSeconds))
    };
    named.into_iter().filter_map(figure).collect()
}
