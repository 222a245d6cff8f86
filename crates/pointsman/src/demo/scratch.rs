use super::scenario;
use pointsman_sim::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

fn run(seed: u64, rate: f64, kv: usize, secs: u64) -> Vec<(f64, usize)> {
    let w = scenario::workload(seed, rate, secs);
    let mut engines: Vec<Engine> = scenario::servers(seed)
        .into_iter()
        .map(|s| Engine::new(EngineConfig { kv_tokens: kv, ..s.engine }).unwrap())
        .collect();
    let mut due: BinaryHeap<Reverse<(u64, usize, usize)>> = BinaryHeap::new();
    for c in w.conversations() {
        due.push(Reverse((c.arrival.as_nanos() as u64, c.index, 0)));
    }
    let scripts: Vec<Script> = w.conversations().iter().map(|c| w.script(c)).collect();
    let mut who: Vec<HashMap<RequestId, (usize, usize)>> = vec![HashMap::new(); 6];
    let (mut next, mut out, mut sample_at, mut ev) = (0usize, vec![], 0u64, vec![]);
    let end = Duration::from_secs(secs).as_nanos() as u64;
    loop {
        let d = due.peek().map(|r| r.0.0).unwrap_or(u64::MAX);
        let e = engines.iter().filter_map(|e| e.next_event_at()).min().unwrap_or(u64::MAX);
        let now = d.min(e).min(sample_at);
        if now >= end {
            break;
        }
        if now == sample_at {
            out.push((now as f64 / 1e9, engines.iter().map(|e| e.stats().waiting).sum()));
            sample_at += 250_000_000;
        }
        if d == now {
            let Reverse((_, c, t)) = due.pop().unwrap();
            let prompt = scripts[c].prompt(t);
            let answer = scripts[c].answer(t);
            let text = format!("{prompt}{answer}");
            let tok = |s: &str| tokenizer::tokens(s.len());
            let req = EngineRequest {
                prompt_tokens: tok(&prompt),
                output_tokens: tok(answer),
                blocks: tokenizer::chain(0, &text, 16),
                adapter: None,
            };
            let s = next % 6;
            next += 1;
            let id = engines[s].submit(now, req).unwrap();
            who[s].insert(id, (c, t));
        }
        for s in 0..6 {
            ev.clear();
            engines[s].advance(now, &mut ev);
            for x in &ev {
                if x.kind == EventKind::Finished {
                    let (c, t) = who[s].remove(&x.id).unwrap();
                    if let Some(turn) = w.conversations()[c].turns.get(t + 1) {
                        due.push(Reverse((x.at + turn.think.as_nanos() as u64, c, t + 1)));
                    }
                }
            }
        }
    }
    out
}

#[test]
fn scratch_saturation() {
    for secs in [40u64, 45, 60] {
    for rate in [9.0, 10.0, 10.5, 11.0, 11.5, 12.0, 12.5, 13.0, 14.0] {
        let kv = scenario::workload(1, rate, secs).total_prefix_tokens() / 4;
        let borne = |r: f64| {
            let grow = |seed: u64| {
                let v = run(seed, r, kv, 80);
                let m = |a: f64, b: f64| {
                    let x: Vec<usize> = v.iter().filter(|p| p.0 >= a && p.0 < b).map(|p| p.1).collect();
                    x.iter().sum::<usize>() as f64 / x.len() as f64
                };
                m(60., 80.) - m(20., 40.)
            };
            let g: Vec<f64> = (1..=5).map(grow).collect();
            let n = |k: usize| g[..k].iter().filter(|g| **g <= 6.0).count();
            (n(3) >= 2, n(5) >= 3, n(1) >= 1)
        };
        let top = |f: fn((bool, bool, bool)) -> bool| {
            let mut r = 10.0;
            while f(borne(r)) { r += 0.5; }
            r - 0.5
        };
        println!("secs {secs} rate {rate} kv {kv}: of3 {} of5 {} of1 {}; needs {:.1}", top(|b| b.0), top(|b| b.1), top(|b| b.2), rate / 0.7);
    }
    }
}
