//! What telemetry counts of itself, over all pools.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::reading::{ClampKind, Clamps, Field};

/// How a scrape ended: the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrapeResult {
    /// A reading was reported.
    Ok,
    /// The server took too long.
    Timeout,
    /// No connection came about.
    Connect,
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// The answer was not 200.
    Status,
    /// The answer was too large.
    TooLarge,
    /// None of the engine's series was there.
    NoSeries,
    /// The engine's series held no number.
    NotNumbers,
    /// The endpoint's engine has no mapping.
    UnknownEngine,
    /// The endpoint left meanwhile.
    Departed,
    /// The pool's owner was too far behind to take the reading.
    Unreported,
}

/// Telemetry's own metrics. Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub struct TelemetryMetrics {
    scrapes: [Counter; ScrapeResult::ALL.len()],
    clamped: [[Counter; ClampKind::ALL.len()]; Field::ALL.len()],
    seconds: Histogram,
    bytes: Counter,
    malformed_lines: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClampLabels {
    value: &'static str,
    kind: &'static str,
}

impl ScrapeResult {
    /// All results.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Timeout,
        Self::Connect,
        Self::Broken,
        Self::Status,
        Self::TooLarge,
        Self::NoSeries,
        Self::NotNumbers,
        Self::UnknownEngine,
        Self::Departed,
        Self::Unreported,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::NoSeries => "no_series",
            Self::NotNumbers => "not_numbers",
            Self::UnknownEngine => "unknown_engine",
            Self::Departed => "departed",
            Self::Unreported => "unreported",
        }
    }
}

impl TelemetryMetrics {
    /// Registers `pointsman_telemetry_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let scrapes = Family::<ResultLabel, Counter>::default();
        let clamped = Family::<ClampLabels, Counter>::default();
        let seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 13));
        let (bytes, malformed_lines) = (Counter::default(), Counter::default());
        registry.register("telemetry_scrapes", "Scrapes of model servers, by how they ended", scrapes.clone());
        let help = "Figures of model servers that could not be true and were clamped, by value and by what was wrong";
        registry.register("telemetry_clamped_values", help, clamped.clone());
        let help = "Time from a scrape's start to its end, failures included";
        registry.register("telemetry_scrape_duration_seconds", help, seconds.clone());
        let help = "Bytes of metrics received from model servers";
        registry.register("telemetry_scraped_bytes", help, bytes.clone());
        let help = "Lines of wanted metrics that could not be read";
        registry.register("telemetry_malformed_lines", help, malformed_lines.clone());
        Self {
            scrapes: ScrapeResult::ALL
                .map(|result| scrapes.get_or_create_owned(&ResultLabel { result: result.label() })),
            clamped: Field::ALL.map(|field| {
                ClampKind::ALL
                    .map(|kind| clamped.get_or_create_owned(&ClampLabels { value: field.label(), kind: kind.label() }))
            }),
            seconds,
            bytes,
            malformed_lines,
        }
    }

    pub(crate) fn scraped(&self, result: ScrapeResult) {
        self.scrapes[result as usize].inc();
    }

    pub(crate) fn took(&self, seconds: f64) {
        self.seconds.observe(seconds);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn read(&self, clamps: &Clamps, malformed_lines: u64) {
        if malformed_lines > 0 {
            self.malformed_lines.inc_by(malformed_lines);
        }
        if clamps.is_empty() {
            return;
        }
        for field in Field::ALL {
            for kind in ClampKind::ALL {
                let count = clamps.count(field, kind);
                if count > 0 {
                    self.clamped[field as usize][kind as usize].inc_by(u64::from(count));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_and_clamp_has_a_child_of_its_own() {
        let mut registry = Registry::default();
        let metrics = TelemetryMetrics::register(&mut registry);
        for (count, result) in ScrapeResult::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| metrics.scraped(result));
        }
        let mut clamps = Clamps::default();
        clamps.add(Field::Adapters, ClampKind::TooLarge);
        metrics.read(&clamps, 2);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (count, result) in ScrapeResult::ALL.into_iter().enumerate() {
            let line = format!("telemetry_scrapes_total{{result=\"{}\"}} {}\n", result.label(), count + 1);
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("clamped_values_total{value=\"adapters\",kind=\"too_large\"} 1\n"), "{text}");
        assert!(text.contains("telemetry_malformed_lines_total 2\n"), "{text}");
    }
}
