//! The plugin of kubectl, called through the real kubectl, against a real API server and pickers that serve.

mod envoy_gateway;

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_tests::client::Client;
use pointsman_tests::cluster_stack::{ClusterPlan, ClusterStack};
use pointsman_tests::control_plane::{ControlPlane, PodPlan};
use pointsman_tests::manifests::manifest;
use pointsman_tests::process::{Program, built, envoy};
use pointsman_tests::stack::LISTEN_PORT;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// How long one run of the plugin may take. About five times what was seen on two busy cores.
const RUN_DEADLINE: Duration = Duration::from_secs(60);
/// A host of the test's network for an Envoy that nobody told of a picker, and one for a picker with TLS.
const BYPASS_HOST: u8 = 10;
const SECURE_HOST: u8 = 11;

/// The shared control plane, with our CRDs too.
async fn plane() -> &'static ControlPlane {
    let plane = ControlPlane::shared().await.unwrap();
    plane.install_our_crds().await.unwrap();
    plane
}

/// The program under the name by which kubectl finds it.
struct Plugin<'a> {
    plane: &'a ControlPlane,
    namespace: String,
    folder: TempDir,
}

/// What a run of the plugin came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    notes: String,
}

impl<'a> Plugin<'a> {
    fn new(plane: &'a ControlPlane, namespace: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::os::unix::fs::symlink(built("pointsman", "pointsman")?, folder.path().join("kubectl-pointsman"))?;
        Ok(Self { plane, namespace: namespace.to_owned(), folder })
    }

    /// `kubectl pointsman ...` in the stack's namespace.
    async fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let mut path = OsString::from(self.folder.path());
        path.extend([OsString::from(":"), std::env::var_os("PATH").unwrap_or_default()]);
        let mut kubectl = self.plane.kubectl_command();
        kubectl.env("PATH", path).arg("pointsman").args(arguments).args(["-n", &self.namespace]);
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output =
            tokio::time::timeout(RUN_DEADLINE, kubectl.output()).await.context("the plugin does not end")??;
        let text = |bytes| String::from_utf8(bytes).context("the plugin wrote no UTF-8");
        eprintln!(
            "$ kubectl pointsman {}\n{}{}",
            arguments.join(" "),
            text(output.stdout.clone())?,
            text(output.stderr.clone())?
        );
        Ok(Ran { code: output.status.code(), out: text(output.stdout)?, notes: text(output.stderr)? })
    }
}

impl Ran {
    /// Fails unless it ended with this code and wrote all of this.
    fn expect(self, code: i32, expected: &[&str]) -> Result<Self> {
        ensure!(self.code == Some(code), "ended with {:?}:\n{}\n{}", self.code, self.out, self.notes);
        for expected in expected {
            ensure!(
                self.out.contains(expected) || self.notes.contains(expected),
                "{expected:?} is not in:\n{}\n{}",
                self.out,
                self.notes
            );
        }
        Ok(self)
    }
}

/// A pool with that many servers, all of which every picker knows.
async fn stack(plane: &ControlPlane, servers: usize, pickers: usize) -> Result<ClusterStack<'_>> {
    let stack = ClusterStack::start(plane, ClusterPlan { pickers, ..ClusterPlan::new(servers) }).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    for server in 0..servers {
        stack.namespace.pod(&stack.pod(server, "pool")).await?;
    }
    let hears_all = |page: &Value| {
        let endpoints = page[0]["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        endpoints.len() == servers && endpoints.iter().all(|endpoint| endpoint["telemetryFresh"] == true)
    };
    for picker in 0..pickers {
        stack.until_admin(picker, "/debug/pools", hears_all).await?;
    }
    stack.until_answered(0).await?;
    Ok(stack)
}

/// Waits until a picker shows so many endpoints as cordoned.
async fn until_cordoned(stack: &ClusterStack<'_>, cordoned: usize) -> Result<()> {
    let is_so = |page: &Value| {
        let endpoints = page[0]["endpoints"].as_array().into_iter().flatten();
        endpoints.filter(|endpoint| endpoint["cordoned"] == true).count() == cordoned
    };
    stack.until_admin(0, "/debug/pools", is_so).await.map(|_| ())
}

