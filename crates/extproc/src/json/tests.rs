//! What the scanner accepts, refuses and tells.

mod properties;

use super::{Fault, Flaw, KEY_MAX, Key, MAX_DEPTH, Malformed, SCALAR_MAX, Scanner, Sink};

/// One call of a sink; a string's parts are put together.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    BeginObject,
    EndObject,
    BeginArray,
    EndArray,
    /// None for a long key.
    Key(Option<String>),
    /// None for an unwanted string.
    Text(Option<String>),
    Scalar(String),
}

/// Writes down what it is told, and checks that strings are told in order.
#[derive(Default)]
struct Recorder {
    events: Vec<Event>,
    open: Option<Vec<u8>>,
    /// Where each string value stands, quotes included.
    spans: Vec<std::ops::Range<u64>>,
    unwanted: bool,
    /// After how many calls the sink refuses to go on.
    limit: Option<usize>,
}

/// What a recorder that has reached its limit returns.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Enough;

impl Recorder {
    fn record(&mut self, event: Event) -> Result<(), Enough> {
        assert!(self.open.is_none(), "{event:?} within a string");
        self.events.push(event);
        if self.limit.is_some_and(|limit| self.events.len() >= limit) { Err(Enough) } else { Ok(()) }
    }
}

impl Sink for Recorder {
    type Error = Enough;

    fn begin_object(&mut self) -> Result<(), Enough> {
        self.record(Event::BeginObject)
    }

    fn end_object(&mut self) -> Result<(), Enough> {
        self.record(Event::EndObject)
    }

    fn begin_array(&mut self) -> Result<(), Enough> {
        self.record(Event::BeginArray)
    }

    fn end_array(&mut self) -> Result<(), Enough> {
        self.record(Event::EndArray)
    }

    fn key(&mut self, key: Key<'_>) -> Result<(), Enough> {
        self.record(Event::Key(match key {
            Key::Name(name) => Some(String::from_utf8(name.to_vec()).unwrap()),
            Key::Long => None,
        }))
    }

    fn begin_string(&mut self, at: u64) -> Result<(), Enough> {
        assert!(self.open.replace(Vec::new()).is_none(), "a string within a string");
        self.spans.push(at..at);
        Ok(())
    }

    fn wants_string(&self) -> bool {
        !self.unwanted
    }

    fn string_part(&mut self, part: &[u8]) -> Result<(), Enough> {
        assert!(!self.unwanted && !part.is_empty());
        self.open.as_mut().unwrap().extend_from_slice(part);
        Ok(())
    }

    fn end_string(&mut self, end: u64) -> Result<(), Enough> {
        self.spans.last_mut().unwrap().end = end;
        let text = String::from_utf8(self.open.take().unwrap()).unwrap();
        self.record(Event::Text((!self.unwanted).then_some(text)))
    }

    fn scalar(&mut self, literal: &[u8]) -> Result<(), Enough> {
        self.record(Event::Scalar(String::from_utf8(literal.to_vec()).unwrap()))
    }
}

/// Scans a text given in chunks.
fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, recorder: &mut Recorder) -> Result<Scanner, Fault<Enough>> {
    let mut scanner = Scanner::new();
    for chunk in chunks {
        scanner.feed(chunk, recorder)?;
    }
    scanner.finish(recorder)?;
    assert!(scanner.is_complete() && scanner.depth() == 0);
    Ok(scanner)
}

/// What a text tells, the same in one piece and byte by byte, wanted or not.
fn events(text: impl AsRef<[u8]>) -> Result<Vec<Event>, Fault<Enough>> {
    let text = text.as_ref();
    let mut whole = Recorder::default();
    let outcome = scan([text], &mut whole).map(|scanner| scanner.offset());
    for unwanted in [false, true] {
        let mut bytewise = Recorder { unwanted, ..Recorder::default() };
        assert_eq!(scan(text.chunks(1), &mut bytewise).map(|scanner| scanner.offset()), outcome);
        if outcome.is_ok() {
            assert_eq!(bytewise.spans, whole.spans);
            if !unwanted {
                assert_eq!(bytewise.events, whole.events);
            }
        }
    }
    if outcome.is_ok() {
        let texts =
            whole.events.iter().filter_map(|event| if let Event::Text(text) = event { text.as_ref() } else { None });
        for (span, told) in whole.spans.iter().zip(texts) {
            let bytes = &text[span.start as usize..span.end as usize];
            assert!(bytes.len() >= 2 && bytes.starts_with(b"\"") && bytes.ends_with(b"\""));
            // What `serde_json` refuses is a lone surrogate.
            assert!(
                serde_json::from_slice::<String>(bytes).is_ok_and(|read| read == *told) || told.contains('\u{FFFD}')
            );
        }
    }
    outcome.map(|_| whole.events)
}

