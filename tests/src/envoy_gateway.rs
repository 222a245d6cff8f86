//! A real Envoy Gateway on a real API server, and the real Envoys that it asks for.

mod proxy;
mod settings;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::Instant;

pub use self::proxy::Proxy;
use self::settings::Homes;
pub use self::settings::SERVICE_ACCOUNT;
use crate::client::Client;
use crate::control_plane::{ControlPlane, Namespace};
use crate::netns::memory;
use crate::process::{Program, repository};
use crate::tools::tool;

/// The port that tests give a Gateway's first listener. Envoy binds it, and those after it, on every address.
pub const LISTEN_PORT: u16 = 10080;
/// How long Envoy Gateway may take to start, and what it was told to show. About five times what was seen on two busy
/// cores.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// Where it says whether it has seen every object; it cannot be told another address.
const READY_PAGE: &str = "http://127.0.0.1:8081/readyz";

/// What an Envoy Gateway is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The section `extensionManager` of its configuration, for an extension server.
    pub extension_manager: Option<Value>,
    /// What its ServiceAccount may do beyond what its Helm chart grants: the chart has no place for the resources of an
    /// extension server either, and users grant them apart.
    pub rules: Vec<PolicyRule>,
    /// Whether it leads only once it holds a Lease, as installed by its chart. One that was killed then comes back after
    /// 15 seconds, when its own Lease has run out.
    pub leader_election: bool,
}

/// A running Envoy Gateway, as `provider: Custom` with resources of Kubernetes and infrastructure of the host: what it
/// reads and writes is in the API server, and its proxies are processes here. One at a time: it takes fixed ports
/// (8080, 8081, 9443, 18000, 19000, 19001) on every address. Dropping it ends it and every Envoy.
///
/// Its proxies are started by the harness, as Kubernetes would do it, and so outlive it when it is killed: the program
/// that it takes for Envoy hands the arguments over and waits. One that it wants no more runs on.
///
/// It runs under the token of a ServiceAccount of its own, whose RBAC is that of its Helm chart.
pub struct EnvoyGateway {
    /// Where it lives, with its own ServiceAccount, EnvoyProxy and TLS; tests may put their Gateways there too.
    pub namespace: Namespace<'static>,
    proxies: Mutex<Vec<Proxy>>,
    program: Program,
    kubeconfig: PathBuf,
    /// Short-lived files in memory: certificates, bootstraps, logs.
    folder: TempDir,
    /// Held until everything has ended: fields are dropped in order.
    _alone: MutexGuard<'static, ()>,
}

impl EnvoyGateway {
    /// Starts one on the shared control plane, in a namespace of its own, and waits until its GatewayClass is accepted.
    /// Waits for another to end.
    pub async fn start(options: Options) -> Result<Self> {
        Self::start_in(Self::namespace().await?, options).await
    }

