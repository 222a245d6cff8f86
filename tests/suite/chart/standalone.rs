use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use pointsman_core::control_headers::DESTINATIONS;
use pointsman_sim::{SimConfig, SimServer};
use pointsman_tests::client::Client;
use pointsman_tests::control_plane::{Namespace, PodPlan};
use pointsman_tests::envoy_gateway::plane;
use pointsman_tests::process::Program;
use pointsman_tests::stack::fast;
use pointsman_tests::workload::{RunningPod, Workload};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::chat;
use crate::failures::{is_whole, slow};

/// How long a change may take until requests show it. About five times what was seen on two busy cores.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// Requests that name a destination themselves, in each state of the picker.
const REQUESTS: usize = 50;
/// How many may fail that meet a picker which has just died or started, though the pool fails open.
const MAY_FAIL: usize = 2;
/// The release's one pod, and the first server.
const POD_HOST: u8 = 2;
/// Where Envoy listens: the Envoy Gateway of other tests takes 8080 on every address.
const LISTEN_PORT: u16 = 10000;
const SERVER_HOST: u8 = 20;
const RELEASE: &str = "chat";
/// How long Envoy keeps a client's connection: shorter than an answer takes.
const CONNECTION_SECONDS: u64 = 1;
const DEPLOYMENT: &str = "chat-pointsman";

fn values(failure_mode: &str) -> Value {
    json!({
        "mode": "standalone",
        "pools": [{"name": "chat", "selector": {"app": "chat"}}],
        "picker": {
            "replicas": 1,
            "bindAddress": "$(POD_IP)",
            "extraArgs": ["--admin-address=$(POD_IP):9091"],
        },
        // Pods here share one network: what is on loopback in a pod has the pod's own address.
        "standalone": {
            "failureMode": failure_mode,
            "maxConnectionSeconds": CONNECTION_SECONDS,
            "listen": format!("$(POD_IP):{LISTEN_PORT}"),
            "envoyAdmin": "$(POD_IP):9901",
            "pickerAddress": "$(POD_IP)",
            "envoy": {"concurrency": 1},
        },
    })
}

/// Asks until the answer has this status: up to a second passes until Envoy's next health check, in which requests with
/// bodies fail that meet a picker which has just died, though the pool fails open.
async fn until_status(client: &Client, url: &str, status: u16, log: impl Fn() -> String) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = client.post(&format!("{url}/v1/chat/completions"), &[], chat(1000, 1, false).to_string()).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == status) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "got {answer:?}\n{}", log());
        sleep(LOOK).await;
    }
}

/// Asks until the picker has decided on a request: an Envoy that fails open answers without it too.
async fn until_picked(client: &Client, url: &str, ip: IpAddr, log: impl Fn() -> String) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    for number in 0_u32.. {
        let id = format!("picked-{number}");
        // Envoy may not listen yet, nor the picker's pages.
        let _ = client.get(&format!("{url}/v1/models"), &[("x-request-id", &id)]).await;
        let page = client.get(&format!("http://{ip}:9091/debug/decisions?request_id={id}"), &[]).await;
        let decisions: Option<Value> = page.ok().and_then(|page| page.json().ok());
        if decisions.is_some_and(|all| all.as_array().is_some_and(|all| !all.is_empty())) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the picker is not asked\n{}", log());
        sleep(LOOK).await;
    }
    Ok(())
}

/// Has a connection be old, and then told to end with the answer.
async fn told_to_connect_anew(ip: IpAddr) -> Result<()> {
    let mut connection = TcpStream::connect((ip, LISTEN_PORT)).await?;
    let mut ask = async || {
        connection.write_all(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n0\r\n\r\n") && !answer.ends_with(b"}") {
            ensure!(connection.read_buf(&mut answer).await? > 0, "closed: {}", String::from_utf8_lossy(&answer));
        }
        anyhow::Ok(String::from_utf8_lossy(&answer).to_lowercase())
    };
    let young = tokio::time::timeout(DEADLINE, ask()).await??;
    sleep(Duration::from_secs(CONNECTION_SECONDS) * 2).await;
    let old = tokio::time::timeout(DEADLINE, ask()).await??;
    ensure!(!young.contains("connection: close") && old.contains("connection: close"), "{young}\n{old}");
    Ok(())
}

