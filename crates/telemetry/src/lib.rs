//! What model servers tell of their load: their `/metrics`, asked for often enough and never too often.
//!
//! ```text
//!  Pool::snapshot ─► scraper: whom, when ─► GET /metrics ─► exposition: bytes to samples
//!   (members,          ▲  adaptive interval,                     │
//!    policy,           │  backoff, rate limit                    ▼
//!    in flight)        └── status, metrics ◄── reading: samples x engine mapping ─► LoadReport ─► the pool's owner
//! ```
//!
//! Reading order: [`exposition`], [`engines`], [`reading`], [`scraper`].
//!
//! **Invariants.**
//! - What a server answers is hostile until read: no bytes panic, every buffer is bounded, every figure is clamped.
//! - A server that hangs costs its own scrape and nobody else's.
//! - An endpoint that cannot be read is never an error for the pool: its last reading grows old, which core sees.
//! - Failures are logged when they begin and when they end, and counted in between.

pub mod engines;
pub mod exposition;
pub mod metrics;
pub mod reading;
pub mod scraper;
pub mod status;
