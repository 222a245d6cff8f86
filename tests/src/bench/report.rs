//! What was measured, for people and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::load::Round;

/// The most that the picker's CPU a request may be, in the no-op server's.
pub const GOAL: f64 = 2.0;
/// The share of the server's core that others may take before the report says so.
const DISTURBED: f64 = 0.05;

/// All figures of one run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the machine falls short of.
    pub notes: Vec<String>,
    /// Pickers that were asked nothing.
    pub idle: Vec<IdleRow>,
    /// Pickers under load, each beside the no-op server.
    pub cells: Vec<Cell>,
}

/// One picker that was asked nothing.
#[derive(Clone, Debug)]
pub struct IdleRow {
    /// Endpoints that it watches.
    pub endpoints: usize,
    /// How often, in words.
    pub pace: &'static str,
    /// Bytes of one endpoint's metrics.
    pub page_bytes: usize,
    /// Scrapes that were answered.
    pub scrapes_per_second: f64,
    /// The share of a core that it takes.
    pub cores: f64,
    /// Resident memory in MiB.
    pub resident: f64,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Prompt, endpoints, transport, arrivals.
    pub name: String,
    /// The picker's rounds.
    pub picker: Vec<Round>,
    /// The no-op server's, in the same order.
    pub noop: Vec<Round>,
    /// What the picker takes anyway, in cores.
    pub idle_cores: f64,
}

impl Cell {
    /// What one more request costs the picker, in microseconds: without what it costs anyway.
    fn marginal(&self, round: &Round) -> f64 {
        (round.cpu - self.idle_cores * 1e6 / round.rate).max(0.0)
    }

    /// The median over rounds of picker to no-op, by marginal cost.
    pub fn ratio(&self) -> f64 {
        median(self.picker.iter().zip(&self.noop).map(|(picker, noop)| self.marginal(picker) / noop.cpu))
    }

    /// The same, by all that the picker does.
    fn whole_ratio(&self) -> f64 {
        median(self.picker.iter().zip(&self.noop).map(|(picker, noop)| picker.cpu / noop.cpu))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn of(rounds: &[Round], value: fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(value))
}

impl Report {
    /// The tables.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_cells(&mut text);
        let _ = self.write_idle(&mut text);
        for note in self.notes.iter().cloned().chain(self.disturbance()) {
            let _ = writeln!(text, "\nNote: {note}.");
        }
        text
    }

    fn write_cells(&self, text: &mut String) -> std::fmt::Result {
        let Some(first) = self.cells.first() else { return Ok(()) };
        writeln!(
            text,
            "Server CPU a request, in µs, medians of {} rounds by turns. \"no-op/picker\":",
            first.noop.len()
        )?;
        writeln!(
            text,
            "figures of both. marginal: without what the picker takes while idle. ratio: marginal to no-op.\n"
        )?;
        writeln!(
            text,
            "{:<19} {:>8} {:>8} {:>8} {:>6}  {:>13} {:>8} {:>15} {:>15} {:>8}",
            "", "no-op", "picker", "marginal", "ratio", "requests/s", "% core", "p50 ms", "p99 ms", "RSS MiB"
        )?;
        for cell in &self.cells {
            let both = |value: fn(&Round) -> f64, digits: usize| {
                format!("{:.digits$}/{:.digits$}", of(&cell.noop, value), of(&cell.picker, value))
            };
            writeln!(
                text,
                "{:<19} {:>8.1} {:>8.1} {:>8.1} {:>6.2}{} {:>13} {:>8} {:>15} {:>15} {:>8}",
                cell.name,
                of(&cell.noop, |round| round.cpu),
                of(&cell.picker, |round| round.cpu),
                median(cell.picker.iter().map(|round| cell.marginal(round))),
                cell.ratio(),
                if cell.ratio() > GOAL { "!" } else { " " },
                both(|round| round.rate, 0),
                both(|round| round.cores * 1e2, 0),
                both(|round| round.p50 / 1e3, 2),
                both(|round| round.p99 / 1e3, 2),
                both(|round| round.resident, 0),
            )?;
        }
        let over = self.cells.iter().filter(|cell| cell.ratio() > GOAL).count();
        writeln!(text, "\n{over} of {} over {GOAL} times the no-op server.", self.cells.len())
    }

