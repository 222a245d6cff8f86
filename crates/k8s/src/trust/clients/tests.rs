//! Replicas, and what they and their clients know each other by.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::fake_api::FakeApi;
use crate::trust::Trust;
use crate::trust::authority::Authority;

const CA: &str = "/api/v1/namespaces/ns/secrets/picker-ca";
const CONFIG_MAP: &str = "/api/v1/namespaces/ns/configmaps/picker-ca";
const PAIR: &str = "/api/v1/namespaces/eg/secrets/picker-client";
const BUNDLE: &str = "/api/v1/namespaces/eg/secrets/picker-ca";
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

struct Replica {
    trust: Trust,
    issued: watch::Receiver<Option<Arc<Leaf>>>,
    known: watch::Receiver<Option<Arc<MutualTrust>>>,
}

impl Replica {
    fn of(api: &FakeApi, clients_namespace: &str) -> Self {
        let options = TrustOptions { namespace: "ns".into(), service: "picker".into(), periods: PERIODS };
        let (trust, issued) = Trust::new(api.client(), options);
        let (trust, known) = trust.with_clients(api.client(), clients_namespace);
        Self { trust, issued, known }
    }

    fn known(&self) -> MutualTrust {
        self.known.borrow().as_deref().cloned().unwrap()
    }
}

fn believes(known: &MutualTrust, certificate: &Certificate) -> bool {
    Certificate::read_all(&known.authorities).unwrap().contains(certificate)
}

fn text(object: &Value, member: &str) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(object["data"][member].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

/// Puts a Secret there as a person would.
fn bring(api: &FakeApi, path: &str, mut secret: Secret) -> Value {
    secret.metadata.labels = None;
    api.edit(path, |object| *object = serde_json::to_value(secret).unwrap());
    api.object(path)
}

#[tokio::test]
async fn replicas_that_start_at_once_tell_the_same() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut replicas: Vec<_> = (0..4).map(|_| Replica::of(&api, "eg")).collect();
    let looks = replicas.iter_mut().map(|replica| replica.trust.look(now));
    futures::future::try_join_all(looks).await.unwrap();
    // Whoever lost a race five times in a row looks again half a minute later.
    for replica in &mut replicas {
        replica.trust.look(now).await.unwrap();
    }
    let known = replicas[0].known();
    assert!(replicas.iter().all(|replica| replica.known() == known));
    let (pair, bundle) = (api.object(PAIR), api.object(BUNDLE));
    assert_eq!((&pair["type"], &bundle["type"]), (&json!("kubernetes.io/tls"), &json!("Opaque")));
    assert_eq!((text(&pair, "tls.crt"), text(&pair, "tls.key")), (known.chain.clone(), known.key.clone()));
    for member in ["tls.crt", "ca.crt"] {
        assert_eq!(text(&bundle, member), known.authorities);
    }
    assert_eq!(api.object(CONFIG_MAP)["data"]["ca.crt"], json!(known.authorities));
    assert!(!format!("{known:?}").contains("PRIVATE"));
    api.take_log();
    replicas[1].trust.look(now + HOUR).await.unwrap();
    assert!(api.take_log().iter().all(|(method, ..)| method == http::Method::GET), "nothing is to be done");
}

#[tokio::test]
async fn at_every_moment_servers_take_what_clients_show_and_clients_what_servers_show() {
    let api = FakeApi::default();
    let start = SystemTime::now();
    let mut replicas: Vec<_> = (0..3).map(|_| Replica::of(&api, "eg")).collect();
    // What clients know that hear three hours late.
    let mut history: Vec<Vec<MutualTrust>> = Vec::new();
    let (mut pairs, mut issuers) = (BTreeSet::new(), BTreeSet::new());
    for hour in 0..400_u32 {
        let now = start + HOUR * hour;
        for (index, replica) in replicas.iter_mut().enumerate() {
            if index != 1 || hour % 3 == 0 {
                replica.trust.look(now).await.unwrap();
            }
        }
        history.push(replicas.iter().map(Replica::known).collect());
        let late = history.len().saturating_sub(4);
        for client in history[history.len() - 1].iter().chain(&history[late]) {
            let shown = Leaf::read(&client.chain, &client.key, "").unwrap();
            assert!(shown.ends > now, "hour {hour}: a certificate ended");
            let shown = &Certificate::read_all(&client.chain).unwrap()[0];
            for replica in &replicas {
                let server = replica.known();
                let authorities = Certificate::read_all(&server.authorities).unwrap();
                let issuer = authorities.into_iter().find(|authority| shown.names_issuer(authority));
                let issuer = issuer.unwrap_or_else(|| panic!("hour {hour}: a server does not know a client's CA"));
                issuers.insert(issuer.pem);
                let leaf = replica.issued.borrow().clone().unwrap();
                assert!(believes(client, &leaf.issuer), "hour {hour}: a client does not know a server's CA");
            }
            pairs.insert(client.chain.clone());
        }
        assert_eq!(text(&api.object(BUNDLE), "tls.crt"), replicas[2].known().authorities, "hour {hour}");
    }
    assert!((6..=8).contains(&issuers.len()), "{} CAs in 400 hours", issuers.len());
    // Two thirds of 20 hours are 13 hours and 20 minutes, and each new CA brings one too.
    assert!((28..=40).contains(&pairs.len()), "{} certificates in 400 hours", pairs.len());
}

