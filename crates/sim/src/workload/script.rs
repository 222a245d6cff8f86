//! The texts of one conversation.

use bytes::Bytes;
use serde::Serialize;

use super::{Conversation, Workload};
use crate::tokenizer;

/// What a conversation's system prompt, user and assistant say.
///
/// The assistant says what a simulated server answers to that very prompt, so the history that later turns bring along is
/// what the server has in its cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    system: String,
    /// What the user says and what is answered, by turn.
    exchanges: Vec<(String, String)>,
}

/// A chat request as JSON.
#[derive(Debug, Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    messages: Vec<ChatMessage<'a>>,
    max_tokens: usize,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

/// One message of it.
#[derive(Debug, Serialize)]
struct ChatMessage<'a> {
    role: &'a str,
    content: &'a str,
}

/// Asks for usage at the stream's end.
#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl Script {
    pub(super) fn write(workload: &Workload, conversation: &Conversation) -> Self {
        let mut rng = workload.text_rng(conversation);
        let mut script = Self { system: workload.system_text(conversation.system), exchanges: Vec::new() };
        for turn in &conversation.turns {
            script.exchanges.push((tokenizer::words(&mut rng, turn.user_tokens), String::new()));
            let answer = tokenizer::answer(&script.prompt(script.exchanges.len() - 1), turn.output_tokens);
            if let Some(exchange) = script.exchanges.last_mut() {
                exchange.1 = answer;
            }
        }
        script
    }

    /// How many turns there are.
    pub fn turns(&self) -> usize {
        self.exchanges.len()
    }

    /// Role and content of each message that turn `turn` (from 0 on) sends.
    pub fn messages(&self, turn: usize) -> impl Iterator<Item = (&str, &str)> {
        let earlier = self.exchanges.iter().take(turn);
        let history = earlier.flat_map(|(user, answer)| [("user", user.as_str()), ("assistant", answer.as_str())]);
        let now = self.exchanges.get(turn).map(|(user, _)| ("user", user.as_str()));
        [("system", self.system.as_str())].into_iter().chain(history).chain(now)
    }

    /// The prompt of a turn as the model sees it.
    pub fn prompt(&self, turn: usize) -> String {
        tokenizer::render_chat(self.messages(turn))
    }

    /// What a simulated server answers to a turn; empty when there is no such turn.
    pub fn answer(&self, turn: usize) -> &str {
        self.exchanges.get(turn).map_or("", |(_, answer)| answer)
    }

    /// The request of a turn as a body for `/v1/chat/completions`, with usage when it streams.
    pub fn chat_body(&self, turn: usize, model: &str, stream: bool) -> Bytes {
        let body = ChatBody {
            model,
            messages: self.messages(turn).map(|(role, content)| ChatMessage { role, content }).collect(),
            max_tokens: tokenizer::tokens(self.answer(turn).len()),
            stream,
            stream_options: stream.then_some(StreamOptions { include_usage: true }),
        };
        // Serialising strings and numbers into memory cannot fail.
        Bytes::from(serde_json::to_vec(&body).unwrap_or_default())
    }
}
