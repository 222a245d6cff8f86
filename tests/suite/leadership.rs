//! What replicas share on a real API server: who leads, whose status it is, and whom gateways trust.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use pointsman_k8s::trust::authority::Leaf;
use pointsman_k8s::trust::{Periods, Trust, TrustOptions};
use pointsman_tests::cluster_stack::{CHANGE_DEADLINE, ClusterPlan, ClusterStack, roles};
use pointsman_tests::control_plane::{ControlPlane, Namespace};
use pointsman_tests::depth;
use pointsman_tests::manifests::manifest;
use pointsman_tests::process::{Program, built};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

/// How long a pool may be without a leader that serves: the limit. About 3 seconds were seen.
const FAILOVER_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// The shared control plane, with our CRDs too.
async fn plane() -> &'static ControlPlane {
    let plane = ControlPlane::shared().await.unwrap();
    plane.install_our_crds().await.unwrap();
    plane
}

/// Two pickers of which one serves, and one pod that is ready.
async fn leaders(plane: &ControlPlane) -> Result<ClusterStack<'_>> {
    let plan = ClusterPlan { pickers: 2, flags: vec!["--ha-mode", "leader"], ..ClusterPlan::new(1) };
    let stack = ClusterStack::start(plane, plan).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    stack.namespace.pod(&stack.pod(0, "pool")).await?;
    stack.until_served_by(0, "server-0").await?;
    Ok(stack)
}

/// The picker that holds the Lease, once the other one knows it.
async fn leader(stack: &ClusterStack<'_>) -> Result<usize> {
    let deadline = Instant::now() + CHANGE_DEADLINE;
    loop {
        let mut serving = Vec::new();
        for picker in 0..2 {
            let page = stack.admin(picker, "/debug/config").await?;
            serving.push(page["serving"] == true && page["lease"]["holds"] == true);
        }
        if let [one, other] = serving[..]
            && one != other
        {
            return Ok(usize::from(other));
        }
        ensure!(Instant::now() < deadline, "nobody leads: {}", stack.logs());
        sleep(LOOK).await;
    }
}

/// How long it takes until a request is answered again.
async fn until_served(stack: &ClusterStack<'_>) -> Result<Duration> {
    let start = Instant::now();
    while stack.served_by(0).await != "server-0" {
        ensure!(start.elapsed() < FAILOVER_DEADLINE, "nobody serves: {}", stack.logs());
        sleep(LOOK).await;
    }
    Ok(start.elapsed())
}

#[tokio::test]
async fn a_leader_that_dies_or_sleeps_is_succeeded_and_does_not_serve_when_it_wakes() -> Result<()> {
    let plane = plane().await;
    let mut stack = leaders(plane).await?;
    let first = leader(&stack).await?;
    stack.pickers[first].kill().await?;
    let killed = until_served(&stack).await?;
    stack.pickers[first] = stack.start_picker(first)?;
    stack.until_admin(first, "/debug/config", |page| page["lease"]["holder"].as_str() != Some("Unread")).await?;

    let second = leader(&stack).await?;
    assert_eq!(second, 1 - first, "the one that came back leads");
    stack.pickers[second].signal("STOP").await?;
    let asleep = Instant::now();
    let stopped = until_served(&stack).await?;
    sleep(depth::at(Duration::from_secs(8), Duration::from_secs(30)).saturating_sub(asleep.elapsed())).await;
    stack.pickers[second].signal("CONT").await?;
    let awake = Instant::now();
    while awake.elapsed() < Duration::from_secs(3) {
        let page = stack.admin(second, "/debug/config").await?;
        ensure!(page["serving"] == false, "the woken one serves: {page:#}");
        assert_eq!(stack.served_by(0).await, "server-0");
    }

    let third = leader(&stack).await?;
    assert_eq!(third, first);
    stack.pickers[third].signal("TERM").await?;
    let handed = Instant::now();
    stack.until_admin(second, "/debug/config", |page| page["serving"] == true).await?;
    let handed = handed.elapsed();
    eprintln!("served again: killed {killed:.1?}, stopped {stopped:.1?}; handed over in {handed:.1?}");
    // Without waiting for the Lease to expire.
    ensure!(handed < Duration::from_secs(3), "handed over in {handed:?}: {}", stack.logs());
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_no_leader_and_fails_no_request() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.install_upstream_crds("1.6.0").await?;
    plane.install_our_crds().await?;
    let outage = depth::at(Duration::from_secs(10), Duration::from_secs(60));
    let stack = leaders(&plane).await?;
    let before = leader(&stack).await?;
    // Stopped rather than ended: connections hang, which is worse than their being refused.
    plane.api_server.lock().await.signal("STOP").await?;
    let start = Instant::now();
    while start.elapsed() < outage {
        assert_eq!(stack.served_by(0).await, "server-0", "{}", stack.logs());
        sleep(LOOK).await;
    }
    plane.api_server.lock().await.signal("CONT").await?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(stack.served_by(0).await, "server-0", "{}", stack.logs());
        sleep(LOOK).await;
    }
    assert_eq!(leader(&stack).await?, before);
    let lease = plane.kubectl(&["-n", &stack.namespace.name, "get", "lease", "picker", "-o", "json"], "").await?;
    let lease: Value = serde_json::from_str(&lease)?;
    assert_eq!(lease["spec"]["leaseTransitions"], 0, "{lease:#}");
    Ok(())
}

