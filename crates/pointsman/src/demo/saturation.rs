//! `pointsman demo --find-saturation`: the highest open-loop rate that round robin bears.
//!
//! A rate is borne when the queues stay flat. The rate is kept up until conversations overlap as they will go on to
//! ([`WARM_UP`]), and for [`WINDOW`] more the requests that wait in all servers are counted every quarter of a second.
//! The queues are flat when, in the mean, at most [`GROWTH`] requests more wait in the window's last third than in its
//! first: one a server. The thirds' middles are 40 s apart, so a slow server that gets 3 % more than it can do, which
//! is half a request a second for every six seconds, is told from one that keeps up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::children::Children;
use super::progress::Display;
use super::scenario;
use super::stage::Stage;
use super::strategy::Strategy;
use super::trial::{LoadSample, Order, perform};

/// How long a rate goes on before it is judged.
const WARM_UP: Duration = Duration::from_secs(20);
/// How long queues must stay flat.
const WINDOW: Duration = Duration::from_secs(60);
/// How many more requests may wait in the last third of the window than in the first.
const GROWTH: f64 = 6.0;
/// The first rate, the factor by which rates rise until one is too much, and how close the two ends of the search come.
const FIRST_RATE: f64 = 12.0;
const RISE: f64 = 1.25;
const CLOSE: f64 = 1.03;
/// Rates that are tried at most.
const MOST_PROBES: usize = 16;

/// One rate that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    /// Requests a second.
    pub(super) rate: f64,
    pub(super) queues: Queues,
    pub(super) is_flat: bool,
}

/// The requests that waited, in the mean over a third of the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Queues {
    pub(super) waiting_first: f64,
    pub(super) waiting_last: f64,
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saturation {
    /// The highest rate, in requests a second, whose queues were flat.
    pub(super) round_robin_saturation: f64,
    /// What the demo would load the servers with.
    pub(super) demo_rate: f64,
    /// Everything that was tried, in order.
    pub(super) probes: Vec<Probe>,
}

/// Narrows down where flat ends: rising until a rate is too much, then halving the distance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Search {
    /// The highest rate that was borne; 0 before there is one.
    borne: f64,
    /// The lowest that was not; absent before there is one.
    too_much: Option<f64>,
}

impl Queues {
    /// Of the samples within the window.
    fn of(loads: &[LoadSample]) -> Self {
        let (start, third) = (WARM_UP.as_secs_f64(), WINDOW.as_secs_f64() / 3.0);
        let mean = |from: f64| {
            let within = loads.iter().filter(|load| (from..from + third).contains(&load.at));
            let (count, sum) = within.fold((0usize, 0), |(count, sum), load| (count + 1, sum + load.waiting_in_all()));
            sum as f64 / count.max(1) as f64
        };
        Self { waiting_first: mean(start), waiting_last: mean(start + 2.0 * third) }
    }

    fn are_flat(self) -> bool {
        self.waiting_last - self.waiting_first <= GROWTH
    }
}

impl Search {
    /// The next rate to try; absent when the two ends are close enough.
    fn next(self) -> Option<f64> {
        match self.too_much {
            None if self.borne == 0.0 => Some(FIRST_RATE),
            None => Some(self.borne * RISE),
            Some(too_much) if self.borne > 0.0 && too_much / self.borne <= CLOSE => None,
            Some(too_much) => Some((self.borne + too_much) / 2.0),
        }
    }

    fn learn(&mut self, rate: f64, is_flat: bool) {
        if is_flat {
            self.borne = rate;
        } else {
            self.too_much = Some(rate);
        }
    }
}

/// Tries rates until it is known.
pub(super) async fn find(
    seed: u64,
    stage: &Stage,
    children: &mut Children,
    display: &mut Display,
) -> Result<Saturation> {
    let mut search = Search { borne: 0.0, too_much: None };
    let mut probes = Vec::new();
    while let Some(rate) = search.next() {
        if probes.len() == MOST_PROBES {
            bail!(
                "round robin's saturation is not found after {MOST_PROBES} rates, the last being {rate:.1} requests/s"
            );
        }
        display.say(&format!("trying {rate:.1} requests/s"));
        let duration = WARM_UP + WINDOW;
        let order = Order {
            strategy: Strategy::RoundRobin,
            workload: Arc::new(scenario::workload(seed, rate, duration.as_secs())),
            duration,
            grace: Duration::ZERO,
        };
        let trial = perform(order, stage, children, display).await?;
        let queues = Queues::of(&trial.loads);
        let probe = Probe { rate, queues, is_flat: queues.are_flat() };
        let verdict = if probe.is_flat { "flat" } else { "growing" };
        let busy = trial.cpu.map_or_else(String::new, |cpu| format!("; cores {:.0} % busy", cpu.busy_percent));
        let Queues { waiting_first, waiting_last } = queues;
        display.say(&format!(
            "{rate:.1} requests/s: queues {verdict}, from {waiting_first:.1} to {waiting_last:.1} waiting{busy}"
        ));
        search.learn(rate, probe.is_flat);
        probes.push(probe);
    }
    let found = search.borne;
    Ok(Saturation { round_robin_saturation: found, demo_rate: found * scenario::SHARE_OF_SATURATION, probes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(waiting: impl Fn(f64) -> f64) -> Vec<LoadSample> {
        let sample = |step: u32| {
            let at = f64::from(step) * 0.25;
            LoadSample { at, running: vec![5, 5], waiting: vec![0, waiting(at).round() as usize] }
        };
        (0..320).map(sample).collect()
    }

    #[test]
    fn queues_that_grow_are_told_from_queues_that_are_long() {
        let cases: [(&str, Vec<LoadSample>, bool); 5] = [
            ("empty", loads(|_| 0.0), true),
            ("long but level", loads(|_| 80.0), true),
            ("grown before the window", loads(|at| 4.0 * at.min(20.0)), true),
            ("growing by a request in four seconds", loads(|at| at / 4.0), false),
            ("shrinking", loads(|at| 100.0 - at), true),
        ];
        for (name, loads, flat) in cases {
            assert_eq!(Queues::of(&loads).are_flat(), flat, "{name}: {:?}", Queues::of(&loads));
        }
    }

    #[test]
    fn the_search_ends_just_below_the_true_saturation() {
        for truth in [3.0, 11.9, 12.0, 21.3, 40.0] {
            let mut search = Search { borne: 0.0, too_much: None };
            let mut tried = 0;
            while let Some(rate) = search.next() {
                search.learn(rate, rate <= truth);
                tried += 1;
            }
            assert!(search.borne <= truth && truth < search.borne * CLOSE, "{truth}: {search:?}");
            assert!(tried <= MOST_PROBES, "{truth} took {tried}");
        }
    }
}
