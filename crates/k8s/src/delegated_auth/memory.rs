//! What the API server said of tokens lately.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Access;

/// How long a token is let in, and how long refused, without another review.
const GRANTED_LIFE: Duration = Duration::from_secs(60);
const REFUSED_LIFE: Duration = Duration::from_secs(10);
/// How long after it was granted a token is let in on while the API server is away: metrics of a picker that serves on must
/// not vanish with it.
const GRANTED_AWAY: Duration = Duration::from_secs(3600);
/// So many are remembered of either kind.
pub(super) const ENTRIES_MAX: usize = 64;

/// SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// What was said. Apart, so that no number of bad tokens displaces a good one.
#[derive(Default)]
pub(super) struct Memory {
    granted: Entries,
    refused: Entries,
}

type Entries = HashMap<TokenHash, Said>;

/// What was said of a token.
#[derive(Clone, Copy)]
struct Said {
    access: Access,
    /// When it was said.
    since: Instant,
    /// How long it counts without another review.
    until: Instant,
}

impl Memory {
    /// What was said of a token, if it still counts.
    pub(super) fn recall(&self, hash: &TokenHash, now: Instant) -> Option<Access> {
        let found = self.granted.get(hash).or_else(|| self.refused.get(hash));
        found.filter(|said| now < said.until).map(|said| said.access)
    }

    /// Whether a token was let in lately, even if that counts no longer by itself.
    pub(super) fn was_granted(&self, hash: &TokenHash, now: Instant) -> bool {
        self.granted.get(hash).is_some_and(|said| now < said.since + GRANTED_AWAY)
    }

    /// Lets a token in for another while that was let in lately.
    pub(super) fn extend(&mut self, hash: &TokenHash, now: Instant) {
        if let Some(said) = self.granted.get_mut(hash) {
            said.until = now + REFUSED_LIFE;
        }
    }

    /// Remembers what was said, and nothing when nothing was.
    pub(super) fn keep(&mut self, hash: TokenHash, access: Access, now: Instant) {
        if access == Access::Unknown || access == Access::Busy {
            return;
        }
        self.granted.remove(&hash);
        self.refused.remove(&hash);
        let (entries, life) = match access {
            Access::Granted => (&mut self.granted, GRANTED_LIFE),
            _ => (&mut self.refused, REFUSED_LIFE),
        };
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, said| now < said.until);
        }
        let oldest = entries.iter().min_by_key(|(_, said)| said.until).map(|(hash, _)| *hash);
        if let Some(oldest) = oldest.filter(|_| entries.len() >= ENTRIES_MAX) {
            entries.remove(&oldest);
        }
        entries.insert(hash, Said { access, since: now, until: now + life });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.granted.len() + self.refused.len()
    }
}
