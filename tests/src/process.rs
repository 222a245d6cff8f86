//! Programs that tests start: found or built, given a log, and ended by their own id.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

/// How long a program may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(45);
/// How long one may take to be gone after SIGKILL. About five times what was seen of one with 100 MB to give back.
const GONE_DEADLINE: Duration = Duration::from_secs(1);
/// How often it is looked for meanwhile.
const GONE_LOOK: Duration = Duration::from_millis(2);

/// The runtime that starts the programs of [`Program::keep`]: it lives as long as the process, and so does its thread.
static KEEPER: LazyLock<std::io::Result<Runtime>> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build());

/// A program of a test. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command`, its output going to `name.log` in `folder`.
    pub fn start(name: &'static str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name, child, log })
    }

    /// Starts one that ends with this process, whatever becomes of it, so that none outlives the tests, not even one
    /// that is kept in a static. It is told to end with the thread that started it, which a test's own would too early.
    pub async fn keep(name: &'static str, command: Command, folder: &Path) -> Result<Self> {
        let keeper = KEEPER.as_ref().map_err(|error| anyhow::anyhow!("no runtime to start programs: {error}"))?;
        let command = command.as_std();
        let mut kept = Command::new("setpriv");
        kept.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        kept.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let folder = folder.to_owned();
        keeper.spawn(async move { Self::start(name, kept, &folder) }).await?
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails, with what it wrote, when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
        }
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Ends it at once and returns when it is gone, its addresses with it: for a `Drop`, which cannot wait otherwise.
    pub fn end(&mut self) {
        let deadline = Instant::now() + GONE_DEADLINE;
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(GONE_LOOK);
        }
    }

    /// Sends it a signal by name, such as `TERM` or `STOP`.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id().with_context(|| format!("{} has ended", self.name))?;
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status().await?;
        if sent.success() { Ok(()) } else { bail!("kill -{signal} {id} failed") }
    }

    /// Waits until it has ended; its exit code.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let ended = tokio::time::timeout(END_DEADLINE, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} does not end:\n{}", self.name, self.log()))??.code())
    }
}

/// The cargo that runs the test, in the repository. Without what it told the test of its package: the build scripts of
/// some dependencies, ring's most of all, would run anew for another `CARGO_MANIFEST_DIR`, and half of the tree with them.
pub fn cargo() -> std::process::Command {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|of| text.starts_with(of)) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(repository());
    cargo
}

/// The folder of the programs that cargo built beside the running test.
fn target_folder() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().find(|folder| folder.join(".fingerprint").is_dir());
    Ok(folder.context("the test does not run from cargo's target folder")?.to_owned())
}

/// A program of this workspace, by package and name: built once a test run, in the test's own profile, so that no test
/// meets a stale one.
pub fn built(package: &str, name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let folder = target_folder()?;
    let is_release = folder.file_name().is_some_and(|name| name == "release");
    let build = || {
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--workspace", "--bins"]);
        // With the tests, the features of dependencies are those that `cargo test` has built already.
        cargo.arg(if is_release { "--release" } else { "--tests" });
        match cargo.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("cargo build of the programs ended with {status}")),
            Err(error) => Err(format!("cargo build of the programs: {error}")),
        }
    };
    BUILT.get_or_init(build).clone().map_err(anyhow::Error::msg)?;
    let program = folder.join(name);
    if program.is_file() { Ok(program) } else { bail!("{package} has no program {name}") }
}

/// Runs a command with text on its standard input; what it wrote to stdout, or, as the error, all that it said, after `what`.
pub async fn fed(what: &str, mut command: Command, input: &str, deadline: Duration) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
    let mut stdin = child.stdin.take().with_context(|| format!("{what} has no stdin"))?;
    let ended = async {
        // One that refuses its arguments does not read.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(deadline, ended).await.with_context(|| format!("{what} does not end"))??;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{what}: {said}{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(said)
}

/// What `pointsman` prints when it is run with these arguments.
pub async fn printed(arguments: &[&str]) -> Result<String> {
    let output = Command::new(built("pointsman", "pointsman")?).args(arguments).output().await;
    let output = output.with_context(|| format!("running pointsman {}", arguments.join(" ")))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The real Envoy: the one that `POINTSMAN_ENVOY` names, or the one that `xtask tools` fetched.
pub fn envoy() -> Result<PathBuf> {
    let program = match std::env::var_os("POINTSMAN_ENVOY") {
        Some(program) => PathBuf::from(program),
        None => {
            let folder = |name: &str, rest: &str| {
                std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| PathBuf::from(value).join(rest))
            };
            let cache = folder("POINTSMAN_CACHE", "")
                .or_else(|| folder("XDG_CACHE_HOME", "pointsman"))
                .or_else(|| folder("HOME", ".cache/pointsman"))
                .context("neither POINTSMAN_CACHE nor HOME is set")?;
            let version = include_str!("../../tools/envoy.version").trim_ascii();
            cache.join(format!("envoy-{version}/envoy"))
        }
    };
    if program.is_file() { Ok(program) } else { bail!("{} is not there: run `make tools`", program.display()) }
}
