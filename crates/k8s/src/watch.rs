//! One watch a kind: lists in pages, goes on from bookmarks, begins anew with jittered pauses, and never stalls over an
//! object that it cannot read.
//!
//! `kube::runtime::watcher` is not used: each of its attempts at a list begins with an event, which sets a backoff back,
//! so that an API server that is ill is asked four times a second; its calls have no time limit; and it does not say when
//! a watch that had failed was accepted again.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use kube::api::{ListParams, ObjectMeta, WatchEvent, WatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::calls::{CallError, Failure, Jitter, within};
use crate::key::ObjectKey;

/// Objects a page of a list.
const PAGE: u32 = 500;
/// How long one page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// How long one watch call lasts, in seconds. Shortly before its end the API server sends a bookmark.
const WATCH_SECONDS: u32 = 60;
/// A watch that was silent for this long has lost its connection without a word: longer than a call lasts. One that is
/// answered with its first event, as behind some proxies, is accepted within this time too.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// The first and the longest pause after a failure: doubled in between, and of each between half and all.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// A watch call that lasted for this long worked, even if nothing happened.
const LASTING: Duration = Duration::from_secs(2);

/// What a watch saw of its kind, `T` being what is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed<T> {
    /// These are all there are. Of the `unreadable` ones what was known before goes on counting.
    All {
        /// The objects that can be read.
        objects: Vec<(ObjectKey, T)>,
        /// Objects that are there and cannot be read.
        unreadable: Vec<ObjectKey>,
    },
    /// One that is new or changed.
    Put(ObjectKey, T),
    /// One that is there no more.
    Gone(ObjectKey),
    /// The kind itself is there no more. A watch alone never says so: one answer that the kind is not known may come
    /// from an API server that has only begun to serve.
    Absent,
}

/// How a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// No list came yet, and nothing went wrong.
    Starting,
    /// All objects are known, and changes come.
    Synced,
    /// The API server does not know the kind: its CRD is not installed. It is asked again and again.
    Absent,
    /// The API server refuses, and says why.
    Forbidden(String),
    /// The API server does not answer, or answers with an error.
    Failing(String),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told<T> {
    /// It saw something.
    Saw(Observed<T>),
    /// It stands otherwise than before.
    Stands(WatchState),
}

/// Watches a kind for ever. `keep` takes out of an object what is kept of it, `tell` takes what was seen; it may wait.
pub async fn watch<K, T>(
    api: Api<DeserializeGuard<K>>,
    field_selector: Option<String>,
    keep: impl Fn(&ObjectMeta, K) -> T,
    tell: impl FnMut(Told<T>) -> BoxFuture<'static, ()>,
) -> Infallible
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let standing = WatchState::Starting;
    let mut watch = Watch { api, field_selector, keep, tell, standing, failures: 0, jitter: Jitter::new() };
    loop {
        match watch.list().await {
            Ok(version) => watch.follow(version).await,
            Err(error) => watch.failed(&error).await,
        }
    }
}

/// A watch at work.
struct Watch<K, Keep, Tell> {
    api: Api<DeserializeGuard<K>>,
    field_selector: Option<String>,
    keep: Keep,
    tell: Tell,
    /// What was told of it last.
    standing: WatchState,
    /// Attempts in a row that brought nothing; what pauses grow with.
    failures: u32,
    jitter: Jitter,
}

