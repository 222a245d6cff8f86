//! What is thought of pools.

use pointsman_envoy::bootstrap::Peer;
use pointsman_gateway::picture::PickerRef;
use pointsman_k8s::api::{FailureMode, PickerRef as PoolPicker};
use pointsman_k8s::facts::Identity;
use pointsman_k8s::gateways::RouteFacts;
use serde_json::{Value, json};

use super::*;

/// What is thought of the pool `team/a` where these routes are there: `gateway: Accepted/reason ResolvedRefs/reason`,
/// one a Gateway.
fn told(routing: &Routing, picture: &Picture) -> Vec<String> {
    let subject = Subject { kind: SubjectKind::InferencePool, key: ObjectKey::new("team", "a") };
    let Some(verdict) = verdicts(routing, picture).remove(&subject) else { return vec!["none yet".into()] };
    let Says::Parents { wanted, others } = &verdict.says else { panic!("{verdict:?}") };
    assert_eq!((&*verdict.uid, verdict.generation), ("uid-a", 3));
    let line = |(gateway, judgements): (&ObjectKey, &Vec<Judgement>)| {
        let shown = judgements.iter().map(|judgement| {
            format!(" {}={} {}", judgement.condition.as_str(), judgement.status.as_str(), judgement.reason.as_str())
        });
        format!("{gateway}:{}", shown.collect::<String>())
    };
    let others = others.iter().map(|gateway| format!("{gateway}: another's"));
    wanted.iter().map(line).chain(others).collect()
}

/// The messages about the pool `team/a` and its first Gateway.
fn messages(routing: &Routing, picture: &Picture) -> String {
    let subject = Subject { kind: SubjectKind::InferencePool, key: ObjectKey::new("team", "a") };
    let verdict = verdicts(routing, picture).remove(&subject).unwrap();
    let Says::Parents { wanted, .. } = &verdict.says else { panic!("{verdict:?}") };
    let judgements = wanted.values().next().into_iter().flatten();
    judgements.map(|judgement| judgement.message.as_str()).filter(|message| !message.is_empty()).collect()
}

fn pool_ref(extra: Value) -> Value {
    let mut backend = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "a"});
    backend.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap());
    backend
}

fn mirror() -> Value {
    json!([{"type": "RequestMirror", "requestMirror": {"backendRef": pool_ref(json!({}))}}])
}

/// A route of `namespace` that is attached to these Gateways of `infra`.
fn route(namespace: &str, name: &str, gateways: &[&str], rules: Value) -> (ObjectKey, RouteFacts) {
    let parents: Vec<_> = gateways.iter().map(|name| json!({"name": name, "namespace": "infra"})).collect();
    let spec = serde_json::from_value(json!({"parentRefs": parents, "rules": rules})).unwrap();
    (ObjectKey::new(namespace, name), RouteFacts { spec, ..RouteFacts::default() })
}

fn plain(gateways: &[&str]) -> (ObjectKey, RouteFacts) {
    route("team", "plain", gateways, json!([{"backendRefs": [pool_ref(json!({"weight": 0}))]}]))
}

fn mirroring(gateways: &[&str]) -> (ObjectKey, RouteFacts) {
    route("team", "mirroring", gateways, json!([{"backendRefs": [{"name": "svc"}], "filters": mirror()}]))
}

fn refused(gateways: &[&str]) -> (ObjectKey, RouteFacts) {
    let (_, mut facts) = plain(gateways);
    facts.refused_by = gateways.iter().map(|name| ObjectKey::new("infra", name)).collect();
    (ObjectKey::new("team", "refused"), facts)
}

