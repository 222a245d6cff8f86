//! What is thought of InferencePools on behalf of the Gateways that send requests to them, and who says it: of all
//! replicas the Lease's holder.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use kube::Client;
use pointsman_gateway::picture::{PickerState, Picture};
use pointsman_k8s::api::{GATEWAY_CONTROLLER_NAME, PoolGroup, PoolSpec};
use pointsman_k8s::events::{self, Notice, NoticeMetrics, NoticeReason, Notices, Regarding};
use pointsman_k8s::facts::Kept;
use pointsman_k8s::gateways::Routing;
use pointsman_k8s::index::Scope;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease::{HaMode, LeaseOptions, LeaseTiming, leadership};
use pointsman_k8s::status::{self, StatusMetrics};
use pointsman_k8s::verdict::{ConditionType, Judgement, Reason, Says, Subject, SubjectKind, Truth, Verdict, Verdicts};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::known::{self, Seen};
use crate::serve::identity;
use crate::serve::supervisor::Supervisor;

/// So many routes are named in one message.
const NAMED: usize = 3;

/// What becomes of statuses and Events.
pub(super) struct Metrics {
    statuses: StatusMetrics,
    notices: NoticeMetrics,
}

/// The Gateways whose routes name a pool.
#[derive(Debug, Default)]
struct Parents {
    ours: BTreeMap<ObjectKey, Use>,
    /// Those that are there, and of another controller.
    others: BTreeSet<ObjectKey>,
}

/// How the routes of one Gateway use a pool.
#[derive(Debug, Default)]
struct Use {
    /// Whether a rule sends requests to it.
    is_served: bool,
    /// Routes that would, and that the Gateway refuses.
    refused: BTreeSet<ObjectKey>,
    /// Routes with a rule that names it, and wants copies of requests to go to it or another pool.
    mirroring: BTreeSet<ObjectKey>,
}

impl Metrics {
    /// Registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self { statuses: StatusMetrics::register(registry), notices: NoticeMetrics::register(registry) }
    }
}

/// Starts all of it, for as long as the process lives; the Lease `lease` is given up when `leave` is cancelled.
pub(super) fn start(
    client: &Client,
    lease: ObjectKey,
    seen: watch::Receiver<Option<Seen>>,
    metrics: Metrics,
    supervisor: &Supervisor,
    leave: CancellationToken,
) {
    let (identity, mode) = (identity(), HaMode::ActiveActive);
    let options = LeaseOptions {
        namespace: lease.namespace.to_string(),
        name: lease.name.to_string(),
        identity: identity.clone(),
        mode,
        timing: LeaseTiming::of(mode),
    };
    tracing::info!(%lease, identity, "the Lease's holder writes statuses and Events");
    let (election, leadership) = leadership(client.clone(), options);
    let (notices, publisher) =
        events::notices(client.clone(), GATEWAY_CONTROLLER_NAME, &identity, leadership.holds.clone(), metrics.notices);
    let (judge, verdicts) = watch::channel(Arc::default());
    supervisor.spawn("verdicts", keep(seen, judge, notices));
    let written = status::write(client.clone(), Scope::Cluster, verdicts, leadership.holds, metrics.statuses);
    supervisor.spawn("status", written);
    supervisor.spawn("events", publisher.run());
    supervisor.spawn("lease", election.run(leave));
}

/// Judges all pools anew whenever something else is seen.
async fn keep(
    mut seen: watch::Receiver<Option<Seen>>,
    judge: watch::Sender<Arc<Verdicts>>,
    notices: Notices,
) -> Infallible {
    let mut told = Told::default();
    loop {
        let now = seen.borrow_and_update().clone();
        if let Some(Seen { routing, known }) = now {
            let verdicts = verdicts(&routing, &known.picture);
            for notice in told.news(&routing, &verdicts) {
                let (pool, reason, message) = (&notice.regarding.key, notice.reason.as_str(), &notice.message);
                match notice.reason.is_warning() {
                    true => tracing::warn!(%pool, reason, message, "notice"),
                    false => tracing::info!(%pool, reason, message, "notice"),
                }
                notices.tell(notice);
            }
            judge.send_replace(Arc::new(verdicts));
        }
        if seen.changed().await.is_err() {
            // Whoever looks is gone, and so is the process soon.
            std::future::pending::<()>().await;
        }
    }
}

