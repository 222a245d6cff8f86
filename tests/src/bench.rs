//! `make bench`: what a request costs the picker, beside a server that does nothing but answer.
//!
//! The client speaks ext_proc as Envoy does, to the picker as it is released and to a [`noop`] server with the same
//! types and settings, by turns, each pinned to the same core. What counts is the ratio of the CPU that they take.
//!
//! Reading order: [`script`] is what goes over the wire, [`client`] sends it, [`process`] runs and watches a server,
//! [`load`] measures one for a while, [`matrix`] decides what is measured, [`report`] prints it.

pub mod args;
pub mod client;
pub mod exposition;
pub mod load;
pub mod matrix;
pub mod noop;
pub mod picker;
pub mod process;
pub mod report;
pub mod script;
