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
    /// Seconds between two output tokens, as the bits of an `f32`; 0 until observed.
    tpot: AtomicU32,
    tally: Tally,
}

/// How much one observation of the time between tokens moves the average.
const TPOT_WEIGHT: f32 = 0.25;

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
}

impl EndpointCell {
    pub(crate) fn new(id: EndpointId) -> Self {
        Self {
            id,
            in_flight: AtomicU32::new(0),
            in_flight_tokens: AtomicU64::new(0),
            streaming: AtomicU32::new(0),
            tpot: AtomicU32::new(0),
            tally: Tally::default(),
        }
    }

    /// Seconds between two output tokens of one response, as a moving average over the responses that passed; `None`
    /// until one did. Slow servers, and servers with large batches, have large ones.
    pub fn tpot(&self) -> Option<f32> {
        let tpot = f32::from_bits(self.tpot.load(Ordering::Relaxed));
        (tpot > 0.0).then_some(tpot)
    }

    /// Takes in the time between two output tokens, seen over several tokens of one response.
    pub fn observe_tpot(&self, observed: Duration) {
        let observed = observed.as_secs_f32().max(f32::MIN_POSITIVE);
        let moved = self.tpot().map_or(observed, |average| average + TPOT_WEIGHT * (observed - average));
        // Of two observations at once one may be lost: it is an average.
        self.tpot.store(moved.to_bits(), Ordering::Relaxed);
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
}

impl InFlight {
    pub(crate) fn count(cell: &Arc<EndpointCell>, tokens: u64) -> Self {
        cell.in_flight.fetch_add(1, Ordering::Relaxed);
        cell.in_flight_tokens.fetch_add(tokens, Ordering::Relaxed);
        Self { cell: Arc::clone(cell), tokens, streaming: false }
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

    /// Moves the load to the endpoint that really served, after the gateway went down the list.
    pub fn move_to(&mut self, cell: &Arc<EndpointCell>) {
        if !Arc::ptr_eq(&self.cell, cell) {
            let streaming = self.streaming;
            *self = Self::count(cell, self.tokens);
            if streaming {
                self.response_began();
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.cell.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.cell.in_flight_tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        if self.streaming {
            self.cell.streaming.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
