//! What the picker needs to know of an InferencePool, whichever version it is of.

use std::collections::BTreeMap;
use std::fmt::Debug;

use kube::Resource;
use serde::de::DeserializeOwned;

use super::PoolGroup;

/// A pool as the picker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// The labels that a member pod has, all of them. Empty selects nothing.
    pub selector: BTreeMap<String, String>,
    /// Each ready pod is one endpoint on each of these, in the order in which they stand in the pool.
    pub target_ports: Vec<u16>,
    /// What the members speak.
    pub app_protocol: AppProtocol,
    /// Where the gateway finds the picker; absent when the pool names none.
    pub picker: Option<PickerRef>,
}

/// What the members of a pool speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 with prior knowledge, in plaintext.
    H2c,
}

/// Where the gateway finds a pool's picker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickerRef {
    /// The referent's group, empty for the core group.
    pub group: String,
    /// The referent's kind, `Service` as a rule.
    pub kind: String,
    /// The referent's name, in the pool's namespace.
    pub name: String,
    /// The Service's port; absent for other kinds, which may know it themselves.
    pub port: Option<u16>,
    /// What the gateway does with requests while the picker is away.
    pub failure_mode: FailureMode,
}

/// What the gateway does with requests while the picker is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailureMode {
    /// They go to any endpoint of the pool.
    FailOpen,
    /// They fail.
    #[default]
    FailClose,
}

/// An InferencePool of any version.
pub trait Pool: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// The group of this version.
    const GROUP: PoolGroup;

    /// What the object says, with its defaults.
    fn resolved(&self) -> PoolSpec;
}

impl PoolSpec {
    /// Whether a pod with these labels is a member.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether `other` makes the same endpoints of the same pods.
    pub(crate) fn has_members_of(&self, other: &Self) -> bool {
        (&self.selector, &self.target_ports) == (&other.selector, &other.target_ports)
    }
}

impl PickerRef {
    /// The name of the picker's Service, when it is a Service.
    pub fn service(&self) -> Option<&str> {
        (self.group.is_empty() && self.kind == "Service").then_some(&*self.name)
    }
}

impl AppProtocol {
    /// The protocol of that name; what is not known is HTTP/1.1, which every model server speaks.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("kubernetes.io/h2c") => Self::H2c,
            _ => Self::Http,
        }
    }
}

impl FailureMode {
    /// The mode of that name; what is not known is the safe one.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("FailOpen") => Self::FailOpen,
            _ => Self::FailClose,
        }
    }
}

/// A port as it is written; absent when it is none.
pub(super) fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
