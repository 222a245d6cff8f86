//! The scheduling core of Pointsman: what a pool is, what a request says, and which endpoint answers it soonest.
//!
//! ```text
//!  membership, load, policy ─► PoolWriter ─► Arc<PoolSnapshot> ──ArcSwap──┐
//!                              (the only writer)                         ▼
//!  Facts ─────────────────────────────► Pool::pick: filters ─► signals ─► scorers ─► picker ─► Decision
//!                                                    ▲                                            │
//!                     EndpointCell, PrefixIndex ─────┴────────── counted inside the pick ◄────────┘
//! ```
//!
//! Reading order: [`endpoint`], [`load`], [`snapshot`], [`facts`], [`models`], [`signals`], [`scorers`], [`scheduler`],
//! [`pool`].
//!
//! **Invariants.**
//! - A request reads exactly one snapshot an attempt. Membership, load and policy live in the same swap. What is
//!   mutable beside it, cells and prefix index, is addressed by slot and generation, and stale generations read as
//!   absent.
//! - The load that a pick adds is counted inside the pick, before the next pick looks, and so is the prefix that it
//!   will leave behind: a burst never herds.
//! - Exactly one task writes a pool's snapshots: it alone holds the [`pool::PoolWriter`].
//! - The scheduler does no I/O and cannot fail: "nothing eligible" is a [`decision::Decision`] with a
//!   [`reason::Reason`].
//! - Missing or stale telemetry is a value with an age, never an error, and never stops dispatch.
//! - A scorer is a pure function of (facts, signals, snapshot) into a caller-owned `&mut [f32]`: no allocation, no lock,
//!   no string hashing. What remembers reads and writes through the pool's own state.
//! - Time and randomness are parameters. Nothing here knows tokio, kube, tonic, hyper or clap.

pub mod config;
pub mod control_headers;
pub mod decision;
pub mod endpoint;
pub mod explanation;
pub mod facts;
pub mod filters;
pub mod load;
pub mod models;
pub mod pickers;
pub mod policy;
pub mod pool;
pub mod prefix;
pub mod reason;
pub mod registry;
pub mod scheduler;
pub mod scorers;
pub mod signals;
pub mod snapshot;
pub mod time;
