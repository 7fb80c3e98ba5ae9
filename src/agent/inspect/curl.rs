//! A request as a command for a shell: curl, to the service itself.
//!
//! Pure. What the command sends is what came, but for what curl says of each connection itself, and for secrets, whose masks
//! are in it.

use std::fmt::Write as _;

use http::header;

use super::{
    replay,
    shown::{Content, Message, Request, Shown},
};

/// Linux has no argument for a program that is longer than 128 KiB. What the shell has built in has no limit.
const ARGUMENT: usize = 100 * 1024;

/// Fields that curl sends of its own accord.
const OWN: [header::HeaderName; 3] = [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT];

/// The command. Nothing when there was no request.
pub(super) fn command(shown: &Shown<'_>) -> Option<String> {
    let request = shown.request.as_ref()?;
    let body = &shown.exchange.request_body;
    let mut text = String::new();
    if body.is_cut() {
        let _ =
            writeln!(text, "# These are the first {} of {} bytes of the body.", body.kept.len(), body.length);
    }
    if !shown.masks.is_empty() {
        text += "# Put what they stand for in the place of [secret-1] and so on.\n";
    }
    let (before, data) = match content(&request.message) {
        Data::None => (None, None),
        Data::Argument(argument) => (None, Some(format!("--data-raw {argument}"))),
        Data::Input(program) => (Some(program), Some("--data-binary @-".into())),
    };
    if let Some(program) = before {
        text += &program;
        text += " | ";
    }
    text += "curl ";
    text += &arguments(request, &shown.exchange.service, data).join(" \\\n  ");
    text.push('\n');
    Some(text)
}

fn arguments(request: &Request, service: &str, data: Option<String>) -> Vec<String> {
    let Request { method, target, message } = request;
    let mut arguments = vec![];
    match (method.as_str(), &data) {
        ("GET", None) | ("POST", Some(_)) => {}
        ("HEAD", None) => arguments.push("--head".into()),
        (method, _) => arguments.push(format!("--request {}", quoted(method))),
    }
    // curl would take brackets for a pattern, and dots for steps.
    if target.contains(['[', ']', '{', '}']) {
        arguments.push("--globoff".into());
    }
    if target.contains("/.") {
        arguments.push("--path-as-is".into());
    }
    if target.starts_with('/') {
        arguments.push(quoted(&format!("{service}{target}")));
    } else {
        arguments.push(format!("--request-target {}", quoted(target)));
        arguments.push(quoted(service));
    }
    for (name, value) in message.fields.iter().filter(|(name, _)| !replay::is_of_connection(name)) {
        // A field without a value ends in a semicolon there.
        let field = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
        arguments.push(format!("--header {}", quoted(&field)));
    }
    for name in OWN {
        let is_sent = name != header::CONTENT_TYPE || data.is_some();
        if is_sent && message.fields.iter().all(|(field, _)| *field != name) {
            arguments.push(format!("--header {}", quoted(&format!("{name}:"))));
        }
    }
    arguments.extend(data);
    arguments
}

enum Data {
    None,
    Argument(String),
    /// What a program writes.
    Input(String),
}

fn content(message: &Message) -> Data {
    // A request without content may say so, and then curl must too.
    let is_framed = message.fields.iter().any(|(name, _)| *name == header::CONTENT_LENGTH);
    match &message.content {
        content if content.is_empty() && !is_framed => Data::None,
        Content::Text(text) if quoted(text).len() < ARGUMENT => Data::Argument(quoted(text)),
        content => Data::Input(format!("printf '{}'", escaped(content.bytes()))),
    }
}

/// A text as one word of a POSIX shell, in which nothing has a meaning.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Bytes as a format of printf, none of which it takes for an option.
fn escaped(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b" ,.:;/=_".contains(byte) => {
                escaped.push(char::from(*byte))
            }
            byte => {
                let _ = write!(escaped, "\\{byte:03o}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::{BODY, Exchange, tests::exchange},
        *,
    };

    fn of(exchange: &Exchange) -> String {
        command(&Shown::of(exchange)).unwrap()
    }

    #[test]
    fn a_request_is_a_command() {
        let fields =
            [("host", "web.example"), ("accept", "*/*"), ("user-agent", "x"), ("connection", "close")];
        assert_eq!(
            of(&exchange("GET", "/a?b=c", &fields, b"")),
            "curl 'http://127.0.0.1:3000/a?b=c' \\\n  --header 'host: web.example' \\\n  --header 'accept: */*' \\\n  \
             --header 'user-agent: x'\n"
        );
        assert_eq!(
            of(&exchange("PUT", "/", &[("x-empty", "")], b"it's")),
            "curl --request 'PUT' \\\n  'http://127.0.0.1:3000/' \\\n  --header 'x-empty;' \\\n  --header 'accept:' \\\n  \
             --header 'content-type:' \\\n  --header 'user-agent:' \\\n  --data-raw 'it'\\''s'\n"
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let command = of(&exchange("POST", "/?token=hunter2", &[], &[b'x'; BODY + 1]));
        assert!(
            command.starts_with("# These are the first 65536 of 65537 bytes of the body.\n# Put what"),
            "{command}"
        );
        assert!(command.contains("/?token=[secret-1]'") && command.contains("--globoff"), "{command}");
    }

    #[test]
    fn what_is_no_text_or_too_long_comes_by_standard_input() {
        let command = of(&exchange("POST", "/", &[], b"\0'%\\a"));
        assert!(command.starts_with(r"printf '\000\047\045\134a' | curl 'http"), "{command}");
        assert!(command.ends_with("--data-binary @-\n"), "{command}");
        assert!(of(&exchange("POST", "/", &[], b"--x\0")).starts_with(r"printf '\055\055x\000'"));
        assert!(of(&exchange("POST", "/", &[], &[b'\''; 40_000])).starts_with("printf '\\047"));
    }

    #[test]
    fn nothing_leaves_its_quotes() {
        let fields = [("x-a", "'; touch /tmp/evil; '")];
        let command = of(&exchange("POST", "/'$(id)'", &fields, b"'\n; id\n'"));
        // All that is outside of quotes is what this module writes.
        let outside: String = command.replace(r"'\''", "").split('\'').step_by(2).collect();
        assert!(!outside.contains("id") && !outside.contains("touch"), "{outside}");
    }
}
