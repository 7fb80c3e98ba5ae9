# `just` lists the recipes; `just check` is what a change must pass.

_default:
    @just --list --unsorted

# Everything but the release build, its demo and the examples, which `just ci` adds.
check: fmt clippy docs test no-default-features deny

fmt:
    cargo fmt --check

clippy:
    cargo clippy --all-targets -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

# Arguments go to `cargo test`: `just test -- drain` runs the tests with that in their names.
test *args:
    cargo test {{ args }}

# What a program gets that only embeds the SDK.
no-default-features:
    cargo check --no-default-features --lib
    cargo test --no-default-features --lib

deny:
    cargo deny --locked check licenses bans sources

# It needs a database from the network, so `check` does not run it; CI does where it can.
advisories:
    cargo deny --locked check advisories

bench *args:
    cargo bench {{ args }}

demo *args:
    cargo run --release -- demo {{ args }}

ci:
    .ci/run
