//! Whether the picker may do what it does: exactly the grants that its Role is made from.

use std::fmt::Debug;

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use pointsman_k8s::calls::{CallError, Failure};
use pointsman_k8s::index::Scope;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease::default_name;
use pointsman_k8s::rbac::{Grant, Install};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pickers::Pickers;
use super::report::{Finding, Report};
use crate::kubectl::args::CheckArgs;
use crate::kubectl::cluster::{Cluster, PoolObject, pool_key};

/// So many questions are asked at once.
const AT_ONCE: usize = 8;
/// How the API server calls a ServiceAccount.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Whose permissions are looked at.
struct Subject {
    account: ObjectKey,
    /// Whether that is who asks.
    is_us: bool,
}

/// One question to the API server, and its answer.
struct Asked<'a> {
    grant: Grant<'a>,
    resource: &'static str,
    verb: &'static str,
    is_allowed: Result<bool, CallError>,
}

/// Asks for every grant, in every namespace that has pools to look at.
pub(super) async fn check(
    cluster: &Cluster,
    args: &CheckArgs,
    pools: &[PoolObject],
    pickers: &Pickers,
    report: &mut Report,
) {
    let Some(pool) = pools.first() else { return };
    let us = review(cluster, &SelfSubjectReview::default()).await;
    let us = report.known(us.context("who you are"));
    let us = us.and_then(|us| us.status?.user_info?.username).unwrap_or_default();
    let Some(subject) = subject(cluster, args, pickers, &us) else {
        report.warn(
            "the pickers' ServiceAccount is not known, so what it may do cannot be told",
            "name it by --as-service-account NAMESPACE/NAME, or run this as the picker",
        );
        return;
    };
    let lease = args.lease_name.clone().or_else(|| pickers.lease());
    let install = Install {
        name: String::new(),
        pools_namespace: pool.key.namespace.to_string(),
        picker_namespace: subject.account.namespace.to_string(),
        lease: lease.unwrap_or_else(|| default_name(&Scope::Pool(pool.key.clone()))),
        trust: pickers.trust(),
        metrics_auth: pickers.metrics_auth(),
    };
    let asked = ask(cluster, &subject, install.grants()).await;
    judge(&subject.account, "the picker does", &asked).into_iter().for_each(|finding| report.add(finding));
}

/// Whether another's ServiceAccount has these grants, which are what it `does`.
pub(super) async fn of_account(
    cluster: &Cluster,
    account: &ObjectKey,
    does: &str,
    grants: impl Iterator<Item = Grant<'_>>,
) -> Vec<Finding> {
    let subject = Subject { account: account.clone(), is_us: false };
    judge(account, does, &ask(cluster, &subject, grants).await)
}

async fn ask<'a>(cluster: &Cluster, subject: &Subject, grants: impl Iterator<Item = Grant<'a>>) -> Vec<Asked<'a>> {
    let ask = async |(grant, resource, verb)| {
        let attributes = attributes(&grant, resource, verb);
        let is_allowed = may(cluster, subject, attributes).await;
        Asked { grant, resource, verb, is_allowed }
    };
    stream::iter(questions(grants)).map(ask).buffered(AT_ONCE).collect().await
}

/// Every verb on every resource of every grant.
fn questions<'a>(grants: impl Iterator<Item = Grant<'a>>) -> Vec<(Grant<'a>, &'static str, &'static str)> {
    let mut questions = Vec::new();
    for grant in grants {
        for resource in grant.rule.resources {
            questions.extend(grant.rule.verbs.iter().map(|verb| (grant, *resource, *verb)));
        }
    }
    questions
}

/// The ServiceAccount of the flag, else that of the pickers' pods, else the one that asks.
fn subject(cluster: &Cluster, args: &CheckArgs, pickers: &Pickers, us: &str) -> Option<Subject> {
    let we = us.strip_prefix(ACCOUNT_PREFIX).and_then(|us| us.split_once(':'));
    let we = we.map(|(namespace, name)| ObjectKey::new(namespace, name));
    let named = args.as_service_account.as_deref().map(|account| pool_key(account, &cluster.namespace));
    let account = named.or_else(|| pickers.service_account()).or_else(|| we.clone())?;
    Some(Subject { is_us: we.as_ref() == Some(&account), account })
}

fn attributes(grant: &Grant<'_>, resource: &str, verb: &str) -> ResourceAttributes {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    ResourceAttributes {
        group: Some(grant.rule.group.to_owned()),
        name: grant.name.map(str::to_owned),
        namespace: grant.namespace.map(str::to_owned),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    }
}

/// Sends a question that the API server answers in the object itself.
async fn review<K>(cluster: &Cluster, asked: &K) -> Result<K, CallError>
where
    K: kube::Resource + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::all(cluster.client.clone());
    cluster.call(api.create(&PostParams::default(), asked)).await
}

