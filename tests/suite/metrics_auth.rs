//! Metrics for whom the API server lets in: tokens of real ServiceAccounts, over TLS that a published CA verifies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use pointsman_tests::cluster_stack::{CHANGE_DEADLINE, roles};
use pointsman_tests::control_plane::{ControlPlane, Namespace};
use pointsman_tests::process::{Program, built, printed};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::cluster::plane;
use crate::leadership::trusted;

/// How often it is looked for what comes.
const LOOK: Duration = Duration::from_millis(50);
/// Where the server is, in its namespace's network.
const HOST: u8 = 2;

/// Gets the metrics of a Service's server over TLS; status and body.
async fn scrape(namespace: &Namespace<'_>, service: &str, token: Option<&str>) -> Result<(u16, String)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let roots = trusted(namespace, &format!("{service}-ca")).await?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(namespace.network.address(HOST, 9090)).await?;
    let name = ServerName::try_from(format!("{service}.{}.svc", namespace.name))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut ask, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::get("/metrics").header("host", "metrics");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = ask.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status().as_u16();
    Ok((status, String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?))
}

/// A ServiceAccount with the right to get `/metrics`, and one without; their tokens.
async fn scrapers(plane: &ControlPlane, namespace: &Namespace<'_>) -> Result<[String; 2]> {
    for account in ["scraper", "stranger"] {
        namespace.service_account(account).await?;
    }
    let (api, name) = ("rbac.authorization.k8s.io", format!("{}-scraper", namespace.name));
    let role = json!({
        "apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": namespace.name}],
    });
    plane.apply(&format!("---\n{role}\n---\n{binding}\n")).await?;
    Ok([namespace.token("scraper").await?, namespace.token("stranger").await?])
}

/// Waits until the server answers at all, and fails when it lets in somebody whom it should not, or not whom it should.
async fn check(server: &mut Program, namespace: &Namespace<'_>, service: &str, tokens: &[String; 2]) -> Result<()> {
    let [scraper, stranger] = tokens;
    let deadline = Instant::now() + CHANGE_DEADLINE;
    while let Err(error) = scrape(namespace, service, None).await {
        server.must_run()?;
        ensure!(Instant::now() < deadline, "no metrics: {error:#}\n{}", server.log());
        sleep(LOOK).await;
    }
    // The right was given a moment ago.
    while scrape(namespace, service, Some(scraper)).await?.0 != 200 {
        ensure!(Instant::now() < deadline, "never let in:\n{}", server.log());
        sleep(LOOK).await;
    }
    let (signed, _) = scraper.rsplit_once('.').context("no signature")?;
    let (_, of_another) = stranger.rsplit_once('.').context("no signature")?;
    let forged = format!("{signed}.{of_another}");
    for (token, expected) in
        [(None, 401), (Some("rubbish"), 401), (Some(&*forged), 401), (Some(&**stranger), 403), (Some(&**scraper), 200)]
    {
        let (status, body) = scrape(namespace, service, token).await?;
        assert_eq!(status, expected, "{token:?}: {body}\n{}", server.log());
        assert_eq!(body.contains("# TYPE pointsman_"), status == 200, "{body}");
    }
    Ok(())
}

fn start(
    name: &'static str,
    arguments: &[&str],
    namespace: &Namespace<'_>,
    folder: &std::path::Path,
) -> Result<Program> {
    let ip = namespace.network.ip(HOST).to_string();
    let mut command = Command::new(built("pointsman", "pointsman")?);
    command.args(arguments).args(["--metrics-auth", "--log", "trace", "--bind-address", &ip]);
    command.args(["--admin-address", &format!("{ip}:9091")]);
    command.env("KUBECONFIG", folder.join("kubeconfig")).env("POD_NAMESPACE", &namespace.name);
    Program::start(name, command, folder)
}

#[tokio::test]
async fn a_picker_gives_metrics_to_who_may_get_them() -> Result<()> {
    let plane = plane().await;
    let namespace = plane.namespace("metrics").await?;
    let folder = tempfile::tempdir()?;
    namespace.service_account("picker").await?;
    namespace.apply(&roles(&namespace.name, &["--service-name", "picker", "--metrics-auth"]).await?).await?;
    let own_token = namespace.token("picker").await?;
    std::fs::copy(plane.kubeconfig_for(&own_token)?, folder.path().join("kubeconfig"))?;
    let tokens = scrapers(plane, &namespace).await?;
    let eds = namespace.network.address(HOST, 9005).to_string();
    let arguments =
        ["serve", "--all-pools", "--service-name", "picker", "--lease-name", "picker", "--eds-address", &eds];
    let mut picker = start("picker", &arguments, &namespace, folder.path())?;
    check(&mut picker, &namespace, "picker", &tokens).await?;
    let plain = pointsman_tests::client::Client::new();
    let url = format!("http://{}/metrics", namespace.network.address(HOST, 9090));
    assert!(plain.get(&url, &[]).await.is_err(), "tokens would travel in plaintext");

    // Without the rights to ask, nobody new is let in, and the log says what is missing.
    let reviewer = format!("pointsman:{}:picker", namespace.name);
    plane.kubectl(&["delete", "clusterrolebinding", &reviewer], "").await?;
    let deadline = Instant::now() + CHANGE_DEADLINE;
    for number in 0.. {
        if scrape(&namespace, "picker", Some(&format!("rubbish-{number}"))).await?.0 == 503 {
            break;
        }
        ensure!(Instant::now() < deadline, "tokens are still reviewed:\n{}", picker.log());
        sleep(LOOK).await;
    }
    assert_eq!(scrape(&namespace, "picker", Some(&tokens[0])).await?.0, 200, "let in a moment ago");
    let log = picker.log();
    assert!(log.contains("pointsman roles --metrics-auth") && log.contains("\"level\":\"TRACE\""), "{log}");
    for token in &tokens {
        let signature = token.rsplit('.').next().context("no signature")?;
        assert!(!log.contains(token) && !log.contains(signature), "a token is in the log");
    }
    Ok(())
}

#[tokio::test]
async fn the_extension_server_gives_metrics_to_who_may_get_them() -> Result<()> {
    let plane = plane().await;
    let namespace = plane.namespace("metrics").await?;
    let folder = tempfile::tempdir()?;
    namespace.service_account("pointsman-gateway").await?;
    let own = ["--envoy-gateway-namespace", &namespace.name];
    let flags = [&["roles", "--gateway", "--metrics-auth", "-n", &namespace.name][..], &own].concat();
    plane.apply(&printed(&flags).await?).await?;
    let own_token = namespace.token("pointsman-gateway").await?;
    std::fs::copy(plane.kubeconfig_for(&own_token)?, folder.path().join("kubeconfig"))?;
    let tokens = scrapers(plane, &namespace).await?;
    let arguments = [&["gateway", "--controller-name", "example.com/metrics"][..], &own].concat();
    let mut server = start("extension-server", &arguments, &namespace, folder.path())?;
    check(&mut server, &namespace, "pointsman-gateway", &tokens).await
}
