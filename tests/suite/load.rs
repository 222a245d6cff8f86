//! Clients that ask all the time, and what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use pointsman_tests::client::Client;
use tokio::task::JoinSet;

/// How long a client rests between two requests.
const REST: Duration = Duration::from_millis(10);
/// How long a number of requests may take to end: five times what a hundred took while a picker hung.
const DEADLINE: Duration = Duration::from_secs(30);

/// Clients that ask for a URL all the time, until they are told to end.
pub(crate) struct Load {
    goes_on: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    clients: JoinSet<Vec<Asked>>,
}

/// One request: when it began and ended, and how.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// When it was sent.
    pub(crate) began: Instant,
    /// When its answer was whole, or it failed.
    pub(crate) at: Instant,
    /// Its answer's status; absent without an answer.
    pub(crate) status: Option<u16>,
    /// The server that answered; empty when none did.
    pub(crate) server: String,
}

impl Load {
    /// So many clients, each with one request at a time: a GET of `url`.
    pub(crate) fn begin(clients: usize, url: &str) -> Self {
        Self::posting(clients, url, Vec::new())
    }

    /// The same, each posting these bodies by turns.
    pub(crate) fn posting(count: usize, url: &str, bodies: Vec<Bytes>) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let ended = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for first in 0..count {
            let (goes_on, ended) = (Arc::clone(&goes_on), Arc::clone(&ended));
            let (url, bodies) = (url.to_owned(), bodies.clone());
            clients.spawn(async move {
                let client = Client::new();
                let mut asked = Vec::new();
                let mut bodies = bodies.iter().cycle().skip(first);
                while goes_on.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = match bodies.next() {
                        Some(body) => client.post(&url, &[], body.clone()).await,
                        None => client.get(&url, &[]).await,
                    };
                    let status = answer.as_ref().ok().map(|answer| answer.status);
                    let server = answer.map(|answer| answer.header("x-sim-server").to_owned()).unwrap_or_default();
                    asked.push(Asked { began, at: Instant::now(), status, server });
                    ended.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(REST).await;
                }
                asked
            });
        }
        Self { goes_on, ended, clients }
    }

    /// Returns once so many more requests have ended.
    pub(crate) async fn until_more(&self, count: usize) -> Result<()> {
        let (begun, before) = (Instant::now(), self.ended.load(Ordering::Relaxed));
        while self.ended.load(Ordering::Relaxed) - before < count {
            ensure!(begun.elapsed() < DEADLINE, "not {count} requests ended in {DEADLINE:?}");
            tokio::time::sleep(REST).await;
        }
        Ok(())
    }

    /// Everything that was asked, in the order in which it ended.
    pub(crate) async fn end(self) -> Vec<Asked> {
        self.goes_on.store(false, Ordering::Relaxed);
        let mut asked = self.clients.join_all().await.concat();
        asked.sort_by_key(|asked| asked.at);
        asked
    }
}

impl Asked {
    /// Whether it was not answered well.
    pub(crate) fn is_failed(&self) -> bool {
        self.status != Some(200)
    }
}

/// How many of these failed.
pub(crate) fn failed<'a>(asked: impl IntoIterator<Item = &'a Asked>) -> usize {
    asked.into_iter().filter(|asked| asked.is_failed()).count()
}
