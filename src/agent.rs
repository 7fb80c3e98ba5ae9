//! An agent process: serves endpoints from local services.
//!
//! Owns one listener an endpoint; each flow that arrives becomes a connection to the service, joined byte for byte, or for
//! UDP a socket, joined packet for packet. Built on `client`, which keeps the links. It never parses what it carries.

mod health;
mod service;
mod udp;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use health::{HealthCheck, InvalidProbe, Probe};
pub use service::{InvalidService, Service, ServiceAddress, ServiceTls};

use health::{Change, Watch};

use crate::{
    client::{self, Client, FlowsCut, Incoming, ListenError, Listener},
    drain::Tasks,
    protocol::{EndpointId, Kind, Refusal},
    splice::{Counts, splice},
};

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
    /// What the service speaks.
    pub kind: Kind,
    /// Where the service is.
    pub service: Service,
    /// How to know that the service is up. Without, it is taken to be.
    pub health: Option<HealthCheck>,
    /// After how long without a packet an association ends, where the kind is UDP.
    pub udp_idle: Duration,
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
            };
            match &endpoint.health {
                None => {
                    let mut listener = server.listen().await?;
                    self.tasks.spawn(async move { server.accept(&mut listener).await });
                }
                Some(check) => {
                    let mut watch = Watch::new(check.clone(), endpoint.service.clone());
                    let listener = match watch.check().await {
                        Some(Change::Up) => Some(server.listen().await?),
                        _ => None,
                    };
                    self.tasks.spawn(async move { server.accept_while_up(listener, watch).await });
                }
            }
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
}

impl Server {
    async fn listen(&self) -> Result<Listener, ListenError> {
        let Endpoint { name, kind, service, .. } = &*self.endpoint;
        let listener = self.client.listen(name.clone(), *kind).await?;
        tracing::info!(endpoint = %name, %service, "serving");
        Ok(listener)
    }

    /// Takes flows until the listener is closed. Cancel safe.
    async fn accept(&self, listener: &mut Listener) {
        while let Some(incoming) = listener.accept().await {
            // As many at once as the link permits.
            let endpoint = Arc::clone(&self.endpoint);
            match endpoint.kind {
                Kind::Udp => self.tasks.spawn(udp::join(incoming, endpoint, self.client.clone())),
                Kind::Http | Kind::Tcp | Kind::Other(_) => self.tasks.spawn(join(incoming, endpoint)),
            }
        }
    }

    /// Serves the endpoint while its service is up, until the agent leaves.
    async fn accept_while_up(&self, mut listener: Option<Listener>, mut watch: Watch) {
        let Endpoint { name, service, .. } = &*self.endpoint;
        loop {
            if let Some(mut listener) = listener.take() {
                tokio::select! {
                    () = self.accept(&mut listener) => return,
                    () = watch.until(Change::Down) => {}
                }
                listener.close().await;
                // What was on its way before every node had acknowledged.
                self.accept(&mut listener).await;
            }
            tracing::warn!(endpoint = %name, %service, "the service is down: the endpoint is not served until it is up");
            let up = async {
                watch.until(Change::Up).await;
                self.listen().await
            };
            let listening = tokio::select! {
                listening = up => listening,
                () = self.tasks.signalled() => return,
            };
            match listening {
                Ok(new) => listener = Some(new),
                Err(error) => {
                    let error = crate::telemetry::report(&error);
                    tracing::error!(endpoint = %name, error, "the service is up, and its endpoint cannot be served");
                    watch.doubt();
                }
            }
        }
    }
}

/// Joins one flow to a new connection of the service.
async fn join(incoming: Incoming, endpoint: Arc<Endpoint>) {
    let client = incoming.open().client;
    let connection = match endpoint.service.connect().await {
        Ok(connection) => connection,
        Err(error) => {
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
