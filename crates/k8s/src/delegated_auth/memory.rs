//! What the API server said of tokens lately.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Access;

/// How long a token is let in, and how long refused, without another review.
const GRANTED_LIFE: Duration = Duration::from_secs(60);
const REFUSED_LIFE: Duration = Duration::from_secs(10);
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

/// By hash: what was said, and until when it counts.
type Entries = HashMap<TokenHash, (Access, Instant)>;

impl Memory {
    /// What was said of a token, if it still counts.
    pub(super) fn recall(&self, hash: &TokenHash, now: Instant) -> Option<Access> {
        let found = self.granted.get(hash).or_else(|| self.refused.get(hash));
        found.filter(|(_, until)| now < *until).map(|(access, _)| *access)
    }

    /// Remembers what was said, and nothing when nothing was.
    pub(super) fn keep(&mut self, hash: TokenHash, access: Access, now: Instant) {
        self.granted.remove(&hash);
        self.refused.remove(&hash);
        let (entries, life) = match access {
            Access::Granted => (&mut self.granted, GRANTED_LIFE),
            Access::Unauthenticated | Access::Forbidden => (&mut self.refused, REFUSED_LIFE),
            Access::Unknown => return,
        };
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (_, until)| now < *until);
        }
        let oldest = entries.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| *hash);
        if let Some(oldest) = oldest.filter(|_| entries.len() >= ENTRIES_MAX) {
            entries.remove(&oldest);
        }
        entries.insert(hash, (access, now + life));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.granted.len() + self.refused.len()
    }
}
