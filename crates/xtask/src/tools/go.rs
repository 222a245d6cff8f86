//! What comes out of Go modules: programs, built here, and files. The `go` command fetches and verifies; nothing in the
//! checkout is changed by it.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::cache::Cache;
use super::environment;
use crate::repository;

/// How often the count of a build is told.
const PROGRESS_ON_TERMINAL: Duration = Duration::from_millis(200);
const PROGRESS_IN_LOG: Duration = Duration::from_secs(20);

/// A program built from a Go module, with a `go.mod` and a `go.sum` of its own under `tools/`.
pub(super) struct GoTool {
    /// The folder under `tools/`.
    pub(super) folder: &'static str,
    /// The text of its `go.mod`.
    pub(super) go_mod: &'static str,
    /// The module whose version is the tool's.
    pub(super) module: &'static str,
    /// The package to build.
    pub(super) package: &'static str,
    /// String variables that the linker sets to the version, with its `v`.
    pub(super) variables: &'static [&'static str],
    /// What makes the program say its version.
    pub(super) version_command: &'static [&'static str],
    /// About how long a build from nothing takes on two cores.
    pub(super) minutes: u32,
}

/// Files of one kind out of a Go module: nothing is built.
pub(super) struct GoFiles {
    module: &'static str,
    /// With its `v`.
    version: &'static str,
    /// The module's hash, as in a `go.sum`.
    sum: &'static str,
    /// What is taken of the module: a folder's YAML files, those of folders in it not among them, or a file.
    taken: Vec<String>,
}

impl GoTool {
    /// The version that `go.mod` requires, without its `v`.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        let found = self.go_mod.lines().find_map(|line| {
            let line = line.trim_ascii().trim_start_matches("require ");
            line.strip_prefix(self.module)?.strip_prefix(" v")?.split_ascii_whitespace().next()
        });
        let missing = || format!("tools/{}/go.mod requires no {}", self.folder, self.module);
        found.map(str::to_owned).with_context(missing)
    }

    /// Builds the program to `binary`.
    pub(super) fn build(&self, cache: &Cache, name: &str, binary: &Path) -> anyhow::Result<()> {
        require_go()?;
        let version = self.version()?;
        let linker: String = self.variables.iter().map(|variable| format!(" -X {variable}=v{version}")).collect();
        let mut command = go(cache);
        command.current_dir(repository()?.join("tools").join(self.folder));
        command.args(["build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false"]);
        command.arg(format!("-ldflags=-s -w{linker}")).arg("-o").arg(binary).arg(self.package);
        // A static program: it runs wherever the cache is carried.
        command.env("CGO_ENABLED", "0").stdout(Stdio::null()).stderr(Stdio::piped());
        eprintln!(
            "tools: building {} with Go; from nothing that takes about {} min on two cores",
            self.package, self.minutes
        );
        let mut child = command.spawn().context("go cannot be started")?;
        let mut progress = Progress::new(name);
        for line in BufReader::new(child.stderr.take().context("go has no stderr")?).split(b'\n') {
            progress.take(&String::from_utf8_lossy(&line?));
        }
        progress.end();
        let status = child.wait()?;
        if !status.success() {
            bail!("go build of {} ended with {status}", self.package);
        }
        Ok(())
    }
}

impl GoFiles {
    /// Reads a pin: the version and the module's hash.
    pub(super) fn new(module: &'static str, pin: &'static str, taken: &[impl AsRef<str>]) -> anyhow::Result<Self> {
        let (version, sum) = pin.split_once(' ').with_context(|| format!("{pin:?} is no VERSION HASH of {module}"))?;
        let taken = taken.iter().map(|path| path.as_ref().to_owned()).collect();
        Ok(Self { module, version, sum: sum.trim_ascii(), taken })
    }

