//! Claims about configuration files.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn loaded(text: &str) -> LoadedConfig {
    parse(text, &Registry::default()).unwrap_or_else(|problems| panic!("{}", render_problems("test", &problems)))
}

fn refused(text: &str) -> String {
    render_problems("f", &parse(text, &Registry::default()).map(|_| ()).expect_err(text))
}

/// A file with one good endpoint and `rest` from line 3 on.
fn with(rest: &str) -> String {
    format!("endpoints:\n- {{name: a, address: 10.0.0.1, port: 8000}}\n{rest}")
}

#[test]
fn the_examples_load() {
    let examples = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"));
    let read = |name: &str| load(&examples.join(name), &Registry::default()).unwrap();
    let one = read("endpoints.yaml");
    assert_eq!(one.pools[0].name, DEFAULT_POOL);
    assert_eq!(one.pools[0].endpoints.len(), 4);
    assert_eq!(one.pools[0].endpoints[2].metrics_port, 9400);
    assert_eq!(one.pools[0].endpoints[3].host, Host::Dns("gpu-d.example.internal".into()));
    assert_eq!(one.pools[0].policy.telemetry, Policy::default().telemetry, "the example shows the defaults");
    assert_eq!(one.server, ServerConfig::default(), "the example shows the defaults");
    let two = read("two-pools.yaml");
    let names: Vec<_> = two.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["chat/llama", "embeddings/e5"]);
    assert_eq!(
        two.pools[1].policy.telemetry.engines[0].running.as_deref(),
        Some("te_batch_current_size{state=running}")
    );
    assert_eq!(two.pools[1].scheduling["fallbacks"], 1);
    let models = read("models.yaml");
    let targets: Vec<_> = models.pools[0].policy.models.rules().iter().map(|rule| rule.targets.len()).collect();
    assert_eq!((targets, models.server.trust.objective), (vec![1, 2, 0], true));
}

#[test]
fn every_yaml_file_among_the_examples_loads() {
    let examples = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples")).unwrap();
    for example in
        examples.map(|example| example.unwrap().path()).filter(|path| path.extension() == Some("yaml".as_ref()))
    {
        load(&example, &Registry::default())
            .unwrap_or_else(|problems| panic!("{}", render_problems(&example.to_string_lossy(), &problems)));
    }
}

#[test]
fn a_list_in_llm_ds_file_discovery_form_loads_as_it_is() {
    let config = loaded(
        "endpoints:\n  - name: vllm-0\n    namespace: inference\n    address: \"192.168.1.10\"\n    port: \"8000\"\n    \
         labels:\n      app: vllm\n      inference.networking.k8s.io/engine-type: vllm\n  - name: vllm-1\n    address: \
         192.168.1.11\n    port: \"8000\"\n",
    );
    let endpoints = &config.pools[0].endpoints;
    assert_eq!((&*endpoints[0].namespace, endpoints[0].port, endpoints[0].metrics_port), ("inference", 8000, 8000));
    assert_eq!(endpoints[0].labels["inference.networking.k8s.io/engine-type"], "vllm");
    assert_eq!(&*endpoints[1].namespace, "default");
}

#[test]
fn json_loads_as_yaml_does_tabs_and_all() {
    let json = "{\n\t\"endpoints\": [\n\t\t{\"name\": \"a\", \"address\": \"10.0.0.1\", \"port\": 8000}\n\t],\n\t\
                \"scheduling\": {\"fallbacks\": 1}\n}\n";
    assert_eq!(loaded(json).pools[0].policy.fallbacks, 1);
    let wrong = json.replace("\"fallbacks\": 1", "\"fallbacks\": 99");
    assert_eq!(refused(&wrong), "f:5:17: scheduling.fallbacks: 99 is outside of 0 to 8\n");
}

