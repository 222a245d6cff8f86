//! What happened to a pool, told where its owner looks: as Events on the object.
//!
//! `kube`'s own recorder is not used: it repeats the first message of a series for all the later ones, which would hide
//! the second mistake in a policy behind the first.

mod allowance;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::api::PoolGroup;
use crate::calls::{CallError, Failure, Jitter, within};
use crate::key::ObjectKey;
use allowance::Allowance;

/// How many notices wait to be published.
const WAITING_MAX: usize = 256;
/// How many notices are kept while nobody leads, and for how long: what happened between a leader's death and the next
/// one's first Event is told by the next one.
const KEPT_MAX: usize = 64;
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How many Events are remembered, so that a repetition raises their count, and for how long.
const REMEMBERED_MAX: usize = 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(360);
/// How often an Event is tried, how long one try may take, and the pauses between.
const TRIES: u32 = 3;
const CALL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The API server's limits, in bytes.
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;
/// What a name may have before the suffix that makes it an Event's own.
const NAME_MAX: usize = 200;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Whom it is about.
    pub regarding: Regarding,
    /// What happened.
    pub reason: NoticeReason,
    /// The particulars, for people; cut at 1,024 bytes.
    pub message: String,
}

/// Whom a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Group and version, as in a manifest.
    pub api_version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Where it stands; the Event stands in the same namespace.
    pub key: ObjectKey,
    /// Which one of that name.
    pub uid: Arc<str>,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeReason {
    /// No endpoint of the pool takes requests.
    NoReadyEndpoints,
    /// Some do again.
    EndpointsReady,
    /// A policy is in force.
    PolicyApplied,
    /// A policy says what cannot be; the last good one stays in force.
    PolicyRejected,
    /// An older policy has the same target.
    PolicyConflicted,
    /// This replica speaks for all from now on.
    BecameLeader,
    /// Endpoints do not tell their load.
    ScrapeFailing,
    /// A pod takes no new requests, because somebody said so.
    Cordoned,
    /// It takes them again.
    Uncordoned,
    /// The pool's picker is nowhere, or cannot be verified.
    PickerNotFound,
    /// It can be asked again.
    PickerFound,
}

/// Where notices are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Notices {
    waiting: mpsc::Sender<Notice>,
    metrics: NoticeMetrics,
}

/// Publishes notices. Its task is [`Publisher::run`].
pub struct Publisher {
    client: Client,
    /// What reports them.
    controller: &'static str,
    /// This replica's name; the API server takes no Event without one.
    instance: String,
    notices: mpsc::Receiver<Notice>,
    holds: watch::Receiver<bool>,
    allowance: Allowance<(Arc<str>, NoticeReason)>,
    /// What was told while nobody led.
    kept: VecDeque<(Instant, Notice)>,
    /// Events that a repetition would count up.
    published: HashMap<Notice, Published>,
    metrics: NoticeMetrics,
    jitter: Jitter,
}

/// An Event that was published.
#[derive(Debug)]
struct Published {
    name: String,
    count: i32,
    at: Instant,
}

/// What became of notices. Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub struct NoticeMetrics {
    notices: Family<OutcomeLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Regarding {
    /// An InferencePool.
    pub fn pool(group: PoolGroup, key: ObjectKey, uid: Arc<str>) -> Self {
        Self { api_version: group.api_version(), kind: "InferencePool", key, uid }
    }
}

impl NoticeReason {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoReadyEndpoints => "NoReadyEndpoints",
            Self::EndpointsReady => "EndpointsReady",
            Self::PolicyApplied => "PolicyApplied",
            Self::PolicyRejected => "PolicyRejected",
            Self::PolicyConflicted => "PolicyConflicted",
            Self::BecameLeader => "BecameLeader",
            Self::ScrapeFailing => "ScrapeFailing",
            Self::Cordoned => "Cordoned",
            Self::Uncordoned => "Uncordoned",
            Self::PickerNotFound => "PickerNotFound",
            Self::PickerFound => "PickerFound",
        }
    }

    /// What was being done.
    const fn action(self) -> &'static str {
        match self {
            Self::NoReadyEndpoints | Self::EndpointsReady | Self::Cordoned | Self::Uncordoned => "WatchEndpoints",
            Self::PolicyApplied | Self::PolicyRejected | Self::PolicyConflicted => "ApplyPolicy",
            Self::BecameLeader => "Lead",
            Self::ScrapeFailing => "Scrape",
            Self::PickerNotFound | Self::PickerFound => "ResolvePicker",
        }
    }

    /// Whether somebody should look.
    pub const fn is_warning(self) -> bool {
        match self {
            Self::NoReadyEndpoints
            | Self::PolicyRejected
            | Self::PolicyConflicted
            | Self::ScrapeFailing
            | Self::PickerNotFound => true,
            Self::EndpointsReady
            | Self::PolicyApplied
            | Self::BecameLeader
            | Self::Cordoned
            | Self::Uncordoned
            | Self::PickerFound => false,
        }
    }
}

