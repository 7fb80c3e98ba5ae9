//! Hosts of their own on a network that can be cut: network namespaces, joined by a bridge in a namespace of its own.
//!
//! Nothing here touches the machine's network. It needs root and `ip` (iproute2).

use std::{
    fs::File,
    future::poll_fn,
    io::Write,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::Path,
    pin::pin,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ok;

/// A switch and the hosts that are plugged into it. Dropping it removes them all.
#[derive(Debug)]
pub(crate) struct Network {
    /// The namespaces; the switch's is the first.
    spaces: Vec<String>,
}

/// A host of a network.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
    space: File,
}

impl Network {
    /// Hosts that reach each other. Where there can be none it says why, for all to see, and the test has nothing to do.
    pub(crate) fn of<const N: usize>(names: [&'static str; N]) -> Option<(Self, [Host; N])> {
        let made = Self::make(&names).and_then(|(network, hosts)| {
            let hosts = hosts.try_into().map_err(|_| "not every host was made")?;
            Ok((network, hosts))
        });
        // Past the test harness, which shows only what failed.
        made.map_err(|why| ok(writeln!(std::io::stderr(), "skipped, no network namespaces here: {why}"))).ok()
    }

    fn make(names: &[&'static str]) -> Result<(Self, Vec<Host>), String> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("adit-{}-{}", std::process::id(), NETWORKS.fetch_add(1, Relaxed));
        let mut network = Self { spaces: Vec::new() };
        let switch = network.space(format!("{prefix}-switch"))?;
        ip(&format!("-n {switch} link add bridge up type bridge"))?;
        let hosts = names.iter().zip(1..).map(|(name, number)| {
            let (space, address) =
                (network.space(format!("{prefix}-{name}"))?, Ipv4Addr::new(10, 0, 0, number));
            ip(&format!(
                "-n {switch} link add {name} up master bridge type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("-n {space} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            let space = File::open(Path::new("/run/netns").join(space)).map_err(|error| error.to_string())?;
            Ok(Host { name, address, space })
        });
        let hosts = hosts.collect::<Result<_, String>>()?;
        Ok((network, hosts))
    }

    fn space(&mut self, name: String) -> Result<String, String> {
        ip(&format!("netns add {name}"))?;
        self.spaces.push(name.clone());
        Ok(name)
    }

    /// Unplugs a host: what is sent is lost without a word, either way.
    pub(crate) fn cut(&self, host: &Host) {
        ok(ip(&format!("-n {} link set {} nomaster", self.spaces[0], host.name)));
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self, host: &Host) {
        ok(ip(&format!("-n {} link set {} master bridge", self.spaces[0], host.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in &self.spaces {
            // What cannot be removed must not hide why the test has failed.
            drop(ip(&format!("netns delete {space}")));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip (iproute2) does not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}

impl Host {
    /// Does something on this host: sockets and processes that are made in it are the host's.
    pub(crate) fn run<T>(&self, what: impl FnOnce() -> T) -> T {
        let _away = Away::to(&self.space);
        what()
    }

    /// The same for what has to wait. Tasks that it spawns are not on the host, only what it does itself.
    pub(crate) async fn on<T>(&self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        poll_fn(|context| self.run(|| what.as_mut().poll(context))).await
    }
}

/// This thread is in another namespace until this is dropped.
struct Away {
    home: File,
}

impl Away {
    fn to(space: &File) -> Self {
        let away = Self { home: ok(File::open("/proc/thread-self/ns/net")) };
        enter(space);
        away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        enter(&self.home);
    }
}

fn enter(space: &File) {
    ok(move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)));
}
