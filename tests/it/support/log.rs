//! What is logged on one thread. A test and all that it starts in this process run on one, unless it asks for more.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tracing::{Dispatch, Level, Subscriber, subscriber::DefaultGuard};

/// The log from when this is made, information and worse, until it is dropped.
#[derive(Debug)]
pub(crate) struct Log {
    text: Text,
    _guard: DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has a subscriber for this thread's default.
///
/// Of a single one, tracing asks nobody but the thread that reaches an event or a span first: where that is another test's,
/// which has none, it is off for good. So there is always another, which is asked as well and written to by nobody.
fn set_default(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static OTHER: OnceLock<Dispatch> = OnceLock::new();
    OTHER.get_or_init(|| {
        Dispatch::new(tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(io::sink).finish())
    });
    tracing::subscriber::set_default(subscriber)
}

impl Log {
    pub(crate) fn of_this_thread() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { text, _guard: set_default(subscriber) }
    }

    /// The same as JSON.
    pub(crate) fn json_of_this_thread() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        Self { text, _guard: set_default(subscriber) }
    }

    /// The lines that have a text in them.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        let log = self.text.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}
