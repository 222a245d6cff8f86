//! A gateway without traffic of its own: holds one conversation a request, and waits for its answers as Envoy does.
//!
//! HTTP/2 by hand and messages encoded beforehand, so that the client costs less than what it measures. It still reads
//! every answer and refuses one that Envoy would not take: bodies must come back whole, and in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderValue, Request};
use pointsman_core::control_headers::{DESTINATIONS_TAKEN, LIST, POOL};
use pointsman_extproc::pb::{BodyResponse, Mutation, ProcessingResponse, Response};
use prost::Message;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::script::Script;

/// Envoy's windows, a stream's and a connection's.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
const METHOD: &str = "http://localhost/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// One connection to a server.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    /// The pool that it asks for; the picker's only one when absent.
    pool: Option<HeaderValue>,
}

/// What one conversation showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// From the request's headers to the answer to them: the decision.
    pub decided_in: Duration,
    /// Whether that answer named a destination.
    pub has_destination: bool,
}

/// Connects to a server, over TLS when told how to verify it.
pub async fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Connection> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    match tls {
        None => handshake(stream).await,
        Some(config) => {
            let name = "localhost".try_into().context("naming the server")?;
            let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
            handshake(stream.with_context(|| format!("a TLS handshake with {address}"))?).await
        }
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<Connection> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(stream)
        .await
        .context("starting HTTP/2")?;
    // Its end shows in the streams.
    tokio::spawn(async move { connection.await.ok() });
    Ok(Connection { requests, pool: None })
}

impl Connection {
    /// The same connection, for requests to the pool `namespace/name`.
    pub fn to_pool(&self, name: &str) -> Result<Self> {
        Ok(Self { requests: self.requests.clone(), pool: Some(name.parse().context("a pool's name")?) })
    }

    /// Holds the whole conversation of one request.
    pub async fn converse(&self, script: &Script) -> Result<Served> {
        let mut requests = self.requests.clone().ready().await.context("opening a stream")?;
        let mut call = Request::post(METHOD)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header(DESTINATIONS_TAKEN, LIST);
        if let Some(pool) = &self.pool {
            call = call.header(POOL, pool);
        }
        let call = call.body(()).context("making a call")?;
        let began = Instant::now();
        let (response, mut out) = requests.send_request(call, false).context("opening a stream")?;
        for message in &script.request {
            out.send_data(message.clone(), false).context("sending a request")?;
        }
        let mut answers =
            Answers { body: response.await.context("waiting for a stream")?.into_body(), read: BytesMut::new() };

        let first = answers.next().await?;
        let decided_in = began.elapsed();
        ensure!(matches!(first.response, Some(Response::RequestHeaders(_))), "not an answer to headers: {first:?}");
        let has_destination = first.dynamic_metadata.is_some();
        answers
            .body(script.request_bytes, |response| match response {
                Response::RequestBody(body) => Some(body),
                _ => None,
            })
            .await?;

        for message in &script.response {
            out.send_data(message.clone(), false).context("sending a response")?;
        }
        let second = answers.next().await?;
        ensure!(matches!(second.response, Some(Response::ResponseHeaders(_))), "not an answer to headers: {second:?}");
        answers
            .body(script.response_bytes, |response| match response {
                Response::ResponseBody(body) => Some(body),
                _ => None,
            })
            .await?;

        out.send_data(Bytes::new(), true).context("closing a stream")?;
        answers.end().await?;
        Ok(Served { decided_in, has_destination })
    }
}

/// What comes back on one stream.
struct Answers {
    body: RecvStream,
    read: BytesMut,
}

impl Answers {
    async fn next(&mut self) -> Result<ProcessingResponse> {
        loop {
            if self.read.len() >= 5 {
                let length = u32::from_be_bytes([self.read[1], self.read[2], self.read[3], self.read[4]]) as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    let message = self.read.split_to(length).freeze();
                    return ProcessingResponse::decode(message).context("reading an answer");
                }
                self.read.reserve(5 + length - self.read.len());
            }
            if !self.fill().await? {
                bail!("the stream ended before its answer: {:?}", self.body.trailers().await);
            }
        }
    }

    /// Takes in more bytes; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        let Some(data) = self.body.data().await else { return Ok(false) };
        let data = data.context("reading a stream")?;
        self.body.flow_control().release_capacity(data.len()).context("reading a stream")?;
        self.read.extend_from_slice(&data);
        Ok(true)
    }

    /// Takes pieces of a body until its end.
    async fn body(&mut self, bytes: usize, of: fn(Response) -> Option<BodyResponse>) -> Result<()> {
        let mut came = 0;
        loop {
            let answer = self.next().await?.response;
            let mutation = answer.and_then(of).and_then(|body| body.response?.body_mutation?.mutation);
            let Some(Mutation::StreamedResponse(piece)) = mutation else { bail!("not a piece of the body") };
            came += piece.body.len();
            if piece.end_of_stream {
                ensure!(came == bytes, "{came} of {bytes} bytes came back");
                return Ok(());
            }
        }
    }

    /// Waits for the end, which must be a good one.
    async fn end(&mut self) -> Result<()> {
        ensure!(!self.fill().await? && self.read.is_empty(), "more was answered than asked");
        let trailers = self.body.trailers().await.context("reading a stream's end")?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        ensure!(status.is_some_and(|status| status == "0"), "the stream did not end well: {trailers:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::bench::noop;
    use crate::bench::script::{KINDS, SHARED};

    async fn noop_server() -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { noop::serve_on(listener, None).await.unwrap() });
        connect(address, None).await.unwrap()
    }

    #[tokio::test]
    async fn the_noop_server_answers_as_a_gateway_wants_it() {
        let connection = noop_server().await;
        for kind in KINDS.iter().chain([&SHARED]) {
            let served = connection.converse(&kind.script(1)).await.unwrap();
            assert!(!served.has_destination, "{}", kind.name);
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_back_whole_is_refused() {
        let connection = noop_server().await;
        let mut script = KINDS[2].script(1);
        let bytes = std::mem::replace(&mut script.request_bytes, 7);
        let error = connection.converse(&script).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{bytes} of 7 bytes came back"));
    }
}
