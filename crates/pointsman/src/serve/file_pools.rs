//! The pools of a configuration file, kept true to the file and to DNS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pointsman_core::endpoint::Endpoint;
use tokio::sync::mpsc;

use super::pools::RunningPools;
use crate::config_file::{EndpointSpec, Host, LoadedConfig};

/// How often names of endpoints are looked up again.
const NAMES_INTERVAL: Duration = Duration::from_secs(30);
/// Names that are looked up at once.
const LOOKUPS_AT_ONCE: usize = 16;
/// How long looking up one name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The pools of a file, by name.
pub(crate) struct FilePools {
    pools: RunningPools,
    membership: HashMap<String, Membership>,
}

/// One pool's endpoints.
#[derive(Default)]
struct Membership {
    /// As the file names them, for looking names up again.
    specs: Vec<EndpointSpec>,
    /// As the pool was last told; `None` before the first time.
    members: Option<Vec<Arc<Endpoint>>>,
}

impl FilePools {
    pub(crate) fn new(pools: RunningPools) -> Self {
        Self { pools, membership: HashMap::new() }
    }

    /// Makes what runs equal to the file: new pools start, those that are gone end, the others change.
    pub(crate) async fn apply(&mut self, config: LoadedConfig) {
        let is_gone = |name: &&str| config.pools.iter().all(|pool| pool.name != **name);
        let gone: Vec<String> = self.pools.names().filter(is_gone).map(str::to_owned).collect();
        for name in gone {
            self.pools.stop(&name);
            self.membership.remove(&name);
        }
        for pool in config.pools {
            self.pools.set_policy(&pool.name, pool.policy).await;
            self.membership.entry(pool.name.clone()).or_default().specs = pool.endpoints;
            self.look_up(&pool.name).await;
        }
        self.pools.show().await;
    }

    /// Applies each configuration that comes, and looks names up again now and then.
    pub(crate) async fn keep_true(mut self, mut configs: mpsc::Receiver<LoadedConfig>) {
        let mut names = tokio::time::interval_at(tokio::time::Instant::now() + NAMES_INTERVAL, NAMES_INTERVAL);
        loop {
            tokio::select! {
                config = configs.recv() => match config {
                    Some(config) => self.apply(config).await,
                    None => return,
                },
                _ = names.tick() => self.refresh_names().await,
            }
        }
    }

    async fn refresh_names(&mut self) {
        let is_named = |membership: &Membership| membership.specs.iter().any(|spec| matches!(spec.host, Host::Dns(_)));
        let named = self.membership.iter().filter(|(_, membership)| is_named(membership));
        let named: Vec<String> = named.map(|(name, _)| name.clone()).collect();
        for name in named {
            self.look_up(&name).await;
        }
    }

    /// Looks the names of a pool's endpoints up, and tells the pool where they lead to elsewhere than before.
    async fn look_up(&mut self, name: &str) {
        let Some(membership) = self.membership.get_mut(name) else { return };
        let members = look_up(&membership.specs, membership.members.as_deref()).await;
        if membership.members.as_ref() != Some(&members) {
            tracing::info!(pool = name, endpoints = members.len(), "the pool's members changed");
            membership.members = Some(members.clone());
            self.pools.set_members(name, members).await;
        }
    }
}

/// The endpoints with their addresses. One whose name cannot be looked up keeps the address that it had; one that never
/// had any is left out, and said to be.
async fn look_up(specs: &[EndpointSpec], former: Option<&[Arc<Endpoint>]>) -> Vec<Arc<Endpoint>> {
    let looked_up = futures::stream::iter(specs.to_vec()).map(|spec| async move {
        let ip = match &spec.host {
            Host::Ip(ip) => Some(*ip),
            Host::Dns(name) => look_up_name(name, spec.port).await,
        };
        (spec, ip)
    });
    let mut endpoints = Vec::with_capacity(specs.len());
    for (spec, ip) in looked_up.buffered(LOOKUPS_AT_ONCE).collect::<Vec<_>>().await {
        let known = || {
            let uid = uid(&spec);
            let is_it = |known: &&Arc<Endpoint>| *known.uid == *uid && known.address.port() == spec.port;
            former.into_iter().flatten().find(is_it).map(|known| known.address.ip())
        };
        match ip.or_else(known) {
            Some(ip) => endpoints.push(Arc::new(endpoint(&spec, ip))),
            None => tracing::warn!(endpoint = spec.name, "an endpoint is left out until its name has an address"),
        }
    }
    endpoints
}

/// What makes an endpoint of a file the same one over time.
fn uid(spec: &EndpointSpec) -> String {
    format!("{}/{}", spec.namespace, spec.name)
}

/// The least address of a name, so that the answer's order makes no difference.
async fn look_up_name(name: &str, port: u16) -> Option<IpAddr> {
    match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).min(),
        Ok(Err(error)) => {
            tracing::warn!(name, %error, "an endpoint's name cannot be looked up");
            None
        }
        Err(_) => {
            tracing::warn!(name, "looking an endpoint's name up took too long");
            None
        }
    }
}

fn endpoint(spec: &EndpointSpec, ip: IpAddr) -> Endpoint {
    Endpoint {
        uid: uid(spec).into(),
        name: spec.name.as_str().into(),
        namespace: spec.namespace.as_str().into(),
        address: SocketAddr::new(ip, spec.port),
        metrics_port: spec.metrics_port,
        engine: spec.engine.as_deref().map(Into::into),
        labels: spec.labels.clone(),
        is_cordoned: false,
    }
}
