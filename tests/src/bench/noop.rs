//! The floor: a server that gives every message the least answer that a gateway accepts.
//!
//! It has the picker's message types, HTTP/2 settings, runtime and TLS, and reads nothing: no header, no body. It does
//! not even name a destination, so it does less than any picker must.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use futures::Stream;
use pointsman_extproc::pb::{
    BodyMutation, BodyResponse, CommonResponse, ExternalProcessor, ExternalProcessorServer, HeadersResponse, HttpBody,
    Mutation, ProcessingRequest, ProcessingResponse, Request, Response, StreamedBodyResponse, TrailersResponse,
};
use pointsman_extproc::server;
use pointsman_extproc::settings::Limits;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Status, Streaming};

use super::args::NoopArgs;

/// The longest piece of a body that Envoy takes.
const PIECE_MAX: usize = 62_000;

/// Serves until it is killed. Its first line on standard error says where, as the picker's log does.
pub fn run(args: &NoopArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: &NoopArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    eprintln!("{}", serde_json::json!({"message": "listening", "ext_proc": listener.local_addr()?.to_string()}));
    serve_on(listener, args.tls_dir.as_deref()).await
}

/// Serves connections of `listener`, over TLS when there is a folder with `tls.crt` and `tls.key`.
pub(super) async fn serve_on(listener: TcpListener, tls_dir: Option<&Path>) -> Result<()> {
    let limits = Limits::default();
    let mut builder = server::configure(Server::builder(), &limits);
    if let Some(dir) = tls_dir {
        let read = |name: &str| std::fs::read(dir.join(name)).with_context(|| format!("reading {name}"));
        let identity = Identity::from_pem(read("tls.crt")?, read("tls.key")?);
        builder = builder.tls_config(ServerTlsConfig::new().identity(identity)).context("setting up TLS")?;
    }
    let noop = ExternalProcessorServer::new(Noop).max_decoding_message_size(server::message_size_max(&limits));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    builder.add_service(noop).serve_with_incoming(incoming).await.context("serving ext_proc")
}

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct Noop;

#[tonic::async_trait]
impl ExternalProcessor for Noop {
    type ProcessStream = Echo<Streaming<ProcessingRequest>>;

    async fn process(
        &self,
        request: tonic::Request<Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, Status> {
        Ok(tonic::Response::new(Echo { inbound: request.into_inner(), answers: Answers::default() }))
    }
}

/// One stream.
#[derive(Debug)]
pub struct Echo<S> {
    inbound: S,
    answers: Answers,
}

impl<S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin> Stream for Echo<S> {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(answer) = this.answers.ready.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match ready!(Pin::new(&mut this.inbound).poll_next(cx)) {
                Some(Ok(message)) => this.answers.to(message),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The answers of one stream that are not sent yet.
#[derive(Debug, Default)]
struct Answers {
    ready: VecDeque<ProcessingResponse>,
    /// A request's headers came and are answered with its body.
    owes_headers: bool,
}

impl Answers {
    fn to(&mut self, message: ProcessingRequest) {
        match message.request {
            Some(Request::RequestHeaders(headers)) => {
                self.owes_headers = true;
                if headers.end_of_stream {
                    self.request_headers();
                }
            }
            Some(Request::RequestBody(body)) => {
                self.request_headers();
                self.pieces(body, Response::RequestBody);
            }
            Some(Request::RequestTrailers(_)) => {
                self.request_headers();
                self.push(Response::RequestTrailers(TrailersResponse::default()));
            }
            Some(Request::ResponseHeaders(_)) => self.push(Response::ResponseHeaders(go_on())),
            Some(Request::ResponseBody(body)) => self.pieces(body, Response::ResponseBody),
            Some(Request::ResponseTrailers(_)) => self.push(Response::ResponseTrailers(TrailersResponse::default())),
            None => {}
        }
    }

    fn request_headers(&mut self) {
        if std::mem::take(&mut self.owes_headers) {
            self.push(Response::RequestHeaders(go_on()));
        }
    }

    /// Sends a chunk back by reference.
    fn pieces(&mut self, chunk: HttpBody, of: fn(BodyResponse) -> Response) {
        let mut rest = chunk.body;
        loop {
            let body = rest.split_to(rest.len().min(PIECE_MAX));
            let is_last = rest.is_empty();
            let end_of_stream = chunk.end_of_stream && is_last;
            let streamed = StreamedBodyResponse { body, end_of_stream, ..StreamedBodyResponse::default() };
            let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
            let common = CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() };
            self.push(of(BodyResponse { response: Some(common) }));
            if is_last {
                return;
            }
        }
    }

    fn push(&mut self, response: Response) {
        self.ready.push_back(ProcessingResponse { response: Some(response), ..ProcessingResponse::default() });
    }
}

fn go_on() -> HeadersResponse {
    HeadersResponse { response: Some(CommonResponse::default()) }
}
