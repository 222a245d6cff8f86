//! The commands that look into a cluster: `top`, `explain`, `check`, `cordon`, `uncordon`.
//!
//! Under the name `kubectl-pointsman` the same binary is a plugin of kubectl, and `kubectl pointsman top` works. What a
//! picker knows is read from its admin listener, what the cluster knows from the API server; every wait has a limit.

mod admin_client;
pub mod args;
mod check;
mod cluster;
mod cordon;
mod explain;
mod http_client;
mod pages;
mod table;
mod top;

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory, FromArgMatches, Subcommand};

use crate::args::Cli;
use args::KubectlCommand;
use table::printable;

/// The binary's name as a plugin of kubectl.
const PLUGIN: &str = "kubectl-pointsman";

/// Where a command writes.
pub(crate) struct Terminal<'a> {
    /// What was asked for.
    pub(crate) out: &'a mut dyn Write,
    /// What is to be known beside it.
    pub(crate) notes: &'a mut dyn Write,
    /// Whether `out` can be redrawn.
    pub(crate) is_terminal: bool,
}

impl Terminal<'_> {
    /// Writes text as it is: whoever made it took care of what would steer a terminal.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Writes a line.
    pub(crate) fn write_line(&mut self, text: &str) -> Result<()> {
        self.write(&format!("{}\n", printable(text)))
    }

    /// Writes a line beside the result.
    pub(crate) fn note(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.notes, "{}", printable(text))?)
    }
}

/// The command line, in the name that the program was called by: as a plugin of kubectl it is `kubectl pointsman`, and
/// help shows what a plugin is for.
pub(crate) fn parse_command_line() -> Cli {
    let name = std::env::args_os().next();
    let matches = command_line(name.as_deref()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn command_line(name: Option<&OsStr>) -> Command {
    let command = Cli::command();
    if name.and_then(|name| Path::new(name).file_name()) != Some(OsStr::new(PLUGIN)) {
        return command;
    }
    let ours = KubectlCommand::augment_subcommands(Command::new(PLUGIN));
    let ours: Vec<String> = ours.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let others: Vec<String> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .filter(|name| !ours.contains(name))
        .collect();
    let plugin = command.name(PLUGIN).bin_name("kubectl pointsman");
    others.iter().fold(plugin, |plugin, other| plugin.mut_subcommand(other, |command| command.hide(true)))
}

/// Runs a command; its exit code is the process's.
pub(crate) fn run(command: KubectlCommand) -> ExitCode {
    let (mut out, mut notes) = (io::stdout(), io::stderr());
    let is_terminal = out.is_terminal();
    let mut terminal = Terminal { out: &mut out, notes: &mut notes, is_terminal };
    match run_in(command, &mut terminal) {
        Ok(is_good) => ExitCode::from(u8::from(!is_good)),
        // Whoever reads has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs a command; whether all is well.
fn run_in(command: KubectlCommand, terminal: &mut Terminal<'_>) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let ended = runtime.block_on(async {
        match command {
            KubectlCommand::Top(args) => top::run(args, terminal).await.map(|()| true),
            KubectlCommand::Explain(args) => explain::run(args, terminal).await.map(|()| true),
            KubectlCommand::Check(args) => check::run(*args, terminal).await,
            KubectlCommand::Cordon(args) => cordon::cordon(args, terminal).await.map(|()| true),
            KubectlCommand::Uncordon(args) => cordon::uncordon(args, terminal).await.map(|()| true),
        }
    });
    // A name that is being looked up cannot be interrupted.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use clap::ArgMatches;

    use super::*;

    fn help(name: &str) -> String {
        command_line(Some(OsStr::new(name))).render_help().to_string()
    }

    fn parse(name: &str, arguments: &[&str]) -> clap::error::Result<ArgMatches> {
        command_line(Some(OsStr::new(name))).try_get_matches_from([name].iter().chain(arguments))
    }

    #[test]
    fn as_a_plugin_it_is_called_as_kubectl_calls_it_and_shows_what_a_plugin_is_for() {
        let own = help("/usr/bin/pointsman");
        assert!(own.contains("Usage: pointsman <COMMAND>") && own.contains("serve") && own.contains("cordon"), "{own}");
        let plugin = help("/opt/bin/kubectl-pointsman");
        assert!(plugin.contains("Usage: kubectl pointsman <COMMAND>") && plugin.contains("cordon"), "{plugin}");
        assert!(!plugin.contains("serve") && !plugin.contains("sim-server"), "{plugin}");
        // Hidden is not gone: one binary in an image is enough.
        parse(PLUGIN, &["validate", "pools.yaml"]).unwrap();
    }

    #[test]
    fn flags_are_kubectls() {
        let reach = ["-n", "prod", "--context", "c", "--kubeconfig", "f", "--request-timeout", "3s"];
        for command in [
            vec!["top", "--pool", "chat", "--watch", "-o", "json"],
            vec!["explain", "r-7", "--admin-url", "http://a:9091", "--admin-url", "http://b:9091"],
            vec!["check", "--gateway-url", "http://gw", "--model", "m", "--gateway-header", "Host: a"],
            vec!["cordon", "pod/gpu-a", "--reason", "wrong answers"],
            vec!["uncordon", "gpu-a"],
        ] {
            let arguments: Vec<&str> = command.iter().chain(&reach).copied().collect();
            parse(PLUGIN, &arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        }
        for wrong in [vec!["explain"], vec!["check", "--model", "m"], vec!["top", "--admin-url", "b:9091"]] {
            assert!(parse(PLUGIN, &wrong).is_err(), "{wrong:?}");
        }
    }
}
