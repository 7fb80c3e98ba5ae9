//! Keys that are fetched: from a real server that rotates them, goes down, answers garbage, hangs and redirects.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use adit::{
    auth::{
        Algorithm, Jwks, JwksCounters, JwksSettings, JwksSource, Keys, Refused, Rules, SigningKey, Verifier,
    },
    drain::Tasks,
    telemetry::Metrics,
    tls::{self, Authority, Identity, Request, Trust, Usage},
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, StatusCode, header};
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::support::{
    body::{Body, full},
    eventually, ok, random,
    service::{self, Running},
    soon,
};

/// What the server does when it is asked.
#[derive(Debug, Clone)]
enum Answer {
    Text(Bytes, &'static str),
    /// With a field `Location`, and a body that would do.
    Status(StatusCode, String, Bytes),
    Never,
    After(Duration, Bytes),
}

/// A server whose answer can be changed.
struct Server {
    running: Running,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let (answer, requests) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(0)));
        let (shown, counted) = (Arc::clone(&answer), Arc::clone(&requests));
        let running = service::http(move |_| {
            *counted.lock().unwrap() += 1;
            reply(shown.lock().unwrap().clone())
        });
        Self { running: running.await, answer, requests }
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        *self.requests.lock().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.running.address)
    }
}

async fn reply(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Text(text, cache) => {
            let mut response = Response::new(full(text));
            response.headers_mut().insert(header::CACHE_CONTROL, cache.parse().unwrap());
            response
        }
        Answer::Status(status, location, text) => {
            let response = Response::builder().status(status).header(header::LOCATION, location);
            ok(response.body(full(text)))
        }
        Answer::Never => std::future::pending().await,
        Answer::After(time, text) => {
            tokio::time::sleep(time).await;
            Response::new(full(text))
        }
    }
}

fn signer() -> SigningKey {
    SigningKey::generate(Algorithm::EdDsa).unwrap()
}

/// A set with the keys of these.
fn set(signers: &[&SigningKey]) -> Answer {
    Answer::Text(set_text(signers), "public")
}

fn set_text(signers: &[&SigningKey]) -> Bytes {
    json!({ "keys": signers.iter().copied().map(jwk).collect::<Vec<_>>() }).to_string().into()
}

fn jwk(signer: &SigningKey) -> serde_json::Value {
    let set: serde_json::Value = ok(serde_json::from_str(&signer.jwks().unwrap()));
    set["keys"][0].clone()
}

/// Whoever is asked, is asked at once; failures are followed soon.
fn eager() -> JwksSettings {
    JwksSettings {
        between: Duration::ZERO,
        timeout: Duration::from_millis(500),
        retry: Duration::from_millis(20),
        ..JwksSettings::default()
    }
}

/// The same for where no fetch may fail, however busy the machine is.
fn patient() -> JwksSettings {
    JwksSettings { timeout: Duration::from_secs(5), ..eager() }
}

struct Port {
    verifier: Verifier,
    metrics: Metrics,
    tasks: Tasks,
}

impl Port {
    fn new(url: &str, settings: JwksSettings, trust: &Trust) -> Self {
        let (metrics, tasks) = (Metrics::default(), Tasks::new());
        let source = JwksSource::new(url, trust).unwrap();
        let jwks = Jwks::start(source, settings, JwksCounters::new(&metrics), &tasks);
        Self { verifier: Verifier::new(Keys::Jwks(jwks), Rules::default()), metrics, tasks }
    }

    fn http(server: &Server, settings: JwksSettings) -> Self {
        Self::new(&server.url(), settings, &Trust::Insecure)
    }

    async fn verify(&self, signer: &SigningKey) -> Result<(), Refused> {
        let token = signer.sign(&json!({})).unwrap();
        soon(self.verifier.verify_fresh(&token, SystemTime::now())).await.map(drop)
    }

    fn now(&self, signer: &SigningKey) -> Result<(), Refused> {
        self.verifier.verify(&signer.sign(&json!({})).unwrap(), SystemTime::now()).map(drop)
    }

