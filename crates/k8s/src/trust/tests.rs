//! Replicas and the CA that they share.

use std::ops::Range;

use serde_json::{Value, json};

use super::authority::Certificate;
use super::*;
use crate::fake_api::FakeApi;

const SECRET: &str = "/api/v1/namespaces/ns/secrets/picker-ca";
const CONFIG_MAP: &str = "/api/v1/namespaces/ns/configmaps/picker-ca";
const HOUR: Duration = Duration::from_secs(3600);

/// A CA of 100 hours that is replaced 40 hours before its end, leaves of 20 hours, an overlap of 10.
const PERIODS: Periods = Periods {
    authority: Duration::from_secs(100 * 3600),
    authority_ahead: Duration::from_secs(40 * 3600),
    leaf: Duration::from_secs(20 * 3600),
    leaf_ahead: Duration::from_secs(10 * 3600),
    overlap: Duration::from_secs(10 * 3600),
    look: Duration::from_secs(3600),
};

fn replica(api: &FakeApi) -> (Trust, watch::Receiver<Option<Arc<Leaf>>>) {
    let options = TrustOptions { namespace: "ns".into(), service: "picker".into(), periods: PERIODS };
    Trust::new(api.client(), options)
}

fn bundle_of(api: &FakeApi) -> Vec<Certificate> {
    let text = api.object(CONFIG_MAP)["data"]["ca.crt"].as_str().unwrap_or_default().to_owned();
    Certificate::read_all(&text).unwrap()
}

fn issuer(leaf: &watch::Receiver<Option<Arc<Leaf>>>) -> Certificate {
    leaf.borrow().as_ref().unwrap().issuer.clone()
}

#[tokio::test]
async fn the_first_replica_makes_the_ca_and_the_others_share_it() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut leaves = Vec::new();
    for _ in 0..3 {
        let (mut trust, leaf) = replica(&api);
        trust.look(now).await.unwrap();
        leaves.push(leaf);
    }
    let bundle = bundle_of(&api);
    assert_eq!(bundle.len(), 1);
    for leaf in &leaves {
        assert_eq!(issuer(leaf), bundle[0]);
    }
    let keys: Vec<String> = leaves.iter().map(|leaf| leaf.borrow().as_ref().unwrap().key.clone()).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "each replica has a key of its own");
    assert_eq!(api.object(SECRET)["type"], "kubernetes.io/tls");
}

#[tokio::test]
async fn objects_that_an_installer_made_are_filled_and_stay_its_own() {
    let api = FakeApi::default();
    let metadata = json!({"name": "picker-ca", "labels": {
        "app.kubernetes.io/managed-by": "Helm", "pointsman.dev/kept-by": "pointsman",
    }});
    api.edit(SECRET, |object| *object = json!({"metadata": metadata, "type": "Opaque"}));
    api.edit(CONFIG_MAP, |object| *object = json!({"metadata": metadata}));
    let (mut first, leaf) = replica(&api);
    first.look(SystemTime::now()).await.unwrap();
    assert_eq!(issuer(&leaf), bundle_of(&api)[0]);
    for path in [SECRET, CONFIG_MAP] {
        assert_eq!(api.object(path)["metadata"]["labels"], metadata["labels"], "{path}");
    }
    let (mut second, other) = replica(&api);
    second.look(SystemTime::now()).await.unwrap();
    assert_eq!(issuer(&other), issuer(&leaf), "a filled one is not filled anew");
}

#[tokio::test]
async fn of_replicas_that_start_at_once_one_makes_the_ca() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut replicas: Vec<_> = (0..5).map(|_| replica(&api)).collect();
    let looks = replicas.iter_mut().map(|(trust, _)| trust.look(now));
    futures::future::try_join_all(looks).await.unwrap();
    // Whoever lost a race five times in a row looks again half a minute later.
    for (trust, _) in &mut replicas {
        trust.look(now).await.unwrap();
    }
    let bundle = bundle_of(&api);
    assert_eq!(bundle.len(), 1);
    assert!(replicas.iter().all(|(_, leaf)| issuer(leaf) == bundle[0]));
}

