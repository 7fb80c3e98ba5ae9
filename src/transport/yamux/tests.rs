//! Two sessions that talk to each other.
