//! The engine's promises, in virtual time.

use super::*;
use crate::tokenizer;

const MS: Nanos = 1_000_000;

/// No jitter, so that times can be compared exactly.
fn config() -> EngineConfig {
    EngineConfig { jitter_percent: 0.0, ..EngineConfig::default() }
}

/// A request whose blocks are named after `prefix` tokens that all of the same `family` share, then after `own`.
fn request(family: u64, prompt_tokens: usize, output_tokens: usize, own: u64) -> EngineRequest {
    let text = |seed, tokens| tokenizer::words(&mut Rng::new(seed), tokens);
    let prompt = text(family, prompt_tokens / 2) + &text(own, prompt_tokens - prompt_tokens / 2 + output_tokens);
    EngineRequest { prompt_tokens, output_tokens, blocks: tokenizer::chain(0, &prompt, 16), adapter: None }
}

/// Runs the engine until nothing more will happen.
fn drain(engine: &mut Engine) -> Vec<EngineEvent> {
    let mut events = Vec::new();
    while let Some(at) = engine.next_event_at() {
        engine.advance(at, &mut events);
        assert!(events.len() < 1_000_000, "the engine never comes to rest");
    }
    events
}

fn at(events: &[EngineEvent], id: RequestId, kind: EventKind) -> Nanos {
    events.iter().find(|event| event.id == id && event.kind == kind).unwrap().at
}

fn cached(events: &[EngineEvent], id: RequestId) -> usize {
    let found = events.iter().filter(|event| event.id == id).find_map(|event| match event.kind {
        EventKind::Admitted { cached_tokens } => Some(cached_tokens),
        _ => None,
    });
    found.unwrap()
}

/// Time to first token of a request on an engine that is otherwise idle.
fn ttft(engine: &mut Engine, request: EngineRequest) -> Nanos {
    let start = engine.now;
    let id = engine.submit(start, request).unwrap();
    at(&drain(engine), id, EventKind::FirstToken) - start
}

#[test]
fn a_request_yields_its_tokens_in_order_and_ends() {
    let mut engine = Engine::new(config()).unwrap();
    engine.submit(5 * MS, request(1, 800, 3, 2)).unwrap();
    let kinds: Vec<(EventKind, Nanos)> = drain(&mut engine).iter().map(|event| (event.kind, event.at)).collect();
    let (first, step) = (105 * MS, |context: u64| 12 * MS + 150_000 + context * 80);
    assert_eq!(
        kinds,
        [
            (EventKind::Admitted { cached_tokens: 0 }, 5 * MS),
            (EventKind::FirstToken, first),
            (EventKind::Token { index: 1 }, first + step(800)),
            (EventKind::Token { index: 2 }, first + step(800) + step(801)),
            (EventKind::Finished, first + step(800) + step(801)),
        ]
    );
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
    engine.submit(engine.now, request(1, 0, 0, 1)).unwrap();
    let kinds: Vec<EventKind> = drain(&mut engine).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Admitted { cached_tokens: 0 }, EventKind::Finished], "an embedding has no tokens");
}

#[test]
fn a_reused_prefix_makes_prefill_cheaper() {
    let mut engine = Engine::new(config()).unwrap();
    let cold = ttft(&mut engine, request(1, 3_200, 8, 2));
    let half = ttft(&mut engine, request(1, 3_200, 8, 3));
    let again = ttft(&mut engine, request(1, 3_200, 8, 3));
    assert_eq!(cold, 400 * MS);
    assert_eq!(half, 200 * MS, "half of the prompt is shared");
    assert_eq!(again, 12 * MS, "all but the last block is there: one short step");
    let stats = engine.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (9_600, 1_600 + 3_184));
}

#[test]
fn the_answer_of_one_turn_is_cached_for_the_next() {
    let mut engine = Engine::new(config()).unwrap();
    let prompt = tokenizer::render_chat([("user", tokenizer::words(&mut Rng::new(4), 400).as_str())]);
    let answer = tokenizer::answer(&prompt, 160);
    let next = format!("{prompt}{answer}\nuser\ngo on\nassistant\n");
    let ask = |text: &str, prompt: &str, output_tokens| EngineRequest {
        prompt_tokens: tokenizer::tokens(prompt.len()),
        output_tokens,
        blocks: tokenizer::chain(0, text, 16),
        adapter: None,
    };
    engine.submit(0, ask(&(prompt.clone() + &answer), &prompt, 160)).unwrap();
    drain(&mut engine);
    let second = engine.submit(engine.now, ask(&next, &next, 1)).unwrap();
    let hits = cached(&drain(&mut engine), second);
    assert!(hits > tokenizer::tokens(prompt.len()) + 128, "{hits} cached tokens do not reach into the answer");
}

