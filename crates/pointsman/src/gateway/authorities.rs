//! The CAs that pickers are verified by, in ConfigMaps beside their Services.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use pointsman_k8s::calls::{CallError, Failure, within};
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::trust::authority::{Certificate, to_text};
use tokio::sync::watch;
use tokio::time::sleep;

/// How often a published CA is looked at. A CA is published long before anything is signed by it.
const LOOK: Duration = Duration::from_secs(30);
/// How soon one is looked for again that is not there, at first, and at the most once it stays away.
const LOOK_FOR: Duration = Duration::from_secs(1);
const LOOK_FOR_MAX: Duration = Duration::from_secs(10);
/// How many are read at once.
const READS_MAX: usize = 8;
/// How long one request may take.
const CALL: Duration = Duration::from_secs(10);
/// The member of the ConfigMap.
const BUNDLE: &str = "ca.crt";
/// The longest bundle that is believed.
const BUNDLE_MAX: usize = 64 << 10;

/// The ConfigMaps whose CAs are wanted.
pub(super) type Wanted = BTreeSet<ObjectKey>;
/// Their CAs in PEM, certificates that can be read and nothing else: `None` where there is none, no entry where nobody could
/// look yet.
pub(super) type Found = BTreeMap<ObjectKey, Option<String>>;

/// Looks after the CAs that are wanted. One that was found stays while its ConfigMap cannot be read.
pub(super) async fn keep(
    client: Client,
    mut wanted: watch::Receiver<Wanted>,
    found: watch::Sender<Found>,
) -> Infallible {
    let (mut known, mut pause) = (Found::new(), LOOK_FOR);
    loop {
        let config_maps = wanted.borrow_and_update().clone();
        known.retain(|config_map, _| config_maps.contains(config_map));
        let reads = config_maps.iter().cloned().map(|config_map| read(client.clone(), config_map));
        let mut reads = stream::iter(reads).buffer_unordered(READS_MAX);
        while let Some((config_map, outcome)) = reads.next().await {
            match outcome {
                Ok(bundle) => _ = known.insert(config_map, bundle),
                Err(error) => {
                    tracing::warn!(%config_map, %error, "the CA of a picker cannot be read");
                    if error.kind() == Failure::Refused {
                        known.entry(config_map).or_default();
                    }
                }
            }
        }
        found.send_if_modified(|shown| {
            let is_news = *shown != known;
            if is_news {
                shown.clone_from(&known);
            }
            is_news
        });
        let is_complete = config_maps.iter().all(|config_map| matches!(known.get(config_map), Some(Some(_))));
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => pause = LOOK_FOR,
                // Whoever wants them is gone, and so is the process soon.
                Err(_) => std::future::pending().await,
            },
            () = sleep(if is_complete { LOOK } else { pause }) => pause = (pause * 2).min(LOOK_FOR_MAX),
        }
    }
}

async fn read(client: Client, config_map: ObjectKey) -> (ObjectKey, Result<Option<String>, CallError>) {
    let api: Api<ConfigMap> = Api::namespaced(client, &config_map.namespace);
    let object = within(CALL, api.get_opt(&config_map.name)).await;
    (config_map, object.map(|object| object.and_then(|object| bundle(&object.data?.remove(BUNDLE)?))))
}

/// The certificates of a bundle. An Envoy that was told one that it cannot read would refuse more than that picker.
fn bundle(text: &str) -> Option<String> {
    let certificates = Certificate::read_all(text).ok().filter(|_| text.len() <= BUNDLE_MAX)?;
    (!certificates.is_empty()).then(|| to_text(&certificates))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use pointsman_k8s::trust::authority::Authority;

    use super::*;

    #[test]
    fn a_bundle_is_its_certificates_and_nothing_else() {
        let authority = Authority::make(LOOK, SystemTime::now()).unwrap();
        let text = to_text(&authority.chain);
        let table = [
            (text.clone(), Some(&text)),
            (format!("# ours\n{text}{}", authority.key), Some(&text)),
            (String::new(), None),
            ("CA".to_owned(), None),
            (authority.key.clone(), None),
            (format!("{text}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None),
            (" ".repeat(BUNDLE_MAX) + &text, None),
        ];
        for (given, expected) in table {
            assert_eq!(bundle(&given).as_ref(), expected, "{given}");
        }
    }
}
