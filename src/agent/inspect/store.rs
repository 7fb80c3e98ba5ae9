//! The last exchanges, as they were: bounded in number, in what is kept of a body, and in bytes altogether.
//!
//! Pure: what has happened comes in, and when, as arguments. It holds secrets, so nothing in here prints what it holds;
//! whoever shows something of it goes through `shown`.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};

use super::mask::Known;
use crate::protocol::EndpointId;

/// How many exchanges are kept.
pub(super) const EXCHANGES: usize = 200;

/// How much is kept of one body.
pub(super) const BODY: usize = 64 * 1024;

/// How much is kept altogether, of heads and bodies.
pub(super) const BYTES: usize = 16 * 1024 * 1024;

/// One request, and what became of it.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) id: u64,
    /// The number of its last change.
    pub(super) revision: u64,
    pub(super) endpoint: EndpointId,
    /// The service, as a URL without a path.
    pub(super) service: Arc<str>,
    pub(super) client: Option<IpAddr>,
    /// The exchange whose request was sent again.
    pub(super) replay_of: Option<u64>,
    pub(super) began: SystemTime,
    /// Not there when the service was not reached: a node sends it only then.
    pub(super) request: Option<Arc<RequestHead>>,
    pub(super) request_body: Body,
    pub(super) response: Option<Arc<ResponseHead>>,
    pub(super) response_body: Body,
    pub(super) times: Times,
    /// Why it did not end well.
    pub(super) error: Option<String>,
    /// What a connection that has switched protocols has carried, to the service and from it, once it has ended.
    pub(super) carried: Option<(u64, u64)>,
    /// Secrets that may stand anywhere in it.
    pub(super) known: Known,
}

/// Since the request's head came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// The request had been sent.
    pub(super) sent: Option<Duration>,
    /// The response's head was there.
    pub(super) answered: Option<Duration>,
    /// All was over.
    pub(super) ended: Option<Duration>,
}

/// A request as it came to the agent.
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    /// Fields that hold secrets, whatever they are called: those for the endpoint's door.
    pub(super) hidden: Vec<HeaderName>,
}

/// A response as the service sent it, or the agent in its place.
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    /// What it says in words, if that is unusual.
    pub(super) reason: Option<String>,
    pub(super) headers: HeaderMap,
    /// The agent has made it.
    pub(super) own: bool,
}

/// A body as it streams by.
#[derive(Clone, Default)]
pub(super) struct Body {
    /// Its beginning.
    pub(super) kept: Vec<u8>,
    /// How long it has been so far.
    pub(super) length: u64,
    /// Whether it has come to its end.
    pub(super) complete: bool,
}

/// Where an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Answering,
    /// Its connection has switched to another protocol.
    Open,
    Done,
    Failed,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Answering => "answering",
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl Body {
    /// Takes in what streams by.
    pub(super) fn take(&mut self, data: &[u8]) {
        let room = BODY - self.kept.len();
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
        self.length += data.len() as u64;
    }

    /// Whether less is kept than there was.
    pub(super) fn is_cut(&self) -> bool {
        self.length > self.kept.len() as u64
    }

    fn without_content(&self) -> Self {
        Self { kept: Vec::new(), length: self.length, complete: self.complete }
    }
}

impl Exchange {
    pub(super) fn state(&self) -> State {
        let switched =
            self.response.as_ref().is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS);
        match (self.times.ended, &self.error) {
            (_, Some(_)) => State::Failed,
            (Some(_), None) => State::Done,
            (None, None) if switched => State::Open,
            (None, None) if self.response.is_some() => State::Answering,
            (None, None) => State::Waiting,
        }
    }

    /// The same without what was in its bodies.
    fn light(&self) -> Self {
        Self {
            request_body: self.request_body.without_content(),
            response_body: self.response_body.without_content(),
            request: self.request.clone(),
            known: Known::clone(&self.known),
            response: self.response.clone(),
            endpoint: self.endpoint.clone(),
            service: Arc::clone(&self.service),
            error: self.error.clone(),
            ..*self
        }
    }

    /// How many bytes it takes, about.
    fn weight(&self) -> usize {
        let request =
            self.request.as_ref().map_or(0, |head| weight(&head.headers) + target_len(&head.target));
        let response = self.response.as_ref().map_or(0, |head| weight(&head.headers));
        let known: usize = self.known.iter().map(Vec::len).sum();
        request + response + known + self.request_body.kept.capacity() + self.response_body.kept.capacity()
    }
}

