//! The inspector's port: its page, and the API that the page uses, for other programs too. docs/inspector.md describes it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    http::{
        HeaderName, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    middleware,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};

use super::{
    Inspector, curl,
    filter::Filter,
    guard,
    har::{self, FILE},
    replay::{self, Edits, ReplayError},
    shown::Shown,
    store::{Exchange, Store},
};

/// How many may be told of changes at once.
pub(super) const VIEWERS: usize = 32;

/// How often somebody who looks is told of changes at most.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// How the API says no: a status, a code that stays, and a sentence.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    pub(super) code: &'static str,
    error: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, error: impl ToString) -> Self {
        Self { status, code, error: error.to_string() }
    }
}

impl From<ReplayError> for Refused {
    fn from(error: ReplayError) -> Self {
        let (status, code) = error.code();
        Self::new(status, code, error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "code": self.code }))).into_response()
    }
}

pub(super) fn router(inspector: &Inspector) -> Router {
    let page =
        |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", page("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/style.css", page("text/css; charset=utf-8", include_str!("page/style.css")))
        .route("/app.js", page("text/javascript; charset=utf-8", include_str!("page/app.js")))
        .route("/icon.svg", page("image/svg+xml", include_str!("page/icon.svg")))
        .route("/api/exchanges", get(list).delete(clear))
        .route("/api/exchanges/{id}", get(one))
        .route("/api/exchanges/{id}/curl", get(as_curl))
        .route("/api/exchanges/{id}/replay", post(again))
        .route("/api/har", get(as_har))
        .route("/api/events", get(events))
        .fallback(async || {
            Refused::new(StatusCode::NOT_FOUND, "no_such_page", "there is no such page: see /")
        })
        .method_not_allowed_fallback(async || {
            let error = "this is asked for by another method: docs/inspector.md has them";
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
        })
        .layer(middleware::from_fn(guard::guard))
        .with_state(inspector.clone())
}

/// Those that a query asks for, the newest first, without what is in their bodies.
fn wanted(inspector: &Inspector, query: Option<&str>) -> Result<Vec<Exchange>, Refused> {
    let filter = Filter::of(query.unwrap_or_default())
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, "invalid_filter", error))?;
    let mut exchanges = inspector.with(|store| store.light());
    exchanges.retain(|exchange| filter.wants(exchange));
    if filter.reads() {
        // One by one, so that nobody who changes one waits.
        exchanges.retain(|light| {
            let whole = inspector.with(|store| store.get(light.id));
            whole.is_some_and(|exchange| filter.finds(&Shown::of(&exchange)))
        });
    }
    Ok(exchanges)
}

/// Reads through all that is kept, which may take a while: beside those who carry flows, and for one who asks at a time.
async fn reading(
    inspector: Inspector,
    read: impl FnOnce(&Inspector) -> Result<Value, Refused> + Send + 'static,
) -> Result<Response, Refused> {
    // It is never closed.
    let turn = Arc::clone(&inspector.0.reader).acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        read(&inspector).map(|told| Json(told).into_response())
    });
    read.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the inspector could not read what it keeps");
        Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "see the agent's log"))
    })
}

async fn list(State(inspector): State<Inspector>, RawQuery(query): RawQuery) -> Result<Response, Refused> {
    reading(inspector, move |inspector| {
        let revision = inspector.with(|store| store.revision());
        let exchanges = wanted(inspector, query.as_deref())?;
        let exchanges: Vec<_> = exchanges.iter().map(Shown::summary).collect();
        Ok(json!({
            "started": humantime::format_rfc3339_millis(inspector.0.started).to_string(),
            "revision": revision,
            "endpoints": inspector.endpoints(),
            "exchanges": exchanges,
        }))
    })
    .await
}

async fn clear(State(inspector): State<Inspector>) -> StatusCode {
    inspector.with(Store::clear);
    StatusCode::NO_CONTENT
}

/// The exchange of a path.
fn exchange(inspector: &Inspector, id: &str) -> Result<Exchange, Refused> {
    let found = number(id).and_then(|id| inspector.with(|store| store.get(id)));
    found.ok_or_else(|| {
        let error = format!("there is no exchange {id}: it is too long ago, or has been cleared");
        Refused::new(StatusCode::NOT_FOUND, "no_exchange", error)
    })
}

fn number(id: &str) -> Option<u64> {
    id.parse().ok()
}

async fn one(State(inspector): State<Inspector>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    Ok(Json(Shown::of(&exchange(&inspector, &id)?).whole()))
}

async fn as_curl(State(inspector): State<Inspector>, Path(id): Path<String>) -> Result<Response, Refused> {
    let exchange = exchange(&inspector, &id)?;
    let command = curl::command(&Shown::of(&exchange)).ok_or(ReplayError::NoRequest(exchange.id))?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], command).into_response())
}

async fn again(
    State(inspector): State<Inspector>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let id = number(&id).unwrap_or_default();
    let body = body.map_err(|error| Refused::new(error.status(), "invalid_body", error.body_text()))?;
    let edits = if body.is_empty() {
        Edits::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            let error =
                format!("the body is no JSON of edits (method, target, headers, body, body_base64): {error}");
            Refused::new(StatusCode::BAD_REQUEST, "invalid_body", error)
        })?
    };
    let id = replay::begin(&inspector, id, edits)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response())
}

async fn as_har(State(inspector): State<Inspector>, RawQuery(query): RawQuery) -> Result<Response, Refused> {
    let archive = reading(inspector, move |inspector| {
        let wanted = wanted(inspector, query.as_deref())?;
        let whole = wanted.iter().rev().filter_map(|light| inspector.with(|store| store.get(light.id)));
        Ok(har::archive(&whole.collect::<Vec<_>>()))
    });
    let fields: [(HeaderName, String); 1] =
        [(CONTENT_DISPOSITION, format!("attachment; filename=\"{FILE}\""))];
    Ok((fields, archive.await?).into_response())
}

/// Tells of each change, by its number alone: who looks asks for what is wanted.
async fn events(
    State(inspector): State<Inspector>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let Ok(place) = Arc::clone(&inspector.0.viewers).try_acquire_owned() else {
        let error = format!("{VIEWERS} pages or programs look at this inspector already: close one");
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", error));
    };
    let changes = inspector.0.changed.subscribe();
    let told =
        stream::unfold((inspector, changes, place, true), async |(inspector, mut changes, place, first)| {
            if !first {
                let changed = async {
                    tokio::time::sleep(AT_MOST_EVERY).await;
                    // The sender is held.
                    drop(changes.changed().await);
                };
                tokio::select! {
                    () = changed => {}
                    () = inspector.0.tasks.signalled() => return None,
                }
            }
            let revision = *changes.borrow_and_update();
            Some((Ok(Event::default().data(revision.to_string())), (inspector, changes, place, false)))
        });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()))
}
