//! Serves one endpoint: listens for it while it is wanted and its service is up, and joins its flows to the service.
//!
//! Each endpoint has a task, [`Server::run`], which is told how it is to be served, and told again when that changes. What
//! nodes need not know is exchanged while the endpoint is listened for; flows under way keep what they began with, and get no
//! further request.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint,
    door::{self, Clients},
    health::{Change, Watch},
    http,
    inspect::{Inspected, Inspector},
    metrics::{Counters, Health, Service as Counted},
    span::{BROKE, FlowSpan, UNREACHED},
    udp,
};
use crate::{
    auth::Denied,
    client::{Client, Incoming, ListenError, Listener},
    drain::Tasks,
    protocol::{Code, Kind, ListenOptions, Refusal},
    splice::{Broken, Counts, splice},
    telemetry::trace::Tracer,
};

/// How often a service that does not answer is asked which version of HTTP it speaks.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How an endpoint is to be served, if it is.
pub(super) type Wanted = Option<Arc<Endpoint>>;

/// Those who are told of flows and requests.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Who looks at requests, if anybody does.
    pub(super) inspector: Option<Inspector>,
    pub(super) tracer: Tracer,
    pub(super) counters: Counters,
}

/// What serves one endpoint.
#[derive(Debug)]
pub(super) struct Server {
    orders: watch::Receiver<Wanted>,
    client: Client,
    tasks: Tasks,
    seen: Seen,
    /// The service as it is counted.
    counted: Counted,
    /// Told the first answer of a node, if anybody waits for it.
    first: Option<oneshot::Sender<Result<(), ListenError>>>,
    /// Told when the service may speak another version of HTTP than the one that is being served.
    doubt: Arc<Notify>,
}

/// One version of an endpoint, as its flows are served.
#[derive(Debug, Clone)]
struct Version {
    endpoint: Arc<Endpoint>,
    seen: Seen,
    /// Another one has taken its place.
    exchanged: CancellationToken,
}

impl Version {
    fn new(endpoint: &Arc<Endpoint>, seen: &Seen) -> Self {
        Self { endpoint: Arc::clone(endpoint), seen: seen.clone(), exchanged: CancellationToken::new() }
    }
}

/// An endpoint that is being served.
#[derive(Debug)]
struct Serving {
    version: Version,
    listener: Listener,
    /// What nodes have been told that the service speaks.
    kind: Kind,
    /// What else they have been told.
    options: ListenOptions,
    /// They have been told that it ends.
    ending: bool,
}

impl Serving {
    /// Whether this may serve another version of the endpoint: nodes have been told the same of both.
    fn fits(&self, wanted: &Endpoint) -> bool {
        let may_choose = wanted.may_choose(self.version.seen.inspector.is_some());
        let kind = self.version.endpoint.kind == wanted.kind && (self.kind == wanted.kind || may_choose);
        kind && self.options == wanted.options() && !self.ending
    }
}

impl Endpoint {
    /// What nodes are told of it, beside what it speaks.
    fn options(&self) -> ListenOptions {
        ListenOptions { hosts: self.hosts.clone(), proxy_protocol: self.service.has_proxy_protocol() }
    }

    /// Whether the service chooses the version of HTTP.
    fn may_choose(&self, inspected: bool) -> bool {
        self.kind == Kind::Http && !self.reads_requests(inspected) && self.service.chooses()
    }
}

impl Server {
    pub(super) fn new(
        orders: watch::Receiver<Wanted>,
        client: Client,
        tasks: Tasks,
        seen: Seen,
        first: Option<oneshot::Sender<Result<(), ListenError>>>,
    ) -> Self {
        let counted = seen.counters.service();
        Self { orders, client, tasks, seen, counted, first, doubt: Arc::default() }
    }

    /// Serves the endpoint as it is wanted, until the agent leaves.
    pub(super) async fn run(mut self) {
        let mut serving: Option<Serving> = None;
        loop {
            let wanted = self.orders.borrow_and_update().clone();
            if let Some(mut old) = serving.take_if(|old| !wanted.as_ref().is_some_and(|new| old.fits(new))) {
                self.end(&mut old).await;
            }
            let mut orders = self.orders.clone();
            let served = async {
                match wanted {
                    Some(endpoint) => self.serve(endpoint, &mut serving).await,
                    None => {
                        self.counted.is(None);
                        self.answer(Ok(()));
                        self.tasks.signalled().await;
                    }
                }
            };
            tokio::select! {
                () = served => return,
                changed = orders.changed() => if changed.is_err() { return },
            }
        }
    }

