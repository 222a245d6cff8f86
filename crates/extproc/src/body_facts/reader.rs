//! The scanner's sink that gathers a body's facts.

use std::ops::Range;

use pointsman_core::facts::Model;
use pointsman_core::prefix::{PrefixHasher, PrefixLayout, hash_name, mix};
use pointsman_core::reason::Reason;
use xxhash_rust::xxh3::Xxh3;

use super::place::{Field, Matter};
use super::{BodyFacts, MODEL_MAX, Prompt, Unfit, seed};
use crate::api::Api;
use crate::json::{Key, Sink};

/// Bytes of an image (as base64) that count as one token: a photograph of 300 KB is then about what vision models make
/// of one, a thousand tokens and some.
const MEDIA_BYTES_PER_TOKEN: u64 = 256;
/// How deep within a message's content matter is told apart; deeper strings are asides.
const CONTENT_DEPTH: usize = 12;

/// Gathers the facts. Its state is of fixed size, the hasher's blocks apart, which are bounded by the cap.
#[derive(Debug)]
pub(super) struct Reader {
    api: Api,
    depth: u32,
    /// The root's key whose value is being read.
    field: Field,
    /// The fields seen so far, a bit each, to refuse doubles.
    seen: u16,
    model: Option<Model>,
    name: Vec<u8>,
    /// Where the model's name stands in the body, quotes included; without a meaning until the model is known.
    model_span: Range<u64>,
    stream: bool,
    max_output_tokens: Option<u64>,
    cache_salt: u64,
    tools: u64,
    /// `None` once the facts were taken.
    prompt: Option<Prompt>,
    message: Option<Message>,
    /// What the string that is being read is.
    matter: Matter,
    /// Hashes what is hashed as a whole: tools, salt, roles, a message's extras. One at a time.
    digest: Digest,
    media_bytes: u64,
}

/// The message that is being read.
#[derive(Debug, Default)]
struct Message {
    /// The depth of its object.
    depth: u32,
    /// `role` and `content` seen, a bit each.
    seen: u8,
    role: u64,
    /// Keys beside role and content, hashed so that their order makes no difference.
    extras: u64,
    extra_key: u64,
    /// What the value at each depth below the message is.
    matters: [Matter; CONTENT_DEPTH],
}

/// A hash over a JSON value with its structure, white space apart.
struct Digest(Box<Xxh3>);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl Reader {
    pub(super) fn new(api: Api, layout: PrefixLayout) -> Self {
        Self {
            api,
            depth: 0,
            field: Field::Other,
            seen: 0,
            model: None,
            name: Vec::new(),
            model_span: 0..0,
            stream: false,
            max_output_tokens: None,
            cache_salt: 0,
            tools: 0,
            prompt: Some(Prompt {
                preamble: PrefixHasher::new(layout),
                text: PrefixHasher::new(layout),
                media_tokens: 0,
            }),
            message: None,
            matter: Matter::Aside,
            digest: Digest(Box::new(Xxh3::new())),
            media_bytes: 0,
        }
    }

    pub(super) fn has_model(&self) -> bool {
        self.model.is_some()
    }

    pub(super) fn model_span(&self) -> Option<Range<u64>> {
        self.has_model().then(|| self.model_span.clone())
    }

    pub(super) fn prompt_is_at_cap(&self) -> bool {
        self.prompt.as_ref().is_some_and(|prompt| prompt.text.is_at_cap())
    }

    pub(super) fn take_facts(&mut self) -> BodyFacts {
        let mut facts = BodyFacts {
            model: self.model.clone(),
            prefix: Vec::new(),
            prompt_tokens: 0,
            max_output_tokens: self.max_output_tokens,
            stream: self.stream,
        };
        if let Some(mut prompt) = self.prompt.take() {
            if let Some(message) = self.message.take() {
                prompt.text.end_message(message.role);
            }
            facts.prompt_tokens = prompt.preamble.tokens() + prompt.text.tokens() + prompt.media_tokens;
            let seed = seed(self.model.as_ref(), self.cache_salt, self.tools);
            facts.prefix = prompt.text.finish(Some(prompt.preamble), seed);
        }
        facts
    }

    fn is_in(&self, field: Field) -> bool {
        self.depth >= 1 && self.field == field
    }

    /// What a value that begins here is, when it lies within the prompt.
    fn matter_here(&self) -> Matter {
        match &self.message {
            Some(message) => message.matter_at(self.depth),
            None => Matter::Text,
        }
    }

    fn text(&mut self, text: &[u8]) {
        let Some(prompt) = &mut self.prompt else { return };
        match self.field {
            Field::Preamble => prompt.preamble.text(text),
            _ => prompt.text.text(text),
        }
    }

