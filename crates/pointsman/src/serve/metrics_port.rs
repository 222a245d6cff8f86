//! The port of Prometheus metrics: for everybody, or over TLS for whom the API server lets in.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use kube::Client;
use parking_lot::Mutex;
use pointsman_k8s::delegated_auth::{Access, DelegatedAuth};
use prometheus_client::registry::Registry as MetricsRegistry;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::incoming::{self, Connection, Tls, TlsConfig};
use super::tls;

/// The page, and the non-resource URL that a ClusterRole names.
const PATH: &str = "/metrics";
/// OpenMetrics.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the port is made of.
pub(crate) struct MetricsPort {
    pub(crate) listener: TcpListener,
    pub(crate) registry: Arc<Mutex<MetricsRegistry>>,
    /// Whom to let in; everybody when absent.
    pub(crate) auth: Option<DelegatedAuth>,
}

/// Lets in to the metrics whom the API server lets in, found as a pod or kubectl finds it.
pub(crate) async fn cluster_auth() -> Result<DelegatedAuth> {
    let config = kube::Config::infer().await.context(
        "finding the cluster that --metrics-auth asks: run in a pod with a ServiceAccount, or set KUBECONFIG",
    )?;
    Ok(auth(Client::try_from(config).context("the cluster's configuration cannot be used")?))
}

/// Lets in to the metrics whom this API server lets in.
pub(crate) fn auth(client: Client) -> DelegatedAuth {
    DelegatedAuth::new(client, PATH)
}

impl MetricsPort {
    /// Serves the page for as long as the process lives. Where it needs a token, it is served with the certificate that
    /// `tls` has at the time; without that in plaintext.
    pub(crate) fn serve(self, tls: Option<TlsConfig>) -> Result<impl Future<Output = io::Result<()>> + Send> {
        let tls = match (&self.auth, tls) {
            (None, _) => None,
            (Some(_), Some(certificates)) => Some(Tls::Rustls(tls::replaceable(with_certificate_of(certificates)?))),
            (Some(_), None) => {
                tracing::warn!("the tokens of who asks for metrics travel in plaintext: there is no --secure-serving");
                None
            }
        };
        let router = router(self.registry, self.auth.map(Arc::new));
        let accepted = Accepted(incoming::accept(self.listener, tls));
        Ok(async move { axum::serve(accepted, router).await })
    }
}

fn router(registry: Arc<Mutex<MetricsRegistry>>, auth: Option<Arc<DelegatedAuth>>) -> Router {
    let page = move |headers: HeaderMap| async move {
        if let Some(auth) = auth {
            let access = match bearer(&headers) {
                Some(token) => auth.access(token).await,
                None => Access::Unauthenticated,
            };
            refuse(access)?;
        }
        let mut text = String::new();
        let encoded = prometheus_client::encoding::text::encode(&mut text, &registry.lock());
        encoded.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())?;
        Ok::<_, Response>(([(CONTENT_TYPE, KIND)], text))
    };
    Router::new().route(PATH, get(page))
}

/// The token of a request; `None` when there is none, or more than one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (values.next()?, values.next());
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (more.is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim_matches(' '))
}

/// The answer to who gets no metrics.
#[expect(clippy::result_large_err, reason = "the answer goes out as it is")]
fn refuse(access: Access) -> Result<(), Response> {
    Err(match access {
        Access::Granted => return Ok(()),
        Access::Unauthenticated => {
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], "a valid token is needed\n").into_response()
        }
        Access::Forbidden => (StatusCode::FORBIDDEN, "the right to get /metrics is needed\n").into_response(),
        Access::Unknown => {
            (StatusCode::SERVICE_UNAVAILABLE, "the API server cannot be asked about the token\n").into_response()
        }
        Access::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many tokens are being reviewed\n").into_response(),
    })
}

/// TLS for scrapers, who need no certificate of their own.
fn with_certificate_of(certificates: TlsConfig) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.context("setting up TLS for metrics")?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(CertificateOf(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Shows the certificate that another configuration has at the time.
#[derive(Debug)]
struct CertificateOf(TlsConfig);

impl ResolvesServerCert for CertificateOf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().cert_resolver.resolve(hello)
    }
}

/// Connections whose handshakes are over.
struct Accepted(ReceiverStream<io::Result<Connection>>);

impl Listener for Accepted {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            match self.0.next().await {
                Some(Ok(connection)) => return (connection, ()),
                Some(Err(_)) => {}
                // Who accepts lives as long as this is read.
                None => match std::future::pending::<Infallible>().await {},
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
