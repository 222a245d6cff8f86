//! Listeners: the connection manager, its filters, and the routes to pools.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{BootstrapError, BootstrapOptions, PICKER_CLUSTER, WiredPool, subset};
use crate::parts::ext_proc::{self, PoolOverrides};
use crate::parts::{duration, socket_address, typed};
use crate::wiring::{Balancer, EXT_PROC_FILTER, HEADER_MUTATION_FILTER, RETRY_ON, ROUTE_TIMEOUT, ROUTER_FILTER};

/// One listener, for all pools that take requests at `address`.
pub(super) fn listener(
    address: SocketAddr,
    pools: &[&WiredPool<'_>],
    options: &BootstrapOptions,
) -> Result<Value, BootstrapError> {
    let mut manager = json!({
        "stat_prefix": "pointsman",
        "codec_type": "AUTO",
        "stream_idle_timeout": duration(options.stream_idle_timeout),
        "http2_protocol_options": {"max_concurrent_streams": options.max_streams},
        // A client is not believed where it says that it came from, nor in what it tells Envoy to retry.
        "use_remote_address": true,
        // A client's request id ties its own log to ours.
        "preserve_external_request_id": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": virtual_hosts(address, pools, options)?},
        "http_filters": filters(pools, options),
    });
    if let Some(limit) = options.max_connection_duration {
        manager["common_http_protocol_options"] = json!({"max_connection_duration": duration(limit)});
        // Told by an answer's header: a connection that is closed at once may have a request on its way.
        manager["http1_safe_max_connection_duration"] = json!(true);
    }
    let kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let manager =
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(kind, manager)});
    Ok(json!({
        "name": format!("pointsman/{address}"),
        "address": socket_address(&address.ip().to_string(), address.port()),
        "filter_chains": [{"filters": [manager]}],
    }))
}

fn filters(pools: &[&WiredPool<'_>], options: &BootstrapOptions) -> Value {
    let mut filters = vec![ext_proc::header_mutation(HEADER_MUTATION_FILTER)];
    filters.extend(pools.iter().filter_map(|pool| subset::filter(&pool.cluster, pool.wiring)));
    if pools.iter().any(|pool| pool.wiring.balancer == Balancer::Picker) {
        let at_once = options.send_body_without_waiting_for_header_response;
        filters.push(ext_proc::filter(EXT_PROC_FILTER, ext_proc::picker(PICKER_CLUSTER), at_once));
    }
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    filters.push(json!({"name": ROUTER_FILTER, "typed_config": router}));
    json!(filters)
}

/// One virtual host an authority, its routes with the longest prefix first.
fn virtual_hosts(
    address: SocketAddr,
    pools: &[&WiredPool<'_>],
    options: &BootstrapOptions,
) -> Result<Value, BootstrapError> {
    let mut hosts: BTreeMap<&str, Vec<&WiredPool<'_>>> = BTreeMap::new();
    for pool in pools {
        let wanted: Vec<&str> = match pool.wiring.hosts.as_slice() {
            [] => vec!["*"],
            hosts => hosts.iter().map(String::as_str).collect(),
        };
        for host in wanted {
            let taken = hosts.entry(host).or_default();
            if let Some(first) = taken.iter().find(|first| first.wiring.prefix == pool.wiring.prefix) {
                return Err(BootstrapError::SameRequests {
                    one: first.wiring.name.clone(),
                    other: pool.wiring.name.clone(),
                    listen: address,
                    requests: format!("{host}{}", pool.wiring.prefix),
                });
            }
            taken.push(pool);
        }
    }
    let host = |(host, mut pools): (&str, Vec<&WiredPool<'_>>)| {
        pools.sort_by_key(|pool| std::cmp::Reverse(pool.wiring.prefix.len()));
        let routes: Vec<_> = pools.iter().map(|pool| route(pool, options)).collect();
        json!({"name": host, "domains": [host], "routes": routes})
    };
    Ok(hosts.into_iter().map(host).collect())
}

fn route(pool: &WiredPool<'_>, options: &BootstrapOptions) -> Value {
    let mut action = json!({"cluster": pool.cluster, "timeout": duration(ROUTE_TIMEOUT)});
    if pool.wiring.retries > 0 {
        action["retry_policy"] = json!({"retry_on": RETRY_ON, "num_retries": pool.wiring.retries});
    }
    let mut enabled = Map::new();
    if pool.wiring.balancer == Balancer::Picker {
        let overrides = PoolOverrides {
            pool: &pool.wiring.name,
            failure_mode: pool.wiring.failure_mode,
            request_body: pool.wiring.request_body,
            response_body: pool.wiring.response_body,
            picker: None,
        };
        enabled.insert(EXT_PROC_FILTER.to_owned(), ext_proc::per_route(overrides));
    }
    if pool.wiring.subset.is_some() {
        // A disabled filter is enabled by a configuration of the route's, even one that says nothing.
        let enable = typed("envoy.config.route.v3.FilterConfig", json!({"config": {}}));
        enabled.insert(subset::filter_name(&pool.cluster), enable);
    }
    json!({
        "name": pool.cluster,
        "match": {"prefix": pool.wiring.prefix},
        "route": action,
        "request_body_buffer_limit": options.body_buffer_limit,
        "typed_per_filter_config": enabled,
    })
}
