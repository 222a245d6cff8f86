//! Claims about the types.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn read<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

#[test]
fn an_object_of_another_version_is_read_all_the_same() {
    fn reads<K: Resource + DeserializeOwned>(spec: Value) {
        let metadata = json!({"name": "a", "namespace": "b", "later": {"c": 1}});
        for object in [
            json!({"metadata": metadata}),
            json!({"metadata": metadata, "spec": {}, "status": {}}),
            json!({"apiVersion": "x/v9", "kind": "Y", "metadata": metadata, "spec": {"later": [1]}, "status": {"d": 2}}),
            json!({"metadata": metadata, "spec": spec}),
        ] {
            assert_eq!(read::<K>(object).meta().name.as_deref(), Some("a"));
        }
    }
    reads::<InferencePool>(json!({"targetPorts": [{"number": -1, "name": "x"}, {}], "endpointPickerRef": {}}));
    reads::<InferencePoolV1Alpha2>(json!({"targetPortNumber": 99_999_999_999_i64, "extensionRef": {}}));
    reads::<InferenceModel>(json!({"criticality": "Urgent", "targetModels": [{}], "poolRef": {}}));
    reads::<InferenceObjective>(json!({"priority": i64::MAX, "poolRef": {}}));
    reads::<InferenceModelRewrite>(
        json!({"rules": [{"matches": [{}, {"model": {"type": "Prefix"}}], "targets": [{}]}]}),
    );
    reads::<SchedulingPolicy>(json!({"targetRefs": [{}], "service": {}, "telemetry": "not even a mapping"}));
}

