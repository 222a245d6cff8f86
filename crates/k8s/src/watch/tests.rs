//! A watch against an API server that the test plays.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::scripted_api::{OpenWatch, Requests, scripted_api};

/// Longer than any pause and limit of a watch; time is paused.
const SOON: Duration = Duration::from_secs(120);

/// A watch of pods that keeps their names of nodes.
struct Bench {
    api: Requests,
    told: mpsc::UnboundedReceiver<Told<String>>,
    task: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    fn of(field_selector: Option<&str>) -> Self {
        let (client, api) = scripted_api();
        let (tell, told) = mpsc::unbounded_channel();
        let api_of_pods = Api::namespaced(client, "default");
        let node = |_: &ObjectMeta, pod: Pod| pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let field_selector = field_selector.map(Into::into);
        let task = tokio::spawn(async move {
            _ = watch(api_of_pods, field_selector, node, move |told| {
                _ = tell.send(told);
                Box::pin(std::future::ready(()))
            })
            .await;
        });
        Self { api, told, task }
    }

    fn new() -> Self {
        Self::of(None)
    }

    /// One that has listed `objects` at version 1 and watches.
    async fn synced(objects: &[Value]) -> (Self, OpenWatch) {
        let mut bench = Self::new();
        let watch = bench.api.list_and_watch(objects, "1").await;
        assert!(matches!(bench.next().await, Told::Saw(Observed::All { .. })));
        assert_eq!(bench.next().await, Told::Stands(WatchState::Synced));
        (bench, watch)
    }

    async fn next(&mut self) -> Told<String> {
        timeout(SOON, self.told.recv()).await.expect("something is told in time").expect("the watch lives")
    }

    /// How it stands, which must be told next.
    async fn next_state(&mut self) -> WatchState {
        match self.next().await {
            Told::Stands(state) => state,
            told @ Told::Saw(_) => panic!("{told:?}"),
        }
    }

    async fn sees(&mut self, expected: Observed<String>) {
        assert_eq!(self.next().await, Told::Saw(expected));
    }

    /// Fails `times` requests in a row, and returns the pauses between them.
    async fn pauses(&mut self, times: usize, code: u16) -> Vec<Duration> {
        let mut came = Vec::new();
        for _ in 0..times {
            let call = self.api.next().await;
            came.push(call.at);
            call.fail(code, "no");
        }
        came.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn pod(name: &str, node: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version},
        "spec": {"nodeName": node, "containers": []},
    })
}

