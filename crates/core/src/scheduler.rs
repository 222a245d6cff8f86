//! Filter, score, pick, count: the only place that knows the order.

use std::sync::Arc;

use crate::decision::{Choice, Stage};
use crate::endpoint::{Endpoint, EndpointId};
use crate::explanation::{ExplainedEndpoint, Explanation, Fate};
use crate::facts::{Facts, Model, RequestHeaders, Subset};
use crate::models::{self, Route};
use crate::pickers::{Candidates, PickerMemory};
use crate::prefix::PrefixIndex;
use crate::reason::Reason;
use crate::signals::{SignalColumns, Signals};
use crate::snapshot::PoolSnapshot;
use crate::time::Tick;

/// One request as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it says.
    pub facts: &'a Facts,
    /// To which addresses the gateway restricts it.
    pub subset: &'a Subset,
    /// What rules for models may ask of its headers; `None` has none that they could match.
    pub headers: Option<&'a dyn RequestHeaders>,
}

/// What was chosen: the stage, and the pick's matched tokens.
#[derive(Debug)]
pub(crate) struct Choosing {
    pub(crate) stage: Stage,
    pub(crate) matched_tokens: u32,
    /// The facts of the request as it is served; `None` where they are those it came with.
    pub(crate) facts: Option<Facts>,
    /// The model that the request is to name; `None` where it is the asked one.
    pub(crate) model: Option<Model>,
}

/// The scheduler's memory, reused from request to request.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rows: Vec<u32>,
    ids: Vec<EndpointId>,
    /// One run of candidates a scorer.
    raw: Vec<f32>,
    totals: Vec<f32>,
    chosen: Vec<u32>,
    columns: SignalColumns,
}

/// Chooses among the snapshot's endpoints and writes why into `why`. Counts nothing: the pool does.
pub(crate) fn choose(
    snapshot: &PoolSnapshot,
    request: Request<'_>,
    index: &PrefixIndex,
    memory: &mut PickerMemory,
    scratch: &mut Scratch,
    why: &mut Explanation,
    now: Tick,
) -> Result<Choosing, Reason> {
    let Scratch { rows, ids, raw, totals, chosen, columns } = scratch;
    let profile = &snapshot.policy.profile;
    let route = models::route(&snapshot.policy, request, &mut memory.random);
    describe(why, snapshot, request.facts, &route, now);
    let facts = route.facts.as_ref().unwrap_or(request.facts);
    candidates(snapshot, facts, request.subset, &route, rows, why)?;

    let signals = columns.compute(facts, snapshot, rows, index, now);
    score(&signals, raw, totals);

    ids.clear();
    ids.extend(rows.iter().map(|row| snapshot.members.ids[*row as usize]));
    chosen.clear();
    profile.picker.pick(&Candidates { scores: totals, ids }, 1 + snapshot.policy.fallbacks, memory, chosen);
    explain_candidates(&signals, raw, totals, chosen, why, now);

    let pick = *chosen.first().ok_or(Reason::Internal)?;
    let choices = chosen.iter().map(|at| {
        let row = rows[*at as usize] as usize;
        let (endpoint, cell) = (&snapshot.members.endpoints[row], &snapshot.members.cells[row]);
        Choice { endpoint: endpoint.clone(), cell: cell.clone() }
    });
    Ok(Choosing {
        stage: Stage { choices: choices.collect() },
        matched_tokens: signals.matched_tokens[pick as usize] as u32,
        model: route.target().cloned(),
        facts: route.facts,
    })
}

/// Writes the rows of the endpoints that may serve the request: within the subset, among those that have the target
/// model, admitted by every filter.
fn candidates(
    snapshot: &PoolSnapshot,
    facts: &Facts,
    subset: &Subset,
    route: &Route<'_>,
    rows: &mut Vec<u32>,
    why: &mut Explanation,
) -> Result<(), Reason> {
    let members = &*snapshot.members;
    rows.clear();
    if members.is_empty() {
        return Err(Reason::NoReadyEndpoint);
    }
    match subset {
        None => rows.extend((0u32..).take(members.len())),
        Some(addresses) => {
            rows.extend(addresses.iter().filter_map(|address| members.row_at(*address)));
            rows.sort_unstable();
            rows.dedup();
            for row in (0u32..).take(members.len()).filter(|row| rows.binary_search(row).is_err()) {
                leave_out(snapshot, row, Fate::OutsideSubset, why);
            }
        }
    }
    if rows.is_empty() {
        return Err(Reason::SubsetEmpty);
    }
    rows.retain(|row| {
        let is_cordoned = members.endpoints[*row as usize].is_cordoned;
        if is_cordoned {
            leave_out(snapshot, *row, Fate::Cordoned, why);
        }
        !is_cordoned
    });
    if rows.is_empty() {
        return Err(Reason::NoReadyEndpoint);
    }
    if let Some((rule, selector)) = route.selector() {
        keep(snapshot, rows, why, rule, |endpoint| selector.matches(&endpoint.labels));
    }
    for filter in &snapshot.policy.profile.filters {
        keep(snapshot, rows, why, &filter.name, |endpoint| filter.filter.admits(facts, endpoint));
    }
    if rows.is_empty() { Err(Reason::FilteredOut) } else { Ok(()) }
}

