//! The whole chain as a user of a plain Envoy Gateway has it: the chart installed twice by helm, for the extension server
//! and for the picker, what it installed run as processes and found by the names of its Services; real Envoy Gateway and
//! the Envoy that it configures; and simulated model servers as pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pointsman_sim::{SimConfig, SimHandle, SimServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::client::Client;
use crate::control_plane::{Namespace, PodPlan};
use crate::dns;
use crate::envoy_gateway::{EnvoyGateway, LISTEN_PORT, Options, Proxy, SERVICE_ACCOUNT, plane};
use crate::manifests::{endpoint_slice, gateway, manifest};
use crate::process::{Program, printed};
use crate::stack::fast;
use crate::workload::{RunningPod, Workload};

/// How long a change may take until requests show it. About five times what was seen on two busy cores.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// The release of the extension server.
const SYSTEM: &str = "pointsman";
/// What the extension server is called in it: Deployment, Service and ServiceAccount.
pub const EXTENSION_SERVER: &str = "pointsman-gateway";
/// The release of the picker, and its Deployment, Service and ServiceAccount.
pub const PICKER: &str = "picker";
/// The port of simulated servers; each has an address of its own.
const SERVER_PORT: u16 = 8000;
/// Hosts of the team's network: the pickers, and the servers from here on.
const PICKER_HOST: u8 = 2;
const SERVER_HOST: u8 = 20;
/// Hosts of the system's network: the extension servers from here on.
const EXTENSION_HOST: u8 = 2;

/// What a chain is made of.
pub struct GatewayPlan {
    /// How many extension servers there are.
    pub extension_servers: usize,
    /// How many pickers there are; each serves all pools of the team's namespace.
    pub pickers: usize,
    /// How many model servers there are. They are no pods until a test says so.
    pub servers: usize,
    /// What each of them is like.
    pub server: SimConfig,
}

impl Default for GatewayPlan {
    fn default() -> Self {
        Self { extension_servers: 1, pickers: 1, servers: 2, server: fast() }
    }
}

/// A running chain. Dropping it ends everything but the namespaces.
pub struct GatewayStack {
    /// The model servers.
    pub servers: Vec<SimHandle>,
    /// The pickers.
    pub pickers: Vec<Program>,
    /// The extension servers.
    pub extension_servers: Vec<Program>,
    /// Envoy Gateway, in a namespace of its own.
    pub envoy_gateway: EnvoyGateway,
    /// Where the extension servers live.
    pub system: Namespace<'static>,
    /// Where Gateway, routes, pools, pickers and servers live.
    pub team: Namespace<'static>,
    /// Talks to Envoy as clients do.
    pub client: Client,
    folder: TempDir,
}

impl GatewayStack {
    /// Starts everything but the Envoy, which Envoy Gateway asks for once there is a Gateway.
    pub async fn start(plan: GatewayPlan) -> Result<Self> {
        let plane = plane().await?;
        plane.install_our_crds().await?;
        dns::serve().await?;
        let folder = tempfile::tempdir()?;
        let (system, team) = (plane.namespace("system").await?, plane.namespace("team").await?);

        let gateways = EnvoyGateway::namespace().await?;
        system.install(SYSTEM, &extension_values(&plan, &gateways)).await?;
        team.install(PICKER, &picker_values(&plan)).await?;
        // Without these rights Envoy Gateway starts no workers.
        let envoy_gateway = EnvoyGateway::start_in(gateways, options(&system).await?).await?;

        let mut servers = Vec::new();
        for number in 0..u8::try_from(plan.servers)? {
            let config = SimConfig { name: format!("server-{number}"), ..plan.server.clone() };
            let address = team.network.address(SERVER_HOST + number, SERVER_PORT);
            servers.push(SimServer::start(config, address).await?);
        }
        let mut stack = Self {
            servers,
            pickers: Vec::new(),
            extension_servers: Vec::new(),
            envoy_gateway,
            system,
            team,
            client: Client::new(),
            folder,
        };
        for number in 0..plan.pickers {
            let picker = stack.start_picker(number).await?;
            stack.pickers.push(picker);
        }
        stack.balance_over(&(0..plan.pickers).collect::<Vec<_>>()).await?;
        for number in 0..plan.extension_servers {
            let server = stack.start_extension_server(number).await?;
            stack.extension_servers.push(server);
        }
        let extensions: Vec<_> = (0..plan.extension_servers).map(|n| stack.extension_address(n, 9004)).collect();
        stack.system.apply(&endpoint_slice(EXTENSION_SERVER, "grpc", 9004, &extensions)).await?;
        Ok(stack)
    }

