//! WebSocket over HTTP/2 (RFC 8441): towards the service it becomes what HTTP/1.1 has (RFC 6455).
//!
//! In HTTP/2 a WebSocket is a CONNECT that names its protocol, accepted by a status of 2xx. The key and its answer, which
//! show that both sides of HTTP/1.1 know what they do, have no part there: the edge makes the key and checks the answer.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::error::Error;

/// A WebSocket that a client of HTTP/2 asks for.
#[derive(Debug)]
pub(super) struct WebSocket {
    /// What the service answers to the key.
    accept: String,
}

impl WebSocket {
    /// Makes of a request for a WebSocket the one that HTTP/1.1 has; nothing when it is another request.
    pub(super) fn asked<B>(request: &mut Request<B>) -> Result<Option<Self>, Error> {
        if request.method() != Method::CONNECT {
            return Ok(None);
        }
        let protocol = request.extensions_mut().remove::<Protocol>().ok_or(Error::Connect)?;
        if protocol.as_str() != "websocket" {
            return Err(Error::Protocol(protocol.as_str().into()));
        }
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = derive_accept_key(key.as_bytes());
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).map_err(|_| Error::Connect)?);
        Ok(Some(Self { accept }))
    }

    /// Makes of the service's response the one that HTTP/2 has.
    pub(super) fn answered<B>(self, response: &mut Response<B>) -> Result<(), Error> {
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            // It would say that the WebSocket is there.
            status if status.is_success() => return Err(Error::NotSwitched),
            _ => return Ok(()),
        }
        let accept = response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| accept != self.accept) {
            return Err(Error::NotSwitched);
        }
        *response.status_mut() = StatusCode::OK;
        for field in [CONNECTION, UPGRADE] {
            response.headers_mut().remove(field);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