#[test]
fn both_versions_of_a_pool_are_one_to_the_picker() {
    let selector: BTreeMap<_, _> = [("app".to_owned(), "vllm".to_owned())].into();
    let picker = PickerRef {
        group: String::new(),
        kind: "Service".into(),
        name: "epp".into(),
        port: Some(9002),
        failure_mode: FailureMode::FailClose,
    };
    let expected = PoolSpec {
        selector: selector.clone(),
        target_ports: vec![8000],
        app_protocol: AppProtocol::Http,
        picker: Some(picker),
    };
    let stable: InferencePool = read(json!({"metadata": {}, "spec": {
        "selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}}));
    let experimental: InferencePoolV1Alpha2 = read(json!({"metadata": {}, "spec": {
        "selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}}));
    assert_eq!(stable.resolved(), expected);
    assert_eq!(experimental.resolved(), expected);
    assert_eq!(expected.picker.as_ref().and_then(PickerRef::service), Some("epp"));
    assert_eq!(
        InferencePool::url_path(&(), Some("ns")),
        "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools"
    );
    assert_eq!(
        InferencePoolV1Alpha2::url_path(&(), Some("ns")),
        "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencepools"
    );
}

#[test]
fn what_a_pool_says_beyond_its_defaults_is_resolved() {
    let pool: InferencePool = read(json!({"metadata": {}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "appProtocol": "kubernetes.io/h2c",
        "targetPorts": [{"number": 8002}, {"number": 0}, {"number": 70000}, {"number": 8000}],
        "endpointPickerRef": {"group": "x.io", "kind": "Picker", "name": "p", "failureMode": "FailOpen"}}}));
    let spec = pool.resolved();
    assert_eq!((spec.target_ports, spec.app_protocol), (vec![8002, 8000], AppProtocol::H2c));
    let picker = spec.picker.unwrap();
    assert_eq!((picker.port, picker.failure_mode, picker.service()), (None, FailureMode::FailOpen, None));
}

#[test]
fn a_selector_needs_all_its_labels_and_an_empty_one_selects_nothing() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let pool = |pairs: &[(&str, &str)]| PoolSpec { selector: labels(pairs), ..Default::default() };
    let pod = labels(&[("app", "vllm"), ("tier", "fast")]);
    assert!(pool(&[("app", "vllm")]).selects(&pod));
    assert!(pool(&[("app", "vllm"), ("tier", "fast")]).selects(&pod));
    assert!(!pool(&[("app", "vllm"), ("tier", "slow")]).selects(&pod));
    assert!(!pool(&[("zone", "")]).selects(&pod));
    assert!(!pool(&[]).selects(&pod));
}

#[test]
fn a_reference_means_a_pool_of_one_group_or_none() {
    for group in PoolGroup::ALL {
        assert_eq!(group.api_version(), format!("{}/{}", group.as_str(), group.version()));
    }
    let stable = PoolGroup::Stable.as_str();
    let group = "spec.poolRef.group: there are no InferencePools in \"\": name one of inference.networking.k8s.io or \
                 inference.networking.x-k8s.io";
    let kind = |kind: &str| format!("spec.poolRef.kind: {kind} is not supported: name an InferencePool");
    for (object, meant) in [
        (json!({"name": "p"}), Ok(PoolGroup::Experimental)),
        (json!({"name": "p", "group": stable, "kind": "InferencePool"}), Ok(PoolGroup::Stable)),
        (json!({"name": "p", "group": "", "kind": "InferencePool"}), Err(group.to_owned())),
        (json!({"name": "p", "kind": "Service"}), Err(kind("Service"))),
        (
            json!({"name": "p", "group": "inference.networking.x-k8s.io", "kind": "InferencePoolImport"}),
            Err(kind("InferencePoolImport")),
        ),
    ] {
        let model: InferenceModel = read(json!({"spec": {"modelName": "m", "poolRef": object}}));
        let found = model.pool().map_err(|error| error.to_string());
        assert_eq!(found, meant.map(|group| (group, "p")), "{object}");
    }
    let target =
        |group: &str, kind: &str| PolicyTargetReference { group: group.into(), kind: kind.into(), name: "p".into() };
    assert_eq!(target(stable, "InferencePool").pool(), Some((PoolGroup::Stable, "p")));
    assert_eq!(target(stable, "Service").pool(), None);
    assert_eq!(target("", "InferencePool").pool(), None);
}

#[test]
fn kinds_of_two_groups_are_asked_for_under_both() {
    for (group, url) in ModelGroup::ALL
        .iter()
        .zip(["/apis/llm-d.ai/v1alpha2/namespaces/ns/", "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/"])
    {
        assert_eq!(InferenceObjective::url_path(group, Some("ns")), format!("{url}inferenceobjectives"));
        assert_eq!(InferenceModelRewrite::url_path(group, Some("ns")), format!("{url}inferencemodelrewrites"));
    }
}

#[test]
fn importance_has_a_default_and_bounds() {
    let objective = |spec: Value| read::<InferenceObjective>(json!({"metadata": {}, "spec": spec})).priority();
    assert_eq!(objective(json!({})), 0);
    assert_eq!(objective(json!({"priority": -10})), -10);
    assert_eq!(objective(json!({"priority": i64::MIN})), i32::MIN);
    let model = |spec: Value| read::<InferenceModel>(json!({"metadata": {}, "spec": spec})).criticality();
    assert_eq!(model(json!({})), Criticality::Standard);
    assert_eq!(model(json!({"criticality": "Critical"})), Criticality::Critical);
    assert_eq!(model(json!({"criticality": "Sheddable"})), Criticality::Sheddable);
    assert_eq!(model(json!({"criticality": "critical"})), Criticality::Standard);
}

#[test]
fn a_policys_scheduling_is_what_is_neither_target_nor_service() {
    let policy: SchedulingPolicy = read(json!({"metadata": {}, "spec": {
        "targetRefs": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}],
        "service": {"name": "s", "port": 8000},
        "fallbacks": 1, "later": {"a": 1}}}));
    assert_eq!(policy.spec.scheduling, json!({"fallbacks": 1, "later": {"a": 1}}));
    assert_eq!(policy.spec.service.unwrap().port, Some(IntOrString::Int(8000)));
    let bare: SchedulingPolicy = read(json!({"metadata": {}, "spec": {"targetRefs": []}}));
    assert_eq!(bare.spec.scheduling, json!({}));
}
