//! What stands between the load and the figures: six simulated servers in this process, a picker and an Envoy beside it.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PeerTls, Pem, PoolWiring, bootstrap, to_yaml};
use pointsman_sim::{LoadConfig, Progress, SimHandle, SimServer, Workload, WorkloadConfig, client};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::children::Children;
use super::strategy::Strategy;
use super::{ports, scenario};

/// How long the picker may take until it says that it is ready.
const PICKER_DEADLINE: Duration = Duration::from_secs(15);
/// How long Envoy may take until its listeners answer.
const ENVOY_DEADLINE: Duration = Duration::from_secs(20);
/// How long servers may take to finish or drop what they have when a run is over.
const IDLE_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks whether something is ready.
const LOOK: Duration = Duration::from_millis(100);
/// How often a listener must answer in a row before it counts as ready: Envoy checks the picker's health by the second,
/// and each of its threads learns of it by itself.
const ANSWERS_IN_A_ROW: usize = 5;
/// Envoy's threads. Fixed, since each balances by itself and the figures are not to depend on the machine's cores.
const ENVOY_THREADS: &str = "2";

const PICKER: &str = "picker";
const ENVOY: &str = "envoy";

/// Where everything listens. Set once, at the start; the picker comes back on the same ports.
#[derive(Debug, Clone)]
pub(super) struct Places {
    ext_proc: SocketAddr,
    health: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) picker_admin: SocketAddr,
    eds: SocketAddr,
    pub(super) envoy_admin: SocketAddr,
    /// One listener of Envoy's a strategy, in their order.
    listeners: [SocketAddr; 3],
}

/// All that a run needs, up and running.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) sims: Vec<SimHandle>,
    pub(super) places: Places,
    /// The folder for configurations and logs, absolute.
    folder: PathBuf,
}

impl Stage {
    /// Starts everything, and waits until each listener answers.
    pub(super) async fn start(envoy: &Path, folder: &Path, seed: u64, children: &mut Children) -> Result<Self> {
        let mut sims = Vec::new();
        for config in scenario::servers(seed) {
            sims.push(SimServer::start(config, SocketAddr::from(([127, 0, 0, 1], 0))).await?);
        }
        let [ext_proc, health, metrics, picker_admin, eds, envoy_admin, one, two, three] = ports::free()?;
        let listeners = [one, two, three];
        let places = Places { ext_proc, health, metrics, picker_admin, eds, envoy_admin, listeners };
        let stage = Self { sims, places, folder: folder.to_path_buf() };
        for log in ["picker.log", "envoy.log"] {
            stage.write(log, "")?;
        }
        stage.write("pool.yaml", &stage.pool_file())?;
        stage.start_picker(children).await?;
        stage.write("envoy.yaml", &stage.bootstrap()?)?;
        stage.start_envoy(envoy, children)?;
        for strategy in Strategy::ALL {
            stage.wait_for_answers(strategy, children).await?;
        }
        Ok(stage)
    }

    /// `http://ADDRESS` of a strategy's listener.
    pub(super) fn url(&self, strategy: Strategy) -> String {
        let [round_robin, least_request, picker] = self.places.listeners;
        let address = match strategy {
            Strategy::RoundRobin => round_robin,
            Strategy::LeastRequest => least_request,
            Strategy::Picker => picker,
        };
        format!("http://{address}")
    }

    /// Makes all cold for a run: idle servers with empty caches, and a picker that knows nothing.
    pub(super) async fn make_cold(&self, strategy: Strategy, children: &mut Children) -> Result<()> {
        if strategy == Strategy::Picker {
            children.end_one(PICKER).await;
            self.start_picker(children).await?;
        }
        self.wait_for_answers(strategy, children).await?;
        for sim in &self.sims {
            let idle = sim.wait_for(|stats| stats.running + stats.waiting == 0);
            let idle = tokio::time::timeout(IDLE_DEADLINE, idle).await;
            idle.map_err(|_| anyhow!("{} is still busy with the run before", sim.name()))?;
            sim.clear_cache().await;
        }
        Ok(())
    }

    /// Ends the servers.
    pub(super) async fn end(self) {
        for sim in self.sims {
            sim.shutdown().await;
        }
    }

