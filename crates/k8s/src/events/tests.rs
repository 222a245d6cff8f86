//! Notices on their way to becoming Events.

use serde_json::Value;

use super::*;
use crate::api::CONTROLLER_NAME;
use crate::fake_api::FakeApi;

const SOON: Duration = Duration::from_millis(100);

struct Bench {
    api: FakeApi,
    notices: Notices,
    holds: watch::Sender<bool>,
}

impl Bench {
    fn new(leads: bool) -> Self {
        let api = FakeApi::default();
        let (holds, held) = watch::channel(leads);
        let metrics = NoticeMetrics::register(&mut Registry::default());
        let (notices, publisher) = notices(api.client(), CONTROLLER_NAME, "picker-7", held, metrics);
        tokio::spawn(publisher.run());
        Self { api, notices, holds }
    }

    async fn tell(&self, pool: &str, reason: NoticeReason, message: &str) {
        self.notices.tell(notice(pool, reason, message));
        sleep(SOON).await;
    }

    /// Reason, note and count of each Event, in the order of their names.
    fn events(&self) -> Vec<(String, String, i64)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.api.objects().into_values();
        events.map(|e| (text(&e["reason"]), text(&e["note"]), e["series"]["count"].as_i64().unwrap_or(1))).collect()
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        self.notices.metrics.notices.get_or_create_owned(&OutcomeLabel { outcome }).get()
    }
}

fn notice(pool: &str, reason: NoticeReason, message: &str) -> Notice {
    let regarding = Regarding::pool(PoolGroup::Stable, ObjectKey::new("ns", pool), format!("uid-{pool}").into());
    Notice { regarding, reason, message: message.into() }
}

#[tokio::test(start_paused = true)]
async fn a_notice_becomes_an_event_on_its_pool() {
    let bench = Bench::new(true);
    bench.tell("chat", NoticeReason::PolicyRejected, "spec.fallbacks: 99 is too many").await;
    let (path, event) = bench.api.objects().pop_first().unwrap();
    assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/ns/events/chat."), "{path}");
    assert_eq!(event["regarding"]["kind"], "InferencePool");
    assert_eq!(event["regarding"]["uid"], "uid-chat");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reportingController"], "pointsman.dev/picker");
    assert_eq!(event["reportingInstance"], "picker-7");
    assert_eq!(bench.events(), [("PolicyRejected".into(), "spec.fallbacks: 99 is too many".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_same_again_counts_and_other_words_are_another_event() {
    let bench = Bench::new(true);
    for _ in 0..3 {
        bench.tell("chat", NoticeReason::NoReadyEndpoints, "of 3 pods").await;
    }
    bench.tell("chat", NoticeReason::NoReadyEndpoints, "of 4 pods").await;
    let expected = [("NoReadyEndpoints", "of 3 pods", 3), ("NoReadyEndpoints", "of 4 pods", 1)];
    assert_eq!(bench.events(), expected.map(|(reason, note, count)| (reason.into(), note.into(), count)));
    // Counted up where somebody deleted it, or long after: a new one.
    bench.api.objects().keys().for_each(|path| bench.api.delete(path));
    bench.tell("chat", NoticeReason::NoReadyEndpoints, "of 3 pods").await;
    sleep(REMEMBERED_FOR).await;
    bench.tell("chat", NoticeReason::NoReadyEndpoints, "of 3 pods").await;
    assert_eq!(bench.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_flaps_is_told_of_at_a_bounded_rate() {
    let bench = Bench::new(true);
    for round in 0..100 {
        bench.tell("chat", NoticeReason::NoReadyEndpoints, &format!("{round}")).await;
    }
    bench.tell("other", NoticeReason::NoReadyEndpoints, "").await;
    bench.tell("chat", NoticeReason::PolicyApplied, "").await;
    let published = bench.counted("published");
    assert!((27..=29).contains(&published), "{published}");
    assert_eq!(bench.counted("limited") + published, 102);
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_tells_and_a_new_one_tells_what_happened_just_before() {
    let bench = Bench::new(false);
    bench.tell("chat", NoticeReason::PolicyApplied, "long ago").await;
    sleep(KEPT_FOR).await;
    bench.tell("chat", NoticeReason::PolicyApplied, "just now").await;
    assert_eq!(bench.events(), []);
    bench.holds.send_replace(true);
    sleep(SOON).await;
    assert_eq!(bench.events(), [("PolicyApplied".into(), "just now".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_api_server_that_is_away() {
    let bench = Bench::new(true);
    bench.api.set_away(true);
    for round in 0..1000 {
        bench.notices.tell(notice(&format!("p{round}"), NoticeReason::NoReadyEndpoints, ""));
    }
    let dropped = bench.counted("dropped");
    assert!(dropped >= 1000 - WAITING_MAX as u64 - 1, "{dropped}");
    sleep(Duration::from_secs(30)).await;
    bench.api.set_away(false);
    bench.tell("chat", NoticeReason::EndpointsReady, "").await;
    sleep(Duration::from_secs(30)).await;
    assert!(bench.events().iter().any(|(reason, ..)| reason == "EndpointsReady"));
    assert!(bench.counted("failed") > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_given_up_at_once() {
    let bench = Bench::new(true);
    bench.api.refuse(Some((403, "Forbidden")));
    bench.tell("chat", NoticeReason::EndpointsReady, "").await;
    assert_eq!((bench.api.take_log().len(), bench.counted("failed")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_for_an_event_is_cut() {
    let bench = Bench::new(true);
    let pool = format!("{}.{}", "a".repeat(199), "b".repeat(53));
    bench.tell(&pool, NoticeReason::PolicyRejected, &"\u{20ac}".repeat(5000)).await;
    let event = bench.api.objects().pop_first().unwrap().1;
    assert!(event["note"].as_str().unwrap().len() <= 1024);
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(name.len() <= 253 && !name.contains(".."), "{name}");
    assert_eq!(event["regarding"]["name"], pool);
}
