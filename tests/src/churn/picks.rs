//! Requests at a steady pace, straight to the picker, each pool in turn: how long each took to be decided.
//!
//! On a thread of its own, so that what else this program does stands in their way no more than another program would.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;

use crate::bench::client::{Connection, connect};
use crate::bench::script::{KINDS, Script};

/// Requests under way at most, and the connections that they share.
const STREAMS: usize = 4;
const CONNECTIONS: usize = 2;
/// How long each rests between two: they are to notice the picker, not to load it.
const REST: Duration = Duration::from_millis(10);
/// The longest time that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// A thread that asks. It ends when this is dropped.
pub(super) struct Picks {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    turn: AtomicUsize,
    /// Nanoseconds to the decision, while they are counted.
    decided: Mutex<Option<Histogram<u64>>>,
}

impl Shared {
    fn replace(&self, decided: Option<Histogram<u64>>) -> Option<Histogram<u64>> {
        std::mem::replace(&mut *self.decided.lock().unwrap_or_else(PoisonError::into_inner), decided)
    }
}

impl Picks {
    /// Begins to ask the picker at `address` for these pools.
    pub(super) fn start(address: SocketAddr, pools: &[String]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared::default());
        let (pools, asking) = (pools.to_vec(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || runtime.block_on(ask(address, &pools, &asking)));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins to count.
    pub(super) fn begin(&self) -> Result<()> {
        self.shared.replace(Some(Histogram::new_with_max(LONGEST, 3)?));
        Ok(())
    }

    /// What was counted since. Fails when a request did.
    pub(super) fn end(&self) -> Result<Histogram<u64>> {
        let decided = self.shared.replace(None).context("nothing was counted")?;
        let asks = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        ensure!(asks && !decided.is_empty(), "requests are not decided any more");
        Ok(decided)
    }

    /// Ends it; the error that ended it before, if any.
    pub(super) fn stop(mut self) -> Result<()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was stopped before")?;
        thread.join().map_err(|_| anyhow!("the thread of requests panicked"))?
    }
}

impl Drop for Picks {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

async fn ask(address: SocketAddr, pools: &[String], shared: &Shared) -> Result<()> {
    let scripts = KINDS[0].scripts();
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = connect(address, None).await?;
        let to_pools: Result<Vec<Connection>> = pools.iter().map(|pool| connection.to_pool(pool)).collect();
        streams.push(to_pools?);
    }
    try_join_all((0..STREAMS).map(|stream| ask_in_turn(&streams[stream % CONNECTIONS], &scripts, shared))).await?;
    Ok(())
}

async fn ask_in_turn(pools: &[Connection], scripts: &[Script], shared: &Shared) -> Result<()> {
    while !shared.is_over.load(Ordering::Relaxed) {
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let served = pools[turn % pools.len()].converse(&scripts[turn % scripts.len()]).await?;
        ensure!(served.has_destination, "the picker named no destination");
        if let Some(decided) = &mut *shared.decided.lock().unwrap_or_else(PoisonError::into_inner) {
            decided.saturating_record(u64::try_from(served.decided_in.as_nanos()).unwrap_or(LONGEST));
        }
        tokio::time::sleep(REST).await;
    }
    Ok(())
}
