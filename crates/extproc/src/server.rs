//! How ext_proc is served: the HTTP/2 settings of the picker, and of whatever is measured beside it.

use std::time::Duration;

use tonic::transport::Server;

use crate::settings::Limits;

/// What one stream may have under way towards us before we read it: no more than this is lost to a stream that stalls.
const STREAM_WINDOW: u32 = 1 << 20;
/// What one connection may: far above the stream's, because all streams of a gateway share it and one held upload must
/// not freeze others' tokens.
const CONNECTION_WINDOW: u32 = 256 << 20;
/// Streams that a peer may open and reset before they are accepted (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 1024;
/// How often a silent gateway is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How much longer than the body's limit one message may be: a chunk that goes beyond the limit is still to be answered
/// with 413, and not with a broken stream.
const MESSAGE_SLACK: usize = 16 << 20;

/// Sets windows, stream limits and keepalive.
pub fn configure(server: Server, limits: &Limits) -> Server {
    server
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(u32::try_from(limits.max_streams).unwrap_or(u32::MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
}

/// The longest message that the service takes: a whole body, as a gateway that buffers sends it.
pub fn message_size_max(limits: &Limits) -> usize {
    usize::try_from(limits.max_body_size).unwrap_or(usize::MAX).saturating_add(MESSAGE_SLACK)
}
