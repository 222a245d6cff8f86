//! `pointsman explain`: why a request went where it went, as the picker that decided remembers it.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use pointsman_core::explanation::Explanation;
use serde_json::{Map, Value};

use super::Terminal;
use super::admin_client::percent_encoded;
use super::args::{ExplainArgs, Output};
use super::cluster::{PoolFilter, reach};
use super::pages::{DecisionPage, FatePage};
use super::table::{Align, Table, count, or_dash, printable, time};

/// Two totals this close are the same: they are sums of 32-bit numbers.
const SAME: f64 = 1e-6;
/// So many scorers are named as the reason why an endpoint lost.
const LOST_BY_MAX: usize = 3;

/// A decision as it came.
type Raw = Map<String, Value>;

/// Runs `pointsman explain`.
pub(super) async fn run(args: ExplainArgs, terminal: &mut Terminal<'_>) -> Result<()> {
    let (mut replicas, cluster) = reach(&args.cluster, &args.pickers, args.pool.as_deref()).await?;
    let namespace = args.cluster.namespace.clone().or(cluster.map(|cluster| cluster.namespace));
    let pool = args.pool.as_deref().map(|pool| PoolFilter::new(pool, namespace.as_deref()));
    let id = percent_encoded(&args.request_id);
    let page = format!("/debug/decisions?limit={}&request_id={id}", Explanation::KEPT);
    let mut unheard = Vec::new();
    let heard: Vec<(String, Vec<Raw>)> = replicas.heard(&page, &mut unheard).await?;
    for error in &unheard {
        terminal.note(error)?;
    }
    let asked = heard.len();
    let mut decisions = Vec::new();
    for (replica, raw) in
        heard.into_iter().flat_map(|(replica, all)| all.into_iter().map(move |raw| (replica.clone(), raw)))
    {
        let read = serde_json::from_value(Value::Object(raw.clone()));
        let decision: DecisionPage = read.context("the decision is not as expected: is it a picker's?")?;
        if pool.as_ref().is_none_or(|pool| pool.means(&decision.pool)) {
            decisions.push((replica, decision, raw));
        }
    }
    if decisions.is_empty() {
        bail!(not_found(&args.request_id, asked, unheard.len()));
    }
    decisions.sort_by(|(_, a, _), (_, b, _)| a.ago_ms.total_cmp(&b.ago_ms));
    if args.output == Output::Json {
        let raw = decisions.into_iter().map(|(replica, _, mut raw)| {
            raw.insert("picker".to_owned(), replica.into());
            raw
        });
        return terminal.write(&format!("{}\n", Value::from_iter(raw)));
    }
    let texts: Vec<String> = decisions.iter().map(|(replica, decision, _)| text(replica, decision)).collect();
    terminal.write(&texts.join("\n"))
}

/// What to say of a request that nobody remembers.
fn not_found(id: &str, asked: usize, failed: usize) -> String {
    let mut text = format!(
        "no decision on the request {:?} is known to {}: each keeps the last {} decisions of each pool, so it may be \
         forgotten; or the gateway gave it another id (its response header x-request-id), or did not ask the picker \
         (`pointsman check --gateway-url URL` tells)",
        printable(id),
        count(asked, "picker"),
        Explanation::KEPT,
    );
    if failed > 0 {
        let _ = write!(text, "; {} did not answer", count(failed, "picker"));
    }
    text
}

/// A decision for people.
fn text(replica: &str, decision: &DecisionPage) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "request {} in pool {}, decided {} ago by {}",
        printable(&decision.request_id),
        printable(&decision.pool),
        time(decision.ago_ms),
        printable(replica),
    );
    let _ = writeln!(text, "  {}", facts(decision).join(", "));
    let _ = writeln!(text, "  {}", outcome(decision));
    for remark in remarks(decision) {
        let _ = writeln!(text, "  {remark}");
    }
    if !decision.endpoints.is_empty() {
        let _ = write!(text, "\n{}", table(decision));
    }
    if decision.endpoints_left_out > 0 {
        let _ = writeln!(text, "and {} more, left out", decision.endpoints_left_out);
    }
    text
}

