//! Which exchanges are asked for.

use percent_encoding::percent_decode_str;

use super::{
    mask::Masks,
    shown::Shown,
    store::{Exchange, State},
};

/// All that must be so. Nothing that is not said counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    endpoint: Option<String>,
    method: Option<String>,
    status: Option<Status>,
    path: Option<String>,
    /// Anywhere in it, in lower case.
    text: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Status {
    /// This one.
    Is(u16),
    /// All of a class: 4 for 4xx.
    Class(u16),
    /// Of those that have failed.
    Failed,
}

/// Why a query asks for nothing that there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidFilter {
    #[error("{0:?} is no filter: there are endpoint, method, status, path and text")]
    Name(String),
    #[error("status={0:?} is none: give a number such as 404, a class such as 4xx, or failed")]
    Status(String),
}

impl Filter {
    /// Reads the query of a URL. What is empty says nothing.
    pub(super) fn of(query: &str) -> Result<Self, InvalidFilter> {
        let mut filter = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
            let value = Some(value).filter(|value| !value.is_empty());
            match name {
                "endpoint" => filter.endpoint = value,
                "method" => filter.method = value,
                "path" => filter.path = value,
                "text" => filter.text = value.map(|text| text.to_lowercase()),
                "status" => filter.status = value.map(|status| Status::of(&status)).transpose()?,
                _ => return Err(InvalidFilter::Name(name.into())),
            }
        }
        Ok(filter)
    }

    /// Whether an exchange is asked for, as far as that can be said without what is in its bodies.
    pub(super) fn wants(&self, exchange: &Exchange) -> bool {
        let Self { endpoint, method, status, path, text: _ } = self;
        let request = exchange.request.as_ref();
        endpoint.as_ref().is_none_or(|wanted| exchange.endpoint.as_str() == wanted)
            && method.as_ref().is_none_or(|wanted| {
                request.is_some_and(|head| head.method.as_str().eq_ignore_ascii_case(wanted))
            })
            && status.as_ref().is_none_or(|wanted| wanted.is_of(exchange))
            && path.as_ref().is_none_or(|wanted| {
                // As it is shown: nobody finds out what a mask stands for.
                request.is_some_and(|head| {
                    Masks::default().url(&head.target.to_string()).contains(wanted.as_str())
                })
            })
    }

    /// Whether what is in bodies and fields must be looked at too.
    pub(super) fn reads(&self) -> bool {
        self.text.is_some()
    }

    /// Whether it is asked for by that.
    pub(super) fn finds(&self, shown: &Shown<'_>) -> bool {
        self.text.as_ref().is_none_or(|text| shown.has(text))
    }
}

impl Status {
    fn of(text: &str) -> Result<Self, InvalidFilter> {
        let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
        let read = match class {
            Some(class) => class.parse().ok().filter(|class| (1..=9).contains(class)).map(Self::Class),
            None if text == "failed" => Some(Self::Failed),
            None => text.parse().ok().map(Self::Is),
        };
        read.ok_or_else(|| InvalidFilter::Status(text.into()))
    }

    fn is_of(&self, exchange: &Exchange) -> bool {
        let status = exchange.response.as_ref().map(|head| head.status.as_u16());
        match self {
            Self::Is(wanted) => status == Some(*wanted),
            Self::Class(class) => status.is_some_and(|status| status / 100 == *class),
            Self::Failed => exchange.state() == State::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::tests::{answered, exchange},
        *,
    };

    #[test]
    fn all_that_is_said_must_be_so() {
        let hook = exchange("POST", "/hook?token=hunter2", &[("x-event", "Push")], b"A body");
        let hook = answered(hook, 404, &[("x-answer", "none")], b"Not there");
        let mut failed = exchange("GET", "/", &[], b"");
        failed.error = Some("the service broke off".into());
        let wants = |query: &str, exchange: &Exchange| {
            let filter = Filter::of(query).unwrap();
            filter.wants(exchange) && filter.finds(&Shown::of(exchange))
        };
        for query in [
            "",
            "method=&status=",
            "method=post",
            "status=404",
            "status=4xx",
            "path=/ho",
            "endpoint=web",
            "text=PUSH",
            "text=a+body",
            "text=not%20there",
            "method=POST&status=4xx&path=hook&text=x-answer",
        ] {
            assert!(wants(query, &hook), "{query}");
        }
        for query in [
            "method=GET",
            "status=200",
            "status=5xx",
            "status=failed",
            "path=/other",
            "endpoint=we",
            "text=absent",
            "method=POST&status=200",
            "text=hunter2",
            "path=hunter2",
        ] {
            assert!(!wants(query, &hook), "{query}");
        }
        assert!(
            wants("status=failed", &failed)
                && wants("text=broke+off", &failed)
                && !wants("status=4xx", &failed)
        );
    }

    #[test]
    fn what_is_no_filter_is_named() {
        assert_eq!(Filter::of("colour=red"), Err(InvalidFilter::Name("colour".into())));
        for wrong in ["fine", "xx", "0xx", "4x", "99999"] {
            assert_eq!(Filter::of(&format!("status={wrong}")), Err(InvalidFilter::Status(wrong.into())));
        }
    }
}
