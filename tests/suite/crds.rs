use anyhow::ensure;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource, ResourceExt};
use pointsman_core::config::{FieldPath, Problems, UnknownFields, validate};
use pointsman_core::registry::Registry;
use pointsman_k8s::api::{self, ModelGroup, PoolGroup, SchedulingPolicy};
use pointsman_tests::control_plane::ControlPlane;
use pointsman_tests::process::repository;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use self::manifests::{Table, good_objects};

mod manifests;
mod shapes;

/// A control plane with the definitions of `crds/`, all of them.
async fn with_our_crds() -> &'static ControlPlane {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || {
        let plane = ControlPlane::start().await?;
        for folder in ["crds", "crds/upstream"] {
            let folder = repository().join(folder);
            let output = plane.kubectl_command().args(["create", "-f"]).arg(folder).output().await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // The API server warns of what it takes against its will.
            ensure!(output.status.success() && said.is_empty(), "{said}");
        }
        plane.until_crds_are_served().await?;
        anyhow::Ok(plane)
    };
    PLANE.get_or_try_init(start).await.unwrap()
}

/// Where objects of that kind are created.
fn url(object: &Value) -> String {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
    DynamicObject::url_path(&ApiResource::from_gvk(&kind), Some("default"))
}

/// Sends what kubectl would send, without keeping what comes of it: the API server's refusal, or nothing.
async fn refusal(client: &Client, request: http::request::Builder, path: &str, body: &Value) -> Option<String> {
    let request = request.uri(format!("{path}?dryRun=All&fieldValidation=Strict"));
    match client.request::<Value>(request.body(body.to_string().into_bytes()).unwrap()).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(error) => panic!("{body}: {error}"),
    }
}

async fn refusal_of_creation(client: &Client, object: &Value) -> Option<String> {
    refusal(client, http::Request::post("/"), &url(object), object).await
}

/// Whether upstream has the kind in a file that can be had.
fn is_upstreams(api_version: &str) -> bool {
    !api_version.starts_with("llm-d.ai/") && !api_version.starts_with("pointsman.dev/")
}

/// The good object of a table really stands there; what it refuses to become.
async fn refused_updates(client: &Client, table: &Table, api_version: &str) -> Vec<Option<String>> {
    let good = table.good(api_version);
    let request = http::Request::post(url(&good)).body(good.to_string().into_bytes()).unwrap();
    client.request::<Value>(request).await.unwrap();
    let mut refusals = Vec::new();
    let path = format!("{}/refused", url(&good));
    for case in &table.updates {
        let patch = http::Request::patch("/").header("content-type", "application/merge-patch+json");
        refusals.push(refusal(client, patch, &path, &table.faulty(case, api_version)).await);
    }
    let request = http::Request::delete(path).body(Vec::new()).unwrap();
    client.request::<Value>(request).await.unwrap();
    refusals
}

#[tokio::test]
async fn the_api_server_takes_every_definition_as_it_is() {
    let client = with_our_crds().await.client().await.unwrap();
    let crds = Api::<CustomResourceDefinition>::all(client).list(&ListParams::default()).await.unwrap();
    assert_eq!(crds.items.len(), 9);
    for crd in crds {
        let name = crd.name_any();
        let conditions = crd.status.unwrap().conditions.unwrap();
        let said: Vec<_> = conditions.iter().map(|c| (&*c.type_, &*c.status)).collect();
        for good in [("NamesAccepted", "True"), ("Established", "True")] {
            assert!(said.contains(&good), "{name}: {conditions:?}");
        }
        assert!(!said.iter().any(|(kind, _)| *kind == "NonStructuralSchema"), "{name}: {conditions:?}");
    }
}

