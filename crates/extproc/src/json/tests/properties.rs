//! The scanner beside `serde_json`, on random documents, damaged documents and plain noise, cut anywhere.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{Enough, Event, Recorder, scan};
use crate::json::{Fault, KEY_MAX};

/// A source of choices for the writer: how many blanks, which escape, which order.
struct Style(u64);

impl Style {
    /// A number below `bound`.
    fn pick(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Writes `value` in a random style, and the events that it must be told by.
fn write(value: &Value, style: &mut Style, text: &mut String, events: &mut Vec<Event>) {
    blank(style, text);
    match value {
        Value::String(string) => {
            write_string(string, style, text);
            events.push(Event::Text(Some(string.clone())));
        }
        Value::Array(elements) => {
            events.push(Event::BeginArray);
            text.push('[');
            for (index, element) in elements.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                write(element, style, text, events);
            }
            text.push(']');
            events.push(Event::EndArray);
        }
        Value::Object(members) => {
            events.push(Event::BeginObject);
            text.push('{');
            let mut members: Vec<_> = members.iter().collect();
            for index in (1..members.len()).rev() {
                members.swap(index, style.pick(index + 1));
            }
            for (index, (key, member)) in members.into_iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                blank(style, text);
                write_string(key, style, text);
                events.push(Event::Key((key.len() <= KEY_MAX).then(|| key.clone())));
                blank(style, text);
                text.push(':');
                write(member, style, text, events);
            }
            text.push('}');
            events.push(Event::EndObject);
        }
        scalar => {
            text.push_str(&scalar.to_string());
            events.push(Event::Scalar(scalar.to_string()));
        }
    }
    blank(style, text);
}

fn blank(style: &mut Style, text: &mut String) {
    text.push_str(["", "", "", " ", "\n  ", "\t\r\n"][style.pick(6)]);
}

/// Writes a string: what must be escaped in any way that does it, and now and then what need not be.
fn write_string(string: &str, style: &mut Style, text: &mut String) {
    text.push('"');
    for character in string.chars() {
        let short = ['"', '\\', '/', '\u{8}', '\u{c}', '\n', '\r', '\t'].iter().position(|&other| other == character);
        let must = character < ' ' || character == '"' || character == '\\';
        match (short, style.pick(8)) {
            (Some(index), 1..) if must || style.pick(2) == 0 => {
                text.push_str([r#"\""#, r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t"][index])
            }
            (_, pick) if must || pick == 0 => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let escape = if style.pick(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
                    text.push_str(&escape);
                }
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

/// Puts a document together again out of what was told, short keys only.
fn rebuild(events: &mut std::slice::Iter<'_, Event>) -> Value {
    match events.next().unwrap() {
        Event::BeginObject => {
            let mut members = Map::new();
            while let Event::Key(key) = events.next().unwrap() {
                members.insert(key.clone().unwrap(), rebuild(events));
            }
            Value::Object(members)
        }
        Event::BeginArray => {
            let mut elements = Vec::new();
            while events.as_slice().first() != Some(&Event::EndArray) {
                elements.push(rebuild(events));
            }
            events.next();
            Value::Array(elements)
        }
        Event::Text(text) => Value::String(text.clone().unwrap()),
        Event::Scalar(literal) => serde_json::from_str(literal).unwrap(),
        event => panic!("{event:?} where a value must be"),
    }
}

/// Cuts a text into chunks of these lengths, again and again; a length of 0 gives an empty chunk, then one of 1.
fn cut<'a>(mut text: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &length in lengths.iter().cycle() {
        if text.is_empty() {
            break;
        }
        if length == 0 {
            chunks.push(&text[..0]);
        }
        let (chunk, rest) = text.split_at(length.clamp(1, text.len()));
        chunks.push(chunk);
        text = rest;
    }
    chunks
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![4 => 0_usize..6, 1 => 6_usize..80], 1..12)
}

fn strings() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,8}",
        "[ -~]{0,80}",
        prop::collection::vec(any::<char>(), 0..24).prop_map(String::from_iter),
        prop::collection::vec(
            prop::sample::select("\"\\/\u{8}\u{c}\n\r\t\0é€😀\u{FFFD}\u{10FFFF}a".chars().collect::<Vec<_>>()),
            0..24
        )
        .prop_map(String::from_iter),
    ]
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        strings().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((strings(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What becomes of a damaged document: a place in it, and a byte to put there, beside what is there, or to take away.
fn damages() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![
        4 => prop::sample::select(b"\"\\{}[]:,0123-+.eEtfnu/ \n\t\x00\x1f\x7f\x80\xbf\xc3\xe2\xed\xf0\xff".to_vec()),
        1 => any::<u8>(),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), byte, 0_u8..3), 1..4)
}