fn completion() -> String {
    json!({"model": "any", "prompt": "hello", "max_tokens": 1}).to_string()
}

#[tokio::test]
async fn top_shows_every_server_and_explain_finds_the_request_at_whichever_replica_decided() -> Result<()> {
    let plane = plane().await;
    let stack = stack(plane, 2, 2).await?;
    let plugin = Plugin::new(plane, &stack.namespace.name)?;
    let pool = format!("{}/pool", stack.namespace.name);
    let urls = [0, 1].map(|picker| format!("http://{}", stack.picker_address(picker, 9091)));
    let admin = ["--admin-url", &urls[0], "--admin-url", &urls[1]];
    let with = |arguments: &[&'static str]| [arguments, &admin].concat();

    let shown = plugin
        .run(&with(&["top"]))
        .await?
        .expect(0, &[&format!("pool {pool}: 2 endpoints; in flight is the sum of")])?;
    for server in &stack.servers {
        let line = shown.out.lines().find(|line| line.starts_with(server.name())).context("a server is missing")?;
        ensure!(line.contains(&server.addr().to_string()) && line.contains("0 = 0+0"), "{}", shown.out);
    }
    let json = plugin.run(&with(&["top", "--pool", "pool", "-o", "json"])).await?.expect(0, &[])?;
    let json: Value = serde_json::from_str(&json.out)?;
    assert_eq!(json["pools"][0]["name"], pool.as_str());
    assert_eq!(json["pools"][0]["endpoints"].as_array().map(Vec::len), Some(2));
    plugin.run(&with(&["top", "--pool", "other"])).await?.expect(1, &["serves no pool", &pool])?;

    // Envoy asks either of them.
    for number in 0..6 {
        let id = format!("r-{number}");
        let url = format!("{}/v1/completions", stack.url(0));
        let answer = stack.client.post(&url, &[("x-request-id", &id)], completion()).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let explained = plugin.run(&[&["explain", &id], &admin[..]].concat()).await?;
        let went = format!("went to {}", answer.header("x-sim-server"));
        let explained =
            explained.expect(0, &[&format!("request {id} in pool {pool}"), "model any", &went, "picked"])?;
        assert!(explained.out.contains("queue ×2") && explained.out.contains("prefix-cache ×3"), "{}", explained.out);
    }
    let raw = plugin.run(&with(&["explain", "r-0", "-o", "json"])).await?.expect(0, &[])?;
    let raw: Value = serde_json::from_str(&raw.out)?;
    assert_eq!((&raw[0]["requestId"], raw[0]["endpoints"].as_array().map(Vec::len)), (&"r-0".into(), Some(2)));
    plugin.run(&with(&["explain", "r-none"])).await?.expect(1, &["known to 2 pickers", "last 256 decisions"])?;
    Ok(())
}

#[tokio::test]
async fn a_pod_is_cordoned_and_uncordoned_by_kubectl_and_the_last_one_is_warned_of() -> Result<()> {
    let plane = plane().await;
    let stack = stack(plane, 2, 1).await?;
    let plugin = Plugin::new(plane, &stack.namespace.name)?;
    let admin = format!("http://{}", stack.picker_address(0, 9091));
    let first = plugin.run(&["cordon", "server-0", "--reason", "wrong answers"]).await?;
    let first = first.expect(0, &["pod/server-0 cordoned (wrong answers)"])?;
    assert_eq!(first.notes, "");
    until_cordoned(&stack, 1).await?;
    stack.until_served_by(0, "server-1").await?;
    plugin
        .run(&["top", "--admin-url", &admin])
        .await?
        .expect(0, &["2 endpoints, 1 cordoned", "cordoned: wrong answers"])?;
    plugin.run(&["cordon", "pod/server-0"]).await?.expect(0, &["is cordoned already (wrong answers)"])?;
    plugin
        .run(&["cordon", "server-0", "--reason", "slow"])
        .await?
        .expect(0, &["stays cordoned (slow; before: wrong answers)"])?;

    let last = plugin.run(&["cordon", "server-1"]).await?;
    last.expect(0, &["pod/server-1 cordoned", "has no other ready endpoint", "kubectl pointsman uncordon server-1"])?;
    stack.until_served_by(0, "503 no-ready-endpoint").await?;
    plugin.run(&["uncordon", "server-0"]).await?.expect(0, &["pod/server-0 uncordoned (it was: slow)"])?;
    stack.until_served_by(0, "server-0").await?;
    plugin.run(&["uncordon", "server-0"]).await?.expect(0, &["pod/server-0 is not cordoned"])?;

    plugin.run(&["cordon", "server-9"]).await?.expect(1, &["there is no pod server-9", "get pods"])?;
    stack.namespace.pod(&PodPlan::new("stranger", "other", stack.servers[0].addr().ip())).await?;
    plugin.run(&["cordon", "stranger"]).await?.expect(0, &["no InferencePool", "has pod stranger as a member"])?;
    Ok(())
}

/// What a Deployment and the controllers would have made of a picker: a ready pod, its Service and an EndpointSlice.
async fn picker_objects(stack: &ClusterStack<'_>, service: &str, host: std::net::IpAddr) -> Result<()> {
    let pod = stack.namespace.pod(&PodPlan::new(&format!("{service}-0"), service, host)).await?;
    let labels = json!({"kubernetes.io/service-name": service});
    let target =
        json!({"kind": "Pod", "name": pod.metadata.name, "namespace": stack.namespace.name, "uid": pod.metadata.uid});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": service, "labels": labels},
        "addressType": "IPv4", "ports": [{"name": "grpc", "port": 9002, "protocol": "TCP"}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": true, "serving": true}, "targetRef": target}],
    });
    let ports = json!([{"name": "grpc", "port": 9002}]);
    let spec = json!({"clusterIP": "None", "selector": {"app": service}, "ports": ports});
    stack.namespace.apply(&format!("---\n{slice}\n{}", manifest("v1", "Service", service, spec))).await?;
    Ok(())
}

