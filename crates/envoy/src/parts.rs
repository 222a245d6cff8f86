//! The parts of an Envoy's configuration, in Envoy's JSON: [`crate::bootstrap`] puts them together for an Envoy of one's
//! own, and [`crate::xds`] for one that a control plane configures.

pub(crate) mod cluster;
pub(crate) mod ext_proc;
pub(crate) mod peer;

use std::time::Duration;

use serde_json::{Value, json};

/// An address in Envoy's form.
pub(crate) fn socket_address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// A duration in protobuf's JSON form: seconds with a fraction and an `s`.
pub(crate) fn duration(duration: Duration) -> Value {
    let mut seconds = format!("{:.3}", duration.as_secs_f64());
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    json!(format!("{seconds}s"))
}

/// A member of an `Any`: the type that Envoy is to read `config` as, added to it.
pub(crate) fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    config
}
