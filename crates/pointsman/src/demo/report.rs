//! The demo's page: one HTML file without anything from elsewhere.

mod plot;

use pointsman_sim::Sample;

use self::plot::{Axis, Plot, escape};
use super::outcome::{Outcome, Scenario};
use super::strategy::Strategy;
use super::table;
use super::trial::Trial;

/// Sizes of plots, in pixels of their own.
const WIDE: (f64, f64) = (760.0, 300.0);
const SMALL: (f64, f64) = (380.0, 240.0);

const STYLE: &str = "
:root { --ground: #ffffff; --ink: #1c2430; --faint: #5f6b7a; --rule: #dde2e8; --panel: #f6f8fa;
  --round-robin: #8b95a1; --least-request: #d97f1e; --picker: #2368d8; --fast: #1d8a5b; --middle: #7a58c2; --slow: #c43d3d; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --ink: #e6eaf0; --faint: #9aa6b4; --rule: #2c343f;
  --panel: #1a2028; --round-robin: #98a3b0; --least-request: #f0a04b; --picker: #6ca4ff; --fast: #4fc590;
  --middle: #ac92ec; --slow: #f07f7f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 20px 64px; max-width: 860px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 36px 0 4px; }
p { margin: 4px 0 12px; color: var(--faint); } p.warning { color: var(--slow); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.ratio, td.picker { font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 12px; }
figure { margin: 0; padding: 10px; background: var(--panel); border-radius: 8px; }
figcaption { font-size: 13px; font-weight: 600; padding: 0 4px 4px; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; } .tick, .label { fill: var(--faint); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.dots { fill: currentColor; fill-opacity: 0.5; } .bar { fill: currentColor; }
.round-robin { color: var(--round-robin); } .least-request { color: var(--least-request); } .picker { color: var(--picker); }
.speed-fast { color: var(--fast); } .speed-middle { color: var(--middle); } .speed-slow { color: var(--slow); }
.key { font-size: 13px; color: var(--faint); margin: 0 0 8px; }
.key span { margin-right: 16px; } .key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 6px; background: currentColor; }
";

/// The whole page.
pub(super) fn render(outcome: &Outcome, trials: &[Trial]) -> String {
    let strategies =
        key(&trials.iter().map(|trial| (class(trial.strategy), trial.strategy.label())).collect::<Vec<_>>());
    let speeds = key(&[("speed-fast", "speed 1"), ("speed-middle", "speed 0.8"), ("speed-slow", "speed 0.5")]);
    let warnings = table::warnings(outcome).into_iter();
    let warnings: String = warnings.map(|text| format!("<p class=\"warning\">{}</p>\n", escape(&text))).collect();
    let held = trials.iter().map(|trial| {
        let label = trial.strategy.label();
        format!("<figure><figcaption>{label}</figcaption>\n{}</figure>\n", held_plot(trial, trials, &outcome.scenario))
    });
    let held: String = held.collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>Pointsman demo</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Pointsman demo</h1>\n{}{warnings}{}\
         <h2>Time to first token: how many requests were that fast</h2>\n\
         <p>Share of requests by their time to first token, on a logarithmic scale. Further left is better.</p>\n\
         {strategies}<figure>{}</figure>\n\
         <h2>Time to first token over the run</h2>\n<p>A dot a request, at the time at which it was sent.</p>\n\
         {strategies}<figure>{}</figure>\n\
         <h2>Requests in each server</h2>\n<p>Running and waiting, every quarter of a second; a line a server.</p>\n\
         {speeds}<div class=\"plots\">\n{held}</div>\n\
         <h2>Requests that each server answered</h2>\n\
         <p>Even shares are not the aim: a server of half the speed answers half as much in the same time.</p>\n\
         {strategies}<figure>{}</figure>\n</body>\n</html>\n",
        described(&outcome.scenario),
        figures(outcome),
        cdf_plot(trials),
        time_plot(trials, &outcome.scenario),
        shares_plot(outcome),
    )
}

fn described(scenario: &Scenario) -> String {
    let speeds: Vec<String> = scenario.servers.iter().map(|server| server.engine.speed.to_string()).collect();
    let cache = scenario.servers.first().map_or(0, |server| server.engine.kv_tokens);
    format!(
        "<p>{} simulated model servers of speed {}, each with a KV cache of {cache} tokens. Multi-turn conversations with \
         shared system prompts, seed {}, {:.1} requests/s once they overlap, for {} s: {:.0} % of what round robin bears. Every strategy gets \
         the same conversations through the same Envoy and starts cold.</p>\n",
        scenario.servers.len(),
        speeds.join(", "),
        scenario.seed,
        scenario.requests_per_second,
        scenario.seconds,
        scenario.requests_per_second / scenario.round_robin_saturation * 100.0,
    )
}

fn figures(outcome: &Outcome) -> String {
    let heads: String = table::heads(outcome).iter().map(|head| format!("<th>{head}</th>")).collect();
    let mut text = format!("<div class=\"scroll\"><table>\n<tr><th></th>{heads}</tr>\n");
    for row in table::rows(outcome) {
        let cells = row.cells.iter().zip(&outcome.strategies);
        let cells: String = cells
            .map(|(cell, summary)| match summary.strategy {
                Strategy::Picker => format!("<td class=\"picker\">{}</td>", escape(cell)),
                _ => format!("<td>{}</td>", escape(cell)),
            })
            .collect();
        let (measure, ratio) = (row.measure, row.ratio);
        text.push_str(&format!("<tr><td>{measure}</td>{cells}<td class=\"ratio\">{ratio}</td></tr>\n"));
    }
    text + "</table></div>\n"
}

fn class(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::RoundRobin => "round-robin",
        Strategy::LeastRequest => "least-request",
        Strategy::Picker => "picker",
    }
}

