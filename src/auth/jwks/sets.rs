//! All sets of a process. Those that are had from one place in one way are one set, which goes on while its ports are told anew
//! what to ask for: what was good is not lost with that, and nobody waits for it to be fetched again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio_util::sync::DropGuard;

use super::{Jwks, JwksCounters, Settings, Shared, Source};
use crate::drain::Tasks;

/// Starts sets, and shares those that run. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Sets {
    counters: JwksCounters,
    tasks: Tasks,
    running: Arc<Mutex<Vec<Running>>>,
}

#[derive(Debug)]
struct Running {
    source: Source,
    settings: Settings,
    shared: Weak<Shared>,
    stop: Weak<DropGuard>,
}

impl Running {
    fn jwks(&self) -> Option<Jwks> {
        Some(Jwks { shared: self.shared.upgrade()?, _stop: self.stop.upgrade()? })
    }
}

impl Sets {
    /// No sets yet. Their tasks are of `tasks`.
    pub fn new(counters: JwksCounters, tasks: Tasks) -> Self {
        Self { counters, tasks, running: Arc::default() }
    }

    /// The set of a source, which is started unless it runs.
    pub fn of(&self, source: &Source, settings: Settings) -> Jwks {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|set| set.stop.strong_count() > 0);
        let same = running.iter().find(|set| set.source == *source && set.settings == settings);
        if let Some(jwks) = same.and_then(Running::jwks) {
            return jwks;
        }
        let jwks = Jwks::start(source.clone(), settings, self.counters.clone(), &self.tasks);
        running.push(Running {
            source: source.clone(),
            settings,
            shared: Arc::downgrade(&jwks.shared),
            stop: Arc::downgrade(&jwks._stop),
        });
        jwks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{telemetry::Metrics, tls::Trust};

    #[tokio::test]
    async fn a_set_is_shared_for_as_long_as_somebody_has_it() {
        let tasks = Tasks::new();
        let sets = Sets::new(JwksCounters::new(&Metrics::default()), tasks.clone());
        let of = |url: &str, trust: &Trust| sets.of(&Source::new(url, trust).unwrap(), Settings::default());
        let same = |one: &Jwks, other: &Jwks| Arc::ptr_eq(&one.shared, &other.shared);
        let (file, https) = ("file:/absent", "https://id.example.com/keys");
        let one = of(file, &Trust::Insecure);
        assert!(same(&one, &of(file, &Trust::Insecure)));
        assert!(!same(&one, &of("file:/other", &Trust::Insecure)));
        let secure = of(https, &Trust::Insecure);
        assert!(same(&secure, &of(https, &Trust::Insecure)));
        let pin = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        assert!(!same(&secure, &of(https, &Trust::Pins(vec![pin]))));
        drop((one, secure));
        tasks.wait_empty().await;
    }
}
