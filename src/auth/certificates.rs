//! Client certificates: which tenant and endpoints the names of one stand for, and which are denied.
//!
//! Pure. TLS has verified a certificate's chain and dates, and that its holder is there, before it is asked here what it
//! grants. Only its subject alternative names count; its subject is for people.

use std::{collections::HashSet, str::FromStr, time::Duration, time::SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::{Action, Grant, Hosts, Pattern, Refused, Tenants};
use crate::tls::{Fingerprint, ParseFingerprintError};

/// Names of certificates: a whole one, `*.` and what a DNS name ends with, or what a name begins with and `*`.
///
/// A pattern with a colon is for URIs, one with an `@` for mail addresses, any other for DNS names: none stands for a name of
/// another sort, whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    sort: Sort,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Dns,
    Uri,
    Mail,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Whole(String),
    /// With its dot.
    End(String),
    Beginning(String),
}

impl NamePattern {
    fn matches(&self, name: &GeneralName<'_>) -> bool {
        let folded;
        let (sort, name) = match name {
            GeneralName::DNSName(name) => {
                folded = name.to_ascii_lowercase();
                (Sort::Dns, folded.as_str())
            }
            GeneralName::URI(uri) => (Sort::Uri, *uri),
            GeneralName::RFC822Name(mail) => (Sort::Mail, *mail),
            _ => return false,
        };
        sort == self.sort
            && match &self.part {
                Part::Whole(whole) => name == whole,
                Part::End(end) => name.len() > end.len() && name.ends_with(end.as_str()),
                Part::Beginning(beginning) => name.starts_with(beginning.as_str()),
            }
    }
}

/// A text is no [`NamePattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a name of a certificate, such as agent.acme.example, *.acme.example or spiffe://acme/*")]
pub struct InvalidNamePattern;

impl FromStr for NamePattern {
    type Err = InvalidNamePattern;

    fn from_str(text: &str) -> Result<Self, InvalidNamePattern> {
        let sort = match text {
            uri if uri.contains(':') => Sort::Uri,
            mail if mail.contains('@') => Sort::Mail,
            _ => Sort::Dns,
        };
        let text = if sort == Sort::Dns { text.to_ascii_lowercase() } else { text.to_owned() };
        let part = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(end), None) if sort == Sort::Dns && end.len() > 1 && end.starts_with('.') => {
                Part::End(end.to_owned())
            }
            (None, Some(beginning)) => Part::Beginning(beginning.to_owned()),
            (None, None) => Part::Whole(text.clone()),
            _ => return Err(InvalidNamePattern),
        };
        let (Part::Whole(fixed) | Part::End(fixed) | Part::Beginning(fixed)) = &part;
        match fixed.is_empty() || fixed.contains(['*', ' ']) {
            true => Err(InvalidNamePattern),
            false => Ok(Self { sort, part }),
        }
    }
}

/// What certificates with certain names are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// One of the certificate's names must be one of these.
    pub name: NamePattern,
    /// Where its holder may act.
    pub tenants: Tenants,
    /// On which endpoints; all when there is nothing here.
    pub endpoints: Option<Vec<Pattern>>,
    /// Which whole hosts may stand for its endpoints. Without it none, if it says tenants or endpoints.
    pub hosts: Option<Vec<Hosts>>,
}

/// What client certificates are for.
#[derive(Debug, Clone, Default)]
pub struct CertificateRules {
    /// The first that fits counts. When there is none, every certificate is for everything in the default tenant.
    pub rules: Vec<CertificateRule>,
    /// Those that are not taken any more.
    pub denied: DeniedList,
}

