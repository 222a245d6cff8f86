//! What the chart brings to watch a picker by: the alerts, their runbooks, and the dashboard, each asked of a real
//! Prometheus.

mod prometheus;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pointsman_sim::{EngineConfig, SimConfig};
use pointsman_tests::cluster_stack::{ClusterPlan, ClusterStack};
use pointsman_tests::process::{printed, repository};
use pointsman_tests::tools::tool;
use serde_json::{Value, json};
use tokio::process::Command;

use self::prometheus::Prometheus;
use crate::chat;
use crate::cluster::plane;
use crate::load::Load;

/// How long it may take until every panel has an answer. About five times what was seen on two busy cores.
const PANELS_DEADLINE: Duration = Duration::from_secs(60);
/// How often they are asked for meanwhile.
const PANELS_LOOK: Duration = Duration::from_millis(500);
/// What Grafana would put in the place of a variable: of `$__rate_interval` four scrapes or more.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "10s"), ("$__range", "1m"), ("$namespace", ".*"), ("$pool", ".*")];

fn chart_file(name: &str) -> PathBuf {
    repository().join("charts/pointsman").join(name)
}

/// A query of the dashboard, with the panel that it is of.
struct Query {
    panel: String,
    text: String,
}

/// The panels of the dashboard, rows left out.
fn panels() -> Vec<Value> {
    let text = std::fs::read_to_string(chart_file("files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

/// Every query of the dashboard, its variables substituted.
fn queries() -> Vec<Query> {
    let substituted =
        |text: &str| VARIABLES.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    let of_panel = |panel: Value| {
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(move |target| Query {
            panel: panel["title"].as_str().unwrap().to_owned(),
            text: substituted(target["expr"].as_str().unwrap()),
        })
    };
    panels().into_iter().flat_map(of_panel).collect()
}

/// Every alert, as it is written.
fn alerts() -> Vec<Value> {
    let text = std::fs::read_to_string(chart_file("files/alerts.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn runbooks() -> String {
    std::fs::read_to_string(repository().join("docs/runbooks.md")).unwrap()
}

/// What stands in the fenced blocks of a language, line by line, without comments and what is piped on.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let blocks = text.split(&*fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(|line| line.split(" #").next().unwrap_or_default().trim()).collect()
}

/// The names of metrics in a query: those of the picker, and those of its process.
fn metrics_in(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|part: char| !part.is_ascii_alphanumeric() && part != '_');
    words.filter(|word| word.starts_with("pointsman_") || word.starts_with("process_"))
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let mut named = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["page", "warning", "info"].contains(&severity), "{name} has the severity {severity}");
        for annotation in ["summary", "description"] {
            assert!(alert["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with(&format!("docs/runbooks.md#{}", name.to_lowercase())), "{name} leads to {url}");
        let told = format!("## {name}\n\n**{severity}.** ");
        assert!(runbooks().contains(&told), "the runbook of {name} does not begin with {told:?}");
        assert!(named.insert(name.to_owned()), "{name} is there twice");
    }
    let sections: BTreeSet<_> =
        runbooks().lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(sections, named);
}

#[test]
fn every_panel_says_what_to_do() {
    for panel in panels() {
        let (title, description) = (&panel["title"], panel["description"].as_str().unwrap_or_default());
        assert!(description.len() > 80, "{title} does not say what to do when it looks bad: {description:?}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

#[tokio::test]
async fn the_runbooks_name_commands_and_flags_that_exist() -> Result<()> {
    let text = runbooks();
    // Those in sentences too.
    let inline = text.split('`').filter(|part| !part.contains('\n'));
    let mut seen = 0;
    for command in fenced(&text, "sh").into_iter().chain(inline) {
        let Some(rest) = command.strip_prefix("kubectl pointsman ").or_else(|| command.strip_prefix("pointsman "))
        else {
            continue;
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let help = printed(&[words[0], "--help"]).await.with_context(|| command.to_owned())?;
        for flag in words.iter().filter(|word| word.starts_with('-')) {
            let is_known = help.split([' ', ',', '\n', '[']).any(|known| known == *flag);
            ensure!(is_known, "{command}: {} has no {flag}", words[0]);
        }
        seen += 1;
    }
    ensure!(seen > 10, "only {seen} commands were found");
    Ok(())
}

#[tokio::test]
async fn each_alert_fires_when_it_should_and_not_otherwise() -> Result<()> {
    let promtool = tool("promtool").await?;
    let fixtures = chart_file("tests/alerts_test.yaml");
    for arguments in [["check", "rules"], ["test", "rules"]] {
        let file = if arguments[0] == "check" { chart_file("files/alerts.yaml") } else { fixtures.clone() };
        let output = Command::new(&promtool).args(arguments).arg(&file).output().await?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "promtool {arguments:?}: {said}{failed}");
    }
    let fixtures: Value = serde_saphyr::from_str(&std::fs::read_to_string(fixtures)?)?;
    let tests = fixtures["tests"].as_array().context("no tests")?;
    let cases: Vec<_> = tests.iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap()).collect();
    for alert in alerts() {
        let of_alert = || cases.iter().filter(|case| case["alertname"] == alert["alert"]);
        let expected = |case: &&&Value| case["exp_alerts"].as_array().is_some_and(|expected| !expected.is_empty());
        ensure!(of_alert().any(|case| expected(&case)), "no test has {} fire", alert["alert"]);
        // One of them is that everything is well.
        ensure!(of_alert().filter(|case| !expected(case)).count() > 1, "no test has {} not fire", alert["alert"]);
    }
    Ok(())
}

/// Servers that have requests in flight and tell tokens one by one, at a pace that leaves the machine some rest.
fn server() -> SimConfig {
    let engine = EngineConfig { speed: 2.0, kv_tokens: 200_000, ..EngineConfig::default() };
    SimConfig { models: Vec::new(), engine, ..SimConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_every_rule_has_an_answer_from_a_real_prometheus() -> Result<()> {
    let plan = ClusterPlan { pickers: 2, server: server(), ..ClusterPlan::new(2) };
    let stack = ClusterStack::start(plane().await, plan).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    for server in 0..2 {
        stack.namespace.pod(&stack.pod(server, "pool")).await?;
    }
    stack.until_answered(0).await?;
    let mut body = chat(4_000, 40, true);
    body["stream_options"] = json!({"include_usage": true});
    let url = format!("{}/v1/chat/completions", stack.url(0));
    let load = Load::posting(4, &url, vec![Bytes::from(body.to_string())]);
    let targets = [0, 1].map(|picker| stack.picker_address(picker, 9090));
    let mut prometheus = Prometheus::start(&stack.namespace, &targets, &chart_file("files/alerts.yaml")).await?;

    let (queries, deadline) = (queries(), tokio::time::Instant::now() + PANELS_DEADLINE);
    for Query { panel, text } in &queries {
        while prometheus.answers(text).await.with_context(|| format!("{panel}: {text}"))?.is_empty() {
            prometheus.must_run()?;
            ensure!(tokio::time::Instant::now() < deadline, "{panel} stays empty: {text}\n{}", stack.logs());
            tokio::time::sleep(PANELS_LOOK).await;
        }
    }
    for query in fenced(&runbooks(), "promql") {
        prometheus.answers(query).await.with_context(|| format!("in a runbook: {query}"))?;
    }
    let known = prometheus.metrics().await?;
    let alerts = alerts();
    let in_alerts = alerts.iter().filter_map(|alert| alert["expr"].as_str());
    for query in queries.iter().map(|query| &*query.text).chain(in_alerts).chain(fenced(&runbooks(), "promql")) {
        // Those of extension servers are looked for where one runs: `chart::upgrade`.
        for name in metrics_in(query).filter(|name| !name.starts_with("pointsman_gateway_")) {
            ensure!(known.contains(name), "no picker has {name}, of {query}");
        }
    }
    prometheus.until_rules_are_quiet().await?;
    let asked = load.end().await;
    ensure!(asked.iter().all(|asked| asked.status == Some(200)), "requests failed");
    Ok(())
}
