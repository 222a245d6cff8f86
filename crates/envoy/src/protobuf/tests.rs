//! Claims about the schema and what is encoded by it, held against `envoy-types`.

use std::collections::BTreeMap;
use std::fs;

use cargo_metadata::MetadataCommand;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use serde_json::json;

use super::*;

/// Fields by message and name, and values by enum and name, each as a text that says all that goes over the wire.
fn told(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for file in &set.file {
        file.message_type.iter().for_each(|message| tell(&mut told, file.package(), message));
        file.enum_type.iter().for_each(|of_file| tell_enum(&mut told, file.package(), of_file));
    }
    told
}

fn tell(told: &mut BTreeMap<String, String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let text = format!("{} {:?} {:?} {}", field.number(), field.label(), field.r#type(), field.type_name());
        told.insert(format!("{name}.{}", field.name()), text);
    }
    message.nested_type.iter().for_each(|nested| tell(told, &name, nested));
    message.enum_type.iter().for_each(|nested| tell_enum(told, &name, nested));
}

fn tell_enum(told: &mut BTreeMap<String, String>, scope: &str, of_scope: &EnumDescriptorProto) {
    for value in &of_scope.value {
        told.insert(format!("{scope}.{}.{}", of_scope.name(), value.name()), value.number().to_string());
    }
}

#[test]
fn proto_says_what_envoys_api_says() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap();
    let upstream = metadata.packages.iter().find(|package| package.name == "envoy-types").unwrap();
    let file = upstream.manifest_path.with_file_name("src/generated/types.bin");
    let upstream = told(&FileDescriptorSet::decode(fs::read(file).unwrap().as_slice()).unwrap());
    let ours = told(&FileDescriptorSet::decode(DESCRIPTORS).unwrap());
    assert!(ours.len() > 150, "{}", ours.len());
    for (name, text) in ours {
        // A plain number, which is the same on the wire: `proto/README.md`.
        if name == "envoy.type.v3.HttpStatus.code" {
            continue;
        }
        assert_eq!(upstream.get(&name), Some(&text), "{name}");
    }
}

#[test]
fn every_form_of_value_arrives() {
    let value = json!({
        "name": "picker",
        "type": "STATIC",
        "connect_timeout": "2.5s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 12.5}},
        "outlier_detection": {"consecutive_5xx": 3, "always_eject_one_host": true},
        "health_checks": [{"interval": "1s"}, {"interval": "0.000000001s"}],
        "typed_extension_protocol_options": {
            "b": {"@type": "type.googleapis.com/envoy.type.v3.Percent", "value": 1.0},
            "a": {"@type": "type.googleapis.com/envoy.type.v3.HttpStatus", "code": 503},
        },
    });
    let encoded = encode("envoy.config.cluster.v3.Cluster", &value).unwrap();
    assert_eq!(encode("envoy.config.cluster.v3.Cluster", &value).unwrap(), encoded);
    let cluster = Cluster::decode(encoded.as_slice()).unwrap();
    assert_eq!(cluster.name, "picker");
    assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(0)));
    let connect = cluster.connect_timeout.unwrap();
    assert_eq!((connect.seconds, connect.nanos), (2, 500_000_000));
    assert_eq!(cluster.common_lb_config.unwrap().healthy_panic_threshold.unwrap().value, 12.5);
    let outliers = cluster.outlier_detection.unwrap();
    assert_eq!(outliers.consecutive_5xx.unwrap().value, 3);
    assert!(outliers.always_eject_one_host.unwrap().value);
    let nanos: Vec<_> = cluster.health_checks.iter().map(|check| check.interval.as_ref().unwrap().nanos).collect();
    assert_eq!(nanos, [0, 1]);
    let options = cluster.typed_extension_protocol_options;
    assert_eq!(options["a"].type_url, "type.googleapis.com/envoy.type.v3.HttpStatus");
    assert_eq!(options["a"].value, [8, 0xf7, 3]);
    assert_eq!(options["b"].value.len(), 9);
}

#[test]
fn what_the_schema_does_not_know_is_refused_by_name() {
    let table = [
        (json!({"nam": "x"}), "envoy.config.cluster.v3.Cluster: there is no field nam"),
        (json!({"name": 1}), "envoy.config.cluster.v3.Cluster: name: 1 is of another type"),
        (json!({"type": "EDDS"}), "type: envoy.config.cluster.v3.Cluster.DiscoveryType has no EDDS"),
        (json!({"health_checks": 3}), "health_checks: it is no list"),
        (json!({"connect_timeout": "soon"}), "connect_timeout: google.protobuf.Duration: \"soon\" is no duration"),
        (json!({"cluster_type": {"typed_config": {}}}), "there is no such message in proto/"),
        (json!([]), "it is no object"),
    ];
    for (value, why) in table {
        let error = encode("envoy.config.cluster.v3.Cluster", &value).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
