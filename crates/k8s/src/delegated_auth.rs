//! Whether the bearer of a token may read a page of ours: the API server says whose token it is (TokenReview), and what
//! they may do (SubjectAccessReview), as it does for any extension of it.
//!
//! What it said is remembered for a while, by a hash: a token is kept no longer than its review takes, and nothing of it
//! is logged.

mod memory;
mod review;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::calls::{CallError, Failure, within};
use memory::{Memory, TokenHash};

/// How long one review may take: less than scrapers wait.
const REVIEW: Duration = Duration::from_secs(5);
/// Tokens that are reviewed at once. Who comes with another one meanwhile gets no answer, unless it was let in lately: no
/// number of bad tokens keeps a scraper out.
const REVIEWS_MAX: usize = 8;
/// The longest token that is reviewed. Those of ServiceAccounts have about 1 KB.
const TOKEN_MAX: usize = 8 << 10;
/// The shortest that can be a secret; shorter ones are found in any text.
const SECRET_MIN: usize = 8;

/// What came of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its bearer may read the page.
    Granted,
    /// It is nobody's.
    Unauthenticated,
    /// Its bearer is known, and may not.
    Forbidden,
    /// The API server could not be asked.
    Unknown,
    /// Too many tokens that nobody knows are being reviewed.
    Busy,
}

/// Lets in whom the API server lets in.
pub struct DelegatedAuth {
    client: Client,
    /// The non-resource URL whose `get` is asked for.
    path: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    memory: Memory,
    /// Under way; those that are over may still be here.
    reviews: HashMap<TokenHash, Review>,
    /// Why the last review brought nothing; absent when it brought something.
    failure: Option<Failure>,
    /// Whether it was told that there are too many tokens.
    is_busy: bool,
}

/// A review that is under way.
struct Review {
    task: AbortHandle,
    outcome: watch::Receiver<Option<Access>>,
}

impl DelegatedAuth {
    /// For `get` of a non-resource URL.
    pub fn new(client: Client, path: &'static str) -> Self {
        Self { client, path, state: Arc::default() }
    }

    /// What the bearer of a token may. Several that ask for the same one at once wait for one review.
    pub async fn access(&self, token: &str) -> Access {
        if !is_token(token) {
            return Access::Unauthenticated;
        }
        let hash = hash(token);
        let mut outcome = {
            let state = &mut *self.state.lock();
            let now = Instant::now();
            if let Some(known) = state.memory.recall(&hash, now) {
                return known;
            }
            state.reviews.retain(|_, review| !review.task.is_finished());
            match state.reviews.get(&hash) {
                Some(review) => review.outcome.clone(),
                None if state.reviews.len() >= REVIEWS_MAX && !state.memory.was_granted(&hash, now) => {
                    if !std::mem::replace(&mut state.is_busy, true) {
                        tracing::warn!(at_once = REVIEWS_MAX, "more tokens come than are reviewed at once");
                    }
                    return Access::Busy;
                }
                None => {
                    state.is_busy &= state.reviews.len() + 1 >= REVIEWS_MAX;
                    let review = self.begin(hash, token.to_owned());
                    let outcome = review.outcome.clone();
                    state.reviews.insert(hash, review);
                    outcome
                }
            }
        };
        // A review always says something, unless the process is going.
        outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| *outcome).unwrap_or(Access::Unknown)
    }

    /// Begins a review, which goes on even when who asked for it has gone.
    fn begin(&self, hash: TokenHash, token: String) -> Review {
        let (tell, outcome) = watch::channel(None);
        let (client, path, state) = (self.client.clone(), self.path, Arc::clone(&self.state));
        let task = tokio::spawn(async move {
            // The client tells of answers that it cannot read, and a proxy may repeat the token in its own.
            let review = review::review(&client, &token, path).with_subscriber(NoSubscriber::default());
            let reviewed = within(REVIEW, review).await;
            tell.send_replace(Some(state.lock().learn(hash, &token, reviewed)));
        });
        Review { task: task.abort_handle(), outcome }
    }
}

impl State {
    /// Takes in what came of a review. Failures are told when they begin, and when they are over.
    fn learn(&mut self, hash: TokenHash, token: &str, reviewed: Result<Access, CallError>) -> Access {
        let now = Instant::now();
        let (access, failure) = match &reviewed {
            Ok(access) => (*access, None),
            Err(error) => (Access::Unknown, Some(error.kind())),
        };
        self.memory.keep(hash, access, now);
        // Nobody can have taken the right away where nobody can be asked.
        let access = match failure {
            Some(Failure::Away) if self.memory.was_granted(&hash, now) => {
                self.memory.extend(&hash, now);
                Access::Granted
            }
            _ => access,
        };
        if self.failure != failure {
            self.failure = failure;
            match reviewed {
                Ok(_) => tracing::info!("tokens are reviewed again"),
                Err(error) => tracing::warn!("{}", complaint(&error, token)),
            }
        }
        access
    }
}

/// What is told of a failure: never the token, which a proxy may repeat in its answer.
fn complaint(error: &CallError, token: &str) -> String {
    let mend = match error.kind() {
        Failure::Refused => "; `pointsman roles --metrics-auth` prints the ClusterRole that is needed",
        _ => "",
    };
    let mut text = error.to_string();
    if token.len() >= SECRET_MIN {
        text = text.replace(token, "TOKEN");
    }
    format!("tokens cannot be reviewed, so that only whom the API server let in lately is let in: {text}{mend}")
}

fn hash(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Whether it is worth a review: a `b68token` (RFC 6750) of bearable length.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && text.len() <= TOKEN_MAX && body.bytes().all(is_of_token)
}

#[cfg(test)]
mod tests;
