//! The task that gets a client's tokens, and the handle by which links have them.

use std::{future::pending, sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{GetTokenError, Origin, PATIENCE, Token, TokenSource, ends::ends, schedule::Schedule};
use crate::{
    protocol::{Hello, NodeId, Refusal, Secret},
    telemetry,
};

/// Links that ask at once, and refusals. More of them wait for room, for an instant.
const QUEUE: usize = 16;

/// What a link gets: its token, or none where the client has none.
type Given = Result<Option<Secret>, Arc<GetTokenError>>;

/// What links say to the [`Keeper`].
#[derive(Debug)]
enum Word {
    /// A link is to be opened.
    Ask(oneshot::Sender<Given>),
    /// A node has refused this token; it has been told to whoever reads the log, or has still to be.
    Refused(Secret, Option<(NodeId, Refusal)>),
}

/// A client's token of the moment.
#[derive(Debug)]
pub(in super::super) struct Tokens {
    current: watch::Receiver<Option<Secret>>,
    /// To the keeper; absent where the token is always the same.
    words: Option<mpsc::Sender<Word>>,
}

impl Tokens {
    /// The token for a link that is to be opened: one that a source gives just now, unless the present one is known to be good
    /// for a while. Where the source gives none, it is the present one. Cancel safe.
    pub(in super::super) async fn for_link(&self) -> Given {
        let Some(words) = &self.words else { return Ok(self.current.borrow().clone()) };
        let (reply, given) = oneshot::channel();
        if words.send(Word::Ask(reply)).await.is_err() {
            return Err(Arc::new(GetTokenError::Closed));
        }
        given.await.unwrap_or_else(|_| Err(Arc::new(GetTokenError::Closed)))
    }

    /// The token as it changes.
    pub(in super::super) fn changes(&self) -> watch::Receiver<Option<Secret>> {
        self.current.clone()
    }

    /// A node has refused a token, in answer to `Hello`.
    pub(in super::super) async fn refused(&self, token: &Secret) {
        self.say(Word::Refused(token.clone(), None)).await;
    }

    /// A node has refused a token that was to renew a link, which is not told anywhere else.
    pub(in super::super) async fn refused_by(&self, node: &NodeId, token: &Secret, refusal: Refusal) {
        self.say(Word::Refused(token.clone(), Some((node.clone(), refusal)))).await;
    }

    async fn say(&self, word: Word) {
        if let Some(words) = &self.words {
            // The keeper ends with its client, and then no token matters any more.
            drop(words.send(word).await);
        }
    }
}

/// Gets tokens. It asks for nothing before a link does.
pub(in super::super) struct Keeper {
    source: Arc<dyn TokenSource>,
    state: State,
    words: mpsc::Receiver<Word>,
}

/// What a keeper knows.
struct State {
    current: watch::Sender<Option<Secret>>,
    ends: Option<SystemTime>,
    schedule: Schedule,
    /// Why there is no new token, as it was logged last.
    told: Option<String>,
    /// Why a node has refused a token, as it was logged last.
    told_refusal: Option<Refusal>,
}

impl Keeper {
    /// The tokens of a client, and the keeper that they need, if they need one.
    pub(in super::super) fn new(token: Option<&Token>) -> (Tokens, Option<Self>) {
        let fixed = |token| (Tokens { current: watch::Sender::new(token).subscribe(), words: None }, None);
        let source = match token.map(|token| &token.0) {
            None => return fixed(None),
            Some(Origin::Fixed(token)) => return fixed(Some(token.clone())),
            Some(Origin::Source(source)) => Arc::clone(source),
        };
        let (sender, words) = mpsc::channel(QUEUE);
        let state = State {
            current: watch::Sender::new(None),
            ends: None,
            schedule: Schedule::new(source.look()),
            told: None,
            told_refusal: None,
        };
        let tokens = Tokens { current: state.current.subscribe(), words: Some(sender) };
        (tokens, Some(Self { source, state, words }))
    }

    /// Runs until the client is dropped.
    pub(in super::super) async fn run(self) {
        let Self { source, mut state, mut words } = self;
        let get = || -> BoxFuture<'_, Result<Secret, GetTokenError>> {
            Box::pin(async {
                timeout(PATIENCE, source.token()).await.unwrap_or(Err(GetTokenError::Late(PATIENCE)))
            })
        };
        // The one try that is under way, and who waits for it: the client's links, each at most once.
        let mut trying = None;
        let mut waiting: Vec<oneshot::Sender<Given>> = Vec::new();
        loop {
            let next = state.schedule.next();
            let got = tokio::select! {
                word = words.recv() => match word {
                    None => return,
                    Some(Word::Ask(reply)) if trying.is_none() && state.is_fresh() => {
                        // Who has asked may have gone.
                        drop(reply.send(Ok(state.current.borrow().clone())));
                        continue;
                    }
                    Some(Word::Ask(reply)) => {
                        waiting.retain(|waiting| !waiting.is_closed());
                        waiting.push(reply);
                        trying.get_or_insert_with(get);
                        continue;
                    }
                    Some(Word::Refused(token, by)) => {
                        state.refused(&token, by);
                        continue;
                    }
                },
                got = ended(&mut trying) => got,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && trying.is_none() => {
                    trying = Some(get());
                    continue;
                }
            };
            trying = None;
            let given = state.got(got);
            for waiting in waiting.drain(..) {
                drop(waiting.send(given.clone()));
            }
        }
    }
}

