//! What the Cluster hook tells the Translation hook: the pools of a rule, which the latter is not shown. It stands in the
//! cluster's own metadata, so that neither a restart nor another replica misses it, and is taken out again there.

use bytes::Bytes;
use pointsman_envoy::wire::{Change, FieldValue, Message, WireError, put_bytes};
use pointsman_envoy::wiring::{EndpointProtocol, FailureMode};
use serde::{Deserialize, Serialize};

use crate::picture::{ObjectName, PickerRef};

/// The namespace of the metadata.
const NAMESPACE: &str = "pointsman.dev";
/// The key in it.
const KEY: &str = "pools";
/// `Cluster.metadata`, and `Metadata.filter_metadata`.
const METADATA: u32 = 25;
const FILTER_METADATA: u32 = 1;
/// How many pools of one rule are read. Gateway API allows sixteen backendRefs.
const POOLS_MAX: usize = 64;

/// A pool, as far as xDS is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StampedPool {
    /// `namespace/name`.
    pub name: ObjectName,
    /// Whether its endpoints speak HTTP/2 in plaintext.
    pub is_h2c: bool,
    /// Whether its requests go on while the picker is away.
    pub is_fail_open: bool,
    /// Who picks.
    pub picker: StampedPicker,
}

/// Who picks among a pool's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StampedPicker {
    /// Nobody: the pool names no picker.
    None,
    /// The one behind a Service.
    Service(PickerRef),
    /// Something that is no Service, which nobody can ask.
    Unsupported,
}

impl StampedPool {
    /// The protocol of its endpoints.
    pub fn protocol(&self) -> EndpointProtocol {
        if self.is_h2c { EndpointProtocol::H2c } else { EndpointProtocol::Http1 }
    }

    /// What happens while the picker is away.
    pub fn failure_mode(&self) -> FailureMode {
        if self.is_fail_open { FailureMode::Open } else { FailureMode::Closed }
    }

    /// Reads an `InferencePool` as Envoy Gateway shows it; `None` for any other object.
    pub fn read(json: &[u8]) -> Option<Self> {
        let object: Object = serde_json::from_slice(json).ok()?;
        if object.kind != "InferencePool" || object.api_version != "inference.networking.k8s.io/v1" {
            return None;
        }
        let Metadata { namespace, name } = object.metadata;
        let picker = match &object.spec.endpoint_picker_ref {
            None => StampedPicker::None,
            Some(picker) => picker.stamped(&namespace),
        };
        Some(Self {
            name: format!("{namespace}/{name}"),
            is_h2c: object.spec.app_protocol.as_deref() == Some("kubernetes.io/h2c"),
            is_fail_open: object
                .spec
                .endpoint_picker_ref
                .is_some_and(|picker| picker.failure_mode.as_deref() == Some("FailOpen")),
            picker,
        })
    }
}

/// What is read of an `InferencePool`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    app_protocol: Option<String>,
    endpoint_picker_ref: Option<EndpointPickerRef>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointPickerRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    port: Option<Port>,
    failure_mode: Option<String>,
}

#[derive(Deserialize)]
struct Port {
    number: u16,
}

impl EndpointPickerRef {
    fn stamped(&self, namespace: &str) -> StampedPicker {
        let is_service = self.group.as_deref().unwrap_or_default().is_empty()
            && self.kind.as_deref().unwrap_or("Service") == "Service";
        match &self.port {
            Some(port) if is_service => StampedPicker::Service(PickerRef {
                namespace: namespace.to_owned(),
                name: self.name.clone(),
                port: port.number,
            }),
            _ => StampedPicker::Unsupported,
        }
    }
}

/// The Cluster hook: the cluster with its rule's pools in its metadata; `None` where there are none.
pub fn stamp<'a>(cluster: &[u8], objects: impl Iterator<Item = &'a [u8]>) -> Result<Option<Bytes>, WireError> {
    let pools: Vec<_> = objects.filter_map(StampedPool::read).take(POOLS_MAX).collect();
    if pools.is_empty() {
        return Ok(None);
    }
    let cluster = Message::read(cluster)?;
    let text = serde_json::to_string(&pools).unwrap_or_default();
    let mut metadata = cluster.bytes(METADATA).unwrap_or_default().to_vec();
    put_bytes(&mut metadata, FILTER_METADATA, &entry(&text));
    let mut added = Vec::new();
    put_bytes(&mut added, METADATA, &metadata);
    Ok(Some(cluster.replaced(&[METADATA], &added).into()))
}

/// What a stamped cluster says.
pub(crate) struct Unstamped {
    /// Its rule's pools.
    pub(crate) pools: Vec<StampedPool>,
    /// Its metadata without them.
    pub(crate) metadata: Vec<u8>,
}

/// Reads a stamp; `None` where there is none of ours.
pub(crate) fn unstamp(cluster: &Message<'_>) -> Result<Option<Unstamped>, WireError> {
    let metadata = cluster.message(METADATA)?;
    let mut pools = None;
    let mut failure = None;
    let metadata = metadata.changed(
        |field| match read_entry(field.number, &field.value) {
            Ok(Some(found)) => {
                pools = Some(found);
                Change::Drop
            }
            Ok(None) => Change::Keep,
            Err(error) => {
                failure = Some(error);
                Change::Keep
            }
        },
        &[],
    );
    match failure {
        Some(error) => Err(error),
        None => Ok(pools.map(|pools| Unstamped { pools, metadata })),
    }
}

fn read_entry(number: u32, value: &FieldValue<'_>) -> Result<Option<Vec<StampedPool>>, WireError> {
    let FieldValue::Bytes(entry) = value else { return Ok(None) };
    let entry = Message::read(entry)?;
    if number != FILTER_METADATA || entry.text(1) != NAMESPACE {
        return Ok(None);
    }
    for member in entry.message(2)?.all(1) {
        let member = Message::read(member)?;
        if member.text(1) == KEY {
            return Ok(serde_json::from_str(member.message(2)?.text(3)).ok());
        }
    }
    Ok(None)
}

/// `filter_metadata[NAMESPACE] = {KEY: text}`.
fn entry(text: &str) -> Vec<u8> {
    let (mut value, mut member, mut fields, mut entry) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut value, 3, text.as_bytes());
    put_bytes(&mut member, 1, KEY.as_bytes());
    put_bytes(&mut member, 2, &value);
    put_bytes(&mut fields, 1, &member);
    put_bytes(&mut entry, 1, NAMESPACE.as_bytes());
    put_bytes(&mut entry, 2, &fields);
    entry
}
