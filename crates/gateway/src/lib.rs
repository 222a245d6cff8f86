//! Envoy Gateway's extension server.

pub mod pb;
