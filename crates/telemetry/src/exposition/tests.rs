//! Claims about the scanner, with `prometheus-parse` as the oracle where it can read what we can.

use proptest::prelude::*;

use super::*;

/// A sample with everything copied out.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
    timestamp: Option<f64>,
}

/// Wants what its filter says and keeps it.
struct Keep<F> {
    wanted: F,
    samples: Vec<Owned>,
}

impl<F: Fn(&[u8]) -> bool> Sink for Keep<F> {
    fn wants(&self, name: &[u8]) -> bool {
        (self.wanted)(name)
    }

    fn sample(&mut self, sample: Sample<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.samples.push(Owned {
            name: text(sample.name),
            labels: sample.labels.map(|label| (text(label.name), text(&label.value()))).collect(),
            value: sample.value,
            timestamp: sample.timestamp,
        });
    }
}

/// What a scanner makes of `pieces`, and how many lines it could not read.
fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Owned>, u64) {
    let mut sink = Keep { wanted: |_: &[u8]| true, samples: Vec::new() };
    let mut scanner = Scanner::default();
    pieces.into_iter().for_each(|piece| scanner.push(piece, &mut sink));
    scanner.finish(&mut sink);
    (sink.samples, scanner.malformed())
}

fn sample(name: &str, labels: &[(&str, &str)], value: f64, timestamp: Option<f64>) -> Owned {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Owned { name: name.into(), labels, value, timestamp }
}

