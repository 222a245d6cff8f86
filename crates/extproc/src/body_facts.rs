//! What a JSON request body says, read as its frames arrive: no document is built and the prompt is not copied.

mod place;
mod reader;

use std::ops::Range;

use pointsman_core::facts::Model;
use pointsman_core::prefix::{PrefixHasher, PrefixLayout, PrefixSeed, mix};
use pointsman_core::reason::Reason;

use crate::api::Api;
use crate::json::{Fault, Scanner};
use reader::Reader;

/// The longest model name, in bytes.
pub const MODEL_MAX: usize = 1024;

/// Reads one body.
#[derive(Debug)]
pub struct BodyReader {
    scanner: Scanner,
    reader: Reader,
}

/// Why a body is refused, and what to tell the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The kind.
    pub reason: Reason,
    /// For the client; names keys and places, never content.
    pub message: String,
}

/// The facts of a body, once they suffice for a decision.
#[derive(Debug)]
pub struct BodyFacts {
    /// The model asked for; absent only from a body that was cut short by the gateway.
    pub model: Option<Model>,
    /// The prompt's finished prefix blocks.
    pub prefix: Vec<pointsman_core::prefix::PrefixBlock>,
    /// Text and media of the prompt, in tokens, as far as it was read.
    pub prompt_tokens: u64,
    /// The most tokens that the answer may have.
    pub max_output_tokens: Option<u64>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
}

impl BodyReader {
    /// A reader for a body of this API.
    pub fn new(api: Api, layout: PrefixLayout) -> Self {
        Self { scanner: Scanner::new(), reader: Reader::new(api, layout) }
    }

    /// Reads the next bytes, wherever they were cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        self.scanner.feed(bytes, &mut self.reader).map_err(Unfit::from)
    }

    /// The body ends here: refuses one that is not whole, or that lacks the model.
    pub fn finish(&mut self) -> Result<(), Unfit> {
        self.scanner.finish(&mut self.reader).map_err(Unfit::from)?;
        if self.reader.has_model() {
            return Ok(());
        }
        let message = "the body has no \"model\": name the model to use".to_owned();
        Err(Unfit { reason: Reason::ModelMissing, message })
    }

    /// Whether nothing that may still come could change the decision much: the model is known and the prompt is hashed
    /// to its cap.
    pub fn facts_suffice(&self) -> bool {
        self.reader.has_model() && self.reader.prompt_is_at_cap()
    }

    /// Where in the body the model's name stands, quotes included; `None` as long as it is not known. It never changes:
    /// a second model makes the body unfit.
    pub fn model_span(&self) -> Option<Range<u64>> {
        self.reader.model_span()
    }

    /// The facts as far as they are known. Afterwards the reader only watches for what makes the body unfit.
    pub fn take_facts(&mut self) -> BodyFacts {
        self.reader.take_facts()
    }
}

impl From<Fault<Unfit>> for Unfit {
    fn from(fault: Fault<Unfit>) -> Self {
        match fault {
            Fault::Sink(unfit) => unfit,
            Fault::Malformed(malformed) => Self { reason: Reason::BadJson, message: malformed.to_string() },
        }
    }
}

/// What is mixed into every block besides the prompt's text: equal in all replicas.
fn seed(model: Option<&Model>, cache_salt: u64, tools: u64) -> PrefixSeed {
    PrefixSeed { prompt: mix(cache_salt, tools), model: model.map_or(0, |model| model.hash) }
}

/// A prompt in two parts: what the model sees first, whenever it arrives, and the rest.
#[derive(Debug)]
struct Prompt {
    /// Anthropic's `system`, the responses API's `instructions`.
    preamble: PrefixHasher,
    /// Messages, `prompt` or `input`.
    text: PrefixHasher,
    /// Tokens of images and other media, by their size.
    media_tokens: u64,
}

#[cfg(test)]
mod tests;
