use pointsman_tests::process::{built, envoy};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_the_picker_reuses_more_of_the_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(built("pointsman", "pointsman").unwrap());
    command.args(["demo", "--json", "--seconds", "20", "--seed", "1", "--output"]).arg(folder.path());
    command.env("POINTSMAN_ENVOY", envoy().unwrap()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let strategies = result["strategies"].as_array().unwrap();
    assert_eq!(strategies.len(), 3);
    for strategy in strategies {
        assert_eq!(strategy["failures"], 0, "{strategy:#}");
        assert!(strategy["requests"].as_u64().unwrap() > 50, "{strategy:#}");
    }
    let ratio = result["pickerVersusRoundRobin"]["prefixHitRatio"].as_f64().unwrap();
    assert!(ratio > 1.1, "{result:#}");
    let report = std::fs::read_to_string(folder.path().join("index.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("picker"));
}
