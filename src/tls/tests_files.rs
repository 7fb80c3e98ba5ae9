//! Certificates and keys as files: made, read, refused, never overwritten.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tempfile::{TempDir, tempdir};
use x509_parser::extensions::ParsedExtension;

use super::tests::*;
use super::*;
use crate::tls::certificate::day;

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn fingerprints_are_read_as_they_are_written_and_as_others_write_them() {
    let hex = "00ff1a".to_owned() + &"2b".repeat(29);
    let colons =
        hex.as_bytes().chunks(2).map(|b| std::str::from_utf8(b).unwrap()).collect::<Vec<_>>().join(":");
    let parsed: Fingerprint = format!("sha256:{hex}").parse().unwrap();
    assert_eq!(parsed.to_string(), format!("sha256:{hex}"));
    assert_eq!(parsed.as_bytes()[..4], [0x00, 0xff, 0x1a, 0x2b]);
    for text in [
        format!("SHA256:{}", hex.to_uppercase()),
        format!("sha256:{colons}"),
        format!("sha256:{}", colons.to_uppercase()),
    ] {
        assert_eq!(text.parse(), Ok(parsed), "{text}");
    }
    use ParseFingerprintError::{Colons, Digit, Length, Prefix};
    let table = [
        (hex.clone(), Prefix),
        (String::new(), Prefix),
        (format!("sha1:{hex}"), Prefix),
        ("sha25é".to_owned(), Prefix),
        ("sha256:".to_owned(), Length(0)),
        (format!("sha256:{}", &hex[1..]), Length(63)),
        (format!("sha256:{hex}00"), Length(66)),
        (format!("sha256:{}", &colons[3..]), Length(62)),
        (format!("sha256:{}x", &hex[1..]), Digit('x')),
        (format!("sha256:é{}", &hex[2..]), Digit('é')),
        (format!("sha256:{colons}:"), Colons),
        (format!("sha256::{colons}"), Colons),
        (format!("sha256:{}:{}", &hex[..32], &hex[32..]), Colons),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Fingerprint>(), Err(expected), "{text}");
    }
}

#[test]
fn an_authority_signs_leaves_only_and_lives_for_ten_years() {
    let ca = authority();
    let (_, parsed) = x509_parser::parse_x509_certificate(ca.certificate()).unwrap();
    let constraints = parsed.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let years =
        (parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp()) / (86_400 * 365);
    assert_eq!(years, 10);
}

#[test]
fn a_leaf_carries_what_was_asked_for_and_no_more() {
    let ca = authority();
    let issued =
        ca.issue(&request(&["Node.example", "10.1.2.3", "fd00::1", "node.example"], Usage::Server)).unwrap();
    let identity = identity_of(&issued);
    assert_eq!(identity.names(), ["node.example", "10.1.2.3", "fd00::1"]);

    let (_, parsed) = x509_parser::parse_x509_certificate(&identity.chain()[0]).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.key_encipherment());
    let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth && !purposes.any);

    let now = SystemTime::now();
    let summary = Summary::of(&identity.chain()[0]).unwrap();
    assert!(
        summary.not_before <= now - HOUR + Duration::from_secs(60) && summary.not_before > now - 2 * HOUR
    );
    let left = summary.not_after.duration_since(now).unwrap();
    assert!(left <= DEFAULT_LIFETIME && left > DEFAULT_LIFETIME - HOUR);

    let (_, issuer) = x509_parser::parse_x509_certificate(ca.certificate()).unwrap();
    let own = issuer.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    let named = parsed.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    assert!(own.is_some() && own == named);
    assert_ne!(parsed.raw_serial(), issuer.raw_serial());
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let ca = authority();
    for lifetime in [Duration::MAX, 20 * 365 * 24 * HOUR] {
        let request = Request { lifetime, ..request(&["node.example"], Usage::Server) };
        let leaf = identity_of(&ca.issue(&request).unwrap());
        assert_eq!(leaf.not_after(), Summary::of(ca.certificate()).unwrap().not_after);
    }
}

#[test]
fn impossible_names_are_refused() {
    let ca = authority();
    let long = format!("{}.example", "a".repeat(64));
    for name in [
        "",
        "a b",
        "a:80",
        "https://a",
        "a/b",
        "..",
        "-a",
        "a.",
        "*",
        "*.",
        "a.*.b",
        "1.2.3",
        "[::1]",
        "é",
        &long,
    ] {
        let result = ca.issue(&request(&["good.example", name], Usage::Server));
        assert!(
            matches!(&result, Err(GenerateError::Name { name: named }) if named == name),
            "{name}: {result:?}"
        );
    }
    for usage in [Usage::Server, Usage::Both] {
        assert!(matches!(ca.issue(&request(&[], usage)), Err(GenerateError::NoNames)));
    }
    ca.issue(&request(&[], Usage::Client)).unwrap();
    for name in ["", &"x".repeat(65)] {
        assert!(matches!(Authority::generate(name), Err(GenerateError::CommonName { .. })));
    }
}

