//! How fast bodies are read: the scanner over long strings and dense structure, and the response reader over streams.

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman_extproc::json::{Scanner, Sink};
use pointsman_extproc::usage::{ResponseKind, ResponseReader};

/// Envoy's usual piece of a body.
const CHUNK: usize = 16 * 1024;

/// Sums the lengths of what it is told, so that nothing is optimised away.
struct Length {
    wanted: bool,
    bytes: usize,
}

impl Sink for Length {
    type Error = Infallible;

    fn wants_string(&self) -> bool {
        self.wanted
    }

    fn string_part(&mut self, part: &[u8]) -> Result<(), Infallible> {
        self.bytes += black_box(part).len();
        Ok(())
    }

    fn scalar(&mut self, literal: &[u8]) -> Result<(), Infallible> {
        self.bytes += black_box(literal).len();
        Ok(())
    }
}

/// A chat request whose prompt is `text`, repeated to about 400 KB.
fn chat(text: &str) -> Vec<u8> {
    let prompt = text.repeat(400_000 / text.len());
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}],"max_tokens":16}}"#).into_bytes()
}

fn scanner(criterion: &mut Criterion) {
    let english = "The quick brown fox jumps over the lazy dog and runs far away from the sleepy old cat. ";
    let many_turns =
        format!("[{}null]", r#"{"role":"user","content":"What is it?","n":1,"t":[1.5,true]},"#.repeat(400_000 / 64));
    let embedding = format!("[{}0]", "-0.012345678,".repeat(400_000 / 13));
    let bodies = [
        ("long ascii string", chat(english)),
        ("ascii, a line break every 87 bytes", chat(&format!("{}\\n", &english[..85]))),
        ("chinese", chat("敏捷的棕色狐狸跳过了懒狗")),
        ("chinese, escaped", chat(r"\u654f\u6377\u7684\u68d5\u8272")),
        ("french", chat("Le cœur a ses raisons que la raison ne connaît point; on le sait en mille choses. ")),
        ("dense structure", many_turns.into_bytes()),
        ("embedding", embedding.into_bytes()),
    ];
    let mut group = criterion.benchmark_group("scanner");
    for (name, body) in &bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        for wanted in [true, false] {
            let name = format!("{name}, {}", if wanted { "told" } else { "skipped" });
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let mut sink = Length { wanted, bytes: 0 };
                    let mut scanner = Scanner::new();
                    for chunk in black_box(body).chunks(CHUNK) {
                        let _ = scanner.feed(chunk, &mut sink);
                    }
                    assert!(scanner.is_complete());
                    sink.bytes
                });
            });
        }
    }
}

fn reader(criterion: &mut Criterion) {
    let event = concat!(
        r#"data: {"id":"chatcmpl-5f1c0ab2","object":"chat.completion.chunk","created":1760000000,"model":"m","#,
        r#""choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#,
        "\n\n"
    );
    let mut group = criterion.benchmark_group("response reader");
    group.throughput(Throughput::Bytes(200 * event.len() as u64));
    group.bench_function("200 chat events, one a chunk", |bencher| {
        bencher.iter(|| {
            let mut reader = ResponseReader::new(ResponseKind::EventStream);
            for _ in 0..200 {
                reader.feed(black_box(event.as_bytes()));
            }
            assert_eq!(reader.events(), 200);
        });
    });
}

criterion_group!(benches, scanner, reader);
criterion_main!(benches);
