//! An agent process: serves endpoints from local services.
//!
//! Owns one listener an endpoint; each flow that arrives becomes a connection to the service, joined byte for byte, or for
//! UDP a socket, joined packet for packet. Built on `client`, which keeps the links. It parses what it carries only where an
//! endpoint's options ask for that.

mod access;
mod connection;
mod door;
mod health;
mod http;
mod proxied;
mod rewrite;
mod service;
mod udp;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

pub use self::http::HttpOptions;
pub use health::{HealthCheck, InvalidProbe, Probe};
pub use proxied::{InvalidVersion, ProxyVersion};
pub use rewrite::{Field, FieldName, InvalidField, Rewrite};
pub use service::{InvalidService, Service, ServiceAddress, ServiceTls};

use door::Clients;
use health::{Change, Watch};

use crate::{
    auth::{Access, Denied},
    client::{self, Client, FlowsCut, Incoming, ListenError, Listener},
    drain::Tasks,
    protocol::{Code, EndpointId, HostPattern, Kind, ListenOptions, Refusal},
    splice::{Counts, splice},
};

/// How often a service that does not answer is asked which version of HTTP it speaks.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What an agent serves, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// How it reaches its cluster.
    pub client: client::Config,
    /// The endpoints and the services behind them.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its name.
    pub name: EndpointId,
    /// What the service speaks. Of HTTP, one that has TLS chooses the version itself.
    pub kind: Kind,
    /// Hosts that stand for it, whatever their first label.
    pub hosts: Vec<HostPattern>,
    /// Where the service is.
    pub service: Service,
    /// What is demanded of clients. Of requests it can be only where the kind is HTTP; any others are refused then.
    pub door: Access,
    /// How to know that the service is up. Without, it is taken to be.
    pub health: Option<HealthCheck>,
    /// After how long without a packet an association ends, where the kind is UDP.
    pub udp_idle: Duration,
    /// What is done with requests, where the kind is HTTP. Without, flows are passed on unread.
    pub http: Option<HttpOptions>,
}

impl Endpoint {
    /// Whether requests are looked at. What has to be done with them is done in HTTP/1.1.
    fn reads_requests(&self) -> bool {
        self.kind == Kind::Http && (self.http.is_some() || !self.door.is_open())
    }
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The links cannot be set up.
    #[error(transparent)]
    Client(#[from] client::StartError),
}

/// A running agent. Dropping it cuts everything; see [`Agent::drain`].
#[derive(Debug)]
pub struct Agent {
    client: Client,
    endpoints: Vec<Endpoint>,
    tasks: Tasks,
}

impl Agent {
    /// Starts to connect. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Ok(Self { client: Client::new(config.client)?, endpoints: config.endpoints, tasks: Tasks::new() })
    }

    /// The client that keeps the links.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Serves all endpoints: returns once a node sends flows for each, however long that takes. An endpoint whose service is
    /// down by its health check is not waited for; it is served as soon as that passes.
    ///
    /// # Errors
    /// When a node refuses one; those before it are served.
    pub async fn serve(&self) -> Result<(), ListenError> {
        let serving = self.endpoints.iter().map(|endpoint| async move {
            let server = Server {
                endpoint: Arc::new(endpoint.clone()),
                client: self.client.clone(),
                tasks: self.tasks.clone(),
                doubt: Arc::default(),
            };
            let mut watch = endpoint
                .health
                .clone()
                .map(|check| Watch::new(check, endpoint.service.clone(), endpoint.kind));
            let up = match &mut watch {
                None => true,
                Some(watch) => watch.check().await == Some(Change::Up),
            };
            let serving = if up { Some(server.listen().await?) } else { None };
            self.tasks.spawn(async move { server.run(serving, watch).await });
            Ok(())
        });
        futures_util::future::try_join_all(serving).await.map(drop)
    }

