//! The one task that owns a server's engine and lets its virtual time follow the real one.
//!
//! The task sleeps until the engine's next event, an absolute time: waking late delays that event's report and nothing
//! else, so errors do not add up however fast tokens come.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::latencies::Latencies;
use crate::engine::{Engine, EngineEvent, EngineRequest, EngineStats, EventKind, Nanos, RequestId, SubmitError};

/// What handlers ask of the engine's task.
#[derive(Debug)]
enum Command {
    Submit { request: EngineRequest, reply: oneshot::Sender<Result<Accepted, SubmitError>> },
    Cancel(RequestId),
    ClearCache(oneshot::Sender<()>),
}

/// A taken request.
#[derive(Debug)]
struct Accepted {
    id: RequestId,
    events: mpsc::Receiver<EngineEvent>,
}

/// What the engine's task shows to the metrics page and to tests; it alone writes.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) engine: EngineStats,
    pub(crate) latencies: Latencies,
    /// Running and waiting adapters as they were, with the Unix time in seconds at which they became so, newest last.
    /// Old combinations stay for a while, as a metrics library leaves label sets that are no longer set.
    pub(crate) adapter_history: VecDeque<(Vec<usize>, Vec<usize>, f64)>,
}

/// The handlers' end of the engine's task.
///
/// The channel has no bound of its own: it holds at most two commands for each request in hand.
#[derive(Debug)]
pub(crate) struct EngineLink {
    commands: mpsc::UnboundedSender<Command>,
    observed: watch::Receiver<Observed>,
}

/// A request in the engine; dropping it before its end cancels it.
#[derive(Debug)]
pub(crate) struct Ticket {
    accepted: Accepted,
    commands: mpsc::UnboundedSender<Command>,
    finished: bool,
}

/// Why a request did not get into the engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Refused(#[from] SubmitError),
    #[error("the server is shutting down")]
    Gone,
}

/// What the task keeps of a request in the engine.
#[derive(Debug)]
struct InFlight {
    events: mpsc::Sender<EngineEvent>,
    prompt_tokens: usize,
    produced: usize,
    submitted: Nanos,
    admitted: Nanos,
    last_token: Nanos,
}

/// How many changes of the adapters are remembered.
const ADAPTER_HISTORY: usize = 4;

/// Starts the engine's task; it ends with `abort`.
pub(super) fn spawn(engine: Engine, tasks: &TaskTracker, abort: CancellationToken) -> EngineLink {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (observed_tx, observed) = watch::channel(Observed::default());
    tasks.spawn(run(engine, inbox, observed_tx, abort));
    EngineLink { commands, observed }
}

