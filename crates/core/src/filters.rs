//! Filters: which endpoints may be candidates at all. One file a filter, one line in [`BUILTIN`].

mod label_selector;

pub use label_selector::LabelSelector;

use crate::endpoint::Endpoint;
use crate::facts::Facts;
use crate::registry::PluginDef;

/// Says of each endpoint whether a request may go there.
pub trait Filter: Send + Sync + std::fmt::Debug {
    /// Whether `endpoint` may serve the request.
    fn admits(&self, facts: &Facts, endpoint: &Endpoint) -> bool;
}

/// A filter under its name.
pub type FilterDef = PluginDef<dyn Filter>;

/// The filters that come with Pointsman, by name.
pub const BUILTIN: &[FilterDef] = &[label_selector::DEF];
