//! The configuration file: endpoints and scheduling of one pool or of several, and the process's own limits.
//!
//! ```yaml
//! name: default/pointsman      # of the only pool; this is the default
//! endpoints: [{name: a, address: 10.0.0.1, port: 8000}]
//! scheduling: {}               # the schema that the CRD shares
//! server: {limits: {}, trust: {}}
//! ```
//!
//! or `pools: [{name, endpoints, scheduling}]` in place of the first three. A pool is named `namespace/name`; a name
//! alone is in the namespace `default`. A list in llm-d's file-discovery form loads as it is, and so does JSON.
//!
//! Every problem is found at once, each with its line. What is loaded is wholly valid: who reloads a bad file keeps
//! what was loaded before.

mod resolve;
mod spec;
#[cfg(test)]
mod tests;
pub mod watch;
mod yaml;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use pointsman_core::config::Problems;
use pointsman_core::policy::Policy;
use pointsman_core::registry::Registry;
use pointsman_extproc::settings::Trust;

pub(crate) use resolve::is_pool_name;

/// The name of the only pool where the file names none.
pub const DEFAULT_POOL: &str = "default/pointsman";
/// The most bytes that a configuration file may have.
pub const MAX_FILE_SIZE: u64 = 4 << 20;

/// A configuration file, checked and resolved.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The pools in the file's order, with distinct names; at least one.
    pub pools: Vec<PoolConfig>,
    /// What belongs to the process.
    pub server: ServerConfig,
}

/// One pool of a file.
#[derive(Debug)]
pub struct PoolConfig {
    /// `namespace/name`.
    pub name: String,
    /// Its endpoints in the file's order, with distinct names and distinct addresses.
    pub endpoints: Vec<EndpointSpec>,
    /// How it is scheduled.
    pub policy: Policy,
    /// `scheduling` as it was written, for showing; null where it was absent.
    pub scheduling: serde_json::Value,
}

/// One endpoint of a file, before its name is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its name, unique with the namespace within the pool.
    pub name: String,
    /// Its namespace; `default` where the file says none.
    pub namespace: String,
    /// Where it is.
    pub host: Host,
    /// The port that takes requests, not 0.
    pub port: u16,
    /// The port of its `/metrics`; the serving port where the file says none.
    pub metrics_port: u16,
    /// The engine that it runs; `None` means the policy's default.
    pub engine: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// An endpoint's host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// An address; an IPv4 address inside an IPv6 one is given as IPv4.
    Ip(IpAddr),
    /// A name to be looked up, in lower case, without a final dot.
    Dns(String),
}

/// What belongs to the process and not to a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bounds of what requests may cost.
    pub limits: Limits,
    /// Which of the client's headers are believed.
    pub trust: Trust,
}

/// Bounds of what requests may cost this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of one request's body.
    pub max_body_size: u64,
    /// Share of the memory limit that bodies in hand may take together, in percent.
    pub buffer_budget_percent: u8,
    /// Share of the memory limit that all prefix indexes may take together, in percent.
    pub prefix_index_percent: u8,
    /// The most requests open at once.
    pub max_streams: u32,
    /// A request of which nothing was heard for this long ends.
    pub request_idle_timeout: Duration,
    /// A response of which nothing was heard for this long ends.
    pub response_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_size: 32 << 20,
            buffer_budget_percent: 40,
            prefix_index_percent: 30,
            max_streams: 10_000,
            request_idle_timeout: Duration::from_secs(60),
            response_idle_timeout: Duration::from_secs(300),
        }
    }
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The node that is wrong, as in `scheduling.profile.scorers[1].type`; empty when it is the file as a whole.
    pub path: String,
    /// The line of that node, or of the nearest one around it, from 1; absent when the file could not be read.
    pub line: Option<usize>,
    /// The column in characters, from 1: where a member's key or a list's item begins.
    pub column: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl FileProblem {
    fn of_file(message: String) -> Self {
        Self { path: String::new(), line: None, column: None, message, suggestion: None }
    }
}

impl std::fmt::Display for FileProblem {
    /// Without the file's name and position.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean \"{suggestion}\"?"),
            None => Ok(()),
        }
    }
}

/// What a file is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Pools, and what belongs to the process.
    Pools,
    /// What belongs to the process alone.
    ServerAlone,
}

/// Reads and checks a file.
pub fn load(path: &Path, registry: &Registry) -> Result<LoadedConfig, Vec<FileProblem>> {
    check(&read(path)?, Holds::Pools, registry)
}

/// Reads and checks a file beside pools that come from elsewhere: it may hold `server`, and nothing else.
pub fn load_server(path: &Path, registry: &Registry) -> Result<ServerConfig, Vec<FileProblem>> {
    check(&read(path)?, Holds::ServerAlone, registry).map(|config| config.server)
}

fn read(path: &Path) -> Result<String, Vec<FileProblem>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(vec![FileProblem::of_file(format!("cannot be read: {error}"))]);
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let message = "the file is not UTF-8 text from here on".into();
        vec![FileProblem { line: Some(line), column: Some(1), ..FileProblem::of_file(message) }]
    })
}

/// Checks a file's text.
pub fn parse(text: &str, registry: &Registry) -> Result<LoadedConfig, Vec<FileProblem>> {
    check(text, Holds::Pools, registry)
}

fn check(text: &str, holds: Holds, registry: &Registry) -> Result<LoadedConfig, Vec<FileProblem>> {
    if text.len() as u64 > MAX_FILE_SIZE {
        let message = format!("the file has more than {} MiB", MAX_FILE_SIZE >> 20);
        return Err(vec![FileProblem::of_file(message)]);
    }
    let (document, mut file_problems) = match yaml::read(text) {
        Ok((document, duplicate)) => (document, Vec::from_iter(duplicate)),
        Err(problem) => return Err(vec![problem]),
    };
    let mut problems = Problems::default();
    let config = resolve::config(document.value, holds, registry, &mut problems);
    file_problems.extend(problems.into_vec().into_iter().map(|problem| {
        let (line, column) = document.positions.nearest(problem.path.steps());
        let (message, suggestion) = (problem.message, problem.suggestion);
        FileProblem { path: problem.path.to_string(), line: Some(line), column: Some(column), message, suggestion }
    }));
    if file_problems.is_empty() {
        return Ok(config);
    }
    file_problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(file_problems)
}

/// The problems as compilers write them: `FILE:LINE:COLUMN: PATH: MESSAGE`, one a line.
pub fn render_problems(file_name: &str, problems: &[FileProblem]) -> String {
    let mut rendered = String::new();
    for problem in problems {
        let place = match (problem.line, problem.column) {
            (Some(line), Some(column)) => format!("{file_name}:{line}:{column}"),
            (Some(line), None) => format!("{file_name}:{line}"),
            (None, _) => file_name.to_owned(),
        };
        rendered.push_str(&format!("{place}: {problem}\n"));
    }
    rendered
}
