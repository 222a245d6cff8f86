//! From a file's value to pools and limits: names, addresses, ports, and what must not be there twice.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use pointsman_core::config::units::GatewayDuration;
use pointsman_core::config::{
    self, BUILTIN_ENGINES, FieldPath, Problems, UnknownFields, schema_of, shortened, structure,
};
use pointsman_core::policy::Policy;
use pointsman_core::registry::Registry;
use pointsman_extproc::settings::Trust;
use serde::Deserialize;
use serde_json::Value;

use super::spec::{EndpointEntry, FileSpec, LimitsSpec};
use super::{DEFAULT_POOL, EndpointSpec, Holds, Host, Limits, LoadedConfig, PoolConfig, ServerConfig};

const BODY_SIZES: RangeInclusive<u64> = 1 << 10..=1 << 30;
const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Both shares together leave this much to everything else, in percent.
const MEMORY_LEFT: u8 = 10;

/// Checks a file's value. The result counts only when nothing was reported.
pub(super) fn config(mut value: Value, holds: Holds, registry: &Registry, problems: &mut Problems) -> LoadedConfig {
    let root = FieldPath::default();
    let mut empty = LoadedConfig { pools: Vec::new(), server: ServerConfig::default() };
    if value.is_null() {
        if holds == Holds::Pools {
            problems.add(root, "the file is empty: it needs `endpoints`, or `pools`");
        }
        return empty;
    }
    structure::check(&mut value, &schema_of::<FileSpec>(), &root, &mut UnknownFields::Refuse, problems);
    if value.is_null() {
        return empty;
    }
    let spec = match FileSpec::deserialize(value) {
        Ok(spec) => spec,
        Err(error) => {
            problems.add(root, error.to_string());
            return empty;
        }
    };
    empty.server.limits = limits(&spec.server.limits, &root.member("server").member("limits"), problems);
    empty.server.trust = Trust { objective: spec.server.trust.objective };
    if holds == Holds::ServerAlone {
        refuse_pools(&spec, &root, problems);
        return empty;
    }
    let mut loading = Loading { registry, problems, pools: Vec::new(), paths: BTreeMap::new() };
    loading.pools(spec, &root);
    LoadedConfig { pools: loading.pools, server: empty.server }
}

/// Beside pools of the cluster a file has none of its own.
fn refuse_pools(spec: &FileSpec, root: &FieldPath, problems: &mut Problems) {
    let fields = [
        ("name", spec.name.is_some()),
        ("endpoints", spec.endpoints.is_some()),
        ("scheduling", !spec.scheduling.is_null()),
        ("pools", spec.pools.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, given)| *given) {
        let message = "pools come from the cluster here, and are tuned by SchedulingPolicy objects: take it out";
        problems.add(root.member(field), message);
    }
}

struct Loading<'a> {
    registry: &'a Registry,
    problems: &'a mut Problems,
    pools: Vec<PoolConfig>,
    /// Which pool has which name already.
    paths: BTreeMap<String, FieldPath>,
}

