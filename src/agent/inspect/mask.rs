//! What stands in the place of secrets wherever an exchange is shown: `[secret-1]`, `[secret-2]`, …
//!
//! Pure. Secrets are told by the names that `telemetry::secret` knows, in header fields, in URLs, and in bodies that are forms
//! or JSON. Each mask remembers what it stands for, so that a request that is edited as it is shown can be sent as it was
//! meant; nobody is told that in another way.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderName, HeaderValue, header};
use percent_encoding::percent_decode;

use crate::telemetry::secret;

const BEGIN: &str = "[secret-";
const END: u8 = b']';

/// Fields that hold no secret, whatever their names sound like.
const HARMLESS: [HeaderName; 2] = [header::ACCESS_CONTROL_ALLOW_CREDENTIALS, header::SEC_WEBSOCKET_KEY];

/// How credentials may be shown (RFC 9110 §11.1), which is no secret.
const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "negotiate", "ntlm"];

/// The shortest secret that is hidden wherever it stands, in bytes. A shorter one is in too much that is none.
const SHORTEST: usize = 4;

/// The masks of one message, in the order in which they were put.
#[derive(Default)]
pub(super) struct Masks {
    put: Vec<Secret>,
    /// What is hidden wherever it stands.
    known: Known,
}

/// Secrets of a request that was sent again, which may stand anywhere in the new one.
pub(super) type Known = Arc<[Vec<u8>]>;

struct Secret {
    value: Vec<u8>,
    /// It had no quotes around it, and its mask has.
    bare: bool,
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} masks", self.put.len())
    }
}

impl Masks {
    /// Masks that hide these wherever they stand.
    pub(super) fn knowing(known: &Known) -> Self {
        Self { put: Vec::new(), known: Arc::clone(known) }
    }

    /// All that has been hidden, and what else is known to be secret.
    pub(super) fn secrets(&self) -> Known {
        let put = self.put.iter().map(|secret| &secret.value);
        put.chain(self.known.iter()).filter(|value| value.len() >= SHORTEST).cloned().collect()
    }

    /// Whether nothing was hidden.
    pub(super) fn is_empty(&self) -> bool {
        self.put.is_empty()
    }

    /// The same without what is known to be secret.
    fn without_known(&mut self, shown: Vec<u8>) -> Vec<u8> {
        let mut shown = shown;
        for value in Arc::clone(&self.known).iter() {
            let (mut rest, mut hidden) = (&shown[..], Vec::new());
            while let Some(at) = rest.windows(value.len()).position(|window| window == value) {
                hidden.extend_from_slice(&rest[..at]);
                hidden.extend_from_slice(self.put(value, false).as_bytes());
                rest = &rest[at + value.len()..];
            }
            hidden.extend_from_slice(rest);
            shown = hidden;
        }
        shown
    }

    fn text_without_known(&mut self, shown: String) -> String {
        if self.known.is_empty() {
            return shown;
        }
        let hidden = self.without_known(shown.into_bytes());
        String::from_utf8(hidden)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    fn put(&mut self, value: &[u8], bare: bool) -> String {
        if value.is_empty() {
            return String::new();
        }
        self.put.push(Secret { value: value.to_vec(), bare });
        let quote = if bare { "\"" } else { "" };
        format!("{quote}{BEGIN}{}{}{quote}", self.put.len(), char::from(END))
    }

    /// A field's value. `hidden` are names of fields that hold secrets here, whatever they are called.
    pub(super) fn field(&mut self, name: &HeaderName, value: &HeaderValue, hidden: &[HeaderName]) -> String {
        let shown = self.named_field(name, value, hidden);
        self.text_without_known(shown)
    }

    fn named_field(&mut self, name: &HeaderName, value: &HeaderValue, hidden: &[HeaderName]) -> String {
        let text = String::from_utf8_lossy(value.as_bytes());
        if hidden.contains(name) || value.is_sensitive() {
            return self.put(value.as_bytes(), false);
        }
        match name {
            &header::COOKIE => text.split(';').map(|pair| self.cookie(pair)).collect::<Vec<_>>().join(";"),
            &header::SET_COOKIE => {
                let (pair, attributes) = text.split_at(text.find(';').unwrap_or(text.len()));
                self.cookie(pair) + attributes
            }
            &header::AUTHORIZATION | &header::PROXY_AUTHORIZATION => match text.split_once(' ') {
                Some((scheme, rest)) if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => {
                    format!("{scheme} {}", self.put(rest.as_bytes(), false))
                }
                _ => self.put(value.as_bytes(), false),
            },
            name if !HARMLESS.contains(name) && secret::in_field(name.as_str()).is_some() => {
                self.put(value.as_bytes(), false)
            }
            _ if text.starts_with('/') || text.contains("://") => self.named_url(&text),
            _ => text.into_owned(),
        }
    }

    /// One of a list of cookies, which need not have a name.
    fn cookie(&mut self, pair: &str) -> String {
        let (name, value) = pair.split_at(pair.find('=').map_or(0, |at| at + 1));
        format!("{name}{}", self.put(value.as_bytes(), false))
    }

    /// A request's target, or any other URL.
    pub(super) fn url(&mut self, url: &str) -> String {
        let shown = self.named_url(url);
        self.text_without_known(shown)
    }

    fn named_url(&mut self, url: &str) -> String {
        let (place, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
        let mut shown = self.place(place);
        // A fragment has parameters too, where somebody is sent back with a token (RFC 6749 §4.2.2).
        for part in rest.split_inclusive(['?', '#']) {
            let (pairs, mark) = part.split_at(part.len() - usize::from(part.ends_with(['?', '#'])));
            shown += &String::from_utf8_lossy(&self.pairs(pairs.as_bytes(), secret::in_query));
            shown += mark;
        }
        shown
    }

    /// What comes before a query, without a password in it.
    fn place(&mut self, place: &str) -> String {
        let Some((scheme, rest)) = place.split_once("://") else { return place.into() };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                let user = match user.split_once(':') {
                    Some((name, password)) => format!("{name}:{}", self.put(password.as_bytes(), false)),
                    None => self.put(user.as_bytes(), false),
                };
                format!("{scheme}://{user}@{host}{path}")
            }
            None => place.into(),
        }
    }

