//! Pods, and what becomes of them: every change is one call, and one event for whoever watches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::pod;
use crate::control_plane::Namespace;

/// Pods that are created at once.
const CREATED_AT_ONCE: usize = 16;
/// Calls under way at once beyond which changes wait for the API server.
const CALLS: usize = 64;
/// How often progress is told while pods are created.
const TELL_EVERY: usize = 1000;
/// Of so many pods one is absent, coming or not ready, on average.
const AWAY: usize = 50;

/// The pods of a namespace.
pub(super) struct Fleet {
    /// How large a pod is as JSON, as watchers get it.
    pub(super) pod_bytes: usize,
    pods: Api<Pod>,
    population: Arc<Mutex<Population>>,
}

/// The pods between two changes. One that is being changed is in neither list.
struct Population {
    serving: Vec<Slot>,
    /// Those who come back first in front.
    away: VecDeque<Slot>,
    /// Addresses that nobody has, the one given up last at the end.
    free: Vec<IpAddr>,
    size: usize,
    random: SmallRng,
}

/// A pod's place in its pool.
struct Slot {
    number: usize,
    pool: String,
    /// Counts the pods of this place.
    generation: u32,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Absent,
    /// There, without an address.
    Pending,
    Ready(IpAddr),
    NotReady(IpAddr),
}

/// What becomes of a pod. An address that it takes is free no more, one that it gives up is free only afterwards.
#[derive(Clone, Copy)]
enum Step {
    Create,
    /// It gets an address, and is ready.
    Start(IpAddr),
    SetReady(IpAddr, bool),
    /// It goes on at another address than the first one.
    Move(IpAddr, IpAddr),
    Delete(IpAddr),
}

impl Slot {
    /// Half of the places always give their pods the same name, as a StatefulSet does.
    fn name(&self) -> String {
        match self.number % 2 {
            0 => format!("server-{}", self.number),
            _ => format!("server-{}-{}", self.number, self.generation),
        }
    }
}

impl Fleet {
    /// Creates `size` pods, all ready, in turn for each pool.
    pub(super) async fn create(
        namespace: &Namespace<'_>,
        pools: &[String],
        size: usize,
        octet: u8,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        // Some more than pods, so that a pod that moves finds one.
        let address = |number: usize| IpAddr::V4(Ipv4Addr::from((10 << 24) + (u32::from(octet) << 16) + number as u32));
        let free: Vec<IpAddr> = (1..=size + AWAY).map(address).collect();
        let random = SmallRng::seed_from_u64(u64::from(octet));
        let population = Population { serving: Vec::new(), away: VecDeque::new(), free, size, random };
        let mut fleet = Self { pod_bytes: 0, pods: namespace.api(), population: Arc::new(Mutex::new(population)) };
        let slots = (0..size).map(|number| {
            let pool = pools[number % pools.len()].clone();
            Slot { number, pool, generation: 0, state: State::Absent }
        });
        let create = |mut slot: Slot| {
            let (pods, population) = (&fleet.pods, &fleet.population);
            async move {
                perform(pods, &mut slot, Step::Create).await?;
                let address = lock(population).free.pop().context("no address is free")?;
                perform(pods, &mut slot, Step::Start(address)).await?;
                lock(population).serving.push(slot);
                anyhow::Ok(())
            }
        };
        let mut created = futures::stream::iter(slots).map(create).buffer_unordered(CREATED_AT_ONCE);
        let mut count = 0;
        while created.try_next().await?.is_some() {
            count += 1;
            if count % TELL_EVERY == 0 {
                progress(&format!("{count} of {size} pods created"));
            }
        }
        drop(created);
        let some = fleet.pods.list(&ListParams::default().limit(1)).await?.items;
        fleet.pod_bytes = serde_json::to_vec(&some)?.len();
        Ok(fleet)
    }

