//! Writes verdicts into the statuses of the objects that they are about.
//!
//! Each write starts with a fresh read of the object: what stands there decides whether anything has to be said, and
//! keeps `lastTransitionTime` where a condition's status did not change. So a new leader, a repeated verdict and a
//! status that somebody else overwrote are all the same case, and an object that says what is wanted costs one read.
//!
//! How a status is written differs by what its list is to the API server:
//! - `status.conditions` is a map by `type`: server-side apply, forced, of our condition types alone. Another
//!   controller's conditions beside ours stay, and a type that we no longer write goes with our ownership of it.
//! - `status.ancestors`, and a pool's `status.parents`, are atomic, as in all of Gateway API: whoever applies such a
//!   list owns the whole of it, and would throw out what other controllers wrote. So it is read, changed and written back
//!   as a merge patch of that field alone.
//!
//! All carry the `resourceVersion` that was read, so that nothing is written over a change that we have not seen, nor
//! onto an object that was made anew under the same name.

mod docket;
mod patch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::calls::{CallError, Failure, within};
use crate::index::Scope;
use crate::key::ObjectKey;
use crate::verdict::{Subject, Verdict, Verdicts};
use docket::{Docket, Outcome};
use patch::{Change, change};

/// Who we are to server-side apply.
const FIELD_MANAGER: &str = "pointsman";
/// How many objects are written at once.
const WRITES_MAX: usize = 4;
/// How long one request may take.
const CALL: Duration = Duration::from_secs(10);
/// A moment beyond any that matters, for a timer that waits for nothing.
const NEVER: Duration = Duration::from_secs(86_400);

/// What became of verdicts. Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub struct StatusMetrics {
    writes: Family<OutcomeLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

type Write = BoxFuture<'static, (Subject, Arc<Verdict>, Result<Outcome, CallError>)>;

impl StatusMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let writes = Family::default();
        let help = "Statuses of Kubernetes objects that were looked at, by what became of them";
        registry.register("kubernetes_statuses", help, writes.clone());
        Self { writes }
    }

    fn count(&self, outcome: &'static str) {
        self.writes.get_or_create_owned(&OutcomeLabel { outcome }).inc();
    }
}

/// Makes the statuses of all subjects say what the verdicts say, while `holds` is true. Ends when nobody can tell it
/// anything any more.
pub async fn write(
    client: Client,
    scope: Scope,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
    mut holds: watch::Receiver<bool>,
    metrics: StatusMetrics,
) {
    let mut docket = Docket::default();
    let mut writes: FuturesUnordered<Write> = FuturesUnordered::new();
    let (mut leads, mut is_news) = (false, false);
    loop {
        let led = std::mem::replace(&mut leads, *holds.borrow_and_update());
        if leads && (is_news || !led) {
            docket.take(&verdicts.borrow_and_update(), Instant::now());
        } else if led && !leads {
            // Whoever leads now may write other things: what was written before is worth nothing at the next turn.
            docket = Docket::default();
            writes.clear();
        }
        is_news = false;
        while writes.len() < WRITES_MAX {
            let Some((subject, verdict)) = docket.next_due(Instant::now()) else { break };
            let (client, scope) = (client.clone(), scope.clone());
            writes.push(Box::pin(async move {
                let outcome = settle(client, &scope, &subject, &verdict).await;
                (subject, verdict, outcome)
            }));
        }
        let wake_at = docket.due_at().filter(|_| writes.len() < WRITES_MAX);
        tokio::select! {
            changed = verdicts.changed() => match changed {
                Ok(()) => is_news = true,
                Err(_) => return,
            },
            changed = holds.changed() => if changed.is_err() { return },
            Some((subject, verdict, outcome)) = writes.next() => {
                metrics.count(match &outcome {
                    Ok(Outcome::Written) => "written",
                    Ok(Outcome::Unchanged) => "unchanged",
                    Ok(Outcome::Moot) => "moot",
                    Err(error) if error.kind() == Failure::Conflict => "conflict",
                    Err(_) => "failed",
                });
                docket.settled(&subject, &verdict, outcome, Instant::now());
            }
            () = sleep_until(wake_at.unwrap_or_else(|| Instant::now() + NEVER)) => {}
        }
    }
}

/// Reads one object, and writes its status if that does not say what is wanted.
async fn settle(client: Client, scope: &Scope, subject: &Subject, verdict: &Verdict) -> Result<Outcome, CallError> {
    let ObjectKey { namespace, name } = &subject.key;
    let resource = subject.kind.resource();
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
    let Some(found) = within(CALL, api.get_opt(name)).await? else { return Ok(Outcome::Moot) };
    let Some(change) = change(&resource, scope, verdict, &found, Timestamp::now()) else {
        return Ok(Outcome::Unchanged);
    };
    let (params, patch) = match change {
        Change::Moot => return Ok(Outcome::Moot),
        Change::Apply(body) => (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(body)),
        Change::Merge(body) => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            (params, Patch::Merge(body))
        }
    };
    match within(CALL, api.patch_subresource("status", name, &params, &patch)).await {
        Ok(_) => Ok(Outcome::Written),
        Err(error) if error.kind() == Failure::Absent => Ok(Outcome::Moot),
        Err(error) => Err(error),
    }
}
