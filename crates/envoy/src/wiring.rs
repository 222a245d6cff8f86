//! The values, each said once. Found right on Envoy 1.40; nothing here knows in which form Envoy is told.

use std::time::Duration;

/// The header mutation filter, ahead of all else, which removes [`pointsman_core::control_headers::DESTINATIONS`].
/// Removal on the route would come too late: the picker would have read them, and an answer lost would leave them.
pub const HEADER_MUTATION_FILTER: &str = "envoy.filters.http.header_mutation";
/// The filter that asks the picker, right before the router, disabled except where a route enables it.
pub const EXT_PROC_FILTER: &str = "envoy.filters.http.ext_proc";
/// The router.
pub const ROUTER_FILTER: &str = "envoy.filters.http.router";

/// The port where a picker is asked.
pub const DEFAULT_PICKER_PORT: u16 = 9002;
/// The port where a picker serves endpoints to an Envoy of one's own.
pub const DEFAULT_EDS_PORT: u16 = 9005;

/// Requests that Envoy holds open at once, per cluster, and streams on one connection of a client. Envoy's own 1,024
/// cuts a third of 1,500 event streams, because each request in flight holds a stream to the picker for as long as its
/// response lasts.
pub const DEFAULT_MAX_STREAMS: u32 = 10_000;

/// How long a connection attempt may take. Long enough for one lost packet, short enough that the next endpoint of the
/// list is tried in time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long Envoy waits for an answer of the picker. It acts only in the body modes other than full duplex; there the
/// picker keeps limits of its own.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(300);
/// The most that the picker may ask for by `override_message_timeout`. Unset, asking is ignored.
pub const MAX_MESSAGE_TIMEOUT: Duration = Duration::from_secs(600);

/// A route's time limit: none, for a response lasts as long as its tokens. Unset, Envoy cuts it after 15 s.
pub const ROUTE_TIMEOUT: Duration = Duration::ZERO;
/// How much longer than the picker's own limits Envoy waits for a byte: these act first, and tell the client why.
pub const STREAM_IDLE_MARGIN: Duration = Duration::from_secs(30);
/// How long a request may be without a byte in either direction, beside a picker with the default limits.
pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(330);

/// What is retried: an endpoint that cannot be reached. Anything later may have begun to generate.
pub const RETRY_ON: &str = "connect-failure";
/// Retries of a request, each on the next endpoint of the list.
pub const DEFAULT_RETRIES: u32 = 1;
/// The most bytes of a request's body that Envoy holds, for a retry or because the body mode says so: as many as the
/// picker takes. A longer body is refused with 413 where it is buffered, and with 507 where a connection failed and it
/// was already being sent. With the connection's buffer alone that begins at 1 MiB.
pub const DEFAULT_BODY_BUFFER_LIMIT: u64 = 32 << 20;

/// The status when the picker cannot be asked or does not answer: that is nobody's bug, and clients retry it.
pub const STATUS_ON_ERROR: u16 = 503;

/// How the picker's replicas are asked whether they are ready: gRPC health, service "".
pub const PICKER_HEALTH_CHECK: HealthCheck = HealthCheck {
    interval: Duration::from_secs(1),
    timeout: Duration::from_secs(1),
    unhealthy_threshold: 1,
    healthy_threshold: 1,
};
/// When so few of the picker's replicas are healthy that all are asked: never. A dead one would only cost time, and
/// failing open begins when nobody is left.
pub const PICKER_PANIC_PERCENT: u32 = 0;
/// How a replica that hangs is noticed on a connection that is in use. The picker tolerates pings this frequent.
pub const KEEPALIVE: Keepalive = Keepalive { interval: Duration::from_secs(1), timeout: Duration::from_secs(1) };
/// How a replica that just died is noticed by the first request that it fails, before the next health check.
pub const PICKER_OUTLIERS: OutlierDetection = OutlierDetection {
    consecutive_failures: 1,
    interval: Duration::from_millis(500),
    base_ejection_time: Duration::from_secs(1),
    max_ejection_percent: 100,
};

