//! What an exchange tells the inspector as it goes by.
//!
//! A [`Tap`] travels with its request and then with the response's body, as a line of the access log does; a [`Sending`]
//! goes with the request's body to the service. Both only look: they never wait, and what they are told is there already.

use std::{
    borrow::Cow,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use tokio::time::Instant;

use super::{
    Inspector, REPLAY,
    mask::Known,
    store::{BODY, Body, Exchange, RequestHead, ResponseHead, Times},
};
use crate::agent::Endpoint;

/// How much of a body that is beyond what is kept goes by before its length is told.
const AT_ONCE: u64 = 256 * 1024;

/// The requests of a flow, which the inspector looks at.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Inspected {
    pub(super) inspector: Inspector,
    /// The flow carries this replay alone.
    pub(super) replay: Option<Replayed>,
}

/// A request that is sent again.
#[derive(Clone)]
pub(super) struct Replayed {
    /// The number of its exchange.
    pub(super) id: u64,
    /// That of the exchange whose request it was.
    pub(super) of: u64,
    /// What is secret in that, which may stand anywhere in this one.
    pub(super) known: Known,
}

impl fmt::Debug for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a replay of {}", self.of)
    }
}

/// An exchange under way. Dropped before it is complete, it has failed.
#[derive(Debug)]
pub(in crate::agent) struct Tap {
    under_way: UnderWay,
    received: Passed,
    is_replay: bool,
    over: bool,
}

/// A request's body on its way to the service.
#[derive(Debug)]
pub(in crate::agent) struct Sending {
    under_way: UnderWay,
    sent: Passed,
    over: bool,
}

/// What of a body has gone by.
#[derive(Debug, Default)]
struct Passed {
    kept: usize,
    /// How much beyond that has not been told yet.
    untold: u64,
}

impl Passed {
    /// What of these bytes is to be kept, and how many others are to be told of now.
    fn take<'a>(&mut self, data: &'a [u8]) -> (&'a [u8], u64) {
        let (kept, beyond) = data.split_at(data.len().min(BODY - self.kept));
        self.kept += kept.len();
        self.untold += beyond.len() as u64;
        (kept, if self.untold < AT_ONCE { 0 } else { self.rest() })
    }

    fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

#[derive(Debug, Clone)]
struct UnderWay {
    inspector: Inspector,
    id: u64,
    began: Instant,
}

impl UnderWay {
    fn change(&self, change: impl FnOnce(&mut Exchange, Duration)) {
        let now = self.began.elapsed();
        self.inspector.with(|store| store.change(self.id, |exchange| change(exchange, now)));
    }

    /// Takes nobody's time for what is not kept.
    fn take(&self, (kept, beyond): (&[u8], u64), body: impl FnOnce(&mut Exchange) -> &mut Body) {
        if !kept.is_empty() || beyond > 0 {
            self.inspector.with(|store| store.take(self.id, kept, beyond, body));
        }
    }
}

impl Inspected {
    pub(in crate::agent) fn by(inspector: &Inspector) -> Self {
        Self { inspector: inspector.clone(), replay: None }
    }

    /// A request has come.
    pub(in crate::agent) fn begin<B: http_body::Body>(
        &self,
        endpoint: &Endpoint,
        client: Option<IpAddr>,
        request: &Request<B>,
    ) -> Tap {
        self.enter(endpoint, client, Some(head(endpoint, request)), request.body().is_end_stream())
    }

    /// A request that is to be sent again waits for a connection of the service, and begins when it has one.
    pub(super) fn wait(&self, endpoint: &Endpoint, client: Option<IpAddr>, request: &Request<Bytes>) -> Tap {
        let tap = self.enter(endpoint, client, Some(head(endpoint, request)), false);
        tap.sending().send(request.body());
        tap
    }

    /// A flow could not be joined to the service.
    pub(in crate::agent) fn unreached(&self, endpoint: &Endpoint, client: Option<IpAddr>, error: String) {
        self.enter(endpoint, client, None, false).fail(error);
    }

    fn enter(
        &self,
        endpoint: &Endpoint,
        client: Option<IpAddr>,
        request: Option<RequestHead>,
        is_empty: bool,
    ) -> Tap {
        let began = Instant::now();
        let id = self.inspector.with(|store| {
            let id = self.replay.as_ref().map_or_else(|| store.reserve(), |replay| replay.id);
            store.begin(Exchange {
                id,
                revision: 0,
                endpoint: endpoint.name.clone(),
                service: endpoint.service.url().into(),
                client,
                replay_of: self.replay.as_ref().map(|replay| replay.of),
                began: SystemTime::now(),
                request: request.map(Arc::new),
                request_body: Body { complete: is_empty, ..Body::default() },
                response: None,
                response_body: Body::default(),
                times: Times { sent: is_empty.then_some(Duration::ZERO), ..Times::default() },
                error: None,
                carried: None,
                known: self.replay.as_ref().map_or_else(Known::default, |replay| Known::clone(&replay.known)),
            });
            id
        });
        let under_way = UnderWay { inspector: self.inspector.clone(), id, began };
        Tap { under_way, received: Passed::default(), is_replay: self.replay.is_some(), over: false }
    }
}

