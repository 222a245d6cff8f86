//! What was measured, for people.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::ChurnPlan;
use super::meter::Taken;

/// The most of a core that the picker may take under churn (issue 5's Show).
const CORES_AIM: f64 = 0.3;
/// The most that its p99 may be of the one without churn (issue 5's Show).
const P99_AIM: f64 = 1.2;

/// What one while showed.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What went on.
    pub name: &'static str,
    /// Pods' changes that were made.
    pub changes: u64,
    /// Who took how much.
    pub taken: Taken,
    /// Nanoseconds until requests were decided.
    pub picks: Histogram<u64>,
}

/// What a churn showed. The picker knew of all pods afterwards, or there would be none of this.
#[derive(Clone, Debug)]
pub struct Churned {
    /// What was to be done.
    pub plan: ChurnPlan,
    /// A pod's size as JSON.
    pub pod_bytes: usize,
    /// The picker while nothing changed and nobody asked; absent without comparison.
    pub idle: Option<Taken>,
    /// Under requests.
    pub phases: Vec<Phase>,
    /// The picker's resident memory: before the first pool, with all pods, and at the end.
    pub resident: [u64; 3],
    /// Members of all pools at the end, as the picker knew them and a list said.
    pub members: usize,
}

impl Phase {
    fn millis(&self, quantile: f64) -> f64 {
        self.picks.value_at_quantile(quantile) as f64 / 1e6
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.taken.seconds
    }
}

impl Churned {
    /// The phase of that name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// The p99 under churn, by the one of all the time in which pods elsewhere changed; `None` without comparison.
    pub fn p99_ratio(&self) -> Option<f64> {
        let mut elsewhere = self.phase("changes elsewhere")?.picks.clone();
        elsewhere.add(&self.phase("elsewhere again")?.picks).ok()?;
        Some(self.phase("churn")?.millis(0.99) * 1e6 / elsewhere.value_at_quantile(0.99) as f64)
    }

    /// The table.
    pub fn report(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let ChurnPlan { pools, pods, rate, .. } = self.plan;
        let kilobytes = self.pod_bytes as f64 / 1e3;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(
            text,
            "{pods} pods of {kilobytes:.1} kB in {pools} pools, {rate} changes a second asked; {cores} cores\n"
        )?;
        write!(text, "{:<26}", "")?;
        self.phases.iter().try_for_each(|phase| write!(text, "{:>19}", phase.name))?;
        writeln!(text)?;
        let mut row = |name: &str, digits: usize, value: &dyn Fn(&Phase) -> f64| {
            write!(text, "{name:<26}")?;
            self.phases.iter().try_for_each(|phase| write!(text, "{:>19.digits$}", value(phase)))?;
            writeln!(text)
        };
        row("seconds", 0, &|phase| phase.taken.seconds)?;
        row("changes a second", 1, &|phase| phase.per_second(phase.changes))?;
        row("decisions a second", 0, &|phase| phase.per_second(phase.picks.len()))?;
        row("decided in, p50 ms", 2, &|phase| phase.millis(0.5))?;
        row("decided in, p99 ms", 2, &|phase| phase.millis(0.99))?;
        row("decided in, p99.9 ms", 2, &|phase| phase.millis(0.999))?;
        row("cores: the picker", 3, &|phase| phase.taken.picker)?;
        row("  of it, not ext_proc", 3, &|phase| phase.taken.watching)?;
        row("  API server and etcd", 3, &|phase| phase.taken.control_plane)?;
        row("  this program", 3, &|phase| phase.taken.this)?;
        row("  all of the machine", 3, &|phase| phase.taken.machine.unwrap_or(f64::NAN))?;
        if let Some(idle) = &self.idle {
            writeln!(text, "\nThe picker while nothing changes and nobody asks: {:.3} cores.", idle.picker)?;
        }
        let [start, loaded, end] = self.resident.map(|bytes| bytes as f64 / f64::from(1 << 20));
        writeln!(
            text,
            "Its memory: {start:.0} MiB without pools, {loaded:.0} MiB with all pods, {end:.0} MiB at the end."
        )?;
        if let Some(churn) = self.phase("churn") {
            let missed = |is: bool| if is { ": MISSED" } else { "" };
            let cores = churn.taken.picker;
            writeln!(text, "The picker under churn: {cores:.3} cores, aim {CORES_AIM}{}.", missed(cores > CORES_AIM))?;
            if let Some(ratio) = self.p99_ratio() {
                let missed = missed(ratio > P99_AIM);
                writeln!(text, "p99 under churn, by that of changes elsewhere: {ratio:.2}, aim {P99_AIM}{missed}.")?;
            }
        }
        writeln!(text, "Afterwards the picker knew exactly the {} members that a fresh list says.", self.members)
    }
}