/// What is thought of every pool. One whose picker nobody could look for yet has no verdict.
fn verdicts(routing: &Routing, picture: &Picture) -> Verdicts {
    let mut parents = parents(routing);
    let judge = |(key, pool): (&ObjectKey, &Kept<PoolSpec>)| {
        let Parents { ours, others } = parents.remove(key).unwrap_or_default();
        let mut wanted = BTreeMap::new();
        if !ours.is_empty() {
            let resolved = resolved_refs(key, &pool.object, picture)?;
            let judge =
                |(gateway, used): (ObjectKey, Use)| (gateway, vec![accepted(&pool.object, &used), resolved.clone()]);
            wanted = ours.into_iter().map(judge).collect();
        }
        let (uid, generation) = (Arc::clone(&pool.identity.uid), pool.identity.generation);
        let verdict = Verdict { uid, generation, says: Says::Parents { wanted, others } };
        Some((Subject { kind: SubjectKind::InferencePool, key: key.clone() }, Arc::new(verdict)))
    };
    routing.pools.iter().filter_map(judge).collect()
}

/// Which Gateways use which pools, and how.
fn parents(routing: &Routing) -> BTreeMap<ObjectKey, Parents> {
    let mut parents: BTreeMap<ObjectKey, Parents> = BTreeMap::new();
    for (key, route) in &routing.routes {
        let namespace = &*key.namespace;
        let gateways = known::gateways(key, &route.spec).filter(|gateway| routing.gateways.contains_key(gateway));
        let gateways: BTreeMap<_, bool> = gateways.map(|gateway| (gateway.clone(), routing.serves(&gateway))).collect();
        for rule in &route.spec.rules {
            let mirrored: Vec<_> = rule.mirrored_pools(namespace).collect();
            let mirrors = !mirrored.is_empty();
            let named: BTreeSet<_> = rule.pools(namespace).chain(mirrored).collect();
            let is_meant =
                |pool: &&ObjectKey| routing.pools.contains_key(*pool) && routing.lets_routes_of(namespace, pool);
            for pool in named.iter().filter(is_meant) {
                let parents = parents.entry(pool.clone()).or_default();
                for (gateway, is_ours) in &gateways {
                    if !is_ours {
                        parents.others.insert(gateway.clone());
                        continue;
                    }
                    let used = parents.ours.entry(gateway.clone()).or_default();
                    match (route.refused_by.contains(gateway), mirrors) {
                        (true, _) => _ = used.refused.insert(key.clone()),
                        (false, true) => _ = used.mirroring.insert(key.clone()),
                        (false, false) => used.is_served = true,
                    }
                }
            }
        }
    }
    parents
}

/// Whether a Gateway takes a pool for one to send requests to.
fn accepted(pool: &PoolSpec, used: &Use) -> Judgement {
    let mirrors = || {
        let mend = "Envoy Gateway answers all requests of such a rule with 500: let requestMirror name a Service";
        format!("HTTPRoute {} mirrors requests to an InferencePool: {mend}", names(&used.mirroring))
    };
    let refused = |reason, message| judgement(ConditionType::Accepted, Truth::False, reason, message);
    if !used.is_served && !used.mirroring.is_empty() {
        return refused(Reason::NotSupportedByParent, mirrors());
    }
    if !used.is_served {
        let message = format!("the Gateway refuses HTTPRoute {}: its status says why", names(&used.refused));
        return refused(Reason::HttpRouteNotAccepted, message);
    }
    if pool.picker.is_none() {
        let message = "spec.endpointPickerRef is not set, so that nobody picks, and requests go to whichever endpoint has \
                       the fewest from the same Envoy: name the picker's Service";
        return refused(Reason::EndpointPickerRefMissing, message.to_owned());
    }
    let message = if used.mirroring.is_empty() { String::new() } else { format!("in force, but {}", mirrors()) };
    judgement(ConditionType::Accepted, Truth::True, Reason::Accepted, message)
}

