//! A real PostgreSQL server, where one is installed.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use adit::tls::Authority;

use super::{
    eventually,
    fabric::issue,
    ok,
    program::{free_address, output, tool, untested},
};

/// A server on a port of loopback, which takes TLS with a certificate for these names. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) port: u16,
    server: Child,
    _folder: tempfile::TempDir,
}

impl Postgres {
    pub(crate) async fn start(authority: &Authority, names: &[&str]) -> Option<Self> {
        let (initdb, postgres) = (tool("initdb")?, tool("postgres")?);
        let user = Owner::of_this_process()?;
        let folder = ok(tempfile::tempdir());
        user.owns(folder.path());
        let data = folder.path().join("data");
        let mut made = user.command(&initdb);
        made.args(["--auth=trust", "--username=postgres", "--no-sync", "--no-locale", "-D"]).arg(&data);
        let made = output(made).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (cert, key) = (data.join("server.crt"), data.join("server.key"));
        issue(authority, names, &cert, &key);
        user.owns(&cert);
        user.owns(&key);
        // Nobody comes without TLS.
        ok(fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n"));
        let port = free_address().port();
        let server = user
            .command(&postgres)
            .args(["-c", "ssl=on", "-c", "fsync=off", "-c", "unix_socket_directories=", "-h", "127.0.0.1"])
            .args(["-p", &port.to_string(), "-D"])
            .arg(&data)
            .stderr(Stdio::null())
            .spawn();
        let postgres = Self { port, server: ok(server), _folder: folder };
        eventually("PostgreSQL accepts connections", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(postgres)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: an immediate shutdown, of its children too. It may have ended by itself.
        drop(Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status());
        drop(self.server.wait());
    }
}

/// Who the server runs as: it refuses to be root.
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of_this_process() -> Option<Self> {
        if ok(fs::metadata("/proc/self")).uid() != 0 {
            return Some(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = users.lines().find_map(|line| line.strip_prefix("postgres:"));
        let Some(line) = line else {
            untested("root may not run PostgreSQL, and there is no user postgres");
            return None;
        };
        let ids: Vec<_> = line.split(':').skip(1).take(2).map(|id| ok(id.parse())).collect();
        Some(Self(Some((ids[0], ids[1]))))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn owns(&self, path: &Path) {
        if let Some((user, group)) = self.0 {
            let owned: io::Result<()> = std::os::unix::fs::chown(path, Some(user), Some(group));
            ok(owned);
        }
    }
}
