use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use kube::{Api, ResourceExt};
use pointsman_tests::client::Client;
use pointsman_tests::control_plane::Namespace;
use pointsman_tests::envoy_gateway::plane;
use pointsman_tests::process::Program;
use pointsman_tests::workload::{RunningPod, Workload};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long what was installed may take until it works. About five times what was seen on two busy cores.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Everything in these namespaces, and what of the cluster bears the first one's name. Events come and go by themselves.
async fn inventory(namespaces: &[&Namespace<'_>]) -> Result<BTreeSet<String>> {
    let client = plane().await?.client().await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut found = BTreeSet::new();
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        if !capabilities.supports_operation(verbs::LIST) || resource.kind == "Event" {
            continue;
        }
        let list = Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
        for object in list.with_context(|| resource.kind.clone())? {
            let is_of_them = match object.namespace() {
                Some(namespace) => namespaces.iter().any(|one| one.name == namespace),
                None => object.name_any().contains(&format!(":{}:", namespaces[0].name)),
            };
            if is_of_them {
                let place = object.namespace().unwrap_or_default();
                found.insert(format!("{} {place}/{}", resource.kind, object.name_any()));
            }
        }
    }
    Ok(found)
}

/// A release's one pod, as a process.
async fn run(
    namespace: &Namespace<'_>,
    deployment: &str,
    container: &str,
    host: u8,
    folder: &TempDir,
) -> Result<(Program, IpAddr)> {
    let ip = namespace.network.ip(host);
    let workload = Workload::of(namespace, deployment).await?;
    let folder = folder.path().join(format!("{}-{deployment}", namespace.name));
    std::fs::create_dir_all(&folder)?;
    let command = workload.command(container, &RunningPod { name: deployment, ip, folder: &folder }).await?;
    Ok((Program::start("installed", command, &folder)?, ip))
}

/// Waits until a picker has nothing in its way.
async fn until_serving(picker: &mut Program, ip: IpAddr) -> Result<Value> {
    let (url, deadline) = (format!("http://{ip}:9091/debug/config"), Instant::now() + DEADLINE);
    loop {
        picker.must_run()?;
        if let Ok(answer) = Client::new().get(&url, &[]).await {
            let page: Value = answer.json()?;
            if page["obstacles"].as_array().is_some_and(Vec::is_empty) {
                return Ok(page);
            }
        }
        ensure!(Instant::now() < deadline, "never serves:\n{}", picker.log());
        sleep(LOOK).await;
    }
}

/// Waits until a Secret holds something; what.
async fn until_filled(namespace: &Namespace<'_>, name: &str) -> Result<Secret> {
    let (secrets, deadline) = (namespace.api::<Secret>(), Instant::now() + DEADLINE);
    loop {
        let secret = secrets.get(name).await.with_context(|| format!("Secret {name}"))?;
        if secret.data.as_ref().is_some_and(|data| data.contains_key("tls.crt")) {
            return Ok(secret);
        }
        ensure!(Instant::now() < deadline, "Secret {name} is never filled");
        sleep(LOOK).await;
    }
}