    /// Removes the key of the picker's CA, which nothing can be proved with any more.
    pub(super) fn forget_keys(folder: &Path) {
        if let Err(error) = fs::remove_dir_all(folder.join("tls")) {
            tracing::debug!(%error, "no keys to remove");
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// The picker's configuration: the endpoints, and every default.
    fn pool_file(&self) -> String {
        let mut text = format!("# The demo's pool, as it was served last.\nname: {}\nendpoints:\n", scenario::POOL);
        for sim in &self.sims {
            let (name, address) = (sim.name(), sim.addr());
            // Writing into a string cannot fail.
            let _ = writeln!(text, "- {{name: {name}, address: {}, port: {}}}", address.ip(), address.port());
        }
        text + &format!("scheduling: {}\n", scenario::SCHEDULING)
    }

    async fn start_picker(&self, children: &mut Children) -> Result<()> {
        let places = &self.places;
        let mut command = Command::new(std::env::current_exe().context("finding this program's own file")?);
        command.arg("serve").arg("--config").arg(self.folder.join("pool.yaml"));
        command.arg("--tls-dir").arg(self.folder.join("tls"));
        command.args(["--bind-address", &places.ext_proc.ip().to_string()]);
        command.args(["--grpc-port", &places.ext_proc.port().to_string()]);
        command.args(["--grpc-health-port", &places.health.port().to_string()]);
        command.args(["--metrics-port", &places.metrics.port().to_string()]);
        command.args(["--admin-address", &places.picker_admin.to_string()]);
        command.args(["--eds-address", &places.eds.to_string()]);
        children.start(PICKER, command, &self.folder.join("picker.log"))?;
        let ready = async {
            let ready = tokio::time::timeout(PICKER_DEADLINE, ready(places.health)).await;
            ready.with_context(|| format!("the picker is not ready after {} s", PICKER_DEADLINE.as_secs()))
        };
        children.alive(ready).await
    }

    /// One bootstrap with a listener a strategy, over one and the same pool.
    fn bootstrap(&self) -> Result<String> {
        let wirings = Strategy::ALL.into_iter().zip(self.places.listeners).map(|(strategy, listen)| PoolWiring {
            balancer: strategy.balancer(),
            ..PoolWiring::new(scenario::POOL, listen)
        });
        let ca = Pem::File(self.folder.join("tls/ca.crt").display().to_string());
        let tls = PeerTls { ca, server_name: "localhost".to_owned(), client: None };
        let picker = Peer::verified([self.places.ext_proc], tls);
        let options = BootstrapOptions {
            admin: Some(self.places.envoy_admin),
            ..BootstrapOptions::new(picker, Peer::plaintext([self.places.eds]), wirings.collect())
        };
        Ok(to_yaml(&bootstrap(&options)?))
    }

    fn start_envoy(&self, binary: &Path, children: &mut Children) -> Result<()> {
        let mut command = Command::new(binary);
        command.arg("--config-path").arg(self.folder.join("envoy.yaml"));
        command.args(["--concurrency", ENVOY_THREADS, "--disable-hot-restart", "--log-level", "warning"]);
        children.start(ENVOY, command, &self.folder.join("envoy.log"))
    }

    /// Waits until requests through a strategy's listener are answered, and go on being answered.
    async fn wait_for_answers(&self, strategy: Strategy, children: &mut Children) -> Result<()> {
        let url = self.url(strategy);
        let answers = async {
            let mut row = 0;
            while row < ANSWERS_IN_A_ROW {
                row = if is_answered(&url).await? { row + 1 } else { 0 };
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let limited = async {
            let (seconds, label) = (ENVOY_DEADLINE.as_secs(), strategy.label());
            let answered = tokio::time::timeout(ENVOY_DEADLINE, answers).await;
            answered.with_context(|| {
                format!(
                    "Envoy's {label} listener at {url} does not answer after {seconds} s: see {}",
                    self.folder.join("envoy.log").display()
                )
            })?
        };
        children.alive(limited).await
    }
}

/// Waits until the health service at this address says that it serves.
async fn ready(address: SocketAddr) {
    loop {
        if let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}"))
            && let Ok(channel) = endpoint.connect().await
            && let Ok(answer) = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await
            && answer.get_ref().status() == ServingStatus::Serving
        {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends one request of a few words, too short for any cache to keep.
async fn is_answered(url: &str) -> Result<bool> {
    let workload = Workload::new(WorkloadConfig {
        conversations: 1,
        requests_per_second: 1e3,
        system_prompts: 1,
        system_tokens: (1, 1),
        turns: (1, 1),
        user_tokens: (1, 1),
        output_tokens: (1, 1),
        ..WorkloadConfig::default()
    });
    let config = LoadConfig { request_timeout: Duration::from_secs(2), ..LoadConfig::new(url, scenario::MODEL) };
    let progress = Arc::new(Progress::default());
    let report = client::run(Arc::new(workload), config, progress, CancellationToken::new()).await?;
    Ok(report.failed() == 0 && report.succeeded == 1)
}
