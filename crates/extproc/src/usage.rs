//! What a model server's answer says of itself as it streams by: tokens used, and when output came.
//!
//! A [`ResponseReader`] is fed a response's body as the chunks arrive, cut anywhere, and tells the newest token counts
//! (OpenAI chat, completions, embeddings and responses; Anthropic messages) and how many server-sent events carried
//! output, which is what time to first token and inter-token time are measured by. It never fails: what is not
//! understood is passed over, since an answer that the picker cannot read still belongs to the client. It allocates
//! nothing, and its state is of fixed size however long a line, an event or a body is.

mod events;
mod fields;
#[cfg(test)]
mod tests;

use crate::json::Scanner;
use events::{Lines, Step};
use fields::Fields;

/// The most tokens that one count may tell; larger values are taken for this one. Far above any context window, and
/// low enough that sums over a process's life stay within 64 bits.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// The tokens of one request, as the server counts them. The newest value of each wins; absent until one was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt: `prompt_tokens` or `input_tokens`. Anthropic's own servers leave those out that were read
    /// from a cache, all others count them in.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated: `completion_tokens` or `output_tokens`. Absent for embeddings.
    pub output_tokens: Option<u64>,
    /// Tokens of the prompt that a prefix cache held: `prompt_tokens_details.cached_tokens`,
    /// `input_tokens_details.cached_tokens` or `cache_read_input_tokens`.
    pub cached_tokens: Option<u64>,
}

/// How a response's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// One JSON text.
    Json,
    /// Server-sent events whose data are JSON texts.
    EventStream,
    /// Anything else, compressed bodies among it: not read.
    Opaque,
}

/// The server-sent events that one chunk completed. All zero for bodies that are no event stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Events with data, whatever it says, `[DONE]` apart.
    pub events: u64,
    /// Those of them that carried output.
    pub output: u64,
}

/// Reads one response.
#[derive(Debug)]
pub struct ResponseReader {
    /// What the body is.
    kind: ResponseKind,
    /// The event stream's lines.
    lines: Lines,
    /// The JSON text at hand: the body's, or the open event's.
    payload: Payload,
    /// How many events carried output so far.
    output_events: u64,
}

/// One JSON text, and how it stands with it.
#[derive(Debug)]
struct Payload {
    /// Reads the text.
    scanner: Scanner,
    /// What it found: the tokens of all texts, the flags of this one.
    fields: Fields,
    /// The text's first bytes without leading white space, to know `[DONE]` by.
    head: [u8; HEAD],
    /// How much of `head` is filled.
    head_len: usize,
}

/// The data of the event by which OpenAI-like servers end a stream.
const DONE: &[u8] = b"[DONE]";

/// One more byte than [`DONE`] has, so that a longer text is told from it.
const HEAD: usize = DONE.len() + 1;

impl ResponseKind {
    /// Reads the headers `content-type` and `content-encoding`.
    pub fn of(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> Self {
        let mut encodings = content_encoding.unwrap_or_default().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        if !encodings.all(|encoding| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity")) {
            return Self::Opaque;
        }
        let essence = content_type.unwrap_or_default().split(|&byte| byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        let suffix = essence.len().checked_sub(b"+json".len()).and_then(|from| essence.get(from..)).unwrap_or_default();
        if essence.eq_ignore_ascii_case(b"application/json") || suffix.eq_ignore_ascii_case(b"+json") {
            Self::Json
        } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
            Self::EventStream
        } else {
            Self::Opaque
        }
    }
}

impl Seen {
    /// Adds one event.
    fn add(&mut self, output: bool) {
        self.events += 1;
        self.output += u64::from(output);
    }
}

impl ResponseReader {
    /// A reader for a response of this kind.
    pub const fn new(kind: ResponseKind) -> Self {
        Self { kind, lines: Lines::new(), payload: Payload::new(), output_events: 0 }
    }

    /// Reads the next chunk.
    pub fn feed(&mut self, bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        match self.kind {
            ResponseKind::Opaque => {}
            ResponseKind::Json => self.payload.read(bytes),
            ResponseKind::EventStream => {
                let mut rest = bytes;
                while let Some(step) = self.lines.next(&mut rest) {
                    match step {
                        Step::Data(part) => self.payload.read_data(part),
                        Step::EndOfEvent => self.end_event(&mut seen),
                    }
                }
            }
        }
        self.output_events += seen.output;
        seen
    }

    /// Says that the body has ended. An event that no blank line follows counts when its data is whole.
    pub fn finish(&mut self) -> Seen {
        let mut seen = Seen::default();
        if self.kind == ResponseKind::EventStream && self.payload.scanner.is_complete() {
            self.end_event(&mut seen);
        }
        self.output_events += seen.output;
        seen
    }

    /// The newest token counts.
    pub fn usage(&self) -> Usage {
        self.payload.fields.usage
    }

    /// How many server-sent events carried output so far.
    ///
    /// Output is text, reasoning, a refusal or a tool's arguments: not the chunk that only names the role, nor the one
    /// that only tells usage or why generation ended, nor an error. Events of a shape that is none of the known APIs',
    /// or that are not JSON, are taken for output: of such a stream nothing better can be said.
    pub fn events(&self) -> u64 {
        self.output_events
    }

    /// The open event is over.
    fn end_event(&mut self, seen: &mut Seen) {
        let payload = &mut self.payload;
        let head = payload.head.get(..payload.head_len).unwrap_or_default();
        if !head.is_empty() && head.trim_ascii_end() != DONE {
            seen.add(payload.fields.carries_output());
        }
        payload.reset();
    }
}

impl Payload {
    /// A text of which nothing was read.
    const fn new() -> Self {
        Self { scanner: Scanner::new(), fields: Fields::new(), head: [0; HEAD], head_len: 0 }
    }

    /// Forgets the text, not the tokens.
    fn reset(&mut self) {
        self.scanner.reset();
        self.fields.reset();
        self.head_len = 0;
    }

    /// Reads more of an event's data.
    fn read_data(&mut self, part: &[u8]) {
        if self.head_len < HEAD {
            let part = if self.head_len == 0 { part.trim_ascii_start() } else { part };
            let room = self.head.get_mut(self.head_len..).unwrap_or_default();
            let kept = part.len().min(room.len());
            room[..kept].copy_from_slice(&part[..kept]);
            self.head_len += kept;
        }
        self.read(part);
    }

    /// Reads more of the text. A scanner that met a flaw tells it again and reads no further: it takes that text alone.
    fn read(&mut self, bytes: &[u8]) {
        let _ = self.scanner.feed(bytes, &mut self.fields);
    }
}
