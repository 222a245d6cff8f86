//! What goes wrong on purpose.

use serde::{Deserialize, Serialize};

/// Faults of one server, set at its start, by `POST /sim/faults` and by [`SimHandle::set_faults`].
///
/// Latency, errors and hanging touch every path but `/health` and `/metrics`, which have faults of their own, and
/// `/sim/...`, which always works. Setting faults replaces all of them: what is not named is off. A refused connection is
/// made by shutting the server down.
///
/// [`SimHandle::set_faults`]: crate::SimHandle::set_faults
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultConfig {
    /// Time added before each request is looked at, in milliseconds.
    pub latency_ms: u64,
    /// Answers that are errors; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorFault>,
    /// Requests are taken and never answered.
    pub hang: bool,
    /// An answer's connection is cut after this many tokens; absent for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_after_tokens: Option<usize>,
    /// `/health` answers 503.
    pub unhealthy: bool,
    /// What is wrong with `/metrics`; absent for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsFault>,
}

/// A share of error answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorFault {
    /// How many of a hundred requests fail, spread by the engine's seed.
    pub percent: f64,
    /// The status that they get, 400 to 599.
    pub status: u16,
}

/// What can be wrong with a metrics page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsFault {
    /// An HTML page with status 200, as a proxy's login would be.
    Html,
    /// A page that never ends, as fast as it is read.
    Huge,
    /// One byte a second.
    Slow,
    /// NaN, infinite, negative and giant values.
    Nan,
    /// Status 500.
    #[serde(rename = "500")]
    Status500,
    /// The connection is taken and nothing is said.
    Hang,
}

impl Default for ErrorFault {
    fn default() -> Self {
        Self { percent: 100.0, status: 503 }
    }
}

impl FaultConfig {
    /// Checks what serde cannot: the message names the field.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(errors) = self.errors {
            if !(0.0..=100.0).contains(&errors.percent) {
                return Err(format!("errors.percent is {}: it must lie between 0 and 100", errors.percent));
            }
            if !(400..=599).contains(&errors.status) {
                return Err(format!("errors.status is {}: it must lie between 400 and 599", errors.status));
            }
        }
        Ok(())
    }
}
