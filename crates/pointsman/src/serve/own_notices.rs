//! What a replica itself notices about its pools, and nothing in the cluster says: that it leads, and that endpoints do
//! not tell their load.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use pointsman_core::endpoint::EndpointId;
use pointsman_k8s::events::{Notice, NoticeReason, Regarding};
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease::HaMode;

use super::pools::{RunningPools, Unheard};

/// So many scrapes in a row must have failed before anybody is told: one may be lost.
const FAILURES: u32 = 3;
/// So many endpoints are named in one notice.
const NAMED: usize = 3;

/// The pools as far as notices are about them.
pub(crate) struct OwnNotices {
    /// What holding the Lease means, as a sentence about this replica.
    leads: String,
    holds: bool,
    pools: HashMap<ObjectKey, Known>,
}

/// A pool that runs.
struct Known {
    object: Regarding,
    /// The endpoints of which it was told that scraping them fails, and which have failed since.
    told: HashSet<EndpointId>,
}

impl OwnNotices {
    pub(crate) fn new(identity: &str, mode: HaMode) -> Self {
        let leads = match mode {
            HaMode::Leader => format!("{identity} serves, and writes statuses and Events"),
            HaMode::ActiveActive => format!("{identity} writes statuses and Events; all replicas serve"),
        };
        Self { leads, holds: false, pools: HashMap::new() }
    }

    /// Takes note of a pool, and of which object it is now.
    pub(crate) fn know(&mut self, object: Regarding) -> Option<Notice> {
        let is_new = self.pools.get(&object.key).is_none_or(|known| known.object.uid != object.uid);
        if !is_new {
            return None;
        }
        let notice = self.holds.then(|| self.lead(&object));
        self.pools.insert(object.key.clone(), Known { object, told: HashSet::new() });
        notice
    }

    /// Forgets a pool that is gone.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.pools.remove(key);
    }

    /// Takes note of whether this replica holds the Lease.
    pub(crate) fn holds(&mut self, holds: bool) -> Vec<Notice> {
        if !std::mem::replace(&mut self.holds, holds) && holds {
            self.pools.values().map(|known| self.lead(&known.object)).collect()
        } else {
            Vec::new()
        }
    }

    /// Looks how scraping goes. What was told is told again only when it got worse.
    pub(crate) fn look(&mut self, pools: &RunningPools) -> Vec<Notice> {
        let look = |(key, known): (&ObjectKey, &mut Known)| {
            let (unheard, all) = pools.unheard(&key.to_string(), FAILURES);
            known.scrapes(&unheard, all)
        };
        self.pools.iter_mut().filter_map(look).collect()
    }

    fn lead(&self, object: &Regarding) -> Notice {
        Notice { regarding: object.clone(), reason: NoticeReason::BecameLeader, message: self.leads.clone() }
    }
}

impl Known {
    /// What is to be told when these of `all` endpoints are not heard.
    fn scrapes(&mut self, unheard: &[Unheard], all: usize) -> Option<Notice> {
        let failing: HashSet<EndpointId> = unheard.iter().map(|unheard| unheard.id).collect();
        let is_worse = !failing.is_subset(&self.told);
        self.told = failing;
        if !is_worse {
            return None;
        }
        let named = unheard.iter().take(NAMED).map(|Unheard { name, error, .. }| format!("{name}: {error}"));
        let mut message = format!(
            "{} of {all} endpoints do not tell their load, and are picked without it: {}",
            unheard.len(),
            named.collect::<Vec<_>>().join("; ")
        );
        if let more @ 1.. = unheard.len().saturating_sub(NAMED) {
            message += &format!("; and {more} more");
        }
        Some(Notice { regarding: self.object.clone(), reason: NoticeReason::ScrapeFailing, message })
    }
}
