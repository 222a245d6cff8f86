//! A client of Envoy: whole answers, and streams whose chunks carry the time of their arrival.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long any one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

type Body = BoxBody<Bytes, std::io::Error>;

/// A pooled HTTP client. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    inner: hyper_util::client::legacy::Client<HttpConnector, Body>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header's value, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: {}", self.status, self.text()))
    }
}

/// What came of a streamed answer.
#[derive(Debug, Default)]
pub struct Streamed {
    /// Its status.
    pub status: u16,
    /// The chunks, with the time from the request to their arrival.
    pub chunks: Vec<(Duration, Bytes)>,
    /// Why it broke off, when it did not end well.
    pub error: Option<String>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client over HTTP/1.1.
    pub fn new() -> Self {
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { inner }
    }

    /// A client over HTTP/2 in plaintext.
    pub fn http2() -> Self {
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { inner }
    }

    /// Gets a page.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.answer(request(Method::GET, url, headers, Empty::new().map_err(|never| match never {}).boxed())?).await
    }

    /// Puts a body.
    pub async fn put(&self, url: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.answer(request(Method::PUT, url, &[], full(body.into()))?).await
    }

    /// Posts a body whose length is known.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        self.answer(request(Method::POST, url, headers, full(body.into()))?).await
    }

    /// Posts a body of unknown length, piece by piece.
    pub async fn post_pieces(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        pieces: impl Stream<Item = Bytes> + Send + Sync + 'static,
    ) -> Result<Answer> {
        let body = StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))));
        self.answer(request(Method::POST, url, headers, BoxBody::new(body))?).await
    }

    /// Posts a body and hands out the answer as soon as its headers are there.
    pub async fn begin(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        Ok(self.inner.request(request(Method::POST, url, headers, full(body.into()))?).await?)
    }

    /// Posts a body and reads the answer chunk by chunk.
    pub async fn stream(&self, url: &str, body: impl Into<Bytes>) -> Result<Streamed> {
        let began = Instant::now();
        let response = self.begin(url, &[], body).await?;
        let mut streamed = Streamed { status: response.status().as_u16(), ..Streamed::default() };
        let mut frames = response.into_body().into_data_stream();
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(chunk) => streamed.chunks.push((began.elapsed(), chunk)),
                Err(error) => streamed.error = Some(format!("{error:?}")),
            }
        }
        Ok(streamed)
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer> {
        let whole = async {
            let response = self.inner.request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.context("the answer broke off")?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(ANSWER_DEADLINE, whole).await.context("no answer in time")?
    }
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed()
}

fn request(method: Method, url: &str, headers: &[(&str, &str)], body: Body) -> Result<Request<Body>> {
    let mut request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(body)?)
}
