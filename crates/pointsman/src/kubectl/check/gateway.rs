//! Whether the gateway asks the picker: the one thing that nothing else of an installation shows.

use super::probe::{Gateway, Probed};
use super::report::{Finding, Report};
use super::traffic;
use crate::kubectl::admin_client::Replicas;
use crate::kubectl::args::CheckArgs;
use crate::kubectl::cluster::PoolObject;

/// What to do about a gateway that does not ask.
pub(super) const BYPASS: &str = "is the route's backendRef the InferencePool, and not a Service of its pods? Does the gateway \
    implement InferencePools (in some it has to be switched on; an Envoy of your own needs `pointsman envoy-bootstrap`)? \
    With failureMode FailOpen a picker that cannot be reached is passed over too: see its Service above. Pickers that \
    were not asked here are named by --admin-url";

/// Sends a request where a gateway is named, else watches what comes by itself.
pub(super) async fn check(
    args: &CheckArgs,
    pools: &[PoolObject],
    replicas: Option<&mut Replicas>,
    report: &mut Report,
) {
    let Some(replicas) = replicas else {
        report.warn("whether it asks the picker cannot be told without one", "see the pickers above");
        return;
    };
    let names: Vec<String> = pools.iter().map(|pool| pool.key.to_string()).collect();
    if names.is_empty() {
        return;
    }
    let gateway = match Gateway::of(args) {
        Ok(gateway) => gateway,
        Err(error) => return report.fail(format!("{error:#}"), "correct --gateway-ca"),
    };
    match gateway {
        None => {
            let watched = report.known(traffic::watch(replicas, &names).await);
            watched.into_iter().for_each(|traffic| report.add(traffic.judge()));
        }
        Some(gateway) => {
            let probed = report.known(gateway.probe(args.model.as_deref(), &names, replicas).await);
            probed.iter().flat_map(|probed| judge(probed, &names)).for_each(|finding| report.add(finding));
        }
    }
}

/// What a request through the gateway tells.
fn judge(probed: &Probed, pools: &[String]) -> Vec<Finding> {
    let answer = match &probed.answer {
        Ok((status, Some(reason))) => format!("{status} {reason}"),
        Ok((status, None)) => status.to_string(),
        Err(error) => error.clone(),
    };
    let is_good = matches!(probed.answer, Ok((200..=299, _)));
    let mut findings = Vec::new();
    let Some(decision) = &probed.decision else {
        findings.push(match &probed.answer {
            Ok((_, Some(reason))) => Finding::fail(
                format!("the gateway asks a picker, which refuses: {answer}"),
                refusal(reason),
            ),
            Ok(_) if is_good && probed.decisions > 0 && probed.are_nameless => Finding::warn(
                format!("the answer was {answer}, and none of {} decisions meanwhile is recognisably its own", probed.decisions),
                "does the gateway replace x-request-id? Have it kept (Envoy: preserve_external_request_id), or try again \
                 when less is going on",
            ),
            Ok(_) if is_good => Finding::fail(
                format!("the answer was {answer}, and no picker decided on it: requests bypass the picker silently"),
                BYPASS,
            ),
            Ok(_) => Finding::fail(
                format!("the answer was {answer}, and no picker was asked"),
                "does the URL, with --gateway-header \"Host: ...\", match a route? A 5xx is a gateway that cannot reach the \
                 picker, and fails closed",
            ),
            Err(_) => Finding::fail(format!("the gateway cannot be asked: {answer}"), "correct --gateway-url"),
        });
        return findings;
    };
    let went = match (&decision.refused, decision.endpoints.iter().find(|endpoint| endpoint.fate == "picked")) {
        (None, Some(picked)) => format!("the request went to {} of pool {}", picked.name, decision.pool),
        _ => format!("the request was for pool {}", decision.pool),
    };
    match &decision.refused {
        Some(reason) => findings
            .push(Finding::fail(format!("the gateway asks the picker, which refuses: {reason}"), refusal(reason))),
        None => findings.push(Finding::ok(format!("the gateway asks the picker: {went}"))),
    }
    if !pools.contains(&decision.pool) {
        findings.push(Finding::warn(
            format!("that is none of the pools looked at: {}", pools.join(", ")),
            "give the URL, Host and model of a route to the pool that is meant",
        ));
    }
    if !probed.by_id {
        findings.push(Finding::warn(
            "the gateway puts an x-request-id of its own in the client's place",
            "`explain` needs the gateway's id, then; Envoy keeps the client's with preserve_external_request_id",
        ));
    }
    // A model made up to be recognised by is refused by every server.
    if !is_good && decision.refused.is_none() && probed.by_id {
        findings.push(Finding::warn(
            format!("the answer was: {answer}"),
            "the server says so, not the picker: give --model, or look at the server's log",
        ));
    }
    findings
}

