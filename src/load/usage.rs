//! What a machine's processes use together, as Linux tells it in /proc. On other systems there is nothing to be had, and everything is `None`.

use std::{fs, thread};

use super::report::Machine;

/// The unit of processor time in /proc. It could be another only if the kernel's interface to programs broke (proc(5)).
const TICKS: f64 = 100.0;

/// What all processes of the machine have used so far, in seconds of one processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    /// Used.
    pub busy_s: f64,
    /// There was.
    pub total_s: f64,
}

impl Cpu {
    /// Since the machine started.
    pub fn of_machine() -> Option<Self> {
        machine_cpu(&fs::read_to_string("/proc/stat").ok()?)
    }
}

/// The bytes that an interface has sent so far, link headers among them. On `lo` each byte is counted once, and packets that
/// are handed over together (GSO) have the headers of one.
pub fn interface_bytes(interface: &str) -> Option<u64> {
    sent(&fs::read_to_string("/proc/net/dev").ok()?, interface)
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let system = format!("{} {}, {}", std::env::consts::OS, release.trim(), std::env::consts::ARCH);
        let model = info.lines().find(|line| line.starts_with("model name"));
        Self {
            system: system.replace(" ,", ","),
            processor: model.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned()),
            cpus: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in `user` already.
fn machine_cpu(stat: &str) -> Option<Cpu> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = fields.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let total: f64 = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(Cpu { busy_s: (total - idle) / TICKS, total_s: total / TICKS })
}

fn sent(dev: &str, interface: &str) -> Option<u64> {
    let line = dev.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let machine = machine_cpu("cpu  100 0 100 700 100 0 0 0 5 0\ncpu0 1 2 3\n");
        assert_eq!(machine, Some(Cpu { busy_s: 2.0, total_s: 10.0 }));
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes\n    lo: 7 6 0 0 0 0 0 0 9 6 0 0 0 0 0 0\n";
        assert_eq!((sent(dev, "lo"), sent(dev, "l"), sent(dev, "eth0")), (Some(9), None, None));
        assert_eq!(machine_cpu(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_is_told_of() {
        let machine = Cpu::of_machine().unwrap();
        assert!(machine.busy_s > 0.0 && machine.busy_s <= machine.total_s, "{machine:?}");
        assert!(interface_bytes("lo").is_some() && interface_bytes("no such").is_none());
        assert!(Machine::here().cpus > 0);
    }
}