    /// The pin of a module that a `go.sum` holds in one version.
    pub(super) fn pin(go_sum: &'static str, module: &'static str) -> anyhow::Result<&'static str> {
        let pins = go_sum.lines().filter_map(|line| line.strip_prefix(module)?.strip_prefix(' '));
        // The other line is for the module's go.mod alone.
        let mut whole = pins.filter(|pin| !pin.contains("/go.mod "));
        whole.next().with_context(|| format!("go.sum has no hash of {module}"))
    }

    /// Without its `v`.
    pub(super) fn version(&self) -> String {
        self.version.trim_start_matches('v').to_owned()
    }

    /// Copies the files into `target`.
    pub(super) fn fetch(&self, cache: &Cache, target: &Path) -> anyhow::Result<()> {
        require_go()?;
        let (module, version) = (self.module, self.version);
        let mut command = go(cache);
        // The system's folder for temporary files: a go.mod in sight would be asked what it makes of the module.
        command.current_dir(std::env::temp_dir()).args(["mod", "download", "-json"]);
        let output = command.arg(format!("{module}@{version}")).output().context("go cannot be started")?;
        let answer: Download = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("go mod download says {}", String::from_utf8_lossy(&output.stderr).trim_ascii())
        })?;
        if let Some(error) = answer.error {
            bail!("go mod download: {error}");
        }
        if answer.sum != self.sum {
            bail!("{module} {version} has the hash {}, not the one that is pinned, {}", answer.sum, self.sum);
        }
        for path in &self.taken {
            let source = answer.dir.join(path);
            let files = if source.is_file() { vec![source] } else { yaml_files(&source)? };
            if files.is_empty() {
                bail!("{path} of {module} {version} holds no YAML");
            }
            for file in files {
                let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
                // Written anew: files of Go's module cache are read-only, and so would copies be.
                fs::write(target.join(name), fs::read(&file)?)?;
            }
        }
        Ok(())
    }
}

/// The YAML files of a folder.
fn yaml_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let held = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let files = held.map(|file| file.map(|file| file.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| file.extension().is_some_and(|it| it == "yaml")).collect())
}

/// What `go mod download -json` answers.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    dir: PathBuf,
    #[serde(default)]
    sum: String,
}

/// Counts what `go build -v` prints, and passes on what is not for counting.
struct Progress<'a> {
    name: &'a str,
    downloaded: u32,
    compiled: u32,
    told: Instant,
    terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, downloaded: 0, compiled: 0, told: Instant::now(), terminal: io::stderr().is_terminal() }
    }

    /// One line: `go: downloading MODULE VERSION`, a package's path, or something to read.
    fn take(&mut self, line: &str) {
        if line.starts_with("go: downloading ") {
            self.downloaded += 1;
        } else if !line.is_empty() && !line.contains(char::is_whitespace) {
            self.compiled += 1;
        } else {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            eprintln!("{clear}{line}");
            return;
        }
        if self.told.elapsed() >= if self.terminal { PROGRESS_ON_TERMINAL } else { PROGRESS_IN_LOG } {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        let count = format!(
            "tools: {}: {} modules downloaded, {} packages compiled",
            self.name, self.downloaded, self.compiled
        );
        if self.terminal {
            eprint!("\r\x1b[K{count}");
            // A count that is not seen at once is no loss.
            let _ = io::stderr().flush();
        } else {
            eprintln!("{count}");
        }
    }

    fn end(&self) {
        self.tell();
        if self.terminal {
            eprintln!();
        }
    }
}

/// The `go` command. Go keeps modules and objects below HOME; a machine without one gets them beside the tools.
fn go(cache: &Cache) -> Command {
    let mut command = Command::new("go");
    command.stdin(Stdio::null()).env("GOWORK", "off");
    if environment("HOME").is_none() {
        for (variable, folder) in [("GOPATH", "go"), ("GOCACHE", "go-build")] {
            if environment(variable).is_none() {
                command.env(variable, cache.path(folder));
            }
        }
    }
    command
}

/// Says what to install when Go is missing, before anything else fails for it.
fn require_go() -> anyhow::Result<()> {
    match Command::new("go").arg("version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("`go version` fails: {}", String::from_utf8_lossy(&output.stderr).trim_ascii()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("go is not installed: https://go.dev/dl has it, 1.26 or newer")
        }
        Err(error) => Err(error).context("go cannot be started"),
    }
}
