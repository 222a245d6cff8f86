//! A whole stack whose pools come from a real API server: simulated model servers on the addresses of pods, real
//! pickers under exactly the Role that they need, and the real Envoy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_envoy::bootstrap::{BootstrapOptions, Peer, PoolWiring, bootstrap, to_yaml};
use pointsman_sim::{SimConfig, SimHandle, SimServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Answer, Client};
use crate::control_plane::{ControlPlane, Namespace, PodPlan};
use crate::manifests::manifest;
use crate::process::{Program, built, envoy, printed};
use crate::stack::{LISTEN_PORT, fast};

/// How long a change of the cluster may take until it shows. About five times what was seen on two busy cores.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// The port of simulated servers; each has an address of its own.
const SERVER_PORT: u16 = 8000;
/// Hosts of the namespace's network: Envoy, then the pickers; the servers from here on.
const ENVOY_HOST: u8 = 1;
const PICKER_HOST: u8 = 2;
const SERVER_HOST: u8 = 20;
/// The ServiceAccount, Role and Lease of the pickers.
const PICKER: &str = "picker";

/// What a stack is made of.
pub struct ClusterPlan {
    /// The pools that Envoy has a listener for, by name; they need not exist.
    pub pools: Vec<&'static str>,
    /// What the pickers serve, as flags.
    pub scope: Vec<&'static str>,
    /// How many pickers there are.
    pub pickers: usize,
    /// Their further flags.
    pub flags: Vec<&'static str>,
    /// How many servers there are. They are no pods until a test says so.
    pub servers: usize,
    /// What each of them is like.
    pub server: SimConfig,
    /// Changes the bootstrap.
    pub options: fn(&mut BootstrapOptions),
}

impl ClusterPlan {
    /// One pool named `pool`, one picker for it, and so many fast servers.
    pub fn new(servers: usize) -> Self {
        Self {
            pools: vec!["pool"],
            scope: vec!["--pool-name", "pool"],
            pickers: 1,
            flags: Vec::new(),
            servers,
            server: fast(),
            options: |_| {},
        }
    }
}

/// A running stack. Dropping it ends everything but the namespace.
pub struct ClusterStack<'plane> {
    /// Where its objects are.
    pub namespace: Namespace<'plane>,
    /// The model servers.
    pub servers: Vec<SimHandle>,
    /// The pickers.
    pub pickers: Vec<Program>,
    /// Envoy.
    pub envoy: Program,
    /// Talks to Envoy as clients do.
    pub client: Client,
    plan: ClusterPlan,
    kubeconfig: std::path::PathBuf,
    folder: TempDir,
}

