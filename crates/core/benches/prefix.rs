//! What prefix affinity costs: hashing a prompt as it streams by, and asking and telling the index.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman_core::endpoint::EndpointId;
use pointsman_core::prefix::{Alive, PrefixBlock, PrefixHasher, PrefixIndex, PrefixLayout, PrefixSeed, mix};

/// What a read from a gateway gives.
const PIECE: usize = 16 << 10;
/// Memory of the index, the default policy's.
const MEMORY: usize = 64 << 20;

fn hasher(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for kilobytes in [1, 16, 400] {
        let text: Vec<u8> = (0..kilobytes << 10).map(|at: usize| b'a' + (at % 23) as u8).collect();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("prompt", format!("{kilobytes} KB")), &text, |bencher, text| {
            bencher.iter(|| {
                let mut hasher = PrefixHasher::new(PrefixLayout::default());
                black_box(text).chunks(PIECE).for_each(|piece| hasher.text(piece));
                hasher.end_message(1);
                hasher.finish(None, PrefixSeed { prompt: 7, model: 0 })
            });
        });
    }
    // What the scanner gives where a text is full of escapes.
    let text = vec![b'a'; 400 << 10];
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("prompt/400 KB in pieces of 80 bytes", |bencher| {
        bencher.iter(|| {
            let mut hasher = PrefixHasher::new(PrefixLayout::default());
            black_box(&text).chunks(80).for_each(|piece| hasher.text(piece));
            hasher.finish(None, PrefixSeed { prompt: 7, model: 0 })
        });
    });
}

fn chain(seed: u64, blocks: u32) -> Vec<PrefixBlock> {
    (1..=blocks).map(|n| PrefixBlock { hash: mix(seed, u64::from(n)), tokens: 64 * n }).collect()
}

fn endpoint(slot: usize) -> EndpointId {
    EndpointId { slot: u32::try_from(slot).unwrap_or(0), generation: 1 }
}

/// An index over so many endpoints, full of prompts that differ.
fn full(endpoints: usize) -> PrefixIndex {
    let mut index = PrefixIndex::new(MEMORY);
    (0..endpoints).for_each(|slot| index.admit(endpoint(slot)));
    let prompts = index.size().capacity as u64 / 100 + 1;
    (0..prompts).for_each(|seed| index.predict(endpoint(seed as usize % endpoints), &chain(seed, 100)));
    index
}

fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    for (endpoints, holders) in [(200, 0), (200, 1), (200, 10), (200, 200), (1000, 1000)] {
        let mut index = full(endpoints);
        let blocks = chain(u64::MAX, 100);
        (0..holders).for_each(|slot| index.predict(endpoint(slot), &blocks));
        let mut matched = vec![0; endpoints];
        let mut alive = Alive::default();
        group.bench_function(
            format!("lookup of 100 blocks, {holders} of {endpoints} endpoints hold them"),
            |bencher| {
                bencher.iter(|| index.lookup(black_box(&blocks), &mut matched, &mut alive));
            },
        );
        if holders > 0 {
            group.bench_function(format!("predict and confirm again, {holders} of {endpoints}"), |bencher| {
                bencher.iter(|| {
                    index.predict(endpoint(0), black_box(&blocks));
                    index.confirm(endpoint(0), &blocks);
                });
            });
        }
    }
    let mut index = full(200);
    let mut seed = 1 << 40;
    group.bench_function("predict 100 new blocks into a full index", |bencher| {
        let next = || {
            seed += 1;
            chain(seed, 100)
        };
        let predict = |blocks: Vec<PrefixBlock>| index.predict(endpoint(seed_slot(&blocks)), &blocks);
        bencher.iter_batched(next, predict, BatchSize::SmallInput);
    });
}

/// Spreads prompts over endpoints.
fn seed_slot(blocks: &[PrefixBlock]) -> usize {
    blocks.first().map_or(0, |block| (block.hash % 200) as usize)
}

criterion_group!(benches, hasher, index);
criterion_main!(benches);