/// The outcome of the try that is under way. Cancel safe.
async fn ended(
    trying: &mut Option<BoxFuture<'_, Result<Secret, GetTokenError>>>,
) -> Result<Secret, GetTokenError> {
    match trying {
        Some(trying) => trying.await,
        None => pending().await,
    }
}

impl State {
    /// The clock of the wall counts too: that of the schedule may stand still while the machine sleeps.
    fn is_fresh(&self) -> bool {
        self.schedule.is_fresh(Instant::now()) && self.ends.is_none_or(|ends| SystemTime::now() < ends)
    }

    fn refused(&mut self, token: &Secret, by: Option<(NodeId, Refusal)>) {
        if self.current.borrow().as_ref() != Some(token) {
            // Another one is on its way to the node.
            return;
        }
        self.schedule.refused(Instant::now(), rand::random());
        if let Some((node, refusal)) = by
            && self.told_refusal.as_ref() != Some(&refusal)
        {
            tracing::warn!(%node, %refusal, "the node refuses the new token, and keeps the link until the old one ends");
            self.told_refusal = Some(refusal);
        }
    }

    fn got(&mut self, got: Result<Secret, GetTokenError>) -> Given {
        let (now, dice) = (Instant::now(), rand::random());
        match got.and_then(checked) {
            Ok(token) if self.current.borrow().as_ref() != Some(&token) => {
                if !self.schedule.is_refused() {
                    self.told_refusal = None;
                }
                self.told = None;
                self.ends = ends(&token);
                let life = self.life();
                tracing::info!(ends_in = life.map(tracing::field::debug), "there is a new token");
                self.schedule.renewed(now, life, dice);
                self.current.send_replace(Some(token));
            }
            Ok(_) if !self.schedule.is_due(now) => {
                self.told = None;
                self.schedule.looked(now);
            }
            Ok(_) => self.failed(now, dice, "the source still gives the same"),
            // Who has asked tells it.
            Err(error) if self.current.borrow().is_none() => {
                self.schedule.failed(now, dice);
                return Err(Arc::new(error));
            }
            Err(error) => self.failed(now, dice, &telemetry::report(&error)),
        }
        Ok(self.current.borrow().clone())
    }

    fn failed(&mut self, now: Instant, dice: f64, why: &str) {
        self.schedule.failed(now, dice);
        if self.told.as_deref() != Some(why) {
            let ends_in = self.life().map(tracing::field::debug);
            tracing::warn!(
                why,
                ends_in,
                "there is no new token: going on with the old one, and trying again"
            );
            self.told = Some(why.to_owned());
        }
    }