    /// Changes pods at `rate` a second for `window`; how many changes were made.
    pub(super) async fn churn(&self, rate: f64, window: Duration) -> Result<u64> {
        let end = Instant::now() + window;
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut calls: JoinSet<Result<()>> = JoinSet::new();
        let mut changes = 0;
        while Instant::now() < end {
            ticks.tick().await;
            let ended = if calls.len() < CALLS { calls.try_join_next() } else { calls.join_next().await };
            if let Some(ended) = ended {
                ended??;
                changes += 1;
            }
            let Some((mut slot, step)) = lock(&self.population).next() else { continue };
            let (pods, population) = (self.pods.clone(), Arc::clone(&self.population));
            calls.spawn(async move {
                perform(&pods, &mut slot, step).await?;
                lock(&population).put_back(slot, step);
                Ok(())
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
            changes += 1;
        }
        Ok(changes)
    }

    /// The addresses of ready pods as the API server lists them now, by pool.
    pub(super) async fn listed(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in self.pods.list(&ListParams::default()).await? {
            let pool = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).context("a pod of no pool")?;
            let status = pod.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let addresses = listed.entry(pool.clone()).or_default();
            if let Some(ip) = status.pod_ip.filter(|_| is_ready && pod.metadata.deletion_timestamp.is_none()) {
                addresses.insert(format!("{ip}:{}", pod::PORT));
            }
        }
        Ok(listed)
    }
}

impl Population {
    /// Whose turn it is, and what becomes of it; `None` while everybody is being changed.
    fn next(&mut self) -> Option<(Slot, Step)> {
        let slot = if self.away.len() > self.size / AWAY || self.serving.is_empty() {
            self.away.pop_front()?
        } else {
            let place = self.random.random_range(0..self.serving.len());
            self.serving.swap_remove(place)
        };
        let step = match slot.state {
            State::Absent => Step::Create,
            State::Pending => Step::Start(self.free.pop()?),
            State::NotReady(ip) => Step::SetReady(ip, true),
            State::Ready(ip) => match (self.random.random_range(0..10), self.free.pop()) {
                (0, Some(other)) => Step::Move(ip, other),
                (drawn, unused) => {
                    self.free.extend(unused);
                    if drawn < 4 { Step::Delete(ip) } else { Step::SetReady(ip, false) }
                }
            },
        };
        Some((slot, step))
    }

    fn put_back(&mut self, slot: Slot, step: Step) {
        if let Step::Delete(ip) | Step::Move(ip, _) = step {
            self.free.push(ip);
        }
        match slot.state {
            State::Ready(_) => self.serving.push(slot),
            _ => self.away.push_back(slot),
        }
    }
}

/// Makes one call, and notes in the slot what came of it.
async fn perform(pods: &Api<Pod>, slot: &mut Slot, step: Step) -> Result<()> {
    if matches!(step, Step::Create) {
        slot.generation += 1;
    }
    let name = slot.name();
    let status = |status: Value| {
        let name = &name;
        async move { pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.map(|_| ()) }
    };
    let made = match step {
        Step::Create => pods.create(&PostParams::default(), &pod::planned(&name, &slot.pool)?).await.map(|_| ()),
        Step::Start(ip) => status(pod::running(ip)).await,
        Step::SetReady(_, is) => status(pod::readiness(is)).await,
        Step::Move(_, ip) => status(pod::address(ip)).await,
        Step::Delete(_) => pods.delete(&name, &DeleteParams::default().grace_period(0)).await.map(|_| ()),
    };
    made.with_context(|| format!("changing pod {name}"))?;
    slot.state = match step {
        Step::Create => State::Pending,
        Step::Start(ip) | Step::SetReady(ip, true) | Step::Move(_, ip) => State::Ready(ip),
        Step::SetReady(ip, false) => State::NotReady(ip),
        Step::Delete(_) => State::Absent,
    };
    Ok(())
}

fn lock(population: &Mutex<Population>) -> std::sync::MutexGuard<'_, Population> {
    population.lock().unwrap_or_else(PoisonError::into_inner)
}
