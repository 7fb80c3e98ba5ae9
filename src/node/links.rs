//! The link port: accepts links over QUIC and over WebSocket (`http`), reads their `Hello`, and hands them to whom they are
//! for.

mod http;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::{net::TcpListener, sync::watch};

use super::{LinkConfig, StartError};
use crate::{
    auth::{self, Action, Guard, Shown, Standing},
    drain::Tasks,
    protocol::{
        ALPN_LINK, Close, Code, Control, Hello, NodeAddress, NodeId, OLDEST_VERSION, Refusal, Role, VERSION,
        Welcome,
    },
    relay::Relay,
    telemetry::{Metrics, What},
    tls::{self, ServerTls},
    transport::{ControlReader, ControlWriter, Datagrams, FrameError, Link, Settings, quic},
    upstream::{Identity, Session, Upstreams},
};

/// How long a link has for its handshake, and then for its `Hello`.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many endpoints one link may serve.
const MAX_LISTENS: u32 = 10_000;

/// What answers `Hello`.
#[derive(Debug)]
pub(super) struct Welcomer {
    pub(super) node: NodeId,
    pub(super) cluster: String,
    /// The nodes to link to, as they change.
    pub(super) nodes: watch::Receiver<Arc<[NodeAddress]>>,
    pub(super) settings: Settings,
    pub(super) upstreams: Upstreams,
    pub(super) relay: Relay,
    pub(super) guard: Guard,
    pub(super) callers: auth::Limits,
}

/// What handshakes are made with, over QUIC and over TCP.
#[derive(Debug)]
pub(super) struct Handshakes {
    quic: quic::ServerCrypto,
    tcp: rustls::ServerConfig,
}

impl Handshakes {
    pub(super) fn new(config: &LinkConfig) -> Result<Self, StartError> {
        let (quic, tcp) = tls_of(config)?;
        Ok(Self { quic: quic.try_into().map_err(quic::BindError::from)?, tcp })
    }
}

/// TLS over QUIC, and over TCP.
pub(super) fn tls_of(
    config: &LinkConfig,
) -> Result<(rustls::ServerConfig, rustls::ServerConfig), tls::ConfigError> {
    let identities = std::slice::from_ref(&config.identity);
    let server = |alpn| tls::server_config(identities, config.clients.clone(), &[alpn]);
    Ok((server(ALPN_LINK)?, server(b"http/1.1")?))
}

/// A running link port.
#[derive(Debug)]
pub(super) struct Links {
    listener: Arc<quic::Listener>,
    tls: ServerTls,
    draining: Arc<AtomicBool>,
    tasks: Tasks,
}

impl Links {
    pub(super) fn start(
        listener: quic::Listener,
        (http, tls): (TcpListener, ServerTls),
        welcomer: Welcomer,
        metrics: &Metrics,
    ) -> Self {
        let links = Self {
            listener: Arc::new(listener),
            tls: tls.clone(),
            draining: Arc::default(),
            tasks: Tasks::new(),
        };
        let violations = Violations::new(metrics);
        let door = Arc::new(Door { welcomer, draining: Arc::clone(&links.draining), violations });
        links.tasks.spawn(http::accept(http, tls, Arc::clone(&door), links.tasks.clone()));
        links.tasks.spawn(accept(Arc::clone(&links.listener), door, links.tasks.clone()));
        links
    }

    /// Makes handshakes with these from now on. Links that stand are not touched.
    pub(super) fn replace(&self, handshakes: Handshakes) {
        self.listener.replace(handshakes.quic);
        self.tls.replace(handshakes.tcp);
    }

