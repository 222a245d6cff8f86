//! The pools whose endpoints are served: members alone, of every pool of the cluster.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use pointsman_core::policy::Policy;
use pointsman_core::pool::{Pool, PoolWriter};
use pointsman_envoy::eds::PoolDirectory;
use pointsman_k8s::index::{News, PoolNews};
use tokio::sync::mpsc;

use crate::serve::random_seed;

/// The pools by name. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct ServedPools(Arc<RwLock<HashMap<String, Arc<Pool>>>>);

impl PoolDirectory for ServedPools {
    fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.0.read().get(name).cloned()
    }
}

impl ServedPools {
    /// Applies what is told of the cluster until nobody tells any more. It is the one writer of every pool.
    pub(super) async fn keep_true(self, mut news: mpsc::Receiver<News>) {
        let mut writers: HashMap<String, PoolWriter> = HashMap::new();
        while let Some(news) = news.recv().await {
            self.apply(news, &mut writers);
        }
    }

    fn apply(&self, news: News, writers: &mut HashMap<String, PoolWriter>) {
        for news in news.pools {
            match news {
                PoolNews::Gone(key) => {
                    let name = key.to_string();
                    self.0.write().remove(&name);
                    writers.remove(&name);
                }
                PoolNews::Is(picture) => {
                    let Some(members) = picture.members else { continue };
                    let name = picture.object.key.to_string();
                    let writer = writers.entry(name.clone()).or_insert_with(|| {
                        let (pool, writer) = Pool::new(&name, Arc::new(Policy::default()), random_seed());
                        self.0.write().insert(name, pool);
                        writer
                    });
                    tracing::debug!(pool = %picture.object.key, endpoints = members.len(), "the pool's members changed");
                    writer.set_members(members);
                    writer.publish();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_core::endpoint::Endpoint;
    use pointsman_k8s::events::Regarding;
    use pointsman_k8s::index::Picture;
    use pointsman_k8s::key::ObjectKey;

    use super::*;

    fn is(members: Option<&[&str]>) -> News {
        let endpoint = |address: &&str| Arc::new(Endpoint::new(address, address.parse().unwrap()));
        let members = members.map(|members| members.iter().map(endpoint).collect());
        let key = ObjectKey::new("default", "a");
        let api_version = "inference.networking.k8s.io/v1";
        let object = Regarding { api_version, kind: "InferencePool", key, uid: "1".into() };
        let picture = Picture { object, members, policy: None, picker: None };
        News { pools: vec![PoolNews::Is(Box::new(picture))], ..News::default() }
    }

    #[test]
    fn a_pool_is_served_with_its_members_until_it_is_gone() {
        let pools = ServedPools::default();
        let mut writers = HashMap::new();
        assert!(pools.pool("default/a").is_none());
        pools.apply(is(Some(&["10.0.0.1:8000", "10.0.0.2:8000"])), &mut writers);
        let count = |pools: &ServedPools| pools.pool("default/a").unwrap().snapshot().members.endpoints.len();
        assert_eq!(count(&pools), 2);
        pools.apply(is(None), &mut writers);
        assert_eq!(count(&pools), 2);
        pools.apply(is(Some(&[])), &mut writers);
        assert_eq!(count(&pools), 0);
        let gone = PoolNews::Gone(ObjectKey::new("default", "a"));
        pools.apply(News { pools: vec![gone], ..News::default() }, &mut writers);
        assert!(pools.pool("default/a").is_none());
    }
}