#[test]
fn addresses_are_ipv4_ipv6_and_names() {
    for (address, host) in [
        ("10.0.0.1", Host::Ip([10, 0, 0, 1].into())),
        ("\"fd00::1\"", Host::Ip("fd00::1".parse().unwrap())),
        ("\"[fd00::1]\"", Host::Ip("fd00::1".parse().unwrap())),
        ("\"::ffff:10.0.0.1\"", Host::Ip([10, 0, 0, 1].into())),
        ("Server-1.Example.COM.", Host::Dns("server-1.example.com".into())),
        ("model_server", Host::Dns("model_server".into())),
        ("localhost", Host::Dns("localhost".into())),
    ] {
        let config = loaded(&format!("endpoints: [{{name: a, address: {address}, port: 1}}]"));
        assert_eq!(config.pools[0].endpoints[0].host, host, "{address}");
    }
}

#[test]
fn pools_are_named_with_their_namespace() {
    let config = loaded("pools:\n- {name: a}\n- {name: team-b/a, endpoints: []}\n- {name: b/llama-3.1-8b}\n");
    let names: Vec<_> = config.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["default/a", "team-b/a", "b/llama-3.1-8b"]);
    assert_eq!(loaded(&with("name: chat/llama")).pools[0].name, "chat/llama");
}

#[test]
fn limits_are_read() {
    let config = loaded(&with(
        "server:\n  trust: {}\n  limits: {maxBodySize: 1Mi, bufferBudget: 20, prefixIndex: 10, maxStreams: 5, \
         requestIdleTimeout: 5s, responseIdleTimeout: 1h}",
    ));
    let limits = Limits {
        max_body_size: 1 << 20,
        buffer_budget_percent: 20,
        prefix_index_percent: 10,
        max_streams: 5,
        request_idle_timeout: Duration::from_secs(5),
        response_idle_timeout: Duration::from_secs(3600),
    };
    assert_eq!((config.server.limits, config.server.trust), (limits, Trust::default()));
    assert!(loaded(&with("server: {trust: {objective: true}}")).server.trust.objective);
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    let config = loaded(
        "endpoints:\n- &first {name: a, address: 10.0.0.1, port: 8000, labels: &labels {tier: fast}}\n- {<<: *first, \
         name: b, address: 10.0.0.2}\n- {name: c, address: 10.0.0.3, port: 8000, labels: *labels}\n",
    );
    let endpoints = &config.pools[0].endpoints;
    assert_eq!(endpoints[1].port, 8000);
    assert!(endpoints.iter().all(|endpoint| endpoint.labels["tier"] == "fast"));
}

