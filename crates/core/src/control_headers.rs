//! The names by which a gateway and a picker speak of destinations, and the headers with which a client could try to.
//!
//! **Invariant.** Nothing that a client sends names a destination. [`DESTINATIONS`] are removed by the gateway before
//! the picker is asked, and by the picker again, since a gateway may be wired by others; [`CONTROLS`] steer how a
//! request is treated and are dropped by the picker unless the operator trusts them. All names are in lower case, as
//! HTTP/2 and Envoy spell them.

/// The destination, picker to gateway: header, and key of dynamic metadata in [`METADATA_NAMESPACE`]. `ip:port`, then
/// fallbacks in order, comma separated.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The endpoint that served, gateway to picker: key of dynamic metadata in [`METADATA_NAMESPACE`], in the response
/// phase.
pub const SERVED: &str = "x-gateway-destination-endpoint-served";
/// The endpoints to choose among, gateway to picker: key of dynamic metadata in [`SUBSET_NAMESPACE`], a list of
/// `ip:port`. Absent means the whole pool, empty means none.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// The namespace of dynamic metadata that holds [`DESTINATION`] and [`SERVED`].
pub const METADATA_NAMESPACE: &str = "envoy.lb";
/// The namespace of dynamic metadata that holds [`SUBSET`].
pub const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";

/// The initial metadata of a picker's stream that says which pool it is for: `namespace/name`. It is set by the
/// gateway's wiring; a client's header of this name never becomes initial metadata.
pub const POOL: &str = "x-pointsman-pool";

/// The initial metadata of a picker's stream by which a wiring says that it can use a list of destinations, by the value
/// [`LIST`]; others get the pick alone.
pub const DESTINATIONS_TAKEN: &str = "x-pointsman-destinations";
/// See [`DESTINATIONS_TAKEN`].
pub const LIST: &str = "list";

/// Headers that name a destination of any stage, with all their aliases. They are always removed.
pub const DESTINATIONS: &[&str] = &[
    DESTINATION,
    SERVED,
    SUBSET,
    // Old drafts of the protocol and what peers add beside the destination.
    "x-gateway-destination-endpoint-fallback",
    "x-gateway-destination-endpoint-scores",
    // The prefill stage: a decode pod's sidecar dials what these say, wherever that is.
    "x-prefiller-host-port",
    "x-prefiller-url",
    // The encode stage.
    "x-encoder-hosts-ports",
    // One server among the data-parallel ranks of a pod.
    "x-data-parallel-host-port",
    "x-data-parallel-rank",
    // The pod to pull a KV cache from.
    "x-kv-cache-source-host-port",
    // What Envoy's ORIGINAL_DST cluster dials, where one was set up to listen to it.
    "x-envoy-original-dst-host",
];

/// Headers that name an `InferenceObjective` of the pool's, and so the request's priority: the current name, then its
/// older alias. Read, and passed on, where the operator trusts them; else they are dropped as all of [`CONTROLS`].
pub const OBJECTIVES: [&str; 2] = ["x-llm-d-inference-objective", "x-gateway-inference-objective"];

/// Headers that steer how a request is treated: priority, fairness, model, objectives, the sizes that it claims, the
/// profile, and the conformance suites' own choice of endpoint. Dropped by the picker unless trusted; each pair is the
/// current name and its older alias.
pub const CONTROLS: &[&str] = &[
    OBJECTIVES[0],
    OBJECTIVES[1],
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
    "x-llm-d-model-name-rewrite",
    "x-gateway-model-name-rewrite",
    "x-llm-d-slo-ttft-ms",
    "x-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-slo-tpot-ms",
    "x-llm-d-video-fps",
    "x-llm-d-video-duration-seconds",
    "x-llm-d-video-resolution",
    "epp-profile",
    "test-epp-endpoint-selection",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_spelt_as_http2_spells_it_and_stands_in_one_list_once() {
        let mut names: Vec<_> = DESTINATIONS.iter().chain(CONTROLS).collect();
        for name in &names {
            let spelt = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(name.bytes().all(spelt), "{name}");
        }
        let listed = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), listed);
    }
}
