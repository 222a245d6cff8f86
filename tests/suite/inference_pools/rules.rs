use std::time::Duration;

use anyhow::{Result, ensure};
use pointsman_tests::rules::{RulesPlan, run};

#[tokio::test(flavor = "multi_thread")]
async fn many_rules_are_changed_in_time_and_endpoints_need_no_hook() -> Result<()> {
    let plan = RulesPlan { rules: 30, pools: 6, changes: 3, churn: Duration::from_secs(3) };
    // What does not arrive in Envoy within the deadline of a change is an error.
    let report = run(plan).await?;
    println!("{report}");
    ensure!(report.pool.len() == 3 && report.route.len() == 3 && report.noop.len() == 3, "{report}");
    ensure!(report.pod_changes > 100 && report.hooks_meanwhile == 0, "{report}");
    Ok(())
}