    /// Starts a picker, in place of one that ended, as its Deployment says now.
    pub async fn start_picker(&self, number: usize) -> Result<Program> {
        let name = ["picker-0", "picker-1", "picker-2", "picker-3"].get(number).context("too many pickers")?;
        let ip = self.picker_address(number, 0).ip();
        let pod = RunningPod { name, ip, folder: &self.folder.path().join(name) };
        let workload = Workload::of(&self.team, PICKER).await?;
        Program::start(name, workload.command("picker", &pod).await?, self.folder.path())
    }

    /// Starts an extension server, in place of one that ended, as its Deployment says now.
    pub async fn start_extension_server(&self, number: usize) -> Result<Program> {
        let name = ["extension-0", "extension-1"].get(number).context("too many extension servers")?;
        let ip = self.extension_address(number, 0).ip();
        let pod = RunningPod { name, ip, folder: &self.folder.path().join(name) };
        let workload = Workload::of(&self.system, EXTENSION_SERVER).await?;
        Program::start(name, workload.command("extension-server", &pod).await?, self.folder.path())
    }

    /// What Envoy Gateway was started with.
    pub async fn envoy_gateway_options(&self) -> Result<Options> {
        options(&self.system).await
    }

    /// Applies the Gateway and these manifests in the team's namespace, and hands out the Envoy. It keeps the ids that
    /// clients give to requests, by which decisions are found.
    pub async fn open(&self, manifests: &str) -> Result<Proxy> {
        let gateway = gateway(self.envoy_gateway.class(), "gateway", LISTEN_PORT);
        let target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"});
        let spec = json!({"targetRefs": [target], "headers": {"requestID": "PreserveOrGenerate"}});
        let policy = manifest("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy", "ids", spec);
        self.team.apply(&(gateway + &policy + manifests)).await?;
        self.envoy_gateway.proxy(&format!("{}/gateway", self.team.name)).await
    }

    /// An InferencePool of the pods with the label `app` of its name, which fails open or closed.
    pub fn pool(&self, name: &str, failure_mode: &str) -> String {
        let picker = json!({"name": PICKER, "port": {"number": 9002}, "failureMode": failure_mode});
        let spec = json!({
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": SERVER_PORT}],
            "endpointPickerRef": picker,
        });
        manifest("inference.networking.k8s.io/v1", "InferencePool", name, spec)
    }

    /// A ready pod for a server, with the label `app`.
    pub fn pod(&self, server: usize, app: &str) -> PodPlan {
        PodPlan::new(self.servers[server].name(), app, self.servers[server].addr().ip())
    }

    /// An address of a picker.
    pub fn picker_address(&self, number: usize, port: u16) -> SocketAddr {
        self.team.network.address(PICKER_HOST + number as u8, port)
    }

    /// An address of an extension server.
    pub fn extension_address(&self, number: usize, port: u16) -> SocketAddr {
        self.system.network.address(EXTENSION_HOST + number as u8, port)
    }

    /// What an extension server's admin page says.
    pub async fn extension_page(&self, number: usize, page: &str) -> Result<Value> {
        self.client.get(&format!("http://{}{page}", self.extension_address(number, 9091)), &[]).await?.json()
    }

    /// What a picker's admin page says.
    pub async fn picker_page(&self, number: usize, page: &str) -> Result<Value> {
        self.client.get(&format!("http://{}{page}", self.picker_address(number, 9091)), &[]).await?.json()
    }