async fn run(
    mut engine: Engine,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    observed: watch::Sender<Observed>,
    abort: CancellationToken,
) {
    /// Commands taken before the engine's events are looked at again.
    const BATCH: usize = 64;
    let origin = Instant::now();
    let now = || Nanos::try_from(origin.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
    let mut in_flight: HashMap<RequestId, InFlight> = HashMap::new();
    let mut commands = Vec::with_capacity(BATCH);
    let mut events = Vec::new();
    loop {
        let next = engine.next_event_at().map(|at| origin + Duration::from_nanos(at));
        tokio::select! {
            biased;
            () = abort.cancelled() => return,
            received = inbox.recv_many(&mut commands, BATCH) => if received == 0 { return },
            () = tokio::time::sleep_until(next.unwrap_or(origin)), if next.is_some() => {}
        }
        let now = now();
        for command in commands.drain(..) {
            obey(&mut engine, &mut in_flight, command, now);
        }
        engine.advance(now, &mut events);
        // Observers first: whoever has seen its answer end must not read that it still runs.
        observed.send_modify(|observed| {
            for event in &events {
                measure(&mut in_flight, &mut observed.latencies, *event);
            }
            observed.engine = engine.stats();
            remember_adapters(observed);
        });
        for event in events.drain(..) {
            let Some(request) = in_flight.get(&event.id) else { continue };
            // A closed channel means a client that went away, perhaps before it held a ticket that could cancel. A full
            // one cannot be: the channel has room for all events of its request.
            let gone = request.events.try_send(event).is_err();
            if gone {
                engine.cancel(now, event.id);
            }
            if gone || event.kind == EventKind::Finished {
                in_flight.remove(&event.id);
            }
        }
    }
}

fn obey(engine: &mut Engine, in_flight: &mut HashMap<RequestId, InFlight>, command: Command, now: Nanos) {
    match command {
        Command::Submit { request, reply } => {
            let (prompt_tokens, output_tokens) = (request.prompt_tokens, request.output_tokens);
            let id = match engine.submit(now, request) {
                Ok(id) => id,
                Err(error) => {
                    // Nobody waits for the refusal when the client has gone.
                    let _ = reply.send(Err(error));
                    return;
                }
            };
            let (sender, events) = mpsc::channel(output_tokens + 2);
            if reply.send(Ok(Accepted { id, events })).is_err() {
                engine.cancel(now, id);
                return;
            }
            let state =
                InFlight { events: sender, prompt_tokens, produced: 0, submitted: now, admitted: now, last_token: now };
            in_flight.insert(id, state);
        }
        Command::Cancel(id) => {
            engine.cancel(now, id);
            in_flight.remove(&id);
        }
        Command::ClearCache(done) => {
            engine.clear_cache();
            let _ = done.send(());
        }
    }
}

/// Adds an event to the histograms.
fn measure(in_flight: &mut HashMap<RequestId, InFlight>, latencies: &mut Latencies, event: EngineEvent) {
    let Some(request) = in_flight.get_mut(&event.id) else { return };
    let since = |earlier: Nanos| event.at.saturating_sub(earlier) as f64 / 1e9;
    match event.kind {
        EventKind::Admitted { .. } => {
            latencies.queue.observe(since(request.submitted));
            latencies.prompt_tokens.observe(request.prompt_tokens as f64);
            request.admitted = event.at;
        }
        EventKind::FirstToken => {
            latencies.time_to_first_token.observe(since(request.submitted));
            latencies.prefill.observe(since(request.admitted));
            request.last_token = event.at;
            request.produced = 1;
        }
        EventKind::Token { .. } => {
            latencies.inter_token.observe(since(request.last_token));
            request.last_token = event.at;
            request.produced += 1;
        }
        EventKind::Finished => {
            latencies.end_to_end.observe(since(request.submitted));
            latencies.generation_tokens.observe(request.produced as f64);
        }
    }
}

fn remember_adapters(observed: &mut Observed) {
    let (running, waiting) = (&observed.engine.running_adapters, &observed.engine.waiting_adapters);
    let same = observed.adapter_history.back().is_some_and(|(r, w, _)| r == running && w == waiting);
    if same {
        return;
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let entry = (running.clone(), waiting.clone(), unix);
    // A label set that comes back is one series with a new value.
    observed.adapter_history.retain(|(r, w, _)| (r, w) != (&entry.0, &entry.1));
    observed.adapter_history.push_back(entry);
    if observed.adapter_history.len() > ADAPTER_HISTORY {
        observed.adapter_history.pop_front();
    }
}

impl EngineLink {
    /// Puts a request into the engine.
    pub(crate) async fn submit(&self, request: EngineRequest) -> Result<Ticket, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Submit { request, reply }).map_err(|_| LinkError::Gone)?;
        let accepted = answer.await.map_err(|_| LinkError::Gone)??;
        Ok(Ticket { accepted, commands: self.commands.clone(), finished: false })
    }

    /// Forgets every idle cached block.
    pub(crate) async fn clear_cache(&self) {
        let (done, cleared) = oneshot::channel();
        if self.commands.send(Command::ClearCache(done)).is_ok() {
            // An error means that the server, and its cache, are gone.
            let _ = cleared.await;
        }
    }

    /// A view of the engine's state that can be waited on.
    pub(crate) fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }
}

impl Ticket {
    /// The request's next event; absent when the server went down first.
    pub(crate) async fn next(&mut self) -> Option<EventKind> {
        let event = self.accepted.events.recv().await?;
        self.finished |= event.kind == EventKind::Finished;
        Some(event.kind)
    }

    /// Whether the request's last event was taken.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished {
            // Without a task there is nothing left to cancel.
            let _ = self.commands.send(Command::Cancel(self.accepted.id));
        }
    }
}
