//! One open UDP association.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::session::Session;
use crate::{
    splice::packets::{Activity, Side, Sink, Source},
    transport::{self, PacketReceiver, PacketSender, Stream},
};

/// The link that a flow is on, which is kept until the flow has ended.
#[derive(Debug)]
pub(super) struct Via {
    session: Arc<Session>,
    /// A client that closes waits for its flows.
    _hold: TaskTrackerToken,
}

impl Via {
    pub(super) fn new(session: &Arc<Session>) -> Self {
        Self { session: Arc::clone(session), _hold: session.flows.hold() }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

/// A UDP association that has been joined: packets to and from the other end. They may be lost, and come out of order.
///
/// It ends with [`Association::end`] on either side, and with its link: then there is nothing to do but to associate anew.
/// Dropping it breaks it, which the other end is told as an error.
#[derive(Debug)]
pub struct Association {
    inner: transport::Association,
    client: Option<SocketAddr>,
    via: Via,
}

impl Association {
    pub(super) fn new(stream: Stream, client: Option<SocketAddr>, via: Via) -> Self {
        Self { inner: via.session.datagrams.associate(stream), client, via }
    }

    /// The address of the client at the far edge, where it is known.
    pub fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// The next packet; `None` when the other end has ended the association. Cancel safe.
    ///
    /// # Errors
    /// When the association or its link has broken.
    pub async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        self.inner.recv.recv().await
    }

    /// Sends a packet of at most 65,535 bytes. One that is too large for a datagram on the way waits for room on the
    /// association's stream; one for which the link has no room is dropped and counted in [`Client::packets`]. Cancel safe
    /// but for that packet, which may be sent or not.
    ///
    /// [`Client::packets`]: super::Client::packets
    ///
    /// # Errors
    /// When the association or its link has ended, or the packet is too long.
    pub async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.inner.send.send(packet).await
    }

    /// Both directions, to be driven at the same time.
    pub fn split(&mut self) -> (&mut PacketReceiver, &mut PacketSender) {
        (&mut self.inner.recv, &mut self.inner.send)
    }

    /// Waits until nothing has passed for a `time`; for a moment only, once its link is to be replaced or this process is
    /// `leaving`. What follows then takes another way. `activity` is that of the association's join.
    pub fn idle<'a, F: Future<Output = ()> + Send>(
        &self,
        activity: &'a Activity,
        time: Duration,
        leaving: F,
    ) -> impl Future<Output = ()> + Send + use<'a, F> {
        let session = Arc::clone(&self.via.session);
        async move {
            let left = async {
                tokio::select! {
                    _ = session.left() => {}
                    () = session.flows.signalled() => {}
                    () = leaving => {}
                }
            };
            activity.idle(time, left).await;
        }
    }

    /// Waits until its link does not answer while another stands in its place, so that nothing is gained by going on with an
    /// association that can be begun anew. Meanwhile the link is watched behind the association's packets.
    pub fn deserted<'a>(&self, activity: &'a Activity) -> impl Future<Output = ()> + Send + use<'a> {
        let session = Arc::clone(&self.via.session);
        async move {
            let deserted = async {
                session.vitals.suspected().await;
                session.flows.signalled().await;
            };
            tokio::select! {
                () = deserted => {}
                () = session.vitals.watch(activity) => {}
            }
        }
    }

    /// Ends the association and returns when the other side knows.
    pub async fn end(self) {
        self.inner.end().await;
    }
}

impl Side for Association {
    fn halves(&mut self) -> (impl Source, impl Sink) {
        self.inner.halves()
    }

    async fn end(self) {
        self.inner.end().await;
    }
}
