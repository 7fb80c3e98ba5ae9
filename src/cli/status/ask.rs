//! Asking a node's admin port for one document.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::BodyExt;
use hyper::body::Bytes;

use crate::{
    cli::{
        failure::Failure,
        operator::{Admin, AdminArgs, Url},
    },
    drain::Tasks,
};

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks one thing of one node.
#[derive(Debug)]
pub(super) struct Asker {
    admin: Admin,
    path: String,
}

impl Asker {
    pub(super) fn new(args: &AdminArgs, path: String) -> Result<Self, Failure> {
        Ok(Self { admin: Admin::new(args)?, path })
    }

    /// Whom it asks.
    pub(super) fn admin(&self) -> &Url {
        self.admin.url()
    }

    /// What the node answers.
    pub(super) async fn ask(&self) -> anyhow::Result<Bytes> {
        let asked = tokio::time::timeout(PATIENCE, self.asked()).await;
        asked
            .unwrap_or_else(|_| bail!("it did not answer within {PATIENCE:?}"))
            .with_context(|| format!("no status from {}", self.admin()))
    }

    async fn asked(&self) -> anyhow::Result<Bytes> {
        let tasks = Tasks::new();
        let response = self.admin.get(&tasks, &self.path).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}
