//! A node's admin port, as those ask it who look by the command line: the flags that say which and with what, and a request.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use serde::Deserialize;

use super::http;
use crate::{drain::Tasks, net::HostPort, protocol::Secret};

/// Whom to ask, and with what.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The admin port of the node to ask: what it was given as --admin-bind.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8002")]
    admin: HostPort,
    /// Token to show to the node. In ADIT_TOKEN it stays out of the list of processes.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// An admin port.
#[derive(Debug)]
pub(super) struct Admin {
    address: HostPort,
    authorization: Option<HeaderValue>,
}

/// Why a node does not answer.
#[derive(Debug, Deserialize)]
struct Told {
    error: String,
}

impl Admin {
    pub(super) fn new(args: &AdminArgs) -> anyhow::Result<Self> {
        let authorization = token(args)?.map(|token| bearer(&token)).transpose()?;
        Ok(Self { address: args.admin.clone(), authorization })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &HostPort {
        &self.address
    }

    /// What it answers to a request for this path, if that is what was asked for. The connection is of `tasks`.
    pub(super) async fn get(&self, tasks: &Tasks, path: &str) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::get(path).header(header::HOST, self.address.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = http::send(tasks, &self.address, request.body(Empty::<Bytes>::new())?)
            .await
            .context("is a node running, with this --admin-bind?")?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        let told: Option<Told> = serde_json::from_slice(&body).ok();
        bail!("it answered {status}{}", told.map_or_else(String::new, |told| format!(": {}", told.error)));
    }
}

fn token(args: &AdminArgs) -> anyhow::Result<Option<Secret>> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    if args.token.is_some() {
        bail!("--token and --token-file exclude each other: leave one of them out");
    }
    let text = fs::read_to_string(file)
        .with_context(|| format!("--token-file: {} cannot be read", file.display()))?;
    Ok(Some(Secret::new(text.trim())))
}

fn bearer(token: &Secret) -> anyhow::Result<HeaderValue> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .context("the token has characters that none has")?;
    bearer.set_sensitive(true);
    Ok(bearer)
}
