//! The filter that asks the picker, what each pool says of it, and the filter ahead of it.

use pointsman_core::control_headers::{
    DESTINATIONS, DESTINATIONS_TAKEN, LIST, METADATA_NAMESPACE, POOL, SUBSET_NAMESPACE,
};
use serde_json::{Value, json};

use super::{duration, typed};
use crate::wiring::{
    BodyMode, FailureMode, MAX_MESSAGE_TIMEOUT, MESSAGE_TIMEOUT, PICKER_RETRIES, PickerRetries, STATUS_ON_ERROR,
};

/// What the filters are called in messages that have a type.
const EXTERNAL_PROCESSOR: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const PER_ROUTE: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
const HEADER_MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";

/// What a pool's route says of the filter.
pub(crate) struct PoolOverrides<'a> {
    /// The pool's name.
    pub(crate) pool: &'a str,
    pub(crate) failure_mode: FailureMode,
    pub(crate) request_body: BodyMode,
    pub(crate) response_body: BodyMode,
    /// The pool's own picker, where the filter's is another: [`picker`].
    pub(crate) picker: Option<Value>,
}

/// The filter, disabled until a pool's route enables it.
pub(crate) fn filter(name: &str, picker: Value, send_body_without_waiting_for_header_response: bool) -> Value {
    let namespaces = json!({"untyped": [METADATA_NAMESPACE, SUBSET_NAMESPACE]});
    let config = json!({
        "grpc_service": picker,
        "stat_prefix": "pointsman",
        "failure_mode_allow": false,
        "status_on_error": {"code": STATUS_ON_ERROR},
        "message_timeout": duration(MESSAGE_TIMEOUT),
        "max_message_timeout": duration(MAX_MESSAGE_TIMEOUT),
        "processing_mode": processing_mode(BodyMode::FullDuplex, BodyMode::FullDuplex),
        "send_body_without_waiting_for_header_response": send_body_without_waiting_for_header_response,
        // The pool was chosen by the route, and the picker's answer must not choose another.
        "route_cache_action": "RETAIN",
        "metadata_options": {
            "forwarding_namespaces": namespaces,
            "receiving_namespaces": {"untyped": [METADATA_NAMESPACE]},
        },
    });
    json!({"name": name, "disabled": true, "typed_config": typed(EXTERNAL_PROCESSOR, config)})
}

/// The picker behind a cluster. A replica that cannot be reached, or that goes away before it took the stream, has
/// decided nothing: another is asked.
pub(crate) fn picker(cluster: &str) -> Value {
    let PickerRetries { tries, base_interval, max_interval, host_tries } = PICKER_RETRIES;
    let previous_hosts = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}));
    json!({"envoy_grpc": {"cluster_name": cluster}, "retry_policy": {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": tries,
        "retry_back_off": {"base_interval": duration(base_interval), "max_interval": duration(max_interval)},
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": previous_hosts}],
        "host_selection_retry_max_attempts": host_tries,
    }})
}

/// That the filter acts, for which pool, and in which modes.
pub(crate) fn per_route(pool: PoolOverrides<'_>) -> Value {
    let mut overrides = json!({
        "failure_mode_allow": pool.failure_mode.allows(),
        "grpc_initial_metadata": [{"key": POOL, "value": pool.pool}, {"key": DESTINATIONS_TAKEN, "value": LIST}],
        "processing_mode": processing_mode(pool.request_body, pool.response_body),
    });
    if let Some(picker) = pool.picker {
        overrides["grpc_service"] = picker;
    }
    typed(PER_ROUTE, json!({"overrides": overrides}))
}

/// The filter that removes what a client could name a destination by.
pub(crate) fn header_mutation(name: &str) -> Value {
    let removals: Vec<_> = DESTINATIONS.iter().map(|header| json!({"remove": header})).collect();
    let mutation = json!({"mutations": {"request_mutations": removals}});
    json!({"name": name, "typed_config": typed(HEADER_MUTATION, mutation)})
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