#[test]
fn an_authority_survives_its_files() {
    let dir = tempdir().unwrap();
    let (cert, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    let made = authority();
    made.pem().write(&cert, &key).unwrap();
    let loaded = Authority::load(&cert, &key).unwrap();
    assert_eq!(loaded.certificate(), made.certificate());
    assert_eq!(loaded.pem().key_pem, made.pem().key_pem);
    let leaf = issue(&loaded, &["node.example"]);
    let client = client_config(&Trust::Roots(roots(&made)), None, &[]).unwrap();
    assert!(client.alpn_protocols.is_empty() && leaf.covers("node.example"));

    let (leaf_cert, leaf_key) = (dir.path().join("leaf.pem"), dir.path().join("leaf.key"));
    loaded.issue(&request(&["node.example"], Usage::Both)).unwrap().write(&leaf_cert, &leaf_key).unwrap();
    assert!(matches!(Authority::load(&leaf_cert, &leaf_key), Err(GenerateError::NotAuthority { .. })));
    assert!(matches!(
        Authority::load(&cert, &leaf_key),
        Err(GenerateError::Load(LoadError::Mismatch { .. }))
    ));
}

#[test]
fn an_identity_knows_its_leaf_and_hides_its_key() {
    let ca = authority();
    let issued = ca.issue(&request(&["node.example", "*.wild.example", "::1"], Usage::Both)).unwrap();
    let identity = identity_of(&issued);
    for name in ["node.example", "NODE.EXAMPLE", "a.wild.example", "*.wild.example", "::1", "0:0:0:0:0:0:0:1"]
    {
        assert!(identity.covers(name), "{name}");
    }
    for name in ["example", "a.b.wild.example", "127.0.0.1", "", "*.example", "a b"] {
        assert!(!identity.covers(name), "{name}");
    }
    assert_eq!(identity.derive_key(b"reset"), identity.clone().derive_key(b"reset"));
    assert_eq!(identity.derive_key(b"reset"), identity_of(&issued).derive_key(b"reset"));
    assert_ne!(identity.derive_key(b"reset"), identity.derive_key(b"token"));
    assert_ne!(identity.derive_key(b"reset"), issue(&ca, &["node.example"]).derive_key(b"reset"));

    let printed = format!("{identity:?} {issued:?} {ca:?} {:#?}", ca.pem());
    assert!(
        printed.contains(&identity.fingerprint().to_string()) && !printed.contains("PRIVATE"),
        "{printed}"
    );
    let key_text: Vec<_> = issued.key_pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(key_text.iter().all(|line| !printed.contains(line)));
}

/// A folder with an authority and a node's files.
fn folder() -> (TempDir, Authority) {
    let dir = tempdir().unwrap();
    let ca = authority();
    ca.pem().write(&dir.path().join("ca.pem"), &dir.path().join("ca.key")).unwrap();
    let issued = ca.issue(&request(&["node.example"], Usage::Both)).unwrap();
    issued.write(&dir.path().join("node.pem"), &dir.path().join("node.key")).unwrap();
    (dir, ca)
}

#[test]
fn loading_says_which_file_is_wrong_and_why() {
    let (dir, ca) = folder();
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let node = fs::read_to_string(dir.path().join("node.pem")).unwrap();
    put("empty", "");
    put("cut.pem", &node[..node.len() / 2]);
    put("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    put("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    put("late.pem", &expired(&ca, &["node.example"]).cert_pem);
    let load = |cert: &str, key: &str| Identity::load(&dir.path().join(cert), &dir.path().join(key));

    assert_eq!(load("node.pem", "node.key").unwrap().names(), ["node.example"]);
    let both = node.clone() + &fs::read_to_string(dir.path().join("node.key")).unwrap();
    put("both.pem", &both);
    load("both.pem", "both.pem").unwrap();

    let late = expired(&ca, &["node.example"]);
    put("late.pem", &late.cert_pem);
    put("late.key", &late.key_pem);
    let table = [
        ("none.pem", "node.key", "none.pem cannot be read"),
        ("node.pem", "none.key", "none.key cannot be read"),
        ("empty", "node.key", "empty holds no certificate"),
        ("node.key", "node.key", "node.key holds no certificate"),
        ("node.pem", "empty", "empty holds no private key"),
        ("node.pem", "node.pem", "node.pem holds no private key"),
        ("cut.pem", "node.key", "cut.pem is not well-formed PEM"),
        ("node.pem", "cut.pem", "cut.pem is not well-formed PEM"),
        ("junk.pem", "node.key", "junk.pem holds a certificate that cannot be used"),
        ("node.pem", "junk.key", "junk.key holds a private key that cannot be used"),
        ("node.pem", "ca.key", "ca.key does not match the certificate in"),
        ("late.pem", "late.key", &format!("late.pem ended on {}", day(SystemTime::now() - HOUR))),
    ];
    for (cert, key, expected) in table {
        let error = load(cert, key).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(expected), "{cert} {key}: {told}");
        if let Some(source) = error.source() {
            assert!(!told.contains(&source.to_string()), "repeats its source: {told}");
        }
    }

    assert_eq!(Trust::roots_from_file(&dir.path().join("ca.pem")).unwrap(), roots(&ca));
    let error = Trust::roots_from_file(&dir.path().join("junk.pem")).unwrap_err();
    assert!(matches!(error, LoadError::BadCertificate { .. }), "{error:?}");
    assert!(matches!(
        Identity::new(Vec::new(), PrivateKeyDer::from_pem_slice(both.as_bytes()).unwrap()),
        Err(IdentityError::Empty)
    ));
}

#[test]
fn new_files_are_private_whole_and_never_overwritten() {
    let dir = tempdir().unwrap();
    let (open, secret) = (dir.path().join("open"), dir.path().join("secret"));
    write_new(&open, b"one", false).unwrap();
    write_new(&secret, b"two", true).unwrap();
    #[cfg(unix)]
    {
        assert_eq!(mode(&secret), 0o600);
        assert_eq!(mode(&open) & 0o600, 0o600);
    }
    for path in [&open, &secret] {
        let result = write_new(path, b"three", true);
        assert!(matches!(result, Err(WriteError::Exists { path: named }) if named == *path));
    }
    assert_eq!((fs::read(&open).unwrap(), fs::read(&secret).unwrap()), (b"one".to_vec(), b"two".to_vec()));
    let missing = write_new(&dir.path().join("no/such"), b"", false).unwrap_err();
    assert!(missing.to_string().contains("no/such cannot be written"), "{missing}");
    assert_eq!(listing(dir.path()), ["open", "secret"]);
}

#[test]
fn of_many_writers_of_one_file_exactly_one_succeeds() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    let barrier = Barrier::new(8);
    let won: Vec<u8> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8u8)
            .map(|n| {
                let (barrier, path) = (&barrier, &path);
                scope.spawn(move || {
                    barrier.wait();
                    write_new(path, &[n; 4096], true).is_ok().then_some(n)
                })
            })
            .collect();
        writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(fs::read(&path).unwrap(), [won[0]; 4096]);
    assert_eq!(listing(dir.path()), ["file"]);
}

