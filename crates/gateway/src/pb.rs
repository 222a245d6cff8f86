//! The messages of Envoy Gateway's extension service, generated from `proto/` (see `proto/README.md`).

#[path = "gen/packages.rs"]
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    reason = "generated: the protos hold the comments, and prost and tonic decide the style"
)]
mod packages;

pub use packages::envoygateway::extension::*;