fn weight(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn target_len(target: &Uri) -> usize {
    target.path_and_query().map_or(0, |path| path.as_str().len())
}

/// The last exchanges.
#[derive(Default)]
pub(super) struct Store {
    kept: BTreeMap<u64, Exchange>,
    last: u64,
    revision: u64,
    bytes: usize,
}

impl Store {
    /// A number for an exchange that is about to begin.
    pub(super) fn reserve(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// An exchange has begun; its number has been reserved. One that has waited for that under its number is no more.
    pub(super) fn begin(&mut self, mut exchange: Exchange) {
        self.revision += 1;
        exchange.revision = self.revision;
        self.bytes += exchange.weight();
        if let Some(before) = self.kept.insert(exchange.id, exchange) {
            self.bytes -= before.weight();
        }
        self.keep_within(EXCHANGES, BYTES);
    }

    /// Something happens to an exchange, if it is still there. A body grows by [`Store::take`].
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut Exchange)) {
        let Some(exchange) = self.kept.get_mut(&id) else { return };
        let before = exchange.weight();
        change(exchange);
        self.revision += 1;
        exchange.revision = self.revision;
        self.bytes = self.bytes + exchange.weight() - before;
        self.keep_within(EXCHANGES, BYTES);
    }

    /// Whoever has sent it is done, and if it has not come to its end it never will.
    pub(super) fn give_up(&mut self, id: u64) {
        self.change(id, |exchange| {
            if exchange.times.ended.is_none() {
                exchange.error = Some("the service closed the connection before it read the request".into());
                exchange.times.ended = Some(exchange.began.elapsed().unwrap_or_default());
            }
        });
    }

    /// Bytes of one of its bodies have gone by, and so many `beyond` them that are not kept.
    pub(super) fn take(
        &mut self,
        id: u64,
        data: &[u8],
        beyond: u64,
        body: impl FnOnce(&mut Exchange) -> &mut Body,
    ) {
        let Some(exchange) = self.kept.get_mut(&id) else { return };
        let body = body(exchange);
        let before = body.kept.capacity();
        body.take(data);
        body.length += beyond;
        self.bytes += body.kept.capacity() - before;
        self.revision += 1;
        exchange.revision = self.revision;
        self.keep_within(EXCHANGES, BYTES);
    }

    /// The oldest go first, also while something happens to them.
    fn keep_within(&mut self, exchanges: usize, bytes: usize) {
        while self.kept.len() > exchanges || self.bytes > bytes {
            let Some((_, oldest)) = self.kept.pop_first() else { return };
            self.bytes -= oldest.weight();
        }
    }

    /// Forgets all of them. What becomes of those under way is not told any more.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        self.revision += 1;
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, id: u64) -> Option<Exchange> {
        self.kept.get(&id).cloned()
    }

    /// All of them without what was in their bodies, the newest first.
    pub(super) fn light(&self) -> Vec<Exchange> {
        self.kept.values().rev().map(Exchange::light).collect()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("id", &self.id)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("kept", &self.kept.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;

    use super::*;

    /// An exchange with a request of these fields and this body.
    pub(in super::super) fn exchange(
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Exchange {
        let headers = fields.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let mut request_body = Body::default();
        request_body.take(body);
        request_body.complete = true;
        Exchange {
            id: 1,
            revision: 0,
            endpoint: EndpointId::new("web").unwrap(),
            service: "http://127.0.0.1:3000".into(),
            client: None,
            replay_of: None,
            began: SystemTime::UNIX_EPOCH,
            request: Some(Arc::new(RequestHead {
                method: method.parse().unwrap(),
                target: target.parse().unwrap(),
                headers: headers.collect(),
                hidden: Vec::new(),
            })),
            request_body,
            response: None,
            response_body: Body::default(),
            times: Times::default(),
            error: None,
            carried: None,
            known: Known::default(),
        }
    }

    /// The same, answered.
    pub(in super::super) fn answered(
        mut exchange: Exchange,
        status: u16,
        fields: &[(&'static str, &'static str)],
        body: &[u8],
    ) -> Exchange {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        exchange.response = Some(Arc::new(ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            reason: None,
            headers: headers.collect(),
            own: false,
        }));
        exchange.response_body.take(body);
        exchange.response_body.complete = true;
        let ms = |ms| Some(Duration::from_millis(ms));
        exchange.times = Times { sent: ms(1), answered: ms(20), ended: ms(300) };
        exchange
    }

    fn begin(store: &mut Store) -> u64 {
        let id = store.reserve();
        store.begin(Exchange { id, ..exchange("GET", "/", &[], b"") });
        id
    }

    fn ids(store: &Store) -> Vec<u64> {
        store.light().iter().map(|exchange| exchange.id).collect()
    }

    /// The bytes that are counted are those that are there.
    fn is_counted(store: &Store) -> bool {
        store.bytes == store.kept.values().map(Exchange::weight).sum::<usize>()
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut store = Store::default();
        let ids_begun: Vec<u64> = (0..EXCHANGES + 3).map(|_| begin(&mut store)).collect();
        let kept: Vec<u64> = ids_begun[3..].iter().rev().copied().collect();
        assert_eq!(ids(&store), kept);
        assert!(store.get(ids_begun[0]).is_none() && is_counted(&store));
    }

    #[test]
    fn the_beginning_of_a_body_is_kept_and_the_rest_is_counted() {
        let mut store = Store::default();
        let id = begin(&mut store);
        for piece in [&[1; 10][..], &[2; BODY], &[3; 5]] {
            store.take(id, piece, 0, |exchange| &mut exchange.response_body);
        }
        let body = store.get(id).unwrap().response_body;
        assert_eq!((body.kept.len(), body.length, body.is_cut()), (BODY, BODY as u64 + 15, true));
        assert_eq!((&body.kept[..10], &body.kept[10..12]), (&[1; 10][..], &[2; 2][..]));
        assert!(is_counted(&store));
    }

    #[test]
    fn the_oldest_go_when_they_take_too_much_also_by_growing() {
        let mut store = Store::default();
        let full = BYTES / (2 * BODY);
        for _ in 0..full + 10 {
            let id = begin(&mut store);
            store.take(id, &[0; BODY + 1], 0, |exchange| &mut exchange.request_body);
            store.take(id, &[0; BODY + 1], 0, |exchange| &mut exchange.response_body);
            assert!(store.bytes <= BYTES && is_counted(&store));
        }
        let left = ids(&store);
        assert!(left.len() == full - 1, "their heads need some room too: {}", left.len());
        assert_eq!(left[0], full as u64 + 10, "the newest is there");
        // Heads count too.
        let id = store.reserve();
        store.begin(Exchange { id, ..exchange("GET", "/", &[("x-long", &"x".repeat(1 << 20))], b"") });
        assert!(store.bytes <= BYTES && is_counted(&store));
        assert!(ids(&store).len() <= full - 7);
    }

    #[test]
    fn what_happens_to_one_that_is_gone_changes_nothing() {
        let mut store = Store::default();
        let id = begin(&mut store);
        store.take(id, b"hello", 0, |exchange| &mut exchange.request_body);
        store.clear();
        let revision = store.revision();
        store.take(id, b"hello", 0, |exchange| &mut exchange.request_body);
        store.change(id, |exchange| exchange.error = Some("gone".into()));
        assert_eq!((store.light().len(), store.bytes, store.revision()), (0, 0, revision));
        assert!(begin(&mut store) > id, "numbers are not given twice");
    }

    #[test]
    fn one_that_has_waited_is_counted_once() {
        let mut store = Store::default();
        let id = begin(&mut store);
        store.take(id, b"hello", 0, |exchange| &mut exchange.request_body);
        store.begin(Exchange { id, ..exchange("GET", "/other", &[], b"") });
        assert!(ids(&store) == [id] && is_counted(&store));
    }

    #[test]
    fn each_change_has_a_number_of_its_own() {
        let mut store = Store::default();
        let (one, other) = (begin(&mut store), begin(&mut store));
        store.take(one, b"x", 0, |exchange| &mut exchange.request_body);
        assert!(store.get(one).unwrap().revision > store.get(other).unwrap().revision);
        assert_eq!(store.revision(), store.get(one).unwrap().revision);
    }

    #[test]
    fn a_list_holds_no_content() {
        let mut store = Store::default();
        let id = begin(&mut store);
        store.take(id, b"hello", 0, |exchange| &mut exchange.request_body);
        let light = &store.light()[0];
        assert_eq!((light.request_body.length, light.request_body.kept.len()), (5, 0));
        assert!(light.request_body.is_cut());
    }

    #[test]
    fn nothing_that_is_kept_is_printed() {
        let exchange = exchange("GET", "/?a=hunter2", &[("x-a", "hunter2")], b"hunter2");
        assert!(!format!("{exchange:?} {:?}", Store::default()).contains("hunter2"));
    }
}