/// Whether a pool's picker can be asked; `None` while that is not known.
fn resolved_refs(key: &ObjectKey, pool: &PoolSpec, picture: &Picture) -> Option<Judgement> {
    let resolved = || judgement(ConditionType::ResolvedRefs, Truth::True, Reason::ResolvedRefs, String::new());
    let invalid = |message| judgement(ConditionType::ResolvedRefs, Truth::False, Reason::InvalidExtensionRef, message);
    let Some(named) = &pool.picker else { return Some(resolved()) };
    if named.service().is_none() {
        let (group, kind) = (&named.group, &named.kind);
        let mend = "name a Service, of the group \"\"";
        return Some(invalid(format!("spec.endpointPickerRef: a {kind} of the group {group:?} is no picker: {mend}")));
    }
    let Some(picker) = known::picker(key, pool) else {
        return Some(invalid("spec.endpointPickerRef.port is not set: a Service needs one".to_owned()));
    };
    match picture.pickers.get(&picker)? {
        PickerState::Found(_) => Some(resolved()),
        PickerState::Missing(why) => Some(invalid(format!("spec.endpointPickerRef: {why}"))),
    }
}

fn judgement(condition: ConditionType, status: Truth, reason: Reason, message: String) -> Judgement {
    Judgement { condition, status, reason, message }
}

/// Some routes for a message.
fn names(routes: &BTreeSet<ObjectKey>) -> String {
    let mut names = routes.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let more @ 1.. = routes.len().saturating_sub(NAMED) {
        names += &format!(" and {more} more");
    }
    names
}

/// The pools whose pickers somebody was told cannot be asked, and why.
#[derive(Default)]
struct Told(BTreeMap<ObjectKey, (Arc<str>, String)>);

impl Told {
    /// What is to be told when this is thought of these pools.
    fn news(&mut self, routing: &Routing, verdicts: &Verdicts) -> Vec<Notice> {
        self.0.retain(|key, (uid, _)| routing.pools.get(key).is_some_and(|pool| pool.identity.uid == *uid));
        verdicts.iter().filter_map(|(subject, verdict)| self.of_pool(&subject.key, verdict)).collect()
    }

    fn of_pool(&mut self, key: &ObjectKey, verdict: &Verdict) -> Option<Notice> {
        let Says::Parents { wanted, .. } = &verdict.says else { return None };
        // All Gateways ask the same picker.
        let judgements = wanted.values().next();
        let resolved =
            judgements.into_iter().flatten().find(|judgement| judgement.condition == ConditionType::ResolvedRefs);
        let why = resolved.filter(|resolved| resolved.status == Truth::False).map(|resolved| &resolved.message);
        let before = self.0.remove(key).map(|(_, why)| why);
        let (reason, message) = match (why, resolved) {
            (Some(why), _) => {
                self.0.insert(key.clone(), (Arc::clone(&verdict.uid), why.clone()));
                (before.as_ref() != Some(why)).then(|| (NoticeReason::PickerNotFound, why.clone()))?
            }
            (None, Some(_)) if before.is_some() => {
                (NoticeReason::PickerFound, "the picker that spec.endpointPickerRef names can be asked".to_owned())
            }
            // Nobody sends requests to it any more, or all is well.
            (None, _) => return None,
        };
        let regarding = Regarding::pool(PoolGroup::Stable, key.clone(), Arc::clone(&verdict.uid));
        Some(Notice { regarding, reason, message })
    }
}

#[cfg(test)]
mod tests;