    /// `name=value`, again and again. It need not be text as a whole: a form may be cut within a character.
    fn pairs(&mut self, pairs: &[u8], is_secret: impl Fn(&str) -> bool) -> Vec<u8> {
        let mut shown = Vec::with_capacity(pairs.len());
        for (number, pair) in pairs.split(|byte| *byte == b'&').enumerate() {
            if number > 0 {
                shown.push(b'&');
            }
            match pair.iter().position(|byte| *byte == b'=') {
                Some(at) if is_secret(&decoded(&pair[..at])) => {
                    shown.extend_from_slice(&pair[..=at]);
                    shown.extend_from_slice(self.put(&pair[at + 1..], false).as_bytes());
                }
                _ => shown.extend_from_slice(pair),
            }
        }
        shown
    }

    /// A body of this content type.
    pub(super) fn body<'a>(&mut self, kind: &str, body: &'a [u8]) -> Cow<'a, [u8]> {
        let shown = self.named_body(kind, body);
        if self.known.is_empty() { shown } else { self.without_known(shown.into_owned()).into() }
    }

    fn named_body<'a>(&mut self, kind: &str, body: &'a [u8]) -> Cow<'a, [u8]> {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind == "application/x-www-form-urlencoded" {
            return self.pairs(body, secret::in_parameter).into();
        }
        let begins = body.iter().find(|byte| !byte.is_ascii_whitespace());
        let may_be = kind.is_empty() || kind.starts_with("text/");
        let is_json = kind.contains("json") || may_be && matches!(begins, Some(b'{' | b'['));
        if is_json || kind == "text/event-stream" { self.json(body).into() } else { body.into() }
    }

    /// Hides what members with secret names hold, and leaves all else as it is, byte for byte. It need not be whole, nor a
    /// single value.
    fn json(&mut self, text: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(text.len());
        // Whether all inside the arrays and objects around is hidden.
        let mut around = vec![false];
        // Whether the next value is.
        let mut next = false;
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let hidden = next || around.last() == Some(&true);
            let mut end = at + 1;
            match byte {
                b'"' => {
                    end = string_end(text, at);
                    let whole = &text[at..end];
                    if text[end..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':') {
                        next = secret::in_parameter(&name_of(whole));
                        shown.extend_from_slice(whole);
                    } else {
                        next = false;
                        let closed = whole.len() > 1 && whole.ends_with(b"\"");
                        let inside = &whole[1..whole.len() - usize::from(closed)];
                        if hidden {
                            shown.push(b'"');
                            shown.extend_from_slice(self.put(inside, false).as_bytes());
                            shown.extend_from_slice(&whole[1 + inside.len()..]);
                        } else {
                            shown.extend_from_slice(whole);
                        }
                    }
                }
                b'-' | b'0'..=b'9' if hidden => {
                    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                    end = at + text[at..].iter().take_while(|byte| is_part(byte)).count();
                    shown.extend_from_slice(self.put(&text[at..end], true).as_bytes());
                    next = false;
                }
                b'{' | b'[' => {
                    around.push(hidden);
                    next = false;
                    shown.push(byte);
                }
                b'}' | b']' => {
                    if around.len() > 1 {
                        around.pop();
                    }
                    next = false;
                    shown.push(byte);
                }
                _ => {
                    next &= byte != b',';
                    shown.push(byte);
                }
            }
            at = end;
        }
        shown
    }

    /// What was shown, with each secret in the place of its mask. Masks that are not of this message stay as they are.
    pub(super) fn restore(&self, shown: &[u8]) -> Vec<u8> {
        let mut meant = Vec::with_capacity(shown.len());
        let mut rest = shown;
        while !rest.is_empty() {
            let Some((secret, length)) = self.at(rest) else {
                meant.push(rest[0]);
                rest = &rest[1..];
                continue;
            };
            rest = &rest[length..];
            if secret.bare && meant.ends_with(b"\"") && rest.starts_with(b"\"") {
                meant.pop();
                rest = &rest[1..];
            }
            meant.extend_from_slice(&secret.value);
        }
        meant
    }

    /// The secret whose mask a text begins with, and how long that is.
    fn at(&self, text: &[u8]) -> Option<(&Secret, usize)> {
        let number = text.strip_prefix(BEGIN.as_bytes())?;
        let digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (number.get(digits) == Some(&END)).then_some(())?;
        let index: usize = std::str::from_utf8(&number[..digits]).ok()?.parse().ok()?;
        Some((self.put.get(index.checked_sub(1)?)?, BEGIN.len() + digits + 1))
    }
}

