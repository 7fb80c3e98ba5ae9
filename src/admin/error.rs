//! How the API says no: a status, a code that stays, and a sentence.

use std::fmt;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// An answer that says why there is no other.
pub(super) fn answer(status: StatusCode, code: &str, error: impl fmt::Display) -> Response {
    (status, Json(serde_json::json!({ "error": error.to_string(), "code": code }))).into_response()
}
