//! `pointsman demo --find-saturation`: the highest open-loop rate that round robin bears.
//!
//! A rate is kept up until conversations overlap as they will go on to ([`WARM_UP`]), and for [`WINDOW`] more the
//! requests that wait in all servers are counted every quarter of a second. The queues are flat when, in the mean, at
//! most [`GROWTH`] requests more wait in the window's last third than in its first: one a server. The thirds' middles
//! are 40 s apart, so servers that get half a request a second more than they can do, together, are told from servers
//! that keep up.
//!
//! A burst near the end looks like growth, and a lull hides it, so a rate is borne when the queues of two of three
//! workloads are flat: that of the seed and those of the two seeds after it. The servers are the same for all.

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
const CLOSE: f64 = 1.05;
/// How many workloads must agree, of twice as many less one.
const AGREEING: u64 = 2;
/// Rates that are tried at most.
const MOST_RATES: usize = 16;

/// One rate that was tried with one workload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    /// Requests a second.
    pub(super) rate: f64,
    /// The workload's seed.
    pub(super) seed: u64,
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
    for _ in 0..MOST_RATES {
        let Some(rate) = search.next() else {
            let found = search.borne;
            let demo_rate = found * scenario::SHARE_OF_SATURATION;
            return Ok(Saturation { round_robin_saturation: found, demo_rate, probes });
        };
        let (mut flat, mut growing) = (0, 0);
        while flat < AGREEING && growing < AGREEING {
            let probe = probe(rate, seed.wrapping_add(flat + growing), stage, children, display).await?;
            if probe.is_flat {
                flat += 1
            } else {
                growing += 1
            }
            probes.push(probe);
        }
        search.learn(rate, flat == AGREEING);
    }
    bail!("round robin's saturation is not found after {MOST_RATES} rates: are the servers' figures sensible?")
}

/// Keeps one rate up and looks at the queues.
async fn probe(rate: f64, seed: u64, stage: &Stage, children: &mut Children, display: &mut Display) -> Result<Probe> {
    let duration = WARM_UP + WINDOW;
    display.say(&format!("trying {rate:.1} requests/s, workload {seed}"));
    let order = Order {
        strategy: Strategy::RoundRobin,
        workload: Arc::new(scenario::workload(seed, rate, duration.as_secs())),
        duration,
        grace: Duration::ZERO,
    };
    let trial = perform(order, stage, children, display).await?;
    let queues = Queues::of(&trial.loads);
    let is_flat = queues.are_flat();
    let verdict = if is_flat { "flat" } else { "growing" };
    let busy = trial.cpu.map_or_else(String::new, |cpu| format!("; cores {:.0} % busy", cpu.busy_percent));
    let Queues { waiting_first, waiting_last } = queues;
    display.say(&format!("queues {verdict}, from {waiting_first:.1} to {waiting_last:.1} waiting{busy}"));
    Ok(Probe { rate, seed, queues, is_flat })
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
            assert!(tried <= MOST_RATES, "{truth} took {tried}");
        }
    }
}
