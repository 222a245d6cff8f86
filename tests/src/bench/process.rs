//! A server as a process of its own: started on its core, watched through `/proc`, ended with its owner.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::proc::{Process, busy};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The core of the server that is measured.
const SERVER_CORE: &str = "0";
/// The core of client and metrics pages.
const CLIENT_CORE: &str = "1";

/// What this machine lets us measure with.
#[derive(Clone, Debug)]
pub struct Machine {
    pinned: bool,
    /// What falls short here, for the report.
    pub notes: Vec<String>,
}

impl Machine {
    /// Looks around, and moves this process out of the server's way.
    pub fn prepare() -> Self {
        let mut notes = Vec::new();
        let works = |core| output(Command::new("taskset").args(["-c", core, "true"])).is_some();
        let pinned = works(SERVER_CORE) && works(CLIENT_CORE);
        if pinned {
            // Threads that are started from here on stay there too.
            output(Command::new("taskset").args(["-a", "-c", "-p", CLIENT_CORE, &std::process::id().to_string()]));
        } else {
            notes.push("no taskset, or fewer than two cores: client and server disturb each other".to_owned());
        }
        Self { pinned, notes }
    }

    /// Starts a server and waits until it says where it listens.
    pub fn start(&self, name: &'static str, program: &str, args: &[String]) -> Result<ServerProcess> {
        let mut command = match self.pinned {
            true => Command::new("taskset"),
            false => Command::new(program),
        };
        if self.pinned {
            command.args(["-c", SERVER_CORE, program]);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let log = child.stderr.take();
        let process = Process::new(name, child.id());
        let mut server = ServerProcess { name, child, process, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (told, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(log?).lines().map_while(Result::ok) {
                let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = entry["ext_proc"].as_str().and_then(|address| address.parse().ok()) {
                    // Nobody listens any more once the server is up.
                    let _ = told.send(address);
                } else if entry["level"] != "INFO" {
                    eprintln!("{name}: {line}");
                }
            }
            Some(())
        });
        server.address = match address.recv_timeout(START_TIMEOUT) {
            Ok(address) => address,
            Err(_) => bail!("{name} did not listen within {} s", START_TIMEOUT.as_secs()),
        };
        Ok(server)
    }

    /// Time that the server's core was busy since boot, with whatever; `None` where nothing is pinned.
    pub fn core_busy(&self) -> Option<Duration> {
        self.pinned.then(|| busy(&format!("cpu{SERVER_CORE}")))?
    }
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// A running server. It is killed when this is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    /// What it is called in the report.
    pub name: &'static str,
    /// Where its ext_proc listens.
    pub address: SocketAddr,
    child: Child,
    process: Process,
}

impl ServerProcess {
    /// Time on a core since it started, its own and the kernel's for it.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// Memory that it has resident, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.process.resident()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Either fails only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