#[tokio::test]
async fn at_every_moment_gateways_trust_what_replicas_present() {
    let api = FakeApi::default();
    let start = SystemTime::now();
    let mut replicas: Vec<_> = (0..3).map(|_| replica(&api)).collect();
    // What a gateway trusts that takes a changed bundle over nine hours late.
    let mut history: Vec<Vec<Certificate>> = Vec::new();
    let mut issuers: Vec<Certificate> = Vec::new();
    for hour in 0..400_u32 {
        let now = start + HOUR * hour;
        for (index, (trust, _)) in replicas.iter_mut().enumerate() {
            // The second replica looks every third hour alone, and the third one was away for a while.
            let is_away = (index == 1 && hour % 3 != 0) || (index == 2 && (150..155).contains(&hour));
            if !is_away || hour == 0 {
                trust.look(now).await.unwrap();
            }
        }
        history.push(bundle_of(&api));
        let late = &history[history.len().saturating_sub(10)];
        for (_, leaf) in &replicas {
            let issuer = issuer(leaf);
            assert!(late.contains(&issuer), "hour {hour}: a late gateway does not know a replica's CA");
            assert!(history[history.len() - 1].contains(&issuer), "hour {hour}: a gateway that starts now does not");
            assert!(leaf.borrow().as_ref().unwrap().ends > now, "hour {hour}: a certificate ended");
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        assert!(history[history.len() - 1].len() <= 2, "hour {hour}");
    }
    assert!((6..=8).contains(&issuers.len()), "{} CAs in 400 hours", issuers.len());
}

#[tokio::test]
async fn a_ca_that_somebody_brought_is_used_and_never_written() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let bring = |authority: &Authority| {
        let mut secret = objects::new_secret("picker-ca", None, authority, now);
        secret.metadata.labels = None;
        secret.metadata.annotations = None;
        let secret = serde_json::to_value(secret).unwrap();
        api.edit(SECRET, |object| *object = secret);
    };
    // It ends before we would let one of ours.
    let first = Authority::make(HOUR * 30, now).unwrap();
    bring(&first);
    let (mut trust, leaf) = replica(&api);
    trust.look(now).await.unwrap();
    assert_eq!(issuer(&leaf), *first.certificate());
    assert_eq!(bundle_of(&api), first.chain);
    let second = Authority::make(HOUR * 100, now).unwrap();
    bring(&second);
    let written = api.object(SECRET);
    let table: [(Range<u32>, &Authority, usize); 3] = [(0..10, &first, 2), (10..20, &second, 2), (20..25, &second, 1)];
    for (hours, signing, published) in table {
        for hour in hours {
            trust.look(now + HOUR * hour).await.unwrap();
            assert_eq!(issuer(&leaf), *signing.certificate(), "hour {hour}");
            assert_eq!(bundle_of(&api).len(), published, "hour {hour}");
        }
    }
    assert_eq!(api.object(SECRET), written);
}

#[tokio::test]
async fn what_is_in_the_way_is_named_and_the_certificate_in_force_stays() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let (mut trust, leaf) = replica(&api);
    trust.look(now).await.unwrap();
    let issued = issuer(&leaf);
    api.edit(SECRET, |secret| secret["data"]["tls.key"] = Value::from("bm9uc2Vuc2U="));
    let error = trust.look(now + HOUR).await.unwrap_err().to_string();
    assert!(error.contains("Secret picker-ca") && error.contains("PKCS#8"), "{error}");
    assert_eq!(issuer(&leaf), issued);

    // Deleted, it comes anew; the replica changes over once gateways had the time.
    api.delete(SECRET);
    trust.look(now + HOUR).await.unwrap();
    assert_eq!((issuer(&leaf) == issued, bundle_of(&api).len()), (true, 2));
    trust.look(now + HOUR * 11).await.unwrap();
    assert!(issuer(&leaf) != issued && bundle_of(&api).contains(&issuer(&leaf)));
}

#[tokio::test]
async fn without_the_right_to_write_a_replica_still_renews_its_certificate() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let (mut trust, _) = replica(&api);
    trust.look(now).await.unwrap();
    api.refuse(Some((403, "Forbidden")));
    api.delete(CONFIG_MAP);
    let (mut other, leaf) = replica(&api);
    let error = other.look(now).await.unwrap_err().to_string();
    assert!(error.contains("ConfigMap picker-ca") && error.contains("Forbidden"), "{error}");
    assert!(leaf.borrow().is_some());
    let ends = leaf.borrow().as_ref().unwrap().ends;
    // The CA is due too by then, and cannot be replaced.
    other.look(now + HOUR * 61).await.unwrap_err();
    assert!(leaf.borrow().as_ref().unwrap().ends > ends);
}

#[tokio::test]
async fn a_config_map_that_somebody_else_keeps_stays_as_it_is() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    api.edit(CONFIG_MAP, |object| object["data"] = serde_json::json!({"ca.crt": "theirs"}));
    let before = api.object(CONFIG_MAP);
    let (mut trust, leaf) = replica(&api);
    trust.look(now).await.unwrap();
    assert!(leaf.borrow().is_some());
    assert_eq!(api.object(CONFIG_MAP), before);
}

#[tokio::test]
async fn times_that_no_clock_wrote_hold_nothing_up() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let (mut trust, leaf) = replica(&api);
    trust.look(now).await.unwrap();
    let first = issuer(&leaf);
    for hour in 0..90 {
        for path in [SECRET, CONFIG_MAP] {
            let nonsense = ["2999-01-01T00:00:00Z", "yesterday", ""][hour % 3];
            if hour % 20 == 7 {
                api.edit(path, |object| {
                    for (_, text) in object["metadata"]["annotations"].as_object_mut().unwrap() {
                        *text = nonsense.into();
                    }
                });
            }
        }
        trust.look(now + HOUR * u32::try_from(hour).unwrap()).await.unwrap();
    }
    assert_ne!(issuer(&leaf), first, "the CA was never replaced");
    assert!(bundle_of(&api).contains(&issuer(&leaf)));
}
