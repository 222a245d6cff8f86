use std::time::{Duration, Instant};

use pointsman_sim::{SimConfig, SimServer};
use pointsman_tests::client::Client;
use pointsman_tests::cluster_stack::takes_requests;
use pointsman_tests::netns::Network;
use pointsman_tests::process::{Program, built, envoy, printed};
use pointsman_tests::stack::{LISTEN_PORT, Plan, Stack, fast};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;

use crate::chat;

fn endpoints(page: &serde_json::Value) -> usize {
    page[0]["endpoints"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_reaches_the_picker_and_envoy_and_a_bad_one_changes_nothing() {
    let stack = Stack::start(Plan::new(3)).await.unwrap();
    let whole = stack.configuration();
    stack.rewrite_configuration("pools: [{name: x, endpoints: [{nmae: a}]}]").unwrap();
    let rejected = || async { stack.metric("pointsman_config_rejections_total", &[]).await.unwrap() };
    for _ in 0..200 {
        if rejected().await > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rejected().await, 1.0);
    assert_eq!(stack.metric("pointsman_config_rejected", &[]).await.unwrap(), 1.0);
    assert!(stack.picker.log().contains("did you mean"), "{}", stack.picker.log());
    let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
    assert_eq!(answer.status, 200);

    let one: Vec<&str> =
        whole.lines().filter(|line| !line.contains("server-11") && !line.contains("server-12")).collect();
    stack.rewrite_configuration(&one.join("\n")).unwrap();
    stack.until_pools("down to one endpoint", |page| endpoints(page) == 1).await.unwrap();
    for _ in 0..10 {
        let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
        assert_eq!((answer.status, answer.header("x-sim-server")), (200, "server-10"));
    }
    stack.rewrite_configuration(&whole).unwrap();
    stack.until_pools("back to three endpoints", |page| endpoints(page) == 3).await.unwrap();
    let mut served = std::collections::HashSet::new();
    for _ in 0..200 {
        let answer = stack.post("/v1/chat/completions", chat(10, 1, false).to_string()).await.unwrap();
        assert_eq!(answer.status, 200);
        served.insert(answer.header("x-sim-server").to_owned());
        if served.len() == 3 {
            return;
        }
    }
    panic!("endpoints that came back are never used: {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_verifies_the_pickers_certificate() {
    let mut plan = Plan::new(2);
    plan.tls = true;
    let stack = Stack::start(plan).await.unwrap();
    for stream in [false, true] {
        let answer = stack.post("/v1/chat/completions", chat(200_000, 5, stream).to_string()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_changes_at_run_time_and_logs_hold_no_prompt() {
    let stack = Stack::start(Plan::new(1)).await.unwrap();
    let canary = "canary-7d1f";
    assert_eq!(stack.set_log_level("no=such=filter").await.unwrap(), "kube_client=off,info");
    assert_eq!(stack.set_log_level("trace").await.unwrap(), "trace");
    let mut body = chat(100, 1, false);
    body["messages"][0]["content"] = canary.into();
    stack.post("/v1/chat/completions", body.to_string()).await.unwrap();
    stack.post("/v1/chat/completions", format!("{{\"model\": \"{canary}\" {canary}")).await.unwrap();
    let decisions = stack.admin("/debug/decisions").await.unwrap().to_string();
    let log = stack.picker.log();
    assert!(log.contains("\"level\":\"TRACE\""), "{log}");
    assert!(!log.contains(canary) && !decisions.contains(canary));
    let metrics = stack.metrics().await.unwrap();
    assert!(!metrics.contains(canary) && !metrics.contains("pointsman_pointsman"));
    assert!(metrics.contains("pointsman_telemetry_scrapes_total"), "{metrics}");
}

#[tokio::test]
async fn validate_tells_every_problem_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    let text = "endpoints:\n- {name: a, address: 10.0.0.1, port: 0}\nscheduling:\n  profile:\n    scorers:\n    - {type: queue-scoer}\n  falbacks: 2\n";
    std::fs::write(&file, text).unwrap();
    let run = |file: std::path::PathBuf| async move {
        Command::new(built("pointsman", "pointsman").unwrap()).arg("validate").arg(file).output().await.unwrap()
    };
    let output = run(file).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    for expected in [":2:", ":6:", ":7:", "did you mean \"queue-scorer\"?", "did you mean \"fallbacks\"?"] {
        assert!(told.contains(expected), "{expected} is missing:\n{told}");
    }
    let good = pointsman_tests::process::repository().join("examples/endpoints.yaml");
    assert_eq!(run(good).await.status.code(), Some(0));
}

#[tokio::test]
async fn a_wrong_flag_and_a_missing_file_are_told_plainly() {
    let pointsman = built("pointsman", "pointsman").unwrap();
    for (arguments, expected) in [
        (&["serve", "--confg", "x"][..], "--config"),
        (&["serve", "--config", "/nonexistent/x.yaml"], "/nonexistent"),
        (&["sim-server", "--faults", "nonsense"], "--faults"),
        (&["envoy-bootstrap", "--config", "/nonexistent/x.yaml"], "/nonexistent"),
    ] {
        let output = Command::new(&pointsman).args(arguments).output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(told.contains(expected) && !told.contains("panicked"), "{arguments:?}:\n{told}");
    }
}

#[tokio::test]
async fn an_envoy_beside_the_picker_asks_it_at_an_address_of_their_own() {
    let (network, folder) = (Network::take().unwrap(), tempfile::tempdir().unwrap());
    let (outside, inside) = (1, 2);
    let address = |host, port| network.address(host, port).to_string();
    let config = SimConfig { name: "server".to_owned(), ..fast() };
    let server = SimServer::start(config, network.address(10, 8000)).await.unwrap();
    let file = folder.path().join("picker.yaml");
    let endpoint = format!("{{name: server, address: {}, port: 8000}}", server.addr().ip());
    std::fs::write(&file, format!("name: ai/chat\nendpoints: [{endpoint}]\n")).unwrap();
    let mut command = Command::new(built("pointsman", "pointsman").unwrap());
    command.args(["serve", "--secure-serving=false", "--config"]).arg(&file);
    command.args(["--bind-address", &network.ip(outside).to_string()]);
    command.args(["--ext-proc-address", &network.ip(inside).to_string()]);
    command.args(["--eds-address", &address(inside, 9005), "--admin-address", &address(inside, 9091)]);
    let picker = Program::start("picker", command, folder.path()).unwrap();

    let bootstrap = folder.path().join("envoy.yaml");
    let output = bootstrap.to_str().unwrap();
    let (asked, eds, admin) = (address(inside, 9002), address(inside, 9005), address(inside, 9901));
    let listen = address(outside, LISTEN_PORT);
    let flags = ["--pool", "ai/chat", "--listen", &listen, "--picker", &asked, "--eds", &eds, "--envoy-admin", &admin];
    let told = printed(&[&["envoy-bootstrap"][..], &flags, &["--output", output]].concat()).await.unwrap();
    assert_eq!(told, "");
    let mut command = Command::new(envoy().unwrap());
    command.args(["-c", output, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
    let envoy = Program::start("envoy", command, folder.path()).unwrap();

    let (client, deadline) = (Client::new(), Instant::now() + Duration::from_secs(20));
    loop {
        let answer = client.get(&format!("http://{listen}/v1/models"), &[]).await;
        if answer.as_ref().is_ok_and(|answer| answer.header("x-sim-server") == "server") {
            break;
        }
        assert!(Instant::now() < deadline, "{answer:?}\n{}\n{}", picker.log(), envoy.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (host, port) in [(outside, 9003), (inside, 9002)] {
        let channel = Channel::from_shared(format!("http://{}", address(host, port))).unwrap().connect().await.unwrap();
        assert!(takes_requests(&mut HealthClient::new(channel)).await.unwrap(), "{port}");
    }
    assert_eq!(client.get(&format!("http://{}/metrics", address(outside, 9090)), &[]).await.unwrap().status, 200);
    for (host, port) in [(outside, 9002), (inside, 9003), (inside, 9090)] {
        assert!(TcpStream::connect(network.address(host, port)).await.is_err(), "{port} is open too");
    }
}