/// What the request said.
fn facts(decision: &DecisionPage) -> Vec<String> {
    let mut facts = Vec::new();
    match (&decision.model, &decision.target_model) {
        (Some(model), Some(target)) => {
            let rule = decision.model_rule.as_deref().map(|rule| format!(" by the rule {}", printable(rule)));
            facts.push(format!(
                "model {}, served as {}{}",
                printable(model),
                printable(target),
                rule.unwrap_or_default()
            ));
        }
        (Some(model), None) => facts.push(format!("model {}", printable(model))),
        (None, _) => facts.push("no model named".to_owned()),
    }
    facts.push(format!(
        "prompt of about {}",
        count(usize::try_from(decision.prompt_tokens).unwrap_or(usize::MAX), "token")
    ));
    if let Some(objective) = &decision.objective {
        facts.push(format!("objective {}", printable(objective)));
    }
    if decision.priority != 0 || decision.objective.is_some() {
        facts.push(format!("priority {}", decision.priority));
    }
    if decision.queued_ms > 0.0 {
        facts.push(format!("queued for {}", time(decision.queued_ms)));
    }
    facts
}

/// Where it went.
fn outcome(decision: &DecisionPage) -> String {
    if let Some(reason) = &decision.refused {
        return format!("refused: {}", printable(reason));
    }
    let mut chosen: Vec<(u32, &FatePage)> =
        decision.endpoints.iter().filter_map(|endpoint| Some((place(&endpoint.fate)?, endpoint))).collect();
    chosen.sort_by_key(|(place, _)| *place);
    let names: Vec<String> = chosen.iter().map(|(_, endpoint)| printable(&endpoint.name)).collect();
    match names.split_first() {
        None => "went nowhere".to_owned(),
        Some((picked, [])) => format!("went to {picked}"),
        Some((picked, rest)) => format!("went to {picked}, else to {}", rest.join(", ")),
    }
}

/// Its place among the chosen; `None` for an endpoint that was not chosen.
fn place(fate: &str) -> Option<u32> {
    match fate {
        "picked" => Some(0),
        _ => fate.strip_prefix("fallback-")?.parse().ok(),
    }
}

/// What the totals do not say by themselves.
fn remarks(decision: &DecisionPage) -> Vec<String> {
    let Some((picked, score)) = picked(decision) else { return Vec::new() };
    let scored = || decision.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.score?)));
    let mut remarks = Vec::new();
    let above = scored().filter(|(_, other)| *other > score + SAME).count();
    let equals: Vec<String> = scored()
        .filter(|(endpoint, other)| !std::ptr::eq(*endpoint, picked) && (other - score).abs() <= SAME)
        .map(|(endpoint, _)| printable(&endpoint.name))
        .collect();
    if above > 0 {
        remarks.push(format!("{} scored higher: the pool's picker takes turns or draws", count(above, "endpoint")));
    } else if !equals.is_empty() {
        remarks.push(format!("a tie with {}: one of them was drawn", equals.join(", ")));
    }
    remarks
}

fn picked(decision: &DecisionPage) -> Option<(&FatePage, f64)> {
    decision
        .endpoints
        .iter()
        .find(|endpoint| endpoint.fate == "picked")
        .and_then(|picked| Some((picked, picked.score?)))
}

