//! Where spans go, and which there are, for nodes and agents.

use clap::Args;

use super::ConfigError;
use crate::{otlp, telemetry::trace::Settings};

/// The spans of a process.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Send a span of each request and flow to this receiver of OTLP, by HTTP: http://HOST:4318 or https://…, below which
    /// /v1/traces is. For an adit that is built with the feature `otlp`.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Record this share of the traces that begin here, from 0 to 1. Of those that began before, whoever began them has said
    /// whether they are recorded.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    trace_sample: f64,
}

/// The same for a node, which has clients.
#[derive(Debug, Clone, Args)]
pub struct NodeTraceArgs {
    #[command(flatten)]
    traces: TraceArgs,
    /// Begin a new trace for each request and flow of a client, whatever it says of one itself, so that clients cannot have
    /// more recorded than --trace-sample.
    #[arg(long)]
    trace_ignore_clients: bool,
}

impl TraceArgs {
    /// Where spans go, if anywhere.
    pub(super) fn config(self) -> Result<Option<otlp::Config>, ConfigError> {
        let Self { otlp_endpoint, trace_sample } = self;
        let settings = Settings { sample: trace_sample, trusts_clients: true };
        let receiver = otlp_endpoint.map(|url| url.parse()).transpose()?;
        Ok(receiver.map(|receiver| otlp::Config { receiver, settings }))
    }
}

impl NodeTraceArgs {
    /// The same.
    pub(super) fn config(self) -> Result<Option<otlp::Config>, ConfigError> {
        let Self { traces, trace_ignore_clients } = self;
        match traces.config()? {
            None if trace_ignore_clients => {
                Err(ConfigError::Half { given: "--trace-ignore-clients", missing: "--otlp-endpoint" })
            }
            None => Ok(None),
            Some(config) => {
                let settings = Settings { trusts_clients: !trace_ignore_clients, ..config.settings };
                Ok(Some(otlp::Config { settings, ..config }))
            }
        }
    }
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or("expected a number from 0 to 1, such as 0.05")
}

#[cfg(test)]
mod tests {
    use super::{super::from_words, *};

    fn read(words: &[&str]) -> Result<Option<Settings>, String> {
        let args: NodeTraceArgs = from_words(words).map_err(|error| error.to_string())?;
        let config = args.config().map_err(|error| crate::telemetry::report(&error))?;
        Ok(config.map(|config| config.settings))
    }

    #[test]
    fn nothing_is_sent_unless_it_is_said_where_to() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["--trace-sample", "0.5"]), Ok(None));
        assert!(read(&["--trace-ignore-clients"]).unwrap_err().contains("needs --otlp-endpoint"));
        for bad in ["1.1", "-1", "NaN", "half", "inf"] {
            let told = read(&[&format!("--trace-sample={bad}")]).unwrap_err();
            assert!(told.contains("from 0 to 1"), "{told}");
        }
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn clients_are_believed_and_all_is_recorded_unless_it_is_said_otherwise() {
        let there = "--otlp-endpoint=http://127.0.0.1:4318";
        assert_eq!(read(&[there]), Ok(Some(Settings { sample: 1.0, trusts_clients: true })));
        let said = read(&[there, "--trace-sample=0.05", "--trace-ignore-clients"]);
        assert_eq!(said, Ok(Some(Settings { sample: 0.05, trusts_clients: false })));
        let told = read(&["--otlp-endpoint=http://ann:hunter2@127.0.0.1"]).unwrap_err();
        assert!(told.starts_with("--otlp-endpoint") && !told.contains("hunter2"), "{told}");
    }

    #[cfg(not(feature = "otlp"))]
    #[test]
    fn a_program_that_cannot_send_says_which_one_can() {
        let told = read(&["--otlp-endpoint=http://127.0.0.1:4318"]).unwrap_err();
        assert!(told.contains("--otlp-endpoint") && told.contains("--features otlp"), "{told}");
    }
}