    /// Leaves: serves nothing new, lets open flows finish at most `grace` long, closes the links.
    ///
    /// # Errors
    /// How many flows had not ended by then.
    pub async fn drain(self, grace: Duration) -> Result<(), FlowsCut> {
        let started = Instant::now();
        // Nothing is to be served again from here on.
        self.tasks.signal();
        let closed = self.client.close(grace).await;
        if let Err(aborted) = self.tasks.finish(grace.saturating_sub(started.elapsed())).await {
            tracing::debug!(%aborted, "flows were left");
        }
        closed
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// What serves one endpoint.
#[derive(Debug)]
struct Server {
    endpoint: Arc<Endpoint>,
    client: Client,
    tasks: Tasks,
    /// Told when the service may speak another version of HTTP than the one that is being served.
    doubt: Arc<Notify>,
}

/// An endpoint that is being served.
#[derive(Debug)]
struct Serving {
    listener: Listener,
    /// What nodes have been told that the service speaks.
    kind: Kind,
}

impl Server {
    /// Serves the endpoint with the version of HTTP that its service chooses now. When that cannot be asked, it is the older
    /// one, so that clients are told why the service cannot be reached.
    async fn listen(&self) -> Result<Serving, ListenError> {
        let Endpoint { name, hosts, service, .. } = &*self.endpoint;
        let mut kind = self.endpoint.kind;
        if self.may_choose() {
            match service.negotiate(kind).await {
                Ok((_, chosen)) => kind = chosen,
                Err(_) => self.doubt.notify_one(),
            }
        }
        let options = ListenOptions { hosts: hosts.clone(), proxy_protocol: service.has_proxy_protocol() };
        let listener = self.client.listen_with(name.clone(), kind, options).await?;
        tracing::info!(endpoint = %name, %service, kind = kind.name(), "serving");
        Ok(Serving { listener, kind })
    }

    /// Whether the service chooses the version of HTTP.
    fn may_choose(&self) -> bool {
        let endpoint = &self.endpoint;
        endpoint.kind == Kind::Http && !endpoint.reads_requests() && endpoint.service.chooses()
    }

    /// Takes flows until the listener is closed. Cancel safe.
    async fn accept(&self, listener: &mut Listener) {
        while let Some(incoming) = listener.accept().await {
            // As many at once as the link permits.
            let endpoint = Arc::clone(&self.endpoint);
            match endpoint.kind {
                Kind::Udp => self.tasks.spawn(udp::join(incoming, endpoint, self.client.clone())),
                _ => self.tasks.spawn(join(incoming, endpoint, Arc::clone(&self.doubt))),
            }
        }
    }

    /// Serves the endpoint while its service is up, until the agent leaves.
    async fn run(&self, mut serving: Option<Serving>, mut watch: Option<Watch>) {
        let Endpoint { name, service, .. } = &*self.endpoint;
        loop {
            let mut up = false;
            if let Some(Serving { mut listener, kind }) = serving.take() {
                tokio::select! {
                    () = self.accept(&mut listener) => return,
                    () = down(watch.as_mut()) => {}
                    () = self.chooses_otherwise(kind) => up = true,
                }
                listener.close().await;
                // What was on its way before every node had acknowledged.
                self.accept(&mut listener).await;
            }
            let listening = async {
                match &mut watch {
                    _ if up => {}
                    Some(watch) => {
                        tracing::warn!(endpoint = %name, %service, "the service is down: the endpoint is not served until it is up");
                        watch.until(Change::Up).await;
                    }
                    None => tokio::time::sleep(ASK_AGAIN).await,
                }
                self.listen().await
            };
            let listening = tokio::select! {
                listening = listening => listening,
                () = self.tasks.signalled() => return,
            };
            match listening {
                Ok(new) => serving = Some(new),
                Err(error) => {
                    let error = crate::telemetry::report(&error);
                    tracing::error!(endpoint = %name, error, "the service is up, and its endpoint cannot be served");
                    if let Some(watch) = &mut watch {
                        watch.doubt();
                    }
                }
            }
        }
    }

    /// Waits until the service has chosen another version of HTTP than the one that is being served. It is asked only when
    /// something makes that likely, and then until it answers.
    async fn chooses_otherwise(&self, kind: Kind) {
        let Endpoint { service, .. } = &*self.endpoint;
        if !self.may_choose() {
            return std::future::pending().await;
        }
        loop {
            self.doubt.notified().await;
            let chosen = loop {
                match service.negotiate(self.endpoint.kind).await {
                    Ok((_, chosen)) => break chosen,
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            };
            if chosen != kind {
                return;
            }
        }
    }
}

/// Waits until a service is found to be down; one that nobody watches never is.
async fn down(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.until(Change::Down).await,
        None => std::future::pending().await,
    }
}

/// Refuses a flow at the endpoint's door.
async fn deny(incoming: Incoming, denied: Denied) {
    let open = incoming.open();
    let client = open.client.map(tracing::field::display);
    tracing::debug!(endpoint = %open.endpoint, client, %denied, "a flow was not let in");
    incoming.refuse(Refusal::new(Code::Forbidden, denied.to_string())).await;
}

/// Joins one flow to a new connection of the service.
async fn join(incoming: Incoming, endpoint: Arc<Endpoint>, doubt: Arc<Notify>) {
    if !endpoint.reads_requests()
        && let Err(denied) = door::check_flow(&endpoint.door, incoming.open())
    {
        return deny(incoming, denied).await;
    }
    let (client, clients) = (incoming.open().client, Clients::of(incoming.open()));
    let connection = match endpoint.service.connect(incoming.open().kind, incoming.open().into()).await {
        Ok(connection) => connection,
        Err(error) => {
            if endpoint.kind == Kind::Http && error.is_of_version() {
                doubt.notify_one();
            }
            tracing::warn!(endpoint = %endpoint.name, %error, "the service cannot be reached");
            return incoming.refuse(Refusal::new(error.code(), error.to_string())).await;
        }
    };
    let flow = match incoming.accept().await {
        Ok(flow) => flow,
        Err(error) => {
            return tracing::debug!(endpoint = %endpoint.name, %error, "a flow went away before it began");
        }
    };
    if endpoint.reads_requests() {
        return http::serve(flow, clients, connection, &endpoint).await;
    }
    let counts = Counts::default();
    let end = splice(flow, connection, &counts).await;
    tracing::debug!(
        endpoint = %endpoint.name,
        client = client.map(tracing::field::display),
        to_service = counts.left_to_right(),
        from_service = counts.right_to_left(),
        broken = end.err().map(|broken| crate::telemetry::report(&broken)),
        "a flow has ended"
    );
}