    fn answer(&mut self, answer: Result<(), ListenError>) {
        if let Some(first) = self.first.take() {
            // Whoever waited may have given up.
            drop(first.send(answer));
        }
    }

    /// Serves one version of the endpoint while its service is up, until the agent leaves or the first node that is asked
    /// refuses. Cancel safe: what is being served is left in `serving`.
    async fn serve(&mut self, endpoint: Arc<Endpoint>, serving: &mut Option<Serving>) {
        let Endpoint { name, service, kind, .. } = &*endpoint;
        let mut watch = endpoint.health.clone().map(|check| Watch::new(check, service.clone(), *kind));
        let mut up = match (&mut *serving, &mut watch) {
            (Some(serving), watch) => {
                // It was up a moment ago, and perhaps it is another service now.
                let version = Version::new(&endpoint, &self.seen);
                let before = std::mem::replace(&mut serving.version, version);
                before.exchanged.cancel();
                watch.iter_mut().for_each(Watch::believe);
                self.doubt.notify_one();
                true
            }
            (None, None) => true,
            (None, Some(watch)) => watch.check().await == Some(Change::Up),
        };
        self.counted.is(Some(match (watch.is_some(), up) {
            (false, _) => Health::Unchecked,
            (true, true) => Health::Up,
            (true, false) => Health::Down,
        }));
        if !up {
            self.answer(Ok(()));
        }
        loop {
            if serving.is_none() {
                let listening = async {
                    match &mut watch {
                        _ if up => {}
                        Some(watch) => {
                            tracing::warn!(endpoint = %name, %service, "the service is down: the endpoint is not served until it is up");
                            watch.until(Change::Up).await;
                            self.counted.is(Some(Health::Up));
                        }
                        None => tokio::time::sleep(ASK_AGAIN).await,
                    }
                    self.listen(&endpoint).await
                };
                let listening = tokio::select! {
                    listening = listening => listening,
                    () = self.tasks.signalled() => return,
                };
                up = false;
                match listening {
                    Ok(new) => {
                        *serving = Some(new);
                        self.answer(Ok(()));
                    }
                    Err(error) if self.first.is_some() => return self.answer(Err(error)),
                    Err(error) => {
                        let error = crate::telemetry::report(&error);
                        tracing::error!(endpoint = %name, error, "the service is up, and its endpoint cannot be served");
                        watch.iter_mut().for_each(Watch::doubt);
                    }
                }
            }
            let Some(current) = serving else { continue };
            let kind = current.kind;
            tokio::select! {
                () = self.accept(current) => return,
                () = down(watch.as_mut()) => self.counted.is(Some(Health::Down)),
                () = self.chooses_otherwise(&endpoint, kind) => up = true,
            }
            self.end(current).await;
            *serving = None;
        }
    }

    /// Serves the endpoint with the version of HTTP that its service chooses now. When that cannot be asked, it is the older
    /// one, so that clients are told why the service cannot be reached.
    async fn listen(&self, endpoint: &Arc<Endpoint>) -> Result<Serving, ListenError> {
        let Endpoint { name, service, .. } = &**endpoint;
        let mut kind = endpoint.kind;
        if endpoint.may_choose(self.seen.inspector.is_some()) {
            match service.negotiate(kind).await {
                Ok((_, chosen)) => kind = chosen,
                Err(_) => self.doubt.notify_one(),
            }
        }
        let options = endpoint.options();
        let listener = self.client.listen_with(name.clone(), kind, options.clone()).await?;
        tracing::info!(endpoint = %name, %service, kind = kind.name(), "serving");
        let version = Version::new(endpoint, &self.seen);
        Ok(Serving { version, listener, kind, options, ending: false })
    }

    /// Takes flows until the listener is closed. Cancel safe.
    async fn accept(&self, serving: &mut Serving) {
        while let Some(incoming) = serving.listener.accept().await {
            // As many at once as the link permits.
            let version = serving.version.clone();
            match version.endpoint.kind {
                Kind::Udp => {
                    let (client, Seen { counters, tracer, .. }) = (self.client.clone(), version.seen);
                    self.tasks.spawn(udp::join(incoming, version.endpoint, client, counters, tracer));
                }
                _ => self.tasks.spawn(join(incoming, version, Arc::clone(&self.doubt))),
            }
        }
    }

