//! Metrics of this process under the names that every exporter gives them, read from `/proc` when they are asked for.
//! Where there is no `/proc`, they are left out.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// In what Linux counts a process's time towards programs (`USER_HZ`), on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// A registry with the metrics of this process, which starts now.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessCollector::new()));
    registry
}

/// Which version this program is, as a metric's labels.
pub(crate) fn version() -> Info<[(&'static str, &'static str); 1]> {
    Info::new([("version", env!("CARGO_PKG_VERSION"))])
}

/// Tells what this process uses.
#[derive(Debug)]
struct ProcessCollector {
    /// Seconds from the epoch to the start.
    start: f64,
}

/// What is read at once.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: Option<usize>,
}

impl ProcessCollector {
    /// A collector of a process that starts now.
    fn new() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { start }
    }
}

impl Usage {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let open_files = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self::of(&stat, &status, open_files)
    }

    fn of(stat: &str, status: &str, open_files: Option<usize>) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
        let resident_bytes = resident.trim().parse::<f64>().ok()? * 1024.0;
        Some(Self { cpu_seconds: ticks / TICKS_PER_SECOND, resident_bytes, open_files })
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_start_time_seconds", "When the process started, in seconds since the epoch", self.start)?;
        let Some(usage) = Usage::read() else { return Ok(()) };
        gauge("process_resident_memory_bytes", "Memory that the process holds", usage.resident_bytes)?;
        if let Some(open_files) = usage.open_files {
            gauge("process_open_fds", "Files and connections that the process has open", open_files as f64)?;
        }
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let help = "Time of processors that the process used, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1";
        let usage = Usage::of(stat, "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon: 1 kB\n", Some(3));
        assert_eq!(usage, Some(Usage { cpu_seconds: 1.0, resident_bytes: 2_097_152.0, open_files: Some(3) }));
        assert_eq!(Usage::of("nonsense", "", None), None);
        assert!(Usage::read().is_some_and(|usage| usage.resident_bytes > 0.0));
    }
}
