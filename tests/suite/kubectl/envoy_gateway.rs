//! What `kubectl pointsman check` says of an Envoy Gateway, from nothing but its class to an installation that is whole.

use std::collections::BTreeSet;

use anyhow::Result;
use pointsman_tests::envoy_gateway::plane;
use pointsman_tests::manifests::{gateway, headless_service, manifest, pool_backend, route, rule};
use serde_json::{Value, json};
use tokio::process::Command;

use super::Plugin;

/// What `pointsman` prints with these arguments.
async fn printed(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(pointsman_tests::process::built("pointsman", "pointsman")?).args(arguments).output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn an_envoy_gateway_is_checked_in_the_order_in_which_it_is_mended() -> Result<()> {
    let plane = plane().await?;
    plane.install_our_crds().await?;
    let team = plane.namespace("team").await?;
    let name = &*team.name;
    let plugin = Plugin::new(plane, name)?;
    let controller = format!("example.com/{name}");
    // All of it stands in one namespace, the Envoy Gateway too.
    let usual = ["check", "--controller-name", &controller, "--envoy-gateway-namespace", name, "-o", "json"];
    let findings = async |flags: &[&str]| -> Result<Vec<(String, String, String)>> {
        let told: Value = serde_json::from_str(&plugin.run(&[&usual[..], flags].concat()).await?.out)?;
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings = told["findings"].as_array().cloned().unwrap_or_default().into_iter();
        let ours = findings.filter(|finding| finding["section"] == "Envoy Gateway");
        Ok(ours.map(|finding| (text(&finding, "status"), text(&finding, "text"), text(&finding, "mend"))).collect())
    };
    assert_eq!(findings(&[]).await?, [], "there is no GatewayClass");

    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
        "spec": {"controllerName": controller},
    });
    let configuration = |extension_manager: Value| {
        let text =
            json!({"gateway": {"controllerName": controller}, "extensionManager": extension_manager}).to_string();
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "envoy-gateway-config"},
            "data": {"envoy-gateway.yaml": text},
        })
        .to_string()
    };
    team.apply(&format!("---\n{class}\n---\n{}\n", configuration(Value::Null))).await?;
    let unused = findings(&[]).await?;
    assert_eq!((unused.len(), &*unused[0].0), (1, "ok"), "{unused:?}");

    let rules = [rule("/", &[pool_backend("chat", 1)])];
    team.apply(&(gateway(name, "gateway", 80) + &route("route", &rules))).await?;
    let bare = findings(&["--extension-server", &format!("{name}/pm")]).await?;
    let expected = [
        ("ok", "inferencepools.inference.networking.k8s.io is served"),
        ("ok", "gatewaysyncs.pointsman.dev is served"),
        ("failure", "may not get inferencepools.inference.networking.k8s.io"),
        ("failure", "may not get gatewaysyncs.pointsman.dev"),
        ("failure", "may not update gatewaysyncs/status.pointsman.dev"),
        ("failure", "no extensionManager"),
        ("failure", "there is no Service"),
        ("failure", "has no GatewaySync"),
    ];
    assert_eq!(bare.len(), expected.len(), "{bare:#?}");
    for ((status, text, mend), (wanted, part)) in bare.iter().zip(expected) {
        assert!(status == wanted && text.contains(part) && (status == "ok" || !mend.is_empty()), "{bare:#?}");
    }

    // What it says to do is done.
    let roles = ["roles", "--gateway", "-n", name, "--service-name", "pm", "--envoy-gateway-namespace", name];
    plane.apply(&printed(&roles).await?).await?;
    let values = printed(&["gateway", "--print-values", "--namespace", name, "--service-name", "pm"]).await?;
    let values: Value = serde_saphyr::from_str(&values)?;
    let secret = |name: &str| {
        let data = json!({"tls.crt": "ca", "tls.key": "key"});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}).to_string()
    };
    let sync = json!({
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"}], "digest": "0",
    });
    let servers = [2, 3].map(|host| team.network.address(host, 9004));
    for manifest in [
        configuration(values["config"]["envoyGateway"]["extensionManager"].clone()),
        secret("pm-ca"),
        secret("pm-client"),
        headless_service("pm", 9004, &servers),
        manifest("pointsman.dev/v1alpha1", "GatewaySync", "gateway", sync),
    ] {
        team.apply(&manifest).await?;
    }
    // The configuration tells where the extension server is.
    let whole = findings(&[]).await?;
    let marks: BTreeSet<&str> = whole.iter().map(|(status, _, _)| &**status).collect();
    assert_eq!(marks, BTreeSet::from(["ok"]), "{whole:#?}");
    for part in ["may do all 7 things", "told of the extension server", "pm-ca holds", "pm-client holds", "2 ready"] {
        assert!(whole.iter().any(|(_, text, _)| text.contains(part)), "{part}: {whole:#?}");
    }

    plane.kubectl(&["delete", "gatewayclass", name], "").await?;
    plane.kubectl(&["delete", "-f", "-"], &printed(&roles).await?).await?;
    Ok(())
}
