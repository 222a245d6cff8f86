//! The Secret and the ConfigMap, read and written down.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

use super::authority::{Authority, AuthorityError, Certificate, Leaf, to_text};
use super::rotation::{Authorities, Published, Step};

/// Says that an object is of our making, and ours to change.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "pointsman");
/// Says the same of one that an installer made for us to fill, so that it goes when the installation does: Helm claims
/// the other label for itself.
const KEPT_BY: (&str, &str) = ("pointsman.dev/kept-by", "pointsman");
/// On the Secret: when its `tls.key` began to sign.
const SIGNING_SINCE: &str = "pointsman.dev/signing-since";
/// On the ConfigMap: since when its `ca.crt` is what it is.
const PUBLISHED_SINCE: &str = "pointsman.dev/published-since";
/// How far another replica's clock may be ahead of ours; what was written later than that was not written by a clock.
const SKEW: Duration = Duration::from_secs(3600);
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const BUNDLE: &str = "ca.crt";

/// The CAs in a Secret.
pub(super) fn read_secret(secret: &Secret, now: SystemTime) -> Result<Authorities, AuthorityError> {
    let text = |name| text(secret, name);
    let is_ours = is_ours(&secret.metadata);
    let signing = Authority::read(text(CERTIFICATE), text(KEY))?;
    // A next CA that cannot be read is replaced by another: it never signed anything.
    let next = Some(NEXT_CERTIFICATE).filter(|name| is_ours && !text(name).is_empty());
    let next = next.and_then(|name| Authority::read(text(name), text(NEXT_KEY)).ok());
    let roots = if is_ours { Vec::new() } else { Certificate::read_all(text(BUNDLE))? };
    let signing_since = moment(&secret.metadata, SIGNING_SINCE, now).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Authorities { signing, next, roots, signing_since, is_ours })
}

/// Whether a Secret waits for us to fill it.
pub(super) fn is_blank(secret: &Secret) -> bool {
    is_ours(&secret.metadata) && secret.data.iter().flat_map(BTreeMap::values).all(|ByteString(bytes)| bytes.is_empty())
}

/// A Secret with a new CA: the blank one that was found, or one of our making.
pub(super) fn new_secret(name: &str, blank: Option<&Secret>, signing: &Authority, now: SystemTime) -> Secret {
    let fresh =
        || Secret { metadata: new_metadata(name), type_: Some("kubernetes.io/tls".into()), ..Secret::default() };
    let mut secret = blank.cloned().unwrap_or_else(fresh);
    write_signing(&mut secret, signing, now);
    secret
}

/// The Secret after a step; its resourceVersion makes writing it fail if another replica was faster.
pub(super) fn stepped(
    secret: &Secret,
    has: &Authorities,
    step: Step,
    life: Duration,
    now: SystemTime,
) -> Result<Secret, AuthorityError> {
    let mut secret = secret.clone();
    match (step, &has.next) {
        (Step::Promote, Some(next)) => write_signing(&mut secret, next, now),
        (Step::MakeNext | Step::Promote, _) => {
            let next = Authority::make(life, now)?;
            let data = secret.data.get_or_insert_default();
            data.insert(NEXT_CERTIFICATE.into(), ByteString(to_text(&next.chain).into_bytes()));
            data.insert(NEXT_KEY.into(), ByteString(next.key.into_bytes()));
        }
    }
    Ok(secret)
}

/// Lets that CA sign, and no other one wait.
fn write_signing(secret: &mut Secret, signing: &Authority, now: SystemTime) {
    secret.data = Some(BTreeMap::from([
        (CERTIFICATE.into(), ByteString(to_text(&signing.chain).into_bytes())),
        (KEY.into(), ByteString(signing.key.clone().into_bytes())),
    ]));
    note(&mut secret.metadata, SIGNING_SINCE, now);
}

