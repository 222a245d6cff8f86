//! One replica's part in the election.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;
use super::{HaMode, Holder, LeaseOptions, LeaseView};
use crate::calls::{CallError, Failure, Jitter, within};

/// How often the Lease is tried to be read before a replica that starts or wakes goes on without.
const FIRST_READS: u32 = 3;
/// The pause between those.
const FIRST_READS_PAUSE: Duration = Duration::from_millis(100);
/// How often a round asks the API server again because another replica was faster.
const TRIES: u32 = 3;
/// What a Lease's duration may be read as: it is an object in the cluster, and may say anything.
const DURATION_SECONDS: std::ops::RangeInclusive<i32> = 1..=15;

/// One replica's part in the election. Its task is [`Election::run`], and nobody else writes what it publishes.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    options: LeaseOptions,
    pulse: Arc<Pulse>,
    jitter: Jitter,
    view: watch::Sender<LeaseView>,
    holds: watch::Sender<bool>,
    serving: watch::Sender<bool>,
    /// The Lease as it was last seen; `None` before that, and when there was none.
    seen: Option<Seen>,
    /// When the last renewal that succeeded was sent.
    renewed: Option<Instant>,
    /// When the API server last answered; `None` when it did not answer the last time.
    answered: Option<Instant>,
    /// How many more times the Lease may fail to be read before this replica goes on without; `None` when it knows
    /// what it needs.
    first_reads: Option<u32>,
    /// Whether another was last seen to hold the Lease.
    yields: bool,
    /// Why the API server refused the last request; `None` when it did not.
    refusal: Option<Arc<str>>,
}

/// A Lease that was seen.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    holder: Holder,
    /// For how long it was seen unchanged, while the API server answered.
    unchanged: Duration,
}

type Receivers = (Election, watch::Receiver<LeaseView>, watch::Receiver<bool>, watch::Receiver<bool>);

impl Election {
    pub(super) fn new(client: Client, options: LeaseOptions, pulse: Arc<Pulse>) -> Receivers {
        let unread = LeaseView { holds: false, holder: Holder::Unread, refusal: None };
        let (view, view_seen) = watch::channel(unread);
        let (holds, holds_seen) = watch::channel(false);
        let (serving, serving_seen) = watch::channel(options.mode == HaMode::ActiveActive);
        let election = Self {
            api: Api::namespaced(client, &options.namespace),
            options,
            pulse,
            jitter: Jitter::new(),
            view,
            holds,
            serving,
            seen: None,
            renewed: None,
            answered: None,
            first_reads: Some(FIRST_READS),
            yields: false,
            refusal: None,
        };
        (election, view_seen, holds_seen, serving_seen)
    }