#[tokio::test]
async fn secrets_that_somebody_brought_are_used_and_never_written() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut replica = Replica::of(&api, "eg");
    let theirs = Authority::make(HOUR * 100, now).unwrap();
    let stranger = theirs.issue_client("somebody", HOUR, now).unwrap();
    let pair = bring(&api, PAIR, objects::client_secret("picker-client", None, &stranger));
    let bundle = bring(&api, BUNDLE, objects::bundle_secret("picker-ca", None, "theirs"));
    let error = replica.trust.look(now).await.unwrap_err().to_string();
    assert!(error.contains("Secret eg/picker-client") && error.contains("Secret ns/picker-ca"), "{error}");
    assert!(replica.known.borrow().is_none() && replica.issued.borrow().is_some());
    assert_eq!((api.object(PAIR), api.object(BUNDLE)), (pair, bundle));

    // Issued by our CA it is used, long after we would have renewed it.
    let ours = Authority::read(&text(&api.object(CA), "tls.crt"), &text(&api.object(CA), "tls.key")).unwrap();
    let brought = ours.issue_client("somebody", HOUR * 50, now).unwrap();
    let pair = bring(&api, PAIR, objects::client_secret("picker-client", None, &brought));
    for hours in [0, 40] {
        replica.trust.look(now + HOUR * hours).await.unwrap();
        assert_eq!(replica.known().chain, brought.chain);
    }
    assert_eq!(api.object(PAIR), pair);
}

#[tokio::test]
async fn what_was_spoilt_or_deleted_is_made_anew() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut replica = Replica::of(&api, "eg");
    replica.trust.look(now).await.unwrap();
    let spoils: [(&str, &dyn Fn()); 4] = [
        ("a key that is none", &|| api.edit(PAIR, |secret| secret["data"]["tls.key"] = json!("bm9uc2Vuc2U="))),
        ("no data", &|| api.edit(PAIR, |secret| secret["data"] = Value::Null)),
        ("no Secret", &|| api.delete(PAIR)),
        ("another CA", &|| [CA, CONFIG_MAP].iter().for_each(|path| api.delete(path))),
    ];
    for (what, spoil) in spoils {
        let before = replica.known();
        spoil();
        replica.trust.look(now).await.unwrap();
        let known = replica.known();
        assert!(known.chain != before.chain, "{what}");
        assert_eq!(
            (text(&api.object(PAIR), "tls.crt"), &text(&api.object(BUNDLE), "tls.crt")),
            (known.chain, &known.authorities),
            "{what}"
        );
    }
    api.edit(BUNDLE, |secret| secret["data"]["tls.crt"] = json!("bm9uc2Vuc2U="));
    replica.trust.look(now).await.unwrap();
    assert_eq!(text(&api.object(BUNDLE), "tls.crt"), replica.known().authorities);
}

#[tokio::test]
async fn without_the_right_to_write_what_is_there_is_told() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut first = Replica::of(&api, "eg");
    first.trust.look(now).await.unwrap();
    api.refuse(Some((403, "Forbidden")));
    let mut second = Replica::of(&api, "eg");
    let error = second.trust.look(now + HOUR * 14).await.unwrap_err().to_string();
    assert!(error.contains("Secret eg/picker-client") && error.contains("Forbidden"), "{error}");
    assert_eq!(second.known(), first.known());
    let mut elsewhere = Replica::of(&api, "other");
    elsewhere.trust.look(now).await.unwrap_err();
    assert!(elsewhere.known.borrow().is_none() && elsewhere.issued.borrow().is_some());
}

#[tokio::test]
async fn in_the_servers_own_namespace_the_ca_stays_what_it_is() {
    let api = FakeApi::default();
    let now = SystemTime::now();
    let mut replica = Replica::of(&api, "ns");
    for hour in 0..3 {
        replica.trust.look(now + HOUR * hour).await.unwrap();
    }
    assert_eq!(text(&api.object(CA), "tls.crt"), replica.known().authorities);
    assert!(text(&api.object(CA), "tls.key").contains("PRIVATE"));
}
