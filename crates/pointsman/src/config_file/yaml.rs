//! YAML text into a value with the position of each of its nodes. The only place that knows the YAML library.

use std::collections::BTreeMap;
use std::fmt;

use pointsman_core::config::{Step, shortened};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::FileProblem;

/// Nodes of one file, after aliases were expanded. A file of the greatest size that lists endpoints stays below.
const MAX_NODES: usize = 1_000_000;
/// Nodes that aliases may add: enough to share labels, too few for a bomb.
const MAX_ALIASED_NODES: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// A file's content.
pub(super) struct Document {
    /// Its value.
    pub(super) value: Value,
    /// Where each node stands.
    pub(super) positions: Positions,
}

/// The positions of a node and of all below it.
pub(super) struct Positions {
    at: (usize, usize),
    below: Below,
}

enum Below {
    Nothing,
    Items(Vec<Positions>),
    Members(BTreeMap<String, Positions>),
}

impl Positions {
    /// Line and column of the node at `steps`, or of the nearest one around it that there is. A member stands where its
    /// key is.
    pub(super) fn nearest(&self, steps: &[Step]) -> (usize, usize) {
        let mut node = self;
        for step in steps {
            let next = match (step, &node.below) {
                (Step::Item(at), Below::Items(items)) => items.get(*at),
                (Step::Member(key), Below::Members(members)) => members.get(key),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.at
    }
}

/// Reads one YAML document. A key given twice is a problem beside whatever else is wrong; text that is no YAML is the
/// only one.
pub(super) fn read(text: &str) -> Result<(Document, Option<FileProblem>), FileProblem> {
    match parse(text, DuplicateKeyPolicy::Error) {
        Ok(document) => Ok((document, None)),
        Err(error) => match innermost(&error) {
            Error::DuplicateMappingKey { key, .. } => {
                let key = key.as_deref().map(|key| format!(" {:?}", shortened(key))).unwrap_or_default();
                let duplicate = problem(&error, format!("the key{key} is given twice"));
                match parse(text, DuplicateKeyPolicy::FirstWins) {
                    Ok(document) => Ok((document, Some(duplicate))),
                    Err(_) => Err(duplicate),
                }
            }
            Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
                let message = format!(
                    "the file holds too much: at most {MAX_NODES} values, {MAX_ALIASED_NODES} by aliases, and \
                     {MAX_DEPTH} levels"
                );
                Err(problem(&error, message))
            }
            bare => Err(problem(&error, UserMessageFormatter.format_message(bare).into_owned())),
        },
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Document, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
        duplicate_keys: duplicate_keys,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        strict_booleans: true,
        with_snippet: false,
        emit_comments: false,
    };
    if text.trim().is_empty() {
        return Ok(Document { value: Value::Null, positions: Positions { at: (1, 1), below: Below::Nothing } });
    }
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options)?;
    // An empty document stands behind the last line, where nobody would look for it.
    let at = if root.value.value.is_null() { (1, 1) } else { position(&root.referenced) };
    Ok(Document { value: root.value.value, positions: Positions { at, below: root.value.below } })
}

/// The error itself, without where an alias led to it.
fn innermost(mut error: &Error) -> &Error {
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } = error {
        error = inner;
    }
    error
}

fn position(location: &Location) -> (usize, usize) {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
    (count(location.line()), count(location.column()))
}

fn problem(error: &Error, message: String) -> FileProblem {
    let at = error.location().filter(|location| location.line() > 0).map(|location| position(&location));
    FileProblem { line: at.map(|at| at.0), column: at.map(|at| at.1), ..FileProblem::of_file(message) }
}

/// A node on its way out of the YAML library.
struct Node {
    value: Value,
    below: Below,
}

impl Node {
    fn leaf<E>(value: impl Into<Value>) -> Result<Self, E> {
        Ok(Self { value: value.into(), below: Below::Nothing })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Node::leaf(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Node::leaf(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Node::leaf(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Node::leaf(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = serde_json::Number::from_f64(value);
        Node::leaf(number.ok_or_else(|| E::custom("a number must be finite"))?)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Node::leaf(value)
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Node::leaf(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let (mut values, mut positions) = (Vec::new(), Vec::new());
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            values.push(item.value.value);
            positions.push(Positions { at: position(&item.referenced), below: item.value.below });
        }
        Ok(Node { value: values.into(), below: Below::Items(positions) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let (mut values, mut positions) = (serde_json::Map::new(), BTreeMap::new());
        while let Some((key, member)) = members.next_entry::<Spanned<String>, Spanned<Node>>()? {
            if values.contains_key(&key.value) {
                return Err(A::Error::custom(format!("the key {:?} is given twice", shortened(&key.value))));
            }
            let at = position(&key.referenced);
            positions.insert(key.value.clone(), Positions { at, below: member.value.below });
            values.insert(key.value, member.value.value);
        }
        Ok(Node { value: values.into(), below: Below::Members(positions) })
    }
}