/// Runs the pods of `helm test` as a kubelet would, until one has ended.
async fn run_test_pod(namespace: &Namespace<'_>, folder: &std::path::Path) -> Result<String> {
    let pods: Api<Pod> = namespace.api();
    let deadline = Instant::now() + DEADLINE;
    let pod = loop {
        let listed = pods.list(&ListParams::default().labels("app.kubernetes.io/component=test")).await?;
        if let Some(pod) = listed.items.into_iter().next() {
            break pod;
        }
        ensure!(Instant::now() < deadline, "helm test makes no pod");
        sleep(LOOK).await;
    };
    let name = pod.metadata.name.context("a pod without a name")?;
    let workload = Workload::new(namespace, pod.spec.context("a pod without a spec")?, 1).await?;
    let running = RunningPod { name: &name, ip: namespace.network.ip(POD_HOST + 1), folder };
    let output = workload.command("check", &running).await?.output().await?;
    let phase = if output.status.success() { "Succeeded" } else { "Failed" };
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": phase}}))).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

async fn serve_alone(failure_mode: &str, while_down: u16) -> Result<()> {
    let plane = plane().await?;
    plane.install_our_crds().await?;
    let (namespace, folder) = (plane.namespace("standalone").await?, tempfile::tempdir()?);
    let mut servers = Vec::new();
    for number in 0..2 {
        let config = SimConfig { name: format!("server-{number}"), engine: slow(), ..fast() };
        servers.push(SimServer::start(config, namespace.network.address(SERVER_HOST + number, 8000)).await?);
    }
    namespace.pod(&PodPlan::new("server-0", "chat", servers[0].addr().ip())).await?;
    let mut values = values(failure_mode);
    let ip = namespace.network.ip(POD_HOST);
    let url = format!("http://{ip}:{LISTEN_PORT}");
    values["test"] = json!({"gatewayUrl": url, "adminUrls": [format!("http://{ip}:9091")]});
    namespace.install(RELEASE, &values).await?;

    // The pod: an init container first, then both containers.
    let workload = Workload::of(&namespace, DEPLOYMENT).await?;
    let pod = RunningPod { name: "standalone-0", ip, folder: folder.path() };
    let bootstrap = workload.command("bootstrap", &pod).await?.output().await?;
    ensure!(bootstrap.status.success(), "{}", String::from_utf8_lossy(&bootstrap.stderr));
    let envoy = Program::start("envoy", workload.command("envoy", &pod).await?, folder.path())?;
    let mut picker = Program::start("picker", workload.command("picker", &pod).await?, folder.path())?;
    let client = Client::new();
    let log = || {
        format!("{}\n{}", std::fs::read_to_string(folder.path().join("picker.log")).unwrap_or_default(), envoy.log())
    };
    until_picked(&client, &url, ip, log).await?;

    let elsewhere = servers[1].addr().to_string();
    let named: Vec<_> = DESTINATIONS.iter().map(|name| (*name, elsewhere.as_str())).collect();
    let ask = async |state: &str, allowed: &[u16], may_fail: usize| {
        let mut failures = 0;
        for request in 0..REQUESTS {
            let body = chat(1000, 1, false).to_string();
            let answer = client.post(&format!("{url}/v1/chat/completions"), &named, body).await?;
            let served = answer.header("x-sim-server");
            ensure!(served.is_empty() || served == "server-0", "{state}, request {request}: {served} answered");
            let (status, text) = (answer.status, answer.text());
            ensure!(matches!(status, 200 | 503), "{state}, request {request}: {status} {text}");
            failures += usize::from(!allowed.contains(&status));
        }
        ensure!(failures <= may_fail, "{state}: {failures} are none of {allowed:?}\n{}", log());
        anyhow::Ok(())
    };
    ask("picker up", &[200], 0).await?;
    let streamed = client.stream(&format!("{url}/v1/chat/completions"), chat(100, 100, true).to_string()).await?;
    ensure!(is_whole(&streamed), "an answer is cut with its connection\n{}", log());
    told_to_connect_anew(ip).await?;
    picker.kill().await?;
    until_status(&client, &url, while_down, log).await?;
    ask("picker down", &[while_down], MAY_FAIL).await?;
    picker = Program::start("picker", workload.command("picker", &pod).await?, folder.path())?;
    ask("picker restarting", &[200, while_down], MAY_FAIL).await?;
    until_picked(&client, &url, ip, log).await?;

    // helm test sends a completion, and looks who decided on it.
    let arguments = ["test", RELEASE, "--timeout", "30s"];
    let (tested, said) =
        tokio::join!(namespace.helm(&arguments, &Value::Null), run_test_pod(&namespace, folder.path()));
    let said = said?;
    let tested = tested.with_context(|| format!("{said}\n{}", log()))?;
    ensure!(tested.contains("Phase:          Succeeded"), "{tested}\n{said}");
    ensure!(said.contains("the picker decided") || said.contains("asks the picker"), "{said}");
    picker.signal("TERM").await?;
    picker.ended().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_beside_the_picker_obeys_no_client_and_fails_closed() -> Result<()> {
    serve_alone("FailClose", 503).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_beside_the_picker_serves_its_pool_while_the_picker_is_away() -> Result<()> {
    serve_alone("FailOpen", 200).await
}
