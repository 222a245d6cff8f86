//! The gRPC service: drives one [`Exchange`] a stream, with its clock and its limits of time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, ready};
use http::uri::Authority;
use pointsman_core::control_headers::{DESTINATIONS_TAKEN, LIST, POOL};
use pointsman_core::time::Tick;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, Streaming};

use crate::exchange::{End, Exchange, Opening, Shared};
use crate::metrics::StreamRefusal;
use crate::pb::{ExternalProcessor, ProcessingRequest, ProcessingResponse};

/// The ext_proc service.
#[derive(Clone, Debug)]
pub struct PickerService {
    shared: Arc<Shared>,
    start: std::time::Instant,
    /// Cancelled when streams that are still open must end.
    stop: CancellationToken,
}

impl PickerService {
    /// A service whose ticks count from `start`, and whose streams end when `stop` is cancelled.
    pub fn new(shared: Arc<Shared>, start: std::time::Instant, stop: CancellationToken) -> Self {
        Self { shared, start, stop }
    }

    /// Drives a stream of messages, wherever they come from.
    pub fn converse<S>(&self, opening: Opening, inbound: S) -> Result<Conversation<S>, Status> {
        let metrics = &self.shared.metrics;
        if !self.shared.pools.is_told() {
            // An error, not an answer: another picker may know more, and a pool that fails open is served.
            metrics.streams_refused(StreamRefusal::PoolsUnknown).inc();
            return Err(Status::unavailable("the picker does not know its pools yet"));
        }
        if metrics.streams.inc() >= i64::try_from(self.shared.limits.max_streams).unwrap_or(i64::MAX) {
            metrics.streams.dec();
            metrics.streams_refused(StreamRefusal::Limit).inc();
            return Err(Status::resource_exhausted("the picker has as many streams open as it may"));
        }
        let now = Tick::of(self.start, Instant::now().into_std());
        Ok(Conversation {
            inbound: Some(inbound),
            exchange: Exchange::new(Arc::clone(&self.shared), opening, now),
            shared: Arc::clone(&self.shared),
            start: self.start,
            stop: Some(Box::pin(self.stop.clone().cancelled_owned())),
            sleep: None,
        })
    }
}

#[tonic::async_trait]
impl ExternalProcessor for PickerService {
    type ProcessStream = Conversation<Streaming<ProcessingRequest>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let value = |key: &str| request.metadata().get(key).and_then(|value| value.to_str().ok());
        let opening = Opening {
            pool: value(POOL).map(str::to_owned),
            authority: request.extensions().get::<Authority>().cloned(),
            takes_list: value(DESTINATIONS_TAKEN) == Some(LIST),
        };
        self.converse(opening, request.into_inner()).map(Response::new)
    }
}

/// One stream, polled by the connection that it lives on: no task and no channel of its own.
pub struct Conversation<S> {
    /// `None` once the gateway closed its side.
    inbound: Option<S>,
    exchange: Exchange,
    shared: Arc<Shared>,
    start: std::time::Instant,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin> Conversation<S> {
    fn now(&self) -> Tick {
        Tick::of(self.start, Instant::now().into_std())
    }

    /// Takes in one message; a panic costs this request alone.
    fn take_in(&mut self, message: ProcessingRequest) {
        let now = self.now();
        let exchange = &mut self.exchange;
        if catch_unwind(AssertUnwindSafe(|| exchange.on(message, now))).is_err() {
            tracing::error!("a panic was caught while a request was being decided");
            self.exchange.on_panic();
        }
    }

    /// Waits for the gateway, the deadline or the process's end, and takes in what came first.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(inbound) = &mut self.inbound {
            match Pin::new(inbound).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    self.take_in(message);
                    return Poll::Ready(());
                }
                Poll::Ready(Some(Err(status))) => {
                    self.inbound = None;
                    self.exchange.on_broken(&status);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    self.inbound = None;
                    self.exchange.on_closed();
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            self.exchange.on_shutdown();
            return Poll::Ready(());
        }
        ready!(self.poll_deadline(cx));
        self.exchange.on_deadline();
        Poll::Ready(())
    }

    /// Ready when the exchange's deadline has come. The timer is moved only when it fires, not at each message.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.exchange.deadline() else { return Poll::Pending };
            let deadline = Instant::from_std(self.start) + std::time::Duration::from_nanos(deadline.0);
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl<S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin> Stream for Conversation<S> {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(answer) = this.exchange.next_answer() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match this.exchange.take_end() {
                Some(End::Ok) => return Poll::Ready(None),
                Some(End::Error(status)) => return Poll::Ready(Some(Err(status))),
                None => ready!(this.poll_events(cx)),
            }
        }
    }
}

impl<S> Drop for Conversation<S> {
    fn drop(&mut self) {
        self.shared.metrics.streams.dec();
    }
}

#[cfg(test)]
mod tests;
