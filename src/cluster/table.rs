//! The routing table: which name is served by what. Names are those of endpoints, or of hosts.
//!
//! An immutable snapshot. A change makes a new version that shares all but one path with the one before, so whoever holds
//! the current version can swap it under readers that never wait. What stands behind a name is the owner's business: this
//! chooses nothing and knows no link.

use std::{borrow::Borrow, fmt, hash::Hash, str::FromStr, sync::Arc};

use rpds::HashTrieMapSync;

use crate::protocol::{EndpointId, InvalidId, TenantId};

/// An endpoint's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is called.
    pub endpoint: EndpointId,
}

impl From<EndpointId> for Name {
    /// In the default tenant.
    fn from(endpoint: EndpointId) -> Self {
        Self { tenant: TenantId::default(), endpoint }
    }
}

impl FromStr for Name {
    type Err = InvalidId;

    /// Reads `endpoint`, which is of the default tenant, or `tenant/endpoint`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('/') {
            Some((tenant, endpoint)) => {
                Ok(Self { tenant: TenantId::new(tenant)?, endpoint: EndpointId::new(endpoint)? })
            }
            None => EndpointId::new(text).map(Self::from),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tenant != TenantId::default() {
            write!(f, "{}/", self.tenant)?;
        }
        self.endpoint.fmt(f)
    }
}

/// One version of the routing table. Clones share everything.
#[derive(Debug)]
pub struct Table<K: Hash + Eq, T> {
    routes: HashTrieMapSync<K, Arc<[T]>>,
}

impl<K: Hash + Eq, T> Clone for Table<K, T> {
    fn clone(&self) -> Self {
        Self { routes: self.routes.clone() }
    }
}

impl<K: Hash + Eq, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { routes: HashTrieMapSync::new_sync() }
    }
}

impl<K: Hash + Eq + Clone, T> Table<K, T> {
    /// What serves a name; nothing when the name is not known.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> &[T]
    where
        K: Borrow<Q>,
    {
        self.routes.get(name).map_or(&[], |serving| serving)
    }

    /// A new version, in which what serves one name has changed. A name that nothing serves is gone.
    #[must_use]
    pub fn with(&self, name: &K, change: impl FnOnce(&[T]) -> Vec<T>) -> Self {
        let serving = change(self.get(name));
        let routes = if serving.is_empty() {
            self.routes.remove(name)
        } else {
            self.routes.insert(name.clone(), serving.into())
        };
        Self { routes }
    }

    /// How many names are served.
    pub fn len(&self) -> usize {
        self.routes.size()
    }

    /// Whether no name is served.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All names and what serves them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &[T])> {
        self.routes.iter().map(|(name, serving)| (name, &**serving))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(number: u8) -> Name {
        Name { tenant: TenantId::default(), endpoint: EndpointId::new(&format!("e{number}")).unwrap() }
    }

    #[test]
    fn a_version_never_changes() {
        let empty = Table::default();
        let one = empty.with(&name(1), |_| vec!["a"]);
        let two = one.with(&name(1), |before| [before, &["b"]].concat());
        let none = two.with(&name(1), |_| vec![]);
        assert_eq!((empty.get(&name(1)), empty.len()), (&[][..], 0));
        assert_eq!((one.get(&name(1)), one.len()), (&["a"][..], 1));
        assert_eq!((two.get(&name(1)), two.len()), (&["a", "b"][..], 1));
        assert!(none.is_empty() && none.iter().next().is_none());
    }

    #[test]
    fn a_name_belongs_to_its_tenant() {
        let other = Name { tenant: TenantId::new("other").unwrap(), ..name(1) };
        let table = Table::default().with(&name(1), |_| vec![1]);
        assert!(table.get(&other).is_empty());
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let before =
            (0..200).fold(Table::default(), |table, number| table.with(&name(number), |_| vec![number]));
        let after = before.with(&name(7), |_| vec![1, 2]);
        let kept =
            (0..200).filter(|&number| std::ptr::eq(before.get(&name(number)), after.get(&name(number))));
        assert_eq!(kept.count(), 199);
    }

    proptest! {
        #[test]
        fn a_table_holds_what_a_map_would(steps in prop::collection::vec((0_u8..20, 0_usize..3), 0..200)) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for (number, serving) in steps {
                let serving: Vec<_> = (0..serving).collect();
                table = table.with(&name(number), |_| serving.clone());
                if serving.is_empty() { map.remove(&name(number)); } else { map.insert(name(number), serving); }
                let held: BTreeMap<_, _> = table.iter().map(|(name, serving)| (name.clone(), serving.to_vec())).collect();
                prop_assert_eq!(&held, &map);
                prop_assert_eq!(table.len(), map.len());
            }
        }
    }
}
