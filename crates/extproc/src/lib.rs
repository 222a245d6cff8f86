//! The ext_proc service of Pointsman: what Envoy says of a request, and what it is told.
//!
//! Reading order: [`service`] drives one [`exchange`] a stream; [`body_facts`] reads requests and [`usage`] responses,
//! both by [`json`]; [`rewrite`] names another model; [`refusal`] says what a reason becomes on the wire; [`pb`] holds the protocol's messages.

mod answer;
pub mod api;
pub mod authority;
pub mod body_facts;
pub mod exchange;
mod head;
pub mod json;
pub mod metrics;
pub mod pb;
pub mod refusal;
mod rewrite;
pub mod server;
pub mod service;
pub mod settings;
pub mod usage;