fn speed_class(speed: f64) -> &'static str {
    match speed {
        fast if fast > 0.9 => "speed-fast",
        slow if slow < 0.65 => "speed-slow",
        _ => "speed-middle",
    }
}

fn key(entries: &[(&str, &str)]) -> String {
    let entry = |(class, label): &(&str, &str)| format!("<span><i class=\"{class}\"></i>{label}</span>");
    format!("<div class=\"key\">{}</div>\n", entries.iter().map(entry).collect::<String>())
}

/// Send time in seconds and TTFT in milliseconds of the requests that went well.
fn ttfts(trial: &Trial) -> impl Iterator<Item = (f64, f64)> {
    let good = trial.report.samples.iter().filter(|sample| sample.error.is_none());
    good.filter_map(|sample: &Sample| Some((sample.start_us as f64 / 1e6, sample.ttft_us? as f64 / 1e3)))
}

/// A logarithmic axis over all TTFTs.
fn ttft_axis(trials: &[Trial]) -> Axis {
    let all = || trials.iter().flat_map(ttfts).map(|(_, ttft)| ttft);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    Axis::log("TTFT (ms)", low, high)
}

fn cdf_plot(trials: &[Trial]) -> String {
    let share = Axis::linear("share of requests (%)", 100.0);
    let mut plot = Plot::new("Distribution of time to first token", WIDE, ttft_axis(trials), share);
    for trial in trials {
        let mut values: Vec<f64> = ttfts(trial).map(|(_, ttft)| ttft).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let points = values.iter().enumerate().map(|(place, ttft)| (*ttft, (place + 1) as f64 / count * 100.0));
        plot.line(class(trial.strategy), trial.strategy.label(), points);
    }
    plot.finish()
}

fn time_plot(trials: &[Trial], scenario: &Scenario) -> String {
    let time = Axis::linear("seconds", scenario.seconds as f64);
    let mut plot = Plot::new("Time to first token over the run", WIDE, time, ttft_axis(trials));
    for trial in trials {
        plot.dots(class(trial.strategy), ttfts(trial));
    }
    plot.finish()
}

/// What each server held over time, on a scale that all strategies share.
fn held_plot(trial: &Trial, trials: &[Trial], scenario: &Scenario) -> String {
    let most = trials.iter().flat_map(|trial| &trial.loads).flat_map(|load| load.held().max()).max().unwrap_or(1);
    let time = Axis::linear("seconds", scenario.seconds as f64);
    let title = format!("Requests in each server with {}", trial.strategy.label());
    let mut plot = Plot::new(&title, SMALL, time, Axis::linear("requests", most as f64));
    for (place, server) in scenario.servers.iter().enumerate() {
        let points = trial.loads.iter().filter_map(|load| Some((load.at, load.held().nth(place)? as f64)));
        plot.line(speed_class(server.engine.speed), &server.name, points);
    }
    plot.finish()
}

fn shares_plot(outcome: &Outcome) -> String {
    let names = outcome.scenario.servers.iter();
    let names: Vec<String> = names.map(|server| format!("{} ({})", server.name, server.engine.speed)).collect();
    let most = outcome.strategies.iter().flat_map(|summary| &summary.servers).map(|server| server.requests).max();
    let requests = Axis::linear("requests", most.unwrap_or(1) as f64);
    let mut plot =
        Plot::new("Requests that each server answered", WIDE, Axis::names("server (speed)", &names), requests);
    let width = 0.8 / outcome.strategies.len().max(1) as f64;
    for (turn, summary) in outcome.strategies.iter().enumerate() {
        for (place, server) in summary.servers.iter().enumerate() {
            let from = place as f64 + 0.1 + turn as f64 * width;
            let (name, requests, hits) = (&server.name, server.requests, server.prefix_hit_ratio * 100.0);
            let title = format!("{name}, {}: {requests} requests, prefix hits {hits:.0} %", summary.strategy.label());
            plot.bar(class(summary.strategy), &title, (from, from + width), requests as f64);
        }
    }
    plot.finish()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// Walks over all elements: every one that begins ends in its turn, attributes are quoted, text is escaped.
    fn check_well_formed(page: &str) -> usize {
        const VOID: [&str; 1] = ["!doctype"];
        let (mut open, mut seen, mut rest): (Vec<&str>, usize, &str) = (Vec::new(), 0, page);
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>') || open.last() == Some(&"style"), "a bare > in {:?}", &rest[..start]);
            let end = start + rest[start..].find('>').unwrap();
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            seen += 1;
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "at {tag}");
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} never end");
        for text in page.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|entity| text.starts_with(entity)), "&{text:.20}");
        }
        seen
    }

    #[test]
    fn the_page_is_well_formed_and_holds_every_figure() {
        let page = render(&fixture::outcome(), &fixture::trials());
        assert!(check_well_formed(&page) > 300);
        assert_eq!(page.matches("<svg ").count(), 6);
        for figure in ["8,000", "2,000", "0.25x", "75 %", "sim-5 (0.5)"] {
            assert!(page.contains(figure), "{figure} is missing");
        }
        assert!(!page.contains("NaN") && !page.contains("inf,"), "a figure is no number");
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        let page = render(&fixture::outcome(), &fixture::trials());
        let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for way in ["http://", "https://", "<script", "<link", "url(", "@import", "src="] {
            assert!(!page.contains(way), "{way}");
        }
    }

    #[test]
    fn a_run_without_a_single_answer_is_a_page_too() {
        let mut trials = fixture::trials();
        for trial in &mut trials {
            trial.report.samples.clear();
            trial.loads.clear();
        }
        let page = render(&fixture::outcome(), &trials);
        check_well_formed(&page);
        assert!(!page.contains("NaN"));
    }
}
