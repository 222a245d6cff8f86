//! What `/proc` says of processes, and of the machine.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks a second, in which `/proc` counts time; the usual number where `getconf` is missing.
static TICKS_PER_SECOND: LazyLock<f64> = LazyLock::new(|| {
    let told = Command::new("getconf").arg("CLK_TCK").output().ok().filter(|output| output.status.success());
    let told = told.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    told.unwrap_or(100.0)
});

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    name: &'static str,
    id: u32,
}

impl Process {
    /// The process `id`, called `name` where it cannot be watched.
    pub fn new(name: &'static str, id: u32) -> Self {
        Self { name, id }
    }

    /// Time on a core since it started, its own and the kernel's for it.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(&self.read("stat")?)
    }

    /// The same, of its first thread alone.
    pub fn first_thread_cpu(&self) -> Result<Duration> {
        cpu_of(&self.read(&format!("task/{}/stat", self.id))?)
    }

    /// Memory that it has resident, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kilobytes.with_context(|| format!("{} has no memory", self.name))? << 10)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.id);
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}: did {} end?", self.name))
    }
}

/// Time that cores were busy since boot, with whatever: of the whole machine for `cpu`, of one core for `cpu0` and so on.
pub fn busy(cpu: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("{cpu} ")))?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let busy = fields.iter().take(8).sum::<f64>() - fields.get(3..5)?.iter().sum::<f64>();
    Some(Duration::from_secs_f64(busy / *TICKS_PER_SECOND))
}

fn cpu_of(stat: &str) -> Result<Duration> {
    let ticks = cpu_ticks(stat).with_context(|| format!("reading {stat:?}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / *TICKS_PER_SECOND))
}

/// `utime` and `stime` of a `stat`, whose second field may hold anything, in parentheses.
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

    #[test]
    fn this_process_and_this_machine_show_something() {
        let this = Process::new("this", std::process::id());
        assert!(this.resident().unwrap() > 0);
        assert!(this.first_thread_cpu().unwrap() <= this.cpu().unwrap());
        assert!(busy("cpu").unwrap() >= busy("cpu0").unwrap());
    }
}
