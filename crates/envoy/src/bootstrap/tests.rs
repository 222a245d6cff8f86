//! Claims about the bootstrap's fields. That Envoy takes it, and does what it says, the suite shows.

use super::*;
use crate::parts::duration;
use crate::wiring::{EXT_PROC_FILTER, HEADER_MUTATION_FILTER, ROUTER_FILTER};

const PICKER: &str = "127.0.0.1:9002";
const EDS: &str = "127.0.0.1:9005";
const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn peer(text: &str) -> Peer {
    Peer::plaintext([address(text)])
}

fn pool(name: &str, port: u16) -> PoolWiring {
    PoolWiring::new(name, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn options(pools: Vec<PoolWiring>) -> BootstrapOptions {
    BootstrapOptions::new(peer(PICKER), peer(EDS), pools)
}

fn made(pools: Vec<PoolWiring>) -> Value {
    bootstrap(&options(pools)).unwrap()
}

fn cluster<'a>(made: &'a Value, name: &str) -> &'a Value {
    let clusters = made["static_resources"]["clusters"].as_array().unwrap();
    clusters.iter().find(|cluster| cluster["name"] == name).unwrap_or_else(|| panic!("no cluster {name}"))
}

fn manager(made: &Value, listener: usize) -> &Value {
    made["static_resources"]["listeners"][listener].pointer(MANAGER).unwrap()
}

fn filter_names(manager: &Value) -> Vec<&str> {
    manager["http_filters"].as_array().unwrap().iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

fn policy(cluster: &Value) -> &Value {
    &cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]
}

fn fallback(cluster: &Value) -> &Value {
    &policy(cluster)["typed_config"]["fallback_policy"]["policies"][0]["typed_extension_config"]
}