/// The only string or key of a text.
fn text(event: &str) -> Event {
    Event::Text(Some(event.to_owned()))
}

#[test]
fn tells_every_event_of_a_document_in_order() {
    let document = br#" { "model" : "m", "messages":[{"role":"user","content":"a\nb"}, []], "n":-1.5e+3, "s":true} "#;
    let key = |name: &str| Event::Key(Some(name.to_owned()));
    let expected = [
        Event::BeginObject,
        key("model"),
        text("m"),
        key("messages"),
        Event::BeginArray,
        Event::BeginObject,
        key("role"),
        text("user"),
        key("content"),
        text("a\nb"),
        Event::EndObject,
        Event::BeginArray,
        Event::EndArray,
        Event::EndArray,
        key("n"),
        Event::Scalar("-1.5e+3".to_owned()),
        key("s"),
        Event::Scalar("true".to_owned()),
        Event::EndObject,
    ];
    assert_eq!(events(document).unwrap(), expected);
}

#[test]
fn accepts_what_the_standard_allows() {
    for document in [
        "{}",
        "[]",
        "[{}]",
        "\t\r\n 0 \t\r\n",
        "-0",
        "-0.0",
        "0e0",
        "1E-7",
        "123.456E+78",
        "null",
        "false",
        r#""""#,
        "[1,2 , 3]",
        r#"{"":{"":[]}}"#,
        r#"{"a":1,"a":2}"#,
        "\"\u{7f}\"",
        "\"é€😀\"",
        r#""\"\\\/\b\f\n\r\t\u0000""#,
    ] {
        assert!(events(document).is_ok(), "{document}");
    }
}

