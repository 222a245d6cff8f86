//! A whole static bootstrap: listeners, the filters that ask the picker, and the pools' clusters.

mod cluster;
mod listener;
mod subset;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

pub use crate::parts::peer::{ParsePeerAddressError, Peer, PeerAddress, PeerTls, Pem};
use crate::parts::{self, socket_address};
use crate::wiring::{
    Balancer, BodyMode, DEFAULT_BODY_BUFFER_LIMIT, DEFAULT_MAX_STREAMS, DEFAULT_RETRIES, EndpointProtocol, FailureMode,
    STREAM_IDLE_TIMEOUT,
};

/// The cluster of the picker's replicas.
pub const PICKER_CLUSTER: &str = "pointsman-picker";
/// The cluster of the server of endpoints. Only a cluster that stands in the bootstrap can be one.
pub const EDS_CLUSTER: &str = "pointsman-eds";

/// What the bootstrap is made of.
#[derive(Clone, Debug)]
pub struct BootstrapOptions {
    /// How Envoy calls itself to the server of endpoints.
    pub node_id: String,
    /// Where Envoy's admin page listens; `None` means nowhere.
    pub admin: Option<SocketAddr>,
    /// Where the picker is asked.
    pub picker: Peer,
    /// Where endpoints come from.
    pub eds: Peer,
    /// The pools, at least one.
    pub pools: Vec<PoolWiring>,
    /// Requests held open at once, by each cluster.
    pub max_streams: u32,
    /// Bytes of a request's body that Envoy holds at most.
    pub body_buffer_limit: u64,
    /// A stream of which nothing came for this long ends. Longer than the picker's own limits, so that these act first
    /// and the client is told why.
    pub stream_idle_timeout: Duration,
    /// How long a client's connection is kept, if not for ever: it ends once its answers are whole. So clients come to
    /// other Envoys in time when this one is about to go.
    pub max_connection_duration: Option<Duration>,
    /// Sends a body streamed half duplex ([`BodyMode::Streamed`]) before the headers are answered. Envoy has one such
    /// setting a filter, so it holds for all pools.
    pub send_body_without_waiting_for_header_response: bool,
}

impl BootstrapOptions {
    /// A bootstrap without admin page, with the limits that Pointsman recommends.
    pub fn new(picker: Peer, eds: Peer, pools: Vec<PoolWiring>) -> Self {
        Self {
            node_id: "pointsman".to_owned(),
            admin: None,
            picker,
            eds,
            pools,
            max_streams: DEFAULT_MAX_STREAMS,
            body_buffer_limit: DEFAULT_BODY_BUFFER_LIMIT,
            stream_idle_timeout: STREAM_IDLE_TIMEOUT,
            max_connection_duration: None,
            send_body_without_waiting_for_header_response: false,
        }
    }
}

/// One pool behind Envoy. The same pool may be wired more than once, say to compare balancers.
#[derive(Clone, Debug)]
pub struct PoolWiring {
    /// The pool's name, `namespace/name`, as the picker knows it.
    pub name: String,
    /// Where Envoy takes requests for it. Pools with the same address share a listener.
    pub listen: SocketAddr,
    /// The authorities that are this pool's, as Envoy's domains; empty means all that are nobody else's.
    pub hosts: Vec<String>,
    /// The path prefix that is this pool's.
    pub prefix: String,
    /// Who chooses the endpoint.
    pub balancer: Balancer,
    /// What happens while the picker cannot be asked.
    pub failure_mode: FailureMode,
    /// How request bodies pass the picker.
    pub request_body: BodyMode,
    /// How response bodies pass the picker.
    pub response_body: BodyMode,
    /// Retries after a failed connection; 0 means none.
    pub retries: u32,
    /// What the endpoints speak.
    pub protocol: EndpointProtocol,
    /// The endpoints that the picker may choose among, as a gateway that narrows the pool would say; `None` means that
    /// nothing is said.
    pub subset: Option<Vec<SocketAddr>>,
}

impl PoolWiring {
    /// The whole of a listener for one pool: picked, in full duplex, failing closed.
    pub fn new(name: &str, listen: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            hosts: Vec::new(),
            prefix: "/".to_owned(),
            balancer: Balancer::default(),
            failure_mode: FailureMode::default(),
            request_body: BodyMode::default(),
            response_body: BodyMode::default(),
            retries: DEFAULT_RETRIES,
            protocol: EndpointProtocol::default(),
            subset: None,
        }
    }
}