#[tokio::test]
async fn good_manifests_apply_to_ours_and_to_upstreams() {
    let upstream = ControlPlane::shared().await.unwrap().client().await.unwrap();
    let ours = with_our_crds().await;
    let client = ours.client().await.unwrap();
    let objects = good_objects();
    assert!(objects.len() >= 20, "{}", objects.len());
    for object in &objects {
        if is_upstreams(object["apiVersion"].as_str().unwrap()) {
            assert_eq!(refusal_of_creation(&upstream, object).await, None, "{object}");
        }
        assert_eq!(refusal_of_creation(&client, object).await, None, "{object}");
    }
    let namespace = ours.namespace("good").await.unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let said = namespace.apply(&list.to_string()).await.unwrap();
    assert_eq!(said.matches(" created").count(), objects.len(), "{said}");
    let namespace = &namespace.name;
    let mut read = 0;
    for group in ModelGroup::ALL {
        read += reads_back::<api::InferenceObjective>(&client, namespace, &group).await;
        read += reads_back::<api::InferenceModelRewrite>(&client, namespace, &group).await;
    }
    read += reads_back::<api::InferencePool>(&client, namespace, &()).await;
    read += reads_back::<api::InferencePoolV1Alpha2>(&client, namespace, &()).await;
    read += reads_back::<api::InferenceModel>(&client, namespace, &()).await;
    read += reads_back::<SchedulingPolicy>(&client, namespace, &()).await;
    assert_eq!(read, objects.len());
}

/// Reads all objects of a kind into their type: nothing of them is lost. How many there are.
async fn reads_back<K>(client: &Client, namespace: &str, kind: &K::DynamicType) -> usize
where
    K: Resource + DeserializeOwned + Serialize,
{
    let request = http::Request::get(K::url_path(kind, Some(namespace))).body(Vec::new()).unwrap();
    let list: Value = client.request(request).await.unwrap();
    let items = list["items"].as_array().unwrap();
    for item in items {
        let mut expected = item.clone();
        for member in ["apiVersion", "kind"] {
            expected.as_object_mut().unwrap().remove(member);
        }
        let read: K = serde_json::from_value(item.clone()).unwrap_or_else(|error| panic!("{error}: {item}"));
        let mut written = serde_json::to_value(&read).unwrap();
        // Times are written with another number of digits.
        for object in [&mut expected, &mut written] {
            object["metadata"] = Value::Null;
        }
        assert_eq!(written, expected);
    }
    items.len()
}