impl Loading<'_> {
    fn pools(&mut self, spec: FileSpec, root: &FieldPath) {
        let single = [
            ("name", spec.name.is_some()),
            ("endpoints", spec.endpoints.is_some()),
            ("scheduling", !spec.scheduling.is_null()),
        ];
        let Some(pools) = spec.pools else {
            let refused = ["endpoints", "pools"].iter().any(|field| self.problems.any_under(&root.member(*field)));
            if spec.endpoints.is_none() && !refused {
                self.problems.add(root.clone(), "`endpoints` is missing (or `pools`, for several)");
            }
            let name = spec.name.as_deref().unwrap_or(DEFAULT_POOL);
            return self.pool(name, spec.endpoints.unwrap_or_default(), spec.scheduling, root);
        };
        for (field, _) in single.into_iter().filter(|(_, given)| *given) {
            let message = "stands beside `pools`: move it into one of them";
            self.problems.add(root.member(field), message);
        }
        let path = root.member("pools");
        if pools.is_empty() {
            self.problems.add(path.clone(), "at least one pool is needed");
        }
        for (at, pool) in pools.into_iter().enumerate() {
            if let Some(pool) = pool {
                self.pool(&pool.name, pool.endpoints, pool.scheduling, &path.item(at));
            }
        }
    }

    fn pool(&mut self, name: &str, entries: Vec<Option<EndpointEntry>>, scheduling: Value, path: &FieldPath) {
        let name_path = path.member("name");
        let name = match name.split_once('/') {
            None => format!("default/{name}"),
            Some(_) => name.to_owned(),
        };
        if !is_pool_name(&name) {
            let message = format!("{:?} is no pool name: expected namespace/name", shortened(&name));
            self.problems.add(name_path, message);
        } else if let Some(first) = self.paths.insert(name.clone(), path.clone()) {
            self.problems.add(name_path, format!("the pool {name} is at {first} already"));
        }
        let scheduling_path = path.member("scheduling");
        let mut unknown = UnknownFields::Refuse;
        let validated = config::validate(&scheduling, self.registry, &scheduling_path, &mut unknown);
        let (policy, valid) = match validated {
            Ok(policy) => (policy, true),
            Err(found) => {
                found.into_iter().for_each(|problem| self.problems.push(problem));
                (Policy::default(), false)
            }
        };
        let endpoints = self.endpoints(entries, &policy, valid, &path.member("endpoints"));
        self.pools.push(PoolConfig { name, endpoints, policy, scheduling });
    }

    fn endpoints(
        &mut self,
        entries: Vec<Option<EndpointEntry>>,
        policy: &Policy,
        policy_is_valid: bool,
        path: &FieldPath,
    ) -> Vec<EndpointSpec> {
        let mut names = BTreeMap::new();
        let mut places = BTreeMap::new();
        let mut endpoints = Vec::with_capacity(entries.len());
        let engines: Vec<&str> = BUILTIN_ENGINES
            .iter()
            .copied()
            .chain(policy.telemetry.engines.iter().map(|engine| &*engine.name))
            .collect();
        for (at, entry) in entries.into_iter().enumerate() {
            let Some(entry) = entry else { continue };
            let path = path.item(at);
            if let Some(engine) = &entry.engine
                && policy_is_valid
                && !engines.contains(&engine.as_str())
            {
                let message = format!("unknown engine {:?}", shortened(engine));
                self.problems.add_unknown(path.member("engine"), message, engine, engines.iter().copied());
            }
            let Some(endpoint) = self.endpoint(entry, &path) else { continue };
            let key = (endpoint.namespace.clone(), endpoint.name.clone());
            if let Some(first) = names.get(&key) {
                let message = format!("{:?} is the name of endpoints[{first}] already", shortened(&endpoint.name));
                self.problems.add(path.member("name"), message);
            } else {
                names.insert(key, at);
            }
            let place = (endpoint.host.clone(), endpoint.port);
            if let Some(first) = places.get(&place) {
                let message = format!("the same address and port as endpoints[{first}]");
                self.problems.add(path.member("address"), message);
            } else {
                places.insert(place, at);
            }
            endpoints.push(endpoint);
        }
        endpoints
    }

    fn endpoint(&mut self, entry: EndpointEntry, path: &FieldPath) -> Option<EndpointSpec> {
        if entry.name.is_empty() || entry.name.contains(char::is_control) {
            self.problems.add(path.member("name"), "a name must have letters, and no control characters");
        }
        let namespace = entry.namespace.unwrap_or_else(|| "default".into());
        if !is_dns_name(&namespace, false) {
            let message = format!("{:?} is no namespace: lower-case letters, digits and -", shortened(&namespace));
            self.problems.add(path.member("namespace"), message);
        }
        let host = host(&entry.address).map_err(|message| self.problems.add(path.member("address"), message));
        let port = self.port(&entry.port, path.member("port"));
        let metrics_port = match &entry.metrics_port {
            Some(port) => self.port(port, path.member("metricsPort")),
            None => port,
        };
        Some(EndpointSpec {
            name: entry.name,
            namespace,
            host: host.ok()?,
            port: port?,
            metrics_port: metrics_port?,
            engine: entry.engine,
            labels: entry.labels,
        })
    }

    fn port(&mut self, value: &Value, path: FieldPath) -> Option<u16> {
        let port = match value {
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            Value::Number(number) => number.as_u64().and_then(|port| port.try_into().ok()),
            _ => None,
        };
        let port = port.filter(|port| *port != 0);
        if port.is_none() {
            let shown =
                value.as_str().map(|text| format!("{:?}", shortened(text))).unwrap_or_else(|| value.to_string());
            self.problems.add(path, format!("{shown} is no port: expected 1 to 65535"));
        }
        port
    }
}

