//! `pointsman cordon` and `pointsman uncordon`: a pod's annotation, which pickers obey and restarts survive.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use pointsman_k8s::api::SchedulingPolicy;
use pointsman_k8s::calls::Failure;
use pointsman_k8s::facts::{CORDON_ANNOTATION, PodFacts};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{CordonArgs, UncordonArgs};
use super::cluster::{Cluster, Member};

/// Who the API server notes as the writer of the annotation.
const WRITER: &str = "kubectl-pointsman";
/// What stands there when nobody said why.
const NO_REASON: &str = "no reason was given";

/// Runs `pointsman cordon`.
pub(super) async fn cordon(args: CordonArgs, terminal: &mut Terminal<'_>) -> Result<()> {
    let cluster = Cluster::find(&args.cluster).await?;
    let target = Target::find(&cluster, &args.pod).await?;
    let name = &target.name;
    let (was, wanted) = (target.facts.cordon.as_deref(), args.reason.as_deref());
    let text = match (was, wanted) {
        (Some(was), None) => format!("pod/{name} is cordoned already ({was})"),
        (Some(was), Some(wanted)) if was == wanted => format!("pod/{name} is cordoned already ({was})"),
        (was, wanted) => {
            let reason = wanted.unwrap_or(NO_REASON);
            target.annotate(&cluster, json!(reason)).await?;
            match was {
                Some(was) => format!("pod/{name} stays cordoned ({reason}; before: {was})"),
                None => format!("pod/{name} cordoned ({reason}): it takes no new requests, those in flight go on"),
            }
        }
    };
    terminal.write_line(&text)?;
    // What was asked for is done: that its effect cannot be told is no failure.
    match consequences(&cluster, &target).await {
        Ok(warnings) => warnings.iter().try_for_each(|warning| terminal.note(&format!("warning: {warning}"))),
        Err(error) => terminal.note(&format!("whether its pool has other endpoints could not be told: {error:#}")),
    }
}

/// Runs `pointsman uncordon`.
pub(super) async fn uncordon(args: UncordonArgs, terminal: &mut Terminal<'_>) -> Result<()> {
    let cluster = Cluster::find(&args.cluster).await?;
    let target = Target::find(&cluster, &args.pod).await?;
    let name = &target.name;
    let Some(was) = target.facts.cordon.as_deref() else {
        return terminal.write_line(&format!("pod/{name} is not cordoned"));
    };
    target.annotate(&cluster, Value::Null).await?;
    terminal.write_line(&format!("pod/{name} uncordoned (it was: {was})"))?;
    if !target.facts.is_ready {
        terminal.note(&format!("warning: pod {name} is not ready: it takes no requests until it is"))?;
    }
    Ok(())
}

/// The pod that is meant.
struct Target {
    name: String,
    facts: PodFacts,
}

impl Target {
    async fn find(cluster: &Cluster, pod: &str) -> Result<Self> {
        let name = pod.strip_prefix("pod/").or_else(|| pod.strip_prefix("pods/")).unwrap_or(pod);
        if name.is_empty() || name.contains('/') {
            bail!("{pod:?} is no pod's name: give it as POD or pod/POD, and its namespace by -n");
        }
        let Some(found) = cluster.get::<Pod>(&cluster.namespace, name).await? else {
            let namespace = &cluster.namespace;
            bail!("there is no pod {name} in namespace {namespace}: `kubectl -n {namespace} get pods` lists them");
        };
        Ok(Self { name: name.to_owned(), facts: PodFacts::of(&found.metadata.clone(), found) })
    }

    /// Sets the annotation, or takes it away by null. The UID says that this very pod is meant, not a later one of its
    /// name.
    async fn annotate(&self, cluster: &Cluster, value: Value) -> Result<()> {
        let patch = json!({"metadata": {"uid": &*self.facts.uid, "annotations": {CORDON_ANNOTATION: value}}});
        let pods: Api<Pod> = cluster.api(&cluster.namespace);
        let params = PatchParams { field_manager: Some(WRITER.to_owned()), ..PatchParams::default() };
        let Err(error) = cluster.call(pods.patch(&self.name, &params, &Patch::Merge(&patch))).await else {
            return Ok(());
        };
        let mend = match error.kind() {
            Failure::Conflict => "the pod was replaced by another of its name meanwhile",
            Failure::Absent => "the pod is gone",
            Failure::Refused => "it needs `patch` on pods",
            Failure::Away => "try again",
        };
        Err(error).with_context(|| format!("annotating pod {}: {mend}", self.name))
    }
}

/// What whoever cordons a pod should know.
async fn consequences(cluster: &Cluster, target: &Target) -> Result<Vec<String>> {
    let pools = cluster.pools(&cluster.namespace).await?;
    let policies: Vec<SchedulingPolicy> = cluster.list(&cluster.namespace, "").await?;
    let mut pools_of_it = 0;
    let mut warnings = Vec::new();
    for pool in &pools {
        let members = cluster.members(pool, &policies).await?;
        if members.iter().any(|member| member.name == target.name) {
            pools_of_it += 1;
            warnings.extend(nobody_left(&pool.key.to_string(), &members, &target.name));
        }
    }
    if pools_of_it == 0 {
        let namespace = &cluster.namespace;
        warnings.push(format!("no InferencePool of namespace {namespace} has pod {} as a member", target.name));
    }
    Ok(warnings)
}

/// The warning that a pool has nobody left who takes requests, once `cordoned` is.
fn nobody_left(pool: &str, members: &[Member], cordoned: &str) -> Option<String> {
    let is_left = members.iter().any(|member| member.name != cordoned && member.takes_requests());
    (!is_left).then(|| {
        format!(
            "pool {pool} has no other ready endpoint: it answers 503 no-ready-endpoint until one is ready, or \
             `kubectl pointsman uncordon {cordoned}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_endpoint_that_takes_requests_is_warned_of() {
        let member = |name: &str, is_ready, is_cordoned| Member { name: name.into(), is_ready, is_cordoned };
        let (left, last) = (member("b", true, false), member("a", true, true));
        assert_eq!(nobody_left("prod/chat", &[last.clone(), left], "a"), None);
        for other in [member("b", false, false), member("b", true, true)] {
            let warning = nobody_left("prod/chat", &[last.clone(), other], "a").unwrap();
            assert!(warning.contains("pool prod/chat") && warning.contains("uncordon a"), "{warning}");
        }
    }
}
