//! Programs that are not adit's, where they are installed.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use super::{eventually, ok};

/// A program that tests use only where it is installed; where it is not, that is said.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian has PostgreSQL's programs, and those that only root is thought to need.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let others = versions.map(|version| version.path().join("bin")).chain(["/usr/sbin".into()]);
    let folders = std::env::split_paths(&path).chain(others);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        untested(&format!("{name} is not installed"));
    }
    found
}

#[expect(clippy::print_stderr, reason = "a test that tests nothing must not look like one that passed")]
pub(crate) fn untested(why: &str) {
    eprintln!("not tested: {why}");
}

/// Runs a program to its end, beside what it talks to.
pub(crate) async fn output(mut command: Command) -> Output {
    ok(ok(tokio::task::spawn_blocking(move || command.output()).await))
}

/// Any port of loopback that is free, for a program that does not take 0 or does not tell what it was given.
pub(crate) fn free_address() -> SocketAddr {
    ok(ok(TcpListener::bind("127.0.0.1:0")).local_addr())
}

/// The processes that a process has started.
pub(crate) fn children(of: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| ok(id.parse())).collect::<Vec<_>>()).collect()
}

/// A server in a folder of its own, at a free port of loopback. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    program: PathBuf,
    arguments: &'static [&'static str],
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// nginx with this inside of its `http`, where it is installed.
    pub(crate) async fn nginx(http: impl Fn(SocketAddr, &Path) -> String) -> Option<Self> {
        // Its workers stay whom it is run by; only root has a choice.
        let frame = |address, folder: &Path| {
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {kind};"))
                .concat();
            format!(
                "daemon off; user root; pid pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; {temporary}\n{}\n}}",
                http(address, folder)
            )
        };
        Self::start("nginx", &["-p", "./", "-c", "config"], frame).await
    }

    /// HAProxy, where it is installed.
    pub(crate) async fn haproxy(config: impl Fn(SocketAddr, &Path) -> String) -> Option<Self> {
        // Memory for as many connections as there may be open files would be much.
        let frame = |address, folder: &Path| format!("global\n maxconn 500\n{}", config(address, folder));
        Self::start("haproxy", &["-db", "-f", "config"], frame).await
    }

    async fn start(
        name: &str,
        arguments: &'static [&'static str],
        config: impl Fn(SocketAddr, &Path) -> String,
    ) -> Option<Self> {
        let program = tool(name)?;
        let mut tries = 3;
        loop {
            let (folder, address) = (ok(tempfile::tempdir()), free_address());
            ok(fs::write(folder.path().join("config"), config(address, folder.path())));
            let process = spawn(&program, arguments, folder.path());
            let mut server = Self { address, program: program.clone(), arguments, process, folder };
            tries -= 1;
            match server.accepts().await {
                Ok(()) => return Some(server),
                // The port was another test's before it was the server's.
                Err(told) => assert!(tries > 0 && told.contains("in use"), "{told}"),
            }
        }
    }

    /// Changes its configuration, for when it reads it the next time.
    pub(crate) fn change(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("config");
        ok(fs::write(&file, change(ok(fs::read_to_string(&file)))));
    }

    /// Has nginx read its configuration again. Both workers accept for a moment; this waits until the first, which must
    /// have no connection, is gone.
    pub(crate) async fn reload(&self, change: impl FnOnce(String) -> String) {
        let workers = || children(self.process.id());
        // It listens before it has one.
        eventually("there is a worker", async || !workers().is_empty()).await;
        let before = workers();
        self.change(change);
        self.signal("HUP");
        let others = |now: &[u32]| !now.is_empty() && !now.iter().any(|worker| before.contains(worker));
        eventually("the workers are others", async || others(&workers())).await;
    }

    pub(crate) fn signal(&self, name: &str) {
        let status =
            ok(Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status());
        assert!(status.success(), "kill -{name}");
    }

    /// Stops it with all its connections, and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        self.process = spawn(&self.program, self.arguments, self.folder.path());
        self.accepts().await.unwrap_or_else(|told| panic!("{told}"));
    }

    /// Stops it with all its connections.
    pub(crate) fn stop(&mut self) {
        // Not SIGKILL, which nginx's workers would outlive. It may have ended by itself.
        drop(Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status());
        drop(self.process.wait());
    }

    /// Waits until it accepts connections. Where it has ended instead, the error is what it has said.
    async fn accepts(&mut self) -> Result<(), String> {
        let mut ended = None;
        eventually("the server accepts connections", async || {
            ended = ok(self.process.try_wait());
            ended.is_some() || tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
        let Some(status) = ended else { return Ok(()) };
        let log = ok(fs::read_to_string(self.folder.path().join("log")));
        Err(format!("{} has ended: {status}\n{log}", self.program.display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(program: &Path, arguments: &[&str], folder: &Path) -> Child {
    let log = ok(fs::File::create(folder.join("log")));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn())
}
