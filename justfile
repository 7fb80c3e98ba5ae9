# `just` lists the recipes; `just check` is what a change must pass.

_default:
    @just --list --unsorted

# Everything but the release build, its demo and the examples, which `just ci` adds.
check: fmt clippy docs test fewer-features deny

fmt:
    cargo fmt --check

clippy:
    cargo clippy --all-features --all-targets -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --all-features --no-deps --document-private-items

# Arguments go to `cargo test`: `just test -- drain` runs the tests with that in their names.
test *args:
    cargo test --all-features {{ args }}

# The program without what is not default, and what a program gets that only embeds the SDK.
fewer-features:
    cargo check
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