/// Reads an endpoint's address, or says what is wrong with it.
fn host(address: &str) -> Result<Host, String> {
    let shown = shortened(address);
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare {
        let parsed = bare.parse::<Ipv6Addr>().map_err(|_| format!("{shown:?} is no IPv6 address"))?;
        return dialable(parsed.into());
    }
    if let Ok(parsed) = address.parse::<IpAddr>() {
        return dialable(parsed);
    }
    if address.contains("://") || address.contains('/') {
        return Err(format!("{shown:?} is a URL: expected an IP address or a DNS name alone"));
    }
    if address.parse::<std::net::SocketAddr>().is_ok() || address.matches(':').count() == 1 {
        return Err(format!("{shown:?} has a port in it: give that as `port`"));
    }
    let name = address.strip_suffix('.').unwrap_or(address).to_ascii_lowercase();
    let last_is_a_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if last_is_a_number || !is_dns_name(&name.replace('_', "-"), true) {
        return Err(format!("{shown:?} is neither an IP address nor a DNS name"));
    }
    Ok(Host::Dns(name))
}

fn dialable(ip: IpAddr) -> Result<Host, String> {
    let ip = ip.to_canonical();
    match ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        true => Err(format!("{ip} is not the address of one server")),
        false => Ok(Host::Ip(ip)),
    }
}

/// Whether it is `namespace/name`.
pub(crate) fn is_pool_name(name: &str) -> bool {
    name.split_once('/').is_some_and(|(namespace, name)| is_dns_name(namespace, false) && is_dns_name(name, true))
}

/// Whether `name` is a DNS label, or, with `dots`, a name of several, in lower case.
fn is_dns_name(name: &str, dots: bool) -> bool {
    name.len() <= 253
        && (dots || !name.contains('.'))
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

fn limits(spec: &LimitsSpec, path: &FieldPath, problems: &mut Problems) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        max_body_size: spec.max_body_size.map_or(default.max_body_size, |size| size.0),
        buffer_budget_percent: spec.buffer_budget.unwrap_or(default.buffer_budget_percent),
        prefix_index_percent: spec.prefix_index.unwrap_or(default.prefix_index_percent),
        max_streams: spec.max_streams.unwrap_or(default.max_streams),
        request_idle_timeout: seconds(spec.request_idle_timeout, default.request_idle_timeout),
        response_idle_timeout: seconds(spec.response_idle_timeout, default.response_idle_timeout),
    };
    if !BODY_SIZES.contains(&limits.max_body_size) {
        let message = format!("{} bytes are outside of 1Ki to 1Gi", limits.max_body_size);
        problems.add(path.member("maxBodySize"), message);
    }
    let shares = limits.buffer_budget_percent + limits.prefix_index_percent;
    if shares > 100 - MEMORY_LEFT {
        let message =
            format!("with `prefixIndex` {shares} % of memory, which leaves less than {MEMORY_LEFT} % for the rest");
        problems.add(path.member("bufferBudget"), message);
    }
    for (field, timeout) in
        [("requestIdleTimeout", limits.request_idle_timeout), ("responseIdleTimeout", limits.response_idle_timeout)]
    {
        if !IDLE_TIMEOUTS.contains(&timeout) {
            problems.add(path.member(field), format!("{timeout:?} is outside of 1s to 24h"));
        }
    }
    limits
}

fn seconds(given: Option<GatewayDuration>, default: Duration) -> Duration {
    given.map_or(default, |given| given.0)
}