async fn may(cluster: &Cluster, subject: &Subject, attributes: ResourceAttributes) -> Result<bool, CallError> {
    let resource_attributes = Some(attributes);
    if subject.is_us {
        let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..SelfSubjectAccessReviewSpec::default() };
        let asked = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let answer = review(cluster, &asked).await?;
        return Ok(answer.status.is_some_and(|status| status.allowed));
    }
    let ObjectKey { namespace, name } = &subject.account;
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ];
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("{ACCOUNT_PREFIX}{namespace}:{name}")),
        groups: Some(groups.to_vec()),
        resource_attributes,
        ..SubjectAccessReviewSpec::default()
    };
    let asked = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = review(cluster, &asked).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn judge(account: &ObjectKey, does: &str, asked: &[Asked<'_>]) -> Vec<Finding> {
    let errors = || asked.iter().filter_map(|asked| asked.is_allowed.as_ref().err());
    if let Some(error) = errors().next() {
        let mend = match error.kind() {
            Failure::Refused => {
                "you may not create subjectaccessreviews: ask somebody who may, or run this as the picker"
            }
            _ => "try again",
        };
        return vec![Finding::warn(format!("what ServiceAccount {account} may do cannot be told: {error}"), mend)];
    }
    let mut findings: Vec<Finding> = Vec::new();
    let mut grants: Vec<&Grant<'_>> = Vec::new();
    for grant in asked.iter().map(|asked| &asked.grant) {
        if grants.contains(&grant) {
            continue;
        }
        grants.push(grant);
        let denied: Vec<String> = asked
            .iter()
            .filter(|asked| asked.grant == *grant && !matches!(asked.is_allowed, Ok(true)))
            .map(|asked| format!("{} {}", asked.verb, full_name(grant.rule.group, asked.resource)))
            .collect();
        if !denied.is_empty() {
            let (place, role) = match grant.namespace {
                Some(namespace) => (format!("in namespace {namespace}"), format!("a Role of namespace {namespace}")),
                None => ("in the whole cluster".to_owned(), "a ClusterRole".to_owned()),
            };
            let (denied, why) = (denied.join(", "), grant.rule.why);
            findings.push(Finding::fail(
                format!("ServiceAccount {account} may not {denied} {place} ({why})"),
                format!("give it this rule in {role}: {}", rule(grant)),
            ));
        }
    }
    if findings.is_empty() {
        let text = format!("ServiceAccount {account} may do all {} things that {does}", asked.len());
        findings.push(Finding::ok(text));
    }
    findings
}

fn full_name(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// A grant as an entry of a Role's `rules`.
fn rule(grant: &Grant<'_>) -> String {
    let (resources, verbs) = (grant.rule.resources.join(", "), grant.rule.verbs.join(", "));
    let names = grant.name.map(|name| format!(", resourceNames: [{name}]")).unwrap_or_default();
    format!("{{apiGroups: [{:?}], resources: [{resources}]{names}, verbs: [{verbs}]}}", grant.rule.group)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn install() -> Install {
        Install {
            name: String::new(),
            pools_namespace: "pools".into(),
            picker_namespace: "ours".into(),
            lease: "picker-lease".into(),
            trust: None,
            metrics_auth: false,
        }
    }

    fn asked(install: &Install, answer: impl Fn(&str, &str) -> Result<bool, CallError>) -> Vec<Asked<'_>> {
        let ask = |(grant, resource, verb)| Asked { grant, resource, verb, is_allowed: answer(resource, verb) };
        questions(install.grants()).into_iter().map(ask).collect()
    }

    #[test]
    fn each_missing_grant_is_told_with_the_rule_that_gives_it() {
        let (install, account) = (install(), ObjectKey::new("ours", "picker"));
        assert_eq!(judge(&account, "the picker does", &asked(&install, |_, _| Ok(true))).len(), 1);
        let findings = judge(
            &account,
            "the picker does",
            &asked(&install, |resource, verb| {
                Ok(!matches!((resource, verb), ("pods", "watch") | ("leases", "get" | "update")))
            }),
        );
        let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "ServiceAccount ours/picker may not watch pods in namespace pools (a pool's members, and their annotations)",
                "ServiceAccount ours/picker may not get leases.coordination.k8s.io, update leases.coordination.k8s.io in \
             namespace ours (to hold it)",
            ]
        );
        let expected = "give it this rule in a Role of namespace ours: {apiGroups: [\"coordination.k8s.io\"], \
                        resources: [leases], resourceNames: [picker-lease], verbs: [get, update]}";
        assert_eq!(findings[1].mend.as_deref(), Some(expected));
    }

    #[test]
    fn who_may_not_ask_is_told_so_once() {
        let install = install();
        let refused = |_: &str, _: &str| {
            Err(CallError::Answered {
                code: 403,
                reason: "Forbidden".into(),
                message: "no".into(),
                retry_after: Duration::ZERO,
            })
        };
        let findings = judge(&ObjectKey::new("ours", "picker"), "the picker does", &asked(&install, refused));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].mend.as_deref().unwrap().contains("subjectaccessreviews"), "{findings:?}");
    }

    #[test]
    fn a_subresource_is_asked_for_apart_from_its_resource() {
        let install = install();
        let grant = install.grants().find(|grant| grant.rule.resources.contains(&"schedulingpolicies/status")).unwrap();
        let attributes = attributes(&grant, "schedulingpolicies/status", "patch");
        assert_eq!(
            (attributes.resource.as_deref(), attributes.subresource.as_deref()),
            (Some("schedulingpolicies"), Some("status"))
        );
    }
}