/// Why no bootstrap can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// There is nothing to route to.
    #[error("no pool is wired: Envoy would listen nowhere")]
    NoPools,
    /// A peer without addresses.
    #[error("the {peer} has no address")]
    NoAddress {
        /// Which peer.
        peer: &'static str,
    },
    /// A pool without a name could not be told to the picker.
    #[error("the pool that listens on {listen} has no name")]
    NoName {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// Envoy's prefixes are paths.
    #[error("pool {pool}: the prefix {prefix:?} does not begin with a slash")]
    BadPrefix {
        /// The pool.
        pool: String,
        /// Its prefix.
        prefix: String,
    },
    /// Two pools want the same requests.
    #[error("pools {one} and {other} on {listen} both take {requests}: give them different hosts or prefixes")]
    SameRequests {
        /// The one listed first.
        one: String,
        /// The other.
        other: String,
        /// Their listener.
        listen: SocketAddr,
        /// The authority and prefix that both take.
        requests: String,
    },
}

/// A pool with the names that the parts of the bootstrap call it by.
struct WiredPool<'a> {
    wiring: &'a PoolWiring,
    /// Its cluster, unique even where a pool is wired twice.
    cluster: String,
}

/// Makes the bootstrap, as the value that Envoy reads as JSON.
pub fn bootstrap(options: &BootstrapOptions) -> Result<Value, BootstrapError> {
    let pools = wire_pools(options)?;
    let picked = pools.iter().any(|pool| pool.wiring.balancer == Balancer::Picker);
    let mut listeners: BTreeMap<SocketAddr, Vec<&WiredPool<'_>>> = BTreeMap::new();
    for pool in &pools {
        listeners.entry(pool.wiring.listen).or_default().push(pool);
    }
    let listeners = listeners.into_iter().map(|(address, pools)| listener::listener(address, &pools, options));
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let mut clusters = Vec::with_capacity(pools.len() + 2);
    if options.eds.addresses.is_empty() {
        return Err(BootstrapError::NoAddress { peer: "server of endpoints" });
    }
    clusters.push(parts::cluster::grpc_server(EDS_CLUSTER, &options.eds));
    if picked {
        if options.picker.addresses.is_empty() {
            return Err(BootstrapError::NoAddress { peer: "picker" });
        }
        clusters.push(parts::cluster::picker(PICKER_CLUSTER, &options.picker, options.max_streams));
    }
    clusters.extend(pools.iter().map(|pool| cluster::pool(pool, options.max_streams)));
    let mut bootstrap = json!({
        "node": {"id": options.node_id, "cluster": "pointsman"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    });
    if let Some(admin) = options.admin {
        bootstrap["admin"] = json!({"address": socket_address(&admin.ip().to_string(), admin.port())});
    }
    Ok(bootstrap)
}

/// The bootstrap in YAML, for people; `envoy -c` reads it from a file whose name ends in `.yaml`.
pub fn to_yaml(bootstrap: &Value) -> String {
    // JSON is YAML too, so that there is an answer even for a value that the serialiser would not take.
    serde_saphyr::to_string(bootstrap).unwrap_or_else(|_| format!("{bootstrap:#}\n"))
}

fn wire_pools(options: &BootstrapOptions) -> Result<Vec<WiredPool<'_>>, BootstrapError> {
    if options.pools.is_empty() {
        return Err(BootstrapError::NoPools);
    }
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pools = Vec::with_capacity(options.pools.len());
    for wiring in &options.pools {
        let PoolWiring { name, listen, prefix, .. } = wiring;
        if name.is_empty() {
            return Err(BootstrapError::NoName { listen: *listen });
        }
        if !prefix.starts_with('/') {
            return Err(BootstrapError::BadPrefix { pool: name.clone(), prefix: prefix.clone() });
        }
        let time = times.entry(name).and_modify(|times| *times += 1).or_insert(1);
        let cluster = if *time == 1 { format!("pool/{name}") } else { format!("pool/{name}/{time}") };
        pools.push(WiredPool { wiring, cluster });
    }
    Ok(pools)
}

#[cfg(test)]
mod tests;
