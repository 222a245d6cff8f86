//! One Envoy's stream: what it asked for, what it was told, and what it has yet to be told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use pointsman_core::snapshot::Members;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::Shared;
use super::assignment::{ENDPOINT_TYPE, assignment};

/// The longest name of a pool: a namespace, a slash, and a name, with room.
const MAX_NAME_BYTES: usize = 512;
/// How much of an Envoy's complaint is logged.
const MAX_LOGGED_CHARS: usize = 500;

/// A stream's state. Owned by its task.
pub(super) struct EdsStream {
    shared: Arc<Shared>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    /// The pools that the newest request names.
    wanted: BTreeMap<String, Told>,
    /// Who asks, from the first request; empty before it.
    node: String,
}

/// What the Envoy was told of a pool; nothing at first.
#[derive(Default)]
struct Told {
    /// The members at the last look. Held, so that their address in memory stays theirs.
    members: Option<Arc<Members>>,
    /// The addresses last sent.
    addresses: Option<Vec<SocketAddr>>,
}

impl Told {
    /// The addresses to send, where they are not the ones last sent: members also change by labels alone.
    fn news(&mut self, members: &Arc<Members>) -> Option<&[SocketAddr]> {
        if self.members.as_ref().is_some_and(|told| Arc::ptr_eq(told, members)) {
            return None;
        }
        self.members = Some(Arc::clone(members));
        // A cordoned endpoint keeps what it has, and gets nothing new, not even while no picker answers.
        let taking = members.endpoints.iter().filter(|endpoint| !endpoint.is_cordoned);
        let addresses: Vec<_> = taking.map(|endpoint| endpoint.address).collect();
        if self.addresses.as_ref() == Some(&addresses) {
            return None;
        }
        Some(self.addresses.insert(addresses))
    }
}

impl EdsStream {
    pub(super) fn new(shared: Arc<Shared>, responses: mpsc::Sender<Result<DiscoveryResponse, Status>>) -> Self {
        Self { shared, responses, wanted: BTreeMap::new(), node: String::new() }
    }

    /// Serves until the Envoy leaves, breaks the protocol, or the service closes.
    pub(super) async fn run(mut self, mut requests: Streaming<DiscoveryRequest>, mut closing: watch::Receiver<bool>) {
        let responses = self.responses.clone();
        let end = tokio::select! {
            // Once the service closes, nothing more is said.
            biased;
            _ = closing.wait_for(|closing| *closing) => Err(Status::unavailable("the server of endpoints is shutting down")),
            () = responses.closed() => Ok(()),
            end = self.serve(&mut requests) => end,
        };
        if let Err(status) = end {
            tracing::info!(node = self.node, %status, "a stream of endpoints ends");
            // Where no room is left to say why, the stream's end says it.
            let _unread = responses.try_send(Err(status));
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<DiscoveryRequest>) -> Result<(), Status> {
        let mut looks = interval(self.shared.options.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => self.take(request?)?,
                    None => return Ok(()),
                },
                _ = looks.tick(), if !self.wanted.is_empty() => {}
            }
            let Some(response) = self.news() else { continue };
            if self.responses.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Takes in a request. Of a stream's requests the newest names all that is wanted, whatever response it answers.
    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        if !request.type_url.is_empty() && request.type_url != ENDPOINT_TYPE {
            return Err(Status::invalid_argument(format!("only {ENDPOINT_TYPE} is served here")));
        }
        if let Some(node) = request.node {
            self.node = node.id.chars().take(MAX_LOGGED_CHARS).collect();
        }
        if let Some(refusal) = request.error_detail {
            // Sending the same again would be refused again: the next change is sent, and nothing before it.
            let why: String = refusal.message.chars().take(MAX_LOGGED_CHARS).collect();
            tracing::warn!(node = self.node, version = request.response_nonce, why, "Envoy refused its endpoints");
        }
        let limit = self.shared.options.max_names;
        if request.resource_names.len() > limit {
            return Err(Status::resource_exhausted(format!("at most {limit} pools a stream are served")));
        }
        if request.resource_names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(Status::invalid_argument(format!("a pool's name has at most {MAX_NAME_BYTES} bytes")));
        }
        let mut told = std::mem::take(&mut self.wanted);
        let wanted = request.resource_names.into_iter().map(|name| {
            let told = told.remove(&name).unwrap_or_default();
            (name, told)
        });
        self.wanted = wanted.collect();
        Ok(())
    }

    /// A response with every pool of which there is something new to say.
    fn news(&mut self) -> Option<DiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, told) in &mut self.wanted {
            let Some(pool) = self.shared.pools.pool(name) else { continue };
            let snapshot = pool.snapshot();
            // Before its first publication a pool is empty because nobody filled it yet.
            if snapshot.version == 0 {
                continue;
            }
            if let Some(addresses) = told.news(&snapshot.members) {
                tracing::debug!(node = self.node, pool = name, endpoints = addresses.len(), "endpoints sent");
                resources.push(assignment(name, addresses));
            }
        }
        if resources.is_empty() {
            return None;
        }
        let version = self.shared.next_version().to_string();
        Some(DiscoveryResponse {
            version_info: version.clone(),
            nonce: version,
            type_url: ENDPOINT_TYPE.to_owned(),
            resources,
            ..Default::default()
        })
    }
}
