//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): which trace a request or a flow is part of, and what was before
//! it there; and the spans that this process adds.
//!
//! Reading and writing a context knows no clock and no network. What a client says is only its word: what is not exactly as
//! the standard has it is no context at all, and is not passed on by whoever makes a span of its own.

mod span;

use std::{fmt, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue};

pub use span::{Attribute, Finished, Hop, Queue, Settings, Span, Tracer, Value, failure, method};

/// The field that carries a context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What others have to say beside it, which is passed on as it is.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The most bytes of `tracestate`, all of its fields together: what everybody is to pass on (§3.3.1.5). More is left out.
const MAX_STATE: usize = 512;

/// A trace, which is never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// A span in a trace, which is never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// Its bytes.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// Its bytes.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where in which trace something is: what follows is a child of this span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that comes before whatever is told this.
    pub span: SpanId,
    /// Whether whoever came before may have recorded it. The only flag that version 00 has; others are not passed on (§3.2.2.5).
    pub sampled: bool,
}

/// Why a text is no context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no traceparent: VERSION-TRACE-SPAN-FLAGS in lower-case hex, neither of the ids zero")]
pub struct InvalidContext;

impl Context {
    /// The context of a request. None when there is none, and when it is not to be understood: two are as bad as a bad one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let field = fields.next()?;
        if fields.next().is_some() {
            return None;
        }
        field.to_str().ok()?.parse().ok()
    }

    /// Says it in the place of what the request said before.
    pub fn put(&self, headers: &mut HeaderMap) {
        // It has no other bytes than digits and dashes.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl FromStr for Context {
    type Err = InvalidContext;

    /// Reads version 00, and of any later one what it has in common with that (§4.3).
    fn from_str(text: &str) -> Result<Self, InvalidContext> {
        let bytes = text.as_bytes();
        let (known, rest) = bytes.split_at_checked(55).ok_or(InvalidContext)?;
        if [known[2], known[35], known[52]] != [b'-'; 3] {
            return Err(InvalidContext);
        }
        let [version] = hex(&known[..2])?;
        let ends = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
        let (trace, span) = (TraceId(hex(&known[3..35])?), SpanId(hex(&known[36..52])?));
        let [flags] = hex(&known[53..])?;
        if version == 0xff || !ends || trace.0 == [0; 16] || span.0 == [0; 8] {
            return Err(InvalidContext);
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Bytes of digits, two for each, capitals not among them.
fn hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], InvalidContext> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(InvalidContext),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Ok(bytes)
}

/// Leaves out what others say beside a context where it is longer than anybody has to pass on, or where that context is none.
fn bound_state(headers: &mut HeaderMap, has_context: bool) {
    let length: usize = headers.get_all(TRACESTATE).iter().map(|value| value.len() + 1).sum();
    if !has_context || length > MAX_STATE + 1 {
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(text: &str) -> Option<String> {
        text.parse::<Context>().ok().map(|context| context.to_string())
    }

    #[test]
    fn a_context_is_read_and_written() {
        let context: Context = format!("00-{TRACE}-{SPAN}-01").parse().unwrap();
        assert_eq!((context.trace.to_string(), context.span.to_string()), (TRACE.into(), SPAN.into()));
        assert!(context.sampled);
        assert_eq!(context.to_string(), format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(format!("{context:?}").matches(TRACE).count(), 1);
        for (flags, passed_on) in [("00", "00"), ("03", "01"), ("fe", "00"), ("ff", "01")] {
            let read = read(&format!("00-{TRACE}-{SPAN}-{flags}"));
            assert_eq!(read, Some(format!("00-{TRACE}-{SPAN}-{passed_on}")), "{flags}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known_and_written_as_this_one() {
        let known = Some(format!("00-{TRACE}-{SPAN}-01"));
        for (version, rest, understood) in [
            ("01", "", true),
            ("cc", "-what-the-future-is-like", true),
            ("fe", "-", true),
            ("01", ".x", false),
        ] {
            let read = read(&format!("{version}-{TRACE}-{SPAN}-01{rest}"));
            assert_eq!(read, known.clone().filter(|_| understood), "{version} {rest}");
        }
    }

    #[test]
    fn what_is_not_as_the_standard_has_it_is_none() {
        let zero = ["0".repeat(32), "0".repeat(16)];
        for bad in [
            String::new(),
            "00".into(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-010"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-001"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}-{SPAN}-01", zero[0]),
            format!("00-{TRACE}-{}-01", zero[1]),
            format!("00-{}é-{SPAN}-01", &TRACE[2..]),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let read = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(read) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_request_has_one_context_or_none() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let context = |count| {
            Context::of(&headers(&vec![(TRACEPARENT, one.as_str()); count]))
                .map(|context| context.to_string())
        };
        assert_eq!(context(0), None);
        assert_eq!(context(1), Some(one.clone()));
        assert_eq!(context(2), None, "nobody knows which");
        let mut request = headers(&[(TRACEPARENT, "bad"), (TRACEPARENT, "worse")]);
        one.parse::<Context>().unwrap().put(&mut request);
        assert_eq!(request, headers(&[(TRACEPARENT, &one)]));
    }

    #[test]
    fn what_others_say_is_passed_on_as_it_is_up_to_a_bound_and_never_without_a_context() {
        let passed = |state: &[&str], has_context| {
            let mut headers = headers(&state.iter().map(|state| (TRACESTATE, *state)).collect::<Vec<_>>());
            bound_state(&mut headers, has_context);
            headers
                .get_all(TRACESTATE)
                .iter()
                .map(|state| state.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            passed(&["rojo=00f067aa0ba902b7,congo=t61", "a=b"], true),
            ["rojo=00f067aa0ba902b7,congo=t61", "a=b"]
        );
        assert_eq!(passed(&["a=b"], false), [""; 0]);
        let (most, more) = ("x".repeat(MAX_STATE), "x".repeat(MAX_STATE + 1));
        assert_eq!(passed(&[&most], true), [most.as_str()]);
        assert_eq!(passed(&[&more], true), [""; 0]);
        assert_eq!(passed(&[&most, "a=b"], true), [""; 0], "together they are too long");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1u128.., span in 1u64.., sampled: bool) {
            let (trace, span) = (TraceId(trace.to_be_bytes()), SpanId(span.to_be_bytes()));
            let context = Context { trace, span, sampled };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
            prop_assert_eq!(context.to_string().len(), 55);
        }

        #[test]
        fn nothing_that_is_read_is_read_otherwise_once_it_is_written(text in "\\PC{0,64}|[0-9a-fA-F]{2}-[0-9a-fA-F]{32}-[0-9a-fA-F]{16}-[0-9a-fA-F]{2}.{0,4}") {
            if let Ok(context) = text.parse::<Context>() {
                prop_assert_eq!(context.to_string().parse(), Ok(context));
                prop_assert_eq!(&context.to_string()[2..53], &text[2..53]);
            }
        }
    }
}
