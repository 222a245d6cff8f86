//! Whom to ask, and when each is due: the pool's members as the scraper sees them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use pointsman_core::endpoint::{Endpoint, EndpointCell, EndpointId};
use pointsman_core::policy::{Policy, TelemetryPolicy};
use pointsman_core::snapshot::{Members, PoolSnapshot};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::error::ScrapeError;
use super::pace::pause;
use crate::engines::{Engines, Mapping};

/// Pauses vary by this share to either side, so that endpoints that joined together do not stay in step.
const JITTER: f64 = 0.1;

/// Whom to ask, and how to read the answer.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    /// Where the metrics are.
    pub(super) target: SocketAddr,
    /// The same as a URL.
    pub(super) uri: Uri,
    /// The engine's series.
    pub(super) mapping: Arc<Mapping>,
}

/// A scrape to be made now.
pub(super) struct Errand {
    /// Whose metrics.
    pub(super) endpoint: EndpointId,
    /// Its counters.
    pub(super) cell: Arc<EndpointCell>,
    /// Whom to ask, or why nobody can be asked.
    pub(super) source: Result<Arc<Source>, ScrapeError>,
}

/// What a new snapshot changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// Who is in the pool.
    pub(super) members: bool,
    /// How telemetry is to be done.
    pub(super) policy: bool,
}

/// An endpoint that answers again.
pub(super) struct Recovered {
    /// Its name.
    pub(super) name: Arc<str>,
    /// How often it failed before.
    pub(super) failures: u32,
}

/// The members, and when each is due.
pub(super) struct Roster {
    members: Arc<Members>,
    policy: Arc<Policy>,
    engines: Engines,
    /// By slot.
    targets: Vec<Option<Target>>,
    /// All that wait, those due first in front.
    due: BTreeSet<(Instant, EndpointId)>,
    random: SmallRng,
}

/// One member.
struct Target {
    id: EndpointId,
    endpoint: Arc<Endpoint>,
    cell: Arc<EndpointCell>,
    source: Result<Arc<Source>, ScrapeError>,
    plan: Plan,
    /// Whether its next scrape was planned as that of a busy endpoint.
    busy: bool,
    /// Since its last success.
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Waits until then.
    Due(Instant),
    /// Is being asked.
    UnderWay,
}

impl Roster {
    /// The members of `snapshot`, all due now. `seed` feeds the jitter.
    pub(super) fn new(snapshot: &PoolSnapshot, seed: u64, now: Instant) -> Self {
        let mut roster = Self {
            members: Arc::default(),
            policy: Arc::clone(&snapshot.policy),
            engines: Engines::compile(&snapshot.policy.telemetry),
            targets: Vec::new(),
            due: BTreeSet::new(),
            random: SmallRng::seed_from_u64(seed),
        };
        roster.follow(snapshot, now);
        roster
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn policy(&self) -> &TelemetryPolicy {
        &self.policy.telemetry
    }

    /// Whether the endpoint is in the pool still.
    pub(super) fn is_member(&self, id: EndpointId) -> bool {
        self.target(id).is_some()
    }

    /// Takes over members and policy. Newcomers are due at once, and so is who is to be asked elsewhere or read
    /// otherwise than before; nobody is due later than a shorter interval asks.
    pub(super) fn follow(&mut self, snapshot: &PoolSnapshot, now: Instant) -> Changes {
        let changes = Changes {
            members: !Arc::ptr_eq(&snapshot.members, &self.members),
            policy: !Arc::ptr_eq(&snapshot.policy, &self.policy) && snapshot.policy.telemetry != self.policy.telemetry,
        };
        self.policy = Arc::clone(&snapshot.policy);
        if changes.policy {
            self.engines = Engines::compile(&self.policy.telemetry);
        }
        if changes.members || changes.policy {
            self.members = Arc::clone(&snapshot.members);
            self.rebuild(now);
        }
        changes
    }

    fn rebuild(&mut self, now: Instant) {
        let mut former = std::mem::take(&mut self.targets);
        self.due.clear();
        self.targets.resize_with(self.members.slots() as usize, || None);
        let rows = self.members.endpoints.iter().zip(&self.members.ids).zip(&self.members.cells);
        for ((endpoint, id), cell) in rows {
            let source = source_of(endpoint, &self.engines);
            let kept = former.get_mut(id.slot as usize).and_then(Option::take).filter(|target| target.id == *id);
            let mut target = kept.unwrap_or_else(|| Target {
                id: *id,
                endpoint: Arc::clone(endpoint),
                cell: Arc::clone(cell),
                source: source.clone(),
                plan: Plan::Due(now),
                busy: false,
                failures: 0,
            });
            if let Plan::Due(at) = &mut target.plan {
                let latest = if target.source == source {
                    now + jittered(pause(&self.policy.telemetry, target.busy, target.failures), &mut self.random)
                } else {
                    now
                };
                *at = latest.min(*at);
                self.due.insert((*at, *id));
            }
            target.endpoint = Arc::clone(endpoint);
            target.source = source;
            self.targets[id.slot as usize] = Some(target);
        }
    }

    /// Makes idle endpoints due that have requests in flight since they were last asked.
    pub(super) fn hasten_busy(&mut self, now: Instant) {
        for target in self.targets.iter_mut().flatten() {
            if target.busy || target.failures > 0 || target.cell.in_flight() == 0 {
                continue;
            }
            if let Plan::Due(at) = target.plan
                && at > now
            {
                self.due.remove(&(at, target.id));
                self.due.insert((now, target.id));
                target.plan = Plan::Due(now);
                target.busy = true;
            }
        }
    }

    /// When the first of those who wait is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Who has been due the longest, as being asked from here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Errand> {
        let (at, id) = self.due.pop_first()?;
        if at > now {
            self.due.insert((at, id));
            return None;
        }
        let target = self.target_mut(id)?;
        target.plan = Plan::UnderWay;
        Some(Errand { endpoint: id, cell: Arc::clone(&target.cell), source: target.source.clone() })
    }

