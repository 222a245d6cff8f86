//! What the pickers speak, and whether a gateway that trusts the published CA can verify them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::report::{Finding, Report};
use super::service::Backend;
use crate::kubectl::admin_client::within;
use crate::kubectl::args::CheckArgs;
use crate::kubectl::cluster::Cluster;
use crate::kubectl::http_client::{Carrier, forward};

/// How long a connection to a pod's address may take before another way is tried: most are not reachable from where
/// people sit.
const CONNECT: Duration = Duration::from_secs(2);
/// So many pickers are asked, so many of them at once.
const BACKENDS_MAX: usize = 8;
/// The key of the CA in the ConfigMap.
const CA_KEY: &str = "ca.crt";

/// What a picker speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spoken {
    /// TLS, with a certificate that the CA vouches for.
    Verified,
    /// TLS, with another certificate; why it is refused.
    Unverified(String),
    /// No TLS.
    Plaintext,
}

/// Speaks TLS with every picker, as a gateway would that trusts the ConfigMap.
pub(super) async fn check(
    cluster: &Cluster,
    args: &CheckArgs,
    namespace: &str,
    service: &str,
    backends: &[Backend],
    report: &mut Report,
) {
    let config_map = format!("{service}-ca");
    let Some(published) = report.known(cluster.get::<ConfigMap>(namespace, &config_map).await) else { return };
    let published = published.and_then(|map| map.data?.remove(CA_KEY));
    let roots = match published.as_deref().map(roots).transpose() {
        Ok(roots) => roots,
        Err(error) => {
            let text = format!("ConfigMap {config_map}: {error:#}");
            report.fail(text, "delete it: the picker with --service-name publishes its CA anew");
            return;
        }
    };
    let name = format!("{service}.{namespace}.svc");
    let tls = client(roots.clone().unwrap_or_else(RootCertStore::empty));
    let asked = stream::iter(backends.iter().take(BACKENDS_MAX)).map(async |backend| {
        let spoken = within(cluster.limit, async { speak(reach(cluster, args, backend).await?, &name, &tls).await });
        (backend.address.to_string(), spoken.await)
    });
    let asked: Vec<_> = asked.buffered(BACKENDS_MAX).collect().await;
    for (address, spoken) in asked {
        report.add(judge(&address, &name, &config_map, roots.is_some(), spoken));
    }
}

fn judge(address: &str, name: &str, config_map: &str, is_published: bool, spoken: Result<Spoken>) -> Finding {
    match (spoken, is_published) {
        (Err(error), _) => Finding::warn(
            format!("TLS of {address} cannot be told from here: {error:#}"),
            "run this where pods can be reached, such as in the picker's own pod",
        ),
        (Ok(Spoken::Verified), _) => {
            Finding::ok(format!("{address} is {name}, as the CA of ConfigMap {config_map} confirms"))
        }
        (Ok(Spoken::Unverified(why)), true) => Finding::fail(
            format!("{address} has a certificate that the CA of ConfigMap {config_map} does not vouch for: {why}"),
            format!(
                "gateways that trust it refuse the picker: is it started with --service-name? Names must hold {name}"
            ),
        ),
        (Ok(Spoken::Unverified(_)), false) => Finding::warn(
            format!("{address} speaks TLS, and there is no ConfigMap {config_map} to verify it by"),
            "start the picker with --service-name, or tell gateways its CA by a BackendTLSPolicy on the Service",
        ),
        (Ok(Spoken::Plaintext), true) => Finding::fail(
            format!("{address} speaks plaintext, and ConfigMap {config_map} promises TLS"),
            "take --secure-serving=false from the picker, or delete the ConfigMap if plaintext is meant",
        ),
        (Ok(Spoken::Plaintext), false) => {
            Finding::ok(format!("{address} speaks plaintext, as --secure-serving=false asks: so must the gateway"))
        }
    }
}

/// A connection to a picker: straight or, where pods are not reachable and nobody said how else, by port-forwarding.
async fn reach(cluster: &Cluster, args: &CheckArgs, backend: &Backend) -> Result<Box<dyn Carrier>> {
    let why = match timeout(CONNECT, TcpStream::connect(backend.address)).await {
        Ok(Ok(tcp)) => return Ok(Box::new(tcp)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {CONNECT:?}"),
    };
    let Some(pod) = backend.pod.as_ref().filter(|_| args.pickers.admin_urls.is_empty()) else { bail!(why) };
    let (carrier, _) = forward(&cluster.api(&pod.namespace), &pod.name, backend.address.port()).await.context(why)?;
    Ok(Box::new(carrier))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.context("ca.crt is no PEM")?).context("ca.crt holds no certificate of a CA")?;
    }
    if roots.is_empty() {
        bail!("ca.crt holds no certificate");
    }
    Ok(roots)
}

