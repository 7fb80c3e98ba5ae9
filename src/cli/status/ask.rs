//! Asking a node's admin port.

use std::{fs, time::Duration};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    header::{self, HeaderValue},
};
use serde::Deserialize;

use super::ShowArgs;
use crate::{cli::http, drain::Tasks, net::HostPort, protocol::Secret};

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks one thing of one node.
#[derive(Debug)]
pub(super) struct Asker {
    admin: HostPort,
    token: Option<Secret>,
    path: String,
}

/// Why a node does not answer.
#[derive(Debug, Deserialize)]
struct Told {
    error: String,
}

impl Asker {
    pub(super) fn new(args: &ShowArgs, path: String) -> anyhow::Result<Self> {
        Ok(Self { admin: args.admin.clone(), token: token(args)?, path })
    }

    /// Whom it asks.
    pub(super) fn admin(&self) -> &HostPort {
        &self.admin
    }

    /// What the node answers.
    pub(super) async fn ask(&self) -> anyhow::Result<Bytes> {
        let asked = tokio::time::timeout(PATIENCE, self.asked()).await;
        asked
            .unwrap_or_else(|_| bail!("it did not answer within {PATIENCE:?}"))
            .with_context(|| format!("no status from {}", self.admin))
    }

    async fn asked(&self) -> anyhow::Result<Bytes> {
        let tasks = Tasks::new();
        let mut request = Request::get(&self.path).header(header::HOST, self.admin.to_string());
        if let Some(token) = &self.token {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .context("the token has characters that none has")?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let response = http::send(&tasks, &self.admin, request.body(Empty::<Bytes>::new())?)
            .await
            .context("is a node running, with this --admin-bind?")?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            let told: Option<Told> = serde_json::from_slice(&body).ok();
            bail!(
                "it answered {status}{}",
                told.map_or_else(String::new, |told| format!(": {}", told.error))
            );
        }
        Ok(body)
    }
}

fn token(args: &ShowArgs) -> anyhow::Result<Option<Secret>> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    if args.token.is_some() {
        bail!("--token and --token-file exclude each other: leave one of them out");
    }
    let text = fs::read_to_string(file)
        .with_context(|| format!("--token-file: {} cannot be read", file.display()))?;
    Ok(Some(Secret::new(text.trim())))
}
