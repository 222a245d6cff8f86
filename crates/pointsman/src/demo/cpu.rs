//! How busy the machine was: all of the demo shares it, so a full one would be measured instead of the servers.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// Above this share of all cores, what is measured is the machine too.
const BUSY_PERCENT: f64 = 85.0;

/// CPU time so far, in ticks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CpuTimes {
    cores: u64,
    total: u64,
    idle: u64,
    processes: BTreeMap<&'static str, u64>,
}

/// CPU time between two looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CpuUse {
    /// The machine's cores.
    pub(super) cores: u64,
    /// How busy they were, with everything that ran on them.
    pub(super) busy_percent: f64,
    /// Cores that each process kept busy.
    pub(super) processes: BTreeMap<&'static str, f64>,
}

impl CpuTimes {
    /// As of now; absent where there is no `/proc`.
    pub(super) fn read(children: &[(&'static str, u32)]) -> Option<Self> {
        let mut times = Self::of_stat(&fs::read_to_string("/proc/stat").ok()?)?;
        for (name, id) in [("demo", std::process::id())].iter().chain(children) {
            let ticks = fs::read_to_string(format!("/proc/{id}/stat")).ok().and_then(|stat| process_ticks(&stat));
            times.processes.insert(name, ticks.unwrap_or(0));
        }
        Some(times)
    }

    fn of_stat(stat: &str) -> Option<Self> {
        let mut words = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        // User, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's already.
        let ticks: Vec<u64> = words.by_ref().take(8).map_while(|word| word.parse().ok()).collect();
        let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
        let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
        Some(Self { cores: cores as u64, total: ticks.iter().sum(), idle, processes: BTreeMap::new() })
    }

    /// What was used since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> CpuUse {
        let total = self.total.saturating_sub(earlier.total).max(1) as f64;
        let idle = self.idle.saturating_sub(earlier.idle) as f64;
        let used = |(&name, &ticks): (&&'static str, &u64)| {
            let ticks = ticks.saturating_sub(earlier.processes.get(name).copied().unwrap_or(0));
            (name, ticks as f64 / total * self.cores as f64)
        };
        CpuUse {
            cores: self.cores,
            busy_percent: (100.0 * (1.0 - idle / total)).clamp(0.0, 100.0),
            processes: self.processes.iter().map(used).collect(),
        }
    }
}

impl CpuUse {
    /// Whether figures taken meanwhile say more about the machine than about the servers.
    pub(super) fn is_too_busy(&self) -> bool {
        self.busy_percent > BUSY_PERCENT
    }
}

/// User and system time out of `/proc/ID/stat`, whose second field may hold anything between its parentheses.
fn process_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let mut first = CpuTimes::of_stat("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2\ncpu1 1 2\nintr 5\n").unwrap();
        first.processes.insert("envoy", 10);
        let mut second = CpuTimes::of_stat("cpu  180 0 70 880 70 0 0 0 7 7\ncpu0 1 2\ncpu1 1 2\nintr 5\n").unwrap();
        second.processes.insert("envoy", 60);
        let used = second.since(&first);
        assert_eq!((used.cores, used.busy_percent), (2, 50.0));
        assert_eq!(used.processes["envoy"], 0.5);
        assert!(!used.is_too_busy() && CpuUse { busy_percent: 86.0, ..used }.is_too_busy());
    }

    #[test]
    fn a_process_name_with_blanks_and_parentheses_does_not_confuse() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1";
        assert_eq!(process_ticks(stat), Some(100));
        assert_eq!(process_ticks("nonsense"), None);
    }
}