fn table(decision: &DecisionPage) -> Table {
    let scorers: Vec<&str> = decision
        .endpoints
        .iter()
        .map(|endpoint| &endpoint.scores)
        .max_by_key(|scores| scores.len())
        .into_iter()
        .flatten()
        .map(|score| score.scorer.as_str())
        .collect();
    let weight = |scorer: &str| {
        let all = decision.endpoints.iter().flat_map(|endpoint| &endpoint.scores);
        all.filter(|score| score.scorer == scorer).find_map(|score| score.weight).unwrap_or(1.0)
    };
    let scorer_heads = scorers
        .iter()
        .map(|scorer| (format!("{} ×{}", scorer.trim_end_matches("-scorer"), weight(scorer)), Align::Right));
    let rest = ["IN FLIGHT", "QUEUE", "MATCHED", "TELEMETRY"].map(|head| (head.to_owned(), Align::Right));
    let heads = [("ENDPOINT".to_owned(), Align::Left), ("TOTAL".to_owned(), Align::Right)];
    let why = [("FATE".to_owned(), Align::Left)];
    let mut table = Table::new(heads.into_iter().chain(scorer_heads).chain(rest).chain(why));
    for endpoint in &decision.endpoints {
        let number = |value: Option<f64>| or_dash(value, |value| format!("{value:.0}"));
        let mut row = vec![
            if endpoint.name.is_empty() { endpoint.address.clone() } else { endpoint.name.clone() },
            or_dash(endpoint.score, |score| format!("{score:.3}")),
        ];
        row.extend(scorers.iter().map(|scorer| {
            let score = endpoint.scores.iter().find(|score| score.scorer == *scorer);
            or_dash(score.and_then(|score| score.raw), |raw| format!("{raw:.3}"))
        }));
        row.extend([
            number(endpoint.in_flight),
            number(endpoint.waiting),
            number(endpoint.matched_tokens),
            match (endpoint.telemetry_age_ms, endpoint.telemetry_fresh) {
                (None, _) => "never".to_owned(),
                (Some(age), true) => time(age),
                (Some(age), false) => format!("{}, stale", time(age)),
            },
            fate(decision, endpoint),
        ]);
        table.row(row);
    }
    table
}

/// What became of an endpoint, and why.
fn fate(decision: &DecisionPage, endpoint: &FatePage) -> String {
    match endpoint.fate.as_str() {
        "picked" => "picked".to_owned(),
        "filtered-out" => format!("kept out by {}", endpoint.filter.as_deref().unwrap_or("a filter")),
        "cordoned" => "cordoned: takes no new requests".to_owned(),
        "outside-subset" => "outside of the gateway's subset".to_owned(),
        other => {
            let name = place(other).map_or_else(|| "not chosen".to_owned(), |place| format!("fallback {place}"));
            let lost = lost_by(decision, endpoint);
            if lost.is_empty() { name } else { format!("{name}: {}", lost.join(", ")) }
        }
    }
}

