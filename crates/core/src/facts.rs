//! What a request's headers and body say, as far as scheduling cares.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::prefix::{PrefixBlock, hash_name};

/// The facts of one request. Written by the edge that reads the request, read by scorers.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The request's id, for explanations and logs.
    pub request_id: Arc<str>,
    /// The model asked for; `None` where the request names none (a GET, a path that is passed through). Filters and
    /// scorers see the model that will serve in its place, where the pool's rules name another.
    pub model: Option<Model>,
    /// Hashes of the prompt's prefix blocks for that model, head first; empty for a prompt shorter than a block.
    pub prefix: Vec<PrefixBlock>,
    /// The prompt's size in tokens, text and images, estimated at four bytes of text a token.
    pub prompt_tokens: u64,
    /// The most tokens that the answer may have, where the request says.
    pub max_output_tokens: Option<u64>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The objective that the request names; `None` where it names none, or is not trusted to.
    pub objective: Option<Arc<str>>,
    /// How important the request is; more is more. 0 until the pick has read it from the pool's policy: filters and
    /// scorers see what that says.
    pub priority: i32,
}

impl Facts {
    /// These facts for a request that is served by `model`, where that is another than the asked one, at `priority`.
    pub(crate) fn served(&self, model: Option<&Model>, priority: i32) -> Self {
        let mut facts = Self { priority, ..self.clone() };
        if let Some(model) = model {
            let asked = self.model.as_ref().map_or(0, |asked| asked.hash);
            for block in &mut facts.prefix {
                *block = block.for_other_model(asked, model.hash);
            }
            facts.model = Some(model.clone());
        }
        facts
    }
}

/// A request's headers, as the edge that holds them can be asked.
pub trait RequestHeaders: std::fmt::Debug {
    /// Whether one of the header's values is exactly `value`. Names are in lower case.
    fn has(&self, name: &str, value: &str) -> bool;
}

/// A model's name with its hash, so that scorers compare numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name as the request has it.
    pub name: Arc<str>,
    /// Its [`hash_name`].
    pub hash: u64,
}

impl Model {
    /// A model by name.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), hash: hash_name(name.as_bytes()) }
    }
}

/// The gateway's restriction of one request to some addresses of the pool (endpoint picker protocol, proposal 004).
///
/// `None` is the whole pool, an empty list nothing at all.
pub type Subset = Option<Vec<SocketAddr>>;
