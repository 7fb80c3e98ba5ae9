//! How many different things each caller may have at once, however often it has each: endpoints, which one agent serves by two
//! links while it moves, and a tenant by many agents.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use super::count::TooMany;

type Things<K, V> = HashMap<K, HashMap<V, usize>>;

/// A limit on how many things each of many callers has. It remembers those that have some, and nobody else.
#[derive(Debug)]
pub(super) struct Distinct<K: Hash + Eq + Clone, V: Hash + Eq + Clone> {
    max: usize,
    had: Arc<Mutex<Things<K, V>>>,
}

/// That a caller has a thing, until it is dropped.
#[derive(Debug)]
pub(super) struct Has<K: Hash + Eq, V: Hash + Eq> {
    key: K,
    thing: V,
    had: Arc<Mutex<Things<K, V>>>,
}

impl<K: Hash + Eq + Clone, V: Hash + Eq + Clone> Distinct<K, V> {
    /// At most `max` at once for each.
    pub(super) fn new(max: usize) -> Self {
        Self { max, had: Arc::default() }
    }

    /// Takes note that `key` has a thing, if it may or has it already.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn take(&self, key: &K, thing: &V) -> Result<Has<K, V>, TooMany> {
        let mut all = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = all.get(key);
        if !of_key.is_some_and(|things| things.contains_key(thing))
            && of_key.map_or(0, HashMap::len) >= self.max
        {
            return Err(TooMany { max: self.max });
        }
        *all.entry(key.clone()).or_default().entry(thing.clone()).or_default() += 1;
        Ok(Has { key: key.clone(), thing: thing.clone(), had: Arc::clone(&self.had) })
    }
}

impl<K: Hash + Eq, V: Hash + Eq> Drop for Has<K, V> {
    fn drop(&mut self) {
        let mut all = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(things) = all.get_mut(&self.key) else { return };
        if let Some(count) = things.get_mut(&self.thing) {
            *count -= 1;
            if *count == 0 {
                things.remove(&self.thing);
            }
        }
        if things.is_empty() {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_had_twice_counts_once_until_it_is_had_no_more() {
        let limit = Distinct::new(2);
        let (one, again) = (limit.take(&"a", &1).unwrap(), limit.take(&"a", &1).unwrap());
        let _two = limit.take(&"a", &2).unwrap();
        assert_eq!(limit.take(&"a", &3).unwrap_err(), TooMany { max: 2 });
        let other = limit.take(&"b", &3).unwrap();
        drop(one);
        assert!(limit.take(&"a", &3).is_err(), "it is had still");
        drop(again);
        let _three = limit.take(&"a", &3).unwrap();
        assert!(limit.take(&"a", &1).is_err());
        drop(other);
        assert_eq!(limit.had.lock().unwrap().len(), 1);
    }
}
