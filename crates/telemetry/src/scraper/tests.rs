//! Claims about scraping: when, in paused time over scripted answers, and how, over real sockets in [`http`].

mod http;

use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::Mutex;
use pointsman_core::decision::Decision;
use pointsman_core::endpoint::Endpoint;
use pointsman_core::facts::Facts;
use pointsman_core::load::Load;
use pointsman_core::policy::{Policy, TelemetryPolicy};
use pointsman_core::pool::{Flight, PoolWriter};
use pointsman_core::scheduler::Request;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::*;
use crate::status::ScrapeStatus;

const MS: Duration = Duration::from_millis(1);
/// How long a scripted answer takes.
const ANSWER_TIME: Duration = MS;

/// What a scripted server does when asked.
enum Answer {
    /// Has so many requests waiting.
    Waiting(f32),
    /// Has nothing waiting, and takes this long to say so.
    Late(Duration),
    /// Answers 500.
    Fails,
    /// Never answers.
    Hangs,
}

/// Scripted servers: what each does by address and by how many scrapes of it there were before.
struct Script<S> {
    answer: S,
    asked: Asked,
}

/// Whom was asked, and when.
type Asked = Arc<Mutex<Vec<(SocketAddr, Instant)>>>;

impl<S: Fn(SocketAddr, usize) -> Answer + Send + Sync + 'static> Fetch for Script<S> {
    async fn fetch(&self, source: Arc<Source>) -> Result<Reading, ScrapeError> {
        let before = {
            let mut asked = self.asked.lock();
            asked.push((source.target, Instant::now()));
            asked.iter().filter(|(target, _)| *target == source.target).count() - 1
        };
        tokio::time::sleep(ANSWER_TIME).await;
        let reads = |waiting| {
            let load = Load { waiting, ..Load::default() };
            Ok(Reading { load, clamps: Default::default(), malformed_lines: 0 })
        };
        match (self.answer)(source.target, before) {
            Answer::Waiting(waiting) => reads(waiting),
            Answer::Late(by) => {
                tokio::time::sleep(by).await;
                reads(0.0)
            }
            Answer::Fails => Err(ScrapeError::Status { target: source.target, status: 500 }),
            Answer::Hangs => std::future::pending().await,
        }
    }
}

/// A pool with a scraper over scripted servers.
struct Scraped {
    pool: Arc<Pool>,
    writer: PoolWriter,
    reports: mpsc::Receiver<LoadReport>,
    asked: Asked,
    statuses: Arc<ScrapeStatuses>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    began: Instant,
    registry: Registry,
}

fn address(row: usize) -> SocketAddr {
    ([10, 0, (row / 250) as u8, (row % 250) as u8 + 1], 8000).into()
}

fn endpoints(rows: std::ops::Range<usize>) -> Vec<Endpoint> {
    rows.map(|row| Endpoint::new(&format!("endpoint-{row}"), address(row))).collect()
}

fn policy(telemetry: TelemetryPolicy) -> Arc<Policy> {
    Arc::new(Policy { telemetry, ..Policy::default() })
}

/// A pool of endpoints `0..len` and its scraper, started.
fn scrape_pool(
    len: usize,
    telemetry: TelemetryPolicy,
    answer: impl Fn(SocketAddr, usize) -> Answer + Send + Sync + 'static,
) -> Scraped {
    let (pool, mut writer) = Pool::new("default/test", policy(telemetry), 1);
    writer.set_members(endpoints(0..len));
    writer.publish();
    let (sender, reports) = mpsc::channel(4096);
    let (asked, statuses, shutdown) = (Asked::default(), Arc::default(), CancellationToken::new());
    let mut registry = Registry::default();
    let metrics = TelemetryMetrics::register(&mut registry);
    let fetch = Script { answer, asked: Arc::clone(&asked) };
    let began = Instant::now();
    let start = began.into_std();
    let scraper = Scraper::new(fetch, Arc::clone(&pool), sender, start, metrics, Arc::clone(&statuses));
    let task = tokio::spawn(scraper.run(shutdown.clone()));
    Scraped { pool, writer, reports, asked, statuses, shutdown, task, began, registry }
}

impl Scraped {
    /// When the endpoint was asked, since the scraper began.
    fn times(&self, row: usize) -> Vec<Duration> {
        let asked = self.asked.lock();
        let times = asked.iter().filter(|(target, _)| *target == address(row));
        times.map(|(_, at)| at.duration_since(self.began)).collect()
    }

