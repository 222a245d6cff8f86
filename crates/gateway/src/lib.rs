//! Envoy Gateway's extension server: a route rule that names InferencePools becomes xDS that asks their pickers.
//!
//! ```text
//!  Envoy Gateway ─► Cluster hook: the rule's pools ─► stamped into the cluster's own metadata
//!                ─► Translation hook: stamps + Picture ─► rule ─► clusters, routes, listeners ─► Envoy
//!  watches ─► Picture: shares, pickers, Gateways ─► digest ─► GatewaySync, which makes the hooks run again
//! ```
//!
//! **Invariants.**
//! - An answer is a function of the hook's input and the picture: two replicas that see the same give the same bytes.
//! - What others made is changed a field at a time ([`pointsman_envoy::wire`]); what does not lead to a pool goes back
//!   as it came.
//! - Where the watches have not seen yet what Envoy Gateway saw, the answer is made of what the hooks show, and the
//!   picture's digest tells that it has to be made again.

mod clusters;
mod listeners;
pub mod metrics;
pub mod pb;
pub mod picture;
mod routes;
mod rule;
pub mod service;
pub mod stamp;
pub mod translation;

pub use clusters::{MakeError, NO_PICKER};