    /// Takes part until `stop`, then gives the Lease back, so that the next holder need not wait for it to expire. Who
    /// looks on goes on seeing that this replica does not hold it, for as long as the task lives.
    pub async fn run(mut self, stop: CancellationToken) -> Infallible {
        let pulse = Arc::clone(&self.pulse);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                stood_still = pulse.stopped() => {
                    self.wake(stood_still);
                    pause = Duration::ZERO;
                }
                next = async { sleep(pause).await; self.round().await } => pause = next,
            }
        }
        self.release().await;
        std::future::pending().await
    }

    /// Forgets what a stopped process cannot know. A request that was under way is given up: if it was a renewal and
    /// succeeded, the next one will find the Lease changed and read it.
    fn wake(&mut self, stood_still: Duration) {
        tracing::warn!(?stood_still, "this process was stopped for a while: reading the Lease before going on");
        self.first_reads = Some(FIRST_READS);
        self.renewed = None;
        self.publish();
        self.pulse.beat();
    }

    /// Reads, renews or takes the Lease as the case may be, and says how long to wait before the next round.
    async fn round(&mut self) -> Duration {
        let asked = Instant::now();
        // What was renewed too long ago is no longer held, before anything else takes time.
        self.publish();
        let outcome = self.take_part().await;
        // An answer that waited in a stopped process is too old to conclude from; the pulse is looked at next.
        if self.pulse.is_late() {
            return Duration::ZERO;
        }
        let had_answer = self.answered.is_some();
        match outcome {
            Ok(()) => {
                self.answered = Some(Instant::now());
                self.refusal = None;
                if !had_answer {
                    tracing::debug!(lease = self.options.name, "the API server answers");
                }
            }
            Err(error) => {
                if had_answer || self.first_reads == Some(FIRST_READS) {
                    let name = &self.options.name;
                    tracing::warn!(%error, lease = name, "the Lease can be neither read nor renewed; trying on");
                }
                self.answered = None;
                self.refusal = (error.kind() == Failure::Refused).then(|| error.to_string().into());
                self.first_reads = self.first_reads.and_then(|left| left.checked_sub(1)).filter(|left| *left > 0);
            }
        }
        self.publish();
        let timing = self.options.timing;
        if self.first_reads.is_some() {
            return FIRST_READS_PAUSE;
        }
        let pause = match (*self.holds.borrow(), self.answered) {
            (true, Some(_)) => self.jitter.around(timing.renew).saturating_sub(asked.elapsed()),
            _ => self.jitter.around(timing.look),
        };
        self.fresh_for().map_or(pause, |left| pause.min(left))
    }

    async fn take_part(&mut self) -> Result<(), CallError> {
        // A holder renews what it knows without reading it first. One that just woke knows nothing.
        if self.first_reads.is_none() && self.is_ours() && self.write().await? {
            return Ok(());
        }
        for _ in 0..TRIES {
            self.read().await?;
            let is_free = match &self.seen {
                None => true,
                Some(seen) => match seen.holder {
                    Holder::Other(_) => seen.unchanged >= duration(&seen.lease),
                    Holder::Unread | Holder::Nobody | Holder::Us => true,
                },
            };
            if !is_free {
                self.yields = true;
                return Ok(());
            }
            if self.write().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the Lease.
    async fn read(&mut self) -> Result<(), CallError> {
        let asked = Instant::now();
        let found = within(self.call_limit(), self.api.get_opt(&self.options.name)).await?;
        self.first_reads = None;
        let Some(lease) = found else {
            self.seen = None;
            return Ok(());
        };
        // A process that was stopped, or short of CPU, did not look in the meantime.
        let looked = self.answered.map_or(Duration::ZERO, |last| asked.saturating_duration_since(last));
        let looked = looked.min(self.options.timing.look * 2);
        let before = self.seen.take().filter(|seen| is_same(&seen.lease, &lease));
        let unchanged = before.map_or(Duration::ZERO, |seen| seen.unchanged + looked);
        self.answered = Some(Instant::now());
        self.saw(lease, unchanged);
        Ok(())
    }

    fn saw(&mut self, lease: Lease, unchanged: Duration) {
        let identity = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let holder = match identity {
            "" => Holder::Nobody,
            us if us == self.options.identity => Holder::Us,
            other => Holder::Other(other.into()),
        };
        self.seen = Some(Seen { lease, holder, unchanged });
    }

    /// Writes this replica into the Lease as it was last seen; false when it has changed since.
    async fn write(&mut self) -> Result<bool, CallError> {
        let sent = Instant::now();
        let limit = self.call_limit();
        let written = match &self.seen {
            None => {
                let metadata = ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() };
                let lease = self.signed(Lease { metadata, spec: None });
                within(limit, self.api.create(&PostParams::default(), &lease)).await
            }
            Some(seen) => {
                let lease = self.signed(seen.lease.clone());
                within(limit, self.api.replace(&self.options.name, &PostParams::default(), &lease)).await
            }
        };
        match written {
            Ok(lease) => {
                self.saw(lease, Duration::ZERO);
                self.renewed = Some(sent);
                self.yields = false;
                Ok(true)
            }
            Err(error) => match error.kind() {
                Failure::Conflict => Ok(false),
                // Deleted since it was seen.
                Failure::Absent if self.seen.is_some() => Ok(false),
                Failure::Absent | Failure::Refused | Failure::Away => Err(error),
            },
        }
    }

    /// The Lease with this replica as its holder. Its resourceVersion makes writing it fail if another was faster.
    fn signed(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_ref() != Some(&self.options.identity) {
            // Absent in a Lease that nobody held yet.
            let taken = spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1));
            spec.lease_transitions = Some(taken);
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.options.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.options.timing.duration.as_secs().max(1)).ok();
        spec.renew_time = Some(now);
        lease
    }

    /// For how much longer this replica may say that it holds the Lease; `None` when it may not. That is two thirds of
    /// the duration: whoever waits for the whole of it to pass finds nobody writing any more.
    fn fresh_for(&self) -> Option<Duration> {
        let sent = self.renewed.filter(|_| self.is_ours())?;
        let fresh = self.options.timing.duration.mul_f64(2.0 / 3.0);
        fresh.checked_sub(sent.elapsed()).filter(|left| !left.is_zero())
    }

    /// How long a request may take: no longer than this replica may say that it holds the Lease.
    fn call_limit(&self) -> Duration {
        let call = self.options.timing.call;
        self.fresh_for().map_or(call, |left| call.min(left))
    }

    fn is_ours(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.holder == Holder::Us)
    }

    fn publish(&self) {
        let holds = self.fresh_for().is_some();
        let holder = self.seen.as_ref().map_or(Holder::Unread, |seen| seen.holder.clone());
        let serves = self.options.mode == HaMode::ActiveActive || (self.first_reads.is_none() && !self.yields);
        self.tell(LeaseView { holds, holder, refusal: self.refusal.clone() }, serves);
    }

    fn tell(&self, view: LeaseView, serves: bool) {
        let holds = view.holds;
        let is_news = self.view.send_if_modified(|told| {
            let is_news = *told != view;
            told.clone_from(&view);
            is_news
        });
        let is_news = self.holds.send_if_modified(|told| std::mem::replace(told, holds) != holds) || is_news;
        if self.serving.send_if_modified(|told| std::mem::replace(told, serves) != serves) || is_news {
            tracing::info!(lease = self.options.name, holds, holder = ?view.holder, serves, "leadership");
        }
    }

    /// Gives the Lease back, if it can be done at once: if not, it expires.
    async fn release(&mut self) {
        let holder = match &self.seen {
            Some(seen) if seen.holder != Holder::Us => seen.holder.clone(),
            _ => Holder::Nobody,
        };
        let view = LeaseView { holds: false, holder, refusal: None };
        self.tell(view, self.options.mode == HaMode::ActiveActive);
        // A renewal that was under way when the end came may have changed the Lease: then it is read again.
        for _ in 0..TRIES {
            let Some(seen) = self.seen.take_if(|seen| seen.holder == Holder::Us) else { return };
            let mut lease = seen.lease;
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            let params = PostParams::default();
            let given = within(self.options.timing.call, self.api.replace(&self.options.name, &params, &lease)).await;
            let outcome = match given {
                Ok(_) => return tracing::info!(lease = self.options.name, "gave the Lease back"),
                Err(error) if error.kind() == Failure::Conflict => self.read().await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return tracing::warn!(%error, lease = self.options.name, "the Lease is left to expire");
            }
        }
    }
}

/// Whether nobody wrote it in between. Versions are opaque: they are equal or they are not.
fn is_same(a: &Lease, b: &Lease) -> bool {
    (&a.metadata.uid, &a.metadata.resource_version) == (&b.metadata.uid, &b.metadata.resource_version)
}

/// How long a Lease holds, by its own word.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let seconds = seconds.clamp(*DURATION_SECONDS.start(), *DURATION_SECONDS.end());
    Duration::from_secs(seconds.unsigned_abs().into())
}
