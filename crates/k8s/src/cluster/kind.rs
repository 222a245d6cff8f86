//! The kinds that are watched, each with its API, what is kept of its objects, and the sight that they are.

use std::convert::Infallible;
use std::fmt::{self, Debug};

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::ObjectMeta;
use kube::core::{DeserializeGuard, DynamicResourceScope, NamespaceResourceScope};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::Message;
use crate::api::{GROUP, InferencePool, InferencePoolV1Alpha2, ModelGroup, PoolGroup};
use crate::facts::{PodFacts, SliceFacts, keep, keep_pool};
use crate::index::{Scope, Sight};
use crate::watch::{Observed, Told, watch};

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// InferencePool, in one of its groups.
    Pool(PoolGroup),
    /// Pod.
    Pod,
    /// EndpointSlice.
    Slice,
    /// SchedulingPolicy.
    Policy,
    /// InferenceModel.
    Model,
    /// InferenceObjective, in one of its groups.
    Objective(ModelGroup),
    /// InferenceModelRewrite, in one of its groups.
    Rewrite(ModelGroup),
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Pool(PoolGroup::Stable),
        Self::Pool(PoolGroup::Experimental),
        Self::Pod,
        Self::Slice,
        Self::Policy,
        Self::Model,
        Self::Objective(ModelGroup::LlmD),
        Self::Objective(ModelGroup::Experimental),
        Self::Rewrite(ModelGroup::LlmD),
        Self::Rewrite(ModelGroup::Experimental),
    ];

    /// Those that say which endpoints a pool has: the pools of the group that routes name, what they select, and the
    /// policies, one of which may name a Service instead.
    pub const MEMBERSHIP: [Self; 4] = [Self::Pool(PoolGroup::Stable), Self::Pod, Self::Slice, Self::Policy];

    /// Group, empty for the core group, and plural, as RBAC rules name them.
    pub const fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Pool(group) => (group.as_str(), "inferencepools"),
            Self::Pod => ("", "pods"),
            Self::Slice => ("discovery.k8s.io", "endpointslices"),
            Self::Policy => (GROUP, "schedulingpolicies"),
            Self::Model => (PoolGroup::Experimental.as_str(), "inferencemodels"),
            Self::Objective(group) => (group.as_str(), "inferenceobjectives"),
            Self::Rewrite(group) => (group.as_str(), "inferencemodelrewrites"),
        }
    }

    /// That the kind is not there; `None` for those of which that is never believed ([`super::absence`]).
    pub(super) fn absence(self) -> Option<Sight> {
        match self {
            Self::Pool(_) | Self::Pod | Self::Slice => None,
            Self::Policy => Some(Sight::Policy(Observed::Absent)),
            Self::Model => Some(Sight::Model(Observed::Absent)),
            Self::Objective(group) => Some(Sight::Objective(group, Observed::Absent)),
            Self::Rewrite(group) => Some(Sight::Rewrite(group, Observed::Absent)),
        }
    }

    /// Watches the kind within the scope, and tells all that it sees.
    pub(super) fn watch(
        self,
        client: Client,
        scope: &Scope,
        tell: mpsc::Sender<Message>,
    ) -> BoxFuture<'static, Infallible> {
        let (namespace, pool) = match scope {
            Scope::Pool(pool) => (Some(&*pool.namespace), Some(&pool.name)),
            Scope::Namespace(namespace) => (Some(&**namespace), None),
            Scope::Cluster => (None, None),
        };
        let all = Relay { kind: self, field_selector: None, tell };
        match self {
            Self::Pool(group) => {
                let pools = Relay { field_selector: pool.map(|name| format!("metadata.name={name}")), ..all };
                let sight = move |observed| Sight::Pool(group, observed);
                match group {
                    PoolGroup::Stable => pools.watch(api(client, namespace), keep_pool::<InferencePool>, sight),
                    PoolGroup::Experimental => {
                        pools.watch(api(client, namespace), keep_pool::<InferencePoolV1Alpha2>, sight)
                    }
                }
            }
            Self::Pod => all.watch(api(client, namespace), PodFacts::of, Sight::Pod),
            Self::Slice => all.watch(api(client, namespace), SliceFacts::of, Sight::Slice),
            Self::Policy => all.watch(api(client, namespace), keep, Sight::Policy),
            Self::Model => all.watch(api(client, namespace), keep, Sight::Model),
            Self::Objective(group) => {
                let api = api_in(client, namespace, &group);
                all.watch(api, keep, move |observed| Sight::Objective(group, observed))
            }
            Self::Rewrite(group) => {
                let api = api_in(client, namespace, &group);
                all.watch(api, keep, move |observed| Sight::Rewrite(group, observed))
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resource() {
            ("", plural) => f.write_str(plural),
            (group, plural) => write!(f, "{plural}.{group}"),
        }
    }
}

/// The objects of a namespace, or of the whole cluster.
fn api<K>(client: Client, namespace: Option<&str>) -> Api<DeserializeGuard<K>>
where
    DeserializeGuard<K>: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// The same of a kind that lives in several groups.
fn api_in<K>(client: Client, namespace: Option<&str>, group: &ModelGroup) -> Api<DeserializeGuard<K>>
where
    DeserializeGuard<K>: Resource<DynamicType = ModelGroup, Scope = DynamicResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, group),
        None => Api::all_with(client, group),
    }
}

/// Takes what a watch tells to the task that follows the cluster.
struct Relay {
    kind: Kind,
    field_selector: Option<String>,
    tell: mpsc::Sender<Message>,
}

impl Relay {
    fn watch<K, T>(
        self,
        api: Api<DeserializeGuard<K>>,
        keep: fn(&ObjectMeta, K) -> T,
        sight: impl Fn(Observed<T>) -> Sight + Send + 'static,
    ) -> BoxFuture<'static, Infallible>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        let Self { kind, field_selector, tell } = self;
        let take = move |told| {
            let message = match told {
                Told::Saw(observed) => Message::Saw(Box::new(sight(observed))),
                Told::Stands(state) => Message::Stands(kind, state),
            };
            let tell = tell.clone();
            // Nobody takes it only when the task is gone.
            async move { _ = tell.send(message).await }.boxed()
        };
        watch(api, field_selector, keep, take).boxed()
    }
}