fn refusal(reason: &str) -> String {
    let mend = match reason {
        "pool-unknown" => "the gateway's wiring names no pool that this picker serves: see its --pool-name",
        "no-ready-endpoint" | "filtered-out" | "subset-empty" => {
            "see the pool's members above, and `kubectl pointsman explain`"
        }
        "model-missing" | "bad-json" => "give --model",
        _ => "see the picker's log",
    };
    mend.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::report::Mark;
    use super::*;
    use crate::kubectl::pages::{DecisionPage, FatePage};

    fn decision(refused: Option<&str>) -> Option<DecisionPage> {
        let picked = FatePage { name: "gpu-a".into(), fate: "picked".into(), ..FatePage::default() };
        let endpoints = if refused.is_none() { vec![picked] } else { Vec::new() };
        let refused = refused.map(str::to_owned);
        Some(DecisionPage { pool: "prod/chat".into(), refused, endpoints, ..DecisionPage::default() })
    }

    fn probed(answer: Result<(u16, Option<&str>), &str>, decision: Option<DecisionPage>) -> Probed {
        let answer = answer.map(|(status, reason)| (status, reason.map(str::to_owned))).map_err(str::to_owned);
        Probed { answer, decision, by_id: true, decisions: 0, are_nameless: false }
    }

    #[test]
    fn a_good_answer_without_a_decision_is_a_bypass() {
        let busy =
            |nameless| Probed { by_id: false, decisions: 9, are_nameless: nameless, ..probed(Ok((200, None)), None) };
        let renamed = Probed { by_id: false, decisions: 1, ..probed(Ok((200, None)), decision(None)) };
        let table: [(Probed, &[(Mark, &str)]); 10] = [
            (probed(Ok((200, None)), decision(None)), &[(Mark::Ok, "the request went to gpu-a of pool prod/chat")]),
            (probed(Ok((200, None)), None), &[(Mark::Fail, "bypass the picker silently")]),
            (busy(false), &[(Mark::Fail, "bypass the picker silently")]),
            (busy(true), &[(Mark::Warn, "none of 9 decisions")]),
            (renamed, &[(Mark::Ok, "asks the picker"), (Mark::Warn, "x-request-id of its own")]),
            (
                probed(Ok((404, None)), decision(None)),
                &[(Mark::Ok, "asks the picker"), (Mark::Warn, "the answer was: 404")],
            ),
            (probed(Ok((404, None)), None), &[(Mark::Fail, "no picker was asked")]),
            (probed(Ok((500, Some("pool-unknown"))), None), &[(Mark::Fail, "refuses: 500 pool-unknown")]),
            (
                probed(Ok((503, Some("no-ready-endpoint"))), decision(Some("no-ready-endpoint"))),
                &[(Mark::Fail, "no-ready-endpoint")],
            ),
            (probed(Err("connecting to gw:80: refused"), None), &[(Mark::Fail, "cannot be asked: connecting")]),
        ];
        for (probed, expected) in table {
            let findings = judge(&probed, &["prod/chat".to_owned()]);
            assert_eq!(findings.len(), expected.len(), "{findings:?}");
            for (finding, (mark, text)) in findings.iter().zip(expected) {
                assert!(finding.mark == *mark && finding.text.contains(text), "{finding:?}");
                assert_eq!(finding.mend.is_some(), *mark != Mark::Ok, "{finding:?}");
            }
        }
        let other = judge(&probed(Ok((200, None)), decision(None)), &["prod/other".to_owned()]);
        assert!(other[1].text.contains("none of the pools looked at: prod/other"), "{other:?}");
    }
}
