//! A pool: the snapshot that requests read, the state that outlives snapshots, and the one writer of both.

mod flight;
mod writer;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use flight::Flight;
pub use writer::PoolWriter;

use crate::decision::{Decision, Picked};
use crate::explanation::{Explanation, Ring};
use crate::pickers::PickerMemory;
use crate::policy::Policy;
use crate::prefix::{IndexSize, PrefixIndex};
use crate::scheduler::{Request, Scratch, choose};
use crate::snapshot::PoolSnapshot;
use crate::time::Tick;

/// One pool of endpoints, shared by all who pick from it. Its snapshots are written by its [`PoolWriter`] alone.
#[derive(Debug)]
pub struct Pool {
    name: Arc<str>,
    snapshot: ArcSwap<PoolSnapshot>,
    turn: Mutex<Turn>,
}

/// What picks change, one at a time: a pick takes microseconds, and one that did not see its predecessor's load would
/// herd. Survives snapshots and policies.
#[derive(Debug)]
struct Turn {
    index: PrefixIndex,
    memory: PickerMemory,
    explanations: Ring,
    scratch: Scratch,
}

impl Pool {
    /// A pool without endpoints, and the only handle that can change it. `seed` feeds its random choices.
    pub fn new(name: &str, policy: Arc<Policy>, seed: u64) -> (Arc<Self>, PoolWriter) {
        let turn = Turn {
            index: PrefixIndex::new(policy.prefix_cache.memory_limit),
            memory: PickerMemory { random: SmallRng::seed_from_u64(seed), last: None, keys: Vec::new() },
            explanations: Ring::new(),
            scratch: Scratch::default(),
        };
        let snapshot = PoolSnapshot { version: 0, members: Arc::default(), load: Default::default(), policy };
        let pool =
            Arc::new(Self { name: name.into(), snapshot: ArcSwap::from_pointee(snapshot), turn: Mutex::new(turn) });
        (Arc::clone(&pool), PoolWriter::new(pool))
    }

    /// The pool's name, `namespace/name` in Kubernetes.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The pool as it stands.
    pub fn snapshot(&self) -> Arc<PoolSnapshot> {
        self.snapshot.load_full()
    }

    /// Picks for one request, and counts the load and the prefix that it brings before anyone else picks.
    pub fn pick(self: &Arc<Self>, request: Request<'_>, now: Tick) -> Decision {
        let turn = &mut *self.turn.lock();
        let snapshot = self.snapshot.load();
        let why = turn.explanations.next();
        let chosen = choose(&snapshot, request, &turn.index, &mut turn.memory, &mut turn.scratch, why, now);
        match chosen {
            Ok(choosing) => {
                let cell = &choosing.stage.choices[0].cell;
                let facts = choosing.facts.as_ref().unwrap_or(request.facts);
                turn.index.predict(cell.id(), &facts.prefix);
                let flight = Flight::depart(self, cell, facts, choosing.matched_tokens, now);
                Decision::Picked(Picked {
                    decode: choosing.stage,
                    flight,
                    matched_tokens: choosing.matched_tokens,
                    model: choosing.model,
                })
            }
            Err(reason) => {
                why.reason = Some(reason);
                Decision::Nothing(reason)
            }
        }
    }

    /// The last decisions, newest first, at most `limit`, of one request when `request_id` is given.
    pub fn explanations(&self, limit: usize, request_id: Option<&str>) -> Vec<Explanation> {
        let turn = self.turn.lock();
        let wanted = |why: &&Explanation| request_id.is_none_or(|id| &*why.request_id == id);
        turn.explanations.newest_first().filter(wanted).take(limit).cloned().collect()
    }

    /// How full the prefix index is.
    pub fn prefix_index_size(&self) -> IndexSize {
        self.turn.lock().index.size()
    }
}

#[cfg(test)]
pub(crate) mod tests;
