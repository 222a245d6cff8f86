//! What a workload promises to whoever measures with it.

use std::collections::HashSet;

use super::*;

fn small(seed: u64) -> WorkloadConfig {
    WorkloadConfig { seed, conversations: 40, ..WorkloadConfig::default() }
}

#[test]
fn the_same_seed_says_the_same_and_another_seed_does_not() {
    let bodies = |seed| {
        let workload = Workload::new(small(seed));
        let all = workload.conversations().iter().take(5);
        all.map(|conversation| workload.script(conversation).chat_body(1, "m", true)).collect::<Vec<_>>()
    };
    assert_eq!(bodies(3), bodies(3));
    assert_ne!(bodies(3), bodies(4));
    assert_eq!(Workload::new(small(3)).conversations(), Workload::new(small(3)).conversations());
}

#[test]
fn a_workload_is_the_same_at_any_rate_but_for_its_times() {
    let (slow, fast) =
        (Workload::new(small(1)), Workload::new(WorkloadConfig { requests_per_second: 40.0, ..small(1) }));
    for (a, b) in slow.conversations().iter().zip(fast.conversations()) {
        assert_eq!((a.system, &a.turns), (b.system, &b.turns));
        assert!(a.arrival.abs_diff(b.arrival * 4) < Duration::from_micros(1));
    }
}

#[test]
fn every_turn_extends_the_prompt_and_answer_of_the_turn_before() {
    let workload = Workload::new(small(2));
    for conversation in workload.conversations() {
        let script = workload.script(conversation);
        assert!((2..=6).contains(&script.turns()));
        for turn in 1..script.turns() {
            let before = script.prompt(turn - 1) + script.answer(turn - 1);
            assert!(script.prompt(turn).starts_with(&before), "conversation {} turn {turn}", conversation.index);
        }
        for (turn, sizes) in conversation.turns.iter().enumerate() {
            assert_eq!(tokenizer::tokens(script.answer(turn).len()), sizes.output_tokens);
        }
    }
}

#[test]
fn total_prefix_tokens_is_what_an_endless_cache_would_hold() {
    let workload = Workload::new(small(5));
    let mut blocks = HashSet::new();
    let mut prompts = 0;
    for conversation in workload.conversations() {
        let script = workload.script(conversation);
        for turn in 0..script.turns() {
            let prompt = script.prompt(turn);
            prompts += tokenizer::tokens(prompt.len());
            blocks.extend(tokenizer::chain(0, &prompt, 1));
        }
    }
    let (said, held) = (workload.total_prefix_tokens(), blocks.len());
    assert!(said.abs_diff(held) * 100 < held * 5, "said {said}, held {held}");
    assert!(held * 3 < prompts, "{held} of {prompts} tokens are distinct: too little is shared");
}

#[test]
fn arrivals_amount_to_the_rate_and_popular_prompts_are_used_more() {
    let workload = Workload::new(WorkloadConfig { conversations: 4_000, requests_per_second: 20.0, ..small(1) });
    let last = workload.conversations().last().unwrap().arrival.as_secs_f64();
    let rate = workload.requests() as f64 / last;
    assert!((19.0..21.0).contains(&rate), "{rate} requests a second");
    let uses = |system| workload.conversations().iter().filter(|c| c.system == system).count();
    assert!(uses(0) > 3 * uses(23) && uses(23) > 50, "{} and {}", uses(0), uses(23));
}
