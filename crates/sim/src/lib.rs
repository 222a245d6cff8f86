//! Simulated model servers.
//!
//! [`Engine`] is the time model: continuous batching over a block-LRU KV cache, in virtual time. [`SimServer`] puts one
//! behind the HTTP API of a vLLM server. [`Workload`] makes seeded multi-turn conversations and [`client`] drives them
//! against any OpenAI-style server and reports what a user would have felt.

pub mod client;
pub mod engine;
mod http_api;
mod rng;
pub mod server;
pub mod tokenizer;
pub mod workload;

pub use client::{ErrorKind, LoadConfig, LoadError, LoadMode, LoadReport, Progress, Quantiles, Sample};
pub use engine::{Engine, EngineConfig, EngineEvent, EngineRequest, EngineStats, EventKind, Nanos, RequestId};
pub use server::{ErrorFault, FaultConfig, MetricsFault, SimConfig, SimHandle, SimServer, StartError};
pub use workload::{Conversation, Script, Turn, Workload, WorkloadConfig};
