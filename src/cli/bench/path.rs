//! The way to one endpoint that is not of HTTP: its service, its cluster, and how clients come in.

use clap::ValueEnum;

use super::{
    fabric::{Fabric, FabricArgs, Wanted},
    progress::Progress,
};
use crate::{
    cli::failure::Failure,
    load::{Services, Speaks, Way},
};

/// How clients come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Via {
    /// Through a port of the node.
    Port,
    /// Over a link of their own, as forwarders have.
    Link,
}

impl Via {
    /// The way that is to be had where none was chosen.
    pub(super) fn or(via: Option<Self>, default: Self, args: &FabricArgs) -> Result<Self, Failure> {
        match (via, args.link.is_some()) {
            (Some(Self::Port), true) => Err(Failure::Usage(anyhow::anyhow!(
                "a real cluster is come to by its link: leave --via port out"
            ))),
            (Some(via), _) => Ok(via),
            (None, true) => Ok(Self::Link),
            (None, false) => Ok(default),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Port => "through a port of the node",
            Self::Link => "over a link",
        }
    }
}

/// One service behind a fabric, and the ways that clients have to it.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) fabric: Fabric,
    pub(super) ways: Vec<Way>,
    /// It ends when this is dropped.
    pub(super) services: Services,
}

impl Path {
    /// Starts everything; `kind` is that of the endpoint.
    pub(super) async fn start(
        args: &FabricArgs,
        kind: &str,
        speaks: Speaks,
        via: Via,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let services = Services::start(1, speaks).await?;
        let port = via == Via::Port;
        let wanted = Wanted { kind, endpoints: 1, services: &services.addresses, tls: false, port };
        let fabric = Fabric::start(&args.setup(), &wanted, progress).await?;
        let ways = fabric.ways(args, port).await?;
        Ok(Self { fabric, ways, services })
    }
}
