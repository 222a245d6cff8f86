//! Where in a body the scanner stands, as far as it matters.

use crate::api::Api;

/// What a key of the body's root object means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Model,
    /// Messages, `prompt` or `input`: the prompt proper.
    Prompt,
    /// What the model sees ahead of the prompt.
    Preamble,
    Tools,
    CacheSalt,
    Stream,
    MaxTokens,
    Other,
}

impl Field {
    pub(super) fn of_key(api: Api, key: &[u8]) -> Self {
        match (api, key) {
            (_, b"model") => Self::Model,
            (Api::Chat | Api::Messages, b"messages") => Self::Prompt,
            (Api::Completions, b"prompt") => Self::Prompt,
            (Api::Embeddings | Api::Responses, b"input") => Self::Prompt,
            (Api::Messages, b"system") => Self::Preamble,
            (Api::Responses, b"instructions") => Self::Preamble,
            (Api::Chat | Api::Messages | Api::Responses, b"tools") => Self::Tools,
            (_, b"cache_salt") => Self::CacheSalt,
            (_, b"stream") => Self::Stream,
            (_, b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens") => Self::MaxTokens,
            _ => Self::Other,
        }
    }
}

/// What a string within a prompt is, by the nearest key above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Matter {
    /// Text that the model reads.
    Text,
    /// An image, a sound or a file: counted by its size.
    Media,
    /// The role of a message.
    Role,
    /// Neither: types, ids, hints.
    #[default]
    Aside,
    /// Hashed as a whole, with its structure: tool calls, names.
    Extra,
}

impl Matter {
    /// What a message's own key holds.
    pub(super) fn of_message_key(key: &[u8]) -> Self {
        match key {
            b"role" => Self::Role,
            b"content" => Self::Text,
            _ => Self::Extra,
        }
    }

    /// What a key within a message's content holds.
    pub(super) fn of_part_key(key: &[u8]) -> Self {
        match key {
            b"text" | b"content" | b"thinking" | b"refusal" | b"output" => Self::Text,
            b"url" | b"data" | b"image_url" | b"file_data" | b"file_id" => Self::Media,
            _ => Self::Aside,
        }
    }
}
