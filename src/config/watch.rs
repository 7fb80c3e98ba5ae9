//! Whether the files that a configuration was made of have changed.
//!
//! Driven by whoever looks every so often; it knows no clock. A change counts once it has been the same for one further look:
//! what belongs together, as a certificate and its key, is written in several steps.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use super::{
    Given,
    files::{Files, State},
};

/// Watches files.
#[derive(Default)]
pub struct Watch {
    paths: BTreeSet<PathBuf>,
    files: Files,
    /// What has been made use of.
    known: State,
    /// What was there at the last look.
    last: State,
}

/// As for [`Given`].
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("paths", &self.paths.len()).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches the files of a configuration, known as they are now. What is to be made use of must be read after this.
    pub fn follow(&mut self, given: &Given) {
        self.paths = given.paths();
        self.settle();
    }

    /// Takes the files to be known as they are now.
    pub fn settle(&mut self) {
        self.known = self.now();
        self.last.clone_from(&self.known);
    }

    /// Takes some of them alone to be known as they are now.
    pub fn made(&mut self, files: &[PathBuf]) {
        let made = self.now().into_iter().filter(|(path, _)| files.contains(path));
        for (path, digest) in made {
            self.known.insert(path.clone(), digest);
            self.last.insert(path, digest);
        }
    }

    /// Looks at the files: whether they have changed, and were the same at the last look.
    pub fn look(&mut self) -> bool {
        let now = self.now();
        let settled = now == self.last;
        self.last = now;
        settled && self.last != self.known
    }

    fn now(&mut self) -> State {
        let mut state = State::new();
        self.files.look(&self.paths, &mut state);
        state
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsString,
        fs::{self, File},
        time::{Duration, SystemTime},
    };

    use clap::Parser;

    use super::*;
    use crate::config::{NodeArgs, RunAgentArgs, read};

    #[derive(Debug, Parser)]
    struct Node {
        #[command(flatten)]
        _node: NodeArgs,
    }

    #[derive(Debug, Parser)]
    struct Agent {
        #[command(flatten)]
        _agent: RunAgentArgs,
    }

    fn given<P: Parser>(words: &[String]) -> Given {
        let line = std::iter::once("adit".into()).chain(words.iter().map(OsString::from));
        read::<P>(line, |_| None, &[]).unwrap().given
    }

    /// A file and what writes it, as if that had been done a while ago, so that its times alone may be looked at.
    fn write(path: &std::path::Path, text: &str) {
        fs::write(path, text).unwrap();
        let before = SystemTime::now() - Duration::from_secs(60);
        File::options().append(true).open(path).unwrap().set_modified(before).unwrap();
    }

    #[test]
    fn a_change_counts_once_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let words = [
            format!("--certs={}", folder.path().display()),
            format!("--peer-ca={}", file("peers").display()),
        ];
        write(&file("node.pem"), "one");
        let mut watch = Watch::default();
        watch.follow(&given::<Node>(&words));
        assert!(!watch.look() && !watch.look());
        for (name, text) in [("node.pem", "two"), ("node.key", "new"), ("peers", "new"), ("peers", "old")] {
            write(&file(name), text);
            assert!(!watch.look(), "{name} is being written");
            assert!(watch.look(), "{name}");
            watch.settle();
            assert!(!watch.look() && !watch.look(), "{name}");
        }
        write(&file("node.pem"), "three");
        assert!(!watch.look());
        write(&file("node.key"), "three");
        assert!(!watch.look(), "it goes on");
        assert!(watch.look());
        write(&file("node.pem"), "two");
        write(&file("node.key"), "new");
        assert!(!watch.look() && !watch.look(), "it is as before");
        write(&file("readme"), "nothing");
        assert!(!watch.look() && !watch.look());
        fs::remove_file(file("node.pem")).unwrap();
        assert!(!watch.look() && watch.look());
    }

    #[test]
    fn what_a_node_makes_itself_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let words = [format!("--certs={}", folder.path().join("certs").display())];
        let mut before = given::<Node>(&words);
        let mut watch = Watch::default();
        watch.follow(&before);
        let made = crate::tls::development(&folder.path().join("certs"), &[]).unwrap().created;
        watch.made(&made);
        before.made(&made);
        assert!(!watch.look() && !watch.look());
        assert_eq!(given::<Node>(&words).changes(&before), [""; 0]);
        write(&made[0], "another");
        assert!(!watch.look() && watch.look());
        assert_eq!(given::<Node>(&words).changes(&before), ["--certs"]);
    }

    #[test]
    fn files_of_files_are_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let config = format!("tenants = {:?}\nedge-auth-key-file = {:?}", file("tenants"), file("own.pub"));
        write(&file("adit.toml"), &config);
        write(&file("tenants"), "[acme]\nkey-file = 'acme.pub'\n");
        let words = [format!("--config={}", file("adit.toml").display())];
        let before = given::<Node>(&words);
        let mut watch = Watch::default();
        watch.follow(&before);
        for (name, flag) in [("acme.pub", "--tenants"), ("own.pub", "--edge-auth-key-file")] {
            write(&file(name), "a key");
            assert!(!watch.look() && watch.look(), "{name}");
            let after = given::<Node>(&words);
            assert!(after.changes(&before).contains(&flag.to_owned()), "{name}");
            watch.follow(&after);
        }
        write(&file("adit.toml"), &format!("{config}\nedge-bind = '127.0.0.1:0'"));
        assert!(!watch.look() && watch.look());
        let changes = given::<Node>(&words).changes(&before);
        assert_eq!(changes, ["--edge-auth-key-file", "--edge-bind", "--tenants"]);
    }

    #[test]
    fn a_table_of_an_agent_changes_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("db.pem");
        let config = folder.path().join("adit.toml");
        let table = format!("[[endpoint]]\nname = 'db'\naddress = 'tls://db:5432'\nupstream-ca = {ca:?}\n");
        write(&config, &table);
        let words = [format!("--config={}", config.display())];
        let before = given::<Agent>(&words);
        write(&ca, "an authority");
        assert_eq!(given::<Agent>(&words).changes(&before), ["[[endpoint]]"]);
    }

    /// As a volume of Kubernetes is brought up to date.
    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(path(version)).unwrap();
            write(&path(version).join("node.pem"), version);
        }
        symlink("1", path("..data")).unwrap();
        symlink("..data/node.pem", path("node.pem")).unwrap();
        let mut watch = Watch::default();
        watch.follow(&given::<Node>(&[format!("--link-cert={}", path("node.pem").display())]));
        assert!(!watch.look());
        symlink("2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        assert!(!watch.look() && watch.look());
    }
}
