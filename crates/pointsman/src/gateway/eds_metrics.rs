//! What is going on in the endpoint discovery service, as metrics.

use std::fmt;

use pointsman_envoy::eds::{Eds, EdsActivity};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Read when the page is.
pub(super) struct EdsMetrics(pub(super) Eds);

impl fmt::Debug for EdsMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("EdsMetrics").field(&self.0.activity()).finish()
    }
}

impl Collector for EdsMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let EdsActivity { streams, version } = self.0.activity();
        let streams = ConstGauge::new(streams as i64);
        let help = "Streams of endpoints that are open: one a pool's cluster of each Envoy";
        streams.encode(encoder.encode_descriptor("gateway_eds_streams", help, None, streams.metric_type())?)?;
        let responses = ConstCounter::new(version);
        let help = "Responses with endpoints that were sent";
        responses.encode(encoder.encode_descriptor("gateway_eds_responses", help, None, responses.metric_type())?)
    }
}
