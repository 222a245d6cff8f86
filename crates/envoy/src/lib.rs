//! What an Envoy beside Pointsman must be told, in one place: the values, a whole bootstrap made of them, and the
//! endpoints, served to Envoy as they change.
//!
//! - [`wiring`] holds the values, with why each is what it is. Whoever configures an Envoy takes them from there.
//! - [`bootstrap`] makes a static bootstrap of them, for the demo, the tests, and an Envoy of one's own.
//! - [`xds`] makes the parts that a control plane puts into an Envoy's configuration.
//! - [`eds`] serves the endpoints of pools by their snapshots.
//! - [`protobuf`] encodes what was made as JSON, and [`wire`] changes what others encoded, without loss.
//!
//! ```text
//!  client ─► Envoy: remove control headers ─► ext_proc ──── initial metadata: the pool ────► picker
//!                                              ◄──────── envoy.lb: ordered endpoints ───────┘
//!            router: override_host by that metadata, over the endpoints that came by EDS ─► model server
//! ```
//!
//! **Invariants.**
//! - The destination is taken from metadata, never from a header, and only an endpoint of the pool can be one.
//! - A pool that fails closed sends nothing anywhere without a pick.
//! - An assignment is sent for pools whose members are known, never an empty one for a pool that is not there yet.

pub mod bootstrap;
pub mod eds;
mod parts;
pub mod protobuf;
pub mod wire;
pub mod wiring;
pub mod xds;
