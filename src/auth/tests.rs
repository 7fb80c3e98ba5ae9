//! Every way in which a token can be wrong, for every kind of key; and tokens of another implementation.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::protocol::{EndpointId, TenantId};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn keys(signer: &SigningKey) -> KeySet {
    read_keys(signer.jwks().unwrap().as_bytes()).unwrap()
}

fn verifier(keys: KeySet) -> Verifier {
    let rules = Rules { issuers: vec!["us".into()], audiences: vec!["edge".into()], ..Rules::default() };
    Verifier::new(Keys::Fixed(Arc::new(keys)), rules)
}

fn good() -> Value {
    json!({ "iss": "us", "aud": "edge", "exp": NOW + 60, "nbf": NOW - 60, "adit": { "endpoints": ["web"] } })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

/// A token with this header, whose signature may be anything.
fn forged(header: &Value, claims: &Value, signature: &[u8]) -> String {
    jws::sign(jws::join(header, claims), signature)
}

#[test]
fn every_algorithm_signs_and_verifies_and_no_other_does() {
    for algorithm in Algorithm::ALL {
        let signer = SigningKey::generate(algorithm).unwrap();
        let token = signer.sign(&good()).unwrap();
        let key = || keys(&signer);
        let grant = verifier(key()).verify(&token, at(NOW)).unwrap();
        assert!(grant.permits(Action::Connect, &EndpointId::new("web").unwrap()).is_ok());
        assert_eq!(grant.expires, Some(at(NOW + 60) + Rules::SKEW));

        // The key's own file, and its public PEM, say the same.
        let again = SigningKey::read(signer.private_text().unwrap().as_bytes()).unwrap();
        assert_eq!((again.id(), again.kind()), (signer.id(), algorithm.kind()));
        if let Some(pem) = signer.public_pem().unwrap() {
            let key = read_keys(pem.as_bytes()).unwrap();
            assert!(verifier(key).verify(&token, at(NOW)).is_ok(), "{algorithm}");
        }

        // A JWK names its algorithm: no other verifies, not even of the same kind.
        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            let header = json!({ "alg": other.name(), "kid": signer.id() });
            let signature = token.rsplit('.').next().unwrap();
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
            let refused = verifier(key()).verify(&forged(&header, &good(), &signature), at(NOW));
            assert_eq!(refused, Err(Refused::Algorithm), "{algorithm} as {other}");
        }

        // One bit, anywhere in the signature or in what it is of.
        let (text, signature) = token.rsplit_once('.').unwrap();
        let mut wrong = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        let refused = verifier(key()).verify(&jws::sign(text.to_owned(), &wrong), at(NOW));
        assert_eq!(refused, Err(Refused::Signature), "{algorithm}");
        let header = json!({ "alg": algorithm.name(), "kid": signer.id(), "typ": "JWT" });
        let text = jws::join(&header, &with("exp", json!(NOW + 3600)));
        let refused = verifier(key()).verify(&format!("{text}.{signature}"), at(NOW));
        assert_eq!(refused, Err(Refused::Signature), "{algorithm}");
        // No signature at all, and half of one.
        for cut in [0, middle] {
            let refused = verifier(key()).verify(&jws::sign(text.clone(), &wrong[..cut]), at(NOW));
            assert_eq!(refused, Err(Refused::Signature), "{algorithm} {cut}");
        }
    }
}