/// How a stream that no replica took is offered to another. Outlier detection alone is not enough: it counts failures up
/// to exactly its threshold, and a replica that failed while it was ejected anyway, at its start say, can be past that
/// when it dies (seen on 1.40: one of two killed, a second of failures without retries, none with them).
pub const PICKER_RETRIES: PickerRetries = PickerRetries {
    tries: 2,
    base_interval: Duration::from_millis(1),
    max_interval: Duration::from_millis(10),
    host_tries: 5,
};

/// How often a peer's DNS name is looked up, whatever its TTL says: a replica that moved is found as soon.
pub const PEER_DNS_REFRESH: Duration = Duration::from_secs(1);

/// How long Envoy waits for a pool's first endpoints before it goes on without: for ever. With a limit, a change of a
/// cluster while the endpoints' server is away would replace it by an empty one.
pub const EDS_INITIAL_FETCH_TIMEOUT: Duration = Duration::ZERO;
/// The first pause before Envoy asks for endpoints again after it lost the server.
pub const EDS_RECONNECT_BASE: Duration = Duration::from_millis(500);
/// The longest such pause. Envoy's own is 30 s.
pub const EDS_RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The subset key of a pool that fails closed. No endpoint carries it, so the balancer that is asked when the pick
/// cannot be followed finds nobody. An empty list of fallbacks, which would say the same, Envoy refuses to load.
pub const NO_SUBSET_KEY: &str = "pointsman-none";

/// Health checks of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between checks, with traffic or without.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Checks failed in a row that make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// Checks passed in a row that make it healthy again.
    pub healthy_threshold: u32,
}

/// HTTP/2 pings on a cluster's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Time between pings; also how long a connection was idle before a ping precedes its next use.
    pub interval: Duration,
    /// How long an answer may take before the connection is closed.
    pub timeout: Duration,
}

/// Retries of a stream to the picker, before anything of it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickerRetries {
    /// How many there are.
    pub tries: u32,
    /// The first pause.
    pub base_interval: Duration,
    /// The longest pause.
    pub max_interval: Duration,
    /// How often the balancer is asked again when it names a replica that failed already.
    pub host_tries: u32,
}

/// Passive health of a cluster, by how its requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row that eject a host: connection failures, gateway errors and 5xx alike, counted apart.
    pub consecutive_failures: u32,
    /// Time between looks at ejected hosts.
    pub interval: Duration,
    /// How long the first ejection lasts.
    pub base_ejection_time: Duration,
    /// The share of hosts that may be ejected at once.
    pub max_ejection_percent: u32,
}

/// What happens to a pool's requests while the picker cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureMode {
    /// They go to any endpoint of the pool. It holds for requests of whose body the picker has seen nothing.
    Open,
    /// They are refused with 503.
    #[default]
    Closed,
}

impl FailureMode {
    /// Whether Envoy goes on without an answer.
    pub fn allows(self) -> bool {
        self == Self::Open
    }
}

/// How bodies pass the picker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// Streamed both ways at the picker's own pace: the right one.
    #[default]
    FullDuplex,
    /// Streamed, each piece held until it is answered.
    Streamed,
    /// Held until whole; one that outgrows Envoy's buffer is refused.
    Buffered,
    /// Held until whole or until Envoy's buffer is full.
    BufferedPartial,
    /// Not shown to the picker. As a response's mode: the picker learns of status and endpoint, not of tokens.
    None,
}

impl BodyMode {
    /// The name of the mode in Envoy's configuration.
    pub fn envoy_name(self) -> &'static str {
        match self {
            Self::FullDuplex => "FULL_DUPLEX_STREAMED",
            Self::Streamed => "STREAMED",
            Self::Buffered => "BUFFERED",
            Self::BufferedPartial => "BUFFERED_PARTIAL",
            Self::None => "NONE",
        }
    }

    /// Whether trailers are shown to the picker. Envoy insists in full duplex; where a body is shown whole, or not at
    /// all, they would say nothing new.
    pub fn sends_trailers(self) -> bool {
        matches!(self, Self::FullDuplex | Self::Streamed)
    }
}

/// Who chooses the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// The picker.
    #[default]
    Picker,
    /// Envoy's round robin, without a picker: for comparison.
    RoundRobin,
    /// Envoy's least request of two random choices, without a picker: for comparison.
    LeastRequest,
}

/// Which protocol an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}
