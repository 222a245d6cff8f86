//! One tiny completion through a gateway, and the search for the decision on it.
//!
//! A 200 proves nothing: a gateway that was not told of the picker, or that fails open, answers too. So the request
//! carries an id that nobody else has, and the pickers are asked whether they decided on it. A gateway may put an id of
//! its own in its place; then a second request tells, by a model's name that nobody else asks for.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::traffic::decisions;
use crate::kubectl::admin_client::{Replicas, percent_encoded, within};
use crate::kubectl::args::CheckArgs;
use crate::kubectl::http_client::{Answer, dial};
use crate::kubectl::pages::DecisionPage;

/// How often pickers are asked for the decision. A busy one forgets it within a second, long before a slow answer ends.
const LOOK: Duration = Duration::from_millis(50);
/// How long after the answer the decision is looked for still.
const GRACE: Duration = Duration::from_secs(1);
/// The header that holds the reason where the picker refuses.
const REASON_HEADER: &str = "x-pointsman-reason";
const COMPLETIONS: &str = "/v1/completions";

/// A gateway.
pub(super) struct Gateway<'a> {
    url: &'a Uri,
    headers: HeaderMap,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
}

/// What came of a request through a gateway.
#[derive(Debug)]
pub(super) struct Probed {
    /// The status and the picker's reason, if it refused; or why there was no answer.
    pub(super) answer: Result<(u16, Option<String>), String>,
    /// The decision on it.
    pub(super) decision: Option<DecisionPage>,
    /// How the decision was recognised, where there is one.
    pub(super) by_id: bool,
    /// Decisions of the pools meanwhile, those on other requests included.
    pub(super) decisions: u64,
    /// Whether no decision names a model: the gateway shows its pickers no bodies, and a model's name tells nothing.
    pub(super) are_nameless: bool,
}

impl<'a> Gateway<'a> {
    /// The gateway that the flags name; `None` where they name none.
    pub(super) fn of(args: &'a CheckArgs) -> Result<Option<Self>> {
        let Some(url) = &args.gateway_url else { return Ok(None) };
        let tls = match url.scheme_str() {
            Some("https") => Some(tls(args.gateway_ca.as_deref())?),
            _ => None,
        };
        let headers = args.gateway_headers.iter().cloned().collect();
        Ok(Some(Self { url, headers, tls, limit: args.cluster.request_timeout }))
    }

    /// The first model that it lists.
    async fn first_model(&self) -> Option<String> {
        let answer = self.send(Method::GET, "/v1/models", None, Bytes::new()).await.ok()?;
        let page: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(page["data"][0]["id"].as_str()?.to_owned())
    }

    async fn complete(&self, id: &str, model: &str) -> Result<Answer> {
        let body = json!({"model": model, "prompt": "ping", "max_tokens": 1}).to_string();
        self.send(Method::POST, COMPLETIONS, Some(id), body.into()).await
    }

    async fn send(&self, method: Method, path: &str, id: Option<&str>, body: Bytes) -> Result<Answer> {
        let url = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(url).header(CONTENT_TYPE, "application/json");
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let mut request = request.body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        if let (Some(authority), false) = (self.url.authority(), self.headers.contains_key(HOST)) {
            request.headers_mut().insert(HOST, authority.as_str().parse()?);
        }
        within(self.limit, async { dial(self.url, self.tls.as_ref()).await?.send(request).await }).await
    }

    /// Sends the request, and looks for the decision on it at all replicas.
    pub(super) async fn probe(&self, model: Option<&str>, pools: &[String], replicas: &mut Replicas) -> Result<Probed> {
        let model = match model {
            Some(model) => model.to_owned(),
            // The answer to a model that no server has is as good: it is the decision that counts.
            None => self.first_model().await.unwrap_or_else(|| "pointsman-check".to_owned()),
        };
        let before = decisions(replicas, pools).await?;
        let id = unique();
        let by_id = |decision: &DecisionPage| decision.request_id == id;
        let page = format!("/debug/decisions?limit=1&request_id={}", percent_encoded(&id));
        let (answer, decision) = answered(self.complete(&id, &model), &page, &by_id, replicas).await;
        let decisions = decisions(replicas, pools).await?.saturating_sub(before);
        let mut probed = Probed { answer, decision, by_id: true, decisions, are_nameless: false };
        if probed.decision.is_none() && decisions > 0 {
            let model = unique();
            let by_model = |decision: &DecisionPage| decision.model.as_deref() == Some(&*model);
            let page = "/debug/decisions?limit=64";
            let (_, decision) = answered(self.complete(&unique(), &model), page, &by_model, replicas).await;
            probed.by_id = false;
            probed.decision = decision;
            probed.are_nameless = true;
            for said in replicas.pages::<Vec<DecisionPage>>(page).await {
                probed.are_nameless &= said.page?.iter().all(|decision| decision.model.is_none());
            }
        }
        Ok(probed)
    }
}

/// The outcome of asking, and the decision that was looked for meanwhile.
async fn answered(
    asking: impl Future<Output = Result<Answer>>,
    page: &str,
    is_it: &dyn Fn(&DecisionPage) -> bool,
    replicas: &mut Replicas,
) -> (Result<(u16, Option<String>), String>, Option<DecisionPage>) {
    let answered_at: Cell<Option<Instant>> = Cell::new(None);
    let asking = async {
        let answer = asking.await;
        answered_at.set(Some(Instant::now()));
        answer
    };
    let looking = async {
        loop {
            let said = replicas.pages::<Vec<DecisionPage>>(page).await;
            let found = said.into_iter().filter_map(|said| said.page.ok()).flatten().find(|decision| is_it(decision));
            if found.is_some() || answered_at.get().is_some_and(|at| at.elapsed() > GRACE) {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    let (answer, decision) = tokio::join!(asking, looking);
    let answer = answer.map_err(|error| format!("{error:#}")).map(|answer| {
        let reason = answer.header(REASON_HEADER);
        (answer.status.as_u16(), (!reason.is_empty()).then(|| reason.to_owned()))
    });
    (answer, decision)
}

/// A name that nobody else has.
fn unique() -> String {
    format!("pointsman-check-{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// A client that trusts the CAs of a file, or the system's.
fn tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in read.with_context(|| format!("reading {}", file.display()))? {
                roots.add(certificate).with_context(|| format!("{} holds no CA", file.display()))?;
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() {
        bail!("no CA is known to verify the gateway by: give --gateway-ca FILE");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.context("setting up TLS")?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
