//! When the first news come, what they hold, and what is said until then.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::index::PoolNews;
use crate::key::ObjectKey;
use crate::scripted_api::{Call, OpenWatch, Requests, scripted_api};

/// Sooner than any kind's second attempt.
const AT_ONCE: Duration = Duration::from_millis(50);
const STABLE: Kind = Kind::Pool(PoolGroup::Stable);
const EXPERIMENTAL: Kind = Kind::Pool(PoolGroup::Experimental);
const LLM_D: ModelGroup = ModelGroup::LlmD;
const OLD: ModelGroup = ModelGroup::Experimental;

/// What the API server says to lists of a kind.
#[derive(Clone, Debug)]
enum Answer {
    Objects(Vec<Value>),
    Failure(u16),
    Silence,
}

/// A task that follows a cluster, and the API server that it asks.
struct Bench {
    api: Requests,
    answers: BTreeMap<Kind, Answer>,
    watches: BTreeMap<Kind, OpenWatch>,
    /// Calls that are not answered.
    silent: Vec<Call>,
    news: mpsc::Receiver<News>,
    view: channel::Receiver<ClusterView>,
    task: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    /// A cluster with the pool `chat`, its pod and nothing else, but for what `answers` say.
    fn new(answers: &[(Kind, Answer)]) -> Self {
        let (client, api) = scripted_api();
        let (tell, news) = mpsc::channel(16);
        let (show, view) = channel::channel(ClusterView::default());
        let scope = Scope::Pool(ObjectKey::new("default", "chat"));
        let task = tokio::spawn(follow(client, scope, &Kind::ALL, Registry::default(), tell, show));
        let nothing = Kind::ALL.map(|kind| (kind, Answer::Objects(Vec::new())));
        let basics =
            [(STABLE, Answer::Objects(vec![pool()])), (Kind::Pod, Answer::Objects(vec![pod("a", "10.0.0.1")]))];
        let answers = nothing.into_iter().chain(basics).chain(answers.iter().cloned()).collect();
        Self { api, answers, watches: BTreeMap::new(), silent: Vec::new(), news, view, task }
    }

    /// Lets time pass, answering what is asked.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(call) = self.api.next_before(end).await {
            let kind = kind_of(&call);
            match &self.answers[&kind] {
                Answer::Silence => self.silent.push(call),
                Answer::Failure(code) => call.fail(*code, "the reason"),
                Answer::Objects(_) if call.is_watch() => _ = self.watches.insert(kind, call.open()),
                Answer::Objects(objects) => call.objects(objects, "1", ""),
            }
        }
    }

    /// Addresses of the pool as the news tell them, if some came.
    fn told(&mut self) -> Option<Vec<String>> {
        let news = self.news.try_recv().ok()?;
        let members = news.pools.into_iter().filter_map(|news| match news {
            PoolNews::Is(picture) => picture.members,
            PoolNews::Gone(_) => None,
        });
        Some(members.flatten().map(|endpoint| endpoint.address.to_string()).collect())
    }

    fn obstacles(&self) -> Vec<String> {
        self.view.borrow().obstacles(&Scope::Pool(ObjectKey::new("default", "chat")))
    }
}

fn kind_of(call: &Call) -> Kind {
    let is_of = |kind: &Kind| {
        let (group, plural) = kind.resource();
        let is_of_group = if group.is_empty() { call.path.starts_with("/api/v1/") } else { call.path.contains(group) };
        is_of_group && call.path.ends_with(&format!("/namespaces/default/{plural}"))
    };
    Kind::ALL.into_iter().find(is_of).unwrap_or_else(|| panic!("{}", call.path))
}

