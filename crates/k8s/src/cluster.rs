//! Following a cluster: every kind's watch, the index over them, and the task that tells what they add up to.

mod absence;
mod kind;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Client;
use pointsman_core::registry::Registry;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;

use self::absence::Absences;
pub use self::kind::Kind;
use crate::api::{ModelGroup, PoolGroup};
use crate::index::{Index, News, Scope, Sight};
use crate::watch::WatchState;

/// Sights on their way to the index.
const SIGHTS: usize = 1024;
/// How long changes are gathered before they are told together.
const GATHER: Duration = Duration::from_millis(5);
/// How long kinds that do not answer hold up the first news once pools and pods are known.
const PATIENCE: Duration = Duration::from_secs(10);

/// How following a cluster goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// How each kind's watch stands.
    pub watches: BTreeMap<Kind, WatchState>,
    /// Kinds that were listed at least once: their objects are known, whatever becomes of the watch.
    pub listed: BTreeSet<Kind>,
    /// Kinds that were not there at least once, so that nobody relied on them. An API server that starts refuses what it
    /// will soon say is not there: that takes no replica out of service.
    pub absent_before: BTreeSet<Kind>,
    /// How many pools of the scope there are.
    pub pools: usize,
    /// Whether the first news were told.
    pub is_settled: bool,
}

/// What a watch tells the task.
enum Message {
    Saw(Box<Sight>),
    Stands(Kind, WatchState),
}

impl ClusterView {
    /// Why the picker cannot serve this cluster yet, each with what would mend it; empty when it can.
    pub fn obstacles(&self, scope: &Scope) -> Vec<String> {
        let is_unknown = |kind| !self.listed.contains(kind) && !self.absent_before.contains(kind);
        let unknown = self.watches.iter().filter(|(kind, _)| is_unknown(kind));
        let unread = unknown.filter_map(|(kind, state)| match state {
            // What may not be read may be what somebody relies on, unless what was read counts in its place.
            WatchState::Forbidden(message) if !self.is_superseded(*kind) => {
                Some(format!("{kind} cannot be watched ({message}): grant get, list and watch"))
            }
            WatchState::Failing(message) if !self.is_settled => Some(format!("{kind} cannot be watched: {message}")),
            _ => None,
        });
        let mut obstacles: Vec<String> = unread.collect();
        let pools = PoolGroup::ALL.map(|group| self.watches.get(&Kind::Pool(group)));
        // With a pool at hand they were there, and an API server that starts does not know them yet.
        if self.pools == 0 && pools.iter().all(|state| *state == Some(&WatchState::Absent)) {
            obstacles.push(
                "no InferencePool CRD is installed: apply one of crds/ or of the Gateway API Inference Extension"
                    .into(),
            );
        } else if let (Scope::Pool(pool), 0, true) = (scope, self.pools, self.is_settled) {
            obstacles.push(format!(
                "the InferencePool {pool} does not exist: create it, or correct --pool-name and --pool-namespace"
            ));
        } else if obstacles.is_empty() && !self.is_settled {
            obstacles.push("the first lists have not come yet".into());
        }
        obstacles
    }

    /// Whether a newer group of the kind was listed, whose objects count before this one's. The newest group of a kind
    /// may hold objects that count before all that was read, whatever else is known.
    fn is_superseded(&self, kind: Kind) -> bool {
        let is_listed = |kind| self.listed.contains(&kind);
        match kind {
            Kind::Pool(group) => newer(PoolGroup::ALL, group).map(Kind::Pool).any(is_listed),
            Kind::Objective(group) => newer(ModelGroup::ALL, group).map(Kind::Objective).any(is_listed),
            Kind::Rewrite(group) => newer(ModelGroup::ALL, group).map(Kind::Rewrite).any(is_listed),
            Kind::Pod | Kind::Slice | Kind::Policy | Kind::Model => false,
        }
    }

    /// Whether pools and pods are known.
    fn has_basics(&self) -> bool {
        let mut pools = PoolGroup::ALL.map(Kind::Pool).into_iter();
        self.listed.contains(&Kind::Pod) && pools.any(|kind| self.listed.contains(&kind))
    }