#[test]
fn a_pair_in_the_way_leaves_no_half_behind() {
    let dir = tempdir().unwrap();
    let (cert, key) = (dir.path().join("a.pem"), dir.path().join("a.key"));
    fs::write(&cert, "mine").unwrap();
    let issued = authority().issue(&request(&["node.example"], Usage::Both)).unwrap();
    assert!(matches!(issued.write(&cert, &key), Err(WriteError::Exists { .. })));
    assert_eq!(listing(dir.path()), ["a.pem"]);
}

#[test]
fn development_makes_what_a_node_needs_once() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("certs");
    let made = development(&dir, &strings(&["node.example", "192.0.2.7"])).unwrap();
    assert_eq!(listing(&dir), ["ca.key", "ca.pem", "node.key", "node.pem"]);
    assert_eq!(made.created.len(), 4);
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    #[cfg(unix)]
    for key in ["ca.key", "node.key"] {
        assert_eq!(mode(&dir.join(key)), 0o600, "{key}");
    }
    let node = Identity::load(&made.cert, &made.key).unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "node.example", "192.0.2.7"] {
        assert!(node.covers(name), "{name}");
    }

    let again = development(&dir, &strings(&["node.example"])).unwrap();
    assert!(again.created.is_empty() && again.warnings.is_empty(), "{again:?}");
    assert_eq!(Identity::load(&again.cert, &again.key).unwrap().fingerprint(), node.fingerprint());

    let wider = development(&dir, &strings(&["node.example", "new.example", "198.51.100.1"])).unwrap();
    let [warning] = &wider.warnings[..] else { panic!("{:?}", wider.warnings) };
    assert!(warning.contains("not good for new.example, 198.51.100.1,"), "{warning}");
    assert!(warning.contains("remove ") && warning.contains("node.key"), "{warning}");
}

