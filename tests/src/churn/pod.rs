//! Pods as a Deployment of vLLM makes them and a kubelet describes them: about as large as real ones, since what a
//! watcher pays for is their size.

use std::net::IpAddr;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// The port that they serve on.
pub(super) const PORT: u16 = 8000;

/// A pod that is bound to a node, and nothing more yet.
pub(super) fn planned(name: &str, pool: &str) -> Result<Pod> {
    let arguments = [
        "--model=meta-llama/Llama-3.1-8B-Instruct",
        "--tensor-parallel-size=1",
        "--max-num-seqs=256",
        "--max-model-len=32768",
        "--gpu-memory-utilization=0.92",
        "--enable-prefix-caching",
        "--kv-events-config={\"enable_kv_cache_events\":true,\"publisher\":\"zmq\"}",
    ];
    let token = json!({"secretKeyRef": {"name": "hf-token", "key": "token"}});
    let address = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}});
    let environment = json!([
        {"name": "HF_HOME", "value": "/models"},
        {"name": "HF_TOKEN", "valueFrom": token},
        {"name": "POD_IP", "valueFrom": address},
        {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
        {"name": "PYTHONHASHSEED", "value": "42"},
    ]);
    let probe = |path: &str, period: u32| {
        let get = json!({"path": path, "port": "http", "scheme": "HTTP"});
        json!({"httpGet": get, "periodSeconds": period, "failureThreshold": 3})
    };
    let resources = json!({"cpu": "8", "memory": "64Gi", "ephemeral-storage": "40Gi"});
    let container = json!({
        "name": "vllm",
        "image": "docker.io/vllm/vllm-openai:v0.11.0",
        "command": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
        "args": arguments,
        "env": environment,
        "ports": [{"name": "http", "containerPort": PORT}, {"name": "zmq", "containerPort": 5557}],
        "resources": {"requests": resources, "limits": resources},
        "startupProbe": probe("/health", 10),
        "livenessProbe": probe("/health", 10),
        "readinessProbe": probe("/v1/models", 5),
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "shm", "mountPath": "/dev/shm"}],
    });
    let labels = json!({
        "app": pool,
        "app.kubernetes.io/name": "vllm",
        "app.kubernetes.io/component": "decode",
        "llm-d.ai/engine-type": "vllm",
        "llm-d.ai/role": "decode",
        "pod-template-hash": "5f7d9c8b6d",
        "topology.kubernetes.io/zone": "zone-a",
    });
    let annotations = json!({"prometheus.io/scrape": "true", "prometheus.io/port": PORT.to_string()});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {
            "nodeName": "node-a",
            "containers": [container],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": true}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
            ],
        },
    }))?)
}

/// The status of a pod that began to serve at `ip`.
pub(super) fn running(ip: IpAddr) -> Value {
    let since = "2026-01-01T00:00:00Z";
    let condition = |name| json!({"type": name, "status": "True", "lastTransitionTime": since});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let container = json!({
        "name": "vllm",
        "image": "docker.io/vllm/vllm-openai:v0.11.0",
        "imageID": format!("docker.io/vllm/vllm-openai@sha256:{}", "5".repeat(64)),
        "containerID": format!("containerd://{}", "7".repeat(64)),
        "ready": true,
        "started": true,
        "restartCount": 0,
        "state": {"running": {"startedAt": since}},
    });
    json!({"status": {
        "phase": "Running",
        "hostIP": "192.168.0.1",
        "hostIPs": [{"ip": "192.168.0.1"}],
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": since,
        "qosClass": "Guaranteed",
        "conditions": conditions.map(condition),
        "containerStatuses": [container],
    }})
}

/// What changes of the status when its readiness does.
pub(super) fn readiness(is: bool) -> Value {
    let status = if is { "True" } else { "False" };
    let conditions = ["ContainersReady", "Ready"].map(|name| json!({"type": name, "status": status}));
    json!({"status": {"conditions": conditions}})
}

/// What changes of the status when its address does.
pub(super) fn address(ip: IpAddr) -> Value {
    // podIPs is a list that patches merge by address: the former one has to go.
    json!({"status": {"podIP": ip, "podIPs": [{"$patch": "replace"}, {"ip": ip}]}})
}
