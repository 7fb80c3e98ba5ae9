//! What one certificate says: its digest (`Fingerprint`, used as a pin) and its readable parts (`Summary`).
//!
//! `identity`, `trust` and `adit certs show` read certificates through here. It never decides whether one is
//! to be believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

/// What stands before a node's name in its certificate, as a URI; [`ANY_NODE`] behind it stands for every node of the
/// cluster. Peers take a node only by a name that its certificate has.
///
/// Some clients read every name of a certificate, and refuse it for a URI that has more than one colon or a `*`.
pub const NODE_NAME: &str = "adit-node:";

/// Stands for every node; no node can have that name.
pub const ANY_NODE: &str = "@any";

/// Whether a certificate is one of the node of this name.
///
/// # Errors
/// When it cannot be read.
pub fn is_of_node(certificate: &CertificateDer<'_>, node: &str) -> Result<bool, rustls::Error> {
    let names = Summary::of(certificate)?.names;
    let mut nodes = names.iter().filter_map(|name| name.strip_prefix(NODE_NAME));
    Ok(nodes.any(|name| name == ANY_NODE || name == node))
}

/// The SHA-256 digest of a certificate's DER encoding, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `certificate`.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// The digest itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFingerprintError {
    /// The text does not start with `sha256:`.
    #[error("a pin starts with `sha256:`: copy it from `adit certs show FILE`")]
    Prefix,
    /// A character that is neither a hexadecimal digit nor a colon.
    #[error("`{0}` is not a hexadecimal digit: a pin is `sha256:` and 64 of them")]
    Digit(char),
    /// The wrong number of digits.
    #[error("a pin has 64 hexadecimal digits after `sha256:`, and this one has {0}")]
    Length(usize),
    /// Colons that do not separate single bytes.
    #[error("the colons of a pin stand between all of its bytes or nowhere")]
    Colons,
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    /// Reads what `Display` writes; the case does not matter, and colons may separate the bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = match text.split_at_checked("sha256:".len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("sha256:") => rest,
            _ => return Err(ParseFingerprintError::Prefix),
        };
        let separated = digits.contains(':');
        if separated && digits.split(':').any(|byte| byte.len() != 2) {
            return Err(ParseFingerprintError::Colons);
        }
        let nibbles = digits
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or(ParseFingerprintError::Digit(c)))
            .collect::<Result<Vec<_>, _>>()?;
        if nibbles.len() != 64 {
            return Err(ParseFingerprintError::Length(nibbles.len()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks_exact(2)) {
            // Hexadecimal digits are below 16, so the sum is below 256.
            *byte = (pair[0] * 16 + pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

/// The parts of a certificate that people ask about.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The subject, as `CN=…`.
    pub subject: String,
    /// The issuer, as `CN=…`.
    pub issuer: String,
    /// The DNS names and IP addresses of the subject's alternative names.
    pub names: Vec<String>,
    /// When it starts to be valid.
    pub not_before: SystemTime,
    /// When it ceases to be valid.
    pub not_after: SystemTime,
    /// Whether it may sign other certificates.
    pub authority: bool,
    /// Its digest.
    pub fingerprint: Fingerprint,
}

impl Summary {
    /// Reads `certificate`.
    ///
    /// # Errors
    ///
    /// [`rustls::Error::InvalidCertificate`] if it is not X.509 in DER, or its alternative names cannot be
    /// read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let malformed = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| malformed())?;
        let alternatives = parsed.subject_alternative_name().map_err(|_| malformed())?;
        let names = alternatives
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(octets) => address(octets).map(|ip| ip.to_string()),
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
            .collect();
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names,
            not_before: system_time(parsed.validity().not_before.timestamp()),
            not_after: system_time(parsed.validity().not_after.timestamp()),
            authority: parsed.is_ca(),
            fingerprint: Fingerprint::of(certificate),
        })
    }
}

/// The day of `time` in UTC, as `2026-01-31`.
pub(crate) fn day(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| "a day beyond the calendar".to_owned(), |t| t.to_datetime().date().to_string())
}

fn system_time(unix_seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if unix_seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    // X.509 dates end with the year 9999, which every platform's clock can hold; the past may be out of
    // range.
    time.unwrap_or(epoch)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|o| IpAddr::V4(Ipv4Addr::from(o)));
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|o| IpAddr::V6(Ipv6Addr::from(o)))).ok()
}