    /// Ends serving, and takes what was on its way before every node had acknowledged that. Cancel safe: it may be begun again.
    async fn end(&self, serving: &mut Serving) {
        serving.ending = true;
        serving.listener.close().await;
        self.accept(serving).await;
    }

    /// Waits until the service has chosen another version of HTTP than the one that is being served. It is asked only when
    /// something makes that likely, and then until it answers.
    async fn chooses_otherwise(&self, endpoint: &Endpoint, kind: Kind) {
        if !endpoint.may_choose(self.seen.inspector.is_some()) {
            return std::future::pending().await;
        }
        loop {
            self.doubt.notified().await;
            let chosen = loop {
                match endpoint.service.negotiate(endpoint.kind).await {
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
pub(super) async fn deny(incoming: Incoming, denied: Denied, counters: &Counters) {
    counters.denied(denied);
    let open = incoming.open();
    let client = open.client.map(tracing::field::display);
    let code = denied.code();
    tracing::info!(target: "adit::access", endpoint = %open.endpoint, client, code, %denied, "a flow was refused");
    incoming.refuse(Refusal::new(Code::Forbidden, denied.to_string())).await;
}

/// Joins one flow to a new connection of the service.
async fn join(incoming: Incoming, version: Version, doubt: Arc<Notify>) {
    let Version { endpoint, seen: Seen { inspector, tracer, counters }, exchanged } = version;
    let kind = incoming.open().kind;
    let carries_requests = kind.is_http();
    // A service that has chosen HTTP/2 keeps it: no span is worth that its version changes.
    let traces_requests = tracer.is_on() && [endpoint.kind, kind] == [Kind::Http; 2];
    let reads_requests = endpoint.reads_requests(inspector.is_some()) || traces_requests;
    let inspected = inspector.as_ref().filter(|_| reads_requests).map(Inspected::by);
    if !reads_requests && let Err(denied) = door::check_flow(&endpoint.door, incoming.open()) {
        return deny(incoming, denied, &counters).await;
    }
    let (client, clients) = (incoming.open().client, Clients::of(incoming.open()));
    let counts = Counts::default().counted(counters.tally(kind));
    let carried = || (counts.left_to_right(), counts.right_to_left());
    let span = FlowSpan::begin((!reads_requests).then_some(&tracer), incoming.open(), &endpoint, carried);
    let connection = match endpoint.service.connect(kind, incoming.open().into()).await {
        Ok(connection) => connection,
        Err(error) => {
            if endpoint.kind == Kind::Http && error.is_of_version() {
                doubt.notify_one();
            }
            counters.unreached(error.code());
            tracing::warn!(endpoint = %endpoint.name, %error, "the service cannot be reached");
            if let Some(inspected) = inspected {
                inspected.unreached(&endpoint, client.map(|client| client.ip()), error.to_string());
            }
            span.end(Some(UNREACHED));
            return incoming.refuse(Refusal::new(error.code(), error.to_string())).await;
        }
    };
    let flow = match incoming.accept().await {
        Ok(flow) => flow,
        Err(error) => {
            span.end(None);
            return tracing::debug!(endpoint = %endpoint.name, %error, "a flow went away before it began");
        }
    };
    let _open = counters.open(kind);
    let retirement = flow.retirement();
    // A flow for requests would else be reused for as long as they come, by the service and the rules that were before.
    let retired = async {
        exchanged.cancelled().await;
        if carries_requests {
            retirement.tell().await;
        }
        std::future::pending::<()>().await;
    };
    let served = async {
        if reads_requests {
            let counting = Some((&counters, counters.tally(kind)));
            return http::serve(flow, clients, connection, &endpoint, inspected, &tracer, counting).await;
        }
        let end = splice(flow, connection, &counts).await;
        span.end(matches!(end, Err(Broken::Right(_))).then_some(BROKE));
        tracing::debug!(
            endpoint = %endpoint.name,
            client = client.map(tracing::field::display),
            to_service = counts.left_to_right(),
            from_service = counts.right_to_left(),
            broken = end.err().map(|broken| crate::telemetry::report(&broken)),
            "a flow has ended"
        );
    };
    tokio::select! {
        () = served => {}
        () = retired => {}
    }
}