/// A pool `team/a` that names the picker `epp`, Gateways `one` and `two` of ours, and `theirs`.
fn routing(routes: impl IntoIterator<Item = (ObjectKey, RouteFacts)>) -> Routing {
    let key = ObjectKey::new("team", "a");
    let picker = PoolPicker {
        group: String::new(),
        kind: "Service".into(),
        name: "epp".into(),
        port: Some(9002),
        failure_mode: FailureMode::FailOpen,
    };
    let identity = Identity { created: None, key: key.clone(), uid: "uid-a".into(), generation: 3 };
    let pool = Kept { identity, object: PoolSpec { picker: Some(picker), ..PoolSpec::default() } };
    let gateways = [("one", "eg"), ("two", "eg"), ("theirs", "istio")];
    Routing {
        routes: routes.into_iter().collect(),
        pools: [(key, pool)].into(),
        gateways: gateways.map(|(name, class)| (ObjectKey::new("infra", name), class.to_owned())).into(),
        classes: [("eg", true), ("istio", false)].map(|(name, ours)| (ObjectKey::new("", name), ours)).into(),
        ..Routing::default()
    }
}

fn picture(state: Option<PickerState>) -> Picture {
    let picker = PickerRef { namespace: "team".into(), name: "epp".into(), port: 9002 };
    Picture { pickers: state.map(|state| (picker, state)).into_iter().collect(), ..Picture::default() }
}

fn found() -> Picture {
    picture(Some(PickerState::Found(Peer::plaintext([]))))
}

fn missing() -> Picture {
    picture(Some(PickerState::Missing("there is no Service team/epp: create it".into())))
}

#[test]
fn each_gateway_of_ours_whose_routes_name_a_pool_is_a_parent() {
    let well = "Accepted=True Accepted ResolvedRefs=True ResolvedRefs";
    let granted = |to: &str| {
        let (from, name) = (json!({"namespace": "guests"}), json!(to));
        let spec = json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from["namespace"]}],
            "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}],
        });
        let of_guests = json!([{"backendRefs": [pool_ref(json!({"namespace": "team"}))]}]);
        let grants = [(ObjectKey::new("team", "grant"), serde_json::from_value(spec).unwrap())].into();
        Routing { grants, ..routing([route("guests", "plain", &["one"], of_guests)]) }
    };
    let unclassed = Routing { classes: BTreeMap::new(), ..routing([plain(&["one"])]) };
    for (case, routing, expected) in [
        ("no route", routing([]), vec![]),
        ("weight 0", routing([plain(&["one"])]), vec![format!("infra/one: {well}")]),
        (
            "two Gateways, one of them another's, one of them nowhere",
            routing([plain(&["two", "theirs", "gone", "one"])]),
            vec![format!("infra/one: {well}"), format!("infra/two: {well}"), "infra/theirs: another's".into()],
        ),
        ("another's alone", routing([plain(&["theirs"])]), vec!["infra/theirs: another's".into()]),
        ("no class", unclassed, vec!["infra/one: another's".into()]),
        (
            "another backend",
            routing([route("team", "svc", &["one"], json!([{"backendRefs": [{"name": "a"}]}]))]),
            vec![],
        ),
        (
            "refused by one",
            routing([refused(&["one"]), plain(&["two"])]),
            vec![
                "infra/one: Accepted=False HTTPRouteNotAccepted ResolvedRefs=True ResolvedRefs".into(),
                format!("infra/two: {well}"),
            ],
        ),
        (
            "refused, and another route not",
            routing([refused(&["one"]), plain(&["one"])]),
            vec![format!("infra/one: {well}")],
        ),
        (
            "mirrored to",
            routing([mirroring(&["one"])]),
            vec!["infra/one: Accepted=False NotSupportedByParent ResolvedRefs=True ResolvedRefs".into()],
        ),
        (
            "mirrored to and named by one rule",
            routing([route(
                "team",
                "both",
                &["one"],
                json!([{"backendRefs": [pool_ref(json!({}))], "filters": mirror()}]),
            )]),
            vec!["infra/one: Accepted=False NotSupportedByParent ResolvedRefs=True ResolvedRefs".into()],
        ),
        (
            "mirrored to by a backendRef",
            routing([route("team", "ref", &["one"], json!([{"backendRefs": [{"name": "svc", "filters": mirror()}]}]))]),
            vec!["infra/one: Accepted=False NotSupportedByParent ResolvedRefs=True ResolvedRefs".into()],
        ),
        (
            "mirrored to, and served by another",
            routing([mirroring(&["one"]), plain(&["one"])]),
            vec![format!("infra/one: {well}")],
        ),
        ("granted to another namespace", granted("a"), vec![format!("infra/one: {well}")]),
        ("not granted to another namespace", granted("b"), vec![]),
    ] {
        assert_eq!(told(&routing, &found()), expected, "{case}");
    }
    let both = messages(&routing([mirroring(&["one"]), plain(&["one"])]), &found());
    assert!(both.contains("HTTPRoute team/mirroring mirrors requests to an InferencePool"), "{both}");
}