#[test]
fn each_wrong_token_is_refused_for_what_is_wrong() {
    let signer = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let stranger = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let verifier = verifier(keys(&signer));
    let sign = |claims: &Value| signer.sign(claims).unwrap();
    let named = stranger.sign(&good()).unwrap();
    let posing = stranger.named(signer.id()).sign(&good()).unwrap();
    let none = |alg: &str| forged(&json!({ "alg": alg, "kid": signer.id() }), &good(), &[]);
    let header = |header: Value| forged(&header, &good(), &[0; 64]);
    let huge = sign(&with("more", json!("x".repeat(MAX_TOKEN))));
    let of_header = |text: &str| format!("{}.e30.AAAA", BASE64_URL_SAFE_NO_PAD.encode(text));

    for (what, token, expected) in [
        ("none", String::new(), Refused::Missing),
        ("expired", sign(&with("exp", json!(NOW - 10))), Refused::Expired),
        ("not yet", sign(&with("nbf", json!(NOW + 11))), Refused::NotYetValid),
        ("wrong key, unknown by name", named, Refused::UnknownKey),
        ("wrong key, by the name of a good one", posing, Refused::Signature),
        ("wrong audience", sign(&with("aud", json!("admin"))), Refused::Audience { given: true }),
        ("no audience", sign(&with("aud", Value::Null)), Refused::Audience { given: false }),
        ("wrong issuer", sign(&with("iss", json!("them"))), Refused::Issuer { given: true }),
        ("no issuer", sign(&with("iss", Value::Null)), Refused::Issuer { given: false }),
        ("alg none", none("none"), Refused::Algorithm),
        ("alg None", none("None"), Refused::Algorithm),
        (
            "no alg",
            header(json!({ "typ": "JWT" })),
            Refused::Malformed("its header is not the JSON of a token"),
        ),
        ("huge", huge.clone(), Refused::TooLong { len: huge.len() }),
        ("an odd claim", sign(&with("exp", json!("soon"))), Refused::Claim("exp")),
        ("claims that are none", sign(&json!(7)), Refused::Malformed("its claims are not a JSON object")),
        (
            "an extension",
            header(json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false })),
            Refused::Malformed("it demands an extension that is not understood (crit)"),
        ),
        ("two parts", "e30.e30".into(), Refused::Malformed("it does not have three parts")),
        ("five parts", "a.b.c.d.e".into(), Refused::Malformed("it does not have three parts")),
        ("garbage", "?.!.#".into(), Refused::Malformed("a part of it is not base64url")),
        ("padding", format!("{}=", sign(&good())), Refused::Malformed("a part of it is not base64url")),
        (
            "a header twice",
            of_header(r#"{"alg":"none","alg":"EdDSA"}"#),
            Refused::Malformed("its header is not the JSON of a token"),
        ),
        (
            "another alg",
            header(json!({ "alg": 7 })),
            Refused::Malformed("its header is not the JSON of a token"),
        ),
    ] {
        assert_eq!(verifier.verify(&token, at(NOW)), Err(expected), "{what}");
    }
    assert!(verifier.verify(&sign(&good()), at(NOW)).is_ok());
    // A token that names no key is tried with those that there are.
    let anonymous = jws::join(&json!({ "alg": "EdDSA" }), &good());
    assert_eq!(verifier.verify(&jws::sign(anonymous, &[0; 64]), at(NOW)), Err(Refused::Signature));
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let signer = SigningKey::generate(algorithm).unwrap();
        let pem = signer.public_pem().unwrap().unwrap();
        let by_pem = verifier(read_keys(pem.as_bytes()).unwrap());
        // Whoever knows the public key makes a secret of it, in each of the forms that it has.
        let der = pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        let der = base64::prelude::BASE64_STANDARD.decode(der).unwrap();
        let forms = [pem.as_bytes(), pem.trim().as_bytes(), &der, signer.jwks().unwrap().as_bytes()]
            .map(<[u8]>::to_vec);
        for secret in forms {
            let secret = read::write_secret(&secret);
            let forger = SigningKey::read(secret.as_bytes()).unwrap();
            for id in [signer.id(), forger.id()] {
                let token = SigningKey::read(secret.as_bytes()).unwrap().named(id).sign(&good()).unwrap();
                assert_eq!(by_pem.verify(&token, at(NOW)), Err(Refused::Algorithm), "{algorithm}");
                let refused = verifier(keys(&signer)).verify(&token, at(NOW)).unwrap_err();
                assert!(
                    matches!(refused, Refused::Algorithm | Refused::UnknownKey),
                    "{algorithm}: {refused}"
                );
            }
        }
    }
}

#[test]
fn a_refusal_never_shows_what_was_refused() {
    let secret = "hunter2hunter2";
    for refused in refused::tests::all() {
        assert!(refused.challenge().is_none_or(|value| value.to_str().is_ok()), "{refused}");
    }
    let signer = SigningKey::generate(Algorithm::Es256).unwrap();
    let verifier = verifier(keys(&signer));
    for token in [
        secret.to_owned(),
        format!("{secret}.{secret}.{secret}"),
        signer.sign(&json!({ "iss": secret })).unwrap(),
        signer.sign(&with("aud", json!(secret))).unwrap(),
        signer.sign(&with("exp", json!(secret))).unwrap(),
        signer.sign(&with("adit", json!({ "endpoints": [format!("{secret}/")] }))).unwrap(),
        forged(&json!({ "alg": secret, "kid": secret }), &good(), &[]),
    ] {
        let refused = verifier.verify(&token, at(NOW)).unwrap_err();
        let told = format!("{refused} {refused:?} {:?}", refused.challenge());
        assert!(!told.contains(secret), "{told}");
    }
    // Whatever is made of a token on the way shows none of its parts.
    let token =
        forged(&json!({ "alg": "EdDSA", "kid": secret }), &json!({ "sub": secret }), secret.as_bytes());
    let taken_apart = jws::split(&token).unwrap();
    let shown = format!("{taken_apart:?} {:?}", Shown { token: Some(&token), certificate: None });
    let bytes = format!("{:?}", secret.as_bytes());
    let parts = token.split('.').chain([secret, bytes.trim_matches(['[', ']'])]);
    for part in parts {
        assert!(!shown.contains(part), "{shown}");
    }
    let shown = format!("{:?}", read_keys(secret.repeat(3).as_bytes()).unwrap());
    assert!(!shown.contains(secret), "{shown}");
}

