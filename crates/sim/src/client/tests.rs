//! The client against simulated servers.

use super::*;
use crate::server::{FaultConfig, SimConfig, SimHandle, SimServer};
use crate::workload::WorkloadConfig;

async fn server(speed: f64) -> SimHandle {
    let mut config = SimConfig { name: "sim-c".into(), ..SimConfig::default() };
    config.engine.speed = speed;
    SimServer::start(config, (std::net::Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

fn workload(conversations: usize, requests_per_second: f64) -> Arc<Workload> {
    let config =
        WorkloadConfig { conversations, requests_per_second, think_time_ms: 20.0, ..WorkloadConfig::default() };
    Arc::new(Workload::new(config))
}

async fn load(workload: &Arc<Workload>, config: LoadConfig) -> LoadReport {
    run(workload.clone(), config, Arc::default(), CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn an_open_loop_sends_the_whole_workload_when_it_is_due() {
    let (server, workload, progress) = (server(100.0).await, workload(40, 200.0), Arc::new(Progress::default()));
    let config = LoadConfig::new(server.url(), "sim-8b");
    let report = run(workload.clone(), config, progress.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!((report.succeeded, report.failed()), (workload.requests() as u64, 0), "{:?}", report.errors);
    assert_eq!(progress.succeeded.load(Ordering::Relaxed), report.succeeded);
    let output: u64 =
        workload.conversations().iter().flat_map(|c| &c.turns).map(|turn| turn.output_tokens as u64).sum();
    assert_eq!(progress.tokens.load(Ordering::Relaxed), output);
    let share = report.servers["sim-c"];
    assert_eq!((share.requests, share.output_tokens), (report.succeeded, output));
    for sample in report.samples.iter().filter(|sample| sample.turn == 0) {
        let late =
            Duration::from_micros(sample.start_us).checked_sub(workload.conversations()[sample.conversation].arrival);
        assert!(late.is_some_and(|late| late < Duration::from_millis(500)), "sent {late:?} late");
    }
    let stats = server.stats();
    assert!((report.prefix_hit_ratio - stats.prefix_hits as f64 / stats.prefix_queries as f64).abs() < 1e-9);
    assert!(report.prefix_hit_ratio > 0.5, "{} of the prompts were cached", report.prefix_hit_ratio);
    assert!(report.ttft_ms.p50 > 0.0 && report.ttft_ms.p50 <= report.ttft_ms.p99);
    assert!(report.ttft_ms.p99 <= report.latency_ms.max && report.tpot_ms.p50 > 0.0);
    let again: LoadReport = serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap();
    assert_eq!(again.samples, report.samples);
}

#[tokio::test]
async fn later_turns_find_their_own_history_in_the_cache() {
    let (server, workload) = (server(200.0).await, workload(10, 1_000.0));
    let report = load(&workload, LoadConfig { think_scale: 0.0, ..LoadConfig::new(server.url(), "sim-8b") }).await;
    let second: Vec<&Sample> = report.samples.iter().filter(|sample| sample.turn > 0).collect();
    assert!(!second.is_empty());
    for sample in second {
        let before = report.samples.iter().find(|s| (s.conversation, s.turn + 1) == (sample.conversation, sample.turn));
        let known = before.map(|before| before.prompt_tokens + before.output_tokens).unwrap();
        assert!(sample.cached_tokens + 32 > known, "{} of {known} known tokens were cached", sample.cached_tokens);
    }
}

#[tokio::test]
async fn a_closed_loop_keeps_its_workers_busy_and_stops_at_its_count() {
    let (server, workload) = (server(50.0).await, workload(60, 1.0));
    let mode = LoadMode::Closed { workers: 4 };
    let base = LoadConfig { mode, think_scale: 0.0, max_requests: Some(30), ..LoadConfig::new(server.url(), "sim-8b") };
    let report = load(&workload, LoadConfig { stream: false, ..base }).await;
    assert_eq!((report.succeeded, report.failed()), (30, 0), "{:?}", report.errors);
    let open_at =
        |time: u64| report.samples.iter().filter(|s| s.start_us <= time && s.start_us + s.latency_us > time).count();
    assert_eq!(report.samples.iter().map(|sample| open_at(sample.start_us)).max(), Some(4));
}

#[tokio::test]
async fn errors_are_told_apart() {
    let (server, workload) = (server(100.0).await, workload(5, 1_000.0));
    let base = LoadConfig { request_timeout: Duration::from_millis(200), ..LoadConfig::new(server.url(), "sim-8b") };
    let fault = |faults| server.set_faults(faults).unwrap();
    fault(FaultConfig { errors: Some(Default::default()), ..FaultConfig::default() });
    let report = load(&workload, base.clone()).await;
    assert_eq!((report.errors[&ErrorKind::Status], report.statuses[&503]), (5, 5));
    fault(FaultConfig { stop_after_tokens: Some(2), ..FaultConfig::default() });
    let report = load(&workload, base.clone()).await;
    assert_eq!(report.errors[&ErrorKind::Truncated], 5, "{:?}", report.errors);
    assert!(report.samples.iter().all(|sample| sample.ttft_us.is_some()), "the first token had come");
    fault(FaultConfig { hang: true, ..FaultConfig::default() });
    assert_eq!(load(&workload, base.clone()).await.errors[&ErrorKind::Timeout], 5);
    assert_eq!(load(&workload, LoadConfig { max_open: 0, ..base.clone() }).await.errors[&ErrorKind::ClientLimit], 5);
    let ended = LoadConfig { duration: Some(Duration::from_millis(30)), grace: Duration::ZERO, ..base.clone() };
    let report = load(&workload, ended).await;
    assert_eq!(report.errors.keys().collect::<Vec<_>>(), [&ErrorKind::Cancelled]);
    server.shutdown().await;
    assert_eq!(load(&workload, base.clone()).await.errors[&ErrorKind::Connect], 5);
    let bad = LoadConfig { base_url: "localhost".into(), ..base };
    assert!(matches!(run(workload, bad, Arc::default(), CancellationToken::new()).await, Err(LoadError::BaseUrl(_))));
}

#[tokio::test]
async fn a_cancelled_load_ends_at_once_with_what_it_has() {
    let (server, workload, cancel) = (server(1.0).await, workload(100, 20.0), CancellationToken::new());
    let progress = Arc::new(Progress::default());
    let task = tokio::spawn(run(workload, LoadConfig::new(server.url(), "sim-8b"), progress, cancel.clone()));
    assert!(server.wait_for(|stats| stats.running > 0).await);
    cancel.cancel();
    let report = tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
    assert!(report.errors[&ErrorKind::Cancelled] > 0);
    assert!(server.wait_for(|stats| stats.running + stats.waiting == 0).await, "the server is told too");
}

#[test]
fn quantiles_are_by_nearest_rank_and_spread_is_relative() {
    let seen = Quantiles::of_micros((1..=100).rev().map(|ms| ms * 1_000).collect());
    assert_eq!(seen, Quantiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0, mean: 50.5 });
    assert_eq!(Quantiles::of_micros(vec![]), Quantiles::default());
    assert_eq!((spread(&[]), spread(&[0.0, 0.0]), spread(&[3.0, 3.0]), spread(&[0.0, 2.0])), (0.0, 0.0, 0.0, 1.0));
}
