//! Every request of a demo as a line of CSV, for whoever wants to look closer.

use std::fmt::Write as _;

use pointsman_sim::Sample;

use super::strategy::Strategy;
use super::trial::Trial;

/// Times are in milliseconds, the start from that of the load; what is absent is empty.
const HEAD: &str =
    "strategy,start,conversation,turn,server,ttft,tpot,latency,prompt_tokens,cached_tokens,output_tokens,error\n";

/// All requests, in order of start within their strategy.
pub(super) fn csv(trials: &[Trial]) -> String {
    let mut text = HEAD.to_owned();
    for trial in trials {
        for sample in &trial.report.samples {
            add(&mut text, trial.strategy, sample);
        }
    }
    text
}

fn add(text: &mut String, strategy: Strategy, sample: &Sample) {
    let time = |micros: Option<u64>| micros.map_or_else(String::new, |micros| format!("{:.1}", micros as f64 / 1e3));
    let (conversation, turn) = (sample.conversation, sample.turn);
    let server = sample.server.as_deref().unwrap_or_default();
    let (start, latency) = (time(Some(sample.start_us)), time(Some(sample.latency_us)));
    let (ttft, tpot) = (time(sample.ttft_us), time(sample.tpot_us));
    let (prompt, cached, output) = (sample.prompt_tokens, sample.cached_tokens, sample.output_tokens);
    let error = sample.error.map_or_else(String::new, |error| format!("{error:?}"));
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "{},{start},{conversation},{turn},{server},{ttft},{tpot},{latency},{prompt},{cached},{output},{error}",
        strategy.label()
    );
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn every_request_is_a_line_with_all_its_columns() {
        let text = csv(&fixture::trials());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 2 + 3 + 2);
        assert!(lines.iter().all(|line| line.split(',').count() == HEAD.split(',').count()), "{text}");
        assert_eq!(lines[2], "round robin,2000.0,0,1,sim-1,8000.0,20.0,8020.0,1000,250,2,");
        assert!(lines[4].ends_with(",Cancelled"), "{}", lines[4]);
    }
}
