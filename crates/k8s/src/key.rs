//! The name of an object within a cluster and a kind.

use std::fmt;
use std::sync::Arc;

/// Namespace and name of a namespaced object. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object; one without a namespace, which the API server never sends, has an empty one.
    pub fn of(object: &kube::api::ObjectMeta) -> Self {
        Self::new(object.namespace.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
