use anyhow::Result;
use pointsman_tests::cluster_stack::{CHANGE_DEADLINE, ClusterPlan, ClusterStack};
use pointsman_tests::control_plane::{ControlPlane, PodPlan};
use pointsman_tests::manifests::manifest;
use serde_json::{Value, json};

/// A host of the test's network where nobody listens.
const NOBODY_HOST: u8 = 99;

/// The shared control plane, with our CRDs too.
pub(crate) async fn plane() -> &'static ControlPlane {
    let plane = ControlPlane::shared().await.unwrap();
    plane.install_our_crds().await.unwrap();
    plane
}

/// A condition of an object's status, by type: status and reason.
fn condition(object: &Value, of_type: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == of_type)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

/// The condition Accepted of a policy's first ancestor: status, reason and message.
fn accepted(policy: &Value) -> Option<(&str, &str, &str)> {
    let conditions = policy["status"]["ancestors"][0]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
    Some((found["status"].as_str()?, found["reason"].as_str()?, found["message"].as_str()?))
}

/// A policy for the pool `pool`.
fn policy(name: &str, scheduling: Value) -> String {
    let mut spec = json!({
        "targetRefs": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}],
    });
    spec.as_object_mut().unwrap().extend(scheduling.as_object().unwrap().clone());
    manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", name, spec)
}

#[tokio::test]
async fn requests_follow_pools_and_pods() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(3)).await?;
    let not_ready = stack.until_admin(0, "/debug/config", |page| page["obstacles"][0].is_string()).await?;
    let obstacle = not_ready["obstacles"][0].as_str().unwrap();
    stack
        .until_admin(0, "/debug/config", |page| {
            page["obstacles"][0].as_str().is_some_and(|text| text.contains("does not exist"))
        })
        .await?;
    assert!(!obstacle.is_empty());

    stack.namespace.apply(&stack.pool("pool")).await?;
    stack.until_served_by(0, "503 no-ready-endpoint").await?;
    stack.namespace.pod(&stack.pod(0, "pool")).await?;
    stack.until_served_by(0, "server-0").await?;

    // Not ready, ready again, without an address, with another's: each shows.
    stack.namespace.set_ready("server-0", false).await?;
    stack.until_served_by(0, "503 no-ready-endpoint").await?;
    stack.namespace.pod(&stack.pod(1, "pool")).await?;
    stack.until_served_by(0, "server-1").await?;
    stack.namespace.set_ip("server-1", Some(stack.servers[2].addr().ip())).await?;
    stack.until_served_by(0, "server-2").await?;
    stack.namespace.terminate_pod("server-1").await?;
    stack.until_served_by(0, "503 no-ready-endpoint").await?;
    stack.namespace.set_ready("server-0", true).await?;
    stack.until_served_by(0, "server-0").await?;

    // The pool's own changes: another selector, gone, back.
    let other = stack.pool("pool").replace("\"app\":\"pool\"", "\"app\":\"other\"");
    stack.namespace.pod(&stack.pod(1, "other").named("other")).await?;
    stack.namespace.apply(&other).await?;
    stack.until_served_by(0, "server-1").await?;
    stack.namespace.delete(&other).await?;
    stack.until_served_by(0, "500 pool-unknown").await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    stack.until_served_by(0, "server-0").await?;
    Ok(())
}