/// Files that are wrong in one way each, and how the one line of the report begins.
const WRONG: &[(&str, &str)] = &[
    ("", "f:1:1: the file is empty"),
    ("# nothing but a comment\n", "f:1:1: the file is empty"),
    ("{}", "f:1:1: `endpoints` is missing (or `pools`, for several)"),
    ("[]", "f:1:1: expected a mapping, found a list"),
    ("just text", "f:1:1: expected a mapping, found \"just text\""),
    ("endpoints: {}", "f:1:1: endpoints: expected a list, found a mapping"),
    ("endpoints: []\nendpoint: 1", "f:2:1: endpoint: unknown field; did you mean \"endpoints\"?"),
    ("endpoints:\n- 7", "f:2:3: endpoints[0]: expected a mapping, found 7"),
    ("endpoints:\n- name: a\n  address: h", "f:2:3: endpoints[0]: `port` is missing"),
    (
        "endpoints:\n- name: 7\n  address: h\n  port: 1",
        "f:2:3: endpoints[0].name: expected text, found 7 (put it in quotes)",
    ),
    ("endpoints:\n- name: a\n  address: h\n  port: 0", "f:4:3: endpoints[0].port: 0 is no port: expected 1 to 65535"),
    ("endpoints:\n- name: a\n  address: h\n  port: 65536", "f:4:3: endpoints[0].port: 65536 is no port"),
    ("endpoints:\n- name: a\n  address: h\n  port: http", "f:4:3: endpoints[0].port: \"http\" is no port"),
    (
        "endpoints:\n- name: a\n  address: h\n  port: -1",
        "f:4:3: endpoints[0].port: expected a whole number or text, found -1",
    ),
    (
        "endpoints:\n- name: a\n  address: h\n  port: 1\n  metricsPort: 0",
        "f:5:3: endpoints[0].metricsPort: 0 is no port",
    ),
    (
        "endpoints:\n- name: a\n  port: 1\n  address: 10.0.0.1:80",
        "f:4:3: endpoints[0].address: \"10.0.0.1:80\" has a port in it",
    ),
    ("endpoints:\n- name: a\n  port: 1\n  address: http://h", "f:4:3: endpoints[0].address: \"http://h\" is a URL"),
    (
        "endpoints:\n- name: a\n  port: 1\n  address: 10.0.0.256",
        "f:4:3: endpoints[0].address: \"10.0.0.256\" is neither an IP address nor a DNS name",
    ),
    (
        "endpoints:\n- name: a\n  port: 1\n  address: 0.0.0.0",
        "f:4:3: endpoints[0].address: 0.0.0.0 is not the address of one server",
    ),
    (
        "endpoints:\n- name: a\n  port: 1\n  address: '[10.0.0.1]'",
        "f:4:3: endpoints[0].address: \"[10.0.0.1]\" is no IPv6 address",
    ),
    ("endpoints:\n- name: a\n  port: 1\n  address: ''", "f:4:3: endpoints[0].address: \"\" is neither"),
    (
        "endpoints:\n- {name: a, address: h, port: 1}\n- {name: a, address: i, port: 1}",
        "f:3:4: endpoints[1].name: \"a\" is the name of endpoints[0] already",
    ),
    (
        "endpoints:\n- {name: a, address: '::ffff:10.0.0.1', port: 1}\n- {name: b, address: 10.0.0.1, port: '1'}",
        "f:3:13: endpoints[1].address: the same address and port as endpoints[0]",
    ),
    (
        "endpoints:\n- {name: a, address: h, port: 1, engine: sglan}",
        "f:2:34: endpoints[0].engine: unknown engine \"sglan\"; did you mean \"sglang\"?",
    ),
    (
        "endpoints:\n- name: a\n  address: h\n  port: 1\n  labels:\n    version: 1",
        "f:6:5: endpoints[0].labels.version: expected text, found 1 (put it in quotes)",
    ),
    (
        "endpoints:\n- {name: a, address: h, port: 1, namespace: Team A}",
        "f:2:34: endpoints[0].namespace: \"Team A\" is no namespace",
    ),
    ("name: a/b/c\nendpoints: []", "f:1:1: name: \"a/b/c\" is no pool name: expected namespace/name"),
    ("pools: []", "f:1:1: pools: at least one pool is needed"),
    ("pools:\n- {endpoints: []}", "f:2:3: pools[0]: `name` is missing"),
    ("pools:\n- name: a\n- name: default/a", "f:3:3: pools[1].name: the pool default/a is at pools[0] already"),
    ("pools:\n- name: a\nendpoints: []", "f:3:1: endpoints: stands beside `pools`: move it into one of them"),
    (
        "pools:\n- name: a\n  scheduling:\n    fallbacks: many",
        "f:4:5: pools[0].scheduling.fallbacks: expected a whole number, found \"many\"",
    ),
    (
        "endpoints: []\nscheduling:\n  profile:\n    scorers:\n    - type: queue-scoer\n      weight: 2",
        "f:5:7: scheduling.profile.scorers[0].type: unknown scorer \"queue-scoer\"; did you mean \"queue-scorer\"?",
    ),
    (
        "endpoints: []\nscheduling:\n  profile:\n    scorers:\n    - {type: queue-scorer, weight: 1001}",
        "f:5:28: scheduling.profile.scorers[0].weight: 1001 is outside of 0.001 to 1000",
    ),
    (
        "endpoints: []\nscheduling:\n  telemetry:\n    interval: {idle: 10ms}",
        "f:4:5: scheduling.telemetry.interval.busy: 50ms is longer than `idle`, 10ms",
    ),
    (
        "endpoints: []\nscheduling: {profile: {picker: {type: random-picker, parameters: {a: 1}}}}",
        "f:2:67: scheduling.profile.picker.parameters.a: unknown field (none is known here)",
    ),
    (
        "endpoints: []\nserver:\n  limits: {maxBodysize: 1Mi}",
        "f:3:12: server.limits.maxBodysize: unknown field; did you mean \"maxBodySize\"?",
    ),
    (
        "endpoints: []\nserver: {limits: {maxBodySize: 1}}",
        "f:2:19: server.limits.maxBodySize: 1 bytes are outside of 1Ki to 1Gi",
    ),
    (
        "endpoints: []\nserver: {limits: {bufferBudget: 70, prefixIndex: 30}}",
        "f:2:19: server.limits.bufferBudget: with `prefixIndex` 100 % of memory",
    ),
    (
        "endpoints: []\nserver: {limits: {requestIdleTimeout: 0s}}",
        "f:2:19: server.limits.requestIdleTimeout: 0ns is outside of 1s to 24h",
    ),
    (
        "endpoints: []\nserver: {trust: {objective: urgent}}",
        "f:2:18: server.trust.objective: expected true or false, found \"urgent\"",
    ),
    (
        "endpoints: []\nscheduling:\n  models:\n  - targets: [{model: a, weight: 1}, {model: b}]",
        "f:4:5: scheduling.models[0].targets: 1 of 2 have a weight: give one to all of them, or to none",
    ),
    (
        "endpoints: []\nscheduling:\n  models:\n  - matches: [{modell: a}]\n    targets: [{model: b}]",
        "f:4:16: scheduling.models[0].matches[0].modell: unknown field; did you mean \"model\"?",
    ),
    ("endpoints: []\nscheduling: {}\nscheduling: {}", "f:3:1: the key \"scheduling\" is given twice"),
    ("endpoints: []\nscheduling: {a: [}", "f:2:"),
    ("endpoints: []\n  scheduling: {}", "f:2:"),
    ("endpoints: []\n\tscheduling: {}", "f:2:"),
    ("endpoints: []\n---\nendpoints: []", "f:"),
    ("endpoints: *nowhere", "f:1:12: "),
    ("endpoints: []\nscheduling: {fallbacks: .inf}", "f:2:25: "),
];

