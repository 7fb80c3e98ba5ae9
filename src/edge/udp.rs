//! Plain UDP ports: whoever sends a packet there has an association with the port's endpoint, and needs no forwarder.

use std::{io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use super::entry;
use crate::{
    access_log::{AccessLog, Ended},
    auth::{Guard, Limits},
    drain::{Aborted, Tasks},
    protocol::{Hop, InvalidId, Kind, Open},
    splice::packets::{self, Activity, UdpClient, UdpPort},
    telemetry::{self, Tally, Traffic},
    upstream::{Name, Upstreams},
};

/// The UDP ports of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The ports and their endpoints.
    pub ports: Vec<Port>,
    /// After how long without a packet an association ends.
    pub idle: Duration,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The endpoint behind it.
    pub endpoint: Name,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected ADDRESS:PORT=ENDPOINT, the address in numbers, as in 127.0.0.1:53=dns";
        let (listen, endpoint) = text.split_once('=').ok_or_else(expected)?;
        let listen = listen.parse().map_err(|_| expected())?;
        let endpoint = endpoint.parse().map_err(|error: InvalidId| error.to_string())?;
        Ok(Self { listen, endpoint })
    }
}

/// A port that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on UDP {address} for endpoint {endpoint} (--udp)")]
pub struct BindError {
    address: SocketAddr,
    endpoint: Name,
    source: io::Error,
}

/// Running ports.
#[derive(Debug)]
pub struct Ports {
    bound: Vec<Port>,
    accepting: Tasks,
    associations: Tasks,
}

impl Ports {
    /// Binds all ports and serves.
    ///
    /// # Errors
    /// When one is taken.
    pub fn start(
        config: Config,
        upstreams: &Upstreams,
        guard: &Guard,
        callers: &Limits,
        access_log: &AccessLog,
        traffic: &Traffic,
    ) -> Result<Self, BindError> {
        let (accepting, associations) = (Tasks::new(), Tasks::new());
        let mut ports = Self { bound: Vec::new(), accepting, associations };
        for Port { listen, endpoint } in config.ports {
            let failed = |source| BindError { address: listen, endpoint: endpoint.clone(), source };
            let port = UdpPort::bind(listen, upstreams.packets().clone()).map_err(failed)?;
            let listen = port.local_address().map_err(failed)?;
            ports.bound.push(Port { listen, endpoint: endpoint.clone() });
            let door = Door {
                name: endpoint,
                upstreams: upstreams.clone(),
                guard: guard.clone(),
                callers: callers.clone(),
                access_log: access_log.clone(),
                tally: traffic.udp.clone(),
                idle: config.idle,
                associations: ports.associations.clone(),
                refusals: entry::Sparse::default(),
            };
            ports.accepting.spawn(Arc::new(door).serve(port, ports.accepting.clone()));
        }
        Ok(ports)
    }

    /// The ports as they were bound.
    pub fn bound(&self) -> &[Port] {
        &self.bound
    }

    /// Takes no new client, and ends the associations that there are as they become idle, all at the deadline.
    ///
    /// # Errors
    /// When some were left.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Aborted> {
        self.accepting.signal();
        let finished = self.associations.finish(deadline).await;
        self.accepting.abort();
        finished
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.accepting.abort();
        self.associations.abort();
    }
}

/// What one port's clients come in by.
#[derive(Debug)]
struct Door {
    name: Name,
    upstreams: Upstreams,
    guard: Guard,
    callers: Limits,
    access_log: AccessLog,
    /// Bytes of clients.
    tally: Tally,
    idle: Duration,
    associations: Tasks,
    /// Those that are written to the access log.
    refusals: entry::Sparse,
}

impl Door {
    async fn serve(self: Arc<Self>, port: UdpPort, accepting: Tasks) {
        let welcome = |client: UdpClient| {
            let door = Arc::clone(&self);
            // The port bounds its clients.
            self.associations.spawn(async move { door.join(client).await });
        };
        port.serve(accepting.signalled(), welcome).await;
    }

    /// Joins one client to a flow of an agent.
    async fn join(&self, client: UdpClient) {
        let (address, endpoint) = (client.address(), &self.name);
        let mut trace = None;
        let record = self.access_log.flow(&self.associations, address, Kind::Udp, &mut trace);
        record.asks_for(endpoint);
        let open = Open {
            endpoint: endpoint.endpoint.clone(),
            tenant: None,
            kind: Kind::Udp,
            hop: Hop::Final,
            agent: None,
            client: Some(address),
            server: None,
            trace,
        };
        let opened = async {
            let pass = entry::enter(&self.guard, &self.callers, endpoint, address)?;
            let flow = self.upstreams.open(endpoint, &open, pass.pace(), record.trail()).await?;
            Ok::<_, entry::Refused>((flow, pass))
        };
        let (flow, pass) = match opened.await {
            Ok(opened) => opened,
            Err(refused) => {
                refused.log_sparsely(address, endpoint, &self.refusals, &record);
                return client.discard().await;
            }
        };
        let _open = self.upstreams.packets().associate();
        let activity = Activity::at(pass.pace().waits()).counted(&self.tally);
        let _carrying = record.carrying(&activity);
        let association = flow.datagrams.associate(flow.stream);
        let over = async {
            tokio::select! {
                () = activity.idle(self.idle, self.associations.signalled()) => record.ended(Ended::Idle, None),
                () = self.upstreams.deserted(&flow.in_use, &activity) => record.ended(Ended::Silent, None),
            }
        };
        let end = packets::join(client, association, &activity, over).await;
        record.joined(end.as_ref().copied());
        drop(flow.in_use);
        tracing::debug!(
            %endpoint,
            client = %address,
            to_service = activity.left_to_right(),
            from_service = activity.right_to_left(),
            broken = end.err().map(|broken| telemetry::report(&broken)),
            "an association has ended"
        );
    }
}