#[tokio::test]
async fn policies_are_followed_and_say_what_became_of_them() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(2)).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    for (server, tier) in [(0, "fast"), (1, "slow")] {
        stack.namespace.pod(&stack.pod(server, "pool").labelled("tier", tier)).await?;
    }
    let only = |tier: &str| {
        let filter = json!({"type": "label-selector-filter", "labelSelector": {"matchLabels": {"tier": tier}}});
        json!({"profile": {"filters": [filter]}})
    };
    stack.namespace.apply(&policy("first", only("slow"))).await?;
    stack.until_served_by(0, "server-1").await?;
    stack
        .until_object(plane, "schedulingpolicy", "first", |object| {
            accepted(object).is_some_and(|(status, reason, _)| (status, reason) == ("True", "Accepted"))
                && object["status"]["ancestors"][0]["conditions"][0]["observedGeneration"]
                    == object["metadata"]["generation"]
        })
        .await?;
    stack.namespace.apply(&policy("first", only("fast"))).await?;
    stack.until_served_by(0, "server-0").await?;

    // A younger one waits and says for whom; it is in force when the older one goes.
    stack.namespace.apply(&policy("second", only("slow"))).await?;
    stack
        .until_object(plane, "schedulingpolicy", "second", |object| {
            accepted(object).is_some_and(|(status, reason, message)| {
                (status, reason) == ("False", "Conflicted") && message.contains("first")
            })
        })
        .await?;
    assert_eq!(stack.served_by(0).await, "server-0");
    stack.namespace.delete(&policy("first", only("fast"))).await?;
    stack.until_served_by(0, "server-1").await?;

    // What the API server cannot know to be wrong is refused by its condition, and the last good version stays.
    let mut wrong = only("fast");
    let scorer = json!({"type": "active-request-scorer", "parameters": {"maxBusyScore": 7}});
    wrong["profile"]["scorers"] = json!([scorer]);
    stack.namespace.apply(&policy("second", wrong)).await?;
    stack
        .until_object(plane, "schedulingpolicy", "second", |object| {
            accepted(object).is_some_and(|(status, reason, message)| {
                (status, reason) == ("False", "Invalid") && message.contains("spec.profile.scorers[0]")
            })
        })
        .await?;
    assert_eq!(stack.served_by(0).await, "server-1");
    let events = stack.events(plane).await?;
    for reason in ["PolicyApplied", "PolicyRejected"] {
        assert!(events.contains(reason), "{reason} is not among the Events:\n{events}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cordoned_pod_gets_nothing_new_until_it_is_uncordoned() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(2)).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    for server in [0, 1] {
        stack.namespace.pod(&stack.pod(server, "pool")).await?;
    }
    // What is cordoned before a picker knows of it is no news to anybody.
    stack
        .until_admin(0, "/debug/pools", |page| page[0]["endpoints"].as_array().is_some_and(|all| all.len() == 2))
        .await?;
    let namespace = stack.namespace.name.clone();
    let annotate = async |pod, value| plane.kubectl(&["-n", &namespace, "annotate", "pod", pod, value], "").await;
    annotate("server-0", "pointsman.dev/cordon=wrong answers").await?;
    stack
        .until_admin(0, "/debug/pools", |page| {
            page[0]["endpoints"].as_array().is_some_and(|all| {
                all.iter().filter(|endpoint| endpoint["cordoned"] == true).count() == 1 && all.len() == 2
            })
        })
        .await?;
    stack.until_served_by(0, "server-1").await?;
    for _ in 0..20 {
        assert_eq!(stack.served_by(0).await, "server-1");
    }
    annotate("server-1", "pointsman.dev/cordon=both").await?;
    stack.until_served_by(0, "503 no-ready-endpoint").await?;
    annotate("server-0", "pointsman.dev/cordon-").await?;
    stack.until_served_by(0, "server-0").await?;
    let events = stack.events(plane).await?;
    assert!(events.contains("wrong answers") && events.contains("Uncordoned"), "{events}");
    Ok(())
}

#[tokio::test]
async fn events_say_who_leads_and_which_servers_do_not_tell_their_load() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(1)).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    stack.namespace.pod(&stack.pod(0, "pool")).await?;
    stack.until_events(plane, &["BecameLeader", "picker-0"]).await?;
    let nobody = stack.namespace.network.ip(NOBODY_HOST);
    stack.namespace.pod(&PodPlan::new("silent", "pool", nobody)).await?;
    stack.until_events(plane, &["ScrapeFailing", "1 of 2 endpoints do not tell their load", "silent: "]).await
}

