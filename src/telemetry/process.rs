//! What this process uses of its machine, by the names that Prometheus' own clients give it, and how busy its runtime is.
//!
//! Read from /proc when somebody asks; on other systems there is only what the runtime tells.

use std::{
    fmt, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use tokio::runtime::{Handle, RuntimeMetrics};

/// The unit of processor time in /proc. It could be another only if the kernel's interface to programs broke (proc(5)).
const TICKS: f64 = 100.0;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds of one processor, in the kernel and outside, to a hundredth.
    pub cpu_s: f64,
    /// Its memory.
    pub memory: Memory,
    /// Its threads.
    pub threads: u64,
}

/// Memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub now_kib: u64,
    /// The most that was ever resident.
    pub peak_kib: u64,
    /// Addressed, resident or not.
    pub virtual_kib: u64,
}

impl Usage {
    /// That of a process by its number; none where there is no /proc.
    pub fn of(process: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        Self::read(&stat, &status)
    }

    /// That of this process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    fn read(stat: &str, status: &str) -> Option<Self> {
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let memory = Memory { now_kib: of("VmRSS:")?, peak_kib: of("VmHWM:")?, virtual_kib: of("VmSize:")? };
        Some(Self { cpu_s: cpu(stat)?, memory, threads: of("Threads:")? })
    }
}

/// Fields 14 and 15. The second is the program's name, which may have spaces and brackets of its own.
fn cpu(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// This process, for a registry without a prefix.
#[derive(Debug)]
pub(super) struct Process {
    started: Duration,
    runtime: Option<RuntimeMetrics>,
}

impl Process {
    /// From now on. On a runtime, that is told of as well.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started, runtime: Handle::try_current().ok().map(|handle| handle.metrics()) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell = |name: &str, help: &str, metric: &dyn Told| metric.tell(name, help, &mut encoder);
        let started = ConstGauge::new(self.started.as_secs_f64());
        tell(
            "process_start_time_seconds",
            "When this process began to count, in seconds since 1970",
            &started,
        )?;
        if let Some(usage) = Usage::own() {
            let bytes = |kib: u64| ConstGauge::new(kib.saturating_mul(1024));
            let cpu = ConstCounter::new(usage.cpu_s);
            tell("process_cpu_seconds", "Processor time, in the kernel and outside", &cpu)?;
            tell("process_resident_memory_bytes", "Resident memory", &bytes(usage.memory.now_kib))?;
            tell("process_virtual_memory_bytes", "Addressed memory", &bytes(usage.memory.virtual_kib))?;
            tell("process_threads", "Threads", &ConstGauge::new(usage.threads))?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            let open = ConstGauge::new((open.count() as u64).saturating_sub(1));
            tell("process_open_fds", "File descriptors that are open", &open)?;
        }
        if let Some(most) = most_files() {
            tell("process_max_fds", "File descriptors that may be open", &ConstGauge::new(most))?;
        }
        if let Some(runtime) = &self.runtime {
            let tasks = ConstGauge::new(runtime.num_alive_tasks() as u64);
            tell("adit_runtime_tasks", "Tasks that have not ended", &tasks)?;
            let waiting = ConstGauge::new(runtime.global_queue_depth() as u64);
            tell("adit_runtime_queue_tasks", "Tasks that wait for a worker in the queue of all", &waiting)?;
        }
        Ok(())
    }
}

/// A metric without labels.
trait Told {
    fn tell(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result;
}

impl<M: EncodeMetric> Told for M {
    fn tell(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

fn most_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1000 1 2 3";
        let status =
            "Name:\tadit\nVmSize:\t   90000 kB\nVmHWM:\t    9000 kB\nVmRSS:\t    8000 kB\nThreads:\t3\n";
        let memory = Memory { now_kib: 8000, peak_kib: 9000, virtual_kib: 90_000 };
        assert_eq!(Usage::read(stat, status), Some(Usage { cpu_s: 3.0, memory, threads: 3 }));
        assert_eq!((Usage::read("", status), Usage::read(stat, "")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_told_of() {
        let own = Usage::own().unwrap();
        assert!(own.memory.peak_kib >= own.memory.now_kib && own.memory.now_kib > 0, "{own:?}");
        assert!(own.threads > 0 && most_files().unwrap() > 0);
    }
}