/// A pod that no version of the API has: its containers are text.
fn odd(name: &str, version: &str) -> Value {
    let mut pod = pod(name, "", version);
    pod["spec"]["containers"] = json!("none");
    pod
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn all(objects: &[(&str, &str)], unreadable: &[&str]) -> Observed<String> {
    let objects = objects.iter().map(|(name, node)| (key(name), (*node).to_owned())).collect();
    Observed::All { objects, unreadable: unreadable.iter().map(|name| key(name)).collect() }
}

#[tokio::test(start_paused = true)]
async fn lists_in_pages_and_watches_from_there() {
    let mut bench = Bench::of(Some("metadata.name=a"));
    let first = bench.api.next().await;
    assert_eq!(first.path, "/api/v1/namespaces/default/pods");
    assert_eq!(first.parameter("limit"), Some("500"));
    assert_eq!(first.parameter("fieldSelector"), Some("metadata.name%3Da"));
    first.objects(&[pod("a", "n1", "3")], "", "next");
    let second = bench.api.next().await;
    assert_eq!(second.parameter("continue"), Some("next"));
    second.objects(&[pod("b", "n2", "5")], "7", "");
    bench.sees(all(&[("a", "n1"), ("b", "n2")], &[])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
    let watch = bench.api.next().await;
    assert_eq!(watch.parameter("resourceVersion"), Some("7"));
    assert_eq!(watch.parameter("allowWatchBookmarks"), Some("true"));
    assert_eq!(watch.parameter("fieldSelector"), Some("metadata.name%3Da"));
    let open = watch.open();
    open.event("ADDED", &pod("c", "n3", "8"));
    bench.sees(Observed::Put(key("c"), "n3".into())).await;
    open.event("MODIFIED", &pod("c", "n4", "9"));
    bench.sees(Observed::Put(key("c"), "n4".into())).await;
    open.event("DELETED", &pod("a", "n1", "10"));
    bench.sees(Observed::Gone(key("a"))).await;
}

#[tokio::test(start_paused = true)]
async fn goes_on_from_the_last_bookmark_or_event_when_its_time_is_over() {
    let (mut bench, open) = Bench::synced(&[]).await;
    open.event("ADDED", &pod("a", "n1", "5"));
    open.bookmark("42");
    drop(open);
    bench.sees(Observed::Put(key("a"), "n1".into())).await;
    let again = bench.api.next().await;
    assert_eq!((again.is_watch(), again.parameter("resourceVersion")), (true, Some("42")));
    let open = again.open();
    open.event("DELETED", &pod("a", "n1", "50"));
    drop(open);
    bench.sees(Observed::Gone(key("a"))).await;
    assert_eq!(bench.api.next().await.parameter("resourceVersion"), Some("50"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_goes_on_from_where_it_was() {
    let (mut bench, open) = Bench::synced(&[]).await;
    open.bookmark("9");
    open.cut();
    assert!(matches!(bench.next_state().await, WatchState::Failing(_)));
    let again = bench.api.next().await;
    assert_eq!((again.is_watch(), again.parameter("resourceVersion")), (true, Some("9")));
    let open = again.open();
    open.event("ADDED", &pod("a", "n1", "10"));
    let mut told = vec![bench.next().await, bench.next().await];
    told.sort_by_key(|told| matches!(told, Told::Saw(_)));
    assert_eq!(told, [Told::Stands(WatchState::Synced), Told::Saw(Observed::Put(key("a"), "n1".into()))]);
}

#[tokio::test(start_paused = true)]
async fn lists_anew_when_its_version_is_too_old() {
    // The API server says so in the stream; some that are put in front of one answer the request with it.
    for is_in_stream in [true, false] {
        let (mut bench, open) = Bench::synced(&[pod("a", "n1", "1"), pod("b", "n1", "1")]).await;
        if is_in_stream {
            open.error(410, "too old resource version");
        } else {
            drop(open);
            bench.api.next().await.fail(410, "too old resource version");
        }
        let asked = timeout(SOON, bench.api.list_and_watch(&[pod("b", "n2", "9")], "10")).await;
        assert!(asked.is_ok());
        let mut seen = Vec::new();
        while seen.is_empty() {
            if let Told::Saw(observed) = bench.next().await {
                seen.push(observed);
            }
        }
        assert_eq!(seen, [all(&[("b", "n2")], &[])], "in the stream: {is_in_stream}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_in_the_middle_tells_nothing_and_begins_again() {
    let mut bench = Bench::new();
    bench.api.next().await.objects(&[pod("a", "n1", "3")], "7", "next");
    drop(bench.api.next().await);
    assert!(matches!(bench.next_state().await, WatchState::Failing(_)));
    let again = bench.api.next().await;
    assert_eq!((again.is_watch(), again.parameter("continue")), (false, None));
    again.objects(&[pod("b", "n2", "8")], "8", "");
    bench.sees(all(&[("b", "n2")], &[])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_came_too_late_begins_the_list_again() {
    let mut bench = Bench::new();
    bench.api.next().await.objects(&[pod("a", "n1", "3")], "7", "next");
    bench.api.next().await.fail(410, "the continue token is too old");
    let again = bench.api.next().await;
    assert_eq!((again.is_watch(), again.parameter("continue")), (false, None));
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_read_stalls_nothing() {
    let mut bench = Bench::new();
    let open = bench.api.list_and_watch(&[odd("x", "1"), pod("a", "n1", "1")], "1").await;
    bench.sees(all(&[("a", "n1")], &["x"])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
    open.event("MODIFIED", &odd("a", "2"));
    open.event("MODIFIED", &pod("x", "n2", "3"));
    open.event("DELETED", &odd("a", "4"));
    // Nothing is told of the first: what was last seen of `a` goes on counting.
    bench.sees(Observed::Put(key("x"), "n2".into())).await;
    bench.sees(Observed::Gone(key("a"))).await;
    // Not even its metadata can be read, and the next is read all the same.
    open.event("MODIFIED", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": "none"}));
    open.event("ADDED", &pod("b", "n3", "6"));
    bench.sees(Observed::Put(key("b"), "n3".into())).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_there_is_found_when_it_comes() {
    let mut bench = Bench::new();
    bench.api.next().await.fail(404, "404 page not found");
    assert_eq!(bench.next_state().await, WatchState::Absent);
    for _ in 0..5 {
        bench.api.next().await.fail(404, "404 page not found");
    }
    let open = bench.api.list_and_watch(&[pod("a", "n1", "1")], "1").await;
    bench.sees(all(&[("a", "n1")], &[])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
    // Taken away again, and put back with other objects in it.
    drop(open);
    bench.api.next().await.fail(404, "404 page not found");
    assert_eq!(bench.next_state().await, WatchState::Absent);
    let list = bench.api.next().await;
    assert!(!list.is_watch(), "what a kind had before it was taken away is of no use");
    list.objects(&[], "30", "");
    bench.sees(all(&[], &[])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
}

#[tokio::test(start_paused = true)]
async fn what_each_refusal_says_of_the_watch() {
    let table = [
        (403, "pods is forbidden: no RBAC", WatchState::Forbidden("pods is forbidden: no RBAC".into())),
        (404, "404 page not found", WatchState::Absent),
    ];
    for (code, message, state) in table {
        let mut bench = Bench::new();
        bench.api.next().await.fail(code, message);
        assert_eq!(bench.next_state().await, state);
    }
    // Not a matter of grants: the token may be renewed any moment, the server may recover.
    for code in [401, 429, 500, 503] {
        let mut bench = Bench::new();
        bench.api.next().await.fail(code, "the reason");
        let state = bench.next_state().await;
        assert!(matches!(&state, WatchState::Failing(message) if message.contains("the reason")), "{code}: {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_the_longest_and_are_short_again_after_a_success() {
    let (shortest, longest) = PAUSES;
    for code in [500, 404, 403] {
        let mut bench = Bench::new();
        let pauses = bench.pauses(12, code).await;
        assert!(pauses.iter().all(|pause| (shortest / 2..=longest).contains(pause)), "{code}: {pauses:?}");
        assert!(pauses[0] <= shortest && pauses[5..].iter().all(|pause| *pause >= longest / 2), "{code}: {pauses:?}");
        // A list alone is no success: the watch may fail every time.
        bench.api.next().await.objects(&[], "1", "");
        let pauses = bench.pauses(2, 500).await;
        assert!(pauses[0] >= longest / 2, "{code}: {pauses:?}");
        let open = bench.api.next().await.open();
        open.bookmark("2");
        drop(open);
        let pauses = bench.pauses(2, 500).await;
        assert!(pauses[0] <= shortest * 2, "{code}: {pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_the_api_server_asks() {
    let (shortest, longest) = PAUSES;
    let mut bench = Bench::new();
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429, "message": "busy"});
    status["details"] = json!({"retryAfterSeconds": 20});
    let call = bench.api.next().await;
    let at = call.at;
    call.answer(429, &status);
    let again = bench.api.next().await;
    assert!(
        again.at - at >= Duration::from_secs(20) && again.at - at <= Duration::from_secs(20) + longest.max(shortest)
    );
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_repeated_without_a_pause() {
    let (mut bench, open) = Bench::synced(&[]).await;
    drop(open);
    let began = Instant::now();
    for _ in 0..20 {
        drop(bench.api.next().await.open());
    }
    assert!(began.elapsed() >= Duration::from_secs(10), "20 watches within {:?}", began.elapsed());
    // One that lasts is followed by the next at once.
    let open = bench.api.next().await.open();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ended = Instant::now();
    drop(open);
    assert!(bench.api.next().await.at - ended < Duration::from_millis(10));
    assert!(bench.told.is_empty(), "none of this is a failure");
}

#[tokio::test(start_paused = true)]
async fn works_again_as_soon_as_a_watch_is_accepted() {
    for code in [500, 403] {
        let (mut bench, open) = Bench::synced(&[]).await;
        drop(open);
        bench.api.next().await.fail(code, "not now");
        assert_ne!(bench.next_state().await, WatchState::Synced);
        // It is granted again, and nothing happens in the cluster.
        let _open = bench.api.next().await.open();
        assert_eq!(bench.next_state().await, WatchState::Synced, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_failing() {
    // Neither a list nor a watch, nor a watch that was accepted and whose connection died, waits for ever.
    let mut bench = Bench::new();
    let silent = bench.api.next().await;
    assert!(matches!(bench.next_state().await, WatchState::Failing(_)));
    drop(silent);
    let open = bench.api.list_and_watch(&[], "1").await;
    bench.sees(all(&[], &[])).await;
    assert_eq!(bench.next_state().await, WatchState::Synced);
    let silent = bench.api.next().await;
    assert_eq!((silent.is_watch(), silent.parameter("resourceVersion")), (true, Some("1")));
    drop(open);
    assert!(matches!(bench.next_state().await, WatchState::Failing(_)));
    assert!(bench.api.next().await.is_watch());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_stays_as_it_is() {
    let (mut bench, open) = Bench::synced(&[]).await;
    let began = Instant::now();
    while began.elapsed() < SOON {
        tokio::time::sleep(Duration::from_secs(30)).await;
        open.bookmark("2");
    }
    assert!(bench.told.is_empty());
    assert!(bench.api.next_before(Instant::now() + Duration::from_secs(1)).await.is_none());
}
