//! Trust between picker and gateways, without anybody's doing: a CA that the replicas share in a Secret, a certificate
//! of each replica's own under it, and a ConfigMap that tells gateways what to trust.
//!
//! The Secret `<service>-ca` holds `tls.crt` and `tls.key`; it is read, or made by the first replica that finds none.
//! The ConfigMap `<service>-ca` holds `ca.crt`. Long before the CA ends, the next one is put beside it (`next.crt`,
//! `next.key`) and published; after an overlap it begins to sign, and after another one the old one is no longer
//! published ([`Periods::overlap`]). At every moment gateways trust whatever any replica presents.
//!
//! A Secret that a person or cert-manager brought (one with neither `app.kubernetes.io/managed-by: pointsman` nor
//! `pointsman.dev/kept-by: pointsman`) is read and never written; when it changes, replicas change over in the same way. A
//! ConfigMap that is not ours stays as it is. Empty ones with the latter label are an installer's, for us to fill.
//!
//! A server whose clients show certificates, too, has them looked after in the same rounds ([`Trust::with_clients`]).
//!
//! Replicas need no leader for this. Each looks every half a minute and does what it finds to do; whatever it writes
//! carries the `resourceVersion` of what it read, so that of two that do the same at once one starts over. The ConfigMap
//! is read before the Secret: what is published then is never older than what another replica published meanwhile.

pub mod authority;
mod clients;
mod objects;
mod rotation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::calls::{CallError, Failure, Jitter, within};
use authority::{Authority, AuthorityError, Leaf};
use clients::Clients;
pub use clients::MutualTrust;
pub use rotation::Periods;
use rotation::{Authorities, Published, bundle, is_leaf_due, step};

/// How long one request may take.
const CALL: Duration = Duration::from_secs(10);
/// The pauses while something is in the way.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The domain of nearly every cluster; in the others gateways verify the name without one.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// How often a replica starts over at once because another was faster.
const TRIES: u32 = 5;

/// Whose trust it is, and how long everything lasts.
#[derive(Clone, Debug)]
pub struct TrustOptions {
    /// The picker's namespace.
    pub namespace: String,
    /// The picker's Service: gateways verify its name.
    pub service: String,
    /// How long everything lasts.
    pub periods: Periods,
}

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A request failed.
    #[error("{object}: {source}")]
    Call {
        /// The Secret or the ConfigMap.
        object: String,
        /// Why.
        source: CallError,
    },
    /// The Secret holds no CA.
    #[error("Secret {secret}: {source}")]
    Secret {
        /// Its name.
        secret: String,
        /// Why.
        source: AuthorityError,
    },
}

/// The name of the Secret and of the ConfigMap of the pickers behind a Service.
pub fn object_name(service: &str) -> String {
    format!("{service}-ca")
}

/// The name of the Secret with the certificate of a Service's clients.
pub fn client_name(service: &str) -> String {
    format!("{service}-client")
}

/// Keeps one replica's certificate good. Its task is [`Trust::keep`].
pub struct Trust {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    options: TrustOptions,
    /// `None` until the first one was issued.
    leaf: watch::Sender<Option<Arc<Leaf>>>,
    /// Absent where clients need no certificate.
    clients: Option<Clients>,
    jitter: Jitter,
}

impl TrustOptions {
    /// The name of the Secret and of the ConfigMap.
    pub fn object_name(&self) -> String {
        object_name(&self.service)
    }

    /// The names that gateways may call the picker by.
    fn names(&self) -> [String; 4] {
        let Self { namespace, service, .. } = self;
        [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}"),
            format!("{service}.{namespace}"),
            service.clone(),
        ]
    }
}

impl Trust {
    /// A replica's, and where its certificate is to be had; absent until the API server was reached.
    pub fn new(client: Client, options: TrustOptions) -> (Self, watch::Receiver<Option<Arc<Leaf>>>) {
        let (leaf, issued) = watch::channel(None);
        let trust = Self {
            secrets: Api::namespaced(client.clone(), &options.namespace),
            config_maps: Api::namespaced(client, &options.namespace),
            options,
            leaf,
            clients: None,
            jitter: Jitter::new(),
        };
        (trust, issued)
    }

    /// Looks after the clients' certificate too, in Secrets of the clients' namespace. What both sides know each other
    /// by is absent until it was there once.
    pub fn with_clients(
        mut self,
        client: Client,
        namespace: &str,
    ) -> (Self, watch::Receiver<Option<Arc<MutualTrust>>>) {
        let (clients, known) = Clients::new(client, namespace, &self.options);
        self.clients = Some(clients);
        (self, known)
    }