    /// Waits until `condition` holds of an object of the team's namespace, as kubectl shows it; the object.
    pub async fn until(&self, kind: &str, name: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let (plane, deadline) = (plane().await?, Instant::now() + CHANGE_DEADLINE);
        loop {
            let text = plane.kubectl(&["-n", &self.team.name, "get", kind, name, "-o", "json"], "").await?;
            let object: Value = serde_json::from_str(&text)?;
            if condition(&object) {
                return Ok(object);
            }
            ensure!(Instant::now() < deadline, "{kind} {name} never as expected: {object:#}\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until requests of this path are answered as `condition` wants ([`Proxy::served_by`]); the answer.
    pub async fn until_served(&self, proxy: &Proxy, path: &str, condition: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let served = proxy.served_by(path).await;
            if condition(&served) {
                return Ok(served);
            }
            if Instant::now() >= deadline {
                let clusters = proxy.admin("/clusters").await?;
                bail!("{path}: got {served}\n{}\n{}\n{clusters}", self.logs(), proxy.log().await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until requests pass the picker, and are not served beside it.
    pub async fn until_picked(&self, proxy: &Proxy) -> Result<()> {
        let (url, deadline) = (format!("{}/v1/models", proxy.url()), Instant::now() + CHANGE_DEADLINE);
        for number in 0_u32.. {
            let id = format!("picked-{number}-{}", self.pickers[0].id().unwrap_or_default());
            let answer = self.client.get(&url, &[("x-request-id", &id)]).await?;
            for picker in 0..self.pickers.len() {
                let page = self.picker_page(picker, &format!("/debug/decisions?request_id={id}")).await;
                if page.is_ok_and(|page| page.as_array().is_some_and(|decisions| !decisions.is_empty())) {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < deadline, "{}: no picker is asked\n{}", answer.status, self.logs());
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the first picker knows exactly so many endpoints of its first pool.
    pub async fn until_endpoints(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let page = self.picker_page(0, "/debug/pools").await?;
            if page[0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == count) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "never {count} endpoints: {page:#}\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every picker tells gateways that it takes requests.
    pub async fn until_all_pickers_serve(&self) -> Result<()> {
        for number in 0..self.pickers.len() {
            self.until_picker_serves(number).await?;
        }
        Ok(())
    }

    /// Waits until a picker does.
    pub async fn until_picker_serves(&self, number: usize) -> Result<()> {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            let page = self.picker_page(number, "/debug/config").await;
            if page.is_ok_and(|page| page["obstacles"].as_array().is_some_and(Vec::is_empty)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "picker {number} never serves\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the pickers' Service lead to these of them, as a controller would once they are ready.
    pub async fn balance_over(&self, pickers: &[usize]) -> Result<()> {
        let addresses: Vec<_> = pickers.iter().map(|number| self.picker_address(*number, 9002)).collect();
        self.team.apply(&endpoint_slice(PICKER, "grpc", 9002, &addresses)).await.map(|_| ())
    }

    /// What extension servers, pickers and Envoy Gateway wrote.
    pub fn logs(&self) -> String {
        let programs = self.extension_servers.iter().map(|server| ("extension server", server));
        let programs = programs.chain(self.pickers.iter().map(|picker| ("picker", picker)));
        let logs = programs.map(|(name, program)| format!("{name}:\n{}\n", program.log()));
        logs.chain([format!("Envoy Gateway:\n{}", self.envoy_gateway.log())]).collect()
    }
}

async fn options(system: &Namespace<'_>) -> Result<Options> {
    Ok(Options { extension_manager: Some(extension_manager(&system.name).await?), ..Options::default() })
}

/// The section `extensionManager` of Envoy Gateway's configuration, as `pointsman gateway --print-values` has it.
async fn extension_manager(namespace: &str) -> Result<Value> {
    let arguments = ["gateway", "--print-values", "--service-name", EXTENSION_SERVER, "--namespace", namespace];
    let values: Value = serde_saphyr::from_str(&printed(&arguments).await?)?;
    Ok(values["config"]["envoyGateway"]["extensionManager"].clone())
}

/// The values of the extension server's release. Pods here share one network, so that each binds its own address.
fn extension_values(plan: &GatewayPlan, gateways: &Namespace<'_>) -> Value {
    let envoy_gateway = json!({
        "namespace": gateways.name,
        "serviceAccount": SERVICE_ACCOUNT,
        "controllerName": EnvoyGateway::controller_of(gateways),
    });
    json!({
        "picker": {"enabled": false},
        "extensionServer": {
            "enabled": true,
            "replicas": plan.extension_servers,
            "envoyGateway": envoy_gateway,
            "bindAddress": "$(POD_IP)",
            "extraArgs": ["--admin-address=$(POD_IP):9091"],
        },
    })
}

/// The values of the picker's release.
pub fn picker_values(plan: &GatewayPlan) -> Value {
    json!({
        "fullnameOverride": PICKER,
        "picker": {
            "replicas": plan.pickers,
            "bindAddress": "$(POD_IP)",
            "extraArgs": ["--admin-address=$(POD_IP):9091", "--eds-address=$(POD_IP):9005"],
        },
    })
}
