//! What passes the pickers, beside what the model servers say that they have to do.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::report::Finding;
use crate::kubectl::admin_client::{Replicas, percent_encoded};
use crate::kubectl::pages::{DecisionPage, EndpointPage, PoolPage};
use crate::kubectl::table::count;

/// How long traffic is watched, and how often it is looked at.
const WINDOW: Duration = Duration::from_secs(2);
const LOOKS: u32 = 8;

/// What was seen in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    /// Decisions of all replicas.
    decisions: u64,
    /// The most requests that all replicas together had in flight.
    in_flight: f64,
    /// The most requests that the servers said to have.
    at_servers: f64,
    /// The fewest requests of the servers that no replica had sent there: a request that has just ended is counted by
    /// the last scrape still, but not in every look.
    strangers: f64,
}

/// How many decisions all replicas took so far, in these pools.
pub(super) async fn decisions(replicas: &mut Replicas, pools: &[String]) -> Result<u64> {
    let mut all: u64 = 0;
    for pool in pools {
        let page = format!("/debug/decisions?limit=1&pool={}", percent_encoded(pool));
        for said in replicas.pages::<Vec<DecisionPage>>(&page).await {
            all = all.saturating_add(said.page?.first().map_or(0, |newest| newest.sequence));
        }
    }
    Ok(all)
}

/// Watches the pools for a moment.
pub(super) async fn watch(replicas: &mut Replicas, pools: &[String]) -> Result<Traffic> {
    let before = decisions(replicas, pools).await?;
    let mut traffic = Traffic { strangers: f64::INFINITY, ..Traffic::default() };
    for _ in 0..LOOKS {
        sleep(WINDOW / LOOKS).await;
        let mut pages = Vec::new();
        for said in replicas.pages::<Vec<PoolPage>>("/debug/pools").await {
            pages.push(said.page?);
        }
        let mut now = Traffic::default();
        for pool in pools {
            now.look(pages.iter().filter_map(|pages| pages.iter().find(|page| page.name == *pool)));
        }
        traffic.in_flight = traffic.in_flight.max(now.in_flight);
        traffic.at_servers = traffic.at_servers.max(now.at_servers);
        traffic.strangers = traffic.strangers.min(now.strangers);
    }
    traffic.decisions = decisions(replicas, pools).await?.saturating_sub(before);
    Ok(traffic)
}

impl Traffic {
    /// Adds one pool, as each replica sees it.
    fn look<'a>(&mut self, seen: impl Iterator<Item = &'a PoolPage> + Clone) {
        let Some(first) = seen.clone().next() else { return };
        for endpoint in &first.endpoints {
            let same = |page: &'a PoolPage| page.endpoints.iter().filter(|other| other.address == endpoint.address);
            let of_all: Vec<&EndpointPage> = seen.clone().flat_map(same).collect();
            let ours: f64 = of_all.iter().map(|page| page.in_flight as f64).sum();
            let told = |page: &&&EndpointPage| page.telemetry_fresh;
            let has = of_all.iter().filter(told).map(|page| page.waiting.unwrap_or(0.0) + page.running.unwrap_or(0.0));
            let has = has.fold(0.0, f64::max);
            self.in_flight += ours;
            self.at_servers += has;
            self.strangers += (has - ours).max(0.0);
        }
    }

    /// What that says of the gateway.
    pub(super) fn judge(self) -> Finding {
        let Self { decisions, in_flight, at_servers, strangers } = self;
        let strange = strangers.round();
        let (decided, seconds) =
            (count(usize::try_from(decisions).unwrap_or(usize::MAX), "decision"), WINDOW.as_secs());
        let is_asked = decisions > 0 || in_flight > 0.0;
        match (is_asked, strange > 0.0) {
            (true, false) => Finding::ok(format!(
                "requests come through the picker: {decided} in {seconds} s, and the servers have no others"
            )),
            (true, true) => Finding::warn(
                format!(
                    "{decided} in {seconds} s, but {strange} of {at_servers} requests at the servers came past these pickers"
                ),
                "another gateway, a client of the servers' own, or a replica that was not asked here; --gateway-url URL \
                 tells what one gateway does",
            ),
            (false, true) => Finding::fail(
                format!(
                    "the servers have {strange} requests, and the picker was asked for none in {seconds} s: requests bypass it"
                ),
                super::gateway::BYPASS,
            ),
            (false, false) => Finding::warn(
                format!("no request came within {seconds} s, so it cannot be told whether the gateway asks the picker"),
                "give --gateway-url URL: one tiny completion is sent through it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Mark;
    use super::*;

    fn page(in_flight: u64, running: f64) -> PoolPage {
        let endpoint = json!({"address": "10.0.0.1:8000", "inFlight": in_flight, "waiting": 0.0, "running": running, "telemetryFresh": true});
        serde_json::from_value(json!({"name": "prod/chat", "endpoints": [endpoint]})).unwrap()
    }

    #[test]
    fn requests_at_the_servers_are_those_of_all_replicas_together() {
        let mut traffic = Traffic::default();
        traffic.look([page(3, 7.0), page(4, 6.0)].iter());
        assert_eq!(traffic, Traffic { decisions: 0, in_flight: 7.0, at_servers: 7.0, strangers: 0.0 });
        let mut traffic = Traffic::default();
        traffic.look([page(1, 6.0)].iter());
        assert_eq!((traffic.in_flight, traffic.strangers), (1.0, 5.0));
    }

    #[test]
    fn what_nobody_decided_is_a_bypass() {
        let traffic = |decisions, in_flight, strangers| Traffic {
            decisions,
            in_flight,
            at_servers: in_flight + strangers,
            strangers,
        };
        let table = [
            (traffic(9, 2.0, 0.0), Mark::Ok, "9 decisions in 2 s"),
            (traffic(0, 2.0, 0.0), Mark::Ok, "0 decisions"),
            (traffic(9, 2.0, 5.0), Mark::Warn, "5 of 7 requests"),
            (traffic(0, 0.0, 5.0), Mark::Fail, "requests bypass it"),
            (traffic(0, 0.0, 0.0), Mark::Warn, "no request came"),
        ];
        for (traffic, mark, expected) in table {
            let finding = traffic.judge();
            assert!(finding.mark == mark && finding.text.contains(expected), "{finding:?}");
        }
    }
}
