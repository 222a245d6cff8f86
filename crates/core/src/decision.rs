//! The outcome of scheduling one request.

use std::sync::Arc;

use crate::endpoint::{Endpoint, EndpointCell};
use crate::facts::Model;
use crate::pool::Flight;
use crate::reason::Reason;

/// What the scheduler says of one request.
#[derive(Debug)]
pub enum Decision {
    /// Where to go. Its load is counted already, and given back when this is dropped.
    Picked(Picked),
    /// Nowhere, and why.
    Nothing(Reason),
}

/// The stages of a picked request. Today there is one; prefill and encode come with disaggregation.
#[derive(Debug)]
pub struct Picked {
    /// The endpoint that decodes, and who stands in for it.
    pub decode: Stage,
    /// The request's share of the first endpoint's load.
    pub flight: Flight,
    /// Tokens of the prompt that the first endpoint probably has in its cache.
    pub matched_tokens: u32,
    /// The model that the request is to name when it goes on; `None` where it is the asked one.
    pub model: Option<Model>,
}

/// An ordered list of endpoints: the pick, then its fallbacks.
#[derive(Debug, Default)]
pub struct Stage {
    /// Best first; never empty in a [`Picked`].
    pub choices: Vec<Choice>,
}

/// One endpoint of a stage.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What and where it is.
    pub endpoint: Arc<Endpoint>,
    /// What this process counts of it.
    pub cell: Arc<EndpointCell>,
}
