//! Naming another model: the bytes of the name are exchanged where they stand in the body, and no other byte is touched.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// One exchange of a body's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// The bytes that go, by their places in the body; never none.
    span: Range<u64>,
    /// What stands there then: the name as a JSON string.
    name: Bytes,
}

/// A chunk that the exchange touches: what stays ahead of it, what is new, what stays behind it. Each may be empty.
pub(crate) type Parts = [Bytes; 3];

impl Rewrite {
    /// Puts `model` in the place of the string value that stands at `span`, quotes included.
    pub(crate) fn new(span: Range<u64>, model: &str) -> Self {
        Self { span, name: serde_json::Value::from(model).to_string().into() }
    }

    /// What becomes of a chunk that begins at `from` of the body; `None` where it stays as it is. What stays is taken by
    /// reference, and the new name stands in the chunk in which the old one began.
    pub(crate) fn parts(&self, from: u64, chunk: &Bytes) -> Option<Parts> {
        let until = from + chunk.len() as u64;
        if until <= self.span.start || from >= self.span.end {
            return None;
        }
        let within = |at: u64| (at.clamp(from, until) - from) as usize;
        let name = if from <= self.span.start { self.name.clone() } else { Bytes::new() };
        Some([chunk.slice(..within(self.span.start)), name, chunk.slice(within(self.span.end)..)])
    }

    /// How many bytes [`joined`] copies of these chunks of a body.
    pub(crate) fn copied<'a>(&self, chunks: impl IntoIterator<Item = &'a Bytes>) -> usize {
        let mut from = 0;
        let mut copied = 0;
        for chunk in chunks {
            copied += self.parts(from, chunk).map_or(0, |parts| parts.iter().map(Bytes::len).sum());
            from += chunk.len() as u64;
        }
        copied
    }
}

/// The parts as one chunk.
pub(crate) fn joined(parts: &Parts) -> Bytes {
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| joined.put_slice(part));
    joined.freeze()
}

#[cfg(test)]
mod tests;
