//! The owner task of a pool: the one writer of its snapshots.

use std::sync::Arc;
use std::time::Duration;

use pointsman_core::endpoint::Endpoint;
use pointsman_core::load::LoadReport;
use pointsman_core::policy::Policy;
use pointsman_core::pool::PoolWriter;
use tokio::sync::mpsc;

/// The least time between two publications.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);

/// What the owner is told beside load.
#[derive(Debug)]
pub(crate) enum PoolChange {
    /// These are the members now.
    Members(Vec<Arc<Endpoint>>),
    /// This is the policy now.
    Policy(Arc<Policy>),
    /// The prefix index may take this many bytes, whatever the policy allows.
    IndexShare(usize),
}

/// Takes in changes and readings, and publishes what they add up to. Ends when all senders of `changes` are gone.
pub(crate) async fn own(
    mut writer: PoolWriter,
    mut changes: mpsc::Receiver<PoolChange>,
    mut loads: mpsc::Receiver<LoadReport>,
) {
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => apply(&mut writer, change),
                None => return,
            },
            Some(report) = loads.recv() => writer.record_load(report),
        }
        while let Ok(change) = changes.try_recv() {
            apply(&mut writer, change);
        }
        while let Ok(report) = loads.try_recv() {
            writer.record_load(report);
        }
        writer.publish();
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
}

fn apply(writer: &mut PoolWriter, change: PoolChange) {
    match change {
        PoolChange::Members(endpoints) => writer.set_members(endpoints),
        PoolChange::IndexShare(bytes) => writer.set_index_share(bytes),
        PoolChange::Policy(policy) => writer.set_policy(policy),
    }
}