#[test]
fn a_rehearsal_says_what_would_be_made_and_makes_nothing() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("certs");
    let told = rehearse(&dir, &strings(&["node.example"])).unwrap();
    assert!(told.created.len() == 4 && told.identity.covers("node.example"), "{told:?}");
    assert!(!dir.exists());
    let impossible = strings(&["no name"]);
    rehearse(&dir, &impossible).unwrap_err();

    let made = development(&dir, &[]).unwrap();
    let told = rehearse(&dir, &[]).unwrap();
    assert!(told.created.is_empty(), "{told:?}");
    assert_eq!(told.identity.fingerprint(), made.identity.fingerprint());

    fs::remove_file(&made.cert).unwrap();
    let told = rehearse(&dir, &[]).unwrap();
    assert_eq!(told.created, std::slice::from_ref(&made.cert));
    assert!(!made.cert.exists() && told.identity.key() == made.identity.key());
    fs::remove_file(&made.ca).unwrap();
    fs::remove_file(dir.join("node.key")).unwrap();
    assert_eq!(rehearse(&dir, &[]).unwrap().created.len(), 3);
    fs::write(&made.ca, "no authority").unwrap();
    rehearse(&dir, &[]).unwrap_err();
}

#[test]
fn development_in_many_threads_ends_with_one_matching_set() {
    for _ in 0..5 {
        let parent = tempdir().unwrap();
        let dir = parent.path().join("certs");
        let barrier = Barrier::new(8);
        let seen: Vec<_> = thread::scope(|scope| {
            let nodes: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let made = development(&dir, &[]).unwrap();
                        let node = Identity::load(&made.cert, &made.key).unwrap();
                        assert!(made.warnings.is_empty(), "{:?}", made.warnings);
                        (node.fingerprint(), made.created.len())
                    })
                })
                .collect();
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|(fingerprint, _)| *fingerprint == seen[0].0));
        assert_eq!(seen.iter().map(|(_, created)| created).sum::<usize>(), 4);
    }
}

#[test]
fn development_completes_or_refuses_a_folder_with_some_of_the_files() {
    let without = |missing: &[&str]| {
        let (dir, _) = folder();
        for name in missing {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let result = development(dir.path(), &[]);
        (dir, result)
    };
    let made = |missing: &[&str]| {
        let (dir, result) = without(missing);
        let result = result.unwrap();
        assert!(result.warnings.is_empty(), "{missing:?}: {:?}", result.warnings);
        let mut created: Vec<_> = result
            .created
            .iter()
            .map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
            .collect();
        created.sort();
        created
    };
    assert_eq!(made(&["node.pem", "node.key"]), ["node.key", "node.pem"]);
    assert!(made(&["ca.key"]).is_empty());
    // What is left of a process that died between a key and its certificate.
    assert_eq!(made(&["node.pem"]), ["node.pem"]);
    assert_eq!(made(&["ca.pem", "node.pem", "node.key"]), ["ca.pem", "node.key", "node.pem"]);

    let refused = |missing: &[&str]| without(missing).1.unwrap_err();
    assert!(matches!(refused(&["node.key"]), GenerateError::Halved { .. }));
    assert!(matches!(refused(&["ca.pem"]), GenerateError::NoAuthority { .. }));
    let error = refused(&["ca.key", "node.pem"]);
    assert!(
        matches!(error, GenerateError::NoAuthorityKey { .. }) && error.to_string().contains("ca.key"),
        "{error}"
    );
}

#[test]
fn development_warns_of_a_node_that_ends_soon_or_has_another_authority() {
    let (dir, ca) = folder();
    let (cert, key) = (dir.path().join("node.pem"), dir.path().join("node.key"));
    let replace = |issued: &Issued| {
        fs::write(&cert, &issued.cert_pem).unwrap();
        fs::write(&key, &issued.key_pem).unwrap();
    };
    let mut soon = request(&["node.example"], Usage::Both);
    soon.lifetime = 13 * 24 * HOUR;
    replace(&ca.issue(&soon).unwrap());
    let warnings = development(dir.path(), &[]).unwrap().warnings;
    assert!(matches!(&warnings[..], [one] if one.contains("node.pem ends on ")), "{warnings:?}");

    replace(&authority().issue(&request(&["node.example"], Usage::Both)).unwrap());
    let warnings = development(dir.path(), &[]).unwrap().warnings;
    assert!(matches!(&warnings[..], [one] if one.contains("is not signed by")), "{warnings:?}");

    replace(&expired(&ca, &["node.example"]));
    let error = development(dir.path(), &[]).unwrap_err();
    assert!(matches!(error, GenerateError::NodeExpired { .. }), "{error:?}");
    assert!(error.to_string().contains("remove it and"), "{error}");
}