impl NoticeMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let notices = Family::default();
        registry.register("kubernetes_events", "Events for Kubernetes, by what became of them", notices.clone());
        Self { notices }
    }

    fn count(&self, outcome: &'static str) {
        self.notices.get_or_create_owned(&OutcomeLabel { outcome }).inc();
    }
}

/// Where notices are told, and what publishes them as Events of the replica `instance` of `controller`.
pub fn notices(
    client: Client,
    controller: &'static str,
    instance: &str,
    holds: watch::Receiver<bool>,
    metrics: NoticeMetrics,
) -> (Notices, Publisher) {
    let (waiting, notices) = mpsc::channel(WAITING_MAX);
    let publisher = Publisher {
        client,
        controller,
        instance: cut(if instance.is_empty() { controller } else { instance }, INSTANCE_MAX).to_owned(),
        notices,
        holds,
        allowance: Allowance::default(),
        kept: VecDeque::new(),
        published: HashMap::new(),
        metrics: metrics.clone(),
        jitter: Jitter::new(),
    };
    (Notices { waiting, metrics }, publisher)
}

impl Notices {
    /// Tells. Never waits: what does not fit is dropped and counted.
    pub fn tell(&self, notice: Notice) {
        if self.waiting.try_send(notice).is_err() {
            self.metrics.count("dropped");
        }
    }
}

impl Publisher {
    /// Publishes what is told for as long as somebody may tell something.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.holds.changed() => {
                    let leads = *self.holds.borrow_and_update();
                    for (at, notice) in std::mem::take(&mut self.kept) {
                        if leads && at.elapsed() < KEPT_FOR {
                            self.publish(notice).await;
                        }
                    }
                }
                notice = self.notices.recv() => match notice {
                    None => return,
                    Some(notice) if *self.holds.borrow() => self.publish(notice).await,
                    Some(notice) => {
                        if self.kept.len() == KEPT_MAX {
                            self.kept.pop_front();
                        }
                        self.kept.push_back((Instant::now(), notice));
                    }
                },
            }
        }
    }

    async fn publish(&mut self, mut notice: Notice) {
        notice.message.truncate(cut(&notice.message, NOTE_MAX).len());
        let now = Instant::now();
        if !self.allowance.take((Arc::clone(&notice.regarding.uid), notice.reason), now) {
            return self.metrics.count("limited");
        }
        self.published.retain(|_, published| now.duration_since(published.at) < REMEMBERED_FOR);
        if self.published.len() >= REMEMBERED_MAX {
            self.published.clear();
        }
        for failures in 1..=TRIES {
            let Err(error) = self.send(&notice).await else { return self.metrics.count("published") };
            match error.kind() {
                // The Event that was to be counted up is gone: the next try makes a new one.
                Failure::Absent | Failure::Conflict if self.published.remove(&notice).is_some() => {}
                // The namespace is going, or nobody may write Events here: trying again changes nothing.
                Failure::Absent | Failure::Conflict | Failure::Refused => {
                    tracing::warn!(%error, regarding = %notice.regarding.key, "an Event is refused");
                    break;
                }
                Failure::Away => {
                    tracing::debug!(%error, regarding = %notice.regarding.key, "an Event could not be written");
                    let pause = self.jitter.backoff(PAUSE, PAUSE_MAX, failures).max(error.retry_after());
                    sleep(pause).await;
                }
            }
        }
        self.metrics.count("failed");
    }

    /// Makes an Event, or counts up the one of the same words.
    async fn send(&mut self, notice: &Notice) -> Result<(), CallError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &notice.regarding.key.namespace);
        let now = MicroTime(Timestamp::now());
        let at = Instant::now();
        if let Some(published) = self.published.get_mut(notice) {
            let count = published.count.saturating_add(1);
            let series = EventSeries { count, last_observed_time: now };
            let patch = Patch::Merge(json!({ "series": series }));
            within(CALL, api.patch(&published.name, &PatchParams::default(), &patch)).await?;
            (published.count, published.at) = (count, at);
            return Ok(());
        }
        let event = self.event(notice, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        within(CALL, api.create(&PostParams::default(), &event)).await?;
        self.published.insert(notice.clone(), Published { name, count: 1, at });
        Ok(())
    }

    fn event(&self, notice: &Notice, now: MicroTime) -> Event {
        let Regarding { api_version, kind, key, uid } = &notice.regarding;
        let name = format!("{}.{:x}", cut(&key.name, NAME_MAX).trim_end_matches(['.', '-']), now.0.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(key.namespace.to_string()),
                ..ObjectMeta::default()
            },
            action: Some(notice.reason.action().into()),
            reason: Some(notice.reason.as_str().into()),
            note: Some(notice.message.clone()),
            type_: Some(if notice.reason.is_warning() { "Warning" } else { "Normal" }.into()),
            event_time: Some(now),
            reporting_controller: Some(self.controller.into()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(ObjectReference {
                api_version: Some((*api_version).into()),
                kind: Some((*kind).into()),
                namespace: Some(key.namespace.to_string()),
                name: Some(key.name.to_string()),
                uid: Some(uid.to_string()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }
}

/// The beginning of a text, at most `max` bytes of it, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
