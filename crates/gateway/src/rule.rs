//! A route rule that names pools: what Envoy Gateway made of it, and who is to get which share.

use std::collections::BTreeMap;

use pointsman_envoy::wire::{Message, WireError};

use crate::picture::{Picture, RuleShares};
use crate::stamp::{StampedPool, unstamp};

/// What Envoy Gateway calls the cluster of one backendRef, behind the rule's name.
const BACKEND: &str = "/backend/";
/// What it calls the route of one match, behind the rule's name.
const MATCH: &str = "/match/";
/// What we call the cluster of one pool, behind the rule's name.
const POOL: &str = "/pool/";

/// The rules that name pools, by the name that Envoy Gateway gives to a rule: `httproute/<namespace>/<name>/rule/<i>`.
pub(crate) type Rules = BTreeMap<String, Rule>;

/// A rule that names pools.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Which of Envoy Gateway's clusters the pools' are made of: the rule's own, else the first of its backendRefs'.
    pub(crate) base: usize,
    /// Whether Envoy Gateway made one cluster for all backendRefs of the rule.
    pub(crate) has_own_cluster: bool,
    /// Its pools, with their shares.
    pub(crate) pools: Vec<PoolShare>,
    /// The share of all backendRefs that are no pools.
    pub(crate) others: u32,
    /// Whether the shares are known; where they are not, the watches have yet to see what Envoy Gateway saw, and the
    /// pools get the same each.
    pub(crate) is_known: bool,
}

/// A pool of a rule.
#[derive(Debug)]
pub(crate) struct PoolShare {
    pub(crate) pool: StampedPool,
    pub(crate) weight: u32,
    /// The name of its cluster for this rule.
    pub(crate) cluster: String,
}

/// The rules behind these clusters.
pub(crate) fn rules(clusters: &[Message<'_>], picture: &Picture) -> Result<Rules, WireError> {
    let mut rules = Rules::new();
    for (index, cluster) in clusters.iter().enumerate() {
        let Some(stamp) = unstamp(cluster)? else { continue };
        let name = cluster.text(1);
        let (rule, is_own) = match name.split_once(BACKEND) {
            Some((rule, _)) => (rule, false),
            None => (name, true),
        };
        match rules.get_mut(rule) {
            Some(known) if is_own => (known.base, known.has_own_cluster) = (index, true),
            Some(_) => {}
            None => _ = rules.insert(rule.to_owned(), Rule::new(rule, index, is_own, stamp.pools, picture)),
        }
    }
    Ok(rules)
}

/// The rule that a route of that name belongs to.
pub(crate) fn of_route<'a>(rules: &'a Rules, name: &str) -> Option<&'a Rule> {
    rules.get(name.split_once(MATCH)?.0)
}

impl Rule {
    fn new(name: &str, base: usize, has_own_cluster: bool, pools: Vec<StampedPool>, picture: &Picture) -> Self {
        let known = shares(name, picture).filter(|shares| {
            let known = shares.pools.iter().map(|(pool, _)| pool);
            // A pool that is missing is none of Envoy Gateway's, and its share is accounted for there.
            let known = known.filter(|known| pools.iter().any(|pool| pool.name == **known));
            known.eq(pools.iter().map(|pool| &pool.name))
        });
        let mut rule = Self { base, has_own_cluster, pools: Vec::new(), others: 0, is_known: known.is_some() };
        rule.others = known.map_or(0, |shares| shares.others);
        let mut weights = known.map(|shares| shares.pools.as_slice()).unwrap_or_default().iter();
        for pool in pools {
            let weight = weights.find(|(known, _)| *known == pool.name).map_or(1, |(_, weight)| *weight);
            match rule.pools.iter_mut().find(|known| known.pool.name == pool.name) {
                Some(known) => known.weight = known.weight.saturating_add(weight),
                None => {
                    let cluster = format!("{name}{POOL}{}", pool.name);
                    rule.pools.push(PoolShare { pool, weight, cluster });
                }
            }
        }
        rule
    }
}

/// What the watches say of the rule of that name.
fn shares<'a>(rule: &str, picture: &'a Picture) -> Option<&'a RuleShares> {
    let (route, index) = rule.strip_prefix("httproute/")?.rsplit_once("/rule/")?;
    picture.routes.get(route)?.rules.get(index.parse::<usize>().ok()?)
}