/// What a ConfigMap publishes, and whether it needs to be written whatever it publishes. One that somebody else keeps,
/// such as trust-manager, is believed as it is.
pub(super) fn read_config_map(config_map: Option<&ConfigMap>, now: SystemTime) -> (Published, bool) {
    let Some(config_map) = config_map else { return (Published { certificates: Vec::new(), since: now }, true) };
    let text = config_map.data.as_ref().and_then(|data| data.get(BUNDLE)).map(String::as_str).unwrap_or_default();
    let certificates = Certificate::read_all(text);
    let is_broken = certificates.is_err();
    let certificates = certificates.unwrap_or_default();
    if !is_ours(&config_map.metadata) {
        return (Published { certificates, since: SystemTime::UNIX_EPOCH }, false);
    }
    let since = moment(&config_map.metadata, PUBLISHED_SINCE, now);
    (Published { certificates, since: since.unwrap_or(now) }, is_broken || since.is_none())
}

/// Whether we may write that ConfigMap.
pub(super) fn may_write(config_map: Option<&ConfigMap>) -> bool {
    config_map.is_none_or(|config_map| is_ours(&config_map.metadata))
}

/// The ConfigMap that publishes those certificates from now on.
pub(super) fn publishing(
    name: &str,
    before: Option<&ConfigMap>,
    certificates: &[Certificate],
    now: SystemTime,
) -> ConfigMap {
    let fresh = || ConfigMap { metadata: new_metadata(name), ..ConfigMap::default() };
    let mut config_map = before.cloned().unwrap_or_else(fresh);
    config_map.data.get_or_insert_default().insert(BUNDLE.into(), to_text(certificates));
    note(&mut config_map.metadata, PUBLISHED_SINCE, now);
    config_map
}

/// The clients' certificate in a Secret.
pub(super) fn read_client(secret: &Secret) -> Result<Leaf, AuthorityError> {
    Leaf::read(text(secret, CERTIFICATE), text(secret, KEY), text(secret, BUNDLE))
}

/// The Secret with the clients' certificate, and with its CA, as cert-manager writes it too.
pub(super) fn client_secret(name: &str, before: Option<&Secret>, leaf: &Leaf) -> Secret {
    let issuer = to_text([&leaf.issuer]);
    with_data(name, "kubernetes.io/tls", before, &[(CERTIFICATE, &leaf.chain), (KEY, &leaf.key), (BUNDLE, &issuer)])
}

/// The Secret with the CAs that Envoy Gateway verifies the extension server by: it reads them in `tls.crt`.
pub(super) fn bundle_secret(name: &str, before: Option<&Secret>, bundle: &str) -> Secret {
    with_data(name, "Opaque", before, &[(CERTIFICATE, bundle), (BUNDLE, bundle)])
}

/// Whether a Secret holds those CAs.
pub(super) fn holds_bundle(secret: &Secret, bundle: &str) -> bool {
    text(secret, CERTIFICATE) == bundle && text(secret, BUNDLE) == bundle
}

/// A Secret with that data and no other. Its type, once given, cannot be changed.
fn with_data(name: &str, kind: &str, before: Option<&Secret>, data: &[(&str, &str)]) -> Secret {
    let fresh = || Secret { metadata: new_metadata(name), type_: Some(kind.into()), ..Secret::default() };
    let mut secret = before.cloned().unwrap_or_else(fresh);
    let member = |(name, text): &(&str, &str)| ((*name).to_owned(), ByteString((*text).as_bytes().to_vec()));
    secret.data = Some(data.iter().map(member).collect());
    secret
}

/// A member of a Secret; empty when it is absent or no text.
fn text<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(name));
    bytes.and_then(|ByteString(bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

fn new_metadata(name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([(MANAGED_BY.0.into(), MANAGED_BY.1.into())]);
    ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
}

/// Whether an object is ours to change.
pub(super) fn is_ours(metadata: &ObjectMeta) -> bool {
    let has = |(name, by): (&str, &str)| {
        metadata.labels.as_ref().and_then(|labels| labels.get(name)).is_some_and(|found| found == by)
    };
    has(MANAGED_BY) || has(KEPT_BY)
}

fn note(metadata: &mut ObjectMeta, annotation: &str, now: SystemTime) {
    if let Ok(now) = Timestamp::try_from(now) {
        metadata.annotations.get_or_insert_default().insert(annotation.into(), now.to_string());
    }
}

/// The moment in an annotation, unless it lies ahead.
fn moment(metadata: &ObjectMeta, annotation: &str, now: SystemTime) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(annotation)?;
    let moment = SystemTime::from(text.parse::<Timestamp>().ok()?);
    (moment <= now + SKEW).then_some(moment)
}