impl CertificateRules {
    /// What a client's certificate, which TLS has verified, grants until it ends.
    ///
    /// # Errors
    /// [`Refused::Revoked`] when it is denied, [`Refused::Certificate`] when no rule is for it.
    pub fn grant(&self, certificate: &CertificateDer<'_>) -> Result<Grant, Refused> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| Refused::Certificate)?;
        if self.denied.has(certificate, &parsed) {
            return Err(Refused::Revoked);
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let whole = Grant {
            subject: Some(parsed.subject().to_string().into()),
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(ends)),
            ..Grant::default()
        };
        if self.rules.is_empty() {
            return Ok(whole);
        }
        let alternatives = parsed.subject_alternative_name().map_err(|_| Refused::Certificate)?;
        let names = alternatives.map_or(&[][..], |extension| &extension.value.general_names);
        let fits = |rule: &&CertificateRule| names.iter().any(|name| rule.name.matches(name));
        let rule = self.rules.iter().find(fits).ok_or(Refused::Certificate)?;
        Ok(Grant {
            tenants: rule.tenants.clone(),
            actions: Action::implied(rule.endpoints.is_some()),
            endpoints: rule.endpoints.iter().cloned().collect(),
            hosts: match &rule.hosts {
                Some(hosts) => vec![hosts.clone()],
                None => Grant::implied_hosts(rule.endpoints.is_some() || rule.tenants != Tenants::default()),
            },
            ..whole
        })
    }
}

/// Certificates that are not taken any more, by digest or serial number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeniedList {
    fingerprints: HashSet<Fingerprint>,
    /// Without leading zeros.
    serials: HashSet<Vec<u8>>,
}

impl DeniedList {
    /// Whether a certificate is on the list.
    fn has(&self, certificate: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> bool {
        let serial: Vec<u8> = parsed.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
        self.serials.contains(&serial) || self.fingerprints.contains(&Fingerprint::of(certificate))
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.fingerprints.len() + self.serials.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromStr for DeniedList {
    type Err = InvalidDeniedList;

    /// Reads a line for each certificate: `sha256:` and its digest, or `serial:` and its number in hexadecimal digits, with
    /// colons or without. What follows a `#` is a comment.
    fn from_str(text: &str) -> Result<Self, InvalidDeniedList> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let wrong = |reason| InvalidDeniedList { line: index + 1, reason };
            if line.is_empty() {
                continue;
            }
            match line.split_at_checked("serial:".len()) {
                Some((kind, digits)) if kind.eq_ignore_ascii_case("serial:") => {
                    let serial = hexadecimal(digits.trim()).ok_or_else(|| wrong(InvalidDenied::Serial))?;
                    list.serials.insert(serial);
                }
                _ => {
                    let digest = line.parse().map_err(|error| wrong(InvalidDenied::Digest(error)))?;
                    list.fingerprints.insert(digest);
                }
            }
        }
        Ok(list)
    }
}

/// The bytes of a number without leading zeros.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let digits = digits.trim_start_matches('0');
    if text.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let even = format!("{}{digits}", if digits.len().is_multiple_of(2) { "" } else { "0" });
    (0..even.len()).step_by(2).map(|at| u8::from_str_radix(&even[at..at + 2], 16).ok()).collect()
}

/// Why a text is no [`DeniedList`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidDeniedList {
    /// The first line that is wrong.
    pub line: usize,
    /// What is wrong with it.
    pub reason: InvalidDenied,
}