#[test]
fn refuses_everything_else_and_tells_where() {
    let cases: &[(&[u8], Flaw, u64)] = &[
        (b"", Flaw::UnexpectedEnd, 0),
        (b"  ", Flaw::UnexpectedEnd, 2),
        (b"[1", Flaw::UnexpectedEnd, 2),
        (b"{\"a\":\"b", Flaw::UnexpectedEnd, 7),
        (b"tru", Flaw::UnexpectedEnd, 3),
        (b"-", Flaw::UnexpectedEnd, 1),
        (b"1.", Flaw::UnexpectedEnd, 2),
        (b"1e+", Flaw::UnexpectedEnd, 3),
        (b"\"\xC3", Flaw::UnexpectedEnd, 2),
        (b"[1,]", Flaw::TrailingComma, 3),
        (b"{\"a\":1 , }", Flaw::TrailingComma, 9),
        (b"[,1]", Flaw::ExpectedValue, 1),
        (b"]", Flaw::ExpectedValue, 0),
        (b"{\"a\":}", Flaw::ExpectedValue, 5),
        (b"[\"a\",,]", Flaw::ExpectedValue, 5),
        (b"NaN", Flaw::ExpectedValue, 0),
        (b"Infinity", Flaw::ExpectedValue, 0),
        (b"-Infinity", Flaw::BadNumber, 1),
        (b"[+1]", Flaw::ExpectedValue, 1),
        (b"[.5]", Flaw::ExpectedValue, 1),
        (b"'a'", Flaw::ExpectedValue, 0),
        (b"// a\n1", Flaw::ExpectedValue, 0),
        (b"\x0C1", Flaw::ExpectedValue, 0),
        (b"\xEF\xBB\xBF{}", Flaw::ByteOrderMark, 0),
        (b" \xEF\xBB\xBF{}", Flaw::ExpectedValue, 1),
        (b"{a:1}", Flaw::ExpectedKey, 1),
        (b"{1:1}", Flaw::ExpectedKey, 1),
        (b"{\"a\":1,,}", Flaw::ExpectedKey, 7),
        (b"{\"a\" 1}", Flaw::ExpectedColon, 5),
        (b"{\"a\"}", Flaw::ExpectedColon, 4),
        (b"[1}", Flaw::ExpectedCommaOrEnd, 2),
        (b"{\"a\":1]", Flaw::ExpectedCommaOrEnd, 6),
        (b"[1 2]", Flaw::ExpectedCommaOrEnd, 3),
        (b"[truefalse]", Flaw::ExpectedCommaOrEnd, 5),
        (b"nul", Flaw::UnexpectedEnd, 3),
        (b"nulL", Flaw::UnknownWord, 3),
        (b"True", Flaw::ExpectedValue, 0),
        (b"[01]", Flaw::BadNumber, 2),
        (b"[-01]", Flaw::BadNumber, 3),
        (b"[1.e5]", Flaw::BadNumber, 3),
        (b"[1e]", Flaw::BadNumber, 3),
        (b"[--1]", Flaw::BadNumber, 2),
        (b"[1.2.3]", Flaw::ExpectedCommaOrEnd, 4),
        (b"[0x10]", Flaw::ExpectedCommaOrEnd, 2),
        (b"\"a\nb\"", Flaw::ControlCharacter, 2),
        (b"\"\x00\"", Flaw::ControlCharacter, 1),
        (b"{\"\t\":1}", Flaw::ControlCharacter, 2),
        (b"\"\\a\"", Flaw::BadEscape, 2),
        (b"\"\\'\"", Flaw::BadEscape, 2),
        (b"\"\\u12g4\"", Flaw::BadEscape, 5),
        (b"\"\\u 123\"", Flaw::BadEscape, 3),
        (b"\"\\U0041\"", Flaw::BadEscape, 2),
        (b"\"\xFF\"", Flaw::InvalidUtf8, 1),
        (b"\"\x80\"", Flaw::InvalidUtf8, 1),
        (b"\"\xC0\xAF\"", Flaw::InvalidUtf8, 1),
        (b"\"\xE2\x82\"", Flaw::InvalidUtf8, 3),
        (b"\"\xE2\x82\\n\"", Flaw::InvalidUtf8, 3),
        (b"\"\xED\xA0\x80\"", Flaw::InvalidUtf8, 2),
        (b"\"\xF4\x90\x80\x80\"", Flaw::InvalidUtf8, 2),
        (b"{} {}", Flaw::TrailingBytes, 3),
        (b"1,", Flaw::TrailingBytes, 1),
        (b"{}\x00", Flaw::TrailingBytes, 2),
    ];
    for &(document, flaw, offset) in cases {
        let shown = document.escape_ascii();
        assert_eq!(events(document), Err(Fault::Malformed(Malformed { flaw, offset })), "{shown}");
    }
}

