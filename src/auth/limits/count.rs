//! How many of something each caller may have at once: links, flows, endpoints.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// A limit on how many each of many callers has. It remembers those that have some, and nobody else. Clones share it.
#[derive(Debug)]
pub(super) struct Count<K: Hash + Eq + Clone> {
    max: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Hash + Eq + Clone> Clone for Count<K> {
    fn clone(&self) -> Self {
        Self { max: self.max, held: Arc::clone(&self.held) }
    }
}

/// One of those that a caller has, until it is dropped.
#[derive(Debug)]
pub(super) struct Held<K: Hash + Eq> {
    key: K,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// A caller has as many as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{max} at once are allowed")]
pub(super) struct TooMany {
    /// How many it may have.
    pub(super) max: usize,
}

impl<K: Hash + Eq + Clone> Count<K> {
    /// At most `max` at once for each.
    pub(super) fn new(max: usize) -> Self {
        Self { max, held: Arc::default() }
    }

    /// One more for `key`, if it may have it.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn take(&self, key: &K) -> Result<Held<K>, TooMany> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(key).copied().unwrap_or(0);
        if count >= self.max {
            return Err(TooMany { max: self.max });
        }
        all.insert(key.clone(), count + 1);
        Ok(Held { key: key.clone(), held: Arc::clone(&self.held) })
    }
}

impl<K: Hash + Eq> Drop for Held<K> {
    fn drop(&mut self) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_gives_it_back() {
        let count = Count::new(2);
        let (one, _two) = (count.take(&"a").unwrap(), count.take(&"a").unwrap());
        assert_eq!(count.take(&"a").unwrap_err(), TooMany { max: 2 });
        let other = count.clone().take(&"b").unwrap();
        assert_eq!(count.held.lock().unwrap().len(), 2);
        drop(one);
        let _again = count.take(&"a").unwrap();
        assert!(count.take(&"a").is_err());
        drop(other);
        assert_eq!(count.held.lock().unwrap().len(), 1);
        assert!(Count::new(0).take(&"a").is_err());
    }
}