#[tokio::test]
async fn a_good_installation_passes_every_check_and_each_fault_is_told_with_its_mend() -> Result<()> {
    let plane = plane().await;
    let mut stack = stack(plane, 2, 1).await?;
    let namespace = stack.namespace.name.clone();
    let plugin = Plugin::new(plane, &namespace)?;
    picker_objects(&stack, "picker", stack.picker_address(0, 0).ip()).await?;
    let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"});
    let policy = |spec: Value| manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", "tuning", spec);
    stack
        .namespace
        .apply(&policy(json!({"targetRefs": [target], "profile": {"scorers": [{"type": "queue-scorer"}]}})))
        .await?;
    stack
        .until_object(plane, "schedulingpolicy", "tuning", |object| {
            object["status"]["ancestors"][0]["conditions"][0]["status"] == "True"
        })
        .await?;
    let (admin, gateway) = (format!("http://{}", stack.picker_address(0, 9091)), stack.url(0));
    let account = format!("{namespace}/picker");
    let usual = ["check", "--as-service-account", &account, "--admin-url", &admin];
    let through = |gateway: &str| {
        [&usual[..], &["--gateway-url", gateway]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let check =
        async |arguments: &[String]| plugin.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let good = check(&through(&gateway)).await?.expect(
        0,
        &[
            "√ schedulingpolicies.pointsman.dev is served as v1alpha1",
            "√ ServiceAccount",
            "√ 2 of 2 members ready",
            "√ SchedulingPolicy tuning is in force",
            "√ Service picker:9002 leads to 1 ready picker",
            "speaks plaintext",
            "√ the gateway asks the picker: the request went to server-",
            "all is well",
        ],
    )?;
    assert!(!good.out.contains('‼') && good.notes.is_empty(), "{}\n{}", good.out, good.notes);
    let json = plugin.run(&[&usual[..], &["-o", "json"]].concat()).await?.expect(0, &[])?;
    assert_eq!(serde_json::from_str::<Value>(&json.out)?["ok"], true);

    // Each of these is undone before the next.
    plugin
        .run(&[&usual[..], &["--pool", "missing"]].concat())
        .await?
        .expect(1, &["× the InferencePool does not exist", "has: pool"])?;

    let wrong_port = stack.pool("pool").replace("9002", "9999");
    stack.namespace.apply(&wrong_port).await?;
    plugin
        .run(&usual)
        .await?
        .expect(1, &["× Service picker has no port 9999; it has: 9002", "endpointPickerRef.port.number"])?;
    let wrong_service = stack.pool("pool").replace("\"picker\"", "\"absent\"");
    stack.namespace.apply(&wrong_service).await?;
    plugin.run(&usual).await?.expect(1, &["× there is no Service absent", "→ create it"])?;
    stack.namespace.apply(&stack.pool("pool")).await?;

    let role = plane.kubectl(&["-n", &namespace, "get", "role", "picker", "-o", "json"], "").await?;
    let mut less: Value = serde_json::from_str(&role)?;
    // It is replaced twice, whichever version there is.
    less["metadata"]["resourceVersion"].take();
    let rules = less["rules"].as_array_mut().context("the Role has no rules")?;
    let pods = rules.iter_mut().find(|rule| rule["resources"] == json!(["pods"])).context("nothing on pods")?;
    pods["verbs"] = json!(["get", "list"]);
    plane.kubectl(&["-n", &namespace, "replace", "-f", "-"], &less.to_string()).await?;
    let told = format!("× ServiceAccount {account} may not watch pods in namespace {namespace}");
    plugin.run(&usual).await?.expect(1, &[&told, "resources: [pods], verbs: [get, list, watch]"])?;
    less["rules"] = serde_json::from_str::<Value>(&role)?["rules"].clone();
    plane.kubectl(&["-n", &namespace, "replace", "-f", "-"], &less.to_string()).await?;

    let ca = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "picker-ca"}, "data": {"ca.crt": authority()}});
    stack.namespace.apply(&ca.to_string()).await?;
    plugin
        .run(&usual)
        .await?
        .expect(1, &["speaks plaintext, and ConfigMap picker-ca promises TLS", "--secure-serving=false"])?;
    stack.namespace.delete(&ca.to_string()).await?;

    for server in ["server-0", "server-1"] {
        stack.namespace.set_ready(server, false).await?;
    }
    plugin
        .run(&usual)
        .await?
        .expect(1, &["× of 2 members none takes requests: 2 not ready", "kubectl describe pod"])?;
    for server in ["server-0", "server-1"] {
        stack.namespace.set_ready(server, true).await?;
    }
    stack.until_answered(0).await?;

    // A gateway that was never told of the picker answers as well as the other one does.
    let folder = tempfile::tempdir()?;
    let listen = stack.namespace.network.address(BYPASS_HOST, LISTEN_PORT);
    let _envoy = bypassing_envoy(listen, stack.servers[0].addr(), folder.path()).await?;
    check(&through(&format!("http://{listen}"))).await?.expect(
        1,
        &[
            "× the answer was 200, and no picker decided on it: requests bypass the picker silently",
            "→ is the route's backendRef",
        ],
    )?;
    let closed = stack.namespace.network.address(BYPASS_HOST, 9);
    check(&through(&format!("http://{closed}")))
        .await?
        .expect(1, &["× the gateway cannot be asked", "correct --gateway-url"])?;

    // The picker itself, without the administrator's rights, knows at least what it may do.
    let kubeconfig = plane.kubeconfig_for(&stack.namespace.token("picker").await?)?;
    let kubeconfig = kubeconfig.to_str().context("the path is not UTF-8")?;
    let own = plugin.run(&[&usual[..], &["--kubeconfig", kubeconfig]].concat()).await?;
    own.expect(0, &["√ ServiceAccount", "cannot be told: reading Service"])?;

    stack.pickers[0].kill().await?;
    plugin.run(&usual).await?.expect(1, &["× picker http://", "correct --admin-url"])?;
    Ok(())
}