impl<'plane> ClusterStack<'plane> {
    /// Starts everything; the pools, and whether anybody is ready, are the test's matter.
    pub async fn start(plane: &'plane ControlPlane, plan: ClusterPlan) -> Result<Self> {
        let namespace = plane.namespace("stack").await?;
        let folder = tempfile::tempdir()?;
        namespace.service_account(PICKER).await?;
        namespace.apply(&roles(&namespace.name, &[]).await?).await?;
        let kubeconfig = plane.kubeconfig_for(&namespace.token(PICKER).await?)?;
        let mut servers = Vec::new();
        for number in 0..u8::try_from(plan.servers)? {
            let config = SimConfig { name: format!("server-{number}"), ..plan.server.clone() };
            let address = namespace.network.address(SERVER_HOST + number, SERVER_PORT);
            servers.push(SimServer::start(config, address).await?);
        }
        let envoy_file = folder.path().join("envoy.yaml");
        std::fs::write(&envoy_file, to_yaml(&bootstrap(&options(&plan, &namespace))?))?;
        let mut command = Command::new(envoy()?);
        command.arg("-c").arg(&envoy_file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
        let envoy = Program::start("envoy", command, folder.path())?;
        let (client, pickers) = (Client::new(), Vec::new());
        let mut stack = Self { namespace, servers, pickers, envoy, client, plan, kubeconfig, folder };
        for number in 0..stack.plan.pickers {
            let picker = stack.start_picker(number)?;
            stack.pickers.push(picker);
        }
        Ok(stack)
    }

    /// Starts a picker, in place of one that ended.
    pub fn start_picker(&self, number: usize) -> Result<Program> {
        let ip = self.picker_address(number, 0).ip();
        let mut command = Command::new(built("pointsman", "pointsman")?);
        command.arg("serve").args(&self.plan.scope).args(["--pool-namespace", &self.namespace.name]);
        command.args(["--lease-name", PICKER, "--secure-serving=false", "--bind-address", &ip.to_string()]);
        command.arg("--admin-address").arg(format!("{ip}:9091"));
        command.arg("--eds-address").arg(format!("{ip}:9005"));
        command.args(&self.plan.flags);
        command.env("KUBECONFIG", &self.kubeconfig).env("POD_NAME", format!("picker-{number}"));
        command.env("POD_NAMESPACE", &self.namespace.name);
        let name: &'static str = ["picker-0", "picker-1", "picker-2"].get(number).context("too many pickers")?;
        Program::start(name, command, self.folder.path())
    }

    /// A ready pod for a server, with the label `app`.
    pub fn pod(&self, server: usize, app: &str) -> PodPlan {
        PodPlan::new(self.servers[server].name(), app, self.servers[server].addr().ip())
    }

    /// An InferencePool v1 of the pods with the label `app` of its name.
    pub fn pool(&self, name: &str) -> String {
        let spec = json!({
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": SERVER_PORT}],
            "endpointPickerRef": {"name": PICKER, "port": {"number": 9002}},
        });
        manifest("inference.networking.k8s.io/v1", "InferencePool", name, spec)
    }

    /// The base URL of a pool, by its place in the plan.
    pub fn url(&self, pool: usize) -> String {
        format!("http://{}", listener(&self.namespace, pool))
    }

    /// An address of a picker.
    pub fn picker_address(&self, number: usize, port: u16) -> SocketAddr {
        self.namespace.network.address(PICKER_HOST + number as u8, port)
    }

    /// Posts a body to the first pool.
    pub async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Result<Answer> {
        self.client.post(&format!("{}{path}", self.url(0)), &[], body).await
    }

    /// The server that answers a request to a pool; status and reason where none does; the error where Envoy does not
    /// listen yet.
    pub async fn served_by(&self, pool: usize) -> String {
        match self.client.get(&format!("{}/v1/models", self.url(pool)), &[]).await {
            Ok(answer) if answer.status == 200 => answer.header("x-sim-server").to_owned(),
            Ok(answer) => format!("{} {}", answer.status, answer.header("x-pointsman-reason")).trim_end().to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Waits until requests to a pool are answered by `expected` ([`Self::served_by`]).
    pub async fn until_served_by(&self, pool: usize, expected: &str) -> Result<()> {
        self.until_served(pool, |served| served == expected).await.with_context(|| format!("{expected} expected"))
    }

    /// Waits until requests to a pool are answered, by whichever server.
    pub async fn until_answered(&self, pool: usize) -> Result<()> {
        self.until_served(pool, |served| served.starts_with("server-")).await
    }

    async fn until_served(&self, pool: usize, condition: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let served = self.served_by(pool).await;
            if condition(&served) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "got {served}\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whom gateways ask whether a picker takes requests.
    pub async fn health(&self, picker: usize) -> Result<HealthClient<Channel>> {
        let url = format!("http://{}", self.picker_address(picker, 9002));
        Ok(HealthClient::new(Channel::from_shared(url)?.connect().await?))
    }

    /// Gets a page of a picker's admin listener.
    pub async fn admin(&self, picker: usize, page: &str) -> Result<Value> {
        let url = format!("http://{}{page}", self.picker_address(picker, 9091));
        self.client.get(&url, &[]).await?.json()
    }

    /// Waits until `condition` holds of a picker's admin page; the page.
    pub async fn until_admin(&self, picker: usize, page: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            // A picker that starts does not answer yet.
            let shown = self.admin(picker, page).await;
            match shown {
                Ok(shown) if condition(&shown) => return Ok(shown),
                shown => ensure!(Instant::now() < deadline, "{page} never as expected: {shown:?}\n{}", self.logs()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until `condition` holds of an object, as kubectl shows it; the object.
    pub async fn until_object(
        &self,
        plane: &ControlPlane,
        kind: &str,
        name: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let text = plane.kubectl(&["-n", &self.namespace.name, "get", kind, name, "-o", "json"], "").await?;
            let object: Value = serde_json::from_str(&text)?;
            if condition(&object) {
                return Ok(object);
            }
            ensure!(Instant::now() < deadline, "{kind} {name} never as expected: {object:#}\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the namespace's Events, a line each, contain all of this.
    pub async fn until_events(&self, plane: &ControlPlane, expected: &[&str]) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let events = self.events(plane).await?;
            let Some(missing) = expected.iter().find(|expected| !events.contains(**expected)) else { return Ok(()) };
            ensure!(Instant::now() < deadline, "no Event says {missing:?}:\n{events}\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The namespace's Events, a line each.
    pub async fn events(&self, plane: &ControlPlane) -> Result<String> {
        let columns = "custom-columns=REASON:.reason,NOTE:.message";
        let listing = ["-n", &self.namespace.name, "get", "events", "-o", columns];
        plane.kubectl(&listing, "").await
    }

    /// What pickers and Envoy wrote.
    pub fn logs(&self) -> String {
        let pickers = self.pickers.iter().map(|picker| format!("picker:\n{}\n", picker.log()));
        pickers.chain([format!("envoy:\n{}", self.envoy.log())]).collect()
    }
}

/// Whether a picker takes requests, as it tells gateways.
pub async fn takes_requests(health: &mut HealthClient<Channel>) -> Result<bool> {
    let answer = health.check(HealthCheckRequest { service: String::new() }).await?;
    Ok(answer.into_inner().status() == ServingStatus::Serving)
}

/// What a picker needs to be granted in a namespace, as `pointsman roles` prints it for a ServiceAccount `picker`.
pub async fn roles(namespace: &str, flags: &[&str]) -> Result<String> {
    let arguments = ["roles", "-n", namespace, "--service-account", PICKER, "--lease-name", PICKER];
    printed(&[&arguments, flags].concat()).await
}

fn listener(namespace: &Namespace<'_>, pool: usize) -> SocketAddr {
    namespace.network.address(ENVOY_HOST, LISTEN_PORT + pool as u16)
}

fn options(plan: &ClusterPlan, namespace: &Namespace<'_>) -> BootstrapOptions {
    let peers = |port| {
        let address = move |number| namespace.network.address(PICKER_HOST + number as u8, port);
        Peer::plaintext((0..plan.pickers).map(address).collect::<Vec<_>>())
    };
    let wire = |(number, pool): (usize, &&str)| {
        PoolWiring::new(&format!("{}/{pool}", namespace.name), listener(namespace, number))
    };
    let mut options =
        BootstrapOptions::new(peers(9002), peers(9005), plan.pools.iter().enumerate().map(wire).collect());
    options.admin = Some(namespace.network.address(ENVOY_HOST, 9901));
    (plan.options)(&mut options);
    options
}
