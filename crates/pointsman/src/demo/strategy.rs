//! The ways to balance that are compared.

use pointsman_envoy::wiring::Balancer;
use serde::Serialize;

/// Who chooses the server of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Strategy {
    /// Envoy's round robin.
    RoundRobin,
    /// Envoy's least request of two random choices.
    LeastRequest,
    /// The picker.
    Picker,
}

impl Strategy {
    /// All of them, in the order in which they run.
    pub(super) const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastRequest, Self::Picker];

    /// For people.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::LeastRequest => "least request",
            Self::Picker => "picker",
        }
    }

    /// For Envoy.
    pub(super) fn balancer(self) -> Balancer {
        match self {
            Self::RoundRobin => Balancer::RoundRobin,
            Self::LeastRequest => Balancer::LeastRequest,
            Self::Picker => Balancer::Picker,
        }
    }
}