#[test]
fn reads_every_form_a_sample_line_may_take() {
    let cases = [
        ("up 1", sample("up", &[], 1.0, None)),
        ("  up\t1  ", sample("up", &[], 1.0, None)),
        ("up 1\r", sample("up", &[], 1.0, None)),
        ("up{} 1 \r", sample("up", &[], 1.0, None)),
        ("vllm:x{a=\"b\"} 2.5e1 1543182234", sample("vllm:x", &[("a", "b")], 25.0, Some(1_543_182_234.0))),
        ("x { a = \"b\" , c=\"d\", } -1", sample("x", &[("a", "b"), ("c", "d")], -1.0, None)),
        (r#"x{a="q\"\\\n,}={",b=""} 1"#, sample("x", &[("a", "q\"\\\n,}={"), ("b", "")], 1.0, None)),
        (r#"x{a="\t"}1"#, sample("x", &[("a", "\\t")], 1.0, None)),
        ("x +Inf", sample("x", &[], f64::INFINITY, None)),
        ("x -inf 1.5", sample("x", &[], f64::NEG_INFINITY, Some(1.5))),
        ("x_total 3 # {trace_id=\"a\"} 0.5 12", sample("x_total", &[], 3.0, None)),
        ("x_total 3 17.25 # {trace_id=\"a\"} 0.5", sample("x_total", &[], 3.0, Some(17.25))),
    ];
    for (line, expected) in cases {
        assert_eq!(scan([line.as_bytes()]), (vec![expected], 0), "{line:?}");
    }
    assert!(scan([b"x NaN".as_slice()]).0[0].value.is_nan());
}

#[test]
fn lines_that_hold_no_sample_are_passed_over_in_silence() {
    let text = b"# HELP up Whether.\n# TYPE up gauge\n\n   \n\r\n# UNIT up x\n# EOF\n";
    assert_eq!(scan([text.as_slice()]), (vec![], 0));
}

#[test]
fn malformed_lines_are_counted_and_cost_no_other_line() {
    let malformed: &[&[u8]] = &[
        b"x",
        b"x ",
        b"x{",
        b"x{}",
        b"x{} ",
        b"x{a}",
        b"x{a=} 1",
        b"x{a=b} 1",
        b"x{a=\"b} 1",
        b"x{a=\"b\\\"} 1",
        b"x{a=\"b\\",
        b"x{a=\"b\" c=\"d\"} 1",
        b"x{=\"b\"} 1",
        b"x{,} 1",
        b"{a=\"b\"} 1",
        b"x one",
        b"x 1 now",
        b"x 1 2 3",
        b"x \xff",
        b"x{a=\"b\"",
    ];
    for line in malformed {
        let text = [b"before 1\n", *line, b"\nafter 2\n"].concat();
        let (samples, count) = scan([text.as_slice()]);
        let names: Vec<_> = samples.iter().map(|sample| &*sample.name).collect();
        assert_eq!((names, count), (vec!["before", "after"], 1), "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn invalid_utf8_in_a_label_reaches_the_sink_as_it_is() {
    let (samples, malformed) = scan([b"x{a=\"\xff\"} 1\n".as_slice()]);
    assert_eq!((samples[0].labels[0].1.as_str(), malformed), ("\u{fffd}", 0));
}

#[test]
fn a_line_over_the_limit_is_one_malformed_line_however_it_arrives() {
    let longest = format!("x{{a=\"{}\"}} 1", "y".repeat(MAX_LINE - 9));
    assert_eq!(longest.len(), MAX_LINE);
    let too_long = format!("{longest}0");
    for (line, samples, malformed) in [(longest, 2, 0), (too_long, 1, 1)] {
        let text = format!("{line}\nafter 2\n");
        for piece in [text.len(), 1 << 16, 4096, 7] {
            let (read, count) = scan(text.as_bytes().chunks(piece));
            assert_eq!((read.len(), count), (samples, malformed), "in pieces of {piece}");
        }
    }
}

#[test]
fn metrics_that_nobody_wants_are_not_read_further() {
    let mut sink = Keep { wanted: |name: &[u8]| name == b"good", samples: Vec::new() };
    let mut scanner = Scanner::default();
    scanner.push(b"bad{{{ nonsense\ngood_bucket{le=\"1\"} 4\ngood 1\ngood{x} 1\n", &mut sink);
    assert_eq!(sink.samples, [sample("good", &[], 1.0, None)]);
    assert_eq!(scanner.malformed(), 1, "only the wanted metric's broken line was looked at");
}

/// A number as servers write it, and its value.
fn number() -> impl Strategy<Value = (String, f64)> {
    prop_oneof![
        any::<i32>().prop_map(|n| (n.to_string(), f64::from(n))),
        (-1e12..1e12f64).prop_map(|n| (n.to_string(), n)),
        (-1e12..1e12f64).prop_map(|n| (format!("{n:e}"), n)),
        Just(("+Inf".to_string(), f64::INFINITY)),
        Just(("-Inf".to_string(), f64::NEG_INFINITY)),
    ]
}

fn blanks(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just(' '), Just('\t')], least..least + 3)
        .prop_map(|blanks| blanks.into_iter().collect())
}

/// A line with a sample in every form that the format has, and the sample.
fn any_line() -> impl Strategy<Value = (String, Owned)> {
    let labels = prop::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,8}", "(\\PC|[\"\\\\\n,={} ]){0,12}"), 0..5);
    let spacing = (blanks(0), blanks(0), blanks(1), blanks(1), any::<bool>());
    ("[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", labels, number(), prop::option::of(any::<i32>()), spacing).prop_map(
        |(name, labels, (written, value), timestamp, (lead, inner, before, between, carriage))| {
            let mut line = format!("{lead}{name}");
            if !labels.is_empty() {
                let escape = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
                let pair = |(name, value): &(String, String)| format!("{name}{inner}={inner}\"{}\"", escape(value));
                let pairs: Vec<_> = labels.iter().map(pair).collect();
                line += &format!("{inner}{{{inner}{}{inner}}}", pairs.join(&format!("{inner},{inner}")));
            }
            line += &format!("{before}{written}");
            if let Some(timestamp) = timestamp {
                line += &format!("{between}{timestamp}");
            }
            if carriage {
                line.push('\r');
            }
            (line, Owned { name, labels, value, timestamp: timestamp.map(f64::from) })
        },
    )
}

/// A line that `prometheus-parse` reads too: it knows no colon in a name, no `,`, `=`, `}` in a label's value, no blanks
/// between labels, and leaves escapes as they are.
fn oracle_line() -> impl Strategy<Value = String> {
    let comment = prop_oneof![Just("# HELP m text".to_string()), Just("# some words".to_string()), Just(String::new())];
    let labels = prop::collection::vec(("[a-z_][a-z0-9_]{0,6}", r#"([a-zA-Z0-9 ./:-]|\\\\x|\\"x|\\nx){0,10}"#), 0..4);
    let sample =
        ("[a-zA-Z_][a-zA-Z0-9_]{0,12}", labels, number(), prop::option::of(any::<u32>()), blanks(1), blanks(1));
    let sample = sample.prop_map(|(name, labels, (value, _), timestamp, before, between)| {
        // The oracle keeps one label of each name, so names are made distinct.
        let pairs = labels.iter().enumerate().map(|(at, (name, value))| format!("{name}{at}=\"{value}\""));
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")) };
        let timestamp = timestamp.map_or(String::new(), |timestamp| format!("{between}{timestamp}"));
        format!("{name}{labels}{before}{value}{timestamp}")
    });
    prop_oneof![1 => comment, 4 => sample]
}

/// Wants everything and keeps label values raw, as the oracle does.
#[derive(Default)]
struct KeepRaw(Vec<Owned>);

impl Sink for KeepRaw {
    fn wants(&self, _: &[u8]) -> bool {
        true
    }

    fn sample(&mut self, sample: Sample<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut labels: Vec<_> = sample.labels.map(|label| (text(label.name), text(label.raw()))).collect();
        labels.sort();
        self.0.push(Owned { name: text(sample.name), labels, value: sample.value, timestamp: sample.timestamp });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn reads_back_what_was_written(lines in prop::collection::vec(any_line(), 0..12), piece in 1usize..64) {
        let text = lines.iter().map(|(line, _)| &**line).collect::<Vec<_>>().join("\n");
        let expected: Vec<_> = lines.into_iter().map(|(_, sample)| sample).collect();
        prop_assert_eq!(scan([text.as_bytes()]), (expected.clone(), 0));
        prop_assert_eq!(scan(text.as_bytes().chunks(piece)), (expected, 0));
    }

    #[test]
    fn reads_the_same_samples_as_prometheus_parse(lines in prop::collection::vec(oracle_line(), 0..20)) {
        let now = std::time::SystemTime::UNIX_EPOCH.into();
        let oracle = lines.iter().cloned().map(Ok);
        let oracle = prometheus_parse::Scrape::parse_at(oracle, now).unwrap();
        let mut ours = KeepRaw::default();
        let mut scanner = Scanner::default();
        scanner.push(lines.join("\n").as_bytes(), &mut ours);
        scanner.finish(&mut ours);
        prop_assert_eq!(scanner.malformed(), 0);
        prop_assert_eq!(ours.0.len(), oracle.samples.len());
        for (ours, theirs) in ours.0.iter().zip(&oracle.samples) {
            prop_assert_eq!(&ours.name, &theirs.metric);
            let mut labels: Vec<_> = theirs.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            labels.sort();
            prop_assert_eq!(&ours.labels, &labels);
            prop_assert_eq!(prometheus_parse::Value::Untyped(ours.value), theirs.value.clone());
            let millis = theirs.timestamp.timestamp_millis() as f64;
            prop_assert_eq!(ours.timestamp.unwrap_or(0.0), millis);
        }
    }

    #[test]
    fn no_bytes_panic_and_pieces_change_nothing(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..400),
            prop::collection::vec(prop::sample::select(b"xy{}=\",\\ \t\r\n#019.eE+-NaInf\xff".to_vec()), 0..400),
        ],
        piece in 1usize..40,
    ) {
        let show = |(samples, malformed): (Vec<Owned>, u64)| (format!("{samples:?}"), malformed);
        prop_assert_eq!(show(scan([bytes.as_slice()])), show(scan(bytes.chunks(piece))));
    }
}