#[test]
fn a_picker_that_cannot_be_asked_is_told_with_its_field_and_the_mend() {
    type Change = fn(&mut PoolPicker);
    let invalid = "infra/one: Accepted=True Accepted ResolvedRefs=False InvalidExtensionRef";
    let cases: [(Change, Picture, &str, &str); 5] = [
        (|_| {}, missing(), invalid, "spec.endpointPickerRef: there is no Service team/epp: create it"),
        (|picker| picker.kind = "Pod".into(), found(), invalid, "spec.endpointPickerRef: a Pod of the group \"\""),
        (|picker| picker.group = "apps".into(), found(), invalid, "of the group \"apps\" is no picker: name a Service"),
        (|picker| picker.port = None, found(), invalid, "spec.endpointPickerRef.port is not set: a Service needs one"),
        (|_| {}, picture(None), "none yet", ""),
    ];
    for (change, picture, expected, message) in cases {
        let mut routing = routing([plain(&["one"])]);
        let pool = routing.pools.values_mut().next().unwrap();
        change(pool.object.picker.as_mut().unwrap());
        assert_eq!(told(&routing, &picture), [expected]);
        assert!(message.is_empty() || messages(&routing, &picture).contains(message), "{message}");
    }
    let mut bare = routing([plain(&["one"])]);
    bare.pools.values_mut().next().unwrap().object.picker = None;
    let expected = "infra/one: Accepted=False EndpointPickerRefMissing ResolvedRefs=True ResolvedRefs";
    assert_eq!(told(&bare, &picture(None)), [expected]);
    assert_eq!(told(&routing([]), &picture(None)), [""; 0], "a pool that nobody uses needs no picker");
}

#[test]
fn a_picker_that_goes_is_told_once_and_again_when_it_is_back() {
    let mut notices = Told::default();
    let used = || routing([plain(&["one", "two"])]);
    let mut news = |routing: &Routing, picture: &Picture| -> Vec<&'static str> {
        let news = notices.news(routing, &verdicts(routing, picture));
        news.iter().map(|notice| notice.reason.as_str()).collect()
    };
    let another = || picture(Some(PickerState::Missing("the Service team/epp has no port 9002: it has 80".into())));
    let mut anew = used();
    anew.pools.values_mut().next().unwrap().identity.uid = "uid-b".into();
    let nobody = [""; 0];
    assert_eq!(news(&used(), &found()), nobody);
    assert_eq!(news(&used(), &missing()), ["PickerNotFound"]);
    assert_eq!(news(&used(), &missing()), nobody);
    assert_eq!(news(&used(), &picture(None)), nobody);
    assert_eq!(news(&used(), &missing()), nobody, "while nobody could look, nothing changed");
    assert_eq!(news(&used(), &another()), ["PickerNotFound"], "something else is in the way");
    assert_eq!(news(&used(), &found()), ["PickerFound"]);
    assert_eq!(news(&used(), &found()), nobody);
    assert_eq!(news(&routing([]), &missing()), nobody, "a pool that nobody uses");
    assert_eq!(news(&used(), &missing()), ["PickerNotFound"]);
    assert_eq!(news(&anew, &missing()), ["PickerNotFound"], "another pool of the same name");
    assert_eq!(news(&routing([]), &found()), nobody, "nobody uses it any more");
    assert_eq!(news(&anew, &found()), nobody);
}