#[tokio::test]
async fn what_upstream_refuses_ours_refuse_with_the_field() {
    let upstream = ControlPlane::shared().await.unwrap().client().await.unwrap();
    let ours = with_our_crds().await.client().await.unwrap();
    let (mut refused, mut wrong) = (0, Vec::new());
    for table in Table::all() {
        for api_version in &table.api_versions {
            let theirs = is_upstreams(api_version).then_some(("upstream's", &upstream));
            for (whose, client) in [Some(("ours", &ours)), theirs].into_iter().flatten() {
                let good = refusal_of_creation(client, &table.good(api_version)).await;
                assert_eq!(good, None, "the base of {api_version} {} with {whose}", table.kind);
                let mut refusals = Vec::new();
                for case in &table.cases {
                    refusals.push(refusal_of_creation(client, &table.faulty(case, api_version)).await);
                }
                if !table.updates.is_empty() {
                    refusals.extend(refused_updates(client, &table, api_version).await);
                }
                for (case, refusal) in table.cases.iter().chain(&table.updates).zip(&refusals) {
                    refused += 1;
                    if !refusal.as_ref().is_some_and(|refusal| case.is_told_by(refusal)) {
                        let object = table.faulty(case, api_version);
                        wrong.push(format!("{} is not named by {whose}: {refusal:?}\n  {object}", case.names));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{refused} refusals");
}

#[tokio::test]
async fn what_only_the_picker_knows_better_is_left_to_the_condition() {
    let client = with_our_crds().await.client().await.unwrap();
    let mut tolerated = 0;
    for table in Table::all() {
        for case in &table.tolerated {
            let policy = table.faulty(case, &table.api_versions[0]);
            assert_eq!(refusal_of_creation(&client, &policy).await, None, "{policy}");
            let problems = problems(&policy);
            assert!(problems.iter().any(|problem| case.is_told_by(problem)), "{} in {problems:?}", case.names);
            tolerated += 1;
        }
    }
    assert!(tolerated > 0);
}

/// What the picker says of a policy that reached it.
fn problems(policy: &Value) -> Vec<String> {
    let policy: SchedulingPolicy = serde_json::from_value(policy.clone()).unwrap();
    let mut unknown = UnknownFields::Tolerate(Problems::default());
    let path = FieldPath::default().member("spec");
    let checked = validate(&policy.spec.scheduling, &Registry::default(), &path, &mut unknown);
    let UnknownFields::Tolerate(ignored) = unknown else { unreachable!("it was made so") };
    let problems = checked.err().unwrap_or_default().into_iter().chain(ignored.into_vec());
    problems.map(|problem| problem.to_string()).collect()
}

#[test]
fn the_tables_refuse_much_and_nothing_that_the_picker_would_take() {
    let tables = Table::all();
    let cases: usize = tables.iter().map(|table| table.cases.len() + table.updates.len()).sum();
    assert!(cases >= 40, "{cases}");
    for table in tables.iter().filter(|table| table.kind == "SchedulingPolicy") {
        let api_version = &table.api_versions[0];
        assert_eq!(problems(&table.good(api_version)), [""; 0]);
        // What a policy is for is no part of what the picker's configuration says.
        let of_the_pools = |names: &str| ["spec.targetRefs", "spec.service"].iter().any(|part| names.starts_with(part));
        for case in table.cases.iter().filter(|case| !of_the_pools(&case.names)) {
            let policy = table.faulty(case, api_version);
            assert!(!problems(&policy).is_empty(), "the API server refuses what the picker takes: {policy}");
        }
    }
    let policies = good_objects().into_iter().filter(|object| object["kind"] == "SchedulingPolicy");
    for policy in policies {
        assert_eq!(problems(&policy), [""; 0], "{policy}");
    }
}

#[tokio::test]
async fn a_policy_shows_its_pool_and_what_became_of_it() {
    let plane = with_our_crds().await;
    let namespace = plane.namespace("shown").await.unwrap();
    let policies: Api<SchedulingPolicy> = namespace.api();
    namespace.apply(&policy(16).to_string()).await.unwrap();

    let condition = |generation: i64| {
        json!([{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    };
    let status = |ancestors: usize| {
        let ancestors: Vec<_> = (0..ancestors)
            .map(|at| {
                let pool = api::ParentReference::to_pool(PoolGroup::Stable, &namespace.name, &format!("pool-{at}"));
                json!({"ancestorRef": pool, "controllerName": api::CONTROLLER_NAME, "conditions": condition(1)})
            })
            .collect();
        json!({"apiVersion": "pointsman.dev/v1alpha1", "kind": "SchedulingPolicy", "status": {"ancestors": ancestors}})
    };
    let apply = PatchParams::apply("test").force();
    let written = policies.patch_status("shown", &apply, &Patch::Apply(status(16))).await.unwrap();
    assert_eq!(written.status.unwrap().ancestors.len(), 16);
    let refused = policies.patch_status("shown", &apply, &Patch::Apply(status(17))).await.unwrap_err().to_string();
    assert!(refused.contains("status.ancestors"), "{refused}");

    for kind in ["schedulingpolicies", "schedpol", "inference"] {
        let table = plane.kubectl(&["-n", &namespace.name, "get", kind], "").await.unwrap();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "POOL", "ACCEPTED", "AGE"], "{table}");
        assert_eq!(rows[1][1..3], ["pool-0", "True"], "{table}");
    }
}

#[tokio::test]
async fn a_policy_may_be_for_sixteen_pools_and_no_more() {
    let client = with_our_crds().await.client().await.unwrap();
    assert_eq!(refusal_of_creation(&client, &policy(16)).await, None);
    let refused = refusal_of_creation(&client, &policy(17)).await.unwrap();
    assert!(refused.contains("spec.targetRefs: Too many"), "{refused}");
}

/// A policy for that many pools.
fn policy(pools: usize) -> Value {
    let target =
        |at| json!({"group": PoolGroup::Stable.as_str(), "kind": "InferencePool", "name": format!("pool-{at}")});
    let targets: Vec<_> = (0..pools).map(target).collect();
    json!({
        "apiVersion": "pointsman.dev/v1alpha1",
        "kind": "SchedulingPolicy",
        "metadata": {"name": "shown"},
        "spec": {"targetRefs": targets},
    })
}
