//! The Translation hook: all of a Gateway's resources, with those that lead to pools made to do so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pointsman_envoy::wire::{Message, put_bytes};
use serde::Serialize;

use crate::clusters::{MakeError, NO_PICKER, picker_clusters, picker_of, pool_cluster};
use crate::listeners::{changed, managers, with_filters};
use crate::picture::{Picture, Settings};
use crate::routes::pool_route;
use crate::rule::{Rule, Rules, of_route, rules};
use crate::stamp::unstamp;

/// `RouteConfiguration.virtual_hosts`, `VirtualHost.routes`, and `Route.name`.
const VIRTUAL_HOSTS: u32 = 2;
const ROUTES: u32 = 3;
const ROUTE_NAME: u32 = 14;
/// `Cluster.metadata`.
const METADATA: u32 = 25;

/// The resources of a Gateway, as Envoy Gateway sends and takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `envoy.config.cluster.v3.Cluster`.
    pub clusters: Vec<Bytes>,
    /// `envoy.config.listener.v3.Listener`.
    pub listeners: Vec<Bytes>,
    /// `envoy.config.route.v3.RouteConfiguration`.
    pub routes: Vec<Bytes>,
}

/// What was made of a Gateway's resources.
#[derive(Debug)]
pub struct Translated {
    /// The resources.
    pub resources: Resources,
    /// What was made of each rule that names pools, by Envoy Gateway's name for it.
    pub rules: BTreeMap<String, RuleReport>,
}

/// What was made of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleReport {
    /// Its pools.
    pub pools: Vec<PoolReport>,
    /// The share of what is no pool.
    pub others: u32,
    /// Whether the watches had seen the rule as Envoy Gateway did; if not, the shares are a guess.
    pub is_known: bool,
}

/// What was made of one pool in a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolReport {
    /// `namespace/name`.
    pub pool: String,
    /// Its share.
    pub weight: u32,
    /// Its cluster.
    pub cluster: String,
    /// Its picker's cluster; absent where nobody picks.
    pub picker: Option<String>,
    /// Whether its picker is nowhere to be found.
    pub is_picker_missing: bool,
}

/// Translates. A pure function: the same resources and the same picture give the same bytes.
pub fn translate(resources: &Resources, picture: &Picture, settings: &Settings) -> Result<Translated, MakeError> {
    let clusters = resources.clusters.iter().map(|cluster| Message::read(cluster));
    let clusters = clusters.collect::<Result<Vec<_>, _>>()?;
    let rules = rules(&clusters, picture)?;
    if rules.is_empty() {
        return Ok(Translated { resources: resources.clone(), rules: BTreeMap::new() });
    }
    let managers = managers(resources.listeners.iter().map(|listener| &**listener))?;

    let mut pooled = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut routes = Vec::with_capacity(resources.routes.len());
    for found in &resources.routes {
        let name = Message::read(found)?.text(1);
        let has_idle_timeout = managers.get(name).copied().unwrap_or_default();
        let mut change_route = |route: &[u8]| {
            let route = Message::read(route)?;
            let Some(rule) = of_route(&rules, route.text(ROUTE_NAME)) else { return Ok(None) };
            let made = pool_route(&route, rule, picture, has_idle_timeout)?;
            Ok(made.map(|made| {
                kept.extend(made.kept);
                made.route
            }))
        };
        let made = changed(found, &[VIRTUAL_HOSTS], |host| changed(host, &[ROUTES], &mut change_route))?;
        match made {
            Some(made) => {
                pooled.insert(name.to_owned());
                routes.push(made.into());
            }
            None => routes.push(found.clone()),
        }
    }

    let mut made = Vec::with_capacity(resources.clusters.len());
    for (index, (found, cluster)) in resources.clusters.iter().zip(&clusters).enumerate() {
        match unstamp(cluster)? {
            None => made.push(found.clone()),
            Some(stamp) if kept.contains(cluster.text(1)) => made.push(unstamped(cluster, &stamp.metadata)),
            // Nobody asks for it any more.
            Some(_) => {}
        }
        for rule in rules.values().filter(|rule| rule.base == index) {
            for share in &rule.pools {
                made.push(pool_cluster(cluster, rule, share, &settings.eds, settings.max_streams)?.into());
            }
        }
    }
    let pools = rules.values().flat_map(|rule| &rule.pools).map(|share| &share.pool);
    made.extend(picker_clusters(pools, picture, settings.max_streams)?.into_iter().map(Bytes::from));

    let mut listeners = Vec::with_capacity(resources.listeners.len());
    for found in &resources.listeners {
        listeners.push(with_filters(found, &pooled)?.map_or_else(|| found.clone(), Bytes::from));
    }
    let rules = report(&rules, picture);
    Ok(Translated { resources: Resources { clusters: made, listeners, routes }, rules })
}

/// A cluster of Envoy Gateway's without what the Cluster hook wrote into it.
fn unstamped(cluster: &Message<'_>, metadata: &[u8]) -> Bytes {
    let mut added = Vec::new();
    if !metadata.is_empty() {
        put_bytes(&mut added, METADATA, metadata);
    }
    cluster.replaced(&[METADATA], &added).into()
}

fn report(rules: &Rules, picture: &Picture) -> BTreeMap<String, RuleReport> {
    let report = |(name, rule): (&String, &Rule)| {
        let pools = rule.pools.iter().map(|share| {
            let picker = picker_of(&share.pool, picture).map(|(cluster, _)| cluster);
            PoolReport {
                pool: share.pool.name.clone(),
                weight: share.weight,
                cluster: share.cluster.clone(),
                is_picker_missing: picker.as_deref() == Some(NO_PICKER),
                picker,
            }
        });
        let report = RuleReport { pools: pools.collect(), others: rule.others, is_known: rule.is_known };
        (name.clone(), report)
    };
    rules.iter().map(report).collect()
}

#[cfg(test)]
mod tests;
