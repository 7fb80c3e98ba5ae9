//! The generator behind `adit bench`: clients that ask, services that answer them, and what is made of it in figures.
//!
//! Driven by `cli`, which starts what is measured and prints what came of it. It shares its machine with what it measures,
//! so it is to cost little, and it measures its own cost too. It never starts a process.

mod bulk;
mod compare;
mod flows;
pub mod http;
mod http3;
mod metronome;
mod packets;
mod pace;
mod recorder;
mod report;
mod service;
mod stream;
mod usage;
mod way;

use crate::drain::Tasks;
pub use crate::telemetry::{Memory, Usage};

pub use bulk::Bulk;
pub use compare::{Comparison, Verdict, compare};
pub use flows::Flows;
pub use metronome::Turns;
pub use pace::{Pace, Plan, Ticket};
pub use packets::{Arrived, Packets};
pub use recorder::{Recorder, Tally, Window};
pub use report::{
    Better, FORMAT, Figure, Latency, Machine, Process, Report, ReportError, Run, Slot, Unit, median,
};
pub use service::{Services, Speaks};
pub use stream::{Amount, Direction, StreamError, carry};
pub use usage::{Cpu, interface_bytes};
pub use way::Way;

/// The clients of a run, which end when it is dropped.
struct Clients(Tasks);

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.abort();
    }
}