impl<K, T, Keep, Tell> Watch<K, Keep, Tell>
where
    K: Resource + Clone + Debug + DeserializeOwned,
    Keep: Fn(&ObjectMeta, K) -> T,
    Tell: FnMut(Told<T>) -> BoxFuture<'static, ()>,
{
    /// Lists all objects, tells them together, and returns the version that they are of.
    async fn list(&mut self) -> Result<String, CallError> {
        let field_selector = self.field_selector.clone();
        let mut params = ListParams { field_selector, limit: Some(PAGE), ..ListParams::default() };
        let (mut objects, mut unreadable) = (Vec::new(), Vec::new());
        loop {
            let page = within(PAGE_LIMIT, self.api.list(&params)).await?;
            for guard in page.items {
                match self.read(guard) {
                    Ok(object) => objects.push(object),
                    Err(key) => unreadable.push(key),
                }
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                (self.tell)(Told::Saw(Observed::All { objects, unreadable })).await;
                self.stands(WatchState::Synced).await;
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    /// Follows what happens after `version`, until the API server no longer knows that.
    async fn follow(&mut self, mut version: String) {
        loop {
            let began = Instant::now();
            let ended = self.call(&mut version).await;
            let worked = began.elapsed() >= LASTING;
            if worked {
                self.failures = 0;
            }
            match ended {
                Ok(()) if worked => {}
                // Its time cannot be over yet: something on the way closes connections.
                Ok(()) => self.pause(Duration::ZERO).await,
                Err(CallError::Answered { code: 410, .. }) => return self.pause(Duration::ZERO).await,
                Err(error) => {
                    self.failed(&error).await;
                    if is_for_good(&error) {
                        return;
                    }
                }
            }
        }
    }

    /// One watch call. Leaves in `version` the one that it came to.
    async fn call(&mut self, version: &mut String) -> Result<(), CallError> {
        let field_selector = self.field_selector.clone();
        let params = WatchParams { field_selector, timeout: Some(WATCH_SECONDS), ..WatchParams::default() };
        let mut events = within(SILENCE, self.api.watch(&params, version)).await?.boxed();
        self.stands(WatchState::Synced).await;
        while let Ok(Some(event)) = timeout(SILENCE, events.next()).await {
            let reached = match event {
                Ok(WatchEvent::Added(guard) | WatchEvent::Modified(guard)) => {
                    let reached = guard.meta().resource_version.clone();
                    if let Ok((key, kept)) = self.read(guard) {
                        (self.tell)(Told::Saw(Observed::Put(key, kept))).await;
                    }
                    reached
                }
                Ok(WatchEvent::Deleted(guard)) => {
                    (self.tell)(Told::Saw(Observed::Gone(ObjectKey::of(guard.meta())))).await;
                    guard.meta().resource_version.clone()
                }
                Ok(WatchEvent::Bookmark(bookmark)) => Some(bookmark.metadata.resource_version),
                Ok(WatchEvent::Error(status)) => return Err(kube::Error::Api(status).into()),
                // Another call from the same version would only bring it again.
                Err(error) if is_unreadable(&error) => {
                    tracing::warn!(kind = kind::<K>(), %error, "an event cannot be read and is passed over");
                    None
                }
                Err(error) => return Err(error.into()),
            };
            self.failures = 0;
            if let Some(reached) = reached {
                *version = reached;
            }
        }
        Ok(())
    }

    /// Reads an object, or says in the log why it cannot be read.
    fn read(&self, guard: DeserializeGuard<K>) -> Result<(ObjectKey, T), ObjectKey> {
        match guard.0 {
            Ok(object) => {
                let meta = object.meta().clone();
                Ok((ObjectKey::of(&meta), (self.keep)(&meta, object)))
            }
            Err(invalid) => {
                let key = ObjectKey::of(&invalid.metadata);
                let error = invalid.error;
                tracing::warn!(kind = kind::<K>(), object = %key, error, "an object cannot be read; its last state counts");
                Err(key)
            }
        }
    }

    async fn failed(&mut self, error: &CallError) {
        self.stands(match error {
            CallError::Answered { code: 404, .. } => WatchState::Absent,
            CallError::Answered { code: 403, message, .. } => WatchState::Forbidden(message.clone()),
            error => WatchState::Failing(error.to_string()),
        })
        .await;
        self.pause(error.retry_after()).await;
    }

    async fn stands(&mut self, state: WatchState) {
        if self.standing != state {
            self.standing = state.clone();
            (self.tell)(Told::Stands(state)).await;
        }
    }

    /// Waits before the next attempt, for as long as the API server asks at least.
    async fn pause(&mut self, asked: Duration) {
        self.failures = self.failures.saturating_add(1);
        let (first, longest) = PAUSES;
        sleep(self.jitter.backoff(first, longest, self.failures).max(asked)).await;
    }
}

/// Whether a watch that was answered so would be answered so again from the same version. A permission may be given, and
/// a token renewed, without any loss.
fn is_for_good(error: &CallError) -> bool {
    match error.kind() {
        Failure::Away => false,
        Failure::Absent | Failure::Conflict => true,
        Failure::Refused => !matches!(error, CallError::Answered { code: 401 | 403, .. }),
    }
}

/// Whether a line of a watch is no event at all, not even one about an object that has readable metadata. `kube` takes
/// some of these for an answer without a code.
fn is_unreadable(error: &kube::Error) -> bool {
    match error {
        kube::Error::SerdeError(_) => true,
        kube::Error::Api(status) => status.code == 0,
        _ => false,
    }
}

/// The kind's name, for the log.
fn kind<K>() -> &'static str {
    std::any::type_name::<K>().rsplit("::").next().unwrap_or_default()
}
