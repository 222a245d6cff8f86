//! Who takes how much of the machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::control_plane::ControlPlane;
use crate::proc::{Process, busy};

/// Everybody who is watched.
pub(super) struct Meter {
    /// The picker.
    pub(super) picker: Process,
    api_server: Process,
    etcd: Process,
    this: Process,
}

/// What everybody took for a while, in cores: 1 is one core all the time.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// How long they were watched.
    pub seconds: f64,
    /// The picker.
    pub picker: f64,
    /// Of it, its first thread: all but ext_proc.
    pub watching: f64,
    /// The API server and its etcd.
    pub control_plane: f64,
    /// This program: the pods' kubelets, and who asks the picker.
    pub this: f64,
    /// All of the machine, whoever took it; unknown where `/proc/stat` does not say.
    pub machine: Option<f64>,
}

/// Time on cores so far, in the same order.
struct Reading {
    at: Instant,
    processes: [Duration; 4],
    machine: Option<Duration>,
}

impl Meter {
    pub(super) async fn new(plane: &ControlPlane, picker: u32) -> Result<Self> {
        let api_server = plane.api_server.lock().await.id().context("the API server ended")?;
        let etcd = plane.etcd.id().context("etcd ended")?;
        Ok(Self {
            picker: Process::new("picker", picker),
            api_server: Process::new("kube-apiserver", api_server),
            etcd: Process::new("etcd", etcd),
            this: Process::new("bench", std::process::id()),
        })
    }

    /// What is taken while `work` is done.
    pub(super) async fn watch<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, Taken)> {
        let before = self.read()?;
        let done = work.await?;
        Ok((done, self.read()?.since(&before)))
    }

    fn read(&self) -> Result<Reading> {
        let processes = [
            self.picker.cpu()?,
            self.picker.first_thread_cpu()?,
            self.api_server.cpu()? + self.etcd.cpu()?,
            self.this.cpu()?,
        ];
        Ok(Reading { at: Instant::now(), processes, machine: busy("cpu") })
    }
}

impl Reading {
    fn since(&self, before: &Self) -> Taken {
        let seconds = (self.at - before.at).as_secs_f64();
        let cores = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / seconds;
        let [picker, watching, control_plane, this] =
            std::array::from_fn(|at| cores(self.processes[at], before.processes[at]));
        let machine = self.machine.zip(before.machine).map(|(now, then)| cores(now, then));
        Taken { seconds, picker, watching, control_plane, this, machine }
    }
}