fn values(pool: &str) -> Value {
    json!({
        "pools": [{"name": pool, "selector": {"app": pool}}],
        "picker": {"bindAddress": "$(POD_IP)", "extraArgs": ["--admin-address=$(POD_IP):9091", "--eds-address=$(POD_IP):9005"]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_releases_share_a_namespace_and_one_goes_without_harm_to_the_other() -> Result<()> {
    let plane = plane().await?;
    plane.install_our_crds().await?;
    let (team, folder) = (plane.namespace("releases").await?, tempfile::tempdir()?);
    let before = inventory(&[&team]).await?;
    let notes = team.install("chat", &values("chat")).await?;
    ensure!(notes.contains("kubectl pointsman check -n ") && notes.contains("curl "), "{notes}");
    let alone = inventory(&[&team]).await?;
    team.install("code", &values("code")).await?;
    let (mut chat, chat_ip) = run(&team, "chat-pointsman", "picker", 2, &folder).await?;
    let (mut code, code_ip) = run(&team, "code-pointsman", "picker", 3, &folder).await?;
    until_serving(&mut chat, chat_ip).await?;
    until_serving(&mut code, code_ip).await?;

    team.helm(&["uninstall", "code"], &Value::Null).await?;
    let after = inventory(&[&team]).await?;
    let lost: Vec<_> = alone.difference(&after).collect();
    let left: Vec<_> = after.difference(&alone).collect();
    ensure!(lost.is_empty() && left.is_empty(), "lost with the other: {lost:?}; left of it: {left:?}");
    // The one that stays follows its pool still.
    let server = pointsman_tests::control_plane::PodPlan::new("server", "chat", team.network.ip(20));
    team.pod(&server).await?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let page: Value = Client::new().get(&format!("http://{chat_ip}:9091/debug/pools"), &[]).await?.json()?;
        if page[0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 1) {
            break;
        }
        ensure!(Instant::now() < deadline, "{page:#}\n{}", chat.log());
        sleep(LOOK).await;
    }
    team.remove_pod("server").await?;
    until_serving(&mut chat, chat_ip).await?;
    team.helm(&["uninstall", "chat"], &Value::Null).await?;
    let after = inventory(&[&team]).await?;
    ensure!(after == before, "left: {:?}", after.difference(&before).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_what_was_filled_and_uninstalling_leaves_nothing() -> Result<()> {
    let plane = plane().await?;
    plane.install_our_crds().await?;
    let (system, theirs) = (plane.namespace("system").await?, plane.namespace("envoy-gateway").await?);
    let (team, folder) = (plane.namespace("team").await?, tempfile::tempdir()?);
    let all = [&system, &theirs, &team];
    let before = inventory(&all).await?;
    let mut server = json!({
        "picker": {"enabled": false},
        "extensionServer": {
            "enabled": true,
            "envoyGateway": {"namespace": theirs.name},
            "bindAddress": "$(POD_IP)",
            "extraArgs": ["--admin-address=$(POD_IP):9091"],
        },
    });
    system.install("pointsman", &server).await?;
    team.install("chat", &values("chat")).await?;
    let (extension, _) = run(&system, "pointsman-gateway", "extension-server", 2, &folder).await?;
    let (mut picker, ip) = run(&team, "chat-pointsman", "picker", 2, &folder).await?;
    until_serving(&mut picker, ip).await?;
    let ca = until_filled(&team, "chat-pointsman-ca").await?;
    let theirs_ca = until_filled(&theirs, "pointsman-gateway-ca").await.with_context(|| extension.log())?;
    let client = until_filled(&theirs, "pointsman-gateway-client").await?;

    // An upgrade resets nothing of it, and no replica needs to know.
    let mut picker_values = values("chat");
    picker_values["picker"]["replicas"] = json!(3);
    server["extensionServer"]["replicas"] = json!(1);
    team.install("chat", &picker_values).await?;
    system.install("pointsman", &server).await?;
    for (namespace, name, filled) in [
        (&team, "chat-pointsman-ca", &ca),
        (&theirs, "pointsman-gateway-ca", &theirs_ca),
        (&theirs, "pointsman-gateway-client", &client),
    ] {
        let now: Secret = namespace.api().get(name).await?;
        ensure!(now.data == filled.data, "the upgrade changed Secret {name}");
    }
    let published: ConfigMap = team.api().get("chat-pointsman-ca").await?;
    ensure!(published.data.is_some_and(|data| data.contains_key("ca.crt")), "the upgrade emptied the ConfigMap");
    let lease: Lease = team.api().get("chat-pointsman").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    ensure!(holder.starts_with("chat-pointsman"), "the Lease is held by {holder:?}");

    // They go while everything runs, as a user would have it.
    team.helm(&["uninstall", "chat"], &Value::Null).await?;
    system.helm(&["uninstall", "pointsman"], &Value::Null).await?;
    let after = inventory(&all).await?;
    ensure!(after == before, "left: {:?}", after.difference(&before).collect::<Vec<_>>());
    let kept = plane.kubectl(&["get", "crd", "schedulingpolicies.pointsman.dev", "-o", "name"], "").await?;
    ensure!(kept.contains("schedulingpolicies"), "definitions are kept: {kept}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_release_brings_definitions_and_none_is_written_over() -> Result<()> {
    let plane = pointsman_tests::control_plane::ControlPlane::start().await?;
    let namespace = plane.namespace("first").await?;
    // One that is there, and is another than ours.
    plane.install_upstream_crds("1.5.0").await?;
    let version =
        ["get", "crd", "inferencepools.inference.networking.k8s.io", "-o", "jsonpath={.metadata.annotations}"];
    let there = plane.kubectl(&version, "").await?;
    let mut values = values("chat");
    values["pools"][0]["policy"] = json!({"profile": {"scorers": [{"type": "queue-scorer", "weight": 2}]}});
    namespace.install("chat", &values).await?;
    ensure!(plane.kubectl(&version, "").await? == there, "the definition that was there is another one now");
    let made =
        plane.kubectl(&["-n", &namespace.name, "get", "inferencepool,schedulingpolicy", "-o", "name"], "").await?;
    ensure!(made.lines().count() == 2, "{made}");
    namespace.helm(&["uninstall", "chat"], &Value::Null).await?;
    let kept = plane.kubectl(&["get", "crd", "-o", "name"], "").await?;
    ensure!(kept.contains("schedulingpolicies.pointsman.dev"), "{kept}");
    Ok(())
}
