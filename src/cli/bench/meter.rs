//! What a run costs: processor time and memory of each process, bytes on the loopback interface, and how busy the machine was
//! with other things.

use crate::load::{self, Cpu, Figure, Process, Run, Tally, Usage};

use super::child::Child;

/// The figures of before, to be taken from those of after.
#[derive(Debug)]
pub(super) struct Meter {
    processes: Vec<(String, u32, Option<Usage>)>,
    machine: Option<Cpu>,
    wire: Option<u64>,
}

/// What was spent between the two.
#[derive(Debug, Default)]
pub(super) struct Spent {
    pub(super) processes: Vec<Process>,
    pub(super) other_cpu: Option<f64>,
    /// Bytes on `lo`.
    pub(super) wire: Option<u64>,
}

/// This process, which is the clients and the services both.
pub(super) const SELF: &str = "bench (clients and services)";

impl Meter {
    /// Starts to measure these, and this process.
    pub(super) fn start<'a>(children: impl Iterator<Item = &'a Child>) -> Self {
        let children = children.filter_map(|child| Some((child.name.clone(), child.id()?)));
        let own = (SELF.to_owned(), std::process::id());
        let processes = children.chain([own]).map(|(name, id)| (name, id, Usage::of(id))).collect();
        Self { processes, machine: Cpu::of_machine(), wire: load::interface_bytes("lo") }
    }

    /// What was spent since. Processes that have ended since are left out.
    pub(super) fn end(&self) -> Spent {
        let machine = Cpu::of_machine();
        let wire = load::interface_bytes("lo");
        let spent = |(name, id, before): &(String, u32, Option<Usage>)| {
            let (before, after) = ((*before)?, Usage::of(*id)?);
            Some(Process {
                name: name.clone(),
                cpu_s: after.cpu_s - before.cpu_s,
                peak_kib: after.memory.peak_kib,
            })
        };
        let processes: Vec<Process> = self.processes.iter().filter_map(spent).collect();
        let ours: f64 = processes.iter().map(|process| process.cpu_s).sum();
        let other_cpu = self.machine.zip(machine).filter(|(before, after)| after.total_s > before.total_s);
        let other_cpu = other_cpu.map(|(before, after)| {
            let busy = after.busy_s - before.busy_s;
            ((busy - ours) / (after.total_s - before.total_s)).clamp(0.0, 1.0)
        });
        Spent { processes, other_cpu, wire: self.wire.zip(wire).map(|(before, after)| after - before) }
    }
}

impl Spent {
    /// What is told of a run that was tallied, and took this.
    pub(super) fn into_run(
        self,
        tally: Tally,
        rate_of: &str,
        figures: Vec<Figure>,
        notes: Vec<String>,
    ) -> Run {
        Run {
            seconds: tally.elapsed.as_secs_f64(),
            figures,
            latency: tally.latency,
            timeline: tally.timeline,
            rate_of: rate_of.into(),
            errors: tally.errors,
            processes: self.processes,
            other_cpu: self.other_cpu,
            notes,
        }
    }

    /// Seconds of one processor of all processes whose name begins so.
    pub(super) fn cpu(&self, prefix: &str) -> Option<f64> {
        let mut of = self.processes.iter().filter(|process| process.name.starts_with(prefix)).peekable();
        of.peek()?;
        Some(of.map(|process| process.cpu_s).sum())
    }
}
