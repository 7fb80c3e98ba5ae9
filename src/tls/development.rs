//! Certificates for a node that was given none: `adit node` calls `development` at start, and agents on the
//! same machine find the authority in the same folder.
//!
//! It makes what is missing and never touches what is there; many processes may do so in one folder at once.
//! `rehearse` says what it would make, and makes it in memory alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;

use super::certificate::day;
use super::certificate::{ANY_NODE, NODE_NAME};
use super::generate::{Authority, DEFAULT_LIFETIME, GenerateError, Issued, Request, Usage, is_dns_name};
use super::identity::{Identity, LoadError, load_key};
use super::provider;
use super::trust::{Trust, root_store};
use super::write::write_new;

const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The files of a folder after [`development`].
#[derive(Debug, Clone)]
pub struct Development {
    /// The authority's certificate: what agents and other nodes have to trust.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
    /// What is in these two.
    pub identity: Identity,
    /// What is in `ca`.
    pub roots: Vec<CertificateDer<'static>>,
    /// The files that this call made, or would have made.
    pub created: Vec<PathBuf>,
    /// What the operator should know of files that were there before, with the fix.
    pub warnings: Vec<String>,
}

/// Sees to it that the folder `dir` holds an authority (`ca.pem`, `ca.key`) and a node's certificate signed
/// by it (`node.pem`, `node.key`), good for this host and for `names`.
///
/// # Errors
///
/// The folder or its files cannot be read or written, files are there without those they belong to, the
/// node's certificate has ended, or a name is impossible.
pub fn development(dir: &Path, names: &[String]) -> Result<Development, GenerateError> {
    let files = Files::of(dir, true);
    // A complete folder is only read, so that it may be a read-only mount. The certificate is always written
    // last.
    if files.complete() {
        return files.read(names, Vec::new());
    }
    let _lock = lock(dir).map_err(|source| GenerateError::Folder { path: dir.to_owned(), source })?;
    let mut created = Vec::new();
    files.make_missing(names, &mut created)?;
    files.read(names, created)
}

/// What [`development`] would come to, without a file being made.
///
/// # Errors
///
/// As [`development`], but for what only writing shows.
pub fn rehearse(dir: &Path, names: &[String]) -> Result<Development, GenerateError> {
    let files = Files::of(dir, false);
    let mut created = Vec::new();
    match files.make_missing(names, &mut created)? {
        None => files.read(names, created),
        Some((issued, authority)) => {
            let roots = vec![authority.certificate().clone()];
            Ok(files.found(issued.identity(), roots, created, Vec::new()))
        }
    }
}

/// The lock ends with the file it is held through, also when the process dies.
fn lock(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(".lock"))?;
    file.lock()?;
    Ok(file)
}

struct Files {
    ca: PathBuf,
    ca_key: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    /// Whether what is made is written.
    write: bool,
}

