//! Verdicts on their way into statuses.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::api::{ModelGroup, PoolGroup};
use crate::fake_api::FakeApi;
use crate::verdict::{ConditionType, Judgement, MESSAGE_MAX, PoolId, Reason, Says, SubjectKind, Truth};

const MODEL: &str = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodels/chat";
const POLICY: &str = "/apis/pointsman.dev/v1alpha1/namespaces/ns/schedulingpolicies/fast";
const POOL: &str = "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools/chat";
const OURS: &str = "pointsman.dev/picker";
const OUR_GATEWAYS: &str = "pointsman.dev/gateway";
/// Longer than anything takes but the pauses after failures.
const SOON: Duration = Duration::from_secs(1);

/// A writer at work on a fake API server.
struct Bench {
    api: FakeApi,
    verdicts: watch::Sender<Arc<Verdicts>>,
    holds: watch::Sender<bool>,
}

impl Bench {
    fn new(scope: Scope) -> Self {
        let api = FakeApi::default();
        let (verdicts, wanted) = watch::channel(Arc::default());
        let (holds, held) = watch::channel(true);
        let metrics = StatusMetrics::register(&mut Registry::default());
        tokio::spawn(write(api.client(), scope, wanted, held, metrics));
        Self { api, verdicts, holds }
    }

    fn of_namespace() -> Self {
        Self::new(Scope::Namespace("ns".into()))
    }

    fn object(&self, path: &str, generation: i64) {
        self.api.edit(path, |object| {
            let (_, name) = path.rsplit_once('/').unwrap();
            object["apiVersion"] = json!("v1");
            object["kind"] = json!("Kind");
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!("ns");
            object["metadata"]["uid"] = json!("u1");
            object["metadata"]["generation"] = json!(generation);
        });
    }

    async fn publish(&self, verdicts: impl IntoIterator<Item = (Subject, Verdict)>) {
        let verdicts = verdicts.into_iter().map(|(subject, verdict)| (subject, Arc::new(verdict))).collect();
        self.verdicts.send_replace(Arc::new(verdicts));
        sleep(SOON).await;
    }

    /// How many requests changed something since this was asked last.
    fn writes(&self) -> usize {
        self.api.take_log().iter().filter(|(method, ..)| *method != http::Method::GET).count()
    }

    fn conditions(&self) -> Vec<Value> {
        self.api.object(MODEL)["status"]["conditions"].as_array().cloned().unwrap_or_default()
    }

    /// The controllers and pools in the policy's status, in order.
    fn ancestors(&self) -> Vec<(String, String, String)> {
        let status = &self.api.object(POLICY)["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = status["ancestors"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|entry| {
                let status = text(&entry["conditions"][0]["status"]);
                (text(&entry["controllerName"]), text(&entry["ancestorRef"]["name"]), status)
            })
            .collect()
    }
}

fn judgement(is_so: bool, message: &str) -> Judgement {
    let reason = if is_so { Reason::Accepted } else { Reason::Invalid };
    Judgement { condition: ConditionType::Accepted, status: Truth::from(is_so), reason, message: message.into() }
}

fn on_model(generation: i64, is_so: bool, message: &str) -> (Subject, Verdict) {
    let subject = Subject { kind: SubjectKind::InferenceModel, key: ObjectKey::new("ns", "chat") };
    (subject, Verdict { uid: "u1".into(), generation, says: Says::Conditions(vec![judgement(is_so, message)]) })
}

fn pool(name: &str) -> PoolId {
    PoolId { group: PoolGroup::Stable, key: ObjectKey::new("ns", name) }
}

fn on_policy(pools: &[(&str, bool)]) -> (Subject, Verdict) {
    let subject = Subject { kind: SubjectKind::SchedulingPolicy, key: ObjectKey::new("ns", "fast") };
    let ancestors: BTreeMap<_, _> =
        pools.iter().map(|(name, is_so)| (pool(name), vec![judgement(*is_so, "because")])).collect();
    (subject, Verdict { uid: "u1".into(), generation: 1, says: Says::Ancestors(ancestors) })
}

