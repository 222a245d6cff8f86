//! Supervision: any task that ends unasked ends the process, so that there is never a live server over a dead watcher.

use std::future::Future;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Watches tasks. Clones watch for the same supervisor.
#[derive(Clone)]
pub(crate) struct Supervisor {
    ended: mpsc::UnboundedSender<&'static str>,
}

/// Where ended tasks are told; one receiver a supervisor.
pub(crate) struct Ended(mpsc::UnboundedReceiver<&'static str>);

impl Supervisor {
    pub(crate) fn new() -> (Self, Ended) {
        let (ended, told) = mpsc::unbounded_channel();
        (Self { ended }, Ended(told))
    }

    /// Runs a task that must not end before the process does.
    pub(crate) fn spawn<T: Send + 'static>(&self, name: &'static str, task: impl Future<Output = T> + Send + 'static) {
        self.watch(name, tokio::spawn(task));
    }

    /// Runs a task that may end once `stop` is cancelled, and is ended then.
    pub(crate) fn spawn_until(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = stop.clone();
        let ended = self.ended.clone();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { stop.run_until_cancelled(task).await }
        });
        tokio::spawn(async move {
            if !matches!(task.await, Ok(None)) && !stop.is_cancelled() {
                // The process is going already when nobody listens.
                let _ = ended.send(name);
            }
        });
    }

    /// Watches a task that was started elsewhere, on another runtime maybe.
    pub(crate) fn watch<T: Send + 'static>(&self, name: &'static str, task: JoinHandle<T>) {
        let ended = self.ended.clone();
        tokio::spawn(async move {
            // However it ended, by return or by panic, is the same to the process.
            let _ = task.await;
            let _ = ended.send(name);
        });
    }
}

impl Ended {
    /// The name of the next task that ended.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_told() {
        let (supervisor, mut ended) = Supervisor::new();
        supervisor.spawn("ends", async {});
        assert_eq!(ended.next().await, "ends");
        supervisor.spawn("panics", async { panic!("on purpose") });
        assert_eq!(ended.next().await, "panics");
    }

    #[tokio::test]
    async fn a_task_that_was_stopped_is_not() {
        let (supervisor, mut ended) = Supervisor::new();
        let stop = CancellationToken::new();
        supervisor.spawn_until("stopped", &stop, std::future::pending());
        stop.cancel();
        supervisor.spawn_until("ends", &CancellationToken::new(), async {});
        assert_eq!(ended.next().await, "ends");
    }
}