/// A client as a gateway is one. Without roots it still tells whether TLS is spoken.
fn client(roots: RootCertStore) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.context("setting up TLS")?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

async fn speak(carrier: impl Carrier, name: &str, tls: &Result<Arc<ClientConfig>>) -> Result<Spoken> {
    let tls = tls.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let name = ServerName::try_from(name.to_owned()).context("the Service's name is no DNS name")?;
    match TlsConnector::from(Arc::clone(tls)).connect(name, carrier).await {
        Ok(_) => Ok(Spoken::Verified),
        Err(error) => heard(error),
    }
}

/// What a handshake that failed tells.
fn heard(error: io::Error) -> Result<Spoken> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Ok(Spoken::Unverified(why.to_string())),
        Some(rustls::Error::InvalidMessage(_)) => Ok(Spoken::Plaintext),
        Some(other) => bail!("the TLS handshake failed: {other}"),
        // A server that reads the first bytes of TLS as HTTP/2 hangs up.
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Ok(Spoken::Plaintext)
        }
        None => Err(error).context("the TLS handshake broke off"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use pointsman_k8s::trust::authority::{Authority, Leaf};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::super::report::Mark;
    use super::*;

    const NAME: &str = "picker.prod.svc";
    const DAY: Duration = Duration::from_secs(86_400);

    fn authority() -> Authority {
        Authority::make(DAY, SystemTime::now()).unwrap()
    }

    fn acceptor(leaf: &Leaf) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
    }

    async fn spoken(issuer: &Authority, names: &str, trusted: Option<&Authority>) -> Spoken {
        let leaf = issuer.issue(&[names.to_owned()], DAY, SystemTime::now()).unwrap();
        let (ours, theirs) = duplex(64 << 10);
        let serving = tokio::spawn(async move { _ = acceptor(&leaf).accept(theirs).await });
        let roots = trusted.map_or_else(RootCertStore::empty, |trusted| roots(&trusted.chain[0].pem).unwrap());
        let spoken = speak(ours, NAME, &client(roots)).await.unwrap();
        serving.await.unwrap();
        spoken
    }

    #[tokio::test]
    async fn a_picker_is_verified_by_the_published_ca_and_its_services_name() {
        let (ours, other) = (authority(), authority());
        assert_eq!(spoken(&ours, NAME, Some(&ours)).await, Spoken::Verified);
        for wrong in [
            spoken(&ours, NAME, Some(&other)).await,
            spoken(&ours, "localhost", Some(&ours)).await,
            spoken(&ours, NAME, None).await,
        ] {
            assert!(matches!(wrong, Spoken::Unverified(_)), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn plaintext_is_told_from_tls() {
        for answer in [b"\x00\x00\x00\x04\x00\x00\x00\x00\x00".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", b""] {
            let (ours, mut theirs) = duplex(64 << 10);
            let serving = tokio::spawn(async move {
                _ = theirs.read(&mut [0; 1024]).await;
                _ = theirs.write_all(answer).await;
            });
            assert_eq!(
                speak(ours, NAME, &client(RootCertStore::empty())).await.unwrap(),
                Spoken::Plaintext,
                "{answer:?}"
            );
            serving.await.unwrap();
        }
    }

    #[test]
    fn what_is_spoken_is_weighed_by_what_is_published() {
        let unverified = || Spoken::Unverified("UnknownIssuer".into());
        let table = [
            (Ok(Spoken::Verified), true, Mark::Ok),
            (Ok(unverified()), true, Mark::Fail),
            (Ok(unverified()), false, Mark::Warn),
            (Ok(Spoken::Plaintext), true, Mark::Fail),
            (Ok(Spoken::Plaintext), false, Mark::Ok),
            (Err(anyhow::anyhow!("no route")), true, Mark::Warn),
        ];
        for (spoken, is_published, mark) in table {
            let shown = format!("{spoken:?}");
            let finding = judge("10.0.0.1:9002", NAME, "picker-ca", is_published, spoken);
            assert_eq!(finding.mark, mark, "{shown}: {finding:?}");
            assert_eq!(finding.mend.is_some(), mark != Mark::Ok, "{finding:?}");
        }
        assert!(roots("nonsense").unwrap_err().to_string().contains("no certificate"));
    }
}
