//! Replicas around one Lease, in paused time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::task::AtomicWaker;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake_api::FakeApi;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/picker";
const SECOND: Duration = Duration::from_secs(1);
/// From the holder's death to the next one's first write: at most the duration and two looks, at least the duration
/// without the time since the last renewal.
const TAKE_OVER: std::ops::Range<Duration> = Duration::from_millis(1300)..Duration::from_millis(2800);

/// A replica whose task can be killed or stopped as a process can.
struct Replica {
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<()>,
    frozen: Arc<(AtomicBool, AtomicWaker)>,
}

impl Replica {
    fn start(api: &FakeApi, identity: &str, mode: HaMode) -> Self {
        let options = LeaseOptions {
            namespace: "ns".into(),
            name: "picker".into(),
            identity: identity.into(),
            mode,
            timing: LeaseTiming::of(mode),
        };
        let (election, leadership) = leadership(api.client(), options);
        let stop = CancellationToken::new();
        let frozen = Arc::new((AtomicBool::new(false), AtomicWaker::new()));
        let task = tokio::spawn({
            let (stop, frozen) = (stop.clone(), Arc::clone(&frozen));
            async move {
                let mut run = pin!(election.run(stop));
                poll_fn(|context| {
                    frozen.1.register(context.waker());
                    if frozen.0.load(Ordering::SeqCst) { Poll::Pending } else { run.as_mut().poll(context) }
                })
                .await;
            }
        });
        Self { leadership, stop, task, frozen }
    }

    fn holds(&self) -> bool {
        *self.leadership.holds.borrow()
    }

    fn serves(&self) -> bool {
        self.leadership.serves()
    }

    /// Stops it as SIGSTOP does, and lets it go on as SIGCONT does.
    fn freeze(&self, is_frozen: bool) {
        self.frozen.0.store(is_frozen, Ordering::SeqCst);
        self.frozen.1.wake();
    }