    /// How long the present token lives on, by the clock of this machine.
    fn life(&self) -> Option<std::time::Duration> {
        self.ends.map(|ends| ends.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// An embedder's source is believed no more than a file.
fn checked(token: Secret) -> Result<Secret, GetTokenError> {
    match token.expose().len() {
        0 => Err(GetTokenError::Empty),
        1..=Hello::MAX_TOKEN => Ok(token),
        _ => Err(GetTokenError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::{drain::Tasks, protocol::Code};

    /// A source that gives what it is told to, and counts how often it is asked.
    #[derive(Clone, Default)]
    struct Source(Arc<Mutex<(Option<Secret>, usize)>>);

    impl Source {
        fn give(&self, token: Option<&Secret>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = token.cloned();
        }

        fn asked(&self) -> usize {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1
        }
    }

    impl TokenSource for Source {
        fn token(&self) -> BoxFuture<'_, Result<Secret, GetTokenError>> {
            let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            given.1 += 1;
            let token = given.0.clone().ok_or(GetTokenError::Empty);
            Box::pin(async move {
                // As a command would take.
                tokio::time::sleep(Duration::from_millis(100)).await;
                token
            })
        }
    }

    /// A token that ends in so long.
    fn token(life: Duration) -> Secret {
        let exp = (SystemTime::now() + life).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        Secret::new(format!("x.{}.x", BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}"))))
    }

    fn start(source: &Source) -> (Tokens, Tasks) {
        let (tokens, keeper) = Keeper::new(Some(&Token::from_source(source.clone())));
        let tasks = Tasks::new();
        tasks.spawn(keeper.unwrap().run());
        (tokens, tasks)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn links_share_one_try_and_a_token_that_is_good_for_a_while() {
        let source = Source::default();
        let (tokens, _tasks) = start(&source);
        tokio::time::sleep(HOUR).await;
        assert_eq!(source.asked(), 0, "nobody has asked");
        let first = token(HOUR);
        source.give(Some(&first));
        let given =
            futures_util::future::join_all([tokens.for_link(), tokens.for_link(), tokens.for_link()]).await;
        assert!(given.iter().all(|given| given.as_ref().unwrap().as_ref() == Some(&first)));
        assert_eq!(tokens.for_link().await.unwrap(), Some(first));
        assert_eq!(source.asked(), 1);
        let opaque = Secret::new("opaque");
        source.give(Some(&opaque));
        let mut changes = tokens.changes();
        assert!(changes.wait_for(|token| token.as_ref() == Some(&opaque)).await.is_ok());
        assert_eq!(source.asked(), 2);
        tokio::time::sleep(100 * HOUR).await;
        assert_eq!(source.asked(), 2, "nothing says when it ends");
        assert_eq!(tokens.for_link().await.unwrap(), Some(opaque));
        assert_eq!(source.asked(), 3, "so it is asked for with each link");
    }

    #[tokio::test(start_paused = true)]
    async fn another_token_is_there_before_the_first_ends() {
        let source = Source::default();
        let (tokens, _tasks) = start(&source);
        let (first, second) = (token(HOUR), token(2 * HOUR));
        source.give(Some(&first));
        tokens.for_link().await.unwrap();
        source.give(Some(&second));
        let (started, mut changes) = (Instant::now(), tokens.changes());
        assert!(changes.wait_for(|token| token.as_ref() == Some(&second)).await.is_ok());
        let waited = started.elapsed().as_secs_f64() / HOUR.as_secs_f64();
        assert!((0.79..0.91).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_leaves_the_old_token_and_is_tried_on() {
        let source = Source::default();
        let (tokens, _tasks) = start(&source);
        assert!(matches!(&*tokens.for_link().await.unwrap_err(), GetTokenError::Empty));
        let (first, second) = (token(HOUR), token(2 * HOUR));
        source.give(Some(&first));
        let mut changes = tokens.changes();
        assert!(changes.wait_for(|token| token.as_ref() == Some(&first)).await.is_ok(), "it is tried on");
        source.give(None);
        tokio::time::sleep(HOUR).await;
        assert_eq!(tokens.for_link().await.unwrap(), Some(first), "it may do all the same");
        let asked = source.asked();
        tokio::time::sleep(10 * Duration::from_secs(60)).await;
        assert!((10..100).contains(&(source.asked() - asked)), "{}", source.asked() - asked);
        source.give(Some(&second));
        assert!(changes.wait_for(|token| token.as_ref() == Some(&second)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_a_node_refuses_is_replaced_ahead_of_time_and_another_than_that_is_not() {
        let source = Source::default();
        let (tokens, _tasks) = start(&source);
        let (first, second) = (token(HOUR), token(2 * HOUR));
        source.give(Some(&first));
        tokens.for_link().await.unwrap();
        source.give(Some(&second));
        tokens.refused(&Secret::new("older")).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(source.asked(), 1);
        let node = NodeId::new("n1").unwrap();
        tokens.refused_by(&node, &first, Refusal::new(Code::Unauthenticated, "no")).await;
        let (started, mut changes) = (Instant::now(), tokens.changes());
        assert!(changes.wait_for(|token| token.as_ref() == Some(&second)).await.is_ok());
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_given_up() {
        let (tokens, keeper) = Keeper::new(Some(&Token::from_source(async || pending().await)));
        let tasks = Tasks::new();
        tasks.spawn(keeper.unwrap().run());
        assert!(matches!(&*tokens.for_link().await.unwrap_err(), GetTokenError::Late(PATIENCE)));
        tasks.abort();
        assert!(matches!(&*tokens.for_link().await.unwrap_err(), GetTokenError::Closed));
    }

    #[tokio::test]
    async fn a_fixed_token_needs_no_keeper() {
        let fixed = Secret::new("a");
        for token in [None, Some(fixed)] {
            let (tokens, keeper) = Keeper::new(token.clone().map(Token::fixed).as_ref());
            assert!(keeper.is_none());
            assert_eq!(tokens.for_link().await.unwrap(), token);
        }
    }
}