/// Whether `serde_json` reads a text, without what it refuses and the scanner must not: lone surrogates and numbers
/// that no f64 can hold. Both are refused only by those who build values.
fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok() && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// How a scan ends, what it told, and what of an unfinished string.
type Outcome = (Option<Fault<Enough>>, Vec<Event>, Option<Vec<u8>>);

/// Scans a text cut into chunks of these lengths.
fn outcome(text: &[u8], lengths: &[usize], unwanted: bool) -> Outcome {
    let mut recorder = Recorder { unwanted, ..Recorder::default() };
    let fault = scan(cut(text, lengths), &mut recorder).err();
    (fault, recorder.events, recorder.open)
}

proptest! {
    #[test]
    fn tells_what_serde_json_reads_however_the_text_is_written_and_cut(
        document in documents(),
        seed in any::<u64>(),
        lengths in lengths(),
    ) {
        let (mut text, mut expected) = (String::new(), Vec::new());
        write(&document, &mut Style(seed), &mut text, &mut expected);
        let (fault, told, _) = outcome(text.as_bytes(), &lengths, false);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(&told, &expected);
        if !told.contains(&Event::Key(None)) {
            prop_assert_eq!(rebuild(&mut told.iter()), serde_json::from_str::<Value>(&text).unwrap());
        }
        let without_text = |event: &Event| if let Event::Text(_) = event { Event::Text(None) } else { event.clone() };
        let expected: Vec<Event> = expected.iter().map(without_text).collect();
        prop_assert_eq!(outcome(text.as_bytes(), &lengths, true), (None, expected, None));
    }

    #[test]
    fn refuses_what_serde_json_refuses_at_the_same_place_however_it_is_cut(
        document in documents(),
        seed in any::<u64>(),
        damages in damages(),
        lengths in lengths(),
    ) {
        let mut text = String::new();
        write(&document, &mut Style(seed), &mut text, &mut Vec::new());
        let mut text = text.into_bytes();
        for (place, byte, deed) in damages {
            let at = place.index(text.len() + 1);
            match deed {
                0 => text.insert(at, byte),
                1 if at < text.len() => text[at] = byte,
                _ if at < text.len() => drop(text.remove(at)),
                _ => {}
            }
        }
        let whole = outcome(&text, &[text.len()], false);
        prop_assert_eq!(whole.0.is_none(), is_json(&text), "{}", text.escape_ascii());
        prop_assert_eq!(&outcome(&text, &lengths, false), &whole);
        prop_assert_eq!(outcome(&text, &lengths, true).0, whole.0);
    }

    #[test]
    fn noise_is_refused_as_serde_json_refuses_it(
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(prop::sample::select(br#"{}[]",:\u0d8 1-.e"#.to_vec()), 0..24),
        ],
        lengths in lengths(),
    ) {
        let whole = outcome(&text, &[text.len()], false);
        prop_assert_eq!(whole.0.is_none(), is_json(&text), "{}", text.escape_ascii());
        prop_assert_eq!(outcome(&text, &lengths, false), whole);
    }
}
