//! Text as the simulated model sees it: four bytes a token, and block hashes chained over those bytes.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::rng::Rng;

/// Bytes of text in one token; every generated token is exactly this long.
pub const BYTES_PER_TOKEN: usize = 4;

const CONSONANTS: &[u8] = b"bcdfghjklmnprstvwz";
const VOWELS: &[u8] = b"aeiou";

/// How many tokens a text of `bytes` bytes is.
pub const fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The prompt of a chat: role and content of each message, then the opening of the assistant's turn.
///
/// The rendering of a conversation's next turn begins with this turn's rendering followed by the answer, which is what
/// lets a KV cache serve a conversation's history.
pub fn render_chat<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (role, content) in messages {
        push_message(&mut text, role, content);
    }
    open_answer(&mut text);
    text
}

/// Appends one whole message to a prompt.
pub(crate) fn push_message(text: &mut String, role: &str, content: &str) {
    text.push_str(role);
    text.push('\n');
    text.push_str(content);
    text.push('\n');
}

/// Appends the opening of the assistant's turn, after which the model writes.
pub(crate) fn open_answer(text: &mut String) {
    text.push_str("assistant\n");
}

/// What the simulated model answers to `prompt`: `tokens` made-up words, four bytes each.
///
/// A function of the prompt alone, so that all servers answer alike and a workload knows the history in advance.
pub fn answer(prompt: &str, tokens: usize) -> String {
    words(&mut Rng::new(xxh3_64(prompt.as_bytes())), tokens)
}

/// `tokens` made-up words of three letters and a space.
pub(crate) fn words(rng: &mut Rng, tokens: usize) -> String {
    let mut text = String::with_capacity(tokens * BYTES_PER_TOKEN);
    for _ in 0..tokens {
        let bits = rng.next_u64();
        let pick = |set: &[u8], shift: u32| char::from(set[(bits >> shift) as usize % set.len()]);
        text.push(pick(CONSONANTS, 0));
        text.push(pick(VOWELS, 16));
        text.push(pick(CONSONANTS, 32));
        text.push(' ');
    }
    text
}

/// Chained hashes of the text's full blocks of `block_tokens` tokens: a hash names the block and all before it.
///
/// `root` separates what must never share (adapters, cache salts).
pub fn chain(root: u64, text: &str, block_tokens: usize) -> Vec<u64> {
    let mut hash = root;
    text.as_bytes()
        .chunks_exact((block_tokens * BYTES_PER_TOKEN).max(1))
        .map(|block| {
            hash = xxh3_64_with_seed(block, hash);
            hash
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_four_bytes_and_an_answer_is_exactly_as_long_as_asked() {
        for (bytes, expected) in [(0, 0), (1, 1), (4, 1), (5, 2), (4096, 1024)] {
            assert_eq!(tokens(bytes), expected, "{bytes} bytes");
        }
        let text = answer("user\nhello\nassistant\n", 33);
        assert_eq!(tokens(text.len()), 33);
        assert_eq!(text, answer("user\nhello\nassistant\n", 33));
        assert_ne!(text, answer("user\nhallo\nassistant\n", 33));
    }

    #[test]
    fn the_next_turn_extends_the_prompt_and_its_answer() {
        let first = render_chat([("system", "be brief"), ("user", "hello")]);
        let said = answer(&first, 20);
        let second = render_chat([("system", "be brief"), ("user", "hello"), ("assistant", &said), ("user", "more")]);
        assert!(second.starts_with(&(first + &said)));
    }

    #[test]
    fn hashes_agree_up_to_the_first_difference_and_never_after_it() {
        let text = words(&mut Rng::new(1), 64);
        let mut other = text.clone();
        other.replace_range(100..101, "#");
        let (a, b) = (chain(0, &text, 8), chain(0, &other, 8));
        assert_eq!(a.len(), 8);
        assert_eq!(a[..3], b[..3]);
        assert!(a[3..].iter().zip(&b[3..]).all(|(a, b)| a != b));
        assert!(chain(1, &text, 8).iter().zip(&a).all(|(salted, plain)| salted != plain));
    }
}
