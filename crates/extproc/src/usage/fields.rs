//! Which members of an answer matter: those of `usage`, at the few paths where an API puts them, and those that hold
//! generated text.
//!
//! Read are `usage`, `message.usage` (Anthropic's `message_start`) and `response.usage` (the responses API). The same
//! names anywhere else, in a message's content or a tool's arguments, are a model's words and mean nothing.

use std::convert::Infallible;

use super::{TOKENS_MAX, Usage};
use crate::json::{Key, Sink};

/// What was found in the JSON texts of one response.
#[derive(Debug)]
pub(super) struct Fields {
    /// The newest token counts, over all texts.
    pub(super) usage: Usage,
    /// Whether this text holds generated text.
    output: bool,
    /// Whether this text is of a shape that tells whether it carries output.
    known: bool,
    /// How many arrays and objects are open.
    depth: usize,
    /// What each of the outermost of them is, the root first.
    places: [Place; PLACES],
    /// The newest key of the innermost object.
    name: Name,
}

/// How many levels are told apart: as many as the deepest path that matters,
/// `choices[].delta.tool_calls`, has. Levels below the last one are as it is: all generated, or nothing that matters.
const PLACES: usize = 5;

/// What an open array or object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing that matters.
    Other,
    /// The outermost object.
    Root,
    /// `message` or `response`.
    Envelope,
    /// `usage`.
    Usage,
    /// `usage.prompt_tokens_details` or `usage.input_tokens_details`.
    Details,
    /// The array `choices`.
    Choices,
    /// An element of `choices`.
    Choice,
    /// `choices[].delta`.
    ChoiceDelta,
    /// `delta` of an Anthropic event.
    EventDelta,
    /// Something within `choices[].delta`, such as `tool_calls`.
    Generated,
}

/// What a key says of the value behind it, given where it stands; a value without a key has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// Nothing that matters.
    Other,
    /// `usage`.
    Usage,
    /// `message` or `response`, in the root.
    Envelope,
    /// `choices`.
    Choices,
    /// `delta`, in the root: an Anthropic event's object, or the responses API's text itself.
    EventDelta,
    /// `delta`, in an element of `choices`.
    ChoiceDelta,
    /// Text that was generated, or what holds it.
    Text,
    /// The count of the prompt's tokens.
    Prompt,
    /// The count of the generated tokens.
    Output,
    /// The count of the cached tokens.
    Cached,
    /// An object with the count of the cached tokens.
    Details,
}

impl Fields {
    /// Before the first text.
    pub(super) const fn new() -> Self {
        Self {
            usage: Usage { prompt_tokens: None, output_tokens: None, cached_tokens: None },
            output: false,
            known: false,
            depth: 0,
            places: [Place::Other; PLACES],
            name: Name::Other,
        }
    }

    /// Before the next text: only the token counts stay.
    pub(super) fn reset(&mut self) {
        *self = Self { usage: self.usage, ..Self::new() };
    }

    /// Whether the text counts as output: text was found in it, or it is of no shape that could tell.
    pub(super) fn carries_output(&self) -> bool {
        self.output || !self.known
    }

    /// What the innermost open array or object is.
    fn place(&self) -> Place {
        let level = self.depth.min(PLACES).checked_sub(1);
        level.and_then(|level| self.places.get(level)).copied().unwrap_or(Place::Other)
    }

    /// An array or object opens.
    fn open(&mut self, place: Place) {
        if let Some(level) = self.places.get_mut(self.depth) {
            *level = place;
        }
        self.depth += 1;
        self.name = Name::Other;
    }