#[tokio::test]
async fn requests_follow_a_change_of_the_objective_that_they_name() -> Result<()> {
    let plane = plane().await;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("server.yaml");
    std::fs::write(&file, "server: {trust: {objective: true}}\n")?;
    // The flags of a plan live as long as the test program.
    let flags = vec!["--config", file.to_str().unwrap().to_owned().leak()];
    let stack = ClusterStack::start(plane, ClusterPlan { flags, ..ClusterPlan::new(1) }).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    stack.namespace.pod(&stack.pod(0, "pool")).await?;
    stack.until_answered(0).await?;
    for priority in [7, -3] {
        let spec = json!({"priority": priority, "poolRef": {"name": "pool"}});
        let api_version = "inference.networking.x-k8s.io/v1alpha2";
        stack.namespace.apply(&manifest(api_version, "InferenceObjective", "urgent", spec)).await?;
        let url = format!("{}/v1/models", stack.url(0));
        let is_followed =
            |page: &Value| page.as_array().into_iter().flatten().any(|decision| decision["priority"] == priority);
        let deadline = tokio::time::Instant::now() + CHANGE_DEADLINE;
        loop {
            stack.client.get(&url, &[("x-gateway-inference-objective", "urgent")]).await?;
            if is_followed(&stack.admin(0, "/debug/decisions").await?) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "priority {priority} is not followed\n{}", stack.logs());
        }
        stack
            .until_object(plane, "inferenceobjectives.inference.networking.x-k8s.io", "urgent", |object| {
                condition(object, "Accepted") == Some(("True".into(), "Accepted".into()))
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn models_split_by_the_older_api_and_say_whose_name_is_taken() -> Result<()> {
    let plane = plane().await;
    let stack = ClusterStack::start(plane, ClusterPlan::new(1)).await?;
    // A pool of the older group: nothing of the newer one is needed.
    let pool = json!({
        "selector": {"app": "pool"}, "targetPortNumber": 8000,
        "extensionRef": {"name": "picker"},
    });
    stack.namespace.apply(&manifest("inference.networking.x-k8s.io/v1alpha2", "InferencePool", "pool", pool)).await?;
    stack.namespace.pod(&stack.pod(0, "pool")).await?;
    let model = |name: &str, targets: Value| {
        let spec = json!({
            "modelName": "chat", "criticality": "Critical", "targetModels": targets, "poolRef": {"name": "pool"},
        });
        manifest("inference.networking.x-k8s.io/v1alpha2", "InferenceModel", name, spec)
    };
    stack.namespace.apply(&model("a", json!([{"name": "chat-v2", "weight": 100}]))).await?;
    stack
        .until_object(plane, "inferencemodel", "a", |object| {
            condition(object, "Accepted") == Some(("True".into(), "Accepted".into()))
        })
        .await?;
    let body =
        json!({"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}).to_string();
    stack.until_served_by(0, "server-0").await?;
    let answer = stack.post("/v1/chat/completions", body.clone()).await?.json()?;
    assert_eq!(answer["model"], "chat-v2", "{answer:#}");
    stack.namespace.apply(&model("b", json!([{"name": "chat-v3"}]))).await?;
    stack
        .until_object(plane, "inferencemodel", "b", |object| {
            condition(object, "Accepted") == Some(("False".into(), "ModelNameInUse".into()))
        })
        .await?;
    stack.namespace.delete(&model("a", json!([]))).await?;
    stack
        .until_object(plane, "inferencemodel", "b", |object| {
            condition(object, "Accepted") == Some(("True".into(), "Accepted".into()))
        })
        .await?;
    let answer = stack.post("/v1/chat/completions", body).await?.json()?;
    assert_eq!(answer["model"], "chat-v3", "{answer:#}");
    Ok(())
}
