//! The image, the compose file and the examples of `deploy/`: what of them can be tried without Docker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_tests::client::Client;
use pointsman_tests::netns::{Network, memory};
use pointsman_tests::process::{Program, built, envoy, printed, repository};
use pointsman_tests::tools::tool;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::chat;
use crate::cluster::plane;

const DOCKERFILE: &str = "deploy/Dockerfile";
const COMPOSE: &str = "deploy/compose/compose.yaml";
const BOOTSTRAP: &str = "deploy/compose/envoy/envoy.yaml";
/// Where it has Envoy listen, and where it does here: the Envoy Gateway of other tests takes 8080 on every address.
const LISTENS: &str = "port_value: 8080";
const LISTENS_HERE: &str = "port_value: 18080";
const VALUES: &str = "deploy/envoy-gateway-values.yaml";
const README: &str = "deploy/README.md";
/// The image that is ours, as the compose file names it.
const IMAGE: &str = concat!("pointsman:", env!("CARGO_PKG_VERSION"));
/// API groups of others, which no API server here knows.
const FOREIGN: [&str; 4] = ["argoproj.io/", "flagger.app/", "serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1"];
/// How long a service of the compose file may take to be healthy. About five times what was seen on two busy cores.
const HEALTH_DEADLINE: Duration = Duration::from_secs(15);
/// How long Prometheus may take until it has read every target, which it does each five seconds.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(30);
const HEALTH_LOOK: Duration = Duration::from_millis(50);

fn read(path: &str) -> String {
    read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether an image is named with a version, which is not moved to another image from day to day.
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_some_and(|(_, tag)| tag.starts_with(|first: char| first.is_ascii_digit() || first == 'v'))
}

/// The instructions of a Dockerfile, continued lines joined: name and arguments.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let joined = lines.fold(String::new(), |text, line| match line.strip_suffix('\\') {
        Some(continued) => text + continued,
        None => text + line + "\n",
    });
    let split = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    joined.lines().filter_map(split).collect()
}

#[test]
fn the_image_is_one_static_binary_and_runs_as_nobody() {
    let all = instructions(&read(DOCKERFILE));
    let of = |name: &str| all.iter().filter(|(of, _)| of == name).map(|(_, rest)| rest.as_str()).collect::<Vec<_>>();
    let defaults: BTreeMap<_, _> = of("ARG").into_iter().filter_map(|argument| argument.split_once('=')).collect();
    let bases: Vec<_> = of("FROM")
        .into_iter()
        .map(|from| from.split(' ').find(|word| !word.starts_with("--")).unwrap())
        .map(|base| match base.strip_prefix("${").and_then(|name| name.strip_suffix('}')) {
            Some(argument) => defaults[argument],
            None => base,
        })
        .collect();
    assert_eq!(bases.last(), Some(&"scratch"));
    assert!(bases.iter().all(|base| *base == "scratch" || is_pinned(base)), "{bases:?}");
    // Who calls cargo by hand and who builds the image use one compiler.
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(bases[0].starts_with(&format!("rust:{channel}-")), "{} for Rust {channel}", bases[0]);
    assert_eq!(defaults["VERSION"], env!("CARGO_PKG_VERSION"));

    let run = of("RUN").join("\n");
    for needed in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl", "--locked", "--mount=type=cache"] {
        assert!(run.contains(needed), "no {needed} in:\n{run}");
    }
    let last = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let image: BTreeMap<_, _> = all[last..].iter().map(|(name, rest)| (name.as_str(), rest.as_str())).collect();
    assert!(!image.contains_key("RUN") && !image.contains_key("SHELL") && !image.contains_key("CMD"));
    let ids: Vec<u32> = image["USER"].split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "{ids:?}");
    assert_eq!(serde_json::from_str::<Vec<String>>(image["ENTRYPOINT"]).unwrap(), ["/pointsman"]);
    for label in ["title", "description", "licenses", "version", "revision"] {
        assert!(image["LABEL"].contains(&format!("org.opencontainers.image.{label}=")), "{label}");
    }
}