impl Files {
    fn of(dir: &Path, write: bool) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            ca_key: dir.join("ca.key"),
            cert: dir.join("node.pem"),
            key: dir.join("node.key"),
            write,
        }
    }

    fn complete(&self) -> bool {
        // An authority's key may well be kept elsewhere once the node has its certificate.
        self.ca.exists() && self.cert.exists() && self.key.exists()
    }

    /// The node's certificate and its authority, if it was missing.
    fn make_missing(
        &self,
        names: &[String],
        created: &mut Vec<PathBuf>,
    ) -> Result<Option<(Issued, Authority)>, GenerateError> {
        if self.cert.exists() {
            return match (self.key.exists(), self.ca.exists()) {
                (false, _) => {
                    Err(GenerateError::Halved { present: self.cert.clone(), missing: self.key.clone() })
                }
                (true, false) => Err(GenerateError::NoAuthority {
                    cert: self.ca.clone(),
                    node: self.cert.clone(),
                    key: self.key.clone(),
                }),
                (true, true) => Ok(None),
            };
        }
        let authority = self.authority(created)?;
        let request = Request {
            common_name: "adit node".to_owned(),
            names: own_names()
                .chain(names.iter().cloned())
                .chain([format!("{NODE_NAME}{ANY_NODE}")])
                .collect(),
            usage: Usage::Both,
            lifetime: DEFAULT_LIFETIME,
        };
        let issued = self.pair(&self.cert, &self.key, created, |key| authority.issue_for(&key, &request))?;
        Ok(Some((issued, authority)))
    }

    fn authority(&self, created: &mut Vec<PathBuf>) -> Result<Authority, GenerateError> {
        match (self.ca.exists(), self.ca_key.exists()) {
            (true, true) => Authority::load(&self.ca, &self.ca_key),
            (true, false) => Err(GenerateError::NoAuthorityKey {
                cert: self.ca.clone(),
                key: self.ca_key.clone(),
                node: self.cert.clone(),
            }),
            (false, _) => {
                let mut made = None;
                self.pair(&self.ca, &self.ca_key, created, |key| {
                    let authority = made.insert(Authority::with_key("adit development CA", key)?);
                    Ok(authority.pem().clone())
                })?;
                Ok(made.expect("a pair is made of it"))
            }
        }
    }

    fn found(
        &self,
        identity: Identity,
        roots: Vec<CertificateDer<'static>>,
        created: Vec<PathBuf>,
        warnings: Vec<String>,
    ) -> Development {
        let (ca, cert, key) = (self.ca.clone(), self.cert.clone(), self.key.clone());
        Development { ca, cert, key, identity, roots, created, warnings }
    }

    /// Loads what is there, which is all, and looks at it.
    fn read(&self, names: &[String], created: Vec<PathBuf>) -> Result<Development, GenerateError> {
        let node = Identity::load(&self.cert, &self.key).map_err(|error| match error {
            LoadError::Expired { ended, .. } => {
                GenerateError::NodeExpired { cert: self.cert.clone(), key: self.key.clone(), ended }
            }
            other => other.into(),
        })?;
        let roots = Trust::roots_from_file(&self.ca)?;
        let (cert, fix) = (
            self.cert.display(),
            format!("remove {} and {} and start again", self.cert.display(), self.key.display()),
        );
        let mut warnings = Vec::new();
        if !signed_by(&node, &roots) {
            warnings.push(format!(
                "{cert} is not signed by the authority in {}, so whoever trusts that refuses this \
                 node: {fix}",
                self.ca.display()
            ));
        }
        let uncovered: Vec<_> = names.iter().filter(|name| !node.covers(name)).map(String::as_str).collect();
        if !uncovered.is_empty() {
            warnings.push(format!(
                "{cert} is not good for {}, so clients that ask for it refuse this node: {fix}",
                uncovered.join(", ")
            ));
        }
        if node.not_after() < SystemTime::now() + SOON {
            warnings.push(format!("{cert} ends on {}: {fix}", day(node.not_after())));
        }
        Ok(self.found(node, roots, created, warnings))
    }

    /// Writes the certificate that `make` makes for the key in `key`, or for a new one. A key without its
    /// certificate is what a process leaves that dies between the two.
    fn pair(
        &self,
        cert: &Path,
        key: &Path,
        created: &mut Vec<PathBuf>,
        make: impl FnOnce(KeyPair) -> Result<Issued, GenerateError>,
    ) -> Result<Issued, GenerateError> {
        let issued = if key.exists() {
            let issued = make(KeyPair::try_from(&load_key(key)?)?)?;
            if self.write {
                write_new(cert, issued.cert_pem.as_bytes(), false)?;
            }
            issued
        } else {
            let issued = make(KeyPair::generate()?)?;
            if self.write {
                issued.write(cert, key)?;
            }
            created.push(key.to_owned());
            issued
        };
        created.push(cert.to_owned());
        Ok(issued)
    }
}

fn signed_by(node: &Identity, roots: &[CertificateDer<'static>]) -> bool {
    let (Ok(leaf), Ok(roots)) = (ParsedCertificate::try_from(&node.chain()[0]), root_store(roots)) else {
        return false;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &node.chain()[1..], UnixTime::now(), algorithms)
        .is_ok()
}

fn own_names() -> impl Iterator<Item = String> {
    let fixed = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    fixed.into_iter().chain(host_name())
}

/// Linux tells the host's name in a file, and shells often export it; where neither is so, it is left out.
fn host_name() -> Option<String> {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim().to_ascii_lowercase();
    is_dns_name(&name).then_some(name)
}