fn decoded(name: &[u8]) -> String {
    percent_decode(name).decode_utf8_lossy().into_owned()
}

/// Where the string of JSON that begins there ends, its closing quote included if there is one. No line ends within one (RFC 8259
/// §7): what seems to go on there has not begun as one.
fn string_end(text: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\n' | b'\r' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// What a string of JSON says, as far as it can be read.
fn name_of(quoted: &[u8]) -> String {
    serde_json::from_slice(quoted).unwrap_or_else(|_| String::from_utf8_lossy(quoted).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &'static str, value: &'static str) -> String {
        let name = HeaderName::from_static(name);
        Masks::default().field(&name, &HeaderValue::from_static(value), &["x-door".parse().unwrap()])
    }

    #[test]
    fn a_form_is_hidden_by_names_though_it_is_no_text_as_a_whole() {
        let mut masks = Masks::default();
        let form = "application/x-www-form-urlencoded";
        assert_eq!(
            masks.body(form, b"name=M\xfcller&password=hunter2&a").as_ref(),
            b"name=M\xfcller&password=[secret-1]&a"
        );
        assert_eq!(masks.body(form, b"a=&token=hunter2\xc3").as_ref(), b"a=&token=[secret-2]");
    }

    #[test]
    fn a_quote_that_stands_alone_hides_nothing_of_the_next_line() {
        let events = b"data: 5\" pipe\ndata: {\"token\":\"hunter2\"}\n";
        let shown = Masks::default().body("text/event-stream", events).into_owned();
        assert_eq!(String::from_utf8(shown).unwrap(), "data: 5\" pipe\ndata: {\"token\":\"[secret-1]\"}\n");
    }

    #[test]
    fn what_is_known_to_be_secret_is_hidden_wherever_it_stands() {
        let mut first = Masks::default();
        first.url("/a?token=hunter2&password=abc");
        let mut masks = Masks::knowing(&first.secrets());
        assert_eq!(masks.url("/x?shown=hunter2&short=abc"), "/x?shown=[secret-1]&short=abc");
        let (name, value) = (HeaderName::from_static("x-new"), HeaderValue::from_static("a hunter2 hunter2"));
        assert_eq!(masks.field(&name, &value, &[]), "a [secret-2] [secret-3]");
        assert_eq!(masks.body("text/plain", b"is hunter2").as_ref(), b"is [secret-4]");
        assert_eq!(masks.restore(b"is [secret-4]"), b"is hunter2");
    }

    #[test]
    fn fields_are_hidden_by_their_names() {
        for (name, value, shown) in [
            ("authorization", "Bearer hunter2", "Bearer [secret-1]"),
            ("authorization", "hunter2 hunter2", "[secret-1]"),
            ("proxy-authorization", "Basic aHVudGVyMg==", "Basic [secret-1]"),
            ("cookie", "a=hunter2; b=hunter2", "a=[secret-1]; b=[secret-2]"),
            ("cookie", "hunter2", "[secret-1]"),
            ("set-cookie", "a=hunter2; Path=/; HttpOnly", "a=[secret-1]; Path=/; HttpOnly"),
            ("x-api-key", "hunter2", "[secret-1]"),
            ("x-hub-signature-256", "sha256=00", "[secret-1]"),
            ("x-door", "hunter2", "[secret-1]"),
            ("x-api-key", "", ""),
            ("accept", "*/*", "*/*"),
            ("access-control-allow-credentials", "true", "true"),
            (
                "referer",
                "https://ann:hunter2@a.test/b?token=hunter2&a=1",
                "https://ann:[secret-1]@a.test/b?token=[secret-2]&a=1",
            ),
            ("location", "/back#access_token=hunter2&state=1", "/back#access_token=[secret-1]&state=1"),
        ] {
            assert_eq!(field(name, value), shown, "{name}");
        }
        let mut sensitive = HeaderValue::from_static("hunter2");
        sensitive.set_sensitive(true);
        assert_eq!(Masks::default().field(&header::VIA, &sensitive, &[]), "[secret-1]");
    }

    #[test]
    fn urls_are_shown_without_their_secrets_and_otherwise_as_they_are() {
        let shown = |url: &str| {
            let mut masks = Masks::default();
            let shown = masks.url(url);
            assert_eq!(masks.restore(shown.as_bytes()), url.as_bytes());
            shown
        };
        assert_eq!(
            shown("/a?x=1&token=hunter2&key=hunter2&sig="),
            "/a?x=1&token=[secret-1]&key=[secret-2]&sig="
        );
        assert_eq!(shown("/a?to%6ben=hunter2"), "/a?to%6ben=[secret-1]");
        for same in ["/", "/a?", "/a?b", "/a?b=c?d&e=%20", "*", "/token=1"] {
            assert_eq!(shown(same), same);
        }
    }

    fn body(kind: &str, body: &str) -> String {
        let mut masks = Masks::default();
        let shown = masks.body(kind, body.as_bytes()).into_owned();
        assert_eq!(masks.restore(&shown), body.as_bytes(), "what is not edited is sent as it was");
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn members_of_json_are_hidden_and_all_else_stays_byte_for_byte() {
        let json = |text: &str| body("application/json; charset=utf-8", text);
        for (text, shown) in [
            (r#"{ "password" : "a\"b", "x": [1, "y"] }"#, r#"{ "password" : "[secret-1]", "x": [1, "y"] }"#),
            (
                r#"{"access_token":"a","n":{"apiKey":"b"}}"#,
                r#"{"access_token":"[secret-1]","n":{"apiKey":"[secret-2]"}}"#,
            ),
            (r#"{"secret":12.5e3,"a":12}"#, r#"{"secret":"[secret-1]","a":12}"#),
            (
                r#"{"secret":[1,{"a":"b"}],"c":"d"}"#,
                r#"{"secret":["[secret-1]",{"a":"[secret-2]"}],"c":"d"}"#,
            ),
            (r#"{"pass\u0077ord":"a"}"#, r#"{"pass\u0077ord":"[secret-1]"}"#),
            (r#"{"token":null,"a":"b"}"#, r#"{"token":null,"a":"b"}"#),
            (r#"{"token":"cut in the mid"#, r#"{"token":"[secret-1]"#),
            (r#"{"token":"a\"#, r#"{"token":"[secret-1]"#),
            (r#"["token","a"]"#, r#"["token","a"]"#),
            (
                "{\"token\":\"a\"}\n{\"token\":\"b\"}",
                "{\"token\":\"[secret-1]\"}\n{\"token\":\"[secret-2]\"}",
            ),
            ("not json }] \"", "not json }] \""),
        ] {
            assert_eq!(json(text), shown);
        }
    }

    #[test]
    fn forms_and_streams_of_events_are_known_and_other_bodies_are_left_alone() {
        let form = "application/x-www-form-urlencoded";
        assert_eq!(body(form, "a=1&password=hunter2&code=7"), "a=1&password=[secret-1]&code=7");
        assert_eq!(
            body("text/event-stream", "data: {\"token\":\"a\"}\n"),
            "data: {\"token\":\"[secret-1]\"}\n"
        );
        assert_eq!(body("", "{\"token\":\"a\"}"), "{\"token\":\"[secret-1]\"}");
        assert_eq!(body("text/plain", "password=hunter2"), "password=hunter2");
    }

    #[test]
    fn a_mask_that_is_moved_stands_for_the_same_and_a_foreign_one_for_nothing() {
        let mut masks = Masks::default();
        masks.body("application/json", br#"{"token":"a","secret":7}"#);
        assert_eq!(masks.restore(br#"[["[secret-2]"],"x[secret-1]x"]"#), br#"[[7],"xax"]"#);
        for foreign in ["[secret-3]", "[secret-0]", "[secret-", "[secret-1", "[secret-99999999999999999999]"]
        {
            assert_eq!(masks.restore(foreign.as_bytes()), foreign.as_bytes());
        }
    }

    #[test]
    fn masks_do_not_print_what_they_stand_for() {
        let mut masks = Masks::default();
        masks.url("/?token=hunter2");
        assert_eq!(format!("{masks:?}"), "1 masks");
    }
}