    /// The pauses between scrapes of the endpoint, beginning with those after `from`.
    fn pauses(&self, row: usize, from: Duration) -> Vec<Duration> {
        let times: Vec<_> = self.times(row).into_iter().filter(|at| *at >= from).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn id(&self, row: usize) -> EndpointId {
        self.pool.snapshot().members.ids[row]
    }

    fn status(&self, row: usize) -> Option<ScrapeStatus> {
        self.statuses.get(self.id(row))
    }

    /// Sends a request to some endpoint, until the result is dropped.
    fn pick(&self) -> (SocketAddr, Flight) {
        let now = Tick::of(self.began.into_std(), Instant::now().into_std());
        let request = Request { facts: &Facts::default(), subset: &None, headers: None };
        let Decision::Picked(picked) = self.pool.pick(request, now) else { panic!("nothing to pick") };
        let chosen = picked.decode.choices[0].cell.id();
        let row = self.pool.snapshot().members.ids.iter().position(|id| *id == chosen).unwrap();
        (address(row), picked.flight)
    }

    /// How many scrapes ended so.
    fn count(&self, result: ScrapeResult) -> u64 {
        counted(&self.registry, result)
    }
}

fn counted(registry: &Registry, result: ScrapeResult) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let series = format!("telemetry_scrapes_total{{result=\"{}\"}} ", result.label());
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

/// Whether each pause is `expected` give or take jitter, the answer's time and the clock's millisecond.
fn are_about(pauses: &[Duration], expected: Duration) -> bool {
    let slack = ANSWER_TIME + MS * 2;
    !pauses.is_empty() && pauses.iter().all(|p| *p >= expected.mul_f64(0.9) && *p <= expected.mul_f64(1.1) + slack)
}

#[tokio::test(start_paused = true)]
async fn idle_endpoints_are_asked_at_once_and_then_once_an_idle_interval_out_of_step() {
    let scraped = scrape_pool(200, TelemetryPolicy::default(), |_, _| Answer::Waiting(0.0));
    tokio::time::sleep(MS * 20_500).await;
    let mut second_times = Vec::new();
    for row in 0..200 {
        let times = scraped.times(row);
        assert!(times[0] <= MS * 2, "endpoint {row} first at {:?}", times[0]);
        assert!(
            are_about(&scraped.pauses(row, Duration::ZERO), MS * 1_000),
            "{:?}",
            scraped.pauses(row, Duration::ZERO)
        );
        second_times.push(times[1].as_millis());
    }
    second_times.sort_unstable();
    second_times.dedup();
    assert!(second_times.len() > 50, "endpoints that joined together stay in step: {second_times:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_becomes_busy_is_asked_within_a_busy_interval_and_often_from_then_on() {
    let scraped = scrape_pool(8, TelemetryPolicy::default(), |_, _| Answer::Waiting(0.0));
    tokio::time::sleep(MS * 5_300).await;
    let (picked, picked_at) = (scraped.pick(), scraped.now());
    tokio::time::sleep(MS * 2_000).await;
    let busy = (0..8).find(|row| address(*row) == picked.0).unwrap();
    let first = scraped.times(busy).into_iter().find(|at| *at >= picked_at).unwrap();
    assert!(first - picked_at <= MS * 52, "asked {:?} after the pick", first - picked_at);
    assert!(are_about(&scraped.pauses(busy, picked_at), MS * 50), "{:?}", scraped.pauses(busy, picked_at));
    for idle in (0..8).filter(|row| *row != busy) {
        assert!(are_about(&scraped.pauses(idle, Duration::ZERO), MS * 1_000), "a busy one hastens the others");
    }
    let landed_at = scraped.now();
    drop(picked);
    tokio::time::sleep(MS * 5_000).await;
    let pauses = scraped.pauses(busy, landed_at + MS * 60);
    assert!(are_about(&pauses, MS * 1_000), "idle again: {pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_others_keep_busy_is_asked_often() {
    let scraped = scrape_pool(2, TelemetryPolicy::default(), |target, _| {
        Answer::Waiting(if target == address(0) { 3.0 } else { 0.0 })
    });
    tokio::time::sleep(MS * 3_000).await;
    assert!(are_about(&scraped.pauses(0, Duration::ZERO), MS * 50));
    assert!(are_about(&scraped.pauses(1, Duration::ZERO), MS * 1_000));
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_holds_over_all_and_starves_nobody() {
    let telemetry = TelemetryPolicy { max_scrapes_per_second: 100, ..TelemetryPolicy::default() };
    // Half of them busy: they alone would like a thousand scrapes a second.
    let scraped = scrape_pool(100, telemetry, |target, _| {
        Answer::Waiting(if target.ip() < address(50).ip() { 1.0 } else { 0.0 })
    });
    tokio::time::sleep(MS * 20_000).await;
    let asked = scraped.asked.lock().len();
    assert!((1_990..=2_011).contains(&asked), "{asked} scrapes in 20 s at 100 a second and a burst of ten");
    for row in 0..100 {
        let longest = scraped.pauses(row, Duration::ZERO).into_iter().max().unwrap();
        assert!(longest < MS * 2_500, "endpoint {row} waited {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_one_success_ends_it() {
    let telemetry = TelemetryPolicy::default();
    let scraped = scrape_pool(2, telemetry, |target, before| {
        if target == address(1) && before < 7 { Answer::Fails } else { Answer::Waiting(0.0) }
    });
    tokio::time::sleep(MS * 20_000).await;
    let failing = scraped.status(1).unwrap();
    assert!(failing.consecutive_failures >= 5 && failing.last_success.is_none(), "{failing:?}");
    assert!(failing.last_error.unwrap().contains("10.0.0.2:8000 was answered with status 500"));
    assert_eq!(scraped.statuses.failing(), 1);
    tokio::time::sleep(MS * 40_000).await;
    let pauses = scraped.pauses(1, Duration::ZERO);
    let seconds = [1, 2, 4, 8, 10, 10].map(|seconds| MS * seconds * 1_000);
    for (at, expected) in seconds.into_iter().enumerate() {
        let expected = if at == 0 { MS * 1_000 } else { expected };
        assert!(are_about(&pauses[at..=at], expected), "pause {at}: {:?}", pauses[at]);
    }
    // The seventh failure's pause, then the first success, then as if nothing had been.
    assert!(are_about(&pauses[6..7], MS * 10_000) && are_about(&pauses[7..], MS * 1_000), "{pauses:?}");
    let status = scraped.status(1).unwrap();
    assert_eq!((status.consecutive_failures, status.last_error), (0, None));
    assert!(are_about(&scraped.pauses(0, Duration::ZERO), MS * 1_000), "one that fails slows the other");
    assert_eq!(scraped.count(ScrapeResult::Status), 7);
}

#[tokio::test(start_paused = true)]
async fn servers_that_hang_delay_nobody_else() {
    let scraped = scrape_pool(100, TelemetryPolicy::default(), |target, _| {
        if target.ip() < address(90).ip() { Answer::Hangs } else { Answer::Waiting(1.0) }
    });
    tokio::time::sleep(MS * 10_000).await;
    for row in 90..100 {
        assert!(are_about(&scraped.pauses(row, Duration::ZERO), MS * 50), "{:?}", scraped.pauses(row, Duration::ZERO));
    }
    let status = scraped.status(0).unwrap();
    let expected = "scrape of 10.0.0.1:8000 timed out after 1 s: is the metrics port right?";
    assert_eq!(status.last_error.as_deref(), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_reading_says_what_was_in_flight_when_it_was_asked_for() {
    let mut scraped = scrape_pool(1, TelemetryPolicy::default(), |_, _| Answer::Waiting(4.0));
    // The first answer is under way for another half a millisecond.
    tokio::time::sleep(ANSWER_TIME / 2).await;
    let _flight = scraped.pick();
    let first = scraped.reports.recv().await.unwrap();
    assert_eq!((first.load.waiting, first.load.in_flight_at_scrape), (4.0, 0));
    assert_eq!(first.load.at, Tick::of(scraped.began.into_std(), Instant::now().into_std()));
    assert_eq!(scraped.reports.recv().await.unwrap().load.in_flight_at_scrape, 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_said_that_left_is_dropped_and_its_slot_begins_anew() {
    let mut scraped = scrape_pool(2, TelemetryPolicy::default(), |target, _| {
        if target == address(0) { Answer::Late(MS * 300) } else { Answer::Waiting(0.0) }
    });
    tokio::time::sleep(MS * 2_000).await;
    let gone = [scraped.id(0), scraped.id(1)];
    assert!(gone.iter().all(|id| scraped.statuses.get(*id).is_some()));
    let asked = scraped.times(0).len();
    while scraped.times(0).len() == asked {
        tokio::time::sleep(MS).await;
    }
    scraped.writer.set_members(endpoints(2..4));
    scraped.writer.publish();
    let left_at = scraped.now();
    while scraped.reports.try_recv().is_ok() {}
    tokio::time::sleep(MS * 500).await;
    assert_eq!(scraped.count(ScrapeResult::Departed), 1);
    while let Ok(report) = scraped.reports.try_recv() {
        assert!(!gone.contains(&report.endpoint), "a reading of one that left");
    }
    assert!(gone.iter().all(|id| scraped.statuses.get(*id).is_none()));
    for row in [2, 3] {
        let first = scraped.times(row)[0];
        assert!(first >= left_at && first - left_at <= LONGEST_LOOK + MS * 2, "newcomer asked at {first:?}");
    }
    assert!(scraped.status(0).is_some() && scraped.status(1).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_acts_at_once() {
    let slow = TelemetryPolicy { idle_interval: MS * 60_000, ..TelemetryPolicy::default() };
    let mut scraped = scrape_pool(3, slow.clone(), |_, _| Answer::Waiting(0.0));
    tokio::time::sleep(MS * 5_000).await;
    assert_eq!(scraped.asked.lock().len(), 3);

    scraped.writer.set_policy(policy(TelemetryPolicy { idle_interval: MS * 500, ..slow.clone() }));
    scraped.writer.publish();
    tokio::time::sleep(MS * 5_000).await;
    assert!(are_about(&scraped.pauses(0, MS * 5_000), MS * 500));

    let unknown = TelemetryPolicy { engine: "vlm".into(), ..slow.clone() };
    scraped.writer.set_policy(policy(unknown));
    scraped.writer.publish();
    tokio::time::sleep(MS * 100).await;
    let error = scraped.status(0).unwrap().last_error.unwrap();
    assert!(error.contains("the engine \"vlm\" is neither built in"), "{error}");

    let changed_at = scraped.now();
    scraped.writer.set_policy(policy(TelemetryPolicy { engine: "sglang".into(), ..slow.clone() }));
    scraped.writer.publish();
    tokio::time::sleep(MS * 100).await;
    assert!(scraped.times(0).last().unwrap() >= &changed_at, "backoff outlives what it was for");
    assert_eq!(scraped.statuses.failing(), 0);

    let asked = scraped.asked.lock().len();
    scraped.writer.set_policy(policy(TelemetryPolicy { max_scrapes_per_second: 0, ..TelemetryPolicy::default() }));
    scraped.writer.publish();
    tokio::time::sleep(MS * 60_000).await;
    assert_eq!(scraped.asked.lock().len(), asked, "none a second is none");
}

#[tokio::test(start_paused = true)]
async fn staleness_is_only_age_and_a_full_channel_loses_readings_but_not_the_scraper() {
    let mut scraped = scrape_pool(1, TelemetryPolicy::default(), |_, _| Answer::Waiting(1.0));
    tokio::time::sleep(MS * 400_000).await;
    assert!(scraped.count(ScrapeResult::Unreported) > 0, "nobody took reports for long enough to fill the channel");
    let mut last = Tick(0);
    while let Ok(report) = scraped.reports.try_recv() {
        assert!(report.load.at > last);
        last = report.load.at;
    }
    let fresh = scraped.reports.recv().await.unwrap();
    let now = Tick::of(scraped.began.into_std(), Instant::now().into_std());
    assert!(now.since(fresh.load.at) < MS * 5);
}

#[tokio::test(start_paused = true)]
async fn the_scraper_ends_when_told_and_when_nobody_listens() {
    let scraped = scrape_pool(3, TelemetryPolicy::default(), |_, _| Answer::Hangs);
    tokio::time::sleep(MS * 100).await;
    scraped.shutdown.cancel();
    scraped.task.await.unwrap();

    let scraped = scrape_pool(3, TelemetryPolicy::default(), |_, _| Answer::Waiting(0.0));
    drop(scraped.reports);
    scraped.task.await.unwrap();
}

#[test]
fn failures_are_told_when_they_begin_and_when_they_end() {
    let (pool, mut writer) = Pool::new("default/test", policy(TelemetryPolicy::default()), 1);
    writer.set_members(endpoints(0..1));
    writer.publish();
    let (now, id) = (Instant::now(), pool.snapshot().members.ids[0]);
    let mut roster = Roster::new(&pool.snapshot(), 1, now);
    let mut told = Vec::new();
    for answered in [true, false, false, false, true, true, false] {
        let at = roster.next_due().unwrap();
        assert!(roster.take_due(at).is_some());
        let said = match answered {
            true => roster.succeeded(id, false, at).map(|recovered| format!("well after {}", recovered.failures)),
            false => roster.failed(id, at).map(|name| format!("{name} fails")),
        };
        told.push(said.unwrap_or_default());
    }
    assert_eq!(told, ["", "endpoint-0 fails", "", "", "well after 3", "", "endpoint-0 fails"]);
}

#[test]
fn nobody_is_asked_twice_at_once_however_members_change() {
    let (pool, mut writer) = Pool::new("default/test", policy(TelemetryPolicy::default()), 1);
    let mut now = Instant::now();
    let mut roster = Roster::new(&pool.snapshot(), 1, now);
    let mut under_way: HashMap<EndpointId, usize> = HashMap::new();
    for round in 0..50usize {
        writer.set_members(endpoints(round % 7..round % 7 + 10));
        writer.publish();
        roster.follow(&pool.snapshot(), now);
        while let Some(errand) = roster.take_due(now) {
            let others = under_way.insert(errand.endpoint, round);
            assert_eq!(others, None, "asked again while under way since round {others:?}");
        }
        let ended: Vec<_> = under_way.extract_if(|id, since| (id.slot as usize + *since) % 3 == round % 3).collect();
        for (id, _) in ended {
            roster.succeeded(id, true, now);
        }
        now += MS * 60;
    }
    assert!(roster.members().len() == 10);
}
