//! What one node asks another for its operators: the frame that begins such a stream, and the one that begins the answer,
//! whose body follows until the stream ends.

use bytes::Bytes;
use prost::Message;

use super::{
    TenantId,
    control::wire::{at_most, bound, text},
};

/// Asks a node for what its admin API has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The path and what follows it, 1 to [`Ask::MAX_PATH`] bytes.
    pub path: String,
    /// Whether something is to be done (POST), and not only told (GET).
    pub act: bool,
    /// What a POST has with it, at most [`Ask::MAX_BODY`] bytes.
    pub body: Bytes,
    /// The tenants that whoever asks may see, at most [`Ask::MAX_TENANTS`]; absent where that is all of them.
    pub tenants: Option<Vec<TenantId>>,
}

impl Ask {
    /// The longest path, in bytes.
    pub const MAX_PATH: usize = 1024;
    /// The longest body, in bytes.
    pub const MAX_BODY: usize = 512;
    /// The most tenants.
    pub const MAX_TENANTS: usize = 32;
}

#[derive(Message)]
pub(super) struct WireAsk {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(bool, tag = "2")]
    act: bool,
    #[prost(bytes = "vec", tag = "3")]
    body: Vec<u8>,
    #[prost(bool, tag = "4")]
    any_tenant: bool,
    #[prost(string, repeated, tag = "5")]
    tenants: Vec<String>,
}

impl From<&Ask> for WireAsk {
    fn from(ask: &Ask) -> Self {
        Self {
            path: ask.path.clone(),
            act: ask.act,
            body: ask.body.to_vec(),
            any_tenant: ask.tenants.is_none(),
            tenants: ask.tenants.iter().flatten().map(ToString::to_string).collect(),
        }
    }
}

impl WireAsk {
    pub(super) fn parse(self) -> Result<Ask, String> {
        if self.path.is_empty() {
            return Err("path is empty".into());
        }
        bound("bytes of a body", self.body.len(), Ask::MAX_BODY)?;
        let tenants = at_most("tenants", self.tenants, Ask::MAX_TENANTS)?;
        let tenants = tenants.iter().map(|tenant| TenantId::new(tenant).map_err(|error| error.to_string()));
        let tenants = tenants.collect::<Result<Vec<_>, _>>()?;
        Ok(Ask {
            path: text("path", self.path, Ask::MAX_PATH)?,
            act: self.act,
            body: self.body.into(),
            tenants: (!self.any_tenant).then_some(tenants),
        })
    }
}

#[derive(Message)]
pub(super) struct WireAnswer {
    #[prost(uint32, tag = "1")]
    pub(super) status: u32,
}

impl WireAnswer {
    pub(super) fn parse(self) -> Result<u16, String> {
        u16::try_from(self.status)
            .ok()
            .filter(|status| (100..600).contains(status))
            .ok_or_else(|| format!("status {} is none of HTTP", self.status))
    }
}
