//! HTTP/3 clients (RFC 9114), over QUIC on the UDP port of the same number as that of TLS.
//!
//! Owns their connections; what a request means is `http`'s, as for every other version. Made by `Edge`, it serves until the
//! edge leaves: then clients get GOAWAY, and a connection closes behind its last response.

mod body;
mod frames;
mod quic;

use std::{future::poll_fn, sync::Arc};

use ::http::Response;
use bytes::Bytes;
use h3::{
    error::{Code, ConnectionError},
    frame::FrameStream,
    server,
    stream::BufRecvStream,
};
use http_body_util::BodyExt;

use super::{
    Shared,
    activity::{Activity, Exchange, Overdue},
    admission::Admission,
    connection::{Client, HANDSHAKE},
    http,
    proxied::Ends,
};
use crate::{
    drain::Tasks,
    transport::quic::{Incoming, Listener, peer_certificates},
    upstream::BoxError,
};
use body::RequestBody;

/// Accepts connections until the edge leaves.
pub(super) async fn accept(listener: Arc<Listener>, shared: Arc<Shared>, accepting: Tasks) {
    loop {
        let incoming = tokio::select! {
            Some(incoming) = listener.accept() => incoming,
            () = accepting.signalled() => return,
        };
        match shared.admissions.admit() {
            Some(admission) => {
                shared.connections.spawn(connect(incoming, admission, Arc::clone(&shared)));
            }
            None => incoming.refuse(),
        }
    }
}

async fn connect(incoming: Incoming, _admission: Admission, shared: Arc<Shared>) {
    let ends = Ends { client: incoming.remote_address(), server: None };
    let connection = match incoming.connection(HANDSHAKE).await {
        Ok(connection) => connection,
        Err(error) => {
            return tracing::debug!(client = %ends.client, %error, "an HTTP/3 client did not connect");
        }
    };
    let client = Client::new(ends, "https", peer_certificates(&connection), &shared);
    match serve(connection, &client, &shared).await {
        Err(error) if !error.is_h3_no_error() => {
            tracing::debug!(client = %client.address, %error, "an HTTP/3 connection ended with an error");
        }
        _ => {}
    }
}

async fn serve(
    connection: quinn::Connection,
    client: &Client,
    shared: &Arc<Shared>,
) -> Result<(), ConnectionError> {
    let (head, _) = shared.limits.head_room();
    let head = head as u64;
    let mut builder = server::builder();
    builder.max_field_section_size(head).send_grease(false);
    let built = builder.build(quic::Connection::new(connection, head));
    let Ok(built) = tokio::time::timeout(HANDSHAKE, built).await else {
        tracing::debug!(client = %client.address, "an HTTP/3 client permits no control stream");
        return Ok(());
    };
    let mut connection: server::Connection<_, Bytes> = built?;
    // The requests' tasks are the edge's; this counts those of one connection.
    let requests = Tasks::new();
    let activity = Activity::new();
    let mut leaving = false;
    loop {
        tokio::select! {
            accepted = poll_fn(|cx| connection.poll_accept_request_stream(cx)) => {
                let Some(stream) = accepted? else { return Ok(()) };
                let given_up = stream.given_up();
                let head = connection.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
                let exchange = Exchange::stream(&activity);
                let (shared, client, open) = (Arc::clone(shared), client.clone(), requests.hold());
                // As many at once as the connection permits streams.
                shared.connections.clone().spawn(async move {
                    let answered = tokio::select! {
                        answered = answer(head, &client, &exchange, &shared) => answered,
                        // Dropping the request resets it, and what carries it to the service.
                        () = given_up => Ok(()),
                        overdue = exchange.bodies().overdue(&shared.limits) => {
                            shared.counters.refused(overdue.code());
                            Err(overdue.into())
                        }
                    };
                    if let Err(error) = answered {
                        tracing::debug!(client = %client.address, error, "an HTTP/3 request ended with an error");
                    }
                    drop(open);
                });
            }
            () = shared.connections.signalled(), if !leaving => {
                leaving = true;
                connection.shutdown(0).await?;
            }
            () = requests.wait_empty(), if leaving => return Ok(()),
            overdue = activity.overdue(&shared.limits) => {
                if leaving || overdue != Overdue::Idle {
                    shared.counters.refused(overdue.code());
                    return Ok(());
                }
                // A request that is on its way is rejected, and may be sent again (RFC 9114 §5.2).
                leaving = true;
                connection.shutdown(0).await?;
            }
        }
    }
}

type Head = server::RequestResolver<quic::Connection, Bytes>;

/// Reads a request's head, has it answered, and sends the answer.
async fn answer(
    head: Head,
    client: &Client,
    exchange: &Arc<Exchange>,
    shared: &Arc<Shared>,
) -> Result<(), BoxError> {
    let Ok(head) = tokio::time::timeout(shared.limits.head_timeout, head.resolve_request()).await else {
        shared.counters.refused(Overdue::Head.code());
        return Err(Overdue::Head.into());
    };
    let (request, stream) = head?;
    let (mut to_client, from_client) = stream.split();
    let body = match RequestBody::new(from_client, request.headers()) {
        Ok(body) => body,
        Err(error) => {
            to_client.stop_stream(Code::H3_MESSAGE_ERROR);
            return Err(error.into());
        }
    };
    let response = http::serve(shared, client.clone(), exchange, request.map(|()| body)).await;
    let (head, mut body) = response.into_parts();
    to_client.send_response(Response::from_parts(head, ())).await?;
    // Dropping `to_client` before its end resets it: half a response never looks like a whole one.
    while let Some(frame) = body.frame().await.transpose()? {
        match frame.into_data() {
            Ok(data) => to_client.send_data(data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    to_client.send_trailers(trailers).await?;
                }
            }
        }
    }
    Ok(to_client.finish().await?)
}