/// Keeps the rows of the endpoints that are admitted; the others go to the explanation, with the name of what says so.
fn keep(
    snapshot: &PoolSnapshot,
    rows: &mut Vec<u32>,
    why: &mut Explanation,
    name: &Arc<str>,
    admits: impl Fn(&Endpoint) -> bool,
) {
    rows.retain(|row| {
        let admits = admits(&snapshot.members.endpoints[*row as usize]);
        if !admits {
            leave_out(snapshot, *row, Fate::FilteredOut(name.clone()), why);
        }
        admits
    });
}

/// Writes every scorer's raw scores, a run a scorer, and the weighted sums.
fn score(signals: &Signals<'_>, raw: &mut Vec<f32>, totals: &mut Vec<f32>) {
    let scorers = &signals.snapshot.policy.profile.scorers;
    let len = signals.rows.len();
    totals.clear();
    totals.resize(len, 0.0);
    raw.clear();
    raw.resize(len * scorers.len(), 0.0);
    for (scorer, scores) in scorers.iter().zip(raw.chunks_exact_mut(len)) {
        scorer.scorer.score(signals, scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *score = if score.is_nan() { 0.0 } else { score.clamp(0.0, 1.0) };
            *total += scorer.weight * *score;
        }
    }
}

fn describe(why: &mut Explanation, snapshot: &PoolSnapshot, facts: &Facts, route: &Route<'_>, now: Tick) {
    why.request_id = facts.request_id.clone();
    why.model = facts.model.as_ref().map(|model| model.name.clone());
    why.at = now;
    why.snapshot_version = snapshot.version;
    why.prompt_tokens = facts.prompt_tokens;
    why.target_model = route.target().map(|model| model.name.clone());
    why.model_rule = route.rule.map(|rule| rule.name.clone());
    why.objective = facts.objective.clone();
    why.priority = route.facts.as_ref().map_or(facts.priority, |facts| facts.priority);
    let scorers = &snapshot.policy.profile.scorers;
    why.scorers.extend(scorers.iter().map(|scorer| (scorer.name.clone(), scorer.weight)));
}

fn leave_out(snapshot: &PoolSnapshot, row: u32, fate: Fate, why: &mut Explanation) {
    let at = row as usize;
    if why.rows.len() == Explanation::MAX_ROWS {
        why.rows_left_out += 1;
        return;
    }
    let members = &snapshot.members;
    why.rows.push(ExplainedEndpoint {
        endpoint: members.endpoints[at].clone(),
        id: members.ids[at],
        fate,
        telemetry_age: snapshot.load.age(at, why.at),
        fresh: snapshot.load.is_fresh(at, why.at, snapshot.policy.telemetry.stale_after),
        in_flight: members.cells[at].in_flight() as f32,
        waiting: snapshot.load.waiting[at],
        matched_tokens: 0.0,
    });
}

/// Puts the candidates ahead of those that were left out: first the chosen ones, in order, then the others.
fn explain_candidates(
    signals: &Signals<'_>,
    raw: &[f32],
    totals: &[f32],
    chosen: &[u32],
    why: &mut Explanation,
    now: Tick,
) {
    let len = signals.rows.len();
    let left_out = std::mem::take(&mut why.rows);
    let others = (0u32..).take(len).filter(|at| !chosen.contains(at));
    for (place, at) in chosen.iter().copied().chain(others).enumerate().take(Explanation::MAX_ROWS) {
        let (at, score) = (at as usize, totals[at as usize]);
        let row = signals.rows[at] as usize;
        let members = &signals.snapshot.members;
        why.rows.push(ExplainedEndpoint {
            endpoint: members.endpoints[row].clone(),
            id: members.ids[row],
            fate: if place < chosen.len() { Fate::Chosen { score, place } } else { Fate::Candidate { score } },
            telemetry_age: signals.snapshot.load.age(row, now),
            fresh: signals.fresh[at],
            in_flight: signals.in_flight[at],
            waiting: signals.waiting[at],
            matched_tokens: signals.matched_tokens[at],
        });
        why.scores.extend((0..why.scorers.len()).map(|scorer| raw[scorer * len + at]));
    }
    why.rows_left_out += len.saturating_sub(Explanation::MAX_ROWS);
    let room = Explanation::MAX_ROWS - why.rows.len();
    why.rows_left_out += left_out.len().saturating_sub(room);
    why.rows.extend(left_out.into_iter().take(room));
}
