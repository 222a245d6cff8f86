//! Endpoints: what one model-server address is, and what the picker itself knows of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Where an endpoint lives in memory: a slot number, and which tenant of that slot it is.
///
/// Slots are reused, generations never: what belonged to a pod that went away carries an old generation and reads as
/// absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// Index into everything that is kept by slot.
    pub slot: u32,
    /// Counts the tenants of this slot, from 1.
    pub generation: u32,
}

/// One address of a model server, with its static attributes. Written by the membership source, never changed after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What makes it the same endpoint over time: the pod's UID in Kubernetes, the name in a file. Unique with the port.
    pub uid: Arc<str>,
    /// The name people know it by: the pod's name, or the name in the file.
    pub name: Arc<str>,
    /// The namespace of the pod; `default` where nobody said.
    pub namespace: Arc<str>,
    /// Where it takes requests, as the gateway must dial it.
    pub address: SocketAddr,
    /// The port of its `/metrics`; the serving port unless said otherwise.
    pub metrics_port: u16,
    /// The engine that it runs, which tells how to read its metrics; `None` means the policy's default.
    pub engine: Option<Arc<str>>,
    /// The pod's labels, or those of the file.
    pub labels: BTreeMap<String, String>,
    /// Whether somebody took it out of new picks. It stays a member, so that nothing that was learnt of it is lost.
    pub is_cordoned: bool,
}

impl Endpoint {
    /// An endpoint with a name and an address and nothing else said: no labels, metrics on the serving port.
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            uid: name.into(),
            name: name.into(),
            namespace: "default".into(),
            address,
            metrics_port: address.port(),
            engine: None,
            labels: BTreeMap::new(),
            is_cordoned: false,
        }
    }

    /// Whether `other` is this endpoint at a later time: what was learnt of the one then holds for the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.uid == other.uid && self.address == other.address
    }
}

/// What the picker itself counts of one endpoint: the mutable half, shared by every snapshot that lists the endpoint.
///
/// A new tenant of a slot gets a new cell, so a request that outlives its pod releases what nobody reads any more.
#[derive(Debug)]
pub struct EndpointCell {
    id: EndpointId,
    in_flight: AtomicU32,
    in_flight_tokens: AtomicU64,
    streaming: AtomicU32,
    /// Prompt tokens in flight that are still to be computed.
    prefill_tokens: AtomicU64,
    /// Prompt tokens computed a second.
    prefill_rate: Average,
    /// Seconds between two output tokens.
    tpot: Average,
    tally: Tally,
}

/// A moving average of what is observed: the bits of an `f32`, 0 until the first observation.
#[derive(Debug, Default)]
struct Average(AtomicU32);

impl Average {
    /// How much one observation moves it.
    const WEIGHT: f32 = 0.25;

    fn get(&self) -> Option<f32> {
        let average = f32::from_bits(self.0.load(Ordering::Relaxed));
        (average > 0.0).then_some(average)
    }

    /// Of two observations at once one may be lost: it is an average.
    fn observe(&self, observed: f32) {
        let observed = observed.max(f32::MIN_POSITIVE);
        let moved = self.get().map_or(observed, |average| average + Self::WEIGHT * (observed - average));
        self.0.store(moved.to_bits(), Ordering::Relaxed);
    }
}

/// Totals of one endpoint's finished requests since it joined the pool. Only ever grow.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered, with whatever status.
    pub answered: AtomicU64,
    /// Of those, the ones answered with a status of 500 or more; and those that failed without an answer.
    pub failed: AtomicU64,
    /// Prompt tokens, as the server counted them.
    pub prompt_tokens: AtomicU64,
    /// Prompt tokens that the server found in its cache.
    pub cached_tokens: AtomicU64,
    /// Output tokens, as the server counted them.
    pub output_tokens: AtomicU64,
    /// Streamed answers whose first token came.
    pub first_tokens: AtomicU64,
    /// Time from the pick to those first tokens, all of them together, in microseconds.
    pub ttft_micros: AtomicU64,
}

impl EndpointCell {
    pub(crate) fn new(id: EndpointId) -> Self {
        Self {
            id,
            in_flight: AtomicU32::new(0),
            in_flight_tokens: AtomicU64::new(0),
            streaming: AtomicU32::new(0),
            prefill_tokens: AtomicU64::new(0),
            prefill_rate: Average::default(),
            tpot: Average::default(),
            tally: Tally::default(),
        }
    }

