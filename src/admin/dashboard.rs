//! The dashboard's files, which are part of the program: a page, a style and scripts, as they are written, with no step that
//! builds them.
//!
//! They hold no data, so they are for whoever reaches the port; what the page shows it asks of the API, with the token of
//! whoever looks. The page may fetch nothing from anywhere else, and nothing on it may be run that is not here.

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Routes, error};

/// What the page may do (CSP Level 3): load its own files, ask its own port, and be framed by nobody. It makes no HTML out of
/// text either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const PAGE: File = ("text/html; charset=utf-8", include_str!("dashboard/index.html"));

/// Its kind, and what is in it.
type File = (&'static str, &'static str);

/// A file of the page.
fn file(name: &str) -> Option<File> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    Some(match name {
        "style.css" => ("text/css; charset=utf-8", include_str!("dashboard/style.css")),
        "icon.svg" => ("image/svg+xml", include_str!("dashboard/icon.svg")),
        "app.js" => (SCRIPT, include_str!("dashboard/app.js")),
        "draw.js" => (SCRIPT, include_str!("dashboard/draw.js")),
        "picture.js" => (SCRIPT, include_str!("dashboard/picture.js")),
        "story.js" => (SCRIPT, include_str!("dashboard/story.js")),
        "stream.js" => (SCRIPT, include_str!("dashboard/stream.js")),
        "tables.js" => (SCRIPT, include_str!("dashboard/tables.js")),
        "text.js" => (SCRIPT, include_str!("dashboard/text.js")),
        _ => return None,
    })
}

/// The root leads to the page.
pub(super) fn files<S: Clone + Send + Sync + 'static>() -> Routes<3, S> {
    let page = || async { served(PAGE) };
    // Relative, so that it works behind a proxy that adds to the path.
    let root = || async { (StatusCode::FOUND, [(header::LOCATION, "dashboard")]) };
    [("/", get(root)), ("/dashboard", get(page)), ("/dashboard/{file}", get(named))]
}

async fn named(Path(name): Path<String>) -> Response {
    match file(&name) {
        Some(file) => served(file),
        None => {
            let error = format!("the dashboard has no file {name:?}: it is at /dashboard");
            error::answer(StatusCode::NOT_FOUND, "unknown_file", error)
        }
    }
}

fn served((kind, text): File) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program may have others.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let mut response =
        (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response();
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        response.headers_mut().insert(name, HeaderValue::from_static("same-origin"));
    }
    response
}
