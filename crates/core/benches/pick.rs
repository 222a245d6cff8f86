//! What one pick costs: the whole turn of a request at its pool, from the pick to the flight's landing.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use pointsman_core::decision::Decision;
use pointsman_core::endpoint::Endpoint;
use pointsman_core::facts::{Facts, Model};
use pointsman_core::load::{Load, LoadReport};
use pointsman_core::policy::Policy;
use pointsman_core::pool::{Pool, PoolWriter};
use pointsman_core::prefix::{PrefixBlock, mix};
use pointsman_core::scheduler::Request;
use pointsman_core::time::Tick;

const NOW: Tick = Tick(1_000_000_000);
/// Blocks of a prompt: about 6,400 tokens at the default layout.
const BLOCKS: u32 = 100;

fn address(number: usize) -> SocketAddr {
    let [_, high, middle, low] = u32::try_from(number).unwrap_or(0).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, high, middle, low), 8000))
}

/// A pool of the default policy whose endpoints reported just now, each with a load of its own.
fn pool(endpoints: usize) -> (Arc<Pool>, PoolWriter) {
    let (pool, mut writer) = Pool::new("default/p", Arc::new(Policy::default()), 1);
    writer.set_members((0..endpoints).map(|at| Endpoint::new(&format!("vllm-{at}"), address(at))));
    writer.publish();
    for (at, endpoint) in pool.snapshot().members.ids.iter().enumerate() {
        let (waiting, running) = ((at % 5) as f32, (at % 7) as f32);
        let load = Load { waiting, running, kv_cache_usage: (at % 10) as f32 / 10.0, at: NOW, ..Load::default() };
        writer.record_load(LoadReport { endpoint: *endpoint, load });
    }
    writer.publish();
    (pool, writer)
}

/// A prompt that shares its blocks with those of the same seed alone.
fn prompt(seed: u64) -> Facts {
    let block = |n: u32| PrefixBlock { hash: mix(seed, u64::from(n)), tokens: 64 * n };
    Facts {
        request_id: "6b1f0c4e-93d2-4a57-8e0b".into(),
        model: Some(Model::new("m")),
        prefix: (1..=BLOCKS).map(block).collect(),
        prompt_tokens: u64::from(BLOCKS) * 64,
        ..Facts::default()
    }
}

/// Picks, answers, lands; the prefix stays with the endpoint.
fn turn(pool: &Arc<Pool>, facts: &Facts, only: Option<SocketAddr>) {
    let subset = only.map(|address| vec![address]);
    if let Decision::Picked(mut picked) = black_box(pool.pick(Request { facts, subset: &subset, headers: None }, NOW)) {
        picked.flight.response_began();
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for endpoints in [10, 200, 1000] {
        let (pool, _writer) = pool(endpoints);
        let without = Facts { prefix: Vec::new(), ..prompt(0) };
        group.bench_function(format!("{endpoints} endpoints, no prefix"), |bencher| {
            bencher.iter(|| turn(&pool, &without, None));
        });
        let mut seed = 0;
        group.bench_function(format!("{endpoints} endpoints, 100 blocks that nobody holds"), |bencher| {
            let next = || {
                seed += 1;
                prompt(seed)
            };
            bencher.iter_batched(next, |facts| turn(&pool, &facts, None), BatchSize::SmallInput);
        });
        let shared = prompt(u64::MAX);
        (0..endpoints).for_each(|at| turn(&pool, &shared, Some(address(at))));
        group.bench_function(format!("{endpoints} endpoints, 100 blocks that all hold"), |bencher| {
            bencher.iter(|| turn(&pool, &shared, None));
        });
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