fn entry(controller: &str, pool: &str) -> Value {
    let reference =
        json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "namespace": "ns", "name": pool});
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "because", "observedGeneration": 1,
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    });
    json!({"ancestorRef": reference, "controllerName": controller, "conditions": [condition]})
}

fn triple(controller: &str, pool: &str, status: &str) -> (String, String, String) {
    (controller.into(), pool.into(), status.into())
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_written_once_and_keeps_the_time_of_its_last_transition() {
    let bench = Bench::of_namespace();
    bench.object(MODEL, 1);
    bench.publish([on_model(1, false, "spec.targetModels: weights")]).await;
    assert_eq!(bench.writes(), 1);
    let first = bench.conditions();
    assert_eq!(first[0]["status"], "False");
    assert_eq!(first[0]["reason"], "Invalid");
    assert_eq!(first[0]["message"], "spec.targetModels: weights");
    assert_eq!(first[0]["observedGeneration"], 1);

    bench.publish([on_model(1, false, "spec.targetModels: weights")]).await;
    assert_eq!(bench.writes(), 0, "the same verdict again");

    bench
        .api
        .edit(MODEL, |model| model["status"]["conditions"][0]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z"));
    bench.object(MODEL, 2);
    bench.publish([on_model(2, false, "spec.targetModels: names")]).await;
    assert_eq!(bench.writes(), 1);
    assert_eq!(bench.conditions()[0]["lastTransitionTime"], "2020-01-01T00:00:00Z", "False before and after");
    assert_eq!(bench.conditions()[0]["observedGeneration"], 2);

    bench.object(MODEL, 3);
    bench.publish([on_model(3, true, "")]).await;
    assert_ne!(bench.conditions()[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_writes_and_a_new_one_looks_at_everything() {
    let bench = Bench::of_namespace();
    bench.object(MODEL, 1);
    bench.holds.send_replace(false);
    bench.publish([on_model(1, true, "")]).await;
    assert_eq!(bench.api.take_log().len(), 0);
    bench.holds.send_replace(true);
    sleep(SOON).await;
    assert_eq!(bench.writes(), 1);
    // Another leader wrote the same meanwhile, or something else.
    for (message, writes) in [("", 0), ("by another", 1)] {
        bench.holds.send_replace(false);
        sleep(SOON).await;
        bench.api.edit(MODEL, |model| model["status"]["conditions"][0]["message"] = json!(message));
        bench.holds.send_replace(true);
        sleep(SOON).await;
        assert_eq!(bench.writes(), writes, "{message:?}");
    }
    assert_eq!(bench.conditions()[0]["message"], "");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_or_another_one_or_newer_is_left_alone() {
    let bench = Bench::of_namespace();
    bench.publish([on_model(1, true, "")]).await;
    assert_eq!(bench.writes(), 0, "gone");
    bench.object(MODEL, 2);
    bench.publish([on_model(1, true, "later")]).await;
    assert_eq!(bench.writes(), 0, "newer than the verdict");
    bench.api.edit(MODEL, |model| model["metadata"]["uid"] = json!("u2"));
    bench.publish([on_model(2, true, "")]).await;
    assert_eq!(bench.writes(), 0, "made anew");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_tried_again() {
    for refusal in [(409, "Conflict"), (429, "TooManyRequests"), (500, "InternalError"), (403, "Forbidden")] {
        let bench = Bench::of_namespace();
        bench.object(MODEL, 1);
        bench.api.refuse(Some(refusal));
        bench.publish([on_model(1, true, "")]).await;
        sleep(Duration::from_secs(20)).await;
        let tried = bench.writes();
        assert!((1..60).contains(&tried), "{refusal:?}: {tried} times");
        bench.api.refuse(None);
        sleep(Duration::from_secs(120)).await;
        assert_eq!(bench.conditions().len(), 1, "{refusal:?}");
        assert_eq!(bench.writes(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_wrote_over_is_mended_in_time() {
    let bench = Bench::of_namespace();
    bench.object(MODEL, 1);
    bench.publish([on_model(1, true, "")]).await;
    bench.api.edit(MODEL, |model| model["status"] = json!({}));
    sleep(Duration::from_secs(700)).await;
    assert_eq!(bench.conditions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_controllers_ancestors_stay_and_ours_come_and_go() {
    let bench = Bench::of_namespace();
    bench.object(POLICY, 1);
    let theirs = "example.com/other";
    bench.api.edit(POLICY, |policy| {
        policy["status"]["ancestors"] = json!([entry(theirs, "a"), entry(OURS, "old"), entry(OURS, "a")]);
    });
    bench.publish([on_policy(&[("a", true), ("b", false)])]).await;
    let expected = [triple(theirs, "a", "True"), triple(OURS, "a", "True"), triple(OURS, "b", "False")];
    assert_eq!(bench.ancestors(), expected);
    let kept = &bench.api.object(POLICY)["status"]["ancestors"][1]["conditions"][0]["lastTransitionTime"];
    assert_eq!(kept, "2020-01-01T00:00:00Z");
    bench.publish([on_policy(&[])]).await;
    assert_eq!(bench.ancestors(), [triple(theirs, "a", "True")]);
    bench.writes();
    bench.publish([on_policy(&[]), on_model(1, true, "")]).await;
    assert_eq!(bench.writes(), 0);
}

fn on_pool(generation: i64, gateways: &[(&str, bool)]) -> (Subject, Verdict) {
    let subject = Subject { kind: SubjectKind::InferencePool, key: ObjectKey::new("ns", "chat") };
    let judgements = |is_resolved| {
        let resolved = Judgement { condition: ConditionType::ResolvedRefs, ..judgement(is_resolved, "because") };
        vec![judgement(true, "because"), resolved]
    };
    let parents = gateways.iter().map(|(name, is_resolved)| (ObjectKey::new("infra", name), judgements(*is_resolved)));
    (
        subject,
        Verdict {
            uid: "u1".into(),
            generation,
            says: Says::Parents { wanted: parents.collect(), others: [ObjectKey::new("infra", "other")].into() },
        },
    )
}

/// A parent as the API server holds it.
fn parent(controller: &str, kind: &str, gateway: &str) -> Value {
    let reference = json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "infra", "name": gateway});
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Accepted", "message": "because", "observedGeneration": 1,
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        })
    };
    let conditions = [condition("Accepted"), condition("ResolvedRefs")];
    json!({"parentRef": reference, "controllerName": controller, "conditions": conditions})
}

#[tokio::test(start_paused = true)]
async fn other_controllers_parents_stay_in_place_and_ours_come_and_go() {
    let bench = Bench::new(Scope::Cluster);
    bench.object(POOL, 1);
    // The last one is signed as ours are, by an extension server of another controller.
    let theirs = [
        parent("example.com/other", "Gateway", "a"),
        json!({"parentRef": {"kind": "Status", "name": "default"}, "conditions": []}),
        parent(OUR_GATEWAYS, "Gateway", "other"),
    ];
    let ours = |gateway: &str| parent(OUR_GATEWAYS, "Gateway", gateway);
    let set = |parents: Value| bench.api.edit(POOL, |pool| pool["status"]["parents"] = parents);
    let parents = || bench.api.object(POOL)["status"]["parents"].as_array().cloned().unwrap_or_default();

    let stray = parent(OUR_GATEWAYS, "Service", "a");
    set(json!([ours("old"), theirs[0], ours("a"), stray, theirs[1], ours("a"), theirs[2]]));
    bench.publish([on_pool(1, &[("a", true), ("b", true)])]).await;
    let found = parents();
    let kept = [theirs[0].clone(), ours("a"), theirs[1].clone(), theirs[2].clone()];
    assert_eq!(found[..4], kept, "what says the same is not touched");
    assert_eq!((found.len(), &found[4]["parentRef"]), (5, &ours("b")["parentRef"]));
    assert_eq!(found[4]["conditions"][1]["type"], "ResolvedRefs");
    bench.writes();
    bench.publish([on_pool(1, &[("a", true), ("b", true)]), on_model(1, true, "")]).await;
    assert_eq!(bench.writes(), 0, "the same again");

    bench.object(POOL, 2);
    bench.publish([on_pool(2, &[("a", false)])]).await;
    let found = parents();
    assert_eq!((found.len(), &found[0], &found[2..]), (4, &theirs[0], &theirs[1..]));
    let told = ["Accepted", "ResolvedRefs"].map(|kind| {
        let conditions = found[1]["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        assert_eq!(condition["observedGeneration"], 2, "{kind}");
        (condition["status"].clone(), condition["lastTransitionTime"] == "2020-01-01T00:00:00Z")
    });
    assert_eq!(told, [(json!("True"), true), (json!("False"), false)], "only what changed has a new time");

    bench.publish([on_pool(2, &[])]).await;
    assert_eq!(parents(), theirs);
}

#[tokio::test(start_paused = true)]
async fn a_full_status_gets_as_many_parents_as_have_room() {
    let bench = Bench::new(Scope::Cluster);
    bench.object(POOL, 1);
    let others = vec![parent("example.com/other", "Gateway", "x"); 31];
    bench.api.edit(POOL, |pool| pool["status"]["parents"] = others.into());
    bench.publish([on_pool(1, &[("a", true), ("b", true)])]).await;
    let parents = bench.api.object(POOL)["status"]["parents"].as_array().cloned().unwrap();
    assert_eq!((parents.len(), &parents[31]["parentRef"]["name"]), (32, &json!("a")));
}

#[tokio::test(start_paused = true)]
async fn a_picker_of_one_pool_leaves_the_entries_of_its_neighbours_alone() {
    let bench = Bench::new(Scope::Pool(ObjectKey::new("ns", "a")));
    bench.object(POLICY, 1);
    bench.api.edit(POLICY, |policy| policy["status"]["ancestors"] = json!([entry(OURS, "b"), entry(OURS, "a")]));
    bench.publish([on_policy(&[])]).await;
    assert_eq!(bench.ancestors(), [triple(OURS, "b", "True")]);
}

#[tokio::test(start_paused = true)]
async fn a_full_status_gets_as_many_ancestors_as_have_room() {
    let bench = Bench::of_namespace();
    bench.object(POLICY, 1);
    bench.api.edit(POLICY, |policy| policy["status"]["ancestors"] = vec![entry("example.com/other", "x"); 14].into());
    bench.publish([on_policy(&[("a", true), ("b", true), ("c", true)])]).await;
    let ancestors = bench.ancestors();
    assert_eq!(ancestors.len(), 16);
    assert_eq!(ancestors[14..], [triple(OURS, "a", "True"), triple(OURS, "b", "True")]);
}

#[tokio::test(start_paused = true)]
async fn statuses_that_are_nonsense_are_replaced_or_kept_but_never_fatal() {
    for nonsense in [json!(7), json!({"ancestors": 7}), json!({"ancestors": [7, null, {"controllerName": OURS}]})] {
        let bench = Bench::of_namespace();
        bench.object(POLICY, 1);
        bench.api.edit(POLICY, |policy| policy["status"] = nonsense.clone());
        bench.publish([on_policy(&[("a", true)])]).await;
        assert!(bench.ancestors().contains(&triple(OURS, "a", "True")), "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_without_end_is_cut_between_characters() {
    let bench = Bench::of_namespace();
    bench.object(MODEL, 1);
    bench.publish([on_model(1, false, &"\u{20ac}".repeat(20_000))]).await;
    let length = bench.conditions()[0]["message"].as_str().unwrap().len();
    assert!(length <= MESSAGE_MAX && length > MESSAGE_MAX - 4, "{length}");
}

#[tokio::test(start_paused = true)]
async fn thousands_of_objects_are_written_a_few_at_a_time() {
    let bench = Bench::of_namespace();
    let name = |index: usize| format!("o{index}");
    let verdicts: Vec<_> = (0..2000)
        .map(|index| {
            let kind = SubjectKind::InferenceObjective(ModelGroup::LlmD);
            let path = format!("/apis/llm-d.ai/v1alpha2/namespaces/ns/inferenceobjectives/{}", name(index));
            bench.object(&path, 1);
            (Subject { kind, key: ObjectKey::new("ns", &name(index)) }, on_model(1, true, "").1)
        })
        .collect();
    bench.publish(verdicts).await;
    assert_eq!(bench.writes(), 2000);
}
