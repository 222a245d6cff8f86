//! An API server by hand for unit tests: each list and watch waits until the test answers it, so that the test decides
//! what happens when, and time can be paused.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than any pause or limit of a watch. Time is paused, so that waiting for it costs nothing.
const PATIENCE: Duration = Duration::from_secs(600);

type AnswerBody = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

/// The requests that a client makes, in their order.
pub(crate) struct Requests(mpsc::UnboundedReceiver<Call>);

/// A request that waits for its answer; dropped, it is cut off.
pub(crate) struct Call {
    /// The path, as `/api/v1/namespaces/default/pods`.
    pub(crate) path: String,
    query: String,
    /// When it came.
    pub(crate) at: Instant,
    answer: oneshot::Sender<Response<AnswerBody>>,
}

/// A watch that was answered and goes on; dropped, it ends as one does whose time is over.
pub(crate) struct OpenWatch(mpsc::UnboundedSender<io::Result<Bytes>>);

/// A client, and what it asks for.
pub(crate) fn scripted_api() -> (Client, Requests) {
    let (ask, asked) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, answered) = oneshot::channel();
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        _ = ask.send(Call { path, query, at: Instant::now(), answer });
        async move { answered.await.map_err(|_| io::Error::other("the connection was cut")) }
    });
    (Client::new(service, "default"), Requests(asked))
}

impl Requests {
    /// The next request.
    pub(crate) async fn next(&mut self) -> Call {
        timeout(PATIENCE, self.0.recv()).await.expect("a request is made in time").expect("the client lives")
    }

    /// The next request, if one comes before `end`.
    pub(crate) async fn next_before(&mut self, end: Instant) -> Option<Call> {
        timeout_at(end, self.0.recv()).await.ok().flatten()
    }

    /// Answers the next request, which must be a list of one page, and the watch after it.
    pub(crate) async fn list_and_watch(&mut self, objects: &[Value], version: &str) -> OpenWatch {
        let list = self.next().await;
        assert!(!list.is_watch(), "{}", list.query);
        list.objects(objects, version, "");
        let watch = self.next().await;
        assert_eq!((watch.is_watch(), watch.parameter("resourceVersion")), (true, Some(version)));
        watch.open()
    }
}

impl Call {
    /// Whether it is a watch; else it is a list.
    pub(crate) fn is_watch(&self) -> bool {
        self.parameter("watch") == Some("true")
    }

    /// A parameter of its query, as it is written there.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// Answers a list with a page.
    pub(crate) fn objects(self, objects: &[Value], version: &str, next: &str) {
        self.answer(200, &json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": next}, "items": objects,
        }));
    }

    /// Answers with a failure.
    pub(crate) fn fail(self, code: u16, message: &str) {
        self.answer(code, &failure(code, message));
    }

    /// Answers with a body of one piece.
    pub(crate) fn answer(self, code: u16, body: &Value) {
        let frame = Ok(Frame::data(Bytes::from(body.to_string())));
        let body = StreamBody::new(stream::iter([frame]).boxed());
        _ = self.answer.send(Response::builder().status(code).body(body).unwrap());
    }

    /// Answers a watch, which goes on until the handle is dropped.
    pub(crate) fn open(self) -> OpenWatch {
        let (send, receive) = mpsc::unbounded_channel();
        let frames = stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        let body = StreamBody::new(frames.map(|chunk: io::Result<Bytes>| chunk.map(Frame::data)).boxed());
        _ = self.answer.send(Response::new(body));
        OpenWatch(send)
    }
}

impl OpenWatch {
    /// Sends an event.
    pub(crate) fn event(&self, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        _ = self.0.send(Ok(line.into()));
    }

    /// Sends a bookmark.
    pub(crate) fn bookmark(&self, version: &str) {
        self.event("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version}}));
    }

    /// Sends an error, as of a version that was compacted.
    pub(crate) fn error(&self, code: u16, message: &str) {
        self.event("ERROR", &failure(code, message));
    }

    /// Cuts the connection.
    pub(crate) fn cut(self) {
        _ = self.0.send(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
    }
}

fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": message})
}