/// All Rust files below a folder, but for tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        match path.is_dir() {
            _ if is_test => {}
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn the_build_context_holds_all_that_the_build_reads() {
    let ignored = read("deploy/Dockerfile.dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let root = repository().canonicalize().unwrap();
    let kept: Vec<_> = lines.map(|line| root.join(line.strip_prefix('!').expect(line))).collect();
    let is_kept = |path: &Path| kept.iter().any(|kept| path.starts_with(kept));
    assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
    for needed in ["Cargo.toml", "Cargo.lock", "LICENSE", "crates", "tests"] {
        assert!(is_kept(&root.join(needed)), "{needed}");
    }
    let mut found = Vec::new();
    for entry in read_dir(root.join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.ends_with("xtask") {
            sources(&folder.join("src"), &mut found);
        }
    }
    for source in found {
        let text = read_to_string(&source).unwrap().replace("include_bytes!(", "include_str!(");
        for included in text.split("include_str!(\"").skip(1) {
            let name = included.split('"').next().unwrap();
            let file = source.parent().unwrap().join(name).canonicalize().unwrap();
            assert!(is_kept(&file), "{} includes {}", source.display(), file.display());
        }
    }
}

/// A service of the compose file as a process here: it has an address of its own, and knows the others by their names.
struct Service {
    name: String,
    ip: IpAddr,
    spec: Value,
    /// Holds what is mounted, where the container has it, with the service's own address in place of any.
    root: PathBuf,
    hosts: PathBuf,
}

/// The services of the compose file, by name.
fn services() -> BTreeMap<String, Value> {
    let compose: Value = serde_saphyr::from_str(&read(COMPOSE)).unwrap();
    let services = compose["services"].as_object().unwrap();
    services.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a service mounts: from where, to where, and how.
fn mounts(spec: &Value) -> Vec<(&str, &str, &str)> {
    let split = |volume| {
        let mut parts = str::split(volume, ':');
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    };
    words(&spec["volumes"]).into_iter().map(split).collect()
}

/// Where that lies in this repository, unless it is a volume of Docker's.
fn source(from: &str) -> Option<PathBuf> {
    from.starts_with('.').then(|| repository().join("deploy/compose").join(from))
}

#[test]
fn the_compose_file_guards_every_service() {
    let services = services();
    let expected = ["envoy", "grafana", "picker", "prometheus", "sim-a", "sim-b", "sim-c"];
    assert!(services.keys().eq(expected), "{:?}", services.keys());
    for (name, spec) in &services {
        let image = spec["image"].as_str().unwrap();
        let is_ours = image == IMAGE;
        assert!(is_ours || is_pinned(image), "{name}: {image}");
        assert_eq!(spec["read_only"], true, "{name}");
        assert_eq!(words(&spec["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(words(&spec["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(spec["mem_limit"].is_string() && spec["pids_limit"].is_u64(), "{name}");
        // Ours is in the image.
        let user = spec["user"].as_str().unwrap_or("65532");
        assert!(is_ours || !user.starts_with('0') && user.starts_with(|first: char| first.is_ascii_digit()), "{name}");
        for forbidden in ["privileged", "network_mode", "pid", "ipc", "cap_add", "devices", "userns_mode"] {
            assert!(spec[forbidden].is_null(), "{name}: {forbidden}");
        }
        assert!(words(&spec["ports"]).iter().all(|port| port.starts_with("127.0.0.1:")), "{name}");
        let is_sim = words(&spec["command"]).first() == Some(&"sim-server");
        assert!(is_sim || words(&spec["healthcheck"]["test"]).first() == Some(&"CMD"), "{name}");
        for (from, _, how) in mounts(spec) {
            assert!(source(from).is_none_or(|from| from.exists() && how == "ro"), "{name}: {from} {how}");
        }
    }
    let envoy_version = read("tools/envoy.version");
    assert_eq!(services["envoy"]["image"], format!("envoyproxy/envoy:v{}", envoy_version.trim()));
}

/// Compares a file with what it must be; with POINTSMAN_UPDATE_DOCS it is written.
fn must_be(path: &str, expected: &str) {
    if std::env::var_os("POINTSMAN_UPDATE_DOCS").is_some() {
        std::fs::write(repository().join(path), expected).unwrap();
    } else {
        assert!(read(path) == expected, "{path} is old: run this test with POINTSMAN_UPDATE_DOCS=1");
    }
}

/// The commands of the page about deploying that begin so.
fn commands(beginning: &str) -> Vec<String> {
    let page = read(README);
    let commands = page.lines().filter_map(|line| line.strip_prefix("$ ")).filter(|line| line.starts_with(beginning));
    commands.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_the_program_prints_is_what_is_committed() -> Result<()> {
    must_be(VALUES, &printed(&["gateway", "--print-values"]).await?);
    let command = commands("pointsman envoy-bootstrap").pop().context("the page does not say how")?;
    let folder = repository().display().to_string();
    let arguments: Vec<_> =
        command.split(' ').skip(1).map(|word| word.replace("deploy/", &format!("{folder}/deploy/"))).collect();
    must_be(BOOTSTRAP, &printed(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?);
    Ok(())
}

impl Service {
    /// Gives the service its address, and copies of what it mounts.
    fn new(name: &str, ip: IpAddr, spec: Value, hosts: &Path, folder: &Path) -> Result<Self> {
        let root = folder.join(name);
        for (from, to, _) in mounts(&spec) {
            let to = root.join(to.trim_start_matches('/'));
            let copy = |from: &Path, to: &Path| -> Result<()> {
                std::fs::create_dir_all(to.parent().context("a file without a folder")?)?;
                let text = read_to_string(from)?.replace("0.0.0.0", &ip.to_string());
                Ok(std::fs::write(to, text.replace(LISTENS, LISTENS_HERE))?)
            };
            match source(from) {
                None => std::fs::create_dir_all(&to)?,
                Some(file) if file.is_file() => copy(&file, &to)?,
                Some(folder) => {
                    for entry in read_dir(folder)? {
                        let entry = entry?;
                        copy(&entry.path(), &to.join(entry.file_name()))?;
                    }
                }
            }
        }
        Ok(Self { name: name.to_owned(), ip, spec, root, hosts: hosts.to_owned() })
    }

    /// A word of a command as it is here.
    fn here(&self, word: &str) -> String {
        let ip = self.ip.to_string();
        let word = word.replace("0.0.0.0", &ip).replace("127.0.0.1", &ip);
        let mounted = mounts(&self.spec).into_iter().map(|(_, to, _)| to).filter(|to| word.contains(to));
        match mounted.max_by_key(|to| to.len()) {
            Some(mounted) => word.replace(mounted, &format!("{}{mounted}", self.root.display())),
            None => word,
        }
    }

    /// A command of the container as one of this machine, with the names of the other services.
    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&self.hosts);
        command.arg(program).args(arguments.iter().map(|word| self.here(word))).kill_on_drop(true);
        command
    }

    /// Starts it.
    async fn start(&self, folder: &Path) -> Result<Program> {
        let (log, program) = match self.name.as_str() {
            "picker" => ("picker", built("pointsman", "pointsman")?),
            "envoy" => ("envoy", envoy()?),
            "prometheus" => ("prometheus", tool("prometheus").await?),
            // The simulated servers share a log.
            _ => ("sim-server", built("pointsman", "pointsman")?),
        };
        Program::start(log, self.command(&program, &words(&self.spec["command"])), folder)
    }

    /// Waits until its own health check is content.
    async fn until_healthy(&self, program: &mut Program) -> Result<()> {
        let check = words(&self.spec["healthcheck"]["test"]);
        let pointsman = built("pointsman", "pointsman")?;
        let asked = if check[1] == "/pointsman" { &pointsman } else { Path::new(check[1]) };
        let deadline = Instant::now() + HEALTH_DEADLINE;
        loop {
            program.must_run()?;
            let output = self.command(asked, &check[2..]).output().await?;
            if output.status.success() {
                return Ok(());
            }
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(Instant::now() < deadline, "{} is never healthy: {why}\n{}", self.name, program.log());
            tokio::time::sleep(HEALTH_LOOK).await;
        }
    }
}

/// The services of the compose file that are programs of this machine, running.
struct Composed {
    services: BTreeMap<String, Service>,
    programs: Vec<Program>,
    _folder: TempDir,
}

impl Composed {
    fn must_run(&mut self) -> Result<()> {
        self.programs.iter_mut().try_for_each(Program::must_run)
    }

    fn logs(&self) -> String {
        self.programs.iter().map(Program::log).collect()
    }
}

async fn compose() -> Result<Composed> {
    let network = Network::take()?;
    let folder = tempfile::Builder::new().prefix("compose-").tempdir_in(memory()?)?;
    let hosts = folder.path().join("hosts");
    let mut names = String::new();
    let mut services = BTreeMap::new();
    for (host, (name, spec)) in (10..).zip(self::services()) {
        if name != "grafana" {
            names.push_str(&format!("{} {name}\n", network.ip(host)));
            services.insert(name.clone(), Service::new(&name, network.ip(host), spec, &hosts, folder.path())?);
        }
    }
    std::fs::write(&hosts, names)?;
    let mut programs = Vec::new();
    for name in ["sim-a", "sim-b", "sim-c", "picker", "envoy", "prometheus"] {
        let service = &services[name];
        let mut program = service.start(folder.path()).await?;
        // What the others are asked with is in their images alone.
        if matches!(name, "picker" | "envoy") {
            service.until_healthy(&mut program).await?;
        }
        programs.push(program);
    }
    Ok(Composed { services, programs, _folder: folder })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_compose_file_serve() -> Result<()> {
    let mut composed = compose().await?;
    let client = Client::new();
    let (envoy, picker) = (composed.services["envoy"].ip, composed.services["picker"].ip);
    let url = format!("http://{envoy}:18080/v1");
    // Docker looks at Envoy's health after seconds. Here it is looked at sooner than Envoy itself at the picker's.
    let deadline = Instant::now() + HEALTH_DEADLINE;
    while client.get(&format!("{url}/models"), &[]).await?.status != 200 {
        ensure!(Instant::now() < deadline, "never answers\n{}", composed.logs());
        tokio::time::sleep(HEALTH_LOOK).await;
    }
    let url = format!("{url}/chat/completions");
    let mut served = BTreeSet::new();
    for number in 0..12 {
        let id = format!("compose-{number}");
        let mut body = chat(600, 2, number % 2 == 0);
        body["model"] = "sim-8b".into();
        let answer = client.post(&url, &[("x-request-id", &id)], body.to_string()).await?;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), composed.logs());
        let decisions = client.get(&format!("http://{picker}:9091/debug/decisions"), &[]).await?.json()?;
        let decision = decisions.as_array().into_iter().flatten().find(|decision| decision["requestId"] == *id);
        let endpoints = decision.with_context(|| format!("{id} was not decided on"))?["endpoints"].as_array();
        let picked = endpoints.into_iter().flatten().find(|endpoint| endpoint["fate"] == "picked");
        assert_eq!(picked.context("nothing was picked")?["name"], answer.header("x-sim-server"));
        served.insert(answer.header("x-sim-server").to_owned());
    }
    assert!(served.iter().all(|name| composed.services.contains_key(name)), "{served:?}");

    // Prometheus reads all of them, and the chart's alert rules.
    let url = format!("http://{}:9090/api/v1", composed.services["prometheus"].ip);
    let deadline = Instant::now() + SCRAPE_DEADLINE;
    loop {
        composed.must_run()?;
        let page = client.get(&format!("{url}/targets"), &[]).await.and_then(|answer| answer.json());
        let targets = page.as_ref().ok().and_then(|page| page["data"]["activeTargets"].as_array());
        if targets.is_some_and(|all| all.len() == 5 && all.iter().all(|target| target["health"] == "up")) {
            break;
        }
        ensure!(Instant::now() < deadline, "Prometheus does not read all: {page:?}\n{}", composed.logs());
        tokio::time::sleep(HEALTH_LOOK).await;
    }
    let rules = client.get(&format!("{url}/rules"), &[]).await?.json()?;
    assert!(rules["data"]["groups"].as_array().is_some_and(|groups| !groups.is_empty()), "{rules}");
    composed.must_run()
}

/// The manifests of an example, one by one.
fn manifests(example: &str) -> Vec<String> {
    read(example).split("\n---\n").map(str::to_owned).collect()
}

#[tokio::test]
async fn the_api_server_takes_the_examples() -> Result<()> {
    plane().await;
    let plane = pointsman_tests::envoy_gateway::plane().await?;
    let namespace = plane.namespace("deploy").await?;
    let mut foreign = BTreeSet::new();
    for entry in read_dir(repository().join("deploy/examples"))? {
        let example = format!("deploy/examples/{}", entry?.file_name().display());
        for manifest in manifests(&example) {
            let object: Value = serde_saphyr::from_str(&manifest)?;
            let version = object["apiVersion"].as_str().with_context(|| format!("no manifest in {example}"))?;
            if FOREIGN.iter().any(|group| version.starts_with(group)) {
                foreign.insert(object["kind"].as_str().unwrap_or_default().to_owned());
            } else {
                let arguments = ["-n", &namespace.name, "apply", "--dry-run=server", "-f", "-"];
                plane.kubectl(&arguments, &manifest).await.context(example.clone())?;
            }
        }
    }
    assert!(foreign.iter().eq(["Canary", "InferenceService", "LLMInferenceService", "Rollout"]), "{foreign:?}");
    Ok(())
}

#[tokio::test]
async fn the_weights_move_as_the_page_says() -> Result<()> {
    plane().await;
    let plane = pointsman_tests::envoy_gateway::plane().await?;
    let namespace = plane.namespace("deploy").await?;
    namespace.apply(&read("deploy/examples/weights.yaml")).await?;
    let weights = async || {
        let path = "jsonpath={.spec.rules[0].backendRefs[*].weight}";
        plane.kubectl(&["-n", &namespace.name, "get", "httproute", "chat", "-o", path], "").await
    };
    assert_eq!(weights().await?, "90 10");
    let patches = commands("kubectl -n ai patch");
    for (patch, expected) in patches.iter().zip(["50 50", "0 100"]) {
        let (words, patch) = patch.split_once(" -p ").context("no patch")?;
        let words = words.split(' ').skip(3).chain(["-n", &namespace.name, "-p", patch.trim_matches('\'')]);
        plane.kubectl(&words.collect::<Vec<_>>(), "").await?;
        assert_eq!(weights().await?, expected);
    }
    assert_eq!(patches.len(), 2);
    Ok(())
}

/// The pools that a tool finds by the names of Services are named like them.
#[test]
fn argo_finds_a_pool_for_each_of_its_services() -> Result<()> {
    let objects: Vec<Value> = manifests("deploy/examples/argo-rollouts.yaml")
        .iter()
        .map(|text| serde_saphyr::from_str(text))
        .collect::<Result<_, _>>()?;
    let of = |kind: &str| -> Vec<&Value> { objects.iter().filter(|object| object["kind"] == kind).collect() };
    let names = |kind: &str| of(kind).into_iter().map(|object| &object["metadata"]["name"]).collect::<Vec<_>>();
    let canary = &of("Rollout")[0]["spec"]["strategy"]["canary"];
    let expected = vec![&canary["stableService"], &canary["canaryService"]];
    assert_eq!(names("Service"), expected);
    assert_eq!(names("InferencePool"), expected);
    let route = of("HTTPRoute")[0];
    let referred = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
    assert!(referred.iter().all(|to| to["kind"] == "InferencePool"));
    assert_eq!(referred.iter().map(|to| &to["name"]).collect::<Vec<_>>(), expected);
    let policies = of("SchedulingPolicy");
    assert_eq!(policies.iter().map(|policy| &policy["spec"]["service"]["name"]).collect::<Vec<_>>(), expected);
    assert_eq!(policies.iter().map(|policy| &policy["spec"]["targetRefs"][0]["name"]).collect::<Vec<_>>(), expected);
    let plugin = &canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"];
    assert_eq!(plugin["httpRoute"], route["metadata"]["name"]);
    Ok(())
}