#[test]
fn a_client_cannot_name_a_destination() {
    let made = made(vec![pool("default/a", 80)]);
    let filters = &manager(&made, 0)["http_filters"];
    assert_eq!(filter_names(manager(&made, 0)), [HEADER_MUTATION_FILTER, EXT_PROC_FILTER, ROUTER_FILTER]);
    let removed = filters[0]["typed_config"]["mutations"]["request_mutations"].as_array().unwrap();
    let removed: Vec<_> = removed.iter().map(|mutation| mutation["remove"].as_str().unwrap()).collect();
    assert_eq!(removed, pointsman_core::control_headers::DESTINATIONS);
    let config = &policy(cluster(&made, "pool/default/a"))["typed_config"];
    let sources = json!([{"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}}]);
    assert_eq!(config["override_host_sources"], sources);
    let served = json!({"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint-served"}]});
    assert_eq!(config["selected_host_key"], served);
}

#[test]
fn a_pool_fails_as_it_is_asked_to() {
    let open = PoolWiring { failure_mode: FailureMode::Open, ..pool("default/open", 81) };
    let made = made(vec![pool("default/closed", 80), open]);
    let allow = |listener: usize| {
        let route = &manager(&made, listener)["route_config"]["virtual_hosts"][0]["routes"][0];
        route["typed_per_filter_config"][EXT_PROC_FILTER]["overrides"]["failure_mode_allow"].clone()
    };
    assert_eq!((allow(0), allow(1)), (json!(false), json!(true)));
    let closed = fallback(cluster(&made, "pool/default/closed"));
    assert_eq!(closed["name"], "envoy.load_balancing_policies.subset");
    assert_eq!(closed["typed_config"]["fallback_policy"], "NO_FALLBACK");
    assert_eq!(closed["typed_config"]["subset_selectors"], json!([{"keys": ["pointsman-none"]}]));
    assert_eq!(fallback(cluster(&made, "pool/default/open"))["name"], "envoy.load_balancing_policies.least_request");
    let ext_proc = &manager(&made, 0)["http_filters"][1]["typed_config"];
    assert_eq!(ext_proc["status_on_error"]["code"], 503);
    assert_eq!(ext_proc["failure_mode_allow"], false);
}

#[test]
fn the_picker_is_told_the_pool_and_shown_bodies_as_asked() {
    let cases = [
        (BodyMode::FullDuplex, "FULL_DUPLEX_STREAMED", "SEND"),
        (BodyMode::Streamed, "STREAMED", "SEND"),
        (BodyMode::Buffered, "BUFFERED", "SKIP"),
        (BodyMode::BufferedPartial, "BUFFERED_PARTIAL", "SKIP"),
        (BodyMode::None, "NONE", "SKIP"),
    ];
    for (mode, body, trailers) in cases {
        let both = PoolWiring { request_body: mode, response_body: mode, ..pool("ns/a", 80) };
        let made = made(vec![both]);
        let config = &manager(&made, 0)["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"];
        let overrides = &config[EXT_PROC_FILTER]["overrides"];
        assert_eq!(
            overrides["grpc_initial_metadata"],
            json!([{"key": "x-pointsman-pool", "value": "ns/a"}, {"key": "x-pointsman-destinations", "value": "list"}])
        );
        let expected = json!({
            "request_header_mode": "SEND", "request_body_mode": body, "request_trailer_mode": trailers,
            "response_header_mode": "SEND", "response_body_mode": body, "response_trailer_mode": trailers,
        });
        assert_eq!(overrides["processing_mode"], expected);
    }
}

#[test]
fn the_metadata_of_the_protocol_goes_both_ways_and_a_subset_is_told() {
    let narrowed = PoolWiring { subset: Some(vec![address("[fd00::1]:8000")]), ..pool("ns/a", 80) };
    let none = PoolWiring { subset: Some(Vec::new()), hosts: vec!["b".to_owned()], ..pool("ns/b", 80) };
    let made = made(vec![narrowed, none]);
    let manager = manager(&made, 0);
    let (a, b) = ("pointsman.subset.pool/ns/a", "pointsman.subset.pool/ns/b");
    assert_eq!(filter_names(manager), [HEADER_MUTATION_FILTER, a, b, EXT_PROC_FILTER, ROUTER_FILTER]);
    let metadata = |filter: usize| &manager["http_filters"][filter]["typed_config"]["metadata"][0];
    assert_eq!(metadata(1)["metadata_namespace"], "envoy.lb.subset_hint");
    assert_eq!(metadata(1)["value"], json!({"x-gateway-destination-endpoint-subset": ["[fd00::1]:8000"]}));
    assert_eq!(metadata(2)["value"], json!({"x-gateway-destination-endpoint-subset": []}));
    let hosts = manager["route_config"]["virtual_hosts"].as_array().unwrap();
    let enabled = |host: &Value| {
        let config = host["routes"][0]["typed_per_filter_config"].as_object().unwrap();
        config.keys().cloned().collect::<Vec<_>>()
    };
    let hosts: Vec<_> = hosts.iter().map(|host| (host["domains"].clone(), enabled(host))).collect();
    let expected = [
        (json!(["*"]), vec![EXT_PROC_FILTER.to_owned(), a.to_owned()]),
        (json!(["b"]), vec![EXT_PROC_FILTER.to_owned(), b.to_owned()]),
    ];
    assert_eq!(hosts, expected);
    let options = &manager["http_filters"][3]["typed_config"]["metadata_options"];
    assert_eq!(options["forwarding_namespaces"]["untyped"], json!(["envoy.lb", "envoy.lb.subset_hint"]));
    assert_eq!(options["receiving_namespaces"]["untyped"], json!(["envoy.lb"]));
}

#[test]
fn nothing_of_envoys_own_limits_cuts_a_long_response_or_many_of_them() {
    let made = made(vec![pool("default/a", 80)]);
    let route = &manager(&made, 0)["route_config"]["virtual_hosts"][0]["routes"][0];
    assert_eq!(route["route"]["timeout"], "0s");
    assert_eq!(route["route"]["retry_policy"], json!({"retry_on": "connect-failure", "num_retries": 1}));
    assert_eq!(route["request_body_buffer_limit"], 32 << 20);
    assert_eq!(manager(&made, 0)["stream_idle_timeout"], "330s");
    assert_eq!(manager(&made, 0)["common_http_protocol_options"], Value::Null);
    for name in ["pool/default/a", PICKER_CLUSTER] {
        let threshold = &cluster(&made, name)["circuit_breakers"]["thresholds"][0];
        for limit in ["max_connections", "max_pending_requests", "max_requests", "max_retries"] {
            assert_eq!(threshold[limit], 10_000, "{name} {limit}");
        }
    }
}

#[test]
fn a_dead_picker_is_noticed_within_a_second_or_a_request() {
    let made = made(vec![pool("default/a", 80)]);
    let picker = cluster(&made, PICKER_CLUSTER);
    let check = json!({
        "interval": "1s", "no_traffic_interval": "1s", "timeout": "1s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "grpc_health_check": {"authority": "pointsman"},
    });
    assert_eq!(picker["health_checks"], json!([check]));
    assert_eq!(picker["common_lb_config"]["healthy_panic_threshold"]["value"], 0);
    let outliers = &picker["outlier_detection"];
    assert_eq!((&outliers["interval"], &outliers["base_ejection_time"]), (&json!("0.5s"), &json!("1s")));
    assert_eq!(outliers["consecutive_local_origin_failure"], 1);
    assert_eq!(outliers["always_eject_one_host"], true);
    let http = &picker["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    let keepalive = &http["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"];
    assert_eq!(keepalive, &json!({"interval": "1s", "timeout": "1s", "connection_idle_interval": "1s"}));
}

#[test]
fn endpoints_come_from_the_pickers_service_under_the_pools_name() {
    let made = made(vec![pool("default/a", 80)]);
    let config = &cluster(&made, "pool/default/a")["eds_cluster_config"];
    assert_eq!(config["service_name"], "default/a");
    assert_eq!(config["eds_config"]["initial_fetch_timeout"], "0s");
    let source = &config["eds_config"]["api_config_source"];
    assert_eq!(source["api_type"], "GRPC");
    let service = &source["grpc_services"][0]["envoy_grpc"];
    assert_eq!(service["cluster_name"], EDS_CLUSTER);
    let pause = json!({"base_interval": "0.5s", "max_interval": "1s"});
    assert_eq!(service["retry_policy"]["retry_back_off"], pause);
    assert_eq!(cluster(&made, EDS_CLUSTER)["type"], "STATIC");
}

#[test]
fn tls_is_verified_by_authority_and_name() {
    let ca = Pem::File("/tls/ca.crt".to_owned());
    let client = Some((Pem::File("/tls/tls.crt".to_owned()), Pem::Inline("KEY".to_owned())));
    let named = PeerTls { ca: ca.clone(), server_name: "picker.ns.svc".to_owned(), client };
    let mut by_name = options(vec![pool("default/a", 80)]);
    by_name.picker = Peer { addresses: vec!["picker.ns.svc:9002".parse().unwrap()], tls: Some(named) };
    let by_address = PeerTls { ca, server_name: "127.0.0.1".to_owned(), client: None };
    by_name.eds = Peer::verified([address(EDS)], by_address);
    let made = bootstrap(&by_name).unwrap();
    let picker = cluster(&made, PICKER_CLUSTER);
    assert_eq!(picker["cluster_type"]["typed_config"]["dns_lookup_family"], "ALL");
    assert_eq!(picker.get("type"), None);
    let tls = &picker["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "picker.ns.svc");
    let common = &tls["common_tls_context"];
    assert_eq!(common["alpn_protocols"], json!(["h2"]));
    assert_eq!(common["validation_context"]["trusted_ca"], json!({"filename": "/tls/ca.crt"}));
    let names = json!([{"san_type": "DNS", "matcher": {"exact": "picker.ns.svc"}}]);
    assert_eq!(common["validation_context"]["match_typed_subject_alt_names"], names);
    assert_eq!(common["tls_certificates"][0]["private_key"], json!({"inline_string": "KEY"}));
    let tls = &cluster(&made, EDS_CLUSTER)["transport_socket"]["typed_config"];
    assert_eq!(tls.get("sni"), None);
    let names = json!([{"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}]);
    assert_eq!(tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"], names);
    assert!(!format!("{by_name:?}").contains("KEY"));
}

#[test]
fn comparison_asks_no_picker_and_still_strips_headers() {
    let cases = [(Balancer::RoundRobin, "round_robin"), (Balancer::LeastRequest, "least_request")];
    for (balancer, name) in cases {
        let mut options = options(vec![PoolWiring { balancer, ..pool("default/a", 80) }]);
        options.picker.addresses.clear();
        let made = bootstrap(&options).unwrap();
        assert_eq!(filter_names(manager(&made, 0)), [HEADER_MUTATION_FILTER, ROUTER_FILTER]);
        let policy = &policy(cluster(&made, "pool/default/a"))["name"];
        assert_eq!(policy, &format!("envoy.load_balancing_policies.{name}"));
        let clusters = made["static_resources"]["clusters"].as_array().unwrap();
        assert!(clusters.iter().all(|cluster| cluster["name"] != PICKER_CLUSTER));
    }
}

#[test]
fn one_pool_may_be_wired_twice_and_two_may_share_a_listener() {
    let again = PoolWiring { balancer: Balancer::RoundRobin, ..pool("default/a", 81) };
    let deeper = PoolWiring { prefix: "/b/".to_owned(), ..pool("default/b", 80) };
    let made = made(vec![pool("default/a", 80), again, deeper]);
    for name in ["pool/default/a", "pool/default/a/2"] {
        assert_eq!(cluster(&made, name)["eds_cluster_config"]["service_name"], "default/a");
    }
    assert_eq!(made["static_resources"]["listeners"].as_array().unwrap().len(), 2);
    let routes = manager(&made, 0)["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap();
    let routes: Vec<_> = routes.iter().map(|route| (&route["match"]["prefix"], &route["route"]["cluster"])).collect();
    let (b, a) = ((json!("/b/"), json!("pool/default/b")), (json!("/"), json!("pool/default/a")));
    assert_eq!(routes, [(&b.0, &b.1), (&a.0, &a.1)]);
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let mut no_picker = options(vec![pool("default/a", 80)]);
    no_picker.picker.addresses.clear();
    let mut no_eds = options(vec![pool("default/a", 80)]);
    no_eds.eds.addresses.clear();
    let prefix = PoolWiring { prefix: "v1".to_owned(), ..pool("default/a", 80) };
    let cases = [
        (options(vec![]), "no pool is wired: Envoy would listen nowhere"),
        (options(vec![pool("", 80)]), "the pool that listens on 127.0.0.1:80 has no name"),
        (no_picker, "the picker has no address"),
        (no_eds, "the server of endpoints has no address"),
        (options(vec![prefix]), r#"pool default/a: the prefix "v1" does not begin with a slash"#),
        (
            options(vec![pool("default/a", 80), pool("default/b", 80)]),
            "pools default/a and default/b on 127.0.0.1:80 both take */: give them different hosts or prefixes",
        ),
    ];
    for (options, reason) in cases {
        assert_eq!(bootstrap(&options).unwrap_err().to_string(), reason);
    }
}

#[test]
fn yaml_says_what_json_says() {
    let mut options = options(vec![PoolWiring { subset: Some(Vec::new()), ..pool("1/2", 80) }]);
    options.admin = Some(address("[::1]:9901"));
    options.picker = Peer { addresses: vec!["picker.ns.svc:9002".parse().unwrap()], tls: None };
    let made = bootstrap(&options).unwrap();
    assert_eq!(made["admin"]["address"]["socket_address"], json!({"address": "::1", "port_value": 9901}));
    let yaml = to_yaml(&made);
    assert!(!yaml.starts_with('{'), "{yaml}");
    let read: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, made);
}

#[test]
fn durations_and_addresses_are_written_as_envoy_reads_them() {
    let durations = [(0, "0s"), (500, "0.5s"), (1_000, "1s"), (1_050, "1.05s"), (300_000, "300s"), (10_000, "10s")];
    for (milliseconds, text) in durations {
        assert_eq!(duration(Duration::from_millis(milliseconds)), text);
    }
    for text in ["10.0.0.7:9002", "[fd00::7]:9002", "picker.ns.svc:9002"] {
        assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
    }
    for text in ["", "picker", ":9002", "picker:", "picker:99999", "fd00::7:9002", "dns:///picker:9002", "a b:1"] {
        assert!(text.parse::<PeerAddress>().is_err(), "{text}");
    }
}
