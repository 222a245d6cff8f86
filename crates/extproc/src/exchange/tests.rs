//! Claims about exchanges: no I/O and no clock, the gateway's messages go in and what it is told comes out.

mod accounts;
mod duplex;
mod endings;
#[expect(clippy::disallowed_types, reason = "a test makes the pools that requests read")]
pub(crate) mod fixture;
mod heads;
mod limits;
mod models;
mod modes;
mod properties;
