//! The flag of `adit agent` and `adit forward` for those who watch over them.

use std::net::SocketAddr;

use clap::Args;

use super::port_or_address;

/// The operators' port.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ProbeArgs {
    /// Tell health, readiness and metrics here, to whoever reaches it: see docs/metrics.md. A port alone is one of this
    /// machine. By default, nowhere.
    #[arg(help_heading = "Operators (admin)", long, value_name = "[ADDRESS:]PORT", value_parser = address)]
    pub(super) admin_bind: Option<SocketAddr>,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    port_or_address(text).ok_or("expected a port, or ADDRESS:PORT in numbers, such as 10.0.0.5:8005")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine() {
        for (text, bound) in
            [("8005", "127.0.0.1:8005"), ("0.0.0.0:8005", "0.0.0.0:8005"), ("[::1]:0", "[::1]:0")]
        {
            assert_eq!(address(text).unwrap().to_string(), bound);
        }
        for bad in ["", "localhost:8005", "10.0.0.5", "70000", ":8005"] {
            assert!(address(bad).unwrap_err().contains("such as 10.0.0.5:8005"), "{bad}");
        }
    }
}
