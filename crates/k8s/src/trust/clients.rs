//! The certificate that the clients of a server show, and what both sides verify each other by.
//!
//! The extension server's clients are Envoy Gateway, which reads both in Secrets of its own namespace, and its Envoys,
//! which are told both by the extension server. All replicas have to tell the same, so there is one certificate for all
//! clients: the Secret `<service>-client` holds it, made by the first replica that finds none, and made anew once two
//! thirds of its life are over or another CA signs. The former one is good until its end: whatever CA it is of stays
//! published for the overlap ([`super::Periods::overlap`]). The Secret `<service>-ca` holds what is published.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use super::authority::{AuthorityError, Certificate, Leaf, to_text};
use super::rotation::{Authorities, Periods, Published, in_force, is_leaf_due};
use super::{CALL, TRIES, TrustError, TrustOptions, client_name, objects};
use crate::calls::{CallError, Failure, within};

#[cfg(test)]
mod tests;

/// What a server and its clients know each other by; the same in all replicas.
#[derive(Clone, PartialEq, Eq)]
pub struct MutualTrust {
    /// The CAs of both sides, as PEM: the one that signs, those to come, and those of which certificates are about.
    pub authorities: String,
    /// The clients' certificate, and the CAs between it and `authorities`; as PEM.
    pub chain: String,
    /// Its key, as PEM.
    pub key: String,
}

/// Keeps what a server and its clients know each other by.
pub(super) struct Clients {
    /// In the clients' namespace.
    secrets: Api<Secret>,
    namespace: String,
    /// Whether the Secret `<service>-ca` of that namespace is ours to write: in the server's own it is the CA itself,
    /// with what clients need in it.
    is_apart: bool,
    options: TrustOptions,
    /// How long everything lasts, as far as it is another's matter than the server's.
    periods: Periods,
    /// `None` until it was there once.
    known: watch::Sender<Option<Arc<MutualTrust>>>,
}

impl Clients {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        options: &TrustOptions,
    ) -> (Self, watch::Receiver<Option<Arc<MutualTrust>>>) {
        let (known, told) = watch::channel(None);
        let clients = Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            is_apart: namespace != options.namespace,
            options: options.clone(),
            periods: Periods { leaf_ahead: options.periods.leaf / 3, ..options.periods },
            known,
        };
        (clients, told)
    }

    /// Does what there is to do.
    pub(super) async fn look(
        &self,
        has: &Authorities,
        published: &Published,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        let authorities = in_force(has, published);
        for _ in 0..TRIES {
            let is_settled = self.settle_pair(has, published, &authorities, now).await?;
            if is_settled && (!self.is_apart || self.publish(&to_text(&authorities)).await?) {
                return Ok(());
            }
        }
        // Others are at it.
        Ok(())
    }

    /// Has a certificate for the clients, and tells it; false when another replica was faster.
    async fn settle_pair(
        &self,
        has: &Authorities,
        published: &Published,
        authorities: &[Certificate],
        now: SystemTime,
    ) -> Result<bool, TrustError> {
        let name = client_name(&self.options.service);
        let found = within(CALL, self.secrets.get_opt(&name)).await.map_err(|error| self.failed(&name, error))?;
        let found = found.as_ref();
        if let Some(brought) = found.filter(|secret| !objects::is_ours(&secret.metadata)) {
            let leaf = objects::read_client(brought).and_then(|leaf| self.judge(leaf, authorities));
            self.tell(&leaf.map_err(|source| self.unusable(&name, source))?, authorities);
            return Ok(true);
        }
        // One of ours that cannot be read, or that the server would not take, is made anew.
        let leaf = found.and_then(|secret| objects::read_client(secret).ok());
        let leaf = leaf.filter(|leaf| leaf.ends > now && authorities.contains(&leaf.issuer));
        if let Some(leaf) = &leaf {
            self.tell(leaf, authorities);
        }
        if !is_leaf_due(leaf.as_ref(), has, published, &self.periods, now) {
            return Ok(true);
        }
        let subject = format!("{name}.{}", self.options.namespace);
        let fresh = has.signing.issue_client(&subject, self.periods.leaf, now);
        let fresh = fresh.map_err(|source| self.unusable(&name, source))?;
        let is_written = self.write(&name, found, &objects::client_secret(&name, found, &fresh)).await?;
        if is_written {
            tracing::info!(secret = name, namespace = self.namespace, "made a certificate for clients");
            self.tell(&fresh, authorities);
        }
        Ok(is_written)
    }

    /// Writes down what clients verify the server by, where that is ours to write; false when another replica was
    /// faster.
    async fn publish(&self, bundle: &str) -> Result<bool, TrustError> {
        let name = self.options.object_name();
        let found = within(CALL, self.secrets.get_opt(&name)).await.map_err(|error| self.failed(&name, error))?;
        let found = found.as_ref();
        let is_settled = |secret: &Secret| !objects::is_ours(&secret.metadata) || objects::holds_bundle(secret, bundle);
        if found.is_some_and(is_settled) {
            return Ok(true);
        }
        let is_written = self.write(&name, found, &objects::bundle_secret(&name, found, bundle)).await?;
        if is_written {
            tracing::info!(secret = name, namespace = self.namespace, "told clients what to trust");
        }
        Ok(is_written)
    }

    /// Makes a Secret, or changes the one that was found; false when another replica was faster.
    async fn write(&self, name: &str, found: Option<&Secret>, secret: &Secret) -> Result<bool, TrustError> {
        let params = PostParams::default();
        let written = match found {
            None => within(CALL, self.secrets.create(&params, secret)).await,
            Some(_) => within(CALL, self.secrets.replace(name, &params, secret)).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Failure::Conflict => Ok(false),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// A certificate that somebody brought, if the server would take it.
    fn judge(&self, leaf: Leaf, authorities: &[Certificate]) -> Result<Leaf, AuthorityError> {
        let chain = Certificate::read_all(&leaf.chain)?;
        let is_known = chain.iter().any(|own| authorities.iter().any(|authority| own.names_issuer(authority)));
        let secret = || format!("{}/{}", self.options.namespace, self.options.object_name());
        is_known.then_some(leaf).ok_or_else(|| AuthorityError::Stranger(secret()))
    }

    fn tell(&self, leaf: &Leaf, authorities: &[Certificate]) {
        let (chain, key) = (leaf.chain.clone(), leaf.key.clone());
        let told = MutualTrust { authorities: to_text(authorities), chain, key };
        self.known.send_if_modified(|known| {
            let is_news = known.as_deref() != Some(&told);
            if is_news {
                *known = Some(Arc::new(told));
            }
            is_news
        });
    }

    fn failed(&self, name: &str, source: CallError) -> TrustError {
        TrustError::Call { object: format!("Secret {}/{name}", self.namespace), source }
    }

    fn unusable(&self, name: &str, source: AuthorityError) -> TrustError {
        TrustError::Secret { secret: format!("{}/{name}", self.namespace), source }
    }
}

impl fmt::Debug for MutualTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutualTrust")
            .field("authorities", &self.authorities)
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}