    /// A namespace for one, for what has to be there before it starts.
    pub async fn namespace() -> Result<Namespace<'static>> {
        plane().await?.namespace("envoy-gateway").await
    }

    /// The same in that namespace.
    pub async fn start_in(namespace: Namespace<'static>, options: Options) -> Result<Self> {
        static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        let alone = ALONE.lock().await;
        let plane = plane().await?;
        namespace.service_account(SERVICE_ACCOUNT).await?;
        namespace.apply(&settings::rbac(&namespace.name, &options.rules)).await?;
        let kubeconfig = plane.kubeconfig_for(&namespace.token(SERVICE_ACCOUNT).await?)?;
        let folder = tempfile::Builder::new().prefix("envoy-gateway-").tempdir_in(memory()?)?;
        let homes = Homes::new(folder.path());
        std::fs::create_dir(homes.root())?;
        proxy::put_stand_in(&homes)?;
        make_certificates(&namespace.name, &homes).await?;
        homes.configure(&namespace.name, &options)?;
        let program = run(&namespace.name, &kubeconfig, &homes).await?;
        let proxies = Mutex::default();
        let mut started = Self { namespace, proxies, program, kubeconfig, folder, _alone: alone };
        started.until_ready().await?;
        started.namespace.apply(&settings::class(&started.namespace.name)).await?;
        let class = started.class().to_owned();
        started.until("gatewayclass", &class, |class| is_true(&class["status"]["conditions"], "Accepted")).await?;
        Ok(started)
    }

    /// The GatewayClass that it answers for: the namespace's name.
    pub fn class(&self) -> &str {
        &self.namespace.name
    }

    /// The controller name that its GatewayClass bears.
    pub fn controller(&self) -> String {
        Self::controller_of(&self.namespace)
    }

    /// The same of one that will be started in that namespace.
    pub fn controller_of(namespace: &Namespace<'_>) -> String {
        settings::controller(&namespace.name)
    }

    /// Applies manifests into its namespace; what kubectl said.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.namespace.apply(manifests).await
    }

    /// Deletes what manifests name in its namespace.
    pub async fn delete(&self, manifests: &str) -> Result<String> {
        self.namespace.delete(manifests).await
    }

    /// The proxy of a Gateway, `namespace/name`: started with the first call, once Envoy Gateway has asked for it.
    pub async fn proxy(&self, gateway: &str) -> Result<Proxy> {
        let mut proxies = self.proxies.lock().await;
        if let Some(there) = proxies.iter().find(|proxy| proxy.gateway() == gateway) {
            return Ok(there.clone());
        }
        let arguments = self.until_proxy_is_wanted(gateway).await?;
        let started = Proxy::start(gateway, arguments, self.folder.path()).await?;
        proxies.push(started.clone());
        Ok(started)
    }

    /// The proxy of a Gateway in its own namespace.
    pub async fn own_proxy(&self, gateway: &str) -> Result<Proxy> {
        self.proxy(&format!("{}/{gateway}", self.namespace.name)).await
    }

    /// Kills it. Its proxies run on, as they would in a cluster.
    pub async fn kill(&mut self) -> Result<()> {
        self.program.kill().await
    }

    /// Starts it again, after [`Self::kill`], with other options. Its rights stay what they were.
    pub async fn restart_with(&mut self, options: &Options) -> Result<()> {
        Homes::new(self.folder.path()).configure(&self.namespace.name, options)?;
        self.restart().await
    }

    /// Starts it again, after [`Self::kill`], and waits until it has seen every object.
    pub async fn restart(&mut self) -> Result<()> {
        let homes = Homes::new(self.folder.path());
        self.program = run(&self.namespace.name, &self.kubeconfig, &homes).await?;
        self.until_ready().await
    }

    /// Its process id, for what `/proc` says.
    pub fn id(&self) -> Option<u32> {
        self.program.id()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Waits until `condition` holds of an object of its namespace, as kubectl shows it; the object.
    pub async fn until(&self, kind: &str, name: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let plane = plane().await?;
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let text = plane.kubectl(&["-n", &self.namespace.name, "get", kind, name, "-o", "json"], "").await?;
            let object: Value = serde_json::from_str(&text)?;
            if condition(&object) {
                return Ok(object);
            }
            ensure!(Instant::now() < deadline, "{kind} {name} never as expected: {object:#}\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        let (client, deadline) = (Client::new(), Instant::now() + CHANGE_DEADLINE);
        loop {
            self.program.must_run()?;
            let answer = client.get(READY_PAGE, &[]).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "never ready: {answer:?}\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The arguments that Envoy Gateway wants the proxy of a Gateway to be started with.
    async fn until_proxy_is_wanted(&self, gateway: &str) -> Result<Vec<String>> {
        let (homes, deadline) = (Homes::new(self.folder.path()), Instant::now() + CHANGE_DEADLINE);
        loop {
            if let Some(arguments) = proxy::wanted(&homes, gateway)? {
                return Ok(arguments);
            }
            ensure!(Instant::now() < deadline, "no proxy for {gateway} is asked for\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for EnvoyGateway {
    fn drop(&mut self) {
        // The next one needs the ports: nothing goes on until they are free.
        self.program.end();
        for proxy in self.proxies.get_mut() {
            proxy.end();
        }
    }
}

/// The shared control plane, with the CRDs of Gateway API and Envoy Gateway.
pub async fn plane() -> Result<&'static ControlPlane> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let plane = ControlPlane::shared().await?;
    INSTALLED.get_or_try_init(|| plane.install_envoy_gateway_crds()).await?;
    Ok(plane)
}

/// Whether a condition of a type is True.
pub fn is_true(conditions: &Value, of_type: &str) -> bool {
    let found = conditions.as_array().and_then(|all| all.iter().find(|condition| condition["type"] == of_type));
    found.is_some_and(|condition| condition["status"] == "True")
}

/// Makes the certificates by which Envoy Gateway and its proxies know each other.
async fn make_certificates(namespace: &str, homes: &Homes<'_>) -> Result<()> {
    let mut command = Command::new(tool("envoy-gateway").await?);
    command.args(["certgen", "--local", "--config-home"]).arg(homes.config());
    command.env("ENVOY_GATEWAY_NAMESPACE", namespace).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(CHANGE_DEADLINE, command.output()).await.context("certgen does not end")??;
    ensure!(output.status.success(), "certgen: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

async fn run(namespace: &str, kubeconfig: &Path, homes: &Homes<'_>) -> Result<Program> {
    let mut command = Command::new("unshare");
    command.arg("-m").arg(repository().join("tests/private-root.sh"));
    command.arg(homes.root()).arg(homes.certificates());
    command.arg(tool("envoy-gateway").await?).args(["server", "--config-path"]).arg(homes.settings());
    command.env("KUBECONFIG", kubeconfig).env("ENVOY_GATEWAY_NAMESPACE", namespace);
    Program::keep("envoy-gateway", command, homes.folder()).await
}