/// A token that PyJWT made, the key that it made it with, and that as a JWK where it writes one.
#[derive(Deserialize)]
struct Vector {
    alg: String,
    key: String,
    token: String,
    jwk: Option<Value>,
}

#[test]
fn tokens_and_keys_of_another_implementation_are_understood() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert_eq!(vectors.len(), Algorithm::ALL.len());
    for Vector { alg, key, token, jwk } in vectors {
        let rules =
            || Rules { issuers: vec!["pyjwt".into()], audiences: vec!["admin".into()], ..Rules::default() };
        let verify =
            |keys: KeySet| Verifier::new(Keys::Fixed(Arc::new(keys)), rules()).verify(&token, at(NOW));
        let grant = verify(read_keys(key.as_bytes()).unwrap()).unwrap();
        assert_eq!(grant.subject.as_deref(), Some("someone"), "{alg}");
        assert_eq!(grant.tenants, Tenants::one(TenantId::new("acme").unwrap()));
        assert_eq!(grant.actions, [Action::Connect].into());
        assert_eq!(grant.expires, Some(at(4_102_444_800) + Rules::SKEW));
        assert!(grant.permits(Action::Connect, &EndpointId::new("api-7").unwrap()).is_ok());
        if let Some(jwk) = jwk {
            let set = json!({ "keys": [jwk] }).to_string();
            assert_eq!(verify(read_keys(set.as_bytes()).unwrap()), Ok(grant), "{alg}");
        }
    }
}

#[test]
fn keys_are_refused_for_what_is_wrong_with_them() {
    let signer = SigningKey::generate(Algorithm::Es256).unwrap();
    let private = signer.private_text().unwrap();
    assert!(matches!(read_keys(private.as_bytes()), Err(ReadKeysError::Private)));
    let short = read_keys(b"hunter2\n");
    assert!(matches!(short, Err(ReadKeysError::Key(InvalidKey::ShortSecret { len: 7 }))));
    assert!(matches!(read_keys(b"base64:???"), Err(ReadKeysError::Base64)));
    let empty = read_keys(b"-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n");
    assert!(matches!(empty, Err(ReadKeysError::Keys(InvalidKeySet::Empty))));
    let damaged = read_keys(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    assert!(matches!(damaged, Err(ReadKeysError::Key(InvalidKey::Malformed))));
    assert!(matches!(read_keys(b"{\"keys\": []}"), Err(ReadKeysError::Jwks(_))));
    assert!(matches!(SigningKey::read(b"-----BEGIN PUBLIC KEY-----"), Err(ReadKeysError::Pem(_))));
    let public = signer.public_pem().unwrap().unwrap();
    assert!(matches!(SigningKey::read(public.as_bytes()), Err(ReadKeysError::NoPrivate)));
}

#[test]
fn a_certificate_and_several_keys_in_one_file_are_keys() {
    let authority = crate::tls::Authority::generate("test").unwrap();
    let signer = SigningKey::read(authority.pem().key_pem.as_bytes()).unwrap();
    let other = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let both = authority.pem().cert_pem.clone() + &other.public_pem().unwrap().unwrap();
    let both = read_keys(both.as_bytes()).unwrap();
    assert_eq!(both.iter().map(Key::kind).collect::<Vec<_>>(), [Kind::P256, Kind::Ed25519]);
    let verifier = verifier(both);
    for signer in [signer, other] {
        assert!(verifier.verify(&signer.sign(&good()).unwrap(), at(NOW)).is_ok());
    }
}

#[test]
fn ed25519_keys_of_either_version_of_pkcs8_are_read_and_published() {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let pem = |der: &[u8]| {
        let der = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")
    };
    let (one, two) = (pair.to_pkcs8v1().unwrap(), pair.to_pkcs8().unwrap());
    assert_ne!(one.as_ref().len(), two.as_ref().len());
    let [one, two] = [one, two].map(|der| SigningKey::read(pem(der.as_ref()).as_bytes()).unwrap());
    assert_eq!(one.jwks().unwrap(), two.jwks().unwrap());
    let token = two.sign(&good()).unwrap();
    assert!(verifier(keys(&one)).verify(&token, at(NOW)).is_ok());
}
