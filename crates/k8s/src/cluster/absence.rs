//! When a kind that the API server says it does not know counts as not there.
//!
//! An API server that has just been started serves Pods at once, and says of every custom resource for a moment that it
//! does not know it; one of several may lag behind the others. So the answer is believed when it was the only one for
//! [`LASTING`], during which the Pods and the InferencePools of some group, custom resources too, were watched without a
//! break. InferencePools are never believed to be gone: without that, nothing would be left to serve, and the price of
//! a last state that counts on is small. Neither are Pods and EndpointSlices, which no API server lacks.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{ClusterView, Kind};
use crate::api::PoolGroup;
use crate::watch::WatchState;

/// How long a kind must be unknown to the API server.
pub(super) const LASTING: Duration = Duration::from_secs(30);

/// The kinds that the API server does not know, and since when nothing spoke against that.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<Kind, Instant>);

impl Absences {
    /// Takes in that a watch stands otherwise than before.
    pub(super) fn stands(&mut self, kind: Kind, state: &WatchState, now: Instant) {
        match (kind, state) {
            // The API server may be another one than before.
            (Kind::Pod | Kind::Pool(_), _) => self.0.values_mut().for_each(|since| *since = now),
            (Kind::Slice, _) => {}
            (_, WatchState::Absent) => _ = self.0.insert(kind, now),
            _ => _ = self.0.remove(&kind),
        }
    }

    /// When [`Self::take`] is to be asked next.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.0.values().min().map(|since| *since + LASTING)
    }

    /// The kinds that are not there, each told once.
    pub(super) fn take(&mut self, view: &ClusterView, now: Instant) -> Vec<Kind> {
        let is_synced = |kind| view.watches.get(&kind) == Some(&WatchState::Synced);
        if !(is_synced(Kind::Pod) && PoolGroup::ALL.map(Kind::Pool).into_iter().any(is_synced)) {
            self.0.values_mut().for_each(|since| *since = now);
        }
        let due: Vec<Kind> =
            self.0.iter().filter(|(_, since)| **since + LASTING <= now).map(|(kind, _)| *kind).collect();
        due.iter().for_each(|kind| _ = self.0.remove(kind));
        due
    }
}