    fn end_media(&mut self) {
        let digest = self.digest.finish();
        if let Some(prompt) = &mut self.prompt {
            prompt.media_tokens += self.media_bytes.div_ceil(MEDIA_BYTES_PER_TOKEN);
        }
        self.media_bytes = 0;
        self.text(&digest.to_le_bytes());
    }

    /// Whether the value at hand is hashed with its structure.
    fn is_digested(&self) -> bool {
        match self.field {
            Field::Tools | Field::CacheSalt => self.depth >= 1,
            Field::Prompt => self.message.as_ref().is_some_and(|message| message.is_in_extra(self.depth)),
            _ => false,
        }
    }

    fn structure(&mut self, mark: &[u8]) {
        if self.is_digested() {
            self.digest.0.update(mark);
        }
    }

    /// A whole value has ended, `self.depth` being that of what holds it.
    fn end_value(&mut self) {
        match (self.field, self.depth) {
            (Field::Tools, 1) => self.tools = self.digest.finish(),
            (Field::CacheSalt, 1) => self.cache_salt = self.digest.finish(),
            (Field::Prompt, depth) => {
                let Some(message) = &mut self.message else { return };
                if depth == message.depth && message.matters[0] == Matter::Extra {
                    message.extras = message.extras.wrapping_add(mix(message.extra_key, self.digest.finish()));
                }
            }
            _ => {}
        }
    }

    fn end_message(&mut self) {
        let Some(message) = self.message.take() else { return };
        if message.extras != 0 {
            self.text(&message.extras.to_le_bytes());
        }
        if let Some(prompt) = &mut self.prompt {
            prompt.text.end_message(message.role);
        }
    }

    fn root_key(&mut self, key: Key<'_>) -> Result<(), Unfit> {
        let Key::Name(name) = key else {
            self.field = Field::Other;
            return Ok(());
        };
        self.field = Field::of_key(self.api, name);
        let bit = 1_u16 << self.field as u16;
        // Each of the three names of the output limit may stand beside the others.
        if !matches!(self.field, Field::Other | Field::MaxTokens) && self.seen & bit != 0 {
            return Err(doubled(name));
        }
        self.seen |= bit;
        Ok(())
    }
}

impl Message {
    fn key(&mut self, depth: u32, key: Key<'_>) -> Result<(), Unfit> {
        let name = match key {
            Key::Name(name) => name,
            Key::Long => b"",
        };
        let below = depth.saturating_sub(self.depth) as usize;
        if below == 0 {
            let matter = Matter::of_message_key(name);
            let bit = 1_u8 << matter as u8;
            if matter != Matter::Extra && self.seen & bit != 0 {
                return Err(doubled(name));
            }
            self.seen |= bit;
            self.extra_key = hash_name(name);
            self.matters[0] = matter;
        } else if self.matters[0] == Matter::Text
            && let Some(matter) = self.matters.get_mut(below)
        {
            *matter = Matter::of_part_key(name);
        }
        Ok(())
    }

    /// An array or object begins at `depth` below; what its elements are is what it is, until a key says otherwise.
    fn begin(&mut self, depth: u32) {
        let below = depth.saturating_sub(self.depth) as usize;
        if below > 0 && below < CONTENT_DEPTH {
            self.matters[below] = self.matters[below - 1];
        }
    }

    fn matter_at(&self, depth: u32) -> Matter {
        self.matters.get(depth.saturating_sub(self.depth) as usize).copied().unwrap_or(Matter::Aside)
    }

    fn is_in_extra(&self, depth: u32) -> bool {
        depth >= self.depth && self.matters[0] == Matter::Extra
    }
}

impl Digest {
    fn finish(&mut self) -> u64 {
        let digest = self.0.digest();
        self.0.reset();
        digest
    }
}

impl Sink for Reader {
    type Error = Unfit;

    fn begin_object(&mut self) -> Result<(), Unfit> {
        self.structure(b"{");
        self.depth += 1;
        if self.is_in(Field::Prompt) {
            match &mut self.message {
                Some(message) => message.begin(self.depth),
                None if self.depth >= 2 => {
                    self.message = Some(Message { depth: self.depth, ..Message::default() });
                }
                None => {}
            }
        }
        Ok(())
    }

    fn end_object(&mut self) -> Result<(), Unfit> {
        self.depth -= 1;
        self.structure(b"}");
        if self.message.as_ref().is_some_and(|message| message.depth == self.depth + 1) {
            self.end_message();
        }
        self.end_value();
        Ok(())
    }

    fn begin_array(&mut self) -> Result<(), Unfit> {
        if self.depth == 0 {
            return Err(not_an_object());
        }
        self.structure(b"[");
        self.depth += 1;
        if let Some(message) = &mut self.message {
            message.begin(self.depth);
        }
        Ok(())
    }

    fn end_array(&mut self) -> Result<(), Unfit> {
        self.depth -= 1;
        self.structure(b"]");
        self.end_value();
        Ok(())
    }

