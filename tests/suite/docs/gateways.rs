//! What the page about gateways says of Envoy and of Envoy Gateway.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_core::control_headers::DESTINATIONS;
use pointsman_tests::process::{Program, built, envoy};
use pointsman_tests::stack::{Plan, PoolPlan, Stack};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::Instant;

use super::yaml_blocks;
use crate::chat;

const PAGE: &str = "docs/gateways.md";
/// Where the page has Envoy listen.
const LISTEN: u16 = 10000;
/// How long Envoy may take until it answers as expected. About five times what was seen on two busy cores.
const DEADLINE: Duration = Duration::from_secs(30);

/// The one block of the page that holds `mark`.
fn block(mark: &str) -> String {
    let mut found = yaml_blocks(PAGE).into_iter().filter(|yaml| yaml.contains(mark));
    let block = found.next().unwrap_or_else(|| panic!("{PAGE} has no {mark}"));
    assert!(found.next().is_none(), "{PAGE} has several {mark}");
    block
}

#[test]
fn the_page_removes_every_header_that_could_name_a_destination() {
    let block = block("static_resources:");
    let removed = block.lines().filter_map(|line| line.trim().strip_prefix("- remove: "));
    assert_eq!(removed.collect::<Vec<_>>(), DESTINATIONS);
}

#[tokio::test]
async fn the_page_has_the_values_that_are_printed() -> Result<()> {
    let output = Command::new(built("pointsman", "pointsman")?).args(["gateway", "--print-values"]).output().await?;
    let printed: Value = serde_saphyr::from_slice(&output.stdout)?;
    let shown: Value = serde_saphyr::from_str(&block("extensionManager:"))?;
    assert_eq!(shown, printed);
    Ok(())
}

/// The page's own text, but for the address that everything is at: each test has one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_envoy_asks_the_picker_follows_its_pick_and_fails_closed() -> Result<()> {
    let mut stack = Stack::start(Plan::of(vec![PoolPlan::new("default/pointsman", 3)])).await?;
    let url = stack.url(0);
    let ip = url.trim_start_matches("http://").split(':').next().context("the stack has no address")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, block("static_resources:").replace("127.0.0.1", ip))?;
    let mut command = Command::new(envoy()?);
    command.arg("-c").arg(&file).args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
    let mut page = Program::start("envoy-of-the-page", command, folder.path())?;
    let url = format!("http://{ip}:{LISTEN}/v1/chat/completions");
    let body = chat(10_000, 3, true).to_string();

    let client = &stack.client;
    let ask = async |id: &str| {
        let headers = [("x-request-id", id), ("x-gateway-destination-endpoint", "203.0.113.9:9")];
        client.post(&url, &headers, body.clone()).await
    };
    let deadline = Instant::now() + DEADLINE;
    while !matches!(ask("first").await, Ok(answer) if answer.status == 200) {
        page.must_run()?;
        ensure!(Instant::now() < deadline, "never answers\n{}\n{}", page.log(), stack.picker.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for number in 0..10 {
        let id = format!("page-{number}");
        let answer = ask(&id).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        let decisions = stack.admin("/debug/decisions").await?;
        let decision = decisions.as_array().into_iter().flatten().find(|decision| decision["requestId"] == *id);
        let endpoints = decision.with_context(|| format!("{id} was not decided on"))?["endpoints"].as_array();
        let picked = endpoints.into_iter().flatten().find(|endpoint| endpoint["fate"] == "picked");
        assert_eq!(picked.context("nothing was picked")?["name"], answer.header("x-sim-server"));
    }
    stack.picker.kill().await?;
    let answer = ask("closed").await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    Ok(())
}