#[tokio::test]
async fn without_a_url_pickers_are_found_by_the_pools_service_and_a_forward_that_fails_says_what_to_do() -> Result<()> {
    let plane = plane().await;
    let stack = stack(plane, 1, 1).await?;
    let plugin = Plugin::new(plane, &stack.namespace.name)?;
    plugin.run(&["top"]).await?.expect(1, &["no picker was found", "endpointPickerRef", "--admin-url"])?;
    picker_objects(&stack, "picker", stack.picker_address(0, 0).ip()).await?;
    // There is no kubelet here that could forward a port: the pod that was found is named.
    for find in [vec!["top"], vec!["explain", "r-1", "--picker-selector", "app=picker"]] {
        plugin.run(&find).await?.expect(1, &["port-forwarding to pod picker-0", "--admin-url"])?;
    }
    let told = plugin
        .run(&["check"])
        .await?
        .expect(1, &["‼ picker pod picker-0", "√ Service picker:9002 leads to 1 ready picker"])?;
    // The pods' ServiceAccount is the one whose permissions count; this one's has none.
    assert!(told.out.contains("default may not"), "{}", told.out);
    Ok(())
}

#[tokio::test]
async fn a_picker_with_tls_is_verified_as_gateways_do() -> Result<()> {
    let plane = plane().await;
    let stack = stack(plane, 1, 1).await?;
    let plugin = Plugin::new(plane, &stack.namespace.name)?;
    let host = stack.namespace.network.ip(SECURE_HOST);
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(built("pointsman", "pointsman")?);
    command.args([
        "serve",
        "--pool-name",
        "pool",
        "--pool-namespace",
        &stack.namespace.name,
        "--service-name",
        "secure",
    ]);
    command.args(["--bind-address", &host.to_string(), "--admin-address", &format!("{host}:9091")]);
    command.args(["--eds-address", &format!("{host}:9005")]);
    command.env("KUBECONFIG", plane.kubeconfig()).env("POD_NAMESPACE", &stack.namespace.name);
    let picker = Program::start("secure-picker", command, folder.path())?;
    let url = format!("http://{host}:9091");
    let client = Client::new();
    let deadline = tokio::time::Instant::now() + RUN_DEADLINE;
    loop {
        let page = async { client.get(&format!("{url}/debug/config"), &[]).await?.json() }.await;
        match page {
            Ok(page) if page["obstacles"] == json!([]) => break,
            page => ensure!(tokio::time::Instant::now() < deadline, "never ready: {page:?}\n{}", picker.log()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    picker_objects(&stack, "secure", host).await?;
    stack.namespace.apply(&stack.pool("pool").replace("\"picker\"", "\"secure\"")).await?;
    let (name, account) = (format!("secure.{}.svc", stack.namespace.name), format!("{}/picker", stack.namespace.name));
    let verified = format!("√ {host}:9002 is {name}, as the CA of ConfigMap secure-ca confirms");
    // What the picker says of its CA and its Lease is what the Role is held against: this one is for other names.
    let lease = format!("resourceNames: [pointsman.{}.pool]", stack.namespace.name);
    let expected = [&*verified, "secrets", "resourceNames: [secure-ca]", &lease];
    plugin.run(&["check", "--admin-url", &url, "--as-service-account", &account]).await?.expect(1, &expected)?;
    Ok(())
}

/// A CA that vouches for nobody here, as PEM.
fn authority() -> String {
    let made =
        pointsman_k8s::trust::authority::Authority::make(Duration::from_secs(3600), std::time::SystemTime::now());
    made.unwrap().chain[0].pem.clone()
}

/// An Envoy that sends everything to one server and asks nobody.
async fn bypassing_envoy(listen: std::net::SocketAddr, server: std::net::SocketAddr, folder: &Path) -> Result<Program> {
    let address = |address: std::net::SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let router = json!({"name": "router", "typed_config": {"@type": typed("http.router.v3.Router")}});
    let route = json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "server"}},
    ]}]});
    let http = json!({
        "@type": typed("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http", "route_config": route, "http_filters": [router],
    });
    let config = json!({"static_resources": {
        "listeners": [{"address": address(listen), "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}],
        "clusters": [{"name": "server", "type": "STATIC", "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(server)}}]}],
        }}],
    }});
    let file = folder.join("bypass.yaml");
    std::fs::write(&file, config.to_string())?;
    let mut command = Command::new(envoy()?);
    command.arg("-c").arg(&file).args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
    let mut program = Program::start("bypass", command, folder)?;
    let client = Client::new();
    let deadline = tokio::time::Instant::now() + RUN_DEADLINE;
    while client.get(&format!("http://{listen}/v1/models"), &[]).await.is_err() {
        program.must_run()?;
        ensure!(tokio::time::Instant::now() < deadline, "never ready: {}", program.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(program)
}
