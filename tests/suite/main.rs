//! The suite: Pointsman among its real neighbours, and what holds for the repository as a whole.

#![expect(clippy::unwrap_used, reason = "all of this is a test: what it cannot have, it fails on")]

/// Bodies through a real Envoy, of every size and in every mode.
mod bodies;
/// The Helm chart, installed by the real helm.
mod chart;
/// What a cluster that changes all the time costs, and how soon its changes show.
mod churn;
/// Pools, pods, policies and models of a real API server.
mod cluster;
/// Configuration files, TLS, and what a running picker makes of changes.
mod configuration;
/// The control plane that tests of the cluster stand on.
mod control_plane;
/// Our custom resources, and the shapes of others', on a real API server.
mod crds;
/// The demo, short.
mod demo;
/// What `deploy/` brings: image, compose file, examples.
mod deploy;
/// The documents that say what the code does.
mod docs;
/// The edges between our crates.
mod edges;
/// Envoy Gateway and the Envoys that it configures, without us.
mod envoy_gateway;
/// What clients see when something dies, panics or drains.
mod failures;
/// What the extension server says of pools in their statuses and in Events.
mod gateway_status;
/// InferencePools behind a plain Envoy Gateway.
mod inference_pools;
/// The plugin of kubectl.
mod kubectl;
/// What replicas share: who leads, whose status it is, whom gateways trust.
mod leadership;
/// Clients that ask all the time.
mod load;
/// Metrics for whom the API server lets in.
mod metrics_auth;
/// Models that are served in others' place.
mod models;
/// What the chart brings to watch a picker by.
mod observability;
/// What an API server that is away costs, and a replica that dies or stands still.
mod outages;
/// Who serves, and who may say so.
mod routing;
/// Streamed answers.
mod streams;

use serde_json::{Value, json};

/// A chat request of about `bytes` bytes of prompt.
fn chat(bytes: usize, max_tokens: u32, stream: bool) -> Value {
    let content = "All work and no play makes Jack a dull boy. ".repeat(bytes / 44 + 1);
    json!({
        "messages": [{"role": "user", "content": &content[..bytes.max(1)]}],
        "model": "any",
        "max_tokens": max_tokens,
        "stream": stream,
    })
}
