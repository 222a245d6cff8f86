//! Claims about the schema and its check.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::models::{HeaderMatch, ModelMatch, ModelTarget};
use crate::policy::DEFAULT_SCORERS;

fn resolve(raw: &Value) -> Result<Policy, Vec<String>> {
    let path = FieldPath::default().member("scheduling");
    validate(raw, &Registry::default(), &path, &mut UnknownFields::Refuse)
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

#[test]
fn nothing_said_is_the_default_policy() {
    for raw in [json!({}), Value::Null, json!({"profile": null, "telemetry": {"interval": {}}})] {
        let policy = resolve(&raw).unwrap();
        let default = Policy::default();
        let scorers: Vec<_> = policy.profile.scorers.iter().map(|s| (&*s.name, s.weight)).collect();
        assert_eq!(scorers, DEFAULT_SCORERS);
        assert_eq!(format!("{:?}", policy.profile.picker), format!("{:?}", default.profile.picker));
        assert_eq!((policy.fallbacks, policy.prefix_cache), (default.fallbacks, default.prefix_cache));
        assert_eq!(policy.telemetry, default.telemetry);
        assert!(policy.models.rules().is_empty() && policy.objectives.is_empty());
    }
}

#[test]
fn everything_said_is_resolved() {
    let policy = resolve(&json!({
        "profile": {
            "filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"tier": "fast"}}}],
            "scorers": [{"type": "prefix-cache-scorer", "weight": 0.5, "prefixCache": {"matchLengthWeight": 0.25}},
                        {"type": "queue-scorer", "parameters": {}}],
            "picker": {"type": "weighted-random-picker"},
        },
        "fallbacks": 0,
        "prefixCache": {"blockTokens": 16, "maxPromptTokens": 1024, "memoryLimit": "1Gi"},
        "telemetry": {
            "engine": "mine",
            "engines": [{"name": "mine", "waiting": "w", "running": "r{a=b}", "kvCacheUsage": "k", "blockSize": "s",
                         "blockCount": "c", "loraInfo": "l",
                         "cacheInfo": {"series": "i", "blockSizeLabel": "x", "blockCountLabel": "y"}}],
            "interval": {"busy": "20ms", "idle": "500ms"},
            "maxScrapesPerSecond": 100, "timeout": "200ms", "staleAfter": "1m",
        },
        "models": [
            {"matches": [{"model": "chat", "headers": [{"name": "X-Beta", "value": "1"}]}, {"model": "talk"}],
             "targets": [{"model": "chat-v2", "weight": 90},
                         {"weight": 10, "endpointSelector": {"matchLabels": {"version": "v3"}}}],
             "priority": -2},
            {"targets": [{"model": "rest"}]},
        ],
    }))
    .unwrap();
    assert_eq!(&*policy.profile.filters[0].name, "label-selector-filter");
    let scorers: Vec<_> = policy.profile.scorers.iter().map(|s| (&*s.name, s.weight)).collect();
    assert_eq!(scorers, [("prefix-cache-scorer", 0.5), ("queue-scorer", 1.0)]);
    assert!(format!("{:?}", policy.profile.scorers[0].scorer).contains("0.25"));
    assert_eq!(format!("{:?}", policy.profile.picker), "WeightedRandomPicker");
    assert_eq!((policy.fallbacks, policy.prefix_cache.memory_limit), (0, 1 << 30));
    assert_eq!(policy.prefix_cache.layout.block_tokens, 16);
    let telemetry = &policy.telemetry;
    assert_eq!((&*telemetry.engine, telemetry.busy_interval), ("mine", Duration::from_millis(20)));
    assert_eq!((telemetry.timeout, telemetry.stale_after), (Duration::from_millis(200), Duration::from_secs(60)));
    assert_eq!(telemetry.engines[0].running.as_deref(), Some("r{a=b}"));
    assert_eq!(telemetry.engines[0].cache_info.as_ref().unwrap().block_count_label, "y");
    let [chat, rest] = policy.models.rules() else { panic!("{:?}", policy.models) };
    let beta = HeaderMatch { name: "x-beta".into(), value: "1".into() };
    let matches = [
        ModelMatch { model: Some("chat".into()), headers: vec![beta] },
        ModelMatch { model: Some("talk".into()), headers: vec![] },
    ];
    assert_eq!((chat.matches.as_slice(), chat.priority, &*chat.name), (&matches[..], Some(-2), "models[0]"));
    let target = |target: &ModelTarget| (target.model.as_ref().map(|m| m.name.to_string()), target.weight);
    assert_eq!(chat.targets.iter().map(target).collect::<Vec<_>>(), [(Some("chat-v2".into()), 90), (None, 10)]);
    let selector = chat.targets[1].endpoints.as_ref().unwrap();
    assert!(selector.matches(&[("version".into(), "v3".into())].into()) && !selector.matches(&Default::default()));
    assert!(rest.matches.is_empty() && rest.priority.is_none() && rest.targets[0].weight == 0);
}

#[test]
fn scorers_may_be_none_at_all() {
    let policy = resolve(&json!({"profile": {"scorers": [], "picker": {"type": "round-robin-picker"}}})).unwrap();
    assert!(policy.profile.scorers.is_empty());
}

#[test]
fn each_problem_has_its_path_its_message_and_its_suggestion() {
    let scorers = |entry: Value| json!({"profile": {"scorers": [entry]}});
    let header = |entry: Value| json!({"models": [{"priority": 1, "matches": [{"model": "a", "headers": [entry]}]}]});
    for (raw, expected) in [
        (json!([]), "scheduling: expected a mapping, found a list"),
        (json!({"fallback": 1}), "scheduling.fallback: unknown field; did you mean \"fallbacks\"?"),
        (
            json!({"preset": "x"}),
            "scheduling.preset: unknown field (known: fallbacks, models, prefixCache, profile, telemetry)",
        ),
        (json!({"fallbacks": 9}), "scheduling.fallbacks: 9 is outside of 0 to 8"),
        (json!({"fallbacks": 1.5}), "scheduling.fallbacks: expected a whole number, found 1.5"),
        (json!({"fallbacks": "2"}), "scheduling.fallbacks: expected a whole number, found \"2\""),
        (json!({"prefix_cache": {}}), "scheduling.prefix_cache: unknown field; did you mean \"prefixCache\"?"),
        (
            json!({"prefixCache": {"memoryLimit": "64MB"}}),
            "scheduling.prefixCache.memoryLimit: expected a size such as 64Mi, 1Gi, 500M or a whole number of bytes, \
             found \"64MB\"",
        ),
        (
            json!({"prefixCache": {"memoryLimit": 1000}}),
            "scheduling.prefixCache.memoryLimit: 1000 bytes are outside of 1Mi to 16Gi",
        ),
        (
            json!({"prefixCache": {"blockTokens": 128, "maxPromptTokens": 64}}),
            "scheduling.prefixCache.maxPromptTokens: 64 is less than one block of 128 tokens: nothing would be \
             remembered",
        ),
        (
            scorers(json!({"type": "queue-scoer"})),
            "scheduling.profile.scorers[0].type: unknown scorer \"queue-scoer\"; did you mean \"queue-scorer\"?",
        ),
        (
            scorers(json!({"type": "prefix"})),
            "scheduling.profile.scorers[0].type: unknown scorer \"prefix\"; did you mean \"prefix-cache-scorer\"?",
        ),
        (scorers(json!({"weight": 1})), "scheduling.profile.scorers[0]: `type` is missing"),
        (
            scorers(json!({"type": "queue-scorer", "weight": 0})),
            "scheduling.profile.scorers[0].weight: 0 is outside of 0.001 to 1000",
        ),
        (
            scorers(json!({"type": "queue-scorer", "parameters": {"a": 1}})),
            "scheduling.profile.scorers[0].parameters.a: unknown field (none is known here)",
        ),
        (
            scorers(json!({"type": "prefix-cache-scorer", "prefixCache": {"matchLengthWeight": 2}})),
            "scheduling.profile.scorers[0].prefixCache.matchLengthWeight: 2 is outside of 0 to 1",
        ),
        (
            scorers(json!({"type": "prefix-cache-scorer", "prefixCache": {"matchLengthScale": 2}})),
            "scheduling.profile.scorers[0].prefixCache.matchLengthScale: unknown field; did you mean \
             \"matchLengthScaleTokens\"?",
        ),
        (
            scorers(json!({"type": "prefix-cache-scorer", "prefixCache": {}, "parameters": {}})),
            "scheduling.profile.scorers[0].prefixCache: give `prefixCache` or `parameters`, not both",
        ),
        (
            scorers(json!({"type": "queue-scorer", "prefixCache": {}})),
            "scheduling.profile.scorers[0].prefixCache: these are another plugin's parameters; those of queue-scorer \
             go under `queue`",
        ),
        (
            json!({"profile": {"filters": [{"type": "label-selector-filter",
                "labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}]}}),
            "scheduling.profile.filters[0].labelSelector.matchExpressions[0].values: Exists and DoesNotExist take no \
             values",
        ),
        (
            json!({"profile": {"filters": [{"type": "label-selector-filter",
                "labelSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}}]}}),
            "scheduling.profile.filters[0].labelSelector.matchExpressions[0].operator: unknown value \"in\"; did you \
             mean \"In\"?",
        ),
        (
            json!({"profile": {"picker": {"type": "max-score-picker", "weight": 1}}}),
            "scheduling.profile.picker.weight: unknown field (known: parameters, type)",
        ),
        (
            json!({"telemetry": {"timeout": 5}}),
            "scheduling.telemetry.timeout: expected a duration with a unit, such as 500ms, 10s or 1h30m, found 5",
        ),
        (
            json!({"telemetry": {"interval": {"busy": "2s", "idle": "1s"}}}),
            "scheduling.telemetry.interval.busy: 2s is longer than `idle`, 1s",
        ),
        (json!({"telemetry": {"timeout": "3s"}}), "scheduling.telemetry.timeout: 3s is longer than `staleAfter`, 2s"),
        (
            json!({"telemetry": {"interval": {"idle": "5s"}}}),
            "scheduling.telemetry.interval.idle: 5s is not shorter than `staleAfter`, 2s: idle endpoints would always \
             be stale",
        ),
        (
            json!({"telemetry": {"engine": "vlm"}}),
            "scheduling.telemetry.engine: unknown engine \"vlm\"; did you mean \"vllm\"?",
        ),
        (
            json!({"telemetry": {"engines": [{"name": "a", "waiting": "x"}, {"name": "a", "waiting": "y"}]}}),
            "scheduling.telemetry.engines[1].name: engine \"a\" is defined twice",
        ),
        (
            json!({"telemetry": {"engines": [{"name": "a", "waiting": "x{y"}]}}),
            "scheduling.telemetry.engines[0].waiting: expected a metric's name, optionally with labels, as in \
             name{label=value}, found \"x{y\"",
        ),
        (
            json!({"telemetry": {"engines": [{"name": "a", "waiting": "x", "cacheInfo": {"series": "y",
                "blockSizeLabel": "z"}}]}}),
            "scheduling.telemetry.engines[0].cacheInfo: `blockCountLabel` is missing",
        ),
        (json!({"models": {}}), "scheduling.models: expected a list, found a mapping"),
        (json!({"models": [{}]}), "scheduling.models[0]: `targets` or `priority` is needed: the rule says nothing"),
        (
            json!({"models": [{"targets": [{"model": "a"}]}, {"match": [], "targets": [{}]}]}),
            "scheduling.models[1].match: unknown field; did you mean \"matches\"?",
        ),
        (
            json!({"models": [{"targets": [{"model": "a", "weight": 1}, {"model": "b"}, {"model": "c"}]}]}),
            "scheduling.models[0].targets: 1 of 3 have a weight: give one to all of them, or to none",
        ),
        (
            json!({"models": [{"targets": [{"model": "a", "weight": 0}]}]}),
            "scheduling.models[0].targets[0].weight: 0 is outside of 1 to 1000000",
        ),
        (
            json!({"models": [{"targets": [{"model": "a", "weight": 1}, {"model": "b", "weight": 1_000_001}]}]}),
            "scheduling.models[0].targets[1].weight: 1000001 is outside of 1 to 1000000",
        ),
        (
            json!({"models": [{"targets": [{"model": ""}]}]}),
            "scheduling.models[0].targets[0].model: expected text, found none",
        ),
        (
            json!({"models": [{"matches": [{"model": "m".repeat(257)}], "targets": [{"model": "a"}]}]}),
            "scheduling.models[0].matches[0].model: 257 characters are more than the 256 allowed",
        ),
        (
            json!({"models": vec![json!({"targets": [{"model": "a"}]}); 65]}),
            "scheduling.models: 65 items are more than the 64 allowed",
        ),
        (
            json!({"models": [{"targets": vec![json!({"model": "a"}); 17]}]}),
            "scheduling.models[0].targets: 17 items are more than the 16 allowed",
        ),
        (
            json!({"models": [{"priority": 1, "matches": vec![json!({"model": "a"}); 17]}]}),
            "scheduling.models[0].matches: 17 items are more than the 16 allowed",
        ),
        (json!({"models": [{"priority": 1.5}]}), "scheduling.models[0].priority: expected a whole number, found 1.5"),
        (
            json!({"models": [{"priority": 3_000_000_000_u32}]}),
            "scheduling.models[0].priority: 3000000000 is outside of -2147483648 to 2147483647",
        ),
        (header(json!({"name": "x-beta"})), "scheduling.models[0].matches[0].headers[0]: `value` is missing"),
        (
            header(json!({"name": "x beta", "value": "1"})),
            "scheduling.models[0].matches[0].headers[0].name: expected a header's name, such as x-beta, found \"x beta\"",
        ),
        (
            header(json!({"name": ":path", "value": "/"})),
            "scheduling.models[0].matches[0].headers[0].name: expected a header's name, such as x-beta, found \":path\"",
        ),
        (
            header(json!({"name": "X-Gateway-Destination-Endpoint", "value": "1"})),
            "scheduling.models[0].matches[0].headers[0].name: x-gateway-destination-endpoint steers gateway and picker: \
             what clients say in it is dropped",
        ),
        (
            json!({"models": [{"priority": 1, "matches": [{"headers": [{"name": "X-A", "value": "1"},
                {"name": "x-a", "value": "2"}]}]}]}),
            "scheduling.models[0].matches[0].headers[1].name: \"x-a\" is asked for twice in one entry",
        ),
        (
            json!({"models": [{"targets": [{"endpointSelector": {"matchExpressions": [
                {"key": "a", "operator": "In"}]}}]}]}),
            "scheduling.models[0].targets[0].endpointSelector.matchExpressions[0].values: In and NotIn need at least one \
             value",
        ),
        (
            json!({"models": [{"targets": [{"endpointSelector": {"matchExpressions": [{"key": "a"}]}}]}]}),
            "scheduling.models[0].targets[0].endpointSelector.matchExpressions[0]: `operator` is missing",
        ),
    ] {
        let expected: String = expected.into();
        assert_eq!(resolve(&raw).unwrap_err(), [expected], "{raw}");
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let problems = resolve(&json!({
        "fallbacks": -1,
        "profile": {
            "filters": [{"type": "nothing-like-it"}],
            "scorers": [{"type": "queue-scorer", "weight": "heavy"}, 7,
                        {"type": "active-request-scorer", "activeRequest": {"maxBusyScore": 3}}],
            "picker": {"type": "queue-scorer"},
        },
        "telemetry": {"interval": {"busy": "0s"}, "timeout": "soon", "engine": "x"},
        "zzz": 1,
    }))
    .unwrap_err();
    for path in [
        "fallbacks",
        "profile.filters[0].type",
        "profile.scorers[0].weight",
        "profile.scorers[1]",
        "profile.scorers[2].activeRequest.maxBusyScore",
        "profile.picker.type",
        "telemetry.interval.busy",
        "telemetry.timeout",
        "telemetry.engine",
        "zzz",
    ] {
        let start = format!("scheduling.{path}: ");
        assert_eq!(problems.iter().filter(|problem| problem.starts_with(&start)).count(), 1, "{path} in {problems:#?}");
    }
    assert_eq!(problems.len(), 10, "{problems:#?}");
}

#[test]
fn unknown_fields_may_be_tolerated_and_are_told() {
    let raw = json!({"later": {"a": 1}, "fallbacks": 1, "telemetry": {"staleafter": "5s"}, "profile": {"scorers": [
        {"type": "queue-scorer", "parameters": {"soon": 1}}]}});
    let mut unknown = UnknownFields::Tolerate(Problems::default());
    let policy = validate(&raw, &Registry::default(), &FieldPath::default(), &mut unknown).unwrap();
    assert_eq!(policy.fallbacks, 1);
    let UnknownFields::Tolerate(ignored) = unknown else { panic!() };
    let ignored: Vec<_> = ignored.into_vec().iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(ignored, ["later", "telemetry.staleafter", "profile.scorers[0].parameters.soon"]);
}

#[test]
fn a_match_that_is_not_wholly_understood_matches_nothing() {
    let raw = json!({"models": [
        {"matches": [{"path": "/v1"}], "targets": [{"model": "for-some"}]},
        {"matches": [{"headers": [{"name": "x", "value": "a.*", "type": "RegularExpression"}]}, {"model": "known"}],
         "targets": [{"model": "a", "mirror": true}]},
        {"targets": [{"model": "rest"}], "later": 1},
    ]});
    let mut unknown = UnknownFields::Tolerate(Problems::default());
    let policy = validate(&raw, &Registry::default(), &FieldPath::default(), &mut unknown).unwrap();
    let rules: Vec<_> = policy.models.rules().iter().map(|rule| (&*rule.name, rule.matches.len())).collect();
    assert_eq!(rules, [("models[1]", 1), ("models[2]", 0)]);
    let UnknownFields::Tolerate(ignored) = unknown else { panic!() };
    assert_eq!(ignored.into_vec().len(), 4);
}

#[test]
fn every_list_string_and_map_of_the_schema_has_a_maximum_and_nothing_is_referred_to() {
    fn bounded(schema: &Value, at: &str) {
        for forbidden in ["$ref", "$defs", "oneOf", "exclusiveMinimum", "exclusiveMaximum", "const"] {
            assert!(schema.get(forbidden).is_none(), "{forbidden} at {at}");
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            assert!(schema["maxLength"].is_u64(), "{at}");
            return;
        }
        match schema["type"].as_str() {
            Some("array") => {
                assert!(schema["maxItems"].is_u64(), "{at}");
                bounded(&schema["items"], &format!("{at}[]"));
            }
            Some("string") => assert!(schema["maxLength"].is_u64() || schema["enum"].is_array(), "{at}"),
            Some("object") => {
                for (key, below) in schema["properties"].as_object().into_iter().flatten() {
                    bounded(below, &format!("{at}.{key}"));
                }
                if schema["additionalProperties"].is_object() {
                    assert!(schema["maxProperties"].is_u64(), "{at}");
                    bounded(&schema["additionalProperties"], &format!("{at}.*"));
                }
            }
            Some("integer" | "number" | "boolean") => {}
            other => panic!("{other:?} at {at}: {schema}"),
        }
    }
    bounded(&schema(&Registry::default()), "");
}

#[test]
fn every_pattern_of_the_schema_is_checked() {
    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(members) => {
                found.extend(members.get("pattern").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|below| patterns(below, found));
            }
            Value::Array(items) => items.iter().for_each(|below| patterns(below, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    patterns(&schema(&Registry::default()), &mut found);
    assert!(found.len() > 10);
    for pattern in found {
        assert!(units::TEXT_KINDS.iter().any(|kind| kind.pattern == pattern), "{pattern}");
    }
}

#[test]
fn members_are_named_after_their_plugins() {
    for (plugin, member) in [
        ("prefix-cache-scorer", "prefixCache"),
        ("label-selector-filter", "labelSelector"),
        ("max-score-picker", "maxScore"),
        ("queue-scorer", "queue"),
        ("kv-cache-utilization-scorer", "kvCacheUtilization"),
        ("plain", "plain"),
    ] {
        assert_eq!(member_name(plugin), member);
    }
}

#[test]
fn paths_with_odd_keys_stay_readable() {
    let path = FieldPath::default().member("labels").member("a.b/c").item(3);
    assert_eq!(path.to_string(), "labels[\"a.b/c\"][3]");
    assert_eq!(FieldPath::default().member("p").join("a[0][1].b").to_string(), "p.a[0][1].b");
}

/// Any JSON, with our own field names and plugin names among its keys and texts, so that the walk goes deep.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "profile",
            "filters",
            "scorers",
            "picker",
            "type",
            "weight",
            "parameters",
            "prefixCache",
            "telemetry",
            "engines",
            "engine",
            "interval",
            "busy",
            "idle",
            "timeout",
            "staleAfter",
            "name",
            "waiting",
            "cacheInfo",
            "matchExpressions",
            "operator",
            "labelSelector",
            "queue-scorer",
            "prefix-cache-scorer",
            "fallbacks",
            "label-selector-filter",
            "max-score-picker",
            "1s",
            "64Mi",
            "In",
            "memoryLimit",
            "models",
            "matches",
            "targets",
            "headers",
            "model",
            "endpointSelector",
            "matchLabels",
            "priority",
        ])
        .prop_map(String::from),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics_and_what_the_structure_lets_through_can_always_be_read(raw in any_json()) {
        if let Err(problems) = resolve(&raw) {
            prop_assert!(!problems.is_empty());
        }
        let mut value = raw;
        let mut problems = Problems::default();
        let path = FieldPath::default();
        structure::check(&mut value, &schema(&Registry::default()), &path, &mut UnknownFields::Refuse, &mut problems);
        prop_assert!(value.is_null() || spec::SchedulingSpec::deserialize(value).is_ok());
    }
}
