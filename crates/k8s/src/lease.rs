//! Which of the replicas speaks for all: a Lease, held by one of them at a time.
//!
//! Two uses. Where all replicas serve (the default), the holder alone writes statuses and Events. Where one serves
//! (`--ha-mode leader`), a replica serves **until it sees another holder**: an API server that is away takes the Lease
//! from nobody, and stops nobody.
//!
//! What this is not: a lock. Whoever holds the Lease may have lost it a moment ago, and not know yet. Two replicas that
//! serve at once each see half of the load that they share, so picks are balanced a little worse; two that write
//! statuses write the same, because they read the same cluster. Neither is ever wrong, which is why nothing here waits
//! for certainty. The moments when two serve at once:
//! - from a new holder's first write until the old one's next renewal, less than a second and the time of a request;
//! - while the old one cannot reach the API server and the new one can;
//! - from a paused process's waking until it has read the Lease, if it asks [`Leadership::serving`] alone:
//!   [`Leadership::serves`] closes that gap.
//!
//! Clocks are never compared. A Lease has expired when it was *seen* unchanged for its duration by this process's
//! monotonic clock, counting only time in which the API server answered; so neither a wall clock that steps by an hour,
//! nor an outage of the API server, makes anybody a leader. Times in the Lease are written for people.

mod election;
mod pulse;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;

pub use election::Election;
use pulse::Pulse;

use crate::index::Scope;

/// Which Lease, for whom, and how.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// The Lease's namespace: that of the picker.
    pub namespace: String,
    /// The Lease's name; replicas of one Deployment share it.
    pub name: String,
    /// This replica's name. It must be another one after each start: a process that came back under its old name would
    /// take the Lease of its former self for its own.
    pub identity: String,
    /// What holding it is for.
    pub mode: HaMode,
    /// How long everything takes.
    pub timing: LeaseTiming,
}

/// What the replicas of one picker are to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaMode {
    /// All serve; the Lease's holder writes statuses and Events.
    #[default]
    ActiveActive,
    /// The Lease's holder serves, and the others keep their pools warm.
    Leader,
}

/// The times of an election.
///
/// A follower takes over when it has seen nothing new for `duration`; it looks every `look`, and what it saw last is up
/// to `renew` old when the holder dies.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// How long a Lease holds without being renewed; whole seconds, because the object holds no fractions.
    pub duration: Duration,
    /// How often the holder renews it; give or take a tenth, as with `look`.
    pub renew: Duration,
    /// How often a follower looks, and how soon whoever failed tries again.
    pub look: Duration,
    /// How long one request may take.
    pub call: Duration,
}

/// How things stand with the Lease, as far as this replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Whether this replica holds it, and renewed it recently enough that nobody can have taken it.
    pub holds: bool,
    /// Who is written there.
    pub holder: Holder,
    /// Why the API server refuses this replica the Lease, a missing permission most of all; `None` when it does not, or
    /// does not answer at all.
    pub refusal: Option<Arc<str>>,
}

/// Who holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It has not been read yet.
    Unread,
    /// Nobody: it was released.
    Nobody,
    /// This replica.
    Us,
    /// The one of that identity.
    Other(Arc<str>),
}

/// The election as others see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// How things stand.
    pub view: watch::Receiver<LeaseView>,
    /// [`LeaseView::holds`] alone: who writes statuses and Events.
    pub holds: watch::Receiver<bool>,
    /// Whether this replica should take requests; always true in [`HaMode::ActiveActive`]. False at the start, and
    /// after a pause of the process, until the Lease was read or could not be.
    serving: watch::Receiver<bool>,
    /// What the Lease is for.
    pub mode: HaMode,
    pulse: Arc<Pulse>,
}

impl LeaseTiming {
    /// What fits the use that is made of the Lease. Where requests wait for the next holder it takes 1.3 to 3 seconds
    /// from a kill to that, at under two writes a second for the holder and four reads a second for each follower.
    /// Where only statuses and Events do, it takes up to nine, at a fifth of the requests.
    pub fn of(mode: HaMode) -> Self {
        let millis = Duration::from_millis;
        match mode {
            HaMode::Leader => {
                Self { duration: millis(2000), renew: millis(600), look: millis(300), call: millis(1000) }
            }
            HaMode::ActiveActive => {
                Self { duration: millis(6000), renew: millis(2000), look: millis(1500), call: millis(2000) }
            }
        }
    }
}

impl Leadership {
    /// Whether this replica should take requests, asked now: in a process that was stopped and goes on this very moment
    /// too, which has to read the Lease first. Health is answered by this.
    pub fn serves(&self) -> bool {
        *self.serving.borrow() && (self.mode == HaMode::ActiveActive || !self.pulse.is_late())
    }

    /// Waits until the election says otherwise whether this replica serves, or how things stand.
    pub async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.serving.changed() => {}
            Ok(()) = self.view.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// The name of the Lease that the pickers of a scope share where nobody gave one. Pickers of other pools, which may stand
/// in the same namespace, share another. A namespace has no dots, so it is unambiguous.
pub fn default_name(scope: &Scope) -> String {
    match scope {
        Scope::Pool(pool) => format!("pointsman.{}.{}", pool.namespace, pool.name),
        Scope::Namespace(namespace) => format!("pointsman.{namespace}"),
        Scope::Cluster => "pointsman".to_owned(),
    }
}

/// An election to take part in, and how others see it.
pub fn leadership(client: Client, options: LeaseOptions) -> (Election, Leadership) {
    let mode = options.mode;
    let pulse = Arc::new(Pulse::new(options.timing));
    let (election, view, holds, serving) = Election::new(client, options, Arc::clone(&pulse));
    (election, Leadership { view, holds, serving, mode, pulse })
}
