//! Why something was refused, closed or reset: stable numbers, each with a name and a sentence.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a link, a listen or a flow was refused. Numbers are stable; a number that this version does not know is kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code of a newer version.
            Other(u32),
        }

        impl Code {
            /// Every code that this version knows.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code for a number on the wire.
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// The name that errors, logs and metrics use.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "other",
                }
            }
        }
    };
}

codes! {
    /// The versions of both sides do not overlap.
    UnsupportedVersion = 1, "unsupported_version";
    /// A frame, field or name is malformed.
    Invalid = 2, "invalid";
    /// The frame or the feature is not known here.
    Unsupported = 3, "unsupported";
    /// No credentials, or bad ones.
    Unauthenticated = 4, "unauthenticated";
    /// The credentials do not permit it.
    Forbidden = 5, "forbidden";
    /// No agent serves the endpoint.
    NoUpstream = 6, "no_upstream";
    /// The agent does not serve this endpoint (any more).
    NotListening = 7, "not_listening";
    /// The service refused the agent's connection.
    UpstreamRefused = 8, "upstream_refused";
    /// The service did not accept the agent's connection in time.
    UpstreamTimeout = 9, "upstream_timeout";
    /// TLS between agent and service failed.
    UpstreamTls = 10, "upstream_tls";
    /// The service cannot be reached from the agent for another reason.
    UpstreamUnreachable = 11, "upstream_unreachable";
    /// The refusing side is leaving; somebody else must be asked.
    Draining = 12, "draining";
    /// A bound of the refusing side is reached; later may work.
    Busy = 13, "busy";
    /// A newer link of the same agent has taken this one's place.
    Superseded = 14, "superseded";
    /// A fault of the refusing side.
    Internal = 15, "internal";
    /// The opener has a link to this node already, and wants one to another.
    Elsewhere = 16, "elsewhere";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "code {number}"),
            known => f.write_str(known.name()),
        }
    }
}

/// A typed "no", with a sentence for people. It promises that nothing of what was asked for has happened: a refused flow
/// has passed on no byte and may be offered elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// A sentence for people; at most [`Refusal::MAX_MESSAGE`] bytes.
    pub message: String,
}

impl Refusal {
    /// The longest message, in bytes. Longer ones are cut where they are made, and malformed where they arrive.
    pub const MAX_MESSAGE: usize = 512;

    /// A refusal whose message is cut to its bound at a character's edge.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE));
        Self { code, message }
    }
}

/// Where a node is in its life, which only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not everything listens yet.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
}

impl Phase {
    /// The name that logs and status use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Starting => 1,
            Self::Ready => 2,
            Self::Draining => 3,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Starting),
            2 => Some(Self::Ready),
            3 => Some(Self::Draining),
            _ => None,
        }
    }
}

/// Why a link was closed: the application error code of CONNECTION_CLOSE (RFC 9000 §20.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// The closing side has finished.
    #[default]
    Done = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    /// The link was refused; the reason went over the control stream.
    Refused = 2,
    /// A newer link of the same agent has taken this one's place.
    Superseded = 3,
    /// Something that must come in bounded time did not.
    Timeout = 4,
    /// The grace period ended before the flows did.
    GraceEnded = 5,
    /// The credentials that the link was opened with have expired, or are not taken any more.
    Expired = 6,
}

/// Why a stream was reset or stopped: the application error code of RESET_STREAM and STOP_SENDING (RFC 9000 §19.4, §19.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// The other half of the join broke: a TCP reset, or a lost link behind this hop.
    Broken = 0,
    /// The flow was refused; whatever follows `Open` is not read.
    Refused = 1,
    /// Whoever asked for the flow has gone.
    Cancelled = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_read_back() {
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
        }
        assert_eq!(Code::from_number(4000), Code::Other(4000));
        numbers.dedup();
        assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let refusal = Refusal::new(Code::Internal, "é".repeat(400));
        assert_eq!(refusal.message.len(), 512);
        let odd = Refusal::new(Code::Internal, format!("x{}", "é".repeat(400)));
        assert_eq!(odd.message.len(), 511);
    }
}