#[test]
fn each_wrong_file_is_refused_with_its_line_and_path() {
    let wrong = WRONG.iter().filter_map(|(text, expected)| {
        let report = refused(text);
        let right = report.starts_with(expected) && report.lines().count() == 1;
        (!right).then(|| format!("{text:?}:\n{report}expected\n{expected}\n"))
    });
    assert_eq!(wrong.collect::<Vec<_>>().join("\n"), "");
}

#[test]
fn all_problems_of_a_file_are_found_at_once_in_the_order_of_their_lines() {
    let report = refused(
        "server:
  limits: {maxStreams: 0}
  trust: {debug: true}
pools:
- name: a
  endpoints:
  - {name: x, address: 10.0.0.1, port: 8000}
  - {name: x, address: 10.0.0.1, port: eight}
  - {name: y, adress: 10.0.0.2, port: 8000}
  scheduling:
    profile:
      scorers:
      - {type: queue-scoer, weight: 2}
      - {type: prefix-cache-scorer, weight: -3}
    telemetry:
      timeout: 5
- name: a
  name: b
  scheduling: {fallback: 1}
- name: default/a
",
    );
    let expected = [
        "f:2:12: server.limits.maxStreams: 0 is outside of 1 to 1000000",
        "f:3:11: server.trust.debug: unknown field (known: objective)",
        "f:8:34: pools[0].endpoints[1].port: \"eight\" is no port: expected 1 to 65535",
        "f:9:5: pools[0].endpoints[2]: `address` is missing",
        "f:9:15: pools[0].endpoints[2].adress: unknown field; did you mean \"address\"?",
        "f:13:10: pools[0].scheduling.profile.scorers[0].type: unknown scorer \"queue-scoer\"; did you mean \
         \"queue-scorer\"?",
        "f:14:37: pools[0].scheduling.profile.scorers[1].weight: -3 is outside of 0.001 to 1000",
        "f:16:7: pools[0].scheduling.telemetry.timeout: expected a duration with a unit, such as 500ms, 10s or \
         1h30m, found 5",
        "f:17:3: pools[1].name: the pool default/a is at pools[0] already",
        "f:18:3: the key \"name\" is given twice",
        "f:19:16: pools[1].scheduling.fallback: unknown field; did you mean \"fallbacks\"?",
        "f:20:3: pools[2].name: the pool default/a is at pools[1] already",
    ];
    assert_eq!(report.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn engines_and_series_are_what_telemetry_knows() {
    use pointsman_telemetry::engines::{builtin_engines, check_series};
    assert_eq!(pointsman_core::config::BUILTIN_ENGINES, builtin_engines());
    let load_series = |text: &str| {
        let telemetry = serde_json::json!({"engines": [{"name": "mine", "waiting": text}]});
        loaded(&serde_json::json!({"endpoints": [], "scheduling": {"telemetry": telemetry}}).to_string());
    };
    for text in ["a", "a{}", "a:b{c=d}", "a{b=\"c,d\",e=f}", "a{ b = c , d=e}", "a{b=}"] {
        load_series(text);
        assert_eq!(check_series(text), Ok(()), "{text}");
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let report = refused(&bomb);
    assert_eq!(report.lines().count(), 1, "{report}");
    assert!(report.contains("the file holds too much"), "{report}");
}

#[test]
fn nesting_without_end_is_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let report = refused(&format!("endpoints: {}{}", open.repeat(5000), close.repeat(5000)));
        assert_eq!(report.lines().count(), 1, "{report}");
    }
    assert_eq!(refused(&"- ".repeat(50_000)).lines().count(), 1);
}

#[test]
fn a_file_over_the_size_or_not_there_or_not_text_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let report = |path: &Path| render_problems("f", &load(path, &Registry::default()).map(|_| ()).unwrap_err());
    assert!(report(&path).starts_with("f: cannot be read: "));
    std::fs::write(&path, "# \n".repeat(2 << 20)).unwrap();
    assert_eq!(report(&path), "f: the file has more than 4 MiB\n");
    std::fs::write(&path, b"endpoints: []\n# \xff\n").unwrap();
    assert_eq!(report(&path), "f:2:1: the file is not UTF-8 text from here on\n");
}

