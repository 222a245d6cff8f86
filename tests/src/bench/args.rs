//! The command line of `bench`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Measures the CPU that a request costs the picker, beside a server that does nothing but answer.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of measuring.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to measure.
    #[command(flatten)]
    pub plan: Plan,
}

/// What `bench` can do beside measuring.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve ext_proc without a thought: the floor.
    NoopServer(NoopArgs),
}

/// `bench noop-server`.
#[derive(Clone, Debug, Args)]
pub struct NoopArgs {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// A folder with `tls.crt` and `tls.key`; plaintext without.
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
}

/// What is measured, and for how long.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Measure for about a minute: shorter rounds, and fewer of them.
    #[arg(long)]
    pub quick: bool,
    /// Only what has all these words in its name, such as `400KB/tls`, `200/plain`, `idle` or `open`. May be given
    /// again, for more.
    #[arg(long, value_name = "WORDS")]
    pub only: Vec<String>,
    /// Write all figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds of picker and no-op, by turns, for each line of the table.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Seconds of one round of one server.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Requests under way at once.
    #[arg(long, default_value_t = 16)]
    pub streams: usize,
    /// HTTP/2 connections that they share, as Envoy has one a worker.
    #[arg(long, default_value_t = 2)]
    pub connections: usize,
    /// Requests a second of the open loop.
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// The picker's binary; built from this workspace when not given.
    #[arg(long, value_name = "FILE")]
    pub picker: Option<PathBuf>,
}

impl Plan {
    /// Rounds of each server.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 3 }).max(1)
    }

    /// How long one round measures.
    pub fn window(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 0.5 } else { 1.5 });
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1))
    }

    /// How long a server runs before its round is measured.
    pub fn warm_up(&self) -> Duration {
        self.window() / 4
    }

    /// How long a picker is watched while nothing is asked of it.
    pub fn idle_window(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 10 })
    }

    /// Whether something of this name (words between slashes) is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        let has = |word: &str| name.split('/').any(|part| part.eq_ignore_ascii_case(word));
        self.only.is_empty() || self.only.iter().any(|words| words.split('/').all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_asks_for_all_words_of_one_filter() {
        let plan = |only: &[&str]| Cli::parse_from(["bench"].iter().chain(only)).plan;
        assert!(plan(&[]).wants("1KB/10/plain"));
        let some = plan(&["--only", "400kb/tls", "--only", "idle"]);
        let wanted = ["400KB/10/tls", "400KB/200/tls", "400KB/200/plain", "1KB/10/tls", "idle/10"];
        assert_eq!(wanted.map(|name| some.wants(name)), [true, true, false, false, true]);
    }
}
