//! How often the same may be told.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How many at once, after a long silence.
const BURST: u32 = 25;
/// How often after that.
const EVERY: Duration = Duration::from_secs(10);
/// How many keys may wait for their allowance to fill up; beyond that the ones that are full are forgotten.
const KEYS_MAX: usize = 1024;

/// A token bucket a key, kept as the one moment at which the bucket will be full again: a key that is not here has a
/// full one.
#[derive(Debug)]
pub(super) struct Allowance<K> {
    full_at: HashMap<K, Instant>,
}

impl<K> Default for Allowance<K> {
    fn default() -> Self {
        Self { full_at: HashMap::new() }
    }
}

impl<K: Hash + Eq> Allowance<K> {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        if self.full_at.len() >= KEYS_MAX {
            self.full_at.retain(|_, full_at| *full_at > now);
            // Keys without end: their owners make objects faster than anybody reads Events.
            if self.full_at.len() >= KEYS_MAX && !self.full_at.contains_key(&key) {
                return false;
            }
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        let then = (*full_at).max(now) + EVERY;
        if then > now + EVERY * BURST {
            return false;
        }
        *full_at = then;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_every_ten_seconds_each_key_for_itself() {
        let mut allowance = Allowance::default();
        let start = Instant::now();
        let taken = |allowance: &mut Allowance<&str>, key, at: u64| {
            (0..100).filter(|_| allowance.take(key, start + Duration::from_secs(at))).count()
        };
        assert_eq!(taken(&mut allowance, "a", 0), 25);
        assert_eq!(taken(&mut allowance, "b", 0), 25);
        assert_eq!(taken(&mut allowance, "a", 9), 0);
        assert_eq!(taken(&mut allowance, "a", 10), 1);
        assert_eq!(taken(&mut allowance, "a", 60), 5);
        assert_eq!(taken(&mut allowance, "a", 10_000), 25);
    }

    #[test]
    fn keys_without_end_are_forgotten_or_refused() {
        let mut allowance = Allowance::default();
        let start = Instant::now();
        let taken = (0..5000).filter(|key| allowance.take(*key, start)).count();
        assert_eq!((taken, allowance.full_at.len()), (KEYS_MAX, KEYS_MAX));
        assert!(allowance.take(9999, start + EVERY), "those that filled up make room");
    }
}