    fn count(&self, outcome: &str) -> usize {
        let line = format!("adit_jwks_fetches_total{{outcome=\"{outcome}\"}} ");
        let text = self.metrics.encode();
        text.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| ok(count.parse()))
    }
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_when_a_token_names_it() {
    let (one, two) = (signer(), signer());
    let server = Server::start(set(&[&one])).await;
    let port = Port::http(&server, patient());
    assert_eq!(port.verify(&one).await, Ok(()), "the first fetch is waited for");
    assert_eq!(port.verify(&two).await, Err(Refused::UnknownKey));
    server.set(set(&[&two]));
    assert_eq!(port.verify(&two).await, Ok(()));
    assert_eq!(port.now(&one), Err(Refused::UnknownKey), "what is not in the set any more does not count");
    assert_eq!(port.count("failed"), 0);
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_also_where_others_have_no_name() {
    let (nameless, new) = (signer(), signer());
    let other_kind = SigningKey::generate(Algorithm::Es256).unwrap();
    let set = |more: &[&SigningKey]| {
        let mut key = jwk(&nameless);
        key.as_object_mut().unwrap().remove("kid");
        let keys = [vec![key], more.iter().copied().map(jwk).collect()].concat();
        Answer::Text(json!({ "keys": keys }).to_string().into(), "public")
    };
    let server = Server::start(set(&[])).await;
    let port = Port::http(&server, eager());
    assert_eq!(port.verify(&nameless).await, Ok(()), "a key without a name has any");
    let before = server.requests();
    assert_eq!(port.verify(&nameless).await, Ok(()));
    assert_eq!(server.requests(), before, "a token that is good fetches nothing");
    assert_eq!(port.verify(&new).await, Err(Refused::Signature));
    server.set(set(&[&new, &other_kind]));
    assert_eq!(port.verify(&new).await, Ok(()));
    server.set(set(&[]));
    // Asked for by a name that is not there.
    assert_eq!(port.verify(&signer()).await, Err(Refused::Signature));
    assert_eq!(port.verify(&other_kind).await, Err(Refused::Algorithm));
    server.set(set(&[&other_kind]));
    assert_eq!(port.verify(&other_kind).await, Ok(()), "none of the others is for its algorithm");
}

#[tokio::test]
async fn the_last_good_set_is_kept_whatever_the_source_does() {
    let (one, two) = (signer(), signer());
    let server = Server::start(set(&[&one])).await;
    let port = Port::http(&server, eager());
    assert_eq!(port.verify(&one).await, Ok(()));
    let elsewhere = Server::start(set(&[&two])).await;
    for answer in [
        Answer::Text("<html>sorry</html>".into(), "public"),
        Answer::Text("{\"keys\": []}".into(), "public"),
        Answer::Text(random(300 * 1024), "public"),
        Answer::Text(
            json!({ "keys": [{ "kty": "oct", "k": "A".repeat(64), "kid": two.id() }] }).to_string().into(),
            "public",
        ),
        Answer::Status(StatusCode::INTERNAL_SERVER_ERROR, String::new(), set_text(&[&two])),
        Answer::Status(StatusCode::FOUND, elsewhere.url(), set_text(&[&two])),
        Answer::Status(StatusCode::PERMANENT_REDIRECT, elsewhere.url(), set_text(&[&two])),
        Answer::Never,
    ] {
        server.set(answer.clone());
        let failed = port.count("failed");
        assert_eq!(port.verify(&two).await, Err(Refused::UnknownKey), "{answer:?}");
        eventually("the failure is counted", async || port.count("failed") > failed).await;
        assert_eq!(port.now(&one), Ok(()), "{answer:?}");
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect is not followed");
    server.set(set(&[&one, &two]));
    eventually("it is asked again by itself", async || port.now(&two).is_ok()).await;
}

#[tokio::test]
async fn a_source_that_is_down_at_first_is_asked_until_it_answers() {
    let one = signer();
    let address = service::refusing();
    let port = Port::new(&format!("http://{address}/"), eager(), &Trust::Insecure);
    assert_eq!(port.verify(&one).await, Err(Refused::NoKeys));
    let server =
        Server::start(Answer::Status(StatusCode::SERVICE_UNAVAILABLE, String::new(), Bytes::new())).await;
    let port = Port::http(&server, eager());
    assert_eq!(port.verify(&one).await, Err(Refused::NoKeys));
    server.set(set(&[&one]));
    eventually("its keys are there", async || port.now(&one).is_ok()).await;
}

#[tokio::test]
async fn a_set_is_fetched_again_before_it_ends() {
    let (one, two) = (signer(), signer());
    let server = Server::start(Answer::Text(set_text(&[&one]), "max-age=1")).await;
    let settings = JwksSettings { shortest: Duration::from_millis(100), ..JwksSettings::default() };
    let port = Port::http(&server, settings);
    assert_eq!(port.verify(&one).await, Ok(()));
    server.set(Answer::Text(set_text(&[&one, &two]), "no-cache"));
    eventually("the second set is there, though nobody asked", async || port.now(&two).is_ok()).await;
    eventually("and it goes on", async || server.requests() > 4).await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_no_flood_of_fetches() {
    let one = signer();
    let server = Server::start(set(&[&one])).await;
    let port = Port::http(&server, JwksSettings::default());
    assert_eq!(port.verify(&one).await, Ok(()));
    let flood = (0..1000).map(|n| {
        let token = signer().named(format!("key-{n}")).sign(&json!({})).unwrap();
        let verifier = &port.verifier;
        async move { verifier.verify_fresh(&token, SystemTime::now()).await }
    });
    let outcomes = soon(join_all(flood)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(Refused::UnknownKey)));
    // One was made at the start, and the next may only be made ten seconds later.
    assert!(server.requests() <= 2, "{} fetches", server.requests());
    assert_eq!(port.now(&one), Ok(()));
}

#[tokio::test]
async fn all_who_wait_for_a_key_share_one_fetch() {
    let (one, two) = (signer(), signer());
    let server = Server::start(set(&[&one])).await;
    let port = Port::http(&server, patient());
    assert_eq!(port.verify(&one).await, Ok(()));
    server.set(Answer::After(Duration::from_millis(300), set_text(&[&two])));
    let outcomes = soon(join_all((0..200).map(|_| port.verify(&two)))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    // Whoever asks while a fetch is under way may cause one more.
    assert!(server.requests() <= 3, "{} fetches", server.requests());
}

#[tokio::test]
async fn keys_come_over_tls_from_a_server_that_is_trusted() {
    let one = signer();
    let authority = Authority::generate("test").unwrap();
    let request = Request {
        common_name: "keys".into(),
        names: vec!["127.0.0.1".into()],
        usage: Usage::Server,
        lifetime: Duration::from_secs(3600),
    };
    let issued = authority.issue(&request).unwrap();
    let chain = vec![ok(PemObject::from_pem_slice(issued.cert_pem.as_bytes()))];
    let identity = Identity::new(chain, ok(PemObject::from_pem_slice(issued.key_pem.as_bytes()))).unwrap();
    let config = tls::server_config(&[identity], tls::ClientAuth::None, &[b"http/1.1"]).unwrap();
    let answer = set(&[&one]);
    let server = service::tls(Arc::new(config), move |stream| {
        let answer = answer.clone();
        async move { service::connection(stream, |_| reply(answer.clone())).await }
    })
    .await;
    let url = format!("https://{}/keys", server.address);
    let port = Port::new(&url, eager(), &Trust::Roots(vec![authority.certificate().clone()]));
    assert_eq!(port.verify(&one).await, Ok(()));
    let stranger = Authority::generate("stranger").unwrap().certificate().clone();
    let port = Port::new(&url, eager(), &Trust::Roots(vec![stranger]));
    assert_eq!(port.verify(&one).await, Err(Refused::NoKeys));
}

#[tokio::test]
async fn a_file_is_read_again_when_a_token_names_another_key() {
    let (one, two) = (signer(), SigningKey::generate(Algorithm::Hs256).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    fs::write(&path, set_text(&[&one])).unwrap();
    let port = Port::new(&format!("file:{}", path.display()), eager(), &Trust::Insecure);
    assert_eq!(port.verify(&one).await, Ok(()));
    fs::write(&path, "{").unwrap();
    assert_eq!(port.verify(&two).await, Err(Refused::UnknownKey));
    assert_eq!(port.now(&one), Ok(()));
    // A secret counts, as nobody has published it.
    fs::write(&path, set_text(&[&two])).unwrap();
    assert_eq!(port.verify(&two).await, Ok(()));
}

#[tokio::test]
async fn the_task_ends_with_whoever_uses_the_keys() {
    let server = Server::start(Answer::Never).await;
    let port = Port::http(&server, JwksSettings::default());
    let clone = port.verifier.clone();
    eventually("it is asked", async || server.requests() == 1).await;
    drop(port.verifier);
    assert_eq!(port.tasks.len(), 1);
    drop(clone);
    soon(port.tasks.wait_empty()).await;
}