    /// How long it takes until `is_so`, which is looked at every 10 ms, at most a minute.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        let come = async {
            while !is_so(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), come).await.expect("it never came");
        start.elapsed()
    }

    /// Whether `is_so` all the time.
    async fn all_along(&self, time: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < time {
            if !is_so(self) {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

/// A leader and a follower, both of which know it.
async fn pair(api: &FakeApi, mode: HaMode) -> (Replica, Replica) {
    let leader = Replica::start(api, "a", mode);
    assert!(leader.until(Replica::holds).await < SECOND);
    let follower = Replica::start(api, "b", mode);
    follower.until(|replica| replica.leadership.view.borrow().holder == Holder::Other("a".into())).await;
    (leader, follower)
}

#[tokio::test(start_paused = true)]
async fn the_holder_keeps_the_lease_and_the_other_waits() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::Leader).await;
    for _ in 0..1000 {
        assert!(leader.holds() && leader.serves() && !follower.holds() && !follower.serves());
        sleep(Duration::from_millis(97)).await;
    }
    assert_eq!(api.object(PATH)["spec"]["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn active_replicas_all_serve_and_one_of_them_writes() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::ActiveActive).await;
    assert!(leader.serves() && follower.serves() && leader.holds() && !follower.holds());
    leader.task.abort();
    let took = follower.until(Replica::holds).await;
    assert!(took > SECOND * 3 && took < SECOND * 10, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_succeeded_when_its_lease_expired_and_not_before() {
    for round in 0..20 {
        let api = FakeApi::default();
        let (leader, follower) = pair(&api, HaMode::Leader).await;
        sleep(Duration::from_millis(53 * round)).await;
        leader.task.abort();
        let took = follower.until(Replica::serves).await;
        assert!(TAKE_OVER.contains(&took), "{took:?}");
        assert!(follower.holds());
        assert_eq!(api.object(PATH)["spec"]["holderIdentity"], "b");
        assert_eq!(api.object(PATH)["spec"]["leaseTransitions"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_ends_hands_over_at_once() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::Leader).await;
    leader.stop.cancel();
    assert!(follower.until(Replica::serves).await < SECOND);
    assert!(!leader.serves() && !leader.holds());
    // Who looks on goes on seeing that, until the process ends.
    assert!(!leader.task.is_finished() && leader.leadership.holds.has_changed().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_sees_another_one_stops_serving() {
    let api = FakeApi::default();
    let leader = Replica::start(&api, "a", HaMode::Leader);
    leader.until(Replica::holds).await;
    api.edit(PATH, |lease| lease["spec"]["holderIdentity"] = json!("z"));
    assert!(leader.until(|replica| !replica.serves()).await < SECOND * 2);
    assert!(!leader.holds());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_stops_nobody_and_makes_nobody_leader() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::Leader).await;
    api.set_away(true);
    // It can no longer know whether another took over, so it does not write; serving it need not stop.
    let held = leader.until(|replica| !replica.holds()).await;
    assert!(held <= Duration::from_millis(1350), "{held:?}");
    assert!(leader.all_along(SECOND * 60, Replica::serves).await);
    api.set_away(false);
    assert!(leader.until(Replica::holds).await < SECOND * 2);
    assert!(!follower.serves());
    assert_eq!(api.object(PATH)["spec"]["leaseTransitions"], 0, "the outage alone changed the holder");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_without_an_api_server_serves() {
    let api = FakeApi::default();
    api.set_away(true);
    let replica = Replica::start(&api, "a", HaMode::Leader);
    assert!(!replica.serves());
    assert!(replica.until(Replica::serves).await < SECOND * 4);
    assert!(!replica.holds());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_stopped_for_long_does_not_serve_when_it_goes_on() {
    for frozen_for in [SECOND * 5, SECOND * 30, SECOND * 3600] {
        let api = FakeApi::default();
        let (leader, follower) = pair(&api, HaMode::Leader).await;
        leader.freeze(true);
        sleep(frozen_for).await;
        assert!(follower.serves() && follower.holds());
        // Its task has not run yet, and what it published last is still there for all to read.
        assert!(*leader.leadership.serving.borrow() && !leader.serves());
        leader.freeze(false);
        assert!(leader.all_along(SECOND * 10, |replica| !replica.serves()).await);
        assert!(follower.serves() && !leader.holds());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_replica_that_was_stopped_goes_on_once_it_read_its_lease() {
    let api = FakeApi::default();
    let replica = Replica::start(&api, "a", HaMode::Leader);
    replica.until(Replica::holds).await;
    api.take_log();
    replica.freeze(true);
    sleep(SECOND * 30).await;
    assert!(!replica.serves());
    replica.freeze(false);
    assert!(replica.until(Replica::serves).await < SECOND);
    assert_eq!(api.take_log()[0].0, http::Method::GET, "it has to read before it renews");
    // With the API server away there is nothing to be learnt by waiting.
    api.set_away(true);
    replica.freeze(true);
    sleep(SECOND * 30).await;
    replica.freeze(false);
    assert!(replica.until(Replica::serves).await < SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn a_short_stop_changes_nothing() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::Leader).await;
    for _ in 0..10 {
        leader.freeze(true);
        sleep(Duration::from_millis(1000)).await;
        leader.freeze(false);
        assert!(leader.all_along(SECOND * 5, Replica::serves).await);
    }
    assert!(!follower.serves());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_is_made_anew() {
    let api = FakeApi::default();
    let (leader, follower) = pair(&api, HaMode::Leader).await;
    api.delete(PATH);
    let start = Instant::now();
    while api.object(PATH).is_null() && start.elapsed() < SECOND * 60 {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(SECOND * 5).await;
    assert!(leader.holds() != follower.holds() && leader.serves() != follower.serves());
}

#[tokio::test(start_paused = true)]
async fn times_and_durations_in_a_lease_decide_nothing_that_they_should_not() {
    let spec = |duration: serde_json::Value, renewed: &str| json!({"holderIdentity": "gone", "leaseDurationSeconds": duration, "renewTime": renewed});
    let (past, future) = ("2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z");
    let table = [
        (spec(json!(3), past), SECOND * 3, SECOND * 4),
        (spec(json!(3), future), SECOND * 3, SECOND * 4),
        (spec(json!(1_000_000_000), future), SECOND * 15, SECOND * 17),
        (spec(json!(-5), past), SECOND, SECOND * 2),
        (json!({}), Duration::ZERO, SECOND),
        (json!({"leaseTransitions": i32::MAX}), Duration::ZERO, SECOND),
    ];
    for (spec, least, most) in table {
        let api = FakeApi::default();
        api.edit(PATH, |lease| lease["spec"] = spec.clone());
        let replica = Replica::start(&api, "b", HaMode::Leader);
        let took = replica.until(Replica::holds).await;
        assert!(took >= least && took < most, "{spec}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_replicas_one_holds_whatever_happens() {
    let api = FakeApi::default();
    let replicas: Vec<Replica> =
        ["a", "b", "c"].iter().map(|identity| Replica::start(&api, identity, HaMode::Leader)).collect();
    sleep(SECOND * 5).await;
    for round in 0..30 {
        replicas[round % 3].freeze(true);
        sleep(SECOND * 10).await;
        assert_eq!(replicas.iter().filter(|replica| replica.serves()).count(), 1, "round {round}");
        replicas[round % 3].freeze(false);
        sleep(SECOND * 2).await;
        assert_eq!(replicas.iter().filter(|replica| replica.serves()).count(), 1, "round {round}");
    }
}
