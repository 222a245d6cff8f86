//! How soon requests follow a change of the cluster: from the API server's answer to the first request through the real
//! Envoy that is served as the change says.
//!
//! Each change is a single call, and the answers before it differ from those after it, so that the first answer of the
//! new kind is the moment that is looked for.

mod onlookers;

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use pointsman_k8s::api::{InferenceModelRewrite, ModelGroup, SchedulingPolicy};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::onlookers::Onlookers;
use crate::cluster_stack::{CHANGE_DEADLINE, ClusterPlan, ClusterStack};
use crate::control_plane::ControlPlane;
use crate::manifests::manifest;
use crate::quantile::quantile;

/// The most that 19 of 20 changes may take (issue 5's Show).
pub const AIM: Duration = Duration::from_millis(200);
/// How long things rest before a change. Not a multiple of anybody's tick, so that changes do not fall in step with them.
const REST: Duration = Duration::from_millis(83);
/// What requests ask for; a rewrite says which model that is.
const MODEL: &str = "chat";
const POOL: &str = "pool";
const POLICY: &str = "policy";
const REWRITE: &str = "rewrite";

/// What is changed, by turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pod stops being ready, or is ready again.
    Pod,
    /// A policy's filter lets other pods pass.
    Filter,
    /// A model's target.
    Target,
}

/// One change, and how soon it was followed.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    /// What was changed.
    pub subject: Subject,
    /// From the API server's answer to the first request that follows; zero when that came before the answer.
    pub after: Duration,
    /// How long the API server took to answer.
    pub answered_in: Duration,
}

/// What the cluster says: one server is to serve, the other one is not, and under which name.
#[derive(Clone, Copy, Debug)]
struct Said {
    is_ready: bool,
    is_first: bool,
    is_older: bool,
}

impl Said {
    /// The tier of the pods that the filter lets pass.
    fn tier(self) -> &'static str {
        if self.is_first { "fast" } else { "slow" }
    }

    /// The pod of this tier.
    fn server(self) -> &'static str {
        if self.is_first { "server-0" } else { "server-1" }
    }

    fn target(self) -> &'static str {
        if self.is_older { "chat-v2" } else { "chat-v3" }
    }

    /// What is answered, as [`onlookers`] say it.
    fn answer(self) -> String {
        if self.is_ready { format!("{} {}", self.server(), self.target()) } else { "503 filtered-out".to_owned() }
    }

    fn policy(self) -> Value {
        let filter = json!({"type": "label-selector-filter", "labelSelector": {"matchLabels": {"tier": self.tier()}}});
        json!({"profile": {"filters": [filter]}})
    }

    fn rules(self) -> Value {
        let matched = json!({"model": {"type": "Exact", "value": MODEL}});
        json!({"rules": [{"matches": [matched], "targets": [{"modelRewrite": self.target(), "weight": 1}]}]})
    }
}

/// Makes so many changes, one after the other; each is told to `progress`.
pub async fn follow(
    plane: &ControlPlane,
    changes: usize,
    mut progress: impl FnMut(usize, &Followed),
) -> Result<Vec<Followed>> {
    let stack = ClusterStack::start(plane, ClusterPlan::new(2)).await?;
    let mut said = Said { is_ready: true, is_first: true, is_older: true };
    set_up(&stack, said).await?;
    let onlookers = Onlookers::start(&format!("{}/v1/chat/completions", stack.url(0)), MODEL);
    let seen = onlookers.until(&said.answer(), CHANGE_DEADLINE).await;
    seen.with_context(|| format!("nothing is served to begin with\n{}", stack.logs()))?;
    let mut followed = Vec::new();
    for number in 0..changes {
        tokio::time::sleep(REST).await;
        let subject = [Subject::Pod, Subject::Pod, Subject::Filter, Subject::Target][number % 4];
        match subject {
            Subject::Pod => said.is_ready = !said.is_ready,
            Subject::Filter => said.is_first = !said.is_first,
            Subject::Target => said.is_older = !said.is_older,
        }
        let seen = onlookers.expect(&said.answer());
        let began = Instant::now();
        change(&stack, subject, said).await?;
        let answered = Instant::now();
        let seen = seen.within(CHANGE_DEADLINE).await;
        let seen = seen.with_context(|| format!("{subject:?}: {said:?} is not followed\n{}", stack.logs()))?;
        let (after, answered_in) = (seen.saturating_duration_since(answered), answered - began);
        followed.push(Followed { subject, after, answered_in });
        progress(number, &followed[number]);
    }
    Ok(followed)
}

async fn set_up(stack: &ClusterStack<'_>, said: Said) -> Result<()> {
    let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": POOL});
    let mut policy = said.policy();
    policy["targetRefs"] = json!([target]);
    let mut rewrite = said.rules();
    rewrite["poolRef"] = target;
    let manifests = [
        stack.pool(POOL),
        manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", POLICY, policy),
        manifest("inference.networking.x-k8s.io/v1alpha2", "InferenceModelRewrite", REWRITE, rewrite),
    ];
    stack.namespace.apply(&manifests.concat()).await?;
    for (server, tier) in ["fast", "slow"].into_iter().enumerate() {
        stack.namespace.pod(&stack.pod(server, POOL).labelled("tier", tier)).await?;
    }
    Ok(())
}

async fn change(stack: &ClusterStack<'_>, subject: Subject, said: Said) -> Result<()> {
    let namespace = &stack.namespace;
    match subject {
        Subject::Pod => namespace.set_ready(said.server(), said.is_ready).await.map(|_| ()),
        Subject::Filter => patch_spec(namespace.api::<SchedulingPolicy>(), POLICY, said.policy()).await,
        Subject::Target => {
            let (client, group) = (namespace.client.clone(), ModelGroup::Experimental);
            let api: Api<InferenceModelRewrite> = Api::namespaced_with(client, &namespace.name, &group);
            patch_spec(api, REWRITE, said.rules()).await
        }
    }
}

async fn patch_spec<K>(api: Api<K>, name: &str, spec: Value) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
    patched.map(|_| ()).with_context(|| format!("changing {name}"))
}

/// The figures, for people.
pub fn report(followed: &[Followed]) -> String {
    let mut text = "From the API server's answer to the first request through Envoy that follows, in ms:\n".to_owned();
    let line = |name: &str, some: &dyn Fn(&&Followed) -> bool| {
        let chosen: Vec<&Followed> = followed.iter().filter(some).collect();
        let figures = |time: fn(&Followed) -> Duration| {
            let times: Vec<Duration> = chosen.iter().map(|followed| time(followed)).collect();
            [0.5, 0.95, 1.0].map(|q| format!("{:>7.1}", quantile(&times, q).as_secs_f64() * 1e3)).concat()
        };
        let (after, answered) = (figures(|followed| followed.after), figures(|followed| followed.answered_in));
        format!("{name:<18}{:>4}{after}  {answered}\n", chosen.len())
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<18}{:>4}{:>7}{:>7}{:>7}  (the API server itself)", "", "", "p50", "p95", "max");
    for (name, subject) in
        [("a pod's readiness", Subject::Pod), ("a filter", Subject::Filter), ("a model's target", Subject::Target)]
    {
        text += &line(name, &|followed| followed.subject == subject);
    }
    text += &line("all", &|_| true);
    let after: Vec<Duration> = followed.iter().map(|followed| followed.after).collect();
    let p95 = quantile(&after, 0.95);
    let _ = writeln!(text, "p95 {p95:.1?}, aim {AIM:?}{}", if p95 > AIM { ": MISSED" } else { "" });
    text
}
