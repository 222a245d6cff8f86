//! One GET of `/metrics`, read as it arrives.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::error::ScrapeError;
use super::roster::Source;
use crate::metrics::TelemetryMetrics;
use crate::reading::{Reader, Reading};

/// The longest answer that is read, in bytes. A vLLM server publishes about 50 KB for each of its engines.
pub const MAX_ANSWER: usize = 8 << 20;

/// What an HTTP head may cost, in bytes; a body is read in pieces of at most this.
const READ_BUFFER: usize = 64 << 10;
/// How long an unused connection is kept: longer than the longest pause between two scrapes of an endpoint.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// How long the system may try to connect after the scrape itself has given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The text format; without this header some servers choose OpenMetrics, which costs them more.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain;version=0.0.4;q=1,*/*;q=0.1");

/// Where readings come from: model servers, or a test.
pub(super) trait Fetch: Send + Sync + 'static {
    /// Asks one server. May take forever: the caller sets the limit, and drops the future at it.
    fn fetch(&self, source: Arc<Source>) -> impl Future<Output = Result<Reading, ScrapeError>> + Send;
}

/// Asks over HTTP/1.1, on connections that are kept. Follows no redirects.
pub(super) struct HttpFetch {
    client: Client<HttpConnector, Empty<Bytes>>,
    metrics: TelemetryMetrics,
}

impl HttpFetch {
    pub(super) fn new(metrics: TelemetryMetrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        Self { client, metrics }
    }
}

impl Fetch for HttpFetch {
    async fn fetch(&self, source: Arc<Source>) -> Result<Reading, ScrapeError> {
        let target = source.target;
        let broken = |error: &dyn Error| ScrapeError::Broken { target, cause: root_cause(error) };
        let too_large = || ScrapeError::TooLarge { target, limit: MAX_ANSWER };

        let mut request = Request::new(Empty::new());
        *request.uri_mut() = source.uri.clone();
        request.headers_mut().insert(ACCEPT, TEXT_FORMAT);
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => ScrapeError::Connect { target, cause: root_cause(&error) },
            false => broken(&error),
        })?;
        if response.status() != StatusCode::OK {
            return Err(ScrapeError::Status { target, status: response.status().as_u16() });
        }
        let mut body = response.into_body();
        let mut reader = Reader::new(Arc::clone(&source.mapping));
        let mut left = MAX_ANSWER;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            self.metrics.received(data.len());
            left = left.checked_sub(data.len()).ok_or_else(too_large)?;
            reader.push(data);
        }
        reader.finish().map_err(|error| ScrapeError::Unreadable { target, error })
    }
}

/// The innermost error's words: those around it only say that a request failed.
fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
