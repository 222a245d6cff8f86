use std::time::Duration;

use anyhow::{Result, ensure};
use pointsman_tests::churn::{ChurnPlan, churn};
use pointsman_tests::depth;
use pointsman_tests::follow::{follow, report};

use crate::cluster::plane;

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_each_change_of_the_cluster() -> Result<()> {
    let changes = depth::at(5, 50);
    // Each that is not followed within the deadline of a change is an error.
    let followed = follow(plane().await, changes, |_, _| {}).await?;
    println!("{}", report(&followed));
    ensure!(followed.len() == changes, "{} of {changes} changes were made", followed.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_change_all_the_time_leave_the_picker_with_what_is_listed() -> Result<()> {
    let plan = ChurnPlan {
        pools: 4,
        pods: 300,
        rate: 100.0,
        churn: depth::at(Duration::from_secs(5), Duration::from_secs(300)),
        comparison: Duration::ZERO,
    };
    // A request that is not decided is an error, and so are other members than those of a list.
    let churned = churn(plane().await, plan, |what| println!("{what}")).await?;
    println!("{}", churned.report());
    let changes: u64 = churned.phases.iter().map(|phase| phase.changes).sum();
    ensure!(changes > 0 && churned.members > 0, "nothing happened: {churned:?}");
    Ok(())
}