    fn write_idle(&self, text: &mut String) -> std::fmt::Result {
        if self.idle.is_empty() {
            return Ok(());
        }
        writeln!(text, "\nA picker that is asked nothing:\n")?;
        writeln!(
            text,
            "{:>9}  {:<12} {:>8} {:>10} {:>12} {:>10} {:>8}",
            "endpoints", "scrapes", "page KB", "scrapes/s", "% of a core", "µs/scrape", "RSS MiB"
        )?;
        for row in &self.idle {
            writeln!(
                text,
                "{:>9}  {:<12} {:>8.1} {:>10.0} {:>12.2} {:>10.1} {:>8.0}",
                row.endpoints,
                row.pace,
                row.page_bytes as f64 / 1e3,
                row.scrapes_per_second,
                row.cores * 1e2,
                row.cores * 1e6 / row.scrapes_per_second,
                row.resident,
            )?;
        }
        Ok(())
    }

    /// Whether others worked on the server's core.
    fn disturbance(&self) -> Option<String> {
        let rounds = self.cells.iter().flat_map(|cell| cell.picker.iter().chain(&cell.noop));
        let shares: Vec<f64> = rounds.filter_map(|round| round.disturbed).collect();
        let (middle, most) = (median(shares.iter().copied()), shares.iter().copied().fold(0.0, f64::max));
        (most > DISTURBED).then(|| {
            format!(
                "others took {:.0} % of the server's core in the median round, {:.0} % in the worst: trust ratios alone",
                middle * 1e2,
                most * 1e2
            )
        })
    }

    /// All figures.
    pub fn json(&self) -> Value {
        let rounds = |rounds: &[Round]| -> Vec<Value> {
            let round = |round: &Round| {
                json!({
                    "requestsPerSecond": round.rate, "cpuMicros": round.cpu, "cores": round.cores,
                    "decisionP50Micros": round.p50, "decisionP99Micros": round.p99, "residentMiB": round.resident,
                    "coreShareOfOthers": round.disturbed,
                })
            };
            rounds.iter().map(round).collect()
        };
        let cell = |cell: &Cell| {
            json!({
                "name": cell.name, "ratio": cell.ratio(), "ratioWithIdle": cell.whole_ratio(),
                "marginalMicros": median(cell.picker.iter().map(|round| cell.marginal(round))),
                "idleCores": cell.idle_cores, "picker": rounds(&cell.picker), "noop": rounds(&cell.noop),
            })
        };
        let idle = |row: &IdleRow| {
            json!({
                "endpoints": row.endpoints, "pace": row.pace, "pageBytes": row.page_bytes,
                "scrapesPerSecond": row.scrapes_per_second, "cores": row.cores, "residentMiB": row.resident,
            })
        };
        json!({
            "goal": GOAL, "notes": self.notes,
            "cells": self.cells.iter().map(cell).collect::<Vec<_>>(),
            "idle": self.idle.iter().map(idle).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(cpu: f64, rate: f64) -> Round {
        Round { rate, cpu, cores: cpu * rate / 1e6, p50: 100.0, p99: 900.0, resident: 20.0, disturbed: Some(0.0) }
    }

    #[test]
    fn the_ratio_leaves_out_what_the_picker_costs_anyway() {
        let noop = vec![round(80.0, 10_000.0), round(100.0, 10_000.0), round(90.0, 10_000.0)];
        let picker = vec![round(260.0, 5_000.0), round(300.0, 5_000.0), round(200.0, 5_000.0)];
        let cell = Cell { name: "1KB/10/plain".into(), picker, noop, idle_cores: 0.1 };
        // 0.1 of a core is 20 µs a request at 5,000 a second.
        assert_eq!(cell.ratio(), 2.8);
        assert_eq!(cell.whole_ratio(), 3.0);
        let table = Report { cells: vec![cell], ..Report::default() }.table();
        assert!(table.contains("2.80!") && table.contains("1 of 1 over 2 times"), "{table}");
    }
}
