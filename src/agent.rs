//! An agent process: serves endpoints from local services.
//!
//! Owns one listener an endpoint; each flow that arrives becomes a connection to the service, joined byte for byte. Built on
//! `client`, which keeps the links. It never parses what it carries.

mod service;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use service::{InvalidService, Service, ServiceAddress, ServiceTls};

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

    /// Serves all endpoints: returns once a node sends flows for each, however long that takes.
    ///
    /// # Errors
    /// When a node refuses one; those before it are served.
    pub async fn serve(&self) -> Result<(), ListenError> {
        let listens = self.endpoints.iter().map(|endpoint| async move {
            let listener = self.client.listen(endpoint.name.clone(), endpoint.kind).await?;
            tracing::info!(endpoint = %endpoint.name, service = %endpoint.service, "serving");
            self.tasks.spawn(accept(listener, Arc::new(endpoint.clone()), self.tasks.clone()));
            Ok(())
        });
        futures_util::future::try_join_all(listens).await.map(drop)
    }

    /// Leaves: serves nothing new, lets open flows finish at most `grace` long, closes the links.
    ///
    /// # Errors
    /// How many flows had not ended by then.
    pub async fn drain(self, grace: Duration) -> Result<(), FlowsCut> {
        let started = Instant::now();
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

/// Takes an endpoint's flows until its listener is closed.
async fn accept(mut listener: Listener, endpoint: Arc<Endpoint>, tasks: Tasks) {
    while let Some(incoming) = listener.accept().await {
        // As many at once as the link permits.
        tasks.spawn(join(incoming, Arc::clone(&endpoint)));
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
