//! The filter that asks the picker, and what each pool says of it.

use pointsman_core::control_headers::{DESTINATIONS_TAKEN, LIST, METADATA_NAMESPACE, POOL, SUBSET, SUBSET_NAMESPACE};
use serde_json::{Value, json};

use super::{BootstrapOptions, PICKER_CLUSTER, PoolWiring, duration, typed};
use crate::wiring::{
    BodyMode, EXT_PROC_FILTER, MAX_MESSAGE_TIMEOUT, MESSAGE_TIMEOUT, PICKER_RETRIES, PickerRetries, STATUS_ON_ERROR,
};

/// The filter, disabled until a pool's route enables it.
pub(super) fn filter(options: &BootstrapOptions) -> Value {
    let namespaces = json!({"untyped": [METADATA_NAMESPACE, SUBSET_NAMESPACE]});
    let config = json!({
        "grpc_service": {"envoy_grpc": {"cluster_name": PICKER_CLUSTER}, "retry_policy": retries()},
        "stat_prefix": "pointsman",
        "failure_mode_allow": false,
        "status_on_error": {"code": STATUS_ON_ERROR},
        "message_timeout": duration(MESSAGE_TIMEOUT),
        "max_message_timeout": duration(MAX_MESSAGE_TIMEOUT),
        "processing_mode": processing_mode(BodyMode::FullDuplex, BodyMode::FullDuplex),
        "send_body_without_waiting_for_header_response": options.send_body_without_waiting_for_header_response,
        // The pool was chosen by the route, and the picker's answer must not choose another.
        "route_cache_action": "RETAIN",
        "metadata_options": {
            "forwarding_namespaces": namespaces,
            "receiving_namespaces": {"untyped": [METADATA_NAMESPACE]},
        },
    });
    json!({
        "name": EXT_PROC_FILTER,
        "disabled": true,
        "typed_config": typed("envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor", config),
    })
}

/// A replica that cannot be reached, or that goes away before it took the stream, has decided nothing: another is asked.
fn retries() -> Value {
    let PickerRetries { tries, base_interval, max_interval, host_tries } = PICKER_RETRIES;
    let previous_hosts = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}));
    json!({
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": tries,
        "retry_back_off": {"base_interval": duration(base_interval), "max_interval": duration(max_interval)},
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": previous_hosts}],
        "host_selection_retry_max_attempts": host_tries,
    })
}

/// What a pool's route says of the filter: that it acts, for which pool, and in which modes.
pub(super) fn per_route(pool: &PoolWiring) -> Value {
    let overrides = json!({
        "failure_mode_allow": pool.failure_mode.allows(),
        "grpc_initial_metadata": [{"key": POOL, "value": pool.name}, {"key": DESTINATIONS_TAKEN, "value": LIST}],
        "processing_mode": processing_mode(pool.request_body, pool.response_body),
    });
    typed("envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", json!({"overrides": overrides}))
}

fn processing_mode(request: BodyMode, response: BodyMode) -> Value {
    let trailers = |mode: BodyMode| if mode.sends_trailers() { "SEND" } else { "SKIP" };
    json!({
        "request_header_mode": "SEND",
        "request_body_mode": request.envoy_name(),
        "request_trailer_mode": trailers(request),
        "response_header_mode": "SEND",
        "response_body_mode": response.envoy_name(),
        "response_trailer_mode": trailers(response),
    })
}

/// The name of the filter that tells the subset of a pool, which stands ahead of the one that asks.
pub(super) fn subset_filter_name(cluster: &str) -> String {
    format!("pointsman.subset.{cluster}")
}

/// A filter that tells the picker the subset of one pool, disabled until that pool's route enables it.
pub(super) fn subset_filter(cluster: &str, pool: &PoolWiring) -> Option<Value> {
    let subset: Vec<_> = pool.subset.as_ref()?.iter().map(ToString::to_string).collect();
    let metadata =
        json!([{"metadata_namespace": SUBSET_NAMESPACE, "allow_overwrite": true, "value": {SUBSET: subset}}]);
    let config = typed("envoy.extensions.filters.http.set_metadata.v3.Config", json!({"metadata": metadata}));
    Some(json!({"name": subset_filter_name(cluster), "disabled": true, "typed_config": config}))
}