#[tokio::test]
async fn what_other_controllers_say_in_a_status_stays() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(1)).await?;
    let namespace = stack.namespace.name.clone();
    let say = async |kind: &str, name: &str, status: Value| {
        let patch = json!({"status": status}).to_string();
        let arguments = ["-n", &namespace, "patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch];
        plane.kubectl(&arguments, "").await
    };
    let theirs = |of_type: &str| {
        let time = "2020-01-01T00:00:00Z";
        json!({"type": of_type, "status": "True", "reason": "Ok", "message": "", "lastTransitionTime": time})
    };
    let types = |list: &Value| -> Vec<String> {
        let conditions = list.as_array().into_iter().flatten();
        conditions.map(|condition| condition["type"].as_str().unwrap_or_default().to_owned()).collect()
    };

    // A list that is a map: ours is added beside theirs, and is ours alone to change.
    let model = |weight: u32| {
        let targets = json!([{"name": "chat-v2", "weight": weight}]);
        let reference = json!({"group": "inference.networking.k8s.io", "name": "pool"});
        let spec = json!({"modelName": "chat", "targetModels": targets, "poolRef": reference});
        manifest("inference.networking.x-k8s.io/v1alpha2", "InferenceModel", "chat", spec)
    };
    stack.namespace.apply(&model(1)).await?;
    say("inferencemodel", "chat", json!({"conditions": [theirs("Audited")]})).await?;
    // A list that is one value: theirs is written back with ours.
    let policy = |pool: &str| {
        let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool});
        manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", "policy", json!({"targetRefs": [target]}))
    };
    stack.namespace.apply(&policy("pool")).await?;
    let reference = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"});
    let entry =
        json!({"ancestorRef": reference, "controllerName": "example.com/other", "conditions": [theirs("Accepted")]});
    say("schedulingpolicy", "policy", json!({"ancestors": [entry]})).await?;

    stack.namespace.apply(&stack.pool("pool")).await?;
    let accepted = |object: &Value| {
        types(&object["status"]["conditions"]).contains(&"Accepted".into())
            && object["status"]["conditions"][1]["observedGeneration"] == object["metadata"]["generation"]
    };
    let first = stack.until_object(plane, "inferencemodel", "chat", accepted).await?;
    assert_eq!(types(&first["status"]["conditions"]), ["Audited", "Accepted"], "{first:#}");
    stack.namespace.apply(&model(2)).await?;
    let second = stack
        .until_object(plane, "inferencemodel", "chat", |object| {
            accepted(object) && object["metadata"]["generation"] != first["metadata"]["generation"]
        })
        .await?;
    assert_eq!(types(&second["status"]["conditions"]), ["Audited", "Accepted"], "{second:#}");
    let since = |object: &Value| object["status"]["conditions"][1]["lastTransitionTime"].clone();
    assert_eq!(since(&first), since(&second), "accepted before and after");

    let controllers = |object: &Value| -> Vec<String> {
        let entries = object["status"]["ancestors"].as_array().into_iter().flatten();
        entries.map(|entry| entry["controllerName"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let is = |expected: &'static [&'static str]| move |object: &Value| controllers(object) == expected;
    stack.until_object(plane, "schedulingpolicy", "policy", is(&["example.com/other", "pointsman.dev/picker"])).await?;
    stack.namespace.apply(&policy("elsewhere")).await?;
    let left = stack.until_object(plane, "schedulingpolicy", "policy", is(&["example.com/other"])).await?;
    assert_eq!(left["status"]["ancestors"][0]["ancestorRef"]["name"], "front", "{left:#}");
    Ok(())
}

/// A ServiceAccount `picker` with exactly the Role that a picker with a CA of its own needs; its token.
async fn picker_token(namespace: &Namespace<'_>) -> Result<String> {
    namespace.service_account("picker").await?;
    namespace.apply(&roles(&namespace.name, &["--service-name", "picker"]).await?).await?;
    namespace.token("picker").await
}

/// What a gateway would trust by now; nothing while nothing is published in the ConfigMap.
pub(crate) async fn trusted(namespace: &Namespace<'_>, config_map: &str) -> Result<RootCertStore> {
    let published = namespace.api::<ConfigMap>().get_opt(config_map).await?.and_then(|map| map.data);
    let bundle = published.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

#[tokio::test]
async fn replicas_share_a_ca_that_gateways_can_verify_them_by() -> Result<()> {
    let plane = plane().await;
    let namespace = plane.namespace("trust").await?;
    let kubeconfig = plane.kubeconfig_for(&picker_token(&namespace).await?)?;
    let folder = tempfile::tempdir()?;
    let mut pickers = Vec::new();
    for (name, host) in [("picker-0", 2), ("picker-1", 3)] {
        let ip = namespace.network.ip(host).to_string();
        let mut command = Command::new(built("pointsman", "pointsman")?);
        command.args(["serve", "--all-pools", "--service-name", "picker", "--pool-namespace", &namespace.name]);
        command.args(["--lease-name", "picker", "--bind-address", &ip]);
        command.args(["--admin-address", &format!("{ip}:9091"), "--eds-address", &format!("{ip}:9005")]);
        command.env("KUBECONFIG", &kubeconfig).env("POD_NAME", name).env("POD_NAMESPACE", &namespace.name);
        pickers.push(Program::start(name, command, folder.path())?);
    }
    let connect = async |host: u8, name: String| -> Result<()> {
        let roots = trusted(&namespace, "picker-ca").await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(namespace.network.address(host, 9002)).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name)?, stream).await?;
        Ok(())
    };
    for (picker, host) in pickers.iter_mut().zip([2, 3]) {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        while let Err(error) = connect(host, format!("picker.{}.svc", namespace.name)).await {
            picker.must_run()?;
            ensure!(Instant::now() < deadline, "never verified: {error:#}\n{}", picker.log());
            sleep(LOOK).await;
        }
    }
    assert!(connect(2, "picker.elsewhere.svc".to_owned()).await.is_err(), "any name is verified");
    Ok(())
}

