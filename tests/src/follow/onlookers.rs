//! Clients that ask all the time, and remember when an answer that is waited for came first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Client;

/// Clients, each with a connection of its own.
const CLIENTS: usize = 4;
/// How long a client rests between two requests: what is measured is coarser by this, and busier by its inverse.
const REST: Duration = Duration::from_millis(1);

/// Running clients. Dropping this ends them.
pub(super) struct Onlookers {
    look: Arc<Mutex<Look>>,
    _clients: JoinSet<()>,
}

/// What the clients look for.
struct Look {
    expected: String,
    found: watch::Sender<Option<Instant>>,
    /// The last answer of any client, for whoever waits in vain.
    last: String,
}

/// An answer that is looked for.
pub(super) struct Expected {
    look: Arc<Mutex<Look>>,
    found: watch::Receiver<Option<Instant>>,
}

impl Onlookers {
    /// Clients that ask `url` for a chat completion of `model`.
    pub(super) fn start(url: &str, model: &str) -> Self {
        let (found, _) = watch::channel(None);
        let look = Arc::new(Mutex::new(Look { expected: String::new(), found, last: String::new() }));
        let message = json!({"role": "user", "content": "hello"});
        let body = json!({"model": model, "messages": [message], "max_tokens": 1}).to_string();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (look, url, body) = (Arc::clone(&look), url.to_owned(), body.clone());
            clients.spawn(async move {
                let client = Client::new();
                loop {
                    let answer = ask(&client, &url, &body).await;
                    lock(&look).saw(answer, Instant::now());
                    tokio::time::sleep(REST).await;
                }
            });
        }
        Self { look, _clients: clients }
    }

    /// Looks for an answer from now on.
    pub(super) fn expect(&self, answer: &str) -> Expected {
        let mut look = lock(&self.look);
        let (sender, found) = watch::channel(None);
        (look.expected, look.found) = (answer.to_owned(), sender);
        Expected { look: Arc::clone(&self.look), found }
    }

    /// Waits for an answer.
    pub(super) async fn until(&self, answer: &str, deadline: Duration) -> Result<Instant> {
        self.expect(answer).within(deadline).await
    }
}

impl Expected {
    /// When it came first.
    pub(super) async fn within(mut self, deadline: Duration) -> Result<Instant> {
        let found = tokio::time::timeout(deadline, self.found.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(|found| *found.ok()?);
        let look = lock(&self.look);
        found.with_context(|| format!("{:?} expected for {deadline:?}, last was {:?}", look.expected, look.last))
    }
}

impl Look {
    fn saw(&mut self, answer: String, at: Instant) {
        let (is_it, expected) = (answer == self.expected, &self.found);
        expected.send_if_modified(|found| is_it && found.is_none() && found.replace(at).is_none());
        self.last = answer;
    }
}

/// Who answered, and for which model; status and reason where nobody did.
async fn ask(client: &Client, url: &str, body: &str) -> String {
    match client.post(url, &[], body.to_owned()).await {
        Ok(answer) if answer.status == 200 => {
            let model = answer.json().unwrap_or_default()["model"].as_str().unwrap_or_default().to_owned();
            format!("{} {model}", answer.header("x-sim-server"))
        }
        Ok(answer) => format!("{} {}", answer.status, answer.header("x-pointsman-reason")),
        Err(error) => format!("{error:#}"),
    }
}

fn lock(look: &Mutex<Look>) -> std::sync::MutexGuard<'_, Look> {
    look.lock().unwrap_or_else(PoisonError::into_inner)
}
