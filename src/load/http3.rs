//! One connection of HTTP/3, with an endpoint of QUIC of its own, as separate clients have.

use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes};
use http::Request;

use super::http::{Checker, ConnectError, Fault, Target, Template, fault};
use crate::drain::Tasks;

/// A connection.
pub(super) struct Connection {
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    /// Closes it when dropped.
    _endpoint: quinn::Endpoint,
}

impl Connection {
    pub(super) async fn to(target: &Target, tasks: &Tasks) -> Result<Self, ConnectError> {
        let other = |error: &dyn std::fmt::Display| ConnectError::Quic(error.to_string());
        let address = target.resolve().await?[0];
        let (tls, name) = target.tls.as_ref().ok_or_else(|| other(&"HTTP/3 needs TLS"))?;
        let crypto =
            quinn::crypto::rustls::QuicClientConfig::try_from(Arc::clone(tls)).map_err(|e| other(&e))?;
        let bind: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let endpoint = quinn::Endpoint::client(bind)?;
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, address, &name.to_str()).map_err(|e| other(&e))?;
        let connection = connection.await.map_err(|error| other(&error))?;
        let made = h3::client::new(h3_quinn::Connection::new(connection)).await;
        let (mut driver, sender) = made.map_err(|error| other(&error))?;
        tasks.spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
        Ok(Self { sender, _endpoint: endpoint })
    }

    /// Asks, and checks what comes.
    pub(super) async fn ask(&mut self, template: &Template, body: Option<Bytes>) -> Result<u64, Fault> {
        let mut request = Request::new(());
        request.method_mut().clone_from(&template.method);
        request.uri_mut().clone_from(&template.uri);
        request.headers_mut().clone_from(&template.headers);
        if let Some(body) = &body {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, body.len().into());
        }
        let closed = |error: &dyn std::fmt::Display| {
            tracing::debug!(%error, "a request failed");
            Fault::Closed
        };
        let mut stream = self.sender.send_request(request).await.map_err(|_| Fault::Stale)?;
        if let Some(body) = body.clone() {
            stream.send_data(body).await.map_err(|error| closed(&error))?;
        }
        stream.finish().await.map_err(|error| closed(&error))?;
        let response = stream.recv_response().await.map_err(|error| closed(&error))?;
        let fault = fault(&response);
        let mut checker = Checker::new(body.as_ref());
        while let Some(mut data) = stream.recv_data().await.map_err(|error| closed(&error))? {
            while data.has_remaining() {
                let len = data.chunk().len();
                checker.take(data.chunk());
                data.advance(len);
            }
        }
        fault.map_or_else(|| checker.end(), Err)
    }
}