    /// Seconds between two output tokens of one response, as a moving average over the responses that passed; `None`
    /// until one did. Slow servers, and servers with large batches, have large ones.
    pub fn tpot(&self) -> Option<f32> {
        self.tpot.get()
    }

    /// Takes in the time between two output tokens, seen over several tokens of one response.
    pub fn observe_tpot(&self, observed: Duration) {
        self.tpot.observe(observed.as_secs_f32());
    }

    /// Prompt tokens of requests in flight that the server had not in its cache when it was picked and has not answered
    /// yet: its prefill backlog. Requests that are not streamed never say when their prompt was computed, and do not count.
    pub fn prefill_tokens(&self) -> u64 {
        self.prefill_tokens.load(Ordering::Relaxed)
    }

    /// Prompt tokens that it computes in a second, as a moving average over the first tokens that passed; `None` until
    /// one followed enough of them. What else the server did meanwhile is in it.
    pub fn prefill_rate(&self) -> Option<f32> {
        self.prefill_rate.get()
    }

    /// Totals of its finished requests.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whose cell it is.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Requests picked for this endpoint by this process and not yet finished.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Prompt tokens of those requests, as estimated at the pick.
    pub fn in_flight_tokens(&self) -> u64 {
        self.in_flight_tokens.load(Ordering::Relaxed)
    }

    /// Of those requests, the ones whose response has begun.
    pub fn streaming(&self) -> u32 {
        self.streaming.load(Ordering::Relaxed)
    }
}

/// One request's share of an endpoint's load: counted when made, given back exactly once, when dropped.
#[derive(Debug)]
pub struct InFlight {
    cell: Arc<EndpointCell>,
    tokens: u64,
    streaming: bool,
    prefill: Prefill,
}

/// What a request gives its server to compute before the first token comes.
#[derive(Clone, Copy, Debug, Default)]
struct Prefill {
    /// Its own prompt tokens that are still to be computed; 0 once they are.
    own: u64,
    /// Those and what lay before them at the pick.
    ahead: u64,
}

/// From so many tokens on, the time to the first one tells how fast prompts are computed: with fewer it is the time of
/// a step, and of the way.
const TELLING_PREFILL: u64 = 512;

impl InFlight {
    /// Counts a request of `tokens` prompt tokens, `uncached` of which are to be computed before it answers.
    pub(crate) fn count(cell: &Arc<EndpointCell>, tokens: u64, uncached: u64) -> Self {
        cell.in_flight.fetch_add(1, Ordering::Relaxed);
        cell.in_flight_tokens.fetch_add(tokens, Ordering::Relaxed);
        let before = cell.prefill_tokens.fetch_add(uncached, Ordering::Relaxed);
        let prefill = Prefill { own: uncached, ahead: before.saturating_add(uncached) };
        Self { cell: Arc::clone(cell), tokens, streaming: false, prefill }
    }

    /// Whose load it is.
    pub fn cell(&self) -> &Arc<EndpointCell> {
        &self.cell
    }

    /// Counts the response as begun.
    pub fn response_began(&mut self) {
        if !self.streaming {
            self.streaming = true;
            self.cell.streaming.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The first token came, or none will be seen: the prompt is no longer ahead of others. `after` is the time since
    /// the pick, where it tells how long computing took.
    pub fn prompt_computed(&mut self, after: Option<Duration>) {
        let Prefill { own, ahead } = std::mem::take(&mut self.prefill);
        if own == 0 {
            return;
        }
        self.cell.prefill_tokens.fetch_sub(own, Ordering::Relaxed);
        if let Some(after) = after.filter(|after| !after.is_zero() && ahead >= TELLING_PREFILL) {
            self.cell.prefill_rate.observe(ahead as f32 / after.as_secs_f32());
        }
    }

    /// Moves the load to the endpoint that really served, after the gateway went down the list.
    pub fn move_to(&mut self, cell: &Arc<EndpointCell>) {
        if !Arc::ptr_eq(&self.cell, cell) {
            let streaming = self.streaming;
            *self = Self::count(cell, self.tokens, self.prefill.own);
            if streaming {
                self.response_began();
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.prompt_computed(None);
        self.cell.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.cell.in_flight_tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        if self.streaming {
            self.cell.streaming.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