    /// Whether every one of these kinds is known, or is not to be known for the time being.
    fn is_complete(&self, kinds: &[Kind]) -> bool {
        let is_out_of_reach =
            |kind| matches!(self.watches.get(kind), Some(WatchState::Absent | WatchState::Forbidden(_)));
        kinds.iter().all(|kind| self.listed.contains(kind) || is_out_of_reach(kind))
    }

    /// When the first news are due, `since` being when pools and pods became known; `None` before they are. News of
    /// the part of a cluster would be wrong: pools without members, or scheduled as nobody wants.
    fn settles_at(&self, kinds: &[Kind], since: Option<Instant>) -> Option<Instant> {
        let since = since.filter(|_| self.has_basics())?;
        Some(if self.is_complete(kinds) { since } else { since + PATIENCE })
    }
}

/// Follows these kinds of a cluster for ever: tells `news` whenever something changed, and shows in `view` how it goes.
///
/// Ends only when `news` is no longer taken.
pub async fn follow(
    client: Client,
    scope: Scope,
    kinds: &[Kind],
    registry: Registry,
    news: mpsc::Sender<News>,
    view: channel::Sender<ClusterView>,
) {
    let (tell, mut told) = mpsc::channel(SIGHTS);
    let mut watches: FuturesUnordered<_> =
        kinds.iter().map(|kind| kind.watch(client.clone(), &scope, tell.clone())).collect();
    drop(tell);
    let mut index = Index::new(scope, registry);
    let mut due: Option<Instant> = None;
    let mut has_basics_since: Option<Instant> = None;
    let mut absences = Absences::default();
    loop {
        let deadline = match &*view.borrow() {
            seen if seen.is_settled => due,
            seen => seen.settles_at(kinds, has_basics_since),
        };
        let absence_due = absences.due_at();
        tokio::select! {
            message = told.recv() => match message {
                Some(Message::Saw(sight)) => {
                    index.see(*sight);
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
                Some(Message::Stands(kind, state)) => {
                    absences.stands(kind, &state, Instant::now());
                    stands(&view, kind, state);
                    if view.borrow().has_basics() {
                        has_basics_since.get_or_insert_with(Instant::now);
                    }
                }
                None => return,
            },
            Some(never) = watches.next() => match never {},
            () = news.closed() => return,
            () = at(absence_due) => {
                for kind in absences.take(&view.borrow(), Instant::now()) {
                    kind.absence().into_iter().for_each(|sight| index.see(sight));
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            () = at(deadline) => {
                due = None;
                let changed = index.news();
                // That there is nothing is news, too, at first.
                let is_first = !view.borrow().is_settled;
                if (is_first || !changed.is_empty()) && news.send(changed).await.is_err() {
                    return;
                }
                view.send_if_modified(|view| {
                    let is_news = !view.is_settled || view.pools != index.pools();
                    (view.is_settled, view.pools) = (true, index.pools());
                    is_news
                });
            }
        }
    }
}

/// That moment; never where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The groups of a kind that are newer than `group`; `all` are the newest first.
fn newer<G: PartialEq>(all: impl IntoIterator<Item = G>, group: G) -> impl Iterator<Item = G> {
    all.into_iter().take_while(move |other| *other != group)
}

/// Shows that a watch stands otherwise than before.
fn stands(view: &channel::Sender<ClusterView>, kind: Kind, state: WatchState) {
    match &state {
        WatchState::Starting | WatchState::Synced => tracing::info!(%kind, "watched"),
        WatchState::Absent => tracing::info!(%kind, "the CRD is not installed; looking for it now and then"),
        WatchState::Forbidden(message) => {
            tracing::error!(%kind, message, "not allowed to watch: grant get, list and watch")
        }
        WatchState::Failing(message) => {
            tracing::warn!(%kind, message, "the watch failed; the last state counts meanwhile")
        }
    }
    view.send_modify(|view| {
        match state {
            WatchState::Synced => _ = view.listed.insert(kind),
            WatchState::Absent => _ = view.absent_before.insert(kind),
            WatchState::Starting | WatchState::Forbidden(_) | WatchState::Failing(_) => {}
        }
        view.watches.insert(kind, state);
    });
}