#[test]
fn decodes_every_escape() {
    for (document, expected) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0041\u00e9\u20AC\ud83d\uDE00""#, "Aé€😀"),
        (r#""a\\u0041""#, "a\\u0041"),
        (r#""\ud800""#, "\u{FFFD}"),
        (r#""\udc00x""#, "\u{FFFD}x"),
        (r#""\ud800x\ud800\n""#, "\u{FFFD}x\u{FFFD}\n"),
        (r#""\ud800\u0041""#, "\u{FFFD}A"),
        (r#""\ud800\ud83d\ude00""#, "\u{FFFD}😀"),
        (r#""\udc00\ud800""#, "\u{FFFD}\u{FFFD}"),
    ] {
        assert_eq!(events(document).unwrap(), [text(expected)], "{document}");
    }
}

#[test]
fn keys_are_told_by_name_up_to_their_limit_however_they_are_written() {
    let name = |length: usize| "é".repeat(length / 2) + &"k".repeat(length % 2);
    for (length, written) in [KEY_MAX - 1, KEY_MAX, KEY_MAX + 1, 10 * KEY_MAX].map(|length| (length, name(length))) {
        let expected = Event::Key((length <= KEY_MAX).then(|| written.clone()));
        for key in [written.clone(), written.replace('k', "\\u006b"), written.replace('é', "\\u00E9")] {
            let told = events(format!("{{\"{key}\":{{\"{key}\":0}}, \"next\":0}}")).unwrap();
            assert_eq!((&told[1], &told[3]), (&expected, &expected), "{length}");
            assert_eq!(told[6], Event::Key(Some("next".to_owned())));
        }
    }
    assert_eq!(events(r#"{"mod\u0065l":0}"#).unwrap()[1], Event::Key(Some("model".to_owned())));
}

#[test]
fn long_numbers_are_told_by_their_first_bytes_and_validated_to_their_end() {
    let digits = "7".repeat(10 * SCALAR_MAX);
    for length in [SCALAR_MAX - 1, SCALAR_MAX, SCALAR_MAX + 1, 10 * SCALAR_MAX] {
        let literal = &digits[..length];
        let expected = Event::Scalar(literal[..length.min(SCALAR_MAX)].to_owned());
        assert_eq!(events(literal).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(events(format!("[{literal},1]")).unwrap()[1..3], [expected, Event::Scalar("1".to_owned())]);
        let malformed = Malformed { flaw: Flaw::BadNumber, offset: length as u64 + 2 };
        assert_eq!(events(format!("[{literal}e]")), Err(Fault::Malformed(malformed)));
    }
}

#[test]
fn nesting_is_allowed_to_its_limit_and_refused_beyond() {
    let limit = MAX_DEPTH as usize;
    assert!(events("[".repeat(limit) + &"]".repeat(limit)).is_ok());
    assert!(events("{\"a\":".repeat(limit) + "0" + &"}".repeat(limit)).is_ok());
    assert!(events("[{\"a\":".repeat(limit / 2) + "0" + &"}]".repeat(limit / 2)).is_ok());
    let too_deep = |offset| Err(Fault::Malformed(Malformed { flaw: Flaw::TooDeep, offset }));
    assert_eq!(events("[".repeat(10_000)), too_deep(u64::from(MAX_DEPTH)));
    assert_eq!(events("{\"a\":".repeat(10_000)), too_deep(5 * u64::from(MAX_DEPTH)));
}

#[test]
fn an_ended_scan_stays_ended_until_reset() {
    let mut scanner = Scanner::new();
    let mut recorder = Recorder::default();
    let malformed = Malformed { flaw: Flaw::ExpectedValue, offset: 1 };
    assert_eq!(malformed.to_string(), "invalid JSON at byte 1: a value was expected");
    let malformed = Fault::Malformed(malformed);
    assert_eq!(scanner.feed(b"[?", &mut recorder), Err(malformed));
    assert_eq!(scanner.feed(b"1]", &mut recorder), Err(malformed));
    assert_eq!(scanner.finish(&mut recorder), Err(malformed));
    assert!(!scanner.is_complete());
    scanner.reset();
    assert_eq!(scanner.feed(b"[1]", &mut recorder), Ok(()));
    assert!(scanner.is_complete());
    assert_eq!(scanner.offset(), 3);
}

#[test]
fn a_sink_that_wants_no_more_ends_the_scan_at_once() {
    let document = br#"{"a":["x",1,{}],"b":null}"#;
    let whole = events(document).unwrap();
    for limit in 1..=whole.len() {
        for size in [1, document.len()] {
            let mut recorder = Recorder { limit: Some(limit), ..Recorder::default() };
            assert_eq!(scan(document.chunks(size), &mut recorder).err(), Some(Fault::Sink(Enough)));
            assert_eq!(recorder.events, whole[..limit]);
        }
    }
    let mut scanner = Scanner::new();
    let mut recorder = Recorder { limit: Some(1), ..Recorder::default() };
    assert_eq!(scanner.feed(b"[", &mut recorder), Err(Fault::Sink(Enough)));
    let again = scanner.feed(b"]", &mut recorder);
    assert!(matches!(again, Err(Fault::Malformed(Malformed { flaw: Flaw::Ended, .. }))), "{again:?}");
}

#[test]
fn depth_and_completeness_can_be_asked_between_chunks() {
    let mut scanner = Scanner::new();
    let mut recorder = Recorder::default();
    for (chunk, depth, complete) in
        [(&b"{\"a\":["[..], 2, false), (b"{", 3, false), (b"}]", 1, false), (b"}", 0, true), (b" ", 0, true)]
    {
        scanner.feed(chunk, &mut recorder).unwrap();
        assert_eq!((scanner.depth(), scanner.is_complete()), (depth, complete));
    }
}
