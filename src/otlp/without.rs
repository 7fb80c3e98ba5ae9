//! What stands for the export in a program that is built without the feature `otlp`.

use std::{convert::Infallible, fmt, future::Ready, str::FromStr};

use super::{Counters, InvalidReceiver, Resource};
use crate::{drain::Tasks, telemetry::trace::Queue};

/// Who takes spans: nobody can be named.
#[derive(Debug, Clone)]
pub struct Receiver(Infallible);

impl FromStr for Receiver {
    type Err = InvalidReceiver;

    fn from_str(_: &str) -> Result<Self, InvalidReceiver> {
        Err(InvalidReceiver::Without)
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

/// Nobody can call it.
pub(super) fn send(receiver: Receiver, _: Resource, _: Queue, _: Counters, _: Tasks) -> Ready<()> {
    match receiver.0 {}
}
