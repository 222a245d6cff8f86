//! No cut of a body changes what is read.

use proptest::prelude::*;

use super::{ANTHROPIC, CHAT, COMPLETIONS, REASONING_AND_TOOLS, RESPONSES, read};
use crate::usage::ResponseKind;

/// Cuts a body into chunks of these lengths, again and again.
fn cut<'a>(mut body: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &length in lengths.iter().cycle() {
        if body.is_empty() {
            break;
        }
        let (chunk, rest) = body.split_at(length.min(body.len()));
        chunks.push(chunk);
        body = rest;
    }
    chunks
}

/// Real streams with any line ending, in which some bytes are changed, and mixes of what streams are made of.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let real = prop::sample::select(vec![CHAT, COMPLETIONS, REASONING_AND_TOOLS, ANTHROPIC, RESPONSES]);
    let ending = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    let byte = prop_oneof![prop::sample::select(b"\r\n:{}[]\",\\ d1".to_vec()), any::<u8>()];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), byte), 0..6);
    let changed = (real, ending, changes).prop_map(|(real, ending, changes)| {
        let mut body = real.replace('\n', ending).into_bytes();
        for (place, byte) in changes {
            let at = place.index(body.len());
            body[at] = byte;
        }
        body
    });
    let pieces: Vec<&[u8]> = vec![
        b"data: ",
        b"data:",
        b"data",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"event: x\n",
        b": c\n",
        b"[DONE]",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"choices\":",
        b"{\"text\":\"\xC3\xA9\"}",
        b"\"usage\":{\"prompt_tokens\":",
        b"12",
        b"3",
        b",",
        b" ",
        b"\xEF\xBB\xBF",
        b"\xEF",
        b"\"",
        b"\\",
        b"\x0C",
        b"\"message\":{",
    ];
    let mixed = prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat());
    prop_oneof![changed, mixed, prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #[test]
    fn no_cut_changes_what_is_read(
        body in bodies(),
        lengths in prop::collection::vec(prop_oneof![4 => 1_usize..6, 1 => 6_usize..200], 1..12),
    ) {
        for kind in [ResponseKind::EventStream, ResponseKind::Json] {
            let whole = read(kind, [&body[..]]);
            prop_assert_eq!(read(kind, cut(&body, &lengths)), whole);
            prop_assert_eq!(read(kind, body.chunks(1)), whole);
        }
    }

    #[test]
    fn a_json_answer_is_read_as_serde_json_reads_it(
        prompt in any::<u32>(),
        output in any::<u32>(),
        content in any::<String>(),
        lengths in prop::collection::vec(1_usize..40, 1..12),
    ) {
        let body = serde_json::json!({
            "choices": [{"message": {"content": content, "usage": {"prompt_tokens": 1}}}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output},
        });
        let (usage, _) = read(ResponseKind::Json, cut(body.to_string().as_bytes(), &lengths));
        let expected = |tokens: u32| Some(u64::from(tokens).min(crate::usage::TOKENS_MAX));
        prop_assert_eq!((usage.prompt_tokens, usage.output_tokens), (expected(prompt), expected(output)));
    }
}
