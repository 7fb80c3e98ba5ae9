//! The one source of cryptography: aws-lc-rs, handed to each configuration explicitly.
//!
//! It is never installed as the process's default, so that a program that embeds adit keeps its own choice.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The provider that all TLS and QUIC configurations of this crate are built with.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