    /// The endpoint answered, that it `works` or not. Says whether that ends a row of failures.
    pub(super) fn succeeded(&mut self, id: EndpointId, works: bool, now: Instant) -> Option<Recovered> {
        let target = self.target_mut(id)?;
        let failures = std::mem::take(&mut target.failures);
        target.busy = works || target.cell.in_flight() > 0;
        let name = Arc::clone(&target.endpoint.name);
        self.plan_next(id, now);
        (failures > 0).then_some(Recovered { name, failures })
    }

    /// The endpoint did not answer. Gives its name if this is the first failure of a row.
    pub(super) fn failed(&mut self, id: EndpointId, now: Instant) -> Option<Arc<str>> {
        let target = self.target_mut(id)?;
        target.failures = target.failures.saturating_add(1);
        target.busy = target.cell.in_flight() > 0;
        let first = (target.failures == 1).then(|| Arc::clone(&target.endpoint.name));
        self.plan_next(id, now);
        first
    }

    fn plan_next(&mut self, id: EndpointId, now: Instant) {
        let Some(target) = self.targets.get_mut(id.slot as usize).and_then(Option::as_mut) else { return };
        let pause = pause(&self.policy.telemetry, target.busy, target.failures);
        let at = now + jittered(pause, &mut self.random);
        target.plan = Plan::Due(at);
        self.due.insert((at, id));
    }

    fn target(&self, id: EndpointId) -> Option<&Target> {
        self.targets.get(id.slot as usize)?.as_ref().filter(|target| target.id == id)
    }

    fn target_mut(&mut self, id: EndpointId) -> Option<&mut Target> {
        self.targets.get_mut(id.slot as usize)?.as_mut().filter(|target| target.id == id)
    }
}

fn source_of(endpoint: &Endpoint, engines: &Engines) -> Result<Arc<Source>, ScrapeError> {
    let target = SocketAddr::new(endpoint.address.ip(), endpoint.metrics_port);
    let mapping = engines.mapping_of(endpoint).map_err(|engine| ScrapeError::UnknownEngine { target, engine })?;
    let uri = Uri::builder().scheme("http").authority(target.to_string()).path_and_query("/metrics").build();
    let uri = uri.map_err(|error| ScrapeError::Connect { target, cause: error.to_string() })?;
    Ok(Arc::new(Source { target, uri, mapping }))
}

fn jittered(pause: Duration, random: &mut SmallRng) -> Duration {
    pause.mul_f64(random.random_range(1.0 - JITTER..=1.0 + JITTER))
}