/// Why a line names no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDenied {
    /// The serial number is none.
    #[error("expected serial: and hexadecimal digits")]
    Serial,
    /// Neither `serial:` nor a digest.
    #[error("expected serial:NUMBER or sha256:DIGEST; {0}")]
    Digest(ParseFingerprintError),
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::{
        protocol::{EndpointId, TenantId},
        tls::{Authority, Request, Usage},
    };

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let authority = Authority::generate("test").unwrap();
        let request = Request {
            common_name: "acme".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            usage: Usage::Client,
            lifetime: Duration::from_secs(3600),
        };
        let issued = authority.issue(&request).unwrap();
        CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()
    }

    fn rule(name: &str, tenant: &str, endpoints: Option<&[&str]>) -> CertificateRule {
        CertificateRule {
            name: name.parse().unwrap(),
            tenants: Tenants::one(TenantId::new(tenant).unwrap()),
            endpoints: endpoints.map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect()),
            hosts: None,
        }
    }

    fn rules(rules: &[CertificateRule]) -> CertificateRules {
        CertificateRules { rules: rules.to_vec(), ..CertificateRules::default() }
    }

    #[test]
    fn patterns_stand_for_names_of_their_sort_alone() {
        let dns = |name| GeneralName::DNSName(name);
        for (pattern, name, matches) in [
            ("a.acme.example", dns("A.acme.example"), true),
            ("a.acme.example", dns("b.acme.example"), false),
            ("*.acme.example", dns("a.b.acme.example"), true),
            ("*.acme.example", dns("acme.example"), false),
            ("*.acme.example", dns(".acme.example"), false),
            ("*.acme.example", dns("a.evilacme.example"), false),
            ("agent-*", dns("agent-7"), true),
            ("spiffe://acme/*", GeneralName::URI("spiffe://acme/agent"), true),
            ("spiffe://acme/*", GeneralName::URI("spiffe://acme.evil/agent"), false),
            ("spiffe://acme/*", dns("spiffe://acme/agent"), false),
            ("agent-*", GeneralName::URI("agent-7"), false),
            ("ann@acme.example", GeneralName::RFC822Name("ann@acme.example"), true),
            ("ann@acme.example", dns("ann@acme.example"), false),
        ] {
            let read: NamePattern = pattern.parse().unwrap();
            assert_eq!(read.matches(&name), matches, "{pattern} {name}");
        }
        for bad in ["", "*", "*.", "*acme.example", "a*b", "*.a*", "a b", "**", "*@acme.example"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = rules(&[
            rule("one.acme.example", "acme", Some(&["web", "api-*"])),
            rule("*.acme.example", "acme", None),
            rule("*.example", "rest", None),
        ]);
        let grant = |names: &[&str]| rules.grant(&certificate(names));
        let endpoint = |name| EndpointId::new(name).unwrap();
        let one = grant(&["one.acme.example"]).unwrap();
        assert_eq!(one.tenant(None).unwrap().as_str(), "acme");
        assert!(one.permits(Action::Serve, &endpoint("api-1")).is_ok());
        assert!(one.permits(Action::Serve, &endpoint("db")).is_err());
        assert!(one.may(Action::Admin).is_err());
        assert!(one.subject.unwrap().contains("acme") && one.expires > Some(SystemTime::now()));
        let two = grant(&["two.acme.example"]).unwrap();
        assert!(two.permits(Action::Serve, &endpoint("db")).is_ok());
        assert_eq!(grant(&["a.b.example"]).unwrap().tenant(None).unwrap().as_str(), "rest");
        assert_eq!(grant(&["a.test"]), Err(Refused::Certificate));
        assert_eq!(grant(&[]), Err(Refused::Certificate));
        // Without rules the authority's word is enough.
        let any = CertificateRules::default().grant(&certificate(&[])).unwrap();
        assert_eq!(any.tenant(None), Ok(TenantId::default()));
        assert_eq!(rules.grant(&b"no certificate"[..].into()), Err(Refused::Certificate));
    }

    #[test]
    fn a_certificate_is_denied_by_digest_or_by_number() {
        let certificate = certificate(&["a.test"]);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        let serial = parsed.raw_serial_as_string();
        let fingerprint = Fingerprint::of(&certificate);
        for line in [
            fingerprint.to_string(),
            format!("  {fingerprint} # lost"),
            format!("serial:{serial}"),
            format!("SERIAL: 00:{}", serial.to_uppercase()),
            format!("# a comment\n\nserial:{}\n", serial.replace(':', "")),
        ] {
            let denied: DeniedList = line.parse().unwrap();
            assert_eq!(denied.len(), 1);
            let rules = CertificateRules { denied, ..CertificateRules::default() };
            assert_eq!(rules.grant(&certificate), Err(Refused::Revoked), "{line}");
        }
        let other = format!("serial:{serial}00\n{}\n", Fingerprint::from([7; 32]));
        let rules = CertificateRules { denied: other.parse().unwrap(), ..CertificateRules::default() };
        assert!(rules.grant(&certificate).is_ok());
    }

    #[test]
    fn a_list_with_one_bad_line_is_no_list() {
        for (text, line) in
            [("serial:12\nserial:xy\n", 2), ("sha256:12", 1), ("serial:", 1), ("\n\nab:cd", 3)]
        {
            assert_eq!(text.parse::<DeniedList>().unwrap_err().line, line, "{text:?}");
        }
        assert!("".parse::<DeniedList>().unwrap().is_empty());
        let told = "12:34".parse::<DeniedList>().unwrap_err().to_string();
        assert!(told.starts_with("line 1: expected serial:NUMBER or sha256:DIGEST"), "{told}");
    }
}
