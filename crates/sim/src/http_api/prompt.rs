//! What requests look like on the wire, and the text that the model sees of them.

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::tokenizer;

/// One message of a conversation; its other fields are of no use here.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    #[serde(default = "user")]
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

/// A message's content, a system prompt, or one input.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Value>),
}

/// Options of a stream.
#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// How much of the prompt an image is, in tokens.
const IMAGE_TOKENS: usize = 256;

fn user() -> String {
    "user".to_owned()
}

impl Message {
    /// One message of the user's.
    pub(super) fn user(text: String) -> Self {
        Self { role: user(), content: Some(Content::Text(text)) }
    }
}

/// The whole prompt of a conversation: tools and system prompt first, as chat templates put them.
pub(super) fn chat(tools: Option<&Value>, system: Option<&Content>, messages: &[Message]) -> String {
    let mut text = String::new();
    if let Some(tools) = tools {
        tokenizer::push_message(&mut text, "tools", &tools.to_string());
    }
    if let Some(system) = system {
        tokenizer::push_message(&mut text, "system", &content(system));
    }
    for message in messages {
        let said = message.content.as_ref().map(content).unwrap_or_default();
        tokenizer::push_message(&mut text, &message.role, &said);
    }
    tokenizer::open_answer(&mut text);
    text
}

/// A content as text: text parts in order, everything else as a stand-in as long as an image.
fn content(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let mut text = String::new();
            for part in parts {
                match part.get("text").and_then(Value::as_str) {
                    Some(said) => text.push_str(said),
                    None => text.push_str(&stand_in(part)),
                }
            }
            text
        }
    }
}

/// Text that is the same for the same image and another for another.
fn stand_in(part: &Value) -> String {
    let digest = format!("{:016x}", xxh3_64(part.to_string().as_bytes()));
    digest.repeat(IMAGE_TOKENS * tokenizer::BYTES_PER_TOKEN / digest.len())
}

/// A prompt or an embedding's input in its allowed shapes: text, texts, token numbers, lists of token numbers.
pub(super) fn inputs(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_u64) => Some(vec![token_text(items)]),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Some(text.clone()),
                Value::Array(numbers) if numbers.iter().all(Value::is_u64) => Some(token_text(numbers)),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Four bytes for each token number, so that it counts as one token.
fn token_text(numbers: &[Value]) -> String {
    numbers.iter().map(|number| format!("{:04x}", number.as_u64().unwrap_or_default() & 0xffff)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_parts_count_as_their_text_and_images_by_size() {
        let render = |messages: Value| chat(None, None, &serde_json::from_value::<Vec<Message>>(messages).unwrap());
        let plain = render(json!([{"role": "user", "content": "hello"}]));
        let parts = render(json!([{"content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]));
        assert_eq!((plain.as_str(), parts.as_str()), ("user\nhello\nassistant\n", "user\nhello\nassistant\n"));
        let image = |url| render(json!([{"content": [{"type": "image_url", "image_url": {"url": url}}]}]));
        assert_eq!(image("a").len(), "user\n\nassistant\n".len() + 1024);
        assert_ne!(image("a"), image("b"));
        assert_eq!(render(json!([{"role": "assistant", "content": null}])), "assistant\n\nassistant\n");
    }

    #[test]
    fn every_shape_of_a_prompt_is_read() {
        for (value, lengths) in [
            (json!("abcd"), Some(vec![4])),
            (json!(["ab", "c"]), Some(vec![2, 1])),
            (json!([1, 2, 70_000]), Some(vec![12])),
            (json!([[1], [2, 3]]), Some(vec![4, 8])),
            (json!({"a": 1}), None),
            (json!([1, "a"]), None),
        ] {
            let seen = inputs(&value).map(|texts| texts.iter().map(String::len).collect::<Vec<_>>());
            assert_eq!(seen, lengths, "{value}");
        }
    }
}
