//! An incremental JSON scanner: bytes arrive in chunks cut anywhere, a [`Sink`] is told what stands in them.
//!
//! It exists because a prompt of several hundred kilobytes must be read as its frames arrive, without a document and
//! without a copy. The state is of fixed size, 160 bytes, and a chunk is walked once.
//!
//! It accepts what RFC 8259 allows and nothing more (no trailing commas, comments, NaN, byte order mark, unescaped
//! control characters or invalid UTF-8), with two decisions of its own:
//! - A lone surrogate escape (`"\ud800"`) is accepted and told as U+FFFD. Model servers read bodies with Python's
//!   `json`, which accepts it, and what the picker reads and what the server reads must be the same.
//! - Arrays and objects nest at most [`MAX_DEPTH`] deep.
//!
//! Doubled keys are valid JSON: refusing them is up to the sink, which alone knows which keys matter.

mod error;
mod number;
mod scanner;
mod span;
#[cfg(test)]
mod tests;
mod utf8;

pub use error::{Fault, Flaw, Malformed};
pub use scanner::Scanner;

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: u32 = 128;

/// The longest key, in unescaped bytes, that is told by its name; longer ones are [`Key::Long`].
pub const KEY_MAX: usize = 64;

/// The most bytes of a number that are told. A longer one, validated to its end, is told by its first bytes, so that a
/// literal of this very length may be the beginning of a longer one.
pub const SCALAR_MAX: usize = 64;

/// A member's key, as [`Sink::key`] gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// The whole key, unescaped: valid UTF-8 of at most [`KEY_MAX`] bytes.
    Name(&'a [u8]),
    /// A key longer than [`KEY_MAX`] bytes: none that anyone here looks for.
    Long,
}

/// Who is told what a [`Scanner`] finds. Every method does nothing by default.
///
/// The calls are the same however a text was cut into chunks, up to its end or its first flaw, but for how a string is
/// spread over [`Sink::string_part`]. An error returned from a method ends the scan.
pub trait Sink {
    /// Why the sink wants no more; [`std::convert::Infallible`] for one that always does.
    type Error;

    /// A `{`.
    fn begin_object(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The `}` that closes the newest open object.
    fn end_object(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A `[`.
    fn begin_array(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The `]` that closes the newest open array.
    fn end_array(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A member's key; its value comes next.
    fn key(&mut self, _key: Key<'_>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A string value begins, with the quote that stands `at` so many bytes from the text's beginning. Keys are told by
    /// [`Sink::key`] alone.
    fn begin_string(&mut self, _at: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Whether the text of the string that has just begun is wanted. Asked once a string, after
    /// [`Sink::begin_string`]; when it is not, the text is validated but neither decoded nor told.
    fn wants_string(&self) -> bool {
        true
    }

    /// More of the string's text, unescaped and never empty. All parts together are valid UTF-8; one part may begin or
    /// end within a character, where a chunk was cut.
    fn string_part(&mut self, _part: &[u8]) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The string value ends; its closing quote is the last byte ahead of `end`. Told for unwanted strings too.
    fn end_string(&mut self, _end: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A number, `true`, `false` or `null`, as it is written; see [`SCALAR_MAX`] for very long numbers.
    fn scalar(&mut self, _literal: &[u8]) -> Result<(), Self::Error> {
        Ok(())
    }
}
