//! What a request's headers and body say, as far as scheduling cares.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::prefix::{PrefixBlock, hash_name};

/// The facts of one request. Written by the edge that reads the request, read by scorers.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The request's id, for explanations and logs.
    pub request_id: Arc<str>,
    /// The model asked for; `None` where the request names none (a GET, a path that is passed through).
    pub model: Option<Model>,
    /// Hashes of the prompt's prefix blocks, head first; empty for a prompt shorter than a block.
    pub prefix: Vec<PrefixBlock>,
    /// The prompt's size in tokens, text and images, estimated at four bytes of text a token.
    pub prompt_tokens: u64,
    /// The most tokens that the answer may have, where the request says.
    pub max_output_tokens: Option<u64>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
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