/// Fields that hold on to nothing: those of a connection are parts of all that was read with them.
fn owned(fields: &HeaderMap) -> HeaderMap {
    let copy = |value: &HeaderValue| {
        let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        copy
    };
    fields.iter().map(|(name, value)| (name.clone(), copy(value))).collect()
}

fn owned_target(target: &Uri) -> Uri {
    target.to_string().parse().unwrap_or_else(|_| target.clone())
}

fn head<B>(endpoint: &Endpoint, request: &Request<B>) -> RequestHead {
    RequestHead {
        method: request.method().clone(),
        target: owned_target(request.uri()),
        headers: owned(request.headers()),
        hidden: endpoint.door.consumed().collect(),
    }
}

impl Tap {
    /// For the request's body.
    pub(in crate::agent) fn sending(&self) -> Sending {
        Sending { under_way: self.under_way.clone(), sent: Passed::default(), over: false }
    }

    /// The response has begun, the service's or the agent's own.
    pub(in crate::agent) fn answered<B>(&self, response: &Response<B>, own: bool) {
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let head = ResponseHead {
            status: response.status(),
            reason: reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned()),
            headers: owned(response.headers()),
            own,
        };
        self.under_way.change(|exchange, now| {
            exchange.response = Some(Arc::new(head));
            exchange.times.answered = Some(now);
        });
    }

    /// Bytes of the response's body.
    pub(in crate::agent) fn receive(&mut self, data: &[u8]) {
        self.under_way.take(self.received.take(data), |exchange| &mut exchange.response_body);
    }

    /// The response has come to its end.
    pub(in crate::agent) fn complete(&mut self) {
        if !self.over {
            self.over = true;
            let rest = self.received.rest();
            self.under_way.change(|exchange, now| {
                exchange.response_body.length += rest;
                exchange.response_body.complete = true;
                exchange.times.ended = Some(now);
            });
        }
    }

    /// It ends otherwise.
    pub(in crate::agent) fn fail(&mut self, error: impl Into<Cow<'static, str>>) {
        if !self.over {
            self.over = true;
            let error = error.into().into_owned();
            let rest = self.received.rest();
            self.under_way.change(|exchange, now| {
                exchange.response_body.length += rest;
                exchange.error = Some(error);
                exchange.times.ended = Some(now);
            });
        }
    }

    /// Somebody else tells the rest.
    pub(super) fn leave(mut self) {
        self.over = true;
    }

    /// What its connection, which had switched protocols, has carried to the service and from it.
    pub(in crate::agent) fn carried(&self, to_service: u64, from_service: u64) {
        self.under_way.change(|exchange, _| exchange.carried = Some((to_service, from_service)));
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.is_replay {
            self.fail(format!("the replay was given up: it may take {REPLAY:?} altogether"));
        } else {
            self.fail("the client went away, or its way to this agent broke, before the exchange had ended");
        }
    }
}

impl Sending {
    /// Bytes of the request's body.
    pub(in crate::agent) fn send(&mut self, data: &[u8]) {
        self.under_way.take(self.sent.take(data), |exchange| &mut exchange.request_body);
    }

    /// It has come to its end.
    pub(in crate::agent) fn complete(&mut self) {
        if !self.over {
            self.over = true;
            let rest = self.sent.rest();
            self.under_way.change(|exchange, now| {
                exchange.request_body.length += rest;
                exchange.request_body.complete = true;
                exchange.times.sent.get_or_insert(now);
            });
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let rest = self.sent.rest();
        self.under_way.take((&[], rest), |exchange| &mut exchange.request_body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_body_the_beginning_is_kept_and_the_rest_is_told_in_large_portions() {
        let mut passed = Passed::default();
        let piece = vec![0; 60 * 1024];
        let (mut kept, mut told, mut times) = (0, 0, 0);
        for _ in 0..1000 {
            let (some, beyond) = passed.take(&piece);
            kept += some.len();
            told += beyond;
            times += usize::from(!some.is_empty() || beyond > 0);
        }
        assert_eq!(kept, BODY);
        assert!(times < 1000 * piece.len() / AT_ONCE as usize + 3, "{times} times");
        told += passed.rest();
        assert_eq!(kept as u64 + told, 1000 * piece.len() as u64);
        assert_eq!(passed.rest(), 0);
    }
}
