//! One picked request on its way: what it adds to its endpoint, given back exactly once on every exit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Pool;
use crate::endpoint::{EndpointCell, EndpointId, InFlight};
use crate::facts::Facts;
use crate::prefix::PrefixBlock;
use crate::time::Tick;

/// A picked request's share of its endpoint: load in the cell, and a prefix that is predicted until the server answers.
///
/// Dropping it gives the load back, and takes back a prediction that nothing confirmed.
#[derive(Debug)]
pub struct Flight {
    pool: Arc<Pool>,
    in_flight: InFlight,
    /// Blocks that are predicted and neither confirmed nor withdrawn yet.
    predicted: Vec<PrefixBlock>,
    /// When it was picked.
    picked: Tick,
}

impl Flight {
    /// A picked request, of whose prompt the endpoint holds `matched_tokens`.
    pub(super) fn depart(
        pool: &Arc<Pool>,
        cell: &Arc<EndpointCell>,
        facts: &Facts,
        matched_tokens: u32,
        now: Tick,
    ) -> Self {
        let uncached = if facts.stream { facts.prompt_tokens.saturating_sub(matched_tokens.into()) } else { 0 };
        Self {
            pool: Arc::clone(pool),
            in_flight: InFlight::count(cell, facts.prompt_tokens, uncached),
            predicted: facts.prefix.clone(),
            picked: now,
        }
    }

    /// What is counted of the endpoint that bears it.
    pub fn cell(&self) -> &Arc<EndpointCell> {
        self.in_flight.cell()
    }

    fn endpoint(&self) -> EndpointId {
        self.cell().id()
    }

    /// The gateway says who served: when it went down the list, the load and the prefix move there. An address that
    /// the pool no longer has changes nothing.
    pub fn served_by(&mut self, address: SocketAddr) {
        let snapshot = self.pool.snapshot.load();
        let Some(row) = snapshot.members.row_at(address) else { return };
        let cell = &snapshot.members.cells[row as usize];
        if cell.id() == self.endpoint() {
            return;
        }
        if !self.predicted.is_empty() {
            let mut turn = self.pool.turn.lock();
            turn.index.withdraw(self.endpoint(), &self.predicted);
            turn.index.predict(cell.id(), &self.predicted);
        }
        self.in_flight.move_to(cell);
    }

    /// The first token of a streamed answer came.
    pub fn first_token(&mut self, now: Tick) {
        let after = now.since(self.picked);
        let tally = self.cell().tally();
        tally.first_tokens.fetch_add(1, Ordering::Relaxed);
        tally.ttft_micros.fetch_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.in_flight.prompt_computed(Some(after));
    }

    /// The answer came, and its tokens will not be seen one by one.
    pub fn tokens_unseen(&mut self) {
        self.in_flight.prompt_computed(None);
    }

    /// The server answered: it has read the prompt, so the prediction was right.
    pub fn response_began(&mut self) {
        self.in_flight.response_began();
        let predicted = std::mem::take(&mut self.predicted);
        if !predicted.is_empty() {
            self.pool.turn.lock().index.confirm(self.endpoint(), &predicted);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.predicted.is_empty() {
            self.pool.turn.lock().index.withdraw(self.endpoint(), &self.predicted);
        }
    }
}
