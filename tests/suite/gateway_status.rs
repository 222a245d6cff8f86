//! What the extension server says of pools, on a real API server: in `status.parents`, and in Events.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pointsman_tests::control_plane::{ControlPlane, Namespace};
use pointsman_tests::envoy_gateway;
use pointsman_tests::manifests::{gateway, headless_service, manifest, pool_backend, route, rule};
use pointsman_tests::process::{Program, built};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

/// How long a change may take until a status shows it. About five times what was seen on two busy cores.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// The extension server of the controller `example.com/NAME`, on the namespace's host `host`.
fn server(
    namespace: &Namespace<'_>,
    plane: &ControlPlane,
    name: &'static str,
    host: u8,
    folder: &std::path::Path,
) -> Result<Program> {
    let ip = namespace.network.ip(host).to_string();
    let mut command = Command::new(built("pointsman", "pointsman")?);
    command.args(["gateway", "--secure-serving=false", "--namespace", &namespace.name, "--lease-name", name]);
    command.args(["--controller-name", &format!("example.com/{}-{name}", namespace.name)]);
    command.args(["--bind-address", &ip, "--admin-address", &format!("{ip}:9091")]);
    command.env("KUBECONFIG", plane.kubeconfig());
    Program::start(name, command, folder)
}

/// A class of Gateways of the controller that [`server`] serves under that name.
fn class(namespace: &Namespace<'_>, name: &str) -> String {
    let of_class = format!("{}-{name}", namespace.name);
    let spec = json!({"controllerName": format!("example.com/{of_class}")});
    manifest("gateway.networking.k8s.io/v1", "GatewayClass", &of_class, spec)
}

/// The pool's parents, as `controller gateway: Accepted=reason ResolvedRefs=reason`.
fn parents(pool: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |parent: &Value| {
        let conditions = parent["conditions"].as_array().into_iter().flatten();
        let conditions =
            conditions.map(|condition| format!(" {}={}", text(&condition["type"]), text(&condition["reason"])));
        format!(
            "{} {}:{}",
            text(&parent["controllerName"]),
            text(&parent["parentRef"]["name"]),
            conditions.collect::<String>()
        )
    };
    pool["status"]["parents"].as_array().into_iter().flatten().map(entry).collect()
}

#[tokio::test]
async fn a_pool_says_what_its_gateways_make_of_it_and_events_say_when_its_picker_is_gone() -> Result<()> {
    let plane = envoy_gateway::plane().await?;
    plane.install_our_crds().await?;
    let namespace = plane.namespace("status").await?;
    let folder = tempfile::tempdir()?;
    let servers =
        [server(&namespace, plane, "one", 2, folder.path())?, server(&namespace, plane, "two", 3, folder.path())?];
    let logs = || servers.iter().map(Program::log).collect::<String>();
    let until = async |expected: &[&str]| -> Result<Value> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let text = plane.kubectl(&["-n", &namespace.name, "get", "infpool", "pool", "-o", "json"], "").await?;
            let pool: Value = serde_json::from_str(&text)?;
            if parents(&pool) == expected {
                return Ok(pool);
            }
            ensure!(Instant::now() < deadline, "never {expected:?}: {pool:#}\n{}", logs());
            sleep(LOOK).await;
        }
    };

    let spec = json!({
        "selector": {"matchLabels": {"app": "pool"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
    });
    namespace.apply(&manifest("inference.networking.k8s.io/v1", "InferencePool", "pool", spec)).await?;
    let other = json!({
        "parentRef": {"name": "gateway"}, "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"}],
    });
    let patch = json!({"status": {"parents": [other]}}).to_string();
    let say = ["-n", &namespace.name, "patch", "infpool", "pool", "--subresource=status", "--type=merge", "-p", &patch];
    plane.kubectl(&say, "").await?;
    let theirs = "example.com/other gateway: Accepted=Accepted";
    let of_class = |name: &str| format!("{}-{name}", namespace.name);
    plane.apply(&(class(&namespace, "one") + &class(&namespace, "two"))).await?;
    let plain = route("plain", &[rule("/", &[pool_backend("pool", 1)])]);
    namespace.apply(&(gateway(&of_class("one"), "gateway", 80) + &plain)).await?;
    let invalid = "pointsman.dev/gateway gateway: Accepted=Accepted ResolvedRefs=InvalidExtensionRef";
    let pool = until(&[theirs, invalid]).await?;
    let message = pool["status"]["parents"][1]["conditions"][1]["message"].as_str().context("no message")?;
    assert_eq!(
        message,
        format!(
            "spec.endpointPickerRef: there is no Service {}/picker: create it, or name the picker's",
            namespace.name
        )
    );

    let certificate = rcgen::generate_simple_self_signed(vec!["picker".to_owned()])?.cert.pem();
    let ca = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "picker-ca"},
        "data": {"ca.crt": certificate},
    });
    namespace.apply(&(headless_service("picker", 9002, &[]) + &format!("---\n{ca}\n"))).await?;
    let well = "pointsman.dev/gateway gateway: Accepted=Accepted ResolvedRefs=ResolvedRefs";
    until(&[theirs, well]).await?;

    // A Gateway of another controller has an extension server of its own, and neither touches what the other says.
    let second = json!({"parentRefs": [{"name": "second"}], "rules": [rule("/", &[pool_backend("pool", 1)])]});
    let second = manifest("gateway.networking.k8s.io/v1", "HTTPRoute", "second", second);
    namespace.apply(&(gateway(&of_class("two"), "second", 81) + &second)).await?;
    let of_second = "pointsman.dev/gateway second: Accepted=Accepted ResolvedRefs=ResolvedRefs";
    until(&[theirs, well, of_second]).await?;
    let relabel = [
        "-n",
        &namespace.name,
        "patch",
        "infpool",
        "pool",
        "--type=merge",
        "-p",
        r#"{"spec":{"targetPorts":[{"number":8001}]}}"#,
    ];
    plane.kubectl(&relabel, "").await?;
    let deadline = Instant::now() + CHANGE_DEADLINE;
    loop {
        let pool = until(&[theirs, well, of_second]).await?;
        let observed =
            [1, 2].map(|entry| pool["status"]["parents"][entry]["conditions"][1]["observedGeneration"].clone());
        if observed == [json!(2), json!(2)] {
            break;
        }
        ensure!(Instant::now() < deadline, "{pool:#}\n{}", logs());
        sleep(LOOK).await;
    }
    namespace.delete(&plain).await?;
    until(&[theirs, of_second]).await?;
    namespace.delete(&second).await?;
    until(&[theirs]).await?;

    let text = plane.kubectl(&["-n", &namespace.name, "get", "events.events.k8s.io", "-o", "json"], "").await?;
    let events: Value = serde_json::from_str(&text)?;
    let told: Vec<_> = events["items"].as_array().into_iter().flatten().map(|event| &event["reason"]).collect();
    assert!(told.contains(&&json!("PickerNotFound")) && told.contains(&&json!("PickerFound")), "{events:#}");
    assert!(
        events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|event| event["reportingController"] == "pointsman.dev/gateway")
    );
    plane.delete(&(class(&namespace, "one") + &class(&namespace, "two"))).await?;
    Ok(())
}
