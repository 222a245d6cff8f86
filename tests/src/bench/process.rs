//! A server as a process of its own: started on its core, watched through `/proc`, ended with its owner.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The core of the server that is measured.
const SERVER_CORE: &str = "0";
/// The core of client and metrics pages.
const CLIENT_CORE: &str = "1";

/// What this machine lets us measure with.
#[derive(Clone, Debug)]
pub struct Machine {
    ticks_per_second: f64,
    pinned: bool,
    /// What falls short here, for the report.
    pub notes: Vec<String>,
}

impl Machine {
    /// Looks around, and moves this process out of the server's way.
    pub fn prepare() -> Self {
        let mut notes = Vec::new();
        let ticks = output(Command::new("getconf").arg("CLK_TCK")).and_then(|text| text.trim().parse().ok());
        if ticks.is_none() {
            notes.push("getconf is missing: 100 clock ticks a second are assumed".to_owned());
        }
        let works = |core| output(Command::new("taskset").args(["-c", core, "true"])).is_some();
        let pinned = works(SERVER_CORE) && works(CLIENT_CORE);
        if pinned {
            // Threads that are started from here on stay there too.
            output(Command::new("taskset").args(["-a", "-c", "-p", CLIENT_CORE, &std::process::id().to_string()]));
        } else {
            notes.push("no taskset, or fewer than two cores: client and server disturb each other".to_owned());
        }
        Self { ticks_per_second: ticks.unwrap_or(100.0), pinned, notes }
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
        let mut server = ServerProcess {
            name,
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ticks_per_second: self.ticks_per_second,
        };
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
        let stat = std::fs::read_to_string("/proc/stat").ok().filter(|_| self.pinned)?;
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{SERVER_CORE} ")))?;
        let fields: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guests are in user already.
        let busy = fields.iter().take(8).sum::<f64>() - fields.get(3..5)?.iter().sum::<f64>();
        Some(Duration::from_secs_f64(busy / self.ticks_per_second))
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
    ticks_per_second: f64,
}

impl ServerProcess {
    /// Time on a core since it started, its own and the kernel's for it.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("reading {stat:?}"))?;
        Ok(Duration::from_secs_f64(ticks as f64 / self.ticks_per_second))
    }

    /// Memory that it has resident, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kilobytes.with_context(|| format!("{} has no memory", self.name))? << 10)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}: did {} end?", self.name))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Either fails only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `utime` and `stime` of a `/proc/PID/stat`, whose second field may hold anything, in parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_found_behind_any_name() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 17 3 4 20 0 1 0 12345 1000 10";
        assert_eq!(cpu_ticks(stat), Some(267));
        assert_eq!(cpu_ticks("42 (x) S 1 2"), None);
    }
}
