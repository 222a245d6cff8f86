//! HTTP/1.1 over one connection, whatever carries it: TCP, TLS, or a port-forward through the API server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{HOST, HeaderMap};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// The longest answer that is read: a page of some ten thousand endpoints.
const ANSWER_MAX: usize = 64 << 20;
/// How long after a port-forward's end its reason may come.
const REASON_DEADLINE: Duration = Duration::from_millis(200);

/// What carries a connection.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// What a port-forward says when it breaks.
pub(crate) type Broken = BoxFuture<'static, Option<String>>;

/// One connection, used for one request after the other.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    broken: Option<Broken>,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's value, empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A TCP connection to where a URL leads, and TLS over it where the URL says so.
pub(crate) async fn dial(url: &Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Connection> {
    let host = url.host().context("the URL names no host")?.trim_matches(['[', ']']);
    let is_secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await.with_context(|| format!("connecting to {host}:{port}"))?;
    tcp.set_nodelay(true)?;
    if !is_secure {
        return Connection::over(tcp, None).await;
    }
    let tls = tls.context("no TLS was set up for this URL")?;
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no name for TLS"))?;
    let secured = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
    Connection::over(secured.with_context(|| format!("TLS with {host}:{port}"))?, None).await
}

/// What carries a connection to a port of a pod, through the API server and the pod's kubelet.
pub(crate) async fn forward(pods: &Api<Pod>, pod: &str, port: u16) -> Result<(impl Carrier + use<>, Broken)> {
    let mut forwarder = pods.portforward(pod, &[port]).await.with_context(|| {
        format!("port-forwarding to pod {pod}: it needs `create` on pods/portforward, or give --admin-url")
    })?;
    let broken = forwarder.take_error(port).context("the port-forward has no error channel")?;
    let stream = forwarder.take_stream(port).context("the port-forward has no stream")?;
    Ok((stream, Box::pin(broken)))
}

impl Connection {
    /// A connection over what carries it.
    pub(crate) async fn over(carrier: impl Carrier + 'static, broken: Option<Broken>) -> Result<Self> {
        let (sender, driver) = handshake(TokioIo::new(carrier)).await.context("beginning HTTP")?;
        Ok(Self { sender, broken, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }

    /// Whether another request can be sent over it.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request whose URL is whole, and reads the answer.
    pub(crate) async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        if !request.headers().contains_key(HOST) {
            let host = request.uri().authority().map_or("localhost", |authority| authority.as_str()).parse()?;
            request.headers_mut().insert(HOST, host);
        }
        // To an origin, the request's target is path and query alone.
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).parse()?;
        *request.uri_mut() = target;
        let answer = self.exchange(request).await;
        match (answer, self.broken.take_if(|_| self.sender.is_closed())) {
            (Err(error), Some(broken)) => match timeout(REASON_DEADLINE, broken).await {
                Ok(Some(why)) => Err(error.context(why)),
                _ => Err(error),
            },
            (answer, _) => answer,
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        self.sender.ready().await.context("the connection was closed")?;
        let response = self.sender.send_request(request).await.context("no answer came")?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// The answer's body, where its status is good.
pub(crate) fn good(answer: Answer) -> Result<Bytes> {
    let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
    ensure!(answer.status.is_success(), "the answer was {}: {}", answer.status, text.trim());
    Ok(answer.body)
}