    /// Looks after Secret, ConfigMap and certificate. Never returns: while something is in the way, the certificate in
    /// force stays.
    pub async fn keep(mut self) {
        let mut failures = 0;
        let mut told = String::new();
        loop {
            let pause = match self.look(SystemTime::now()).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("certificates are looked after again");
                    }
                    (failures, told) = (0, String::new());
                    self.jitter.around(self.options.periods.look)
                }
                Err(error) => {
                    failures += 1;
                    let text = error.to_string();
                    if text != told {
                        let has_leaf = self.leaf.borrow().is_some();
                        tracing::error!(has_leaf, "certificates cannot be looked after; trying on: {text}");
                        told = text;
                    }
                    self.jitter.backoff(PAUSE, PAUSE_MAX, failures)
                }
            };
            sleep(pause).await;
        }
    }

    /// Does what there is to do.
    async fn look(&mut self, now: SystemTime) -> Result<(), TrustError> {
        for _ in 0..TRIES {
            if self.round(now).await? {
                return Ok(());
            }
        }
        // Others are at it.
        Ok(())
    }

    /// Does one thing at most with the Secret, and what follows from it; false when there is more to do, or another
    /// replica was faster.
    async fn round(&mut self, now: SystemTime) -> Result<bool, TrustError> {
        let name = self.options.object_name();
        let config_map =
            within(CALL, self.config_maps.get_opt(&name)).await.map_err(|error| self.config_map_error(error))?;
        let found = within(CALL, self.secrets.get_opt(&name)).await.map_err(|error| self.secret_error(error))?;
        let Some(secret) = found.as_ref().filter(|secret| !objects::is_blank(secret)) else {
            self.make_secret(&name, found.as_ref(), now).await?;
            return Ok(false);
        };
        let has = objects::read_secret(secret, now).map_err(|error| self.unusable(error))?;
        let (published, must_write) = objects::read_config_map(config_map.as_ref(), now);
        let periods = self.options.periods;
        if let Some(step) = step(&has, &published, &periods, now) {
            let stepped = objects::stepped(secret, &has, step, periods.authority, now);
            let stepped = stepped.map_err(|error| self.unusable(error))?;
            let written = within(CALL, self.secrets.replace(&name, &PostParams::default(), &stepped)).await;
            match written {
                Ok(_) => {
                    tracing::info!(secret = name, ?step, "the CA is being replaced");
                    return Ok(false);
                }
                Err(error) if error.kind() == Failure::Conflict => return Ok(false),
                // The certificate in force is looked after even if the CA cannot be.
                Err(error) => {
                    self.renew(&has, &published, now).await?;
                    return Err(self.secret_error(error));
                }
            }
        }
        let wanted = bundle(&has, &published, &periods, now);
        let is_news = must_write
            || wanted.len() != published.certificates.len()
            || wanted.iter().any(|w| !published.certificates.contains(w));
        if is_news && objects::may_write(config_map.as_ref()) {
            let fresh = objects::publishing(&name, config_map.as_ref(), &wanted, now);
            let params = PostParams::default();
            let written = match &config_map {
                None => within(CALL, self.config_maps.create(&params, &fresh)).await,
                Some(_) => within(CALL, self.config_maps.replace(&name, &params, &fresh)).await,
            };
            match written {
                Ok(_) => {
                    tracing::info!(config_map = name, certificates = wanted.len(), "told gateways what to trust");
                    return Ok(false);
                }
                Err(error) if error.kind() == Failure::Conflict => return Ok(false),
                Err(error) => {
                    self.renew(&has, &published, now).await?;
                    return Err(self.config_map_error(error));
                }
            }
        }
        self.renew(&has, &published, now).await?;
        Ok(true)
    }

    async fn make_secret(&self, name: &str, blank: Option<&Secret>, now: SystemTime) -> Result<(), TrustError> {
        let authority = Authority::make(self.options.periods.authority, now).map_err(|error| self.unusable(error))?;
        let (params, secret) = (PostParams::default(), objects::new_secret(name, blank, &authority, now));
        let written = match blank {
            None => within(CALL, self.secrets.create(&params, &secret)).await,
            Some(_) => within(CALL, self.secrets.replace(name, &params, &secret)).await,
        };
        match written {
            Ok(_) => tracing::info!(secret = name, "made a CA for gateways to verify this picker by"),
            // Another replica was faster: its CA is the one.
            Err(error) if error.kind() == Failure::Conflict => {}
            Err(error) => return Err(self.secret_error(error)),
        }
        Ok(())
    }

    /// Renews what is signed by the CA, where it is due.
    async fn renew(&self, has: &Authorities, published: &Published, now: SystemTime) -> Result<(), TrustError> {
        self.renew_leaf(has, published, now)?;
        match &self.clients {
            None => Ok(()),
            Some(clients) => clients.look(has, published, now).await,
        }
    }

    fn renew_leaf(&self, has: &Authorities, published: &Published, now: SystemTime) -> Result<(), TrustError> {
        let periods = &self.options.periods;
        if !is_leaf_due(self.leaf.borrow().as_deref(), has, published, periods, now) {
            return Ok(());
        }
        let leaf = has.signing.issue(&self.options.names(), periods.leaf, now);
        self.leaf.send_replace(Some(Arc::new(leaf.map_err(|error| self.unusable(error))?)));
        Ok(())
    }

    fn secret_error(&self, source: CallError) -> TrustError {
        TrustError::Call { object: format!("Secret {}", self.options.object_name()), source }
    }

    fn config_map_error(&self, source: CallError) -> TrustError {
        TrustError::Call { object: format!("ConfigMap {}", self.options.object_name()), source }
    }

    fn unusable(&self, source: AuthorityError) -> TrustError {
        TrustError::Secret { secret: self.options.object_name(), source }
    }
}