    /// Refuses new links from now on, with a code that sends their openers elsewhere.
    pub(super) fn refuse_new(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Closes all links.
    pub(super) async fn close(&self, code: Close, reason: &str) {
        self.listener.close(code, reason).await;
        if let Err(aborted) = self.tasks.finish(Duration::from_secs(1)).await {
            tracing::debug!(%aborted, "tasks of the link port were left");
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn accept(listener: Arc<quic::Listener>, door: Arc<Door>, tasks: Tasks) {
    while let Some(incoming) = listener.accept().await {
        // The listener bounds the handshakes; links are bounded by what their openers cost the host.
        let door = Arc::clone(&door);
        let of_link = tasks.clone();
        tasks.spawn(async move {
            let client = incoming.remote_address();
            match incoming.handshake(HANDSHAKE).await {
                Ok(link) => door.enter(link, client, &of_link).await,
                Err(error) => {
                    tracing::debug!(%client, %error, "a link's handshake failed");
                    door.happened(client, error);
                }
            }
        });
    }
}

/// What came over WebSocket and was sent away.
#[derive(Debug, Clone, Default)]
struct Violations {
    refused: Family<ReasonLabel, Counter>,
    closed: Family<ReasonLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Violations {
    fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            let help =
                "Requests to the link port that became no WebSocket, by the code that they were answered";
            registry.register("link_upgrades_refused", help, this.refused.clone());
            let help = "WebSockets of the link port that were closed for what they carried";
            registry.register("link_websocket_violations", help, this.closed.clone());
        });
        this
    }

    fn note(&self, client: SocketAddr, reason: Option<&'static str>) {
        if let Some(reason) = reason {
            tracing::warn!(%client, reason, "a WebSocket was closed: it does not keep to the protocol");
            self.closed.get_or_create(&ReasonLabel { reason }).inc();
        }
    }
}

fn limited(limited: auth::Limited) -> Refusal {
    Refusal::new(Code::Busy, limited.to_string())
}

#[derive(Debug)]
struct Door {
    welcomer: Welcomer,
    draining: Arc<AtomicBool>,
    violations: Violations,
}

impl Door {
    fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whose tenant it would be is not known for sure.
    fn happened(&self, client: SocketAddr, why: impl fmt::Display) {
        let recent = self.welcomer.upstreams.recent();
        recent.note(What::LinkRefused, None, client.ip().to_string(), why.to_string());
    }

    fn refused(&self, reason: &'static str) {
        self.violations.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Reads a link's `Hello`, and runs the link until it ends if it may be.
    async fn enter(&self, link: Link, client: SocketAddr, tasks: &Tasks) {
        // Boxed, as what is done once: the task of a link would hold the room for it for as long as the link.
        let hello = Box::pin(tokio::time::timeout(HANDSHAKE, async {
            let stream = link.accept().await.map_err(|lost| lost.to_string())?;
            let (mut reader, writer) = (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
            match reader.next().await {
                Ok(Control::Hello(hello)) => Ok((hello, reader, writer)),
                Ok(_) => Err("a link begins with Hello".into()),
                Err(error) => Err(error.to_string()),
            }
        }));
        let (hello, reader, mut writer) = match hello.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(reason)) => {
                tracing::warn!(%client, reason, "a link was closed: it did not begin as it should");
                self.happened(client, &reason);
                return link.close(Close::Protocol, &reason);
            }
            Err(_) => {
                tracing::debug!(%client, "a link was closed: it said nothing");
                self.happened(client, "it said nothing");
                return link.close(Close::Timeout, "no Hello in time");
            }
        };
        let admitted = Box::pin(async {
            let version = self.admit(&hello)?;
            let mut pass = self.welcomer.callers.link(client.ip()).map_err(limited)?;
            let standing = self.authenticate(&hello, &link).await.map_err(|refused| refused.refusal())?;
            self.welcomer.callers.link_of(&mut pass, standing.tenant()).map_err(limited)?;
            Ok::<_, Refusal>((version, standing, pass))
        });
        let (version, standing, _pass) = match admitted.await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if refusal.code == Code::Elsewhere {
                    tracing::debug!(%client, agent = %hello.agent, %refusal, "a link was sent elsewhere");
                } else {
                    let code = refusal.code.name();
                    tracing::warn!(target: "adit::access", %client, agent = %hello.agent, code, %refusal, "a link was refused");
                    self.happened(client, &refusal);
                }
                if let Err(error) = writer.send(&Control::Refused(refusal)).await {
                    tracing::debug!(%client, %error, "the refused went away first");
                }
                writer.finish().await;
                return link.close(Close::Refused, "refused");
            }
        };
        let welcomer = &self.welcomer;
        let identity = Identity {
            role: hello.role,
            agent: hello.agent,
            name: hello.name,
            tenant: standing.tenant().clone(),
        };
        let (role, name) = (identity.role, identity.name.clone());
        let counters = welcomer.upstreams.packets().of_link(identity.role_name());
        let datagrams = Datagrams::new(link, counters);
        let (session, queue) = Session::new(welcomer.upstreams.next_link(), identity, standing, datagrams);
        if role == Role::Forwarder {
            session.link.set_max_flows(welcomer.settings.max_flows);
        }
        if let Err(error) = self.welcome(version, &mut writer).await {
            return tracing::debug!(%client, %error, "a link went away before it was welcomed");
        }
        tracing::info!(link = %session.id, %client, agent = %session.identity.agent, name, ?role, "linked");
        tasks.spawn(session.datagrams.clone().run());
        let control = welcomer.upstreams.run(
            Arc::clone(&session),
            hello.listens,
            MAX_LISTENS as usize,
            (reader, writer),
            queue,
            welcomer.nodes.clone(),
        );
        match role {
            Role::Agent => control.await,
            Role::Forwarder => drop(tokio::join!(control, welcomer.relay.serve(Arc::clone(&session)))),
        }
    }