#[test]
fn sixteen_thousand_endpoints_load() {
    let mut text = String::from("endpoints:\n");
    for at in 0..16_000 {
        let address = format!("10.{}.{}.{}", at >> 14, (at >> 7) & 127, at & 127);
        text.push_str(&format!("- {{name: server-{at}, address: {address}, port: 8000, labels: {{a: b, c: d}}}}\n"));
    }
    assert_eq!(loaded(&text).pools[0].endpoints.len(), 16_000);
}

#[test]
fn a_report_of_a_hostile_file_is_bounded() {
    let text = format!("endpoints: []\n{}", (0..10_000).map(|n| format!("zz{n}: 1\n")).collect::<String>());
    assert!(refused(&text).lines().count() <= 500);
}

/// Any JSON, with our own field names among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "name",
        "endpoints",
        "pools",
        "scheduling",
        "server",
        "limits",
        "trust",
        "address",
        "port",
        "labels",
        "engine",
        "metricsPort",
        "namespace",
        "maxBodySize",
        "bufferBudget",
        "profile",
        "scorers",
        "type",
        "other",
    ]);
    let text = prop_oneof![Just(String::from("10.0.0.1")), Just(String::from("8000")), ".{0,12}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone().prop_map(String::from), inner), 0..6)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics_and_every_problem_has_a_line_within_the_file(raw in any_json()) {
        let text = serde_json::to_string_pretty(&raw).unwrap();
        if let Err(problems) = parse(&text, &Registry::default()) {
            prop_assert!(!problems.is_empty());
            let lines = text.lines().count();
            for problem in problems {
                prop_assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?} in {text}");
            }
        }
    }

    #[test]
    fn no_text_panics(text in "[-a-z:{}\\[\\]&*!|>'\"%@`#, \n\t0-9]{0,200}") {
        let _ = parse(&text, &Registry::default());
    }

    #[test]
    fn no_cut_of_a_good_file_panics(at in 0usize..1200) {
        let text = include_str!("../../../../examples/two-pools.yaml");
        let cut: String = text.chars().take(at).collect();
        let _ = parse(&cut, &Registry::default());
    }
}