fn pool() -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": "chat", "namespace": "default", "uid": "u1", "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": "chat"}}, "targetPorts": [{"number": 8000}]},
    })
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "chat"}, "resourceVersion": "2"},
        "spec": {"containers": []},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_news_come_when_all_lists_are_in_and_are_whole() {
    let mut bench = Bench::new(&[]);
    bench.pass(AT_ONCE).await;
    assert_eq!(bench.told(), Some(vec!["10.0.0.1:8000".into()]));
    assert!(bench.told().is_none());
    let view = bench.view.borrow();
    assert_eq!((view.is_settled, view.pools, view.listed.len()), (true, 1, Kind::ALL.len()));
    assert!(view.watches.values().all(|state| *state == WatchState::Synced));
    drop(view);
    assert_eq!(bench.obstacles(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_told_too() {
    let mut bench = Bench::new(&Kind::ALL.map(|kind| (kind, Answer::Objects(Vec::new()))));
    bench.pass(AT_ONCE).await;
    assert_eq!(bench.told(), Some(vec![]));
    assert!(bench.told().is_none(), "once");
}

#[tokio::test(start_paused = true)]
async fn only_the_pool_of_the_scope_is_asked_for() {
    let mut bench = Bench::new(&[]);
    for _ in Kind::ALL {
        let call = bench.api.next().await;
        let expected = matches!(kind_of(&call), Kind::Pool(_)).then_some("metadata.name%3Dchat");
        assert_eq!(call.parameter("fieldSelector"), expected, "{}", call.path);
        bench.silent.push(call);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_does_not_answer_holds_up_the_first_news_for_a_while_and_the_basics_for_as_long_as_it_takes() {
    for kind in Kind::ALL {
        for answer in [Answer::Silence, Answer::Failure(500)] {
            let mut bench = Bench::new(&[(kind, answer.clone())]);
            bench.pass(PATIENCE - AT_ONCE).await;
            assert!(bench.told().is_none(), "{kind} {answer:?}");
            bench.pass(AT_ONCE * 2).await;
            assert_eq!(bench.view.borrow().is_settled, kind != Kind::Pod, "{kind} {answer:?}");
            let members = if kind == STABLE { vec![] } else { vec!["10.0.0.1:8000".to_owned()] };
            assert_eq!(bench.told(), (kind != Kind::Pod).then_some(members), "{kind} {answer:?}");
            // In the end it answers after all.
            bench.silent.clear();
            bench.answers.insert(kind, Bench::new(&[]).answers[&kind].clone());
            bench.pass(PATIENCE).await;
            assert!(bench.view.borrow().is_settled && bench.view.borrow().listed.contains(&kind));
            let is_late = [Kind::Pod, STABLE].contains(&kind);
            assert_eq!((bench.told().is_some(), bench.obstacles()), (is_late, vec![]), "{kind} {answer:?}");
        }
    }
    let mut bench = Bench::new(&[(STABLE, Answer::Silence), (EXPERIMENTAL, Answer::Silence)]);
    bench.pass(PATIENCE * 2).await;
    assert!(bench.told().is_none());
    assert_eq!(bench.obstacles(), ["the first lists have not come yet"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_installed_holds_up_nothing() {
    let absent = Kind::ALL.into_iter().filter(|kind| ![STABLE, Kind::Pod, Kind::Slice].contains(kind));
    let answers: Vec<_> = absent.map(|kind| (kind, Answer::Failure(404))).collect();
    let mut bench = Bench::new(&answers);
    bench.pass(AT_ONCE).await;
    assert_eq!((bench.told().is_some(), bench.obstacles()), (true, vec![]));
}

#[tokio::test(start_paused = true)]
async fn without_pools_crds_nothing_is_told_until_one_is_installed() {
    let mut bench = Bench::new(&[(STABLE, Answer::Failure(404)), (EXPERIMENTAL, Answer::Failure(404))]);
    bench.pass(PATIENCE * 3).await;
    assert!(bench.told().is_none());
    let [obstacle] = &*bench.obstacles() else { panic!("{:?}", bench.obstacles()) };
    assert!(obstacle.starts_with("no InferencePool CRD is installed: apply"), "{obstacle}");
    bench.answers.insert(STABLE, Answer::Objects(vec![pool()]));
    bench.pass(PATIENCE).await;
    assert_eq!((bench.told().is_some(), bench.obstacles()), (true, vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_an_obstacle_until_it_may() {
    let mut bench = Bench::new(&[(Kind::Policy, Answer::Failure(403))]);
    bench.pass(AT_ONCE).await;
    assert!(bench.told().is_some(), "the pools are known all the same");
    let obstacle = "schedulingpolicies.pointsman.dev cannot be watched (the reason): grant get, list and watch";
    assert_eq!(bench.obstacles(), [obstacle]);
    bench.answers.insert(Kind::Policy, Answer::Objects(Vec::new()));
    bench.pass(PATIENCE).await;
    assert_eq!(bench.obstacles(), [""; 0]);
    // Once it was read, the last state counts.
    bench.answers.insert(Kind::Policy, Answer::Failure(403));
    bench.watches.clear();
    bench.pass(PATIENCE).await;
    assert!(matches!(bench.view.borrow().watches[&Kind::Policy], WatchState::Forbidden(_)));
    assert_eq!(bench.obstacles(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_once_is_known_though_its_watch_fails() {
    let mut bench = Bench::new(&[(Kind::Policy, Answer::Silence)]);
    bench.pass(PATIENCE / 2).await;
    for kind in [Kind::Pod, STABLE] {
        bench.answers.insert(kind, Answer::Failure(500));
        bench.watches.remove(&kind);
    }
    bench.pass(PATIENCE / 2 + AT_ONCE).await;
    assert!(matches!(bench.view.borrow().watches[&Kind::Pod], WatchState::Failing(_)));
    assert!(bench.told().is_some());
    assert_eq!(bench.obstacles(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_together_and_soon() {
    let mut bench = Bench::new(&[]);
    bench.pass(AT_ONCE).await;
    bench.told();
    for round in 2..20 {
        let ip = format!("10.0.0.{round}");
        bench.watches[&Kind::Pod].event("ADDED", &pod(&format!("p{round}"), &ip));
    }
    bench.pass(GATHER * 2).await;
    assert_eq!(bench.told().map(|members| members.len()), Some(19));
    assert!(bench.told().is_none());
    bench.watches[&STABLE].event("DELETED", &pool());
    bench.pass(GATHER * 2).await;
    assert_eq!((bench.told(), bench.view.borrow().pools), (Some(vec![]), 0));
    let obstacle =
        "the InferencePool default/chat does not exist: create it, or correct --pool-name and --pool-namespace";
    assert_eq!(bench.obstacles(), [obstacle]);
}

fn objective(group: ModelGroup, priority: i64) -> Value {
    json!({
        "apiVersion": format!("{}/v1alpha2", group.as_str()), "kind": "InferenceObjective",
        "metadata": {"name": "high", "namespace": "default", "uid": group.as_str(), "resourceVersion": "3"},
        "spec": {"priority": priority, "poolRef": {"name": "chat"}},
    })
}

impl Bench {
    /// The priority of the objective `high` as the news since the last time tell it last.
    fn priority(&mut self) -> Option<i32> {
        let mut priority = None;
        while let Ok(news) = self.news.try_recv() {
            let policies = news.pools.into_iter().filter_map(|news| match news {
                PoolNews::Is(picture) => picture.policy,
                PoolNews::Gone(_) => None,
            });
            for policy in policies {
                priority = policy.objectives.get("high").copied();
            }
        }
        priority
    }

    /// From now on the API server says this of a kind, whose watch breaks.
    fn turn(&mut self, kind: Kind, answer: Answer) {
        self.answers.insert(kind, answer);
        self.watches.remove(&kind);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_was_uninstalled_counts_no_longer_and_the_older_group_counts_again() {
    let (newer, older) = (Kind::Objective(LLM_D), Kind::Objective(OLD));
    let answers =
        [(newer, Answer::Objects(vec![objective(LLM_D, 2)])), (older, Answer::Objects(vec![objective(OLD, 1)]))];
    let mut bench = Bench::new(&answers);
    bench.pass(AT_ONCE).await;
    assert_eq!(bench.priority(), Some(2));
    bench.turn(newer, Answer::Failure(404));
    bench.pass(absence::LASTING).await;
    assert_eq!(bench.priority(), None, "nothing is told before that has lasted");
    bench.pass(PATIENCE).await;
    assert_eq!(bench.priority(), Some(1));
    bench.turn(newer, Answer::Objects(vec![objective(LLM_D, 3)]));
    bench.pass(PATIENCE).await;
    assert_eq!(bench.priority(), Some(3), "installed again");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_unknown_while_the_api_server_comes_back_counts_on() {
    let objects = Answer::Objects(vec![objective(LLM_D, 2)]);
    let newer = Kind::Objective(LLM_D);
    // What else is ill; and how long the kind is not known.
    for (others, lasts) in [
        (vec![], absence::LASTING - PATIENCE),
        (vec![(STABLE, 404), (EXPERIMENTAL, 404)], absence::LASTING * 5),
        (vec![(Kind::Pod, 500)], absence::LASTING * 5),
    ] {
        let mut bench = Bench::new(&[(newer, objects.clone())]);
        bench.pass(AT_ONCE).await;
        assert_eq!(bench.priority(), Some(2));
        let healthy = bench.answers.clone();
        bench.turn(newer, Answer::Failure(404));
        for (kind, code) in &others {
            bench.turn(*kind, Answer::Failure(*code));
        }
        bench.pass(lasts).await;
        bench.answers = healthy;
        bench.pass(PATIENCE).await;
        assert!(bench.news.try_recv().is_err(), "{others:?}: nothing changed");
        assert!(bench.view.borrow().watches.values().all(|state| *state == WatchState::Synced));
    }
}

#[tokio::test(start_paused = true)]
async fn pools_are_never_believed_to_be_uninstalled() {
    let mut bench = Bench::new(&[]);
    bench.pass(AT_ONCE).await;
    bench.told();
    bench.turn(STABLE, Answer::Failure(404));
    bench.pass(absence::LASTING * 5).await;
    assert!(bench.told().is_none());
    assert_eq!(bench.view.borrow().pools, 1);
}

#[tokio::test(start_paused = true)]
async fn ends_when_nobody_listens() {
    let mut bench = Bench::new(&[]);
    bench.news.close();
    tokio::time::timeout(AT_ONCE, &mut bench.task).await.unwrap().unwrap();
}

#[test]
fn what_stands_in_the_way() {
    let forbidden = || WatchState::Forbidden("no".into());
    let failing = || WatchState::Failing("down".into());
    let ours = Scope::Pool(ObjectKey::new("default", "chat"));
    let all = Scope::Namespace("default".into());
    let crds = "no InferencePool CRD is installed: apply one of crds/ or of the Gateway API Inference Extension";
    let lists = "the first lists have not come yet";
    let missing =
        "the InferencePool default/chat does not exist: create it, or correct --pool-name and --pool-namespace";
    let view = |settled: bool, pools, listed: &[Kind], watches: &[(Kind, WatchState)]| ClusterView {
        watches: watches.iter().cloned().collect(),
        listed: listed.iter().copied().collect(),
        pools,
        is_settled: settled,
        ..ClusterView::default()
    };
    let absent_before =
        |view: ClusterView, kinds: &[Kind]| ClusterView { absent_before: kinds.iter().copied().collect(), ..view };
    let no_pools = [(STABLE, WatchState::Absent), (EXPERIMENTAL, WatchState::Absent)];
    let table: Vec<(ClusterView, &Scope, Vec<&str>)> = vec![
        (ClusterView::default(), &ours, vec![lists]),
        (view(false, 0, &[], &no_pools), &ours, vec![crds]),
        (
            view(false, 0, &[], &[(Kind::Slice, failing())]),
            &ours,
            vec!["endpointslices.discovery.k8s.io cannot be watched: down"],
        ),
        (
            view(false, 0, &[], &[(Kind::Pod, forbidden())]),
            &ours,
            vec!["pods cannot be watched (no): grant get, list and watch"],
        ),
        (
            view(false, 0, &[], &[no_pools[0].clone(), no_pools[1].clone(), (Kind::Pod, failing())]),
            &ours,
            vec!["pods cannot be watched: down", crds],
        ),
        (
            view(false, 0, &[], &[(STABLE, failing()), (EXPERIMENTAL, forbidden())]),
            &ours,
            vec![
                "inferencepools.inference.networking.k8s.io cannot be watched: down",
                "inferencepools.inference.networking.x-k8s.io cannot be watched (no): grant get, list and watch",
            ],
        ),
        (view(true, 1, &[STABLE], &[]), &ours, vec![]),
        (view(true, 0, &[STABLE], &[]), &ours, vec![missing]),
        (view(true, 0, &[STABLE], &[]), &all, vec![]),
        (view(true, 1, &[STABLE], &[(STABLE, failing()), (Kind::Policy, failing())]), &ours, vec![]),
        (view(true, 1, &[STABLE], &[(EXPERIMENTAL, forbidden())]), &ours, vec![]),
        // Of what counts before all that was read nobody can say that it is not needed.
        (
            view(true, 1, &[EXPERIMENTAL], &[(STABLE, forbidden())]),
            &ours,
            vec!["inferencepools.inference.networking.k8s.io cannot be watched (no): grant get, list and watch"],
        ),
        (view(true, 1, &[STABLE, Kind::Objective(LLM_D)], &[(Kind::Objective(OLD), forbidden())]), &ours, vec![]),
        (
            view(true, 1, &[STABLE, Kind::Objective(OLD)], &[(Kind::Objective(LLM_D), forbidden())]),
            &ours,
            vec!["inferenceobjectives.llm-d.ai cannot be watched (no): grant get, list and watch"],
        ),
        (
            view(
                true,
                1,
                &[STABLE, Kind::Rewrite(OLD), Kind::Objective(LLM_D)],
                &[(Kind::Rewrite(LLM_D), forbidden())],
            ),
            &ours,
            vec!["inferencemodelrewrites.llm-d.ai cannot be watched (no): grant get, list and watch"],
        ),
        (
            view(true, 1, &[STABLE], &[(Kind::Model, forbidden())]),
            &ours,
            vec!["inferencemodels.inference.networking.x-k8s.io cannot be watched (no): grant get, list and watch"],
        ),
        (view(true, 1, &[STABLE, Kind::Model], &[(Kind::Model, forbidden())]), &ours, vec![]),
        (view(true, 0, &[STABLE], &no_pools), &ours, vec![crds]),
        // An API server that starts anew knows neither custom resources nor Roles for a moment.
        (view(true, 1, &[STABLE], &no_pools), &ours, vec![]),
        (absent_before(view(true, 1, &[STABLE], &[(Kind::Model, forbidden())]), &[Kind::Model]), &ours, vec![]),
    ];
    for (view, scope, expected) in table {
        assert_eq!(view.obstacles(scope), expected, "{view:?}");
    }
}