    /// The innermost array or object closes.
    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.name = Name::Other;
    }

    /// What a key means in an object that is `place`.
    fn meaning(place: Place, key: &[u8]) -> Name {
        match (place, key) {
            (Place::Root | Place::Envelope, b"usage") => Name::Usage,
            (Place::Root, b"message" | b"response") => Name::Envelope,
            (Place::Root, b"choices") => Name::Choices,
            (Place::Root, b"delta") => Name::EventDelta,
            (Place::Choice, b"delta") => Name::ChoiceDelta,
            (Place::Usage, b"prompt_tokens" | b"input_tokens") => Name::Prompt,
            (Place::Usage, b"completion_tokens" | b"output_tokens") => Name::Output,
            (Place::Usage, b"cache_read_input_tokens") | (Place::Details, b"cached_tokens") => Name::Cached,
            (Place::Usage, b"prompt_tokens_details" | b"input_tokens_details") => Name::Details,
            (Place::Choice, b"text") | (Place::EventDelta, b"text" | b"partial_json" | b"thinking") => Name::Text,
            (Place::ChoiceDelta, key) if key != b"role" => Name::Text,
            _ => Name::Other,
        }
    }

    /// Whether the string that begins now is generated text.
    fn at_text(&self) -> bool {
        self.place() == Place::Generated || matches!(self.name, Name::Text | Name::EventDelta)
    }
}

impl Sink for Fields {
    type Error = Infallible;

    fn begin_object(&mut self) -> Result<(), Infallible> {
        let place = match (self.place(), self.name) {
            _ if self.depth == 0 => Place::Root,
            (_, Name::Envelope) => Place::Envelope,
            (_, Name::Usage) => Place::Usage,
            (_, Name::Details) => Place::Details,
            (_, Name::EventDelta) => Place::EventDelta,
            (_, Name::ChoiceDelta) => Place::ChoiceDelta,
            (Place::Choices, _) => Place::Choice,
            (Place::ChoiceDelta, Name::Text) | (Place::Generated, _) => Place::Generated,
            _ => Place::Other,
        };
        self.open(place);
        Ok(())
    }

    fn end_object(&mut self) -> Result<(), Infallible> {
        self.close();
        Ok(())
    }

    fn begin_array(&mut self) -> Result<(), Infallible> {
        let place = match (self.place(), self.name) {
            (_, Name::Choices) => Place::Choices,
            (Place::ChoiceDelta, Name::Text) | (Place::Generated, _) => Place::Generated,
            _ => Place::Other,
        };
        self.open(place);
        Ok(())
    }

    fn end_array(&mut self) -> Result<(), Infallible> {
        self.close();
        Ok(())
    }

    fn key(&mut self, key: Key<'_>) -> Result<(), Infallible> {
        let place = self.place();
        self.name = match key {
            Key::Name(key) => {
                // Chat and completions, Anthropic and responses, and errors, in this order.
                self.known |= place == Place::Root && matches!(key, b"choices" | b"usage" | b"type" | b"error");
                Self::meaning(place, key)
            }
            Key::Long if place == Place::ChoiceDelta => Name::Text,
            Key::Long => Name::Other,
        };
        Ok(())
    }

    /// Only whether there is any text is of interest, and that only once.
    fn wants_string(&self) -> bool {
        !self.output && self.at_text()
    }

    fn string_part(&mut self, _part: &[u8]) -> Result<(), Infallible> {
        self.output = true;
        Ok(())
    }

    fn scalar(&mut self, literal: &[u8]) -> Result<(), Infallible> {
        let field = match self.name {
            Name::Prompt => &mut self.usage.prompt_tokens,
            Name::Output => &mut self.usage.output_tokens,
            Name::Cached => &mut self.usage.cached_tokens,
            _ => return Ok(()),
        };
        *field = tokens(literal).or(*field);
        Ok(())
    }
}

/// A count of tokens, at most [`TOKENS_MAX`]; none for what is no natural number.
fn tokens(literal: &[u8]) -> Option<u64> {
    literal.iter().try_fold(0_u64, |count, byte| {
        byte.is_ascii_digit().then(|| (count * 10 + u64::from(byte - b'0')).min(TOKENS_MAX))
    })
}