    /// The version to speak, if the link may be at all.
    fn admit(&self, hello: &Hello) -> Result<u32, Refusal> {
        let version = hello.version.min(VERSION);
        if version < hello.oldest.max(OLDEST_VERSION) {
            let theirs = format!("{} to {}", hello.oldest, hello.version);
            let text = format!(
                "this node speaks versions {OLDEST_VERSION} to {VERSION}, the link's opener {theirs}"
            );
            return Err(Refusal::new(Code::UnsupportedVersion, text));
        }
        if self.is_draining() {
            return Err(Refusal::new(Code::Draining, "this node is leaving; link to another one"));
        }
        // Before anything is done for it: a second link of the same agent would supersede the first.
        if hello.avoid.contains(&self.welcomer.node) {
            return Err(Refusal::new(
                Code::Elsewhere,
                "this is a node that the link's opener is linked to already",
            ));
        }
        Ok(version)
    }

    /// What a link's opener stands on, by the token of its `Hello` and the certificate of its handshake.
    async fn authenticate(&self, hello: &Hello, link: &Link) -> Result<Standing, auth::Refused> {
        let guard = &self.welcomer.guard;
        let certificate = link.peer_certificates().into_iter().next().map(Arc::new);
        let token = hello.token.as_ref().map(|token| token.expose());
        let shown = Shown { token, certificate: certificate.as_deref() };
        let action = match hello.role {
            Role::Agent => Action::Serve,
            Role::Forwarder => Action::Connect,
        };
        let caller = guard.caller(shown, hello.tenant.as_ref()).await?;
        guard.may(&caller.grant, action)?;
        Ok(Standing::new(guard, caller, certificate))
    }

    async fn welcome(&self, version: u32, writer: &mut ControlWriter) -> Result<(), FrameError> {
        let welcomer = &self.welcomer;
        let welcome = Welcome {
            version,
            node: welcomer.node.clone(),
            cluster: welcomer.cluster.clone(),
            nodes: welcomer.nodes.borrow().to_vec(),
            max_listens: MAX_LISTENS,
        };
        writer.send(&Control::Welcome(welcome)).await
    }
}