/// Whether a gateway that trusts `roots` accepts the certificate that a replica presents.
fn verify(roots: &Arc<RootCertStore>, leaf: &Leaf, name: &str) -> Result<()> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider).build()?;
    let (own, above) = chain.split_first().context("no certificate")?;
    verifier.verify_server_cert(own, above, &ServerName::try_from(name.to_owned())?, &[], UnixTime::now())?;
    Ok(())
}

#[tokio::test]
async fn the_ca_is_replaced_before_it_ends_and_no_gateway_ever_refuses_a_replica() -> Result<()> {
    let plane = plane().await;
    let namespace = plane.namespace("rotation").await?;
    let client = plane.client_for(&picker_token(&namespace).await?).await?;
    let seconds = Duration::from_secs;
    // A CA that ends after 12 seconds; the next one is made when it is three seconds old.
    let periods = Periods {
        authority: seconds(12),
        authority_ahead: seconds(9),
        leaf: seconds(6),
        leaf_ahead: seconds(3),
        overlap: seconds(2),
        look: Duration::from_millis(300),
    };
    let mut leaves = Vec::new();
    for _ in 0..3 {
        let (namespace, service) = (namespace.name.clone(), "picker".to_owned());
        let (trust, leaf) = Trust::new(client.clone(), TrustOptions { namespace, service, periods });
        tokio::spawn(trust.keep());
        leaves.push(leaf);
    }
    for leaf in &mut leaves {
        tokio::time::timeout(CHANGE_DEADLINE, leaf.wait_for(Option::is_some)).await??;
    }
    let name = format!("picker.{}.svc", namespace.name);
    let mut issuers = Vec::new();
    let mut roots = Arc::new(trusted(&namespace, "picker-ca").await?);
    let start = Instant::now();
    while start.elapsed() < depth::at(seconds(20), seconds(120)) {
        // A gateway that takes a change over a second late.
        let fetched = Instant::now();
        let next = Arc::new(trusted(&namespace, "picker-ca").await?);
        while fetched.elapsed() < seconds(1) {
            for leaf in &leaves {
                let leaf = leaf.borrow().clone().context("no certificate any more")?;
                verify(&roots, &leaf, &name).with_context(|| format!("after {:?}", start.elapsed()))?;
                ensure!(leaf.ends > SystemTime::now(), "it ended");
                if !issuers.contains(&leaf.issuer) {
                    issuers.push(leaf.issuer.clone());
                }
            }
            sleep(LOOK).await;
        }
        roots = next;
    }
    eprintln!("{} CAs in {:.0?}", issuers.len(), start.elapsed());
    assert!(issuers.len() >= 3, "only {} CAs", issuers.len());
    let maps: Api<ConfigMap> = namespace.api();
    let bundle = maps.get("picker-ca").await?.data.unwrap_or_default().remove("ca.crt").unwrap_or_default();
    // One is made every three seconds and lasts for twelve: those that ended are gone.
    assert!(bundle.matches("BEGIN CERTIFICATE").count() <= 4, "{bundle}");
    Ok(())
}
