//! TLS between the extension server, Envoy Gateway and its Envoys: both sides show a certificate of the replicas' CA.
//!
//! Not by rustls: Envoy Gateway 1.9 asks for the name `HOST:PORT` in its handshake, which is no name of a server (RFC 6066,
//! section 3), and rustls refuses it. Its next version (0.24) can be told not to.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use pointsman_k8s::trust::MutualTrust;
use pointsman_k8s::trust::authority::{Certificate, Leaf};
use s2n_tls::callbacks::VerifyHostNameCallback;
use s2n_tls::config::Config;
use s2n_tls::enums::ClientAuthType;
use s2n_tls::security::DEFAULT_TLS13;
use tokio::sync::watch;

/// How long a client that is refused waits for it, in seconds. s2n's 30 hide how long a decryption took, for ciphers that
/// TLS 1.3 has not; they would have strangers hold handshakes.
const BLINDING_MAX: u32 = 1;

/// What a replica shows, and what it believes; `None` while that is not known.
type Told<T> = watch::Receiver<Option<Arc<T>>>;

/// Waits until both are known, and builds the configuration.
pub(super) async fn first(leaf: &mut Told<Leaf>, trust: &mut Told<MutualTrust>) -> Result<Arc<ArcSwap<Config>>> {
    let gone = "the task that looks after certificates is gone";
    let leaf = leaf.wait_for(Option::is_some).await.context(gone)?.clone();
    let trust = trust.wait_for(Option::is_some).await.context(gone)?.clone();
    let (leaf, trust) = (leaf.context(gone)?, trust.context(gone)?);
    Ok(Arc::new(ArcSwap::from_pointee(configuration(&leaf, &trust)?)))
}

/// Puts a new configuration in force whenever either changes; one that cannot be changes nothing.
pub(super) async fn keep_fresh(
    mut leaf: Told<Leaf>,
    mut trust: Told<MutualTrust>,
    config: Arc<ArcSwap<Config>>,
) -> Infallible {
    loop {
        tokio::select! {
            Ok(()) = leaf.changed() => {}
            Ok(()) = trust.changed() => {}
            else => std::future::pending().await,
        }
        let (leaf, trust) = (leaf.borrow_and_update().clone(), trust.borrow_and_update().clone());
        let (Some(leaf), Some(trust)) = (leaf, trust) else { continue };
        match configuration(&leaf, &trust) {
            Ok(fresh) => {
                config.store(Arc::new(fresh));
                tracing::info!("new certificates are in force");
            }
            Err(error) => tracing::error!("certificates changed, but the old ones stay in force: {error:#}"),
        }
    }
}

fn configuration(leaf: &Leaf, trust: &MutualTrust) -> Result<Config> {
    let shared = Certificate::read_all(&trust.chain).context("reading the clients' certificate")?;
    let names = shared.first().map(Certificate::dns_names).unwrap_or_default();
    let build = || {
        let mut builder = Config::builder();
        builder.with_system_certs(false)?;
        builder.set_security_policy(&DEFAULT_TLS13)?;
        builder.set_application_protocol_preference(["h2"])?;
        builder.load_pem(leaf.chain.as_bytes(), leaf.key.as_bytes())?;
        builder.trust_pem(trust.authorities.as_bytes())?;
        builder.set_client_auth_type(ClientAuthType::Required)?;
        builder.set_max_blinding_delay(BLINDING_MAX)?;
        builder.set_verify_host_callback(SharedName(names.clone()))?;
        builder.build()
    };
    build().map_err(|error: s2n_tls::error::Error| anyhow::anyhow!("setting up TLS: {error}"))
}

/// The names of the certificate that clients share: a CA that somebody brought may have signed others' too.
struct SharedName(Vec<String>);

impl VerifyHostNameCallback for SharedName {
    fn verify_host_name(&self, name: &str) -> bool {
        self.0.iter().any(|shared| shared == name)
    }
}

#[cfg(test)]
mod tests;
