//! What tests build on: the real picker and the real Envoy before simulated model servers, clients to ask them, and a
//! real Kubernetes API server.

pub mod bench;
pub mod churn;
pub mod client;
pub mod cluster_stack;
pub mod control_plane;
pub mod depth;
pub mod dns;
pub mod envoy_gateway;
pub mod follow;
pub mod footprint;
pub mod gateway_stack;
pub mod helm;
pub mod manifests;
pub mod netns;
pub mod noop_extension;
pub mod proc;
pub mod process;
pub mod quantile;
pub mod rules;
pub mod stack;
pub mod tools;
pub mod workload;
