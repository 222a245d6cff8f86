//! Kubernetes: what the cluster says of pools, models and tuning, and what Pointsman says back.
//!
//! ```text
//!  watches, one a kind ─► Index (one task, the only owner) ─► a picture a pool: endpoints and policy ─► the binary
//!                           │  │
//!                           │  └─► Notices ─► Events           ┐ written by the Lease's holder alone
//!                           └────► Verdicts ─► status writes   ┘
//! ```

pub mod api;
pub mod calls;
pub mod cluster;
pub mod crds;
pub mod delegated_auth;
pub mod events;
pub mod facts;
#[cfg(test)]
mod fake_api;
pub mod gateways;
pub mod index;
pub mod key;
pub mod lease;
pub mod rbac;
#[cfg(test)]
mod scripted_api;
pub mod status;
pub mod sync;
pub mod trust;
pub mod verdict;
pub mod watch;