    fn key(&mut self, key: Key<'_>) -> Result<(), Unfit> {
        if self.depth == 1 {
            return self.root_key(key);
        }
        if let Some(message) = &mut self.message {
            message.key(self.depth, key)?;
        }
        let is_nested = self.message.as_ref().is_none_or(|message| self.depth > message.depth);
        if is_nested && self.is_digested() {
            self.digest.0.update(b"\"");
            if let Key::Name(name) = key {
                self.digest.0.update(name);
            }
            self.digest.0.update(b"\":");
        } else if self.is_in(Field::Preamble) {
            self.matter = match key {
                Key::Name(b"text") => Matter::Text,
                _ => Matter::Aside,
            };
        }
        Ok(())
    }

    fn begin_string(&mut self, at: u64) -> Result<(), Unfit> {
        match self.field {
            _ if self.depth == 0 => return Err(not_an_object()),
            Field::Model if self.depth == 1 => {
                self.name.clear();
                self.model_span.start = at;
            }
            Field::Prompt => self.matter = self.matter_here(),
            Field::Preamble if self.depth == 1 => self.matter = Matter::Text,
            _ => {}
        }
        self.structure(b"\"");
        Ok(())
    }

    fn wants_string(&self) -> bool {
        match self.field {
            Field::Model => self.depth == 1,
            Field::Tools | Field::CacheSalt => self.prompt.is_some(),
            Field::Prompt | Field::Preamble => self.prompt.is_some() && self.matter != Matter::Aside,
            _ => false,
        }
    }

    fn string_part(&mut self, part: &[u8]) -> Result<(), Unfit> {
        match (self.field, self.matter) {
            (Field::Model, _) => {
                if self.name.len() + part.len() > MODEL_MAX {
                    let message = format!("\"model\" is longer than {MODEL_MAX} bytes");
                    return Err(Unfit { reason: Reason::ModelMissing, message });
                }
                self.name.extend_from_slice(part);
            }
            (Field::Tools | Field::CacheSalt, _) | (Field::Prompt, Matter::Extra | Matter::Role) => {
                self.digest.0.update(part);
            }
            (Field::Prompt | Field::Preamble, Matter::Text) => self.text(part),
            (Field::Prompt, Matter::Media) => {
                self.media_bytes += part.len() as u64;
                self.digest.0.update(part);
            }
            _ => {}
        }
        Ok(())
    }

    fn end_string(&mut self, end: u64) -> Result<(), Unfit> {
        self.structure(b"\"");
        match (self.field, self.matter) {
            (Field::Model, _) if self.depth == 1 => {
                let name = String::from_utf8_lossy(&self.name);
                if name.is_empty() {
                    let message = "\"model\" is empty: name the model to use".to_owned();
                    return Err(Unfit { reason: Reason::ModelMissing, message });
                }
                self.model = Some(Model::new(&name));
                self.model_span.end = end;
            }
            (Field::Prompt, Matter::Role) => {
                let role = self.digest.finish();
                if let Some(message) = &mut self.message {
                    message.role = role;
                }
            }
            (Field::Prompt, Matter::Media) => self.end_media(),
            (Field::Prompt, Matter::Text) if self.message.is_none() && self.depth > 1 => {
                if let Some(prompt) = &mut self.prompt {
                    prompt.text.end_message(0);
                }
            }
            _ => {}
        }
        self.end_value();
        Ok(())
    }

    fn scalar(&mut self, literal: &[u8]) -> Result<(), Unfit> {
        match self.field {
            _ if self.depth == 0 => return Err(not_an_object()),
            Field::Model if self.depth == 1 => {
                let message = "\"model\" must be a string".to_owned();
                return Err(Unfit { reason: Reason::ModelMissing, message });
            }
            Field::Stream if self.depth == 1 => self.stream = literal == b"true",
            Field::MaxTokens if self.depth == 1 => {
                let limit = std::str::from_utf8(literal).ok().and_then(|text| text.parse::<u64>().ok());
                self.max_output_tokens = self.max_output_tokens.max(limit);
            }
            Field::Prompt if self.message.is_none() => {
                // A token id is one token: four bytes, as text counts them.
                let id = std::str::from_utf8(literal).ok().and_then(|text| text.parse::<u32>().ok());
                if let Some(id) = id {
                    self.text(&id.to_le_bytes());
                }
            }
            _ => {
                self.structure(literal);
                self.structure(b",");
            }
        }
        self.end_value();
        Ok(())
    }
}

fn doubled(key: &[u8]) -> Unfit {
    let key = String::from_utf8_lossy(key);
    Unfit { reason: Reason::DuplicateKey, message: format!("the key \"{key}\" stands twice in one object") }
}

fn not_an_object() -> Unfit {
    Unfit { reason: Reason::BadJson, message: "the body must be a JSON object".to_owned() }
}
