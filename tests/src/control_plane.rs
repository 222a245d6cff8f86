//! A real Kubernetes control plane, cut down to what keeps objects: etcd and kube-apiserver.

mod crds;
mod credentials;
mod etcd;
mod namespace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::Client;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

pub use self::crds::upstream_crds;
use self::credentials::Credentials;
pub use self::namespace::{Namespace, PodPlan};
use crate::netns::{Network, memory};
use crate::process::{Program, fed};
use crate::tools::tool;

/// How long etcd, or the API server, may take until it is ready; also how long CRDs until they are served. About five
/// times what was seen on two busy cores.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is tried meanwhile.
const READY_LOOK: Duration = Duration::from_millis(50);
/// How long one kubectl may take.
const KUBECTL_DEADLINE: Duration = Duration::from_secs(60);
/// The hosts of the control plane's network that it uses itself; tests may have the others.
const API_SERVER_HOST: u8 = 1;
const ETCD_HOST: u8 = 2;

/// One etcd and one kube-apiserver, with addresses, certificates and a folder of their own. Dropping it ends them.
///
/// Nothing else of Kubernetes runs: there is no controller manager, no scheduler and no kubelet. So
/// - nothing is collected when its owner goes, and a namespace that is deleted stays in Terminating for good;
/// - no EndpointSlice comes of a Service, and no ReplicaSet of a Deployment: tests write what they need;
/// - a namespace gets neither its `default` ServiceAccount nor the ConfigMap `kube-root-ca.crt`
///   ([`ControlPlane::namespace`] makes the former, without which no Pod is accepted);
/// - a Pod is what [`Namespace::pod`] says it is, and one that is deleted with a grace period stays there, terminating.
///
/// Custom resources and their validation, admission, RBAC, tokens, Leases and watches are the API server's own work and
/// as real as anywhere.
#[derive(Debug)]
pub struct ControlPlane {
    /// The API server, for signals such as `STOP`. Locked, so that a test can stop it under whoever uses it.
    pub api_server: Mutex<Program>,
    /// Its etcd, likewise.
    pub etcd: Program,
    network: Network,
    credentials: Credentials,
    kubectl: PathBuf,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts one and waits until it is ready: for tests that stop it, or that need other CRDs than
    /// [`ControlPlane::shared`] has. This one has none.
    pub async fn start() -> Result<Self> {
        let network = Network::take()?;
        let folder = tempfile::Builder::new().prefix("control-plane-").tempdir_in(memory()?)?;
        let kubectl = tool("kubectl").await?;
        let mut etcd = Program::keep("etcd", etcd::command(network, folder.path()).await?, folder.path()).await?;
        until_ready(&mut etcd, || etcd::is_ready(network)).await?;
        let credentials = Credentials::make(folder.path(), network)?;
        let api_server = start_api_server(network, &credentials, folder.path()).await?;
        let started = Self { api_server: Mutex::new(api_server), etcd, network, credentials, kubectl, folder };
        started.until_api_server_is_ready().await?;
        Ok(started)
    }

    /// The one that the tests of this process share, with every upstream CRD, the newest of each. It is started by the
    /// first test that asks, and ends with the process. What a test makes belongs into a [`Namespace`] of its own.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        let start = async || {
            let started = Self::start().await?;
            for version in ["0.5.1", "1.5.0", "1.6.0"] {
                started.install_upstream_crds(version).await?;
            }
            anyhow::Ok(started)
        };
        SHARED.get_or_try_init(start).await
    }

    /// Its network. Hosts 1 and 2 are the API server and etcd.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The API server's URL.
    pub fn url(&self) -> String {
        self.credentials.url.clone()
    }

    /// A kubeconfig file of the administrator's.
    pub fn kubeconfig(&self) -> &Path {
        &self.credentials.kubeconfig
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A kubeconfig file for the bearer of a token.
    pub fn kubeconfig_for(&self, token: &str) -> Result<PathBuf> {
        let file = tempfile::Builder::new().prefix("kubeconfig-").tempfile_in(&self.folder)?;
        std::fs::write(file.path(), self.credentials.kubeconfig_text(token))?;
        // It goes with the control plane's folder.
        Ok(file.keep()?.1)
    }

    /// The administrator's client. It lives on the runtime that calls, so each test needs one of its own.
    pub async fn client(&self) -> Result<Client> {
        self.credentials.client(&self.credentials.admin_token).await
    }

    /// A client for the bearer of a token.
    pub async fn client_for(&self, token: &str) -> Result<Client> {
        self.credentials.client(token).await
    }

    /// The real kubectl, as the administrator, with arguments still to come.
    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path()).kill_on_drop(true);
        kubectl
    }

    /// Runs kubectl; what it wrote to stdout, or, as the error, why it failed.
    pub async fn kubectl(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(arguments);
        fed(&format!("kubectl {}", arguments.join(" ")), command, stdin, KUBECTL_DEADLINE).await
    }

    /// `kubectl apply` of manifests, as users do it; what it said.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl(&["apply", "-f", "-"], manifests).await
    }

    /// `kubectl delete` of what manifests name, waiting until it is gone.
    pub async fn delete(&self, manifests: &str) -> Result<String> {
        self.kubectl(&["delete", "-f", "-"], manifests).await
    }

    /// Kills the API server, as an outage would. Never the shared one's: other tests are using it.
    pub async fn stop_api_server(&self) -> Result<()> {
        self.api_server.lock().await.kill().await
    }

    /// Starts the API server again, on the same address, and waits until it is ready.
    pub async fn restart_api_server(&self) -> Result<()> {
        *self.api_server.lock().await = start_api_server(self.network, &self.credentials, self.folder.path()).await?;
        self.until_api_server_is_ready().await
    }

    /// Forgets etcd's history up to now: who watched from before, must list again. An API server that runs has a
    /// history of its own in memory; stop it first, or restart it after.
    pub async fn compact_etcd(&self) -> Result<()> {
        etcd::compact(self.network).await
    }

    async fn until_api_server_is_ready(&self) -> Result<()> {
        let client = self.client().await?;
        let is_ready = || async {
            let answer = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
            ensure!(answer == "ok", "/readyz says {answer}");
            Ok(())
        };
        until_ready(&mut *self.api_server.lock().await, is_ready).await
    }
}

/// Waits until `is_ready` says so, as long as the program runs.
async fn until_ready<F: Future<Output = Result<()>>>(program: &mut Program, is_ready: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        program.must_run()?;
        let Err(error) = is_ready().await else { return Ok(()) };
        ensure!(Instant::now() < deadline, "never ready: {error:#}\n{}", program.log());
        tokio::time::sleep(READY_LOOK).await;
    }
}

async fn start_api_server(network: Network, credentials: &Credentials, folder: &Path) -> Result<Program> {
    let mut command = Command::new(tool("kube-apiserver").await?);
    let ip = network.ip(API_SERVER_HOST);
    command.arg(format!("--bind-address={ip}")).arg(format!("--advertise-address={ip}"));
    command.arg(format!("--secure-port={}", credentials::API_SERVER_PORT));
    command.arg(format!("--etcd-servers={}", etcd::url(network)));
    // Only `compact_etcd` compacts, so that a test's history is what the test makes it.
    command.args(["--etcd-compaction-interval=0", "--authorization-mode=RBAC"]);
    command.arg("--service-cluster-ip-range=10.96.0.0/16");
    command.args(credentials.api_server_flags());
    Program::keep("kube-apiserver", command, folder).await
}