/// By which scorers an endpoint lost to the picked one, the worst first, in weighted points.
fn lost_by(decision: &DecisionPage, endpoint: &FatePage) -> Vec<String> {
    let Some((picked, _)) = picked(decision) else { return Vec::new() };
    let points = |of: &FatePage, scorer: &str| {
        of.scores.iter().find(|score| score.scorer == scorer).and_then(|score| score.weighted).unwrap_or(0.0)
    };
    let mut lost: Vec<(f64, &str)> = picked
        .scores
        .iter()
        .map(|score| (points(picked, &score.scorer) - points(endpoint, &score.scorer), score.scorer.as_str()))
        .filter(|(points, _)| *points > SAME)
        .collect();
    lost.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    lost.iter()
        .take(LOST_BY_MAX)
        .map(|(points, scorer)| format!("{} −{points:.2}", scorer.trim_end_matches("-scorer")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(name: &str, fate: &str, raw: &[f64]) -> Value {
        let weights = [2.0, 3.0];
        let scorers = ["queue-scorer", "prefix-cache-scorer"];
        let scores = raw.iter().zip(weights).zip(scorers).map(
            |((raw, weight), scorer)| json!({"scorer": scorer, "raw": raw, "weight": weight, "weighted": raw * weight}),
        );
        let total: f64 = raw.iter().zip(weights).map(|(raw, weight)| raw * weight).sum();
        json!({
            "name": name, "address": "10.0.0.1:8000", "fate": fate, "filter": null,
            "score": (!raw.is_empty()).then_some(total), "scores": scores.collect::<Vec<_>>(),
            "telemetryAgeMs": 35.0, "telemetryFresh": true, "inFlight": 2.0, "waiting": 1.0, "matchedTokens": 0.0,
        })
    }

    fn decision(endpoints: Value) -> DecisionPage {
        let page = json!({
            "pool": "prod/chat", "requestId": "r-7", "sequence": 9, "model": "chat", "targetModel": null,
            "promptTokens": 412, "agoMs": 3200.0, "queuedMs": 0.0, "priority": 0, "refused": null,
            "endpoints": endpoints, "endpointsLeftOut": 0,
        });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn a_decision_says_who_won_and_why_each_of_the_others_lost() {
        let mut filtered = endpoint("gpu-d", "filtered-out", &[]);
        filtered["filter"] = "label-selector-filter".into();
        let mut stale = endpoint("gpu-b", "fallback-1", &[0.5, 0.25]);
        stale["telemetryFresh"] = false.into();
        stale["telemetryAgeMs"] = 12_000.0.into();
        let mut decision = decision(json!([
            endpoint("gpu-a", "picked", &[0.5, 0.75]),
            stale,
            endpoint("gpu-c", "candidate", &[0.0, 0.0]),
            filtered,
            endpoint("gpu-e", "cordoned", &[]),
            endpoint("gpu-f", "outside-subset", &[]),
        ]));
        decision.target_model = Some("chat-v2".into());
        decision.model_rule = Some("split".into());
        decision.objective = Some("gold".into());
        decision.priority = 10;
        decision.endpoints_left_out = 4;
        let expected = "\
request r-7 in pool prod/chat, decided 3.2 s ago by picker-0
  model chat, served as chat-v2 by the rule split, prompt of about 412 tokens, objective gold, priority 10
  went to gpu-a, else to gpu-b

ENDPOINT  TOTAL  queue ×2  prefix-cache ×3  IN FLIGHT  QUEUE  MATCHED    TELEMETRY  FATE
gpu-a     3.250     0.500            0.750          2      1        0      35.0 ms  picked
gpu-b     1.750     0.500            0.250          2      1        0  12 s, stale  fallback 1: prefix-cache −1.50
gpu-c     0.000     0.000            0.000          2      1        0      35.0 ms  not chosen: prefix-cache −2.25, queue −1.00
gpu-d         -         -                -          2      1        0      35.0 ms  kept out by label-selector-filter
gpu-e         -         -                -          2      1        0      35.0 ms  cordoned: takes no new requests
gpu-f         -         -                -          2      1        0      35.0 ms  outside of the gateway's subset
and 4 more, left out
";
        assert_eq!(text("picker-0", &decision), expected);
    }

    #[test]
    fn ties_and_draws_are_told() {
        let tie =
            decision(json!([endpoint("gpu-a", "picked", &[1.0, 0.0]), endpoint("gpu-b", "candidate", &[1.0, 0.0])]));
        assert_eq!(remarks(&tie), ["a tie with gpu-b: one of them was drawn"]);
        let drawn =
            decision(json!([endpoint("gpu-a", "picked", &[0.0, 0.0]), endpoint("gpu-b", "candidate", &[1.0, 0.0])]));
        assert_eq!(remarks(&drawn), ["1 endpoint scored higher: the pool's picker takes turns or draws"]);
    }

    #[test]
    fn a_refusal_and_a_request_without_a_model_are_told_and_nothing_steers_the_terminal() {
        let mut refused = decision(json!([endpoint("gpu-e", "cordoned", &[])]));
        (refused.refused, refused.model) = (Some("no-ready-endpoint".into()), None);
        refused.request_id = "\u{1b}]0;owned\u{7}".into();
        let text = text("picker-0", &refused);
        assert!(text.contains("no model named") && text.contains("refused: no-ready-endpoint"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }

    #[test]
    fn what_is_forgotten_is_said_to_be_so() {
        let text = not_found("r-1", 2, 1);
        assert!(
            text.contains("2 pickers") && text.contains("last 256 decisions") && text.contains("1 picker did not"),
            "{text}"
        );
    }
}