#[test]
fn an_overfull_cache_loses_the_tail_of_the_oldest_chain_first() {
    let mut engine = Engine::new(EngineConfig { kv_tokens: 3_200, ..config() }).unwrap();
    for own in [2, 3] {
        ttft(
            &mut engine,
            EngineRequest { blocks: (own * 1_000..own * 1_000 + 100).collect(), ..request(1, 1_600, 1, 9) },
        );
    }
    ttft(&mut engine, EngineRequest { blocks: (9_000..9_020).collect(), ..request(1, 320, 1, 9) });
    let hits = engine.cache.matched(&(2_000..2_100).collect::<Vec<u64>>());
    assert!((70..100).contains(&hits), "{hits} of the oldest chain's 100 blocks are left");
    assert_eq!(engine.cache.matched(&(3_000..3_100).collect::<Vec<u64>>()), 100);
}

#[test]
fn no_more_than_max_running_run_and_the_rest_wait_in_order() {
    let mut engine = Engine::new(EngineConfig { max_running: 2, ..config() }).unwrap();
    let ids: Vec<RequestId> = (0..5).map(|own| engine.submit(0, request(own, 160, 20, own)).unwrap()).collect();
    let mut events = Vec::new();
    let mut most = 0;
    while let Some(at) = engine.next_event_at() {
        engine.advance(at, &mut events);
        most = most.max(engine.stats().running);
        assert_eq!(engine.stats().running + engine.stats().waiting + engine.stats().finished as usize, 5);
    }
    assert_eq!(most, 2);
    let firsts: Vec<Nanos> = ids.iter().map(|&id| at(&events, id, EventKind::FirstToken)).collect();
    assert!(firsts.is_sorted(), "{firsts:?}");
    assert!(firsts[2] >= at(&events, ids[0], EventKind::Finished));
}

#[test]
fn a_request_waits_until_its_blocks_suffice() {
    let mut engine = Engine::new(EngineConfig { kv_tokens: 1_024, ..config() }).unwrap();
    let first = engine.submit(0, request(1, 600, 10, 1)).unwrap();
    let second = engine.submit(0, request(2, 600, 10, 2)).unwrap();
    let mut events = Vec::new();
    engine.advance(0, &mut events);
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 1));
    assert!(engine.stats().kv_usage > 0.5);
    events.extend(drain(&mut engine));
    assert!(at(&events, second, EventKind::FirstToken) > at(&events, first, EventKind::Finished));
    assert_eq!(
        engine.submit(engine.now, request(1, 1_000, 25, 1)),
        Err(SubmitError::TooLong { need: 1_025, have: 1_024 })
    );
}

#[test]
fn decode_slows_with_the_batch() {
    let tpot = |others: u64| {
        let mut engine = Engine::new(config()).unwrap();
        let id = engine.submit(0, request(1, 160, 50, 1)).unwrap();
        for own in 0..others {
            engine.submit(0, request(own + 2, 160, 200, own)).unwrap();
        }
        let events = drain(&mut engine);
        at(&events, id, EventKind::Token { index: 49 }) - at(&events, id, EventKind::Token { index: 30 })
    };
    let (alone, crowded) = (tpot(0), tpot(30));
    assert!(crowded > alone * 5 / 4, "{alone} ns alone, {crowded} ns among thirty");
}

#[test]
fn a_long_prefill_holds_up_the_decodes_beside_it() {
    let mut engine = Engine::new(config()).unwrap();
    let id = engine.submit(0, request(1, 160, 40, 1)).unwrap();
    engine.submit(100 * MS, request(2, 8_000, 1, 2)).unwrap();
    let events = drain(&mut engine);
    let tokens: Vec<Nanos> = events.iter().filter(|event| event.id == id).skip(1).map(|event| event.at).collect();
    let slowest = tokens.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!((200 * MS..400 * MS).contains(&slowest), "the longest gap is {slowest} ns, one chunk is 256 ms");
}

