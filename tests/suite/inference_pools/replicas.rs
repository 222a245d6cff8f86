use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use pointsman_gateway::pb::envoy_gateway_extension_client::EnvoyGatewayExtensionClient;
use pointsman_gateway::pb::{
    ExtensionResource, PostClusterExtensionContext, PostClusterModifyRequest, PostTranslateExtensionContext,
    PostTranslateModifyRequest,
};
use pointsman_tests::gateway_stack::{CHANGE_DEADLINE, EXTENSION_SERVER, GatewayPlan, GatewayStack};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::chat_pool;

/// Connects to one address by TLS, as a client of that name's server.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, config, name } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}

/// A Secret's text in Envoy Gateway's namespace.
async fn secret(stack: &GatewayStack, name: &str, key: &str) -> Result<Vec<u8>> {
    let secret: Secret = stack.envoy_gateway.namespace.api().get(name).await?;
    let held = secret.data.and_then(|mut data| data.remove(key));
    Ok(held.with_context(|| format!("Secret {name} holds no {key}"))?.0)
}

/// A client of a replica, as Envoy Gateway is one; or without its certificate.
async fn client(stack: &GatewayStack, replica: usize, shows: bool) -> Result<EnvoyGatewayExtensionClient<Channel>> {
    let (ca, pair) = (format!("{EXTENSION_SERVER}-ca"), format!("{EXTENSION_SERVER}-client"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&secret(stack, &ca, "tls.crt").await?) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match shows {
        false => builder.with_no_client_auth(),
        true => {
            let chain = secret(stack, &pair, "tls.crt").await?;
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
            let key = PrivateKeyDer::from_pem_slice(&secret(stack, &pair, "tls.key").await?)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = format!("{EXTENSION_SERVER}.{}.svc", stack.system.name);
    let connector = Connector {
        address: stack.extension_address(replica, 9004),
        config: Arc::new(config),
        name: ServerName::try_from(name)?,
    };
    let channel = Endpoint::from_static("http://extension-server").connect_with_connector(connector).await?;
    Ok(EnvoyGatewayExtensionClient::new(channel))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_extension_servers_give_the_same_answers_to_whoever_shows_a_certificate() -> Result<()> {
    let (stack, proxy) = chat_pool(GatewayPlan { extension_servers: 2, ..GatewayPlan::default() }, "FailOpen").await?;
    let object = |text: String| ExtensionResource { unstructured_bytes: text.into() };
    let shown = async |kind: &str, name: &str| stack.until(kind, name, |_| true).await.map(|it| it.to_string());
    let pool = object(shown("inferencepool", "chat").await?);
    let sync = object(shown("gatewaysync", "gateway").await?);
    let name = format!("httproute/{}/chat/rule/0", stack.team.name);
    let cluster = Bytes::from(Cluster { name, ..Cluster::default() }.encode_to_vec());

    // A replica may lag a moment behind the other: both say the same once both have seen the same.
    let deadline = Instant::now() + CHANGE_DEADLINE;
    loop {
        let mut answers = Vec::new();
        for replica in 0..2 {
            let mut client = client(&stack, replica, true).await?;
            let context = PostClusterExtensionContext { backend_extension_resources: vec![pool.clone()] };
            let request = PostClusterModifyRequest { cluster: cluster.clone(), post_cluster_context: Some(context) };
            let stamped = client.post_cluster_modify(request).await?.into_inner().cluster.context("no cluster")?;
            let context = PostTranslateExtensionContext { extension_resources: vec![sync.clone()] };
            let request = PostTranslateModifyRequest {
                post_translate_context: Some(context),
                clusters: vec![stamped],
                ..PostTranslateModifyRequest::default()
            };
            let made = client.post_translate_modify(request).await?.into_inner();
            let page = stack.extension_page(replica, "/debug/xds").await?;
            let digest = page[format!("{}/gateway", stack.team.name)]["digest"].clone();
            answers.push((made.encode_to_vec(), made.clusters.len(), digest));
        }
        // The pool's cluster, its picker's, and the one of pickers that are nowhere.
        if answers[0] == answers[1] && answers[0].1 == 3 {
            break;
        }
        let seen: Vec<_> = answers.iter().map(|(bytes, clusters, digest)| (bytes.len(), clusters, digest)).collect();
        ensure!(Instant::now() < deadline, "other answers: {seen:?}\n{}", stack.logs());
        sleep(std::time::Duration::from_millis(50)).await;
    }

    // Nobody else is told anything: an answer holds the key of all Envoys.
    let asked = match client(&stack, 0, false).await {
        Ok(mut client) => client.post_translate_modify(PostTranslateModifyRequest::default()).await.map(|_| ()),
        Err(_) => return proxy.assert_no_rejections().await,
    };
    ensure!(asked.is_err(), "answered without a certificate");
    proxy.assert_no_rejections().await
}
