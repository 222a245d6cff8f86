//! What tests build on: the real picker and the real Envoy before simulated model servers, and clients to ask them.

pub mod bench;
pub mod client;
pub mod depth;
pub mod process;
pub mod stack;