#[test]
fn the_speed_factor_divides_every_time() {
    let run = |speed| {
        let mut engine = Engine::new(EngineConfig { speed, ..config() }).unwrap();
        for own in 0..8 {
            engine.submit(0, EngineRequest { adapter: Some(own as usize % 2), ..request(own, 900, 30, own) }).unwrap();
        }
        drain(&mut engine).last().unwrap().at
    };
    let (slow, plain, fast) = (run(0.5), run(1.0), run(2.0));
    assert!(slow.abs_diff(2 * plain) < MS && fast.abs_diff(plain / 2) < MS, "{slow} {plain} {fast}");
}

#[test]
fn cancel_frees_the_queue_the_batch_and_the_blocks() {
    let mut engine = Engine::new(EngineConfig { max_running: 1, ..config() }).unwrap();
    let running = engine.submit(0, request(1, 3_200, 100, 1)).unwrap();
    let queued = engine.submit(0, request(2, 3_200, 100, 2)).unwrap();
    let next = engine.submit(0, request(3, 160, 1, 3)).unwrap();
    engine.cancel(10 * MS, queued);
    engine.cancel(300 * MS, running);
    engine.cancel(300 * MS, running);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage, stats.cancelled), (0, 1, 0.0, 2));
    assert!(stats.cached_blocks > 0, "what the cancelled prefill computed stays findable");
    let events = drain(&mut engine);
    assert!(events.iter().any(|event| event.id == next && event.kind == EventKind::Finished));
    assert!(!events.iter().any(|event| event.id == running && event.at > 300 * MS));
    assert_eq!(engine.cache.admit(&[], engine.config.kv_blocks()).map(|held| held.len()), Some(0), "no promise leaked");
}

#[test]
fn the_same_seed_gives_the_same_times_and_another_seed_others() {
    let run = |seed| {
        let mut engine = Engine::new(EngineConfig { seed, ..EngineConfig::default() }).unwrap();
        for own in 0..20 {
            engine.submit(own * 30 * MS, request(own % 3, 700, 25, own)).unwrap();
        }
        drain(&mut engine)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn events_do_not_depend_on_how_often_time_is_told() {
    let run = |tick: Option<Nanos>| {
        let mut engine = Engine::new(EngineConfig::default()).unwrap();
        for own in 0..10 {
            engine.submit(own * 50 * MS, request(own % 3, 700, 25, own)).unwrap();
        }
        let Some(tick) = tick else { return drain(&mut engine) };
        let mut events = Vec::new();
        for now in (500 * MS..20_000 * MS).step_by(tick as usize) {
            engine.advance(now, &mut events);
        }
        events
    };
    assert_eq!(run(None), run(Some(333 * MS)), "a late driver must not make the engine drift");
}

#[test]
fn adapters_load_once_wait_for_slots_and_do_not_hold_up_others() {
    let mut engine = Engine::new(EngineConfig { max_lora: 1, ..config() }).unwrap();
    let with = |adapter, own| EngineRequest { adapter, ..request(own, 160, 20, own) };
    let a = engine.submit(0, with(Some(0), 1)).unwrap();
    let b = engine.submit(0, with(Some(1), 2)).unwrap();
    let base = engine.submit(0, with(None, 3)).unwrap();
    assert_eq!((engine.stats().waiting_adapters, engine.stats().running), (vec![0, 1], 1), "only the base model runs");
    let mut events = Vec::new();
    engine.advance(500 * MS, &mut events);
    assert_eq!((engine.stats().running_adapters, engine.stats().waiting_adapters), (vec![0], vec![1]));
    events.extend(drain(&mut engine));
    assert!(at(&events, base, EventKind::FirstToken) < 100 * MS, "the base model needs no slot");
    assert!(at(&events, a, EventKind::FirstToken) > 400 * MS, "the first load takes its time");
    let first = at(&events, b, EventKind::FirstToken);
    assert!(first > at(&events, a, EventKind::Finished) + 400 * MS, "one slot: the other waits and loads");
    let warm = ttft(&mut engine, with(Some(1), 4));
    assert!(warm < 100 * MS, "loaded stays loaded");
}
