use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use pointsman_k8s::trust::authority::{Authority, Leaf, to_text};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::serve::incoming;

const LIFE: Duration = Duration::from_secs(86_400);
const NAME: &str = "gateway.ns.svc";

fn authority() -> Authority {
    Authority::make(LIFE, SystemTime::now()).unwrap()
}

fn shared(authorities: &[&Authority], leaf: &Leaf) -> Option<Arc<MutualTrust>> {
    let authorities = to_text(authorities.iter().flat_map(|authority| &authority.chain));
    Some(Arc::new(MutualTrust { authorities, chain: leaf.chain.clone(), key: leaf.key.clone() }))
}

fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap()
}

/// Whether a client is served that believes these CAs and shows this certificate.
async fn is_served(server: SocketAddr, believed: &[&Authority], shown: Option<&Leaf>) -> bool {
    let mut roots = RootCertStore::empty();
    for authority in believed {
        roots.add(certificates(&to_text(&authority.chain)).remove(0)).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(certificates(&leaf.chain), key).unwrap()
        }
    };
    let asked = async {
        let stream = TcpStream::connect(server).await?;
        let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // In TLS 1.3 a client hears only after its handshake that it was refused.
        stream.read_u8().await
    };
    timeout(Duration::from_secs(10), asked).await.unwrap().is_ok()
}

/// Waits until the configuration in force is another.
async fn renewed(config: &Arc<ArcSwap<Config>>, before: &Arc<Config>) {
    let changed = async {
        while Arc::ptr_eq(&config.load(), before) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), changed).await.unwrap();
}

#[tokio::test]
async fn clients_are_served_with_the_shared_certificate_alone_before_within_and_after_a_rotation() {
    let now = SystemTime::now();
    let (old, new, strange) = (authority(), authority(), authority());
    let server = |authority: &Authority| Some(Arc::new(authority.issue(&[NAME.to_owned()], LIFE, now).unwrap()));
    let client = |authority: &Authority| authority.issue_client("clients.ns", LIFE, now).unwrap();
    let (former, next) = (client(&old), client(&new));
    let (issue, mut issued) = watch::channel(server(&old));
    let (tell, mut told) = watch::channel(shared(&[&old], &former));
    let config = first(&mut issued, &mut told).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept = tokio::spawn(keep_fresh(issued, told, Arc::clone(&config)));
    let mut incoming = incoming::accept(listener, Some(incoming::Tls::S2n(Arc::clone(&config))));
    let serving = tokio::spawn(async move {
        while let Some(Ok(mut connection)) = incoming.next().await {
            connection.write_u8(1).await.unwrap();
            connection.flush().await.unwrap();
        }
    });
    let as_server = old.issue(&[NAME.to_owned()], LIFE, now).unwrap();
    let never = [None, Some(client(&strange)), Some(as_server)];

    // What is believed by the server, who signs its certificate, and whose clients it serves.
    let steps: [(&[&Authority], &Authority, bool, bool); 4] = [
        (&[&old], &old, true, false),
        (&[&old, &new], &old, true, true),
        (&[&old, &new], &new, true, true),
        (&[&new], &new, false, true),
    ];
    for (step, (believed, signing, serves_former, serves_next)) in steps.into_iter().enumerate() {
        if step > 0 {
            let before = config.load_full();
            tell.send_replace(shared(believed, if serves_former { &former } else { &next }));
            renewed(&config, &before).await;
            let before = config.load_full();
            issue.send_replace(server(signing));
            renewed(&config, &before).await;
        }
        assert_eq!(is_served(address, believed, Some(&former)).await, serves_former, "step {step}");
        assert_eq!(is_served(address, believed, Some(&next)).await, serves_next, "step {step}");
        for shown in &never {
            assert!(!is_served(address, believed, shown.as_ref()).await, "step {step}");
        }
    }
    kept.abort();
    serving.abort();
}
