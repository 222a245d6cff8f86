//! The objects of one kind, and what each observation changed of them.

use std::collections::{HashMap, HashSet};

use crate::key::ObjectKey;
use crate::watch::Observed;

/// The objects of one kind as they were last seen.
#[derive(Debug)]
pub(super) struct Store<T>(HashMap<ObjectKey, T>);

/// One object that is not what it was.
#[derive(Debug, PartialEq)]
pub(super) struct Changed<T> {
    pub(super) key: ObjectKey,
    /// What it was; `None` when it is new. What it is now stands in the store.
    pub(super) former: Option<T>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: PartialEq> Store<T> {
    /// Takes in what was seen, and says what it changed.
    pub(super) fn apply(&mut self, observed: Observed<T>) -> Vec<Changed<T>> {
        match observed {
            Observed::Put(key, object) => self.put(key, object).into_iter().collect(),
            Observed::Gone(key) => {
                self.0.remove(&key).map(|former| Changed { key, former: Some(former) }).into_iter().collect()
            }
            Observed::Absent => self.apply(Observed::All { objects: Vec::new(), unreadable: Vec::new() }),
            Observed::All { objects, unreadable } => {
                let there: HashSet<ObjectKey> =
                    objects.iter().map(|(key, _)| key).chain(&unreadable).cloned().collect();
                let gone: Vec<ObjectKey> = self.0.keys().filter(|key| !there.contains(*key)).cloned().collect();
                let gone = gone.into_iter().filter_map(|key| {
                    let former = self.0.remove(&key)?;
                    Some(Changed { key, former: Some(former) })
                });
                let mut changed: Vec<_> = gone.collect();
                changed.extend(objects.into_iter().filter_map(|(key, object)| self.put(key, object)));
                changed
            }
        }
    }

    fn put(&mut self, key: ObjectKey, object: T) -> Option<Changed<T>> {
        if self.0.get(&key) == Some(&object) {
            return None;
        }
        let former = self.0.insert(key.clone(), object);
        Some(Changed { key, former })
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&T> {
        self.0.get(key)
    }

    /// All objects, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.0.iter()
    }

    /// All objects of a namespace, in no order.
    pub(super) fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
        self.0.iter().filter(move |(key, _)| &*key.namespace == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    #[test]
    fn tells_what_changed_and_nothing_else() {
        let mut store = Store::default();
        let changed = |key: &ObjectKey, former| vec![Changed { key: key.clone(), former }];
        assert_eq!(store.apply(Observed::Put(key("a"), 1)), changed(&key("a"), None));
        assert_eq!(store.apply(Observed::Put(key("a"), 1)), []);
        assert_eq!(store.apply(Observed::Put(key("a"), 2)), changed(&key("a"), Some(1)));
        assert_eq!(store.apply(Observed::Gone(key("b"))), []);
        assert_eq!(store.apply(Observed::Gone(key("a"))), changed(&key("a"), Some(2)));
    }

    #[test]
    fn a_new_list_takes_out_what_it_does_not_name_and_keeps_what_cannot_be_read() {
        let mut store = Store::default();
        for (name, value) in [("gone", 1), ("odd", 2), ("same", 3), ("other", 4)] {
            store.apply(Observed::Put(key(name), value));
        }
        let objects = vec![(key("same"), 3), (key("other"), 5), (key("new"), 6)];
        let mut changed = store.apply(Observed::All { objects, unreadable: vec![key("odd"), key("never seen")] });
        changed.sort_by(|a, b| a.key.cmp(&b.key));
        let expected = [("gone", Some(1)), ("new", None), ("other", Some(4))];
        assert_eq!(changed, expected.map(|(name, former)| Changed { key: key(name), former }));
        let mut left: Vec<_> = store.iter().map(|(key, value)| (&*key.name, *value)).collect();
        left.sort_unstable();
        assert_eq!(left, [("new", 6), ("odd", 2), ("other", 5), ("same", 3)]);
    }
}
