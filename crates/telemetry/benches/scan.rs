//! What reading one answer costs: a vLLM server's exposition, as it arrives from a socket, into a load.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman_telemetry::engines::Mapping;
use pointsman_telemetry::reading::Reader;

/// What one vLLM server with one engine publishes after a thousand requests.
const VLLM: &str = include_str!("../fixtures/vllm.prom");
/// What a read from a socket gives.
const PIECE: usize = 16 << 10;

fn scan(criterion: &mut Criterion) {
    let Some(mapping) = Mapping::builtin("vllm").map(Arc::new) else { return };
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(VLLM.len() as u64));
    group.bench_function("vllm exposition to load", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(Arc::clone(&mapping));
            black_box(VLLM).as_bytes().chunks(PIECE).for_each(|piece| reader.push(piece));
            reader.finish()
        });
    });
    // The oracle knows no colon in a name, and would pass over most lines.
    let plain = VLLM.replace(':', "_");
    group.sample_size(20);
    group.bench_function("the same lines through prometheus-parse", |bencher| {
        bencher.iter(|| prometheus_parse::Scrape::parse(black_box(&plain).lines().map(|line| Ok(line.into()))));
    });
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
