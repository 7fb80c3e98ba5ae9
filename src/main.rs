//! The `adit` program. Everything it does is in [`adit::cli`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Connections come and go on many threads, which the system's allocator answers with fragments.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    adit::cli::run()
}
