//! What the tests of `tls` share: an authority and what it signs, also what has ended already.

use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn request(names: &[&str], usage: Usage) -> Request {
    Request {
        common_name: "test".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        usage,
        lifetime: DEFAULT_LIFETIME,
    }
}

pub(super) fn identity_of(issued: &Issued) -> Identity {
    let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    Identity::new(chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap()).unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::generate("test CA").unwrap()
}

pub(crate) fn roots(authority: &Authority) -> Vec<CertificateDer<'static>> {
    vec![authority.certificate().clone()]
}

pub(crate) fn issue(authority: &Authority, names: &[&str]) -> Identity {
    identity_of(&authority.issue(&request(names, Usage::Both)).unwrap())
}

pub(super) fn expired(authority: &Authority, names: &[&str]) -> Issued {
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    authority.sign(&key, &request(names, Usage::Both), now - 2 * HOUR, now - HOUR).unwrap()
}
