//! Why a request went where it went: a ring of the last decisions, for people.

use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{Endpoint, EndpointId};
use crate::reason::Reason;
use crate::time::Tick;

/// One decision in full. Its memory is reused when the ring comes round.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// Counts decisions; tells two explanations of the same request apart.
    pub sequence: u64,
    /// The request's id.
    pub request_id: Arc<str>,
    /// The model asked for.
    pub model: Option<Arc<str>>,
    /// The model that serves in its place; `None` where it is the asked one.
    pub target_model: Option<Arc<str>>,
    /// The rule of the policy's `models` that matched, by its name.
    pub model_rule: Option<Arc<str>>,
    /// The objective that the request named, known to the pool or not.
    pub objective: Option<Arc<str>>,
    /// What objective or rule say of its importance; 0 where neither does.
    pub priority: i32,
    /// When it was decided.
    pub at: Tick,
    /// How long the request waited in a queue before.
    pub queued: Duration,
    /// The snapshot that was read.
    pub snapshot_version: u64,
    /// The prompt's estimated tokens.
    pub prompt_tokens: u64,
    /// Why nothing was picked.
    pub reason: Option<Reason>,
    /// The scorers' names and weights.
    pub scorers: Vec<(Arc<str>, f32)>,
    /// The endpoints, the chosen ones first, at most [`Explanation::MAX_ROWS`].
    pub rows: Vec<ExplainedEndpoint>,
    /// Endpoints left out of `rows`.
    pub rows_left_out: usize,
    /// Raw scores: `scorers.len()` numbers for each of the rows that were candidates, in the order of the rows.
    pub scores: Vec<f32>,
}

impl Explanation {
    /// Decisions kept of a pool.
    pub const KEPT: u64 = 256;
    /// Rows kept of one decision, so that a large pool costs no more than this.
    pub const MAX_ROWS: usize = 64;

    pub(crate) fn clear(&mut self) {
        self.scorers.clear();
        self.rows.clear();
        self.scores.clear();
        self.rows_left_out = 0;
        self.reason = None;
        self.model = None;
        self.target_model = None;
        self.model_rule = None;
        self.objective = None;
        self.priority = 0;
    }
}

/// One endpoint in an explanation.
#[derive(Clone, Debug)]
pub struct ExplainedEndpoint {
    /// Who.
    pub endpoint: Arc<Endpoint>,
    /// Slot and generation.
    pub id: EndpointId,
    /// What became of it.
    pub fate: Fate,
    /// Age of its telemetry; `None` before the first scrape.
    pub telemetry_age: Option<Duration>,
    /// Whether the scorers believed that telemetry.
    pub fresh: bool,
    /// Requests of ours in flight there, before this one.
    pub in_flight: f32,
    /// The queue as the scorers saw it.
    pub waiting: f32,
    /// Tokens of the prompt in its cache.
    pub matched_tokens: f32,
}

/// What became of an endpoint in one decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Outside of the gateway's subset.
    OutsideSubset,
    /// Taken out of new picks by somebody.
    Cordoned,
    /// The named filter kept it out.
    FilteredOut(Arc<str>),
    /// A candidate with this sum of weighted scores, not chosen.
    Candidate {
        /// The weighted sum.
        score: f32,
    },
    /// Chosen.
    Chosen {
        /// The weighted sum.
        score: f32,
        /// Its place in the list, 0 is the pick.
        place: usize,
    },
}

/// The last decisions of a pool, oldest overwritten first.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: Vec<Explanation>,
    decisions: u64,
}

impl Ring {
    pub(crate) const CAPACITY: u64 = Explanation::KEPT;

    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), decisions: 0 }
    }

    /// The entry to write the next decision into, cleared.
    pub(crate) fn next(&mut self) -> &mut Explanation {
        let at = (self.decisions % Self::CAPACITY) as usize;
        self.decisions += 1;
        if at == self.entries.len() {
            self.entries.push(Explanation::default());
        }
        let entry = &mut self.entries[at];
        entry.clear();
        entry.sequence = self.decisions;
        entry
    }

    /// All entries, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Explanation> {
        let split = (self.decisions % Self::CAPACITY) as usize;
        let (recent, older) = self.entries.split_at(split.min(self.entries.len()));
        recent.iter().rev().chain(older.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_decisions_and_no_more() {
        let mut ring = Ring::new();
        for _ in 0..Ring::CAPACITY + 44 {
            ring.next();
        }
        let sequences: Vec<_> = ring.newest_first().map(|entry| entry.sequence).collect();
        let expected: Vec<_> = (45..=Ring::CAPACITY + 44).rev().collect();
        assert_eq!(sequences, expected);
    }
}
