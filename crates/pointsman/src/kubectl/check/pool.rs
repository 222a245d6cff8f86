//! Whether a pool has what it needs: ports, and pods that are ready.

use pointsman_k8s::api::SchedulingPolicy;

use super::report::Report;
use crate::kubectl::cluster::{Cluster, Member, PoolObject, selector};
use crate::kubectl::table::count;

/// So many names are listed.
const NAMES_MAX: usize = 5;

/// Looks at a pool and its members, which are returned when they could be read.
pub(super) async fn check(
    cluster: &Cluster,
    pool: &PoolObject,
    policies: &[SchedulingPolicy],
    report: &mut Report,
) -> Option<Vec<Member>> {
    let ports: Vec<String> = pool.spec.target_ports.iter().map(u16::to_string).collect();
    let group = pool.group.as_str();
    match ports.is_empty() {
        true => report.fail(
            format!("it exists in {group}, and has no target port"),
            "name the servers' port in spec.targetPorts",
        ),
        false => report.ok(format!("it exists in {group}, target ports: {}", ports.join(", "))),
    }
    gateways(pool, report);
    let members = report.known(cluster.members(pool, policies).await)?;
    judge(&members, &selector(&pool.spec.selector), report);
    Some(members)
}

/// What gateways say of the pool; one that none speaks of may still be wired by hand.
fn gateways(pool: &PoolObject, report: &mut Report) {
    for parent in &pool.parents {
        let (kind, name) = (parent.parent_ref.kind.as_deref().unwrap_or("Gateway"), &parent.parent_ref.name);
        // Older controllers write an entry of this kind for "no gateway yet".
        if kind == "Status" {
            continue;
        }
        let refused: Vec<_> = parent.conditions.iter().filter(|condition| condition.status == "False").collect();
        if refused.is_empty() {
            report.ok(format!("{kind} {name} accepts it"));
        }
        for condition in refused {
            let text = format!("{kind} {name} says {}=False: {}", condition.type_, condition.reason);
            let mend = if condition.message.is_empty() { "see the gateway's log" } else { &*condition.message };
            report.fail(text, mend);
        }
    }
}

fn judge(members: &[Member], labels: &str, report: &mut Report) {
    let names = |of: &dyn Fn(&Member) -> bool| {
        let all: Vec<&str> = members.iter().filter(|member| of(member)).map(|member| &*member.name).collect();
        let more = all.len().saturating_sub(NAMES_MAX);
        let listed = all.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
        (all.len(), if more > 0 { format!("{listed} and {more} more") } else { listed })
    };
    let (takes, _) = names(&Member::takes_requests);
    let (unready, unready_names) = names(&|member| !member.is_ready);
    let (cordoned, cordoned_names) = names(&|member| member.is_cordoned);
    if members.is_empty() {
        let text = if labels.is_empty() {
            "its selector is empty and selects nothing".to_owned()
        } else {
            format!("no pod has the labels {labels}")
        };
        report.fail(text, "label the model servers' pods so, or correct the pool's selector");
        return;
    }
    let all = count(members.len(), "member");
    if takes == 0 {
        report.fail(
            format!("of {all} none takes requests: {unready} not ready, {cordoned} cordoned"),
            "`kubectl describe pod` tells why a pod is not ready, `kubectl pointsman uncordon POD` puts one back",
        );
        return;
    }
    report.ok(format!("{takes} of {all} ready to take requests"));
    if unready > 0 {
        report.warn(format!("not ready: {unready_names}"), "`kubectl describe pod` tells why");
    }
    if cordoned > 0 {
        report.warn(format!("cordoned: {cordoned_names}"), "`kubectl pointsman uncordon POD` puts one back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_counted_by_whether_they_take_requests() {
        let member = |name: &str, is_ready, is_cordoned| Member { name: name.into(), is_ready, is_cordoned };
        let table: [(&[Member], &[&str]); 4] = [
            (&[], &["× no pod has the labels app=chat"]),
            (&[member("a", true, false)], &["√ 1 of 1 member ready", "all is well"]),
            (
                &[member("a", true, false), member("b", false, false), member("c", true, true)],
                &["√ 1 of 3 members ready", "‼ not ready: b", "‼ cordoned: c"],
            ),
            (
                &[member("a", false, false), member("b", true, true)],
                &["× of 2 members none takes requests: 1 not ready, 1 cordoned"],
            ),
        ];
        for (members, expected) in table {
            let mut report = Report::default();
            judge(members, "app=chat", &mut report);
            let text = report.to_string();
            assert!(expected.iter().all(|expected| text.contains(expected)), "{text}");
        }
    }
}
