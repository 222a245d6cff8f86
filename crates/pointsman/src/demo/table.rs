//! The figures side by side.

use super::outcome::{Outcome, Summary};
use super::strategy::Strategy;

/// One measure: what it is called, how it is written, and how the picker's compares with round robin's.
pub(super) struct Row {
    pub(super) measure: &'static str,
    /// One a strategy.
    pub(super) cells: Vec<String>,
    /// Empty where there is nothing to compare.
    pub(super) ratio: String,
}

/// The heads of the columns after the measure's.
pub(super) fn heads(outcome: &Outcome) -> Vec<&'static str> {
    let strategies = outcome.strategies.iter().map(|summary| summary.strategy.label());
    strategies.chain(["picker / round robin"]).collect()
}

/// All measures.
pub(super) fn rows(outcome: &Outcome) -> Vec<Row> {
    let ratios = &outcome.picker_versus_round_robin;
    let row = |measure, ratio: Option<f64>, cell: fn(&Summary) -> String| Row {
        measure,
        cells: outcome.strategies.iter().map(cell).collect(),
        ratio: ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
    };
    vec![
        row("TTFT p50 (ms)", ratios.ttft_p50, |summary| milliseconds(summary.ttft_ms.p50)),
        row("TTFT p99 (ms)", ratios.ttft_p99, |summary| milliseconds(summary.ttft_ms.p99)),
        row("  its 2nd half", ratios.warm_ttft_p99, |summary| milliseconds(summary.warm_ttft_ms.p99)),
        row("TPOT p50 (ms)", ratios.tpot_p50, |summary| milliseconds(summary.tpot_ms.p50)),
        row("requests/s", ratios.requests_per_second, |summary| format!("{:.1}", summary.requests_per_second)),
        row("prefix hit ratio", ratios.prefix_hit_ratio, |summary| {
            format!("{:.0} %", summary.prefix_hit_ratio * 100.0)
        }),
        row("load CV", ratios.load_cv, |summary| format!("{:.2}", summary.load_cv)),
        row("failures", None, |summary| summary.failures.to_string()),
    ]
}

/// The table as text, one line a measure.
pub(super) fn render(outcome: &Outcome) -> String {
    let heads = heads(outcome);
    let rows = rows(outcome);
    let lines = rows.iter().map(|row| {
        let cells = row.cells.iter().map(String::as_str).chain([row.ratio.as_str()]);
        (row.measure, cells.collect::<Vec<_>>())
    });
    let lines: Vec<_> = [("", heads.clone())].into_iter().chain(lines).collect();
    let first = lines.iter().map(|(measure, _)| measure.len()).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|(_, cells)| cells.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (measure, cells) in &lines {
        let mut line = format!("{measure:first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("   {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What was too much for the machine, if anything was.
pub(super) fn warnings(outcome: &Outcome) -> Vec<String> {
    let too_busy = |summary: &Summary| {
        let cpu = summary.cpu.as_ref().filter(|cpu| cpu.is_too_busy())?;
        let (label, busy, cores) = (summary.strategy.label(), cpu.busy_percent, cpu.cores);
        Some(format!(
            "the machine's {cores} cores were {busy:.0} % busy during {label}: its latencies are the machine's too"
        ))
    };
    let mut warnings: Vec<String> = outcome.strategies.iter().filter_map(too_busy).collect();
    if let Some(picker) = outcome.strategies.iter().find(|summary| summary.strategy == Strategy::Picker)
        && picker.failures > 0
    {
        warnings.push(format!("{} requests through the picker failed: {:?}", picker.failures, picker.errors));
    }
    warnings
}

/// Milliseconds with as many digits as matter.
pub(super) fn milliseconds(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn strategies_stand_side_by_side_with_the_ratio_last() {
        let expected = "                   round robin   least request   picker   picker / round robin
TTFT p50 (ms)             60.0            45.0     30.0                  0.50x
TTFT p99 (ms)            8,000           6,000    2,000                  0.25x
  its 2nd half           8,000           6,000    2,000                  0.25x
TPOT p50 (ms)             20.0            20.0     20.0                  1.00x
requests/s                 0.5             0.5      0.5                  1.00x
prefix hit ratio          25 %            50 %     75 %                  3.00x
load CV                   1.00            0.50     0.00                  0.00x
failures                     0               1        0
";
        assert_eq!(render(&fixture::outcome()), expected);
    }

    #[test]
    fn figures_of_a_busy_machine_are_warned_of() {
        let mut outcome = fixture::outcome();
        assert_eq!(warnings(&outcome), Vec::<String>::new());
        outcome.strategies[1].cpu.as_mut().unwrap().busy_percent = 97.4;
        let expected = "the machine's 2 cores were 97 % busy during least request: its latencies are the machine's too";
        assert_eq!(warnings(&outcome), [expected]);
    }

    #[test]
    fn thousands_are_grouped() {
        for (value, expected) in
            [(0.04, "0.0"), (99.94, "99.9"), (123.4, "123"), (1_234.5, "1,234"), (1e6, "1,000,000")]
        {
            assert_eq!(milliseconds(value), expected);
        }
    }
}
