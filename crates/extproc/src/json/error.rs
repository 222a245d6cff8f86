//! Why a scan ended early. No message quotes the body: it may hold a user's words.

use thiserror::Error;

/// What ended a call to [`feed`](super::Scanner::feed) or [`finish`](super::Scanner::finish).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault<E> {
    /// The bytes are not JSON.
    #[error("{0}")]
    Malformed(Malformed),
    /// The sink wanted no more.
    #[error("{0}")]
    Sink(E),
}

/// What is wrong with the bytes, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("invalid JSON at byte {offset}: {flaw}")]
pub struct Malformed {
    /// What is wrong.
    pub flaw: Flaw,
    /// The offending byte's place, counted from 0 over all chunks; the whole length for [`Flaw::UnexpectedEnd`].
    pub offset: u64,
}

/// The ways in which bytes can fail to be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Something else stands where a value must.
    #[error("a value was expected")]
    ExpectedValue,
    /// Something else stands where a key must.
    #[error("a key in double quotes was expected")]
    ExpectedKey,
    /// A key is not followed by a colon.
    #[error("a colon was expected after the key")]
    ExpectedColon,
    /// A value within an array or object is followed by neither a comma nor the right bracket.
    #[error("a comma or the closing bracket was expected")]
    ExpectedCommaOrEnd,
    /// A comma stands right before a closing bracket.
    #[error("a comma stands before a closing bracket")]
    TrailingComma,
    /// A word that begins like `true`, `false` or `null` goes on differently.
    #[error("an unknown word; only true, false and null are allowed")]
    UnknownWord,
    /// A number is not written as JSON demands.
    #[error("a number is written wrongly")]
    BadNumber,
    /// A string holds a byte below 0x20.
    #[error("a string holds a control character that is not escaped")]
    ControlCharacter,
    /// A backslash is followed by something that is not an escape.
    #[error("an unknown escape in a string")]
    BadEscape,
    /// A string is not valid UTF-8.
    #[error("a string is not valid UTF-8")]
    InvalidUtf8,
    /// More than [`MAX_DEPTH`](super::MAX_DEPTH) arrays and objects are open.
    #[error("arrays and objects are nested too deeply")]
    TooDeep,
    /// The text begins with a byte order mark.
    #[error("a byte order mark stands before the value")]
    ByteOrderMark,
    /// Something other than white space follows the value.
    #[error("something follows the value")]
    TrailingBytes,
    /// The text ends before its value does.
    #[error("the text ends too early")]
    UnexpectedEnd,
    /// The scanner was fed again after its sink had ended the scan.
    #[error("the scan was ended before")]
    Ended,
}
