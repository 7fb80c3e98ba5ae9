//! Server-sent events out of bytes, as a node writes them (HTML §9.2.6): a line of their name and one of data. Pure.

/// The most bytes of one event: every row of a large board has room in it.
const LONGEST: usize = 64 << 20;

/// Bytes that have come, of which no event is complete yet or has not been asked for.
#[derive(Debug, Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    /// Up to where there is no end of an event.
    looked: usize,
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// What is no event of a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("what comes are no events of a node: is this its admin port?")]
pub(super) struct NoEvent;

impl Events {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next that is complete.
    pub(super) fn next(&mut self) -> Option<Result<Event, NoEvent>> {
        let Some(end) = self.bytes[self.looked..].windows(2).position(|pair| pair == b"\n\n") else {
            self.looked = self.bytes.len().saturating_sub(1);
            return (self.bytes.len() > LONGEST).then_some(Err(NoEvent));
        };
        let end = self.looked + end;
        let event = std::str::from_utf8(&self.bytes[..end]).ok().and_then(Event::parse);
        self.bytes.drain(..end + 2);
        self.looked = 0;
        Some(event.ok_or(NoEvent))
    }
}

impl Event {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some(Self { name: field("event: ")?, data: field("data: ")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Option<Result<Event, NoEvent>> {
        Some(Ok(Event { name: name.into(), data: data.into() }))
    }

    #[test]
    fn events_are_the_same_however_their_bytes_come() {
        let text = "event: changes\ndata: {\"größe\": 1}\n\nevent: end\ndata: {}\n\nevent: cha";
        for size in 1..text.len() {
            let (mut events, mut all) = (Events::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                events.push(piece);
                all.extend(std::iter::from_fn(|| events.next()));
            }
            let expected = [event("changes", "{\"größe\": 1}"), event("end", "{}")];
            assert_eq!(all, expected.map(Option::unwrap), "{size} bytes at a time");
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for text in ["<html>\n\n</html>", "\n\n", "event: changes\n\n", "event: a\ndata: \u{0}\n\n"] {
            let mut events = Events::default();
            events.push(text.as_bytes());
            let refused = events.next() == Some(Err(NoEvent));
            assert_eq!(refused, !text.contains('\u{0}'), "{text:?}");
        }
        let mut events = Events::default();
        events.push(b"event: \xff\ndata: 1\n\n");
        assert_eq!(events.next(), Some(Err(NoEvent)));
        events.push(&vec![b'a'; LONGEST + 1]);
        assert_eq!(events.next(), Some(Err(NoEvent)), "it does not end");
    }
}
