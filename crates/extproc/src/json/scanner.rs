//! The scanner's state machine: structure here, text in `text`.

mod text;

use super::number::Number;
use super::utf8::Utf8;
use super::{Fault, Flaw, KEY_MAX, MAX_DEPTH, Malformed, SCALAR_MAX, Sink};

/// Reads one JSON text, chunk by chunk. Holds what must be remembered between two chunks, and nothing of the document.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// What may come next.
    state: State,
    /// How many arrays and objects are open.
    depth: u32,
    /// One bit an open array (0) or object (1), the innermost lowest.
    open: u128,
    /// Bytes consumed by earlier calls.
    offset: u64,
    /// Why the scan ended, once it did; every later call tells it again.
    ended: Option<Malformed>,
    /// A high surrogate that was escaped and still waits for its low one; 0 when none does.
    surrogate: u16,
    /// The character that the last chunk's end cut.
    utf8: Utf8,
    /// The part of a key or number that came in earlier chunks, or a key that holds escapes.
    held: [u8; HELD],
    /// How much of `held` is filled.
    held_len: usize,
    /// Whether the key that is being read is longer than [`KEY_MAX`].
    long_key: bool,
}

/// The room for a key or a number that a chunk's end cut.
const HELD: usize = if KEY_MAX > SCALAR_MAX { KEY_MAX } else { SCALAR_MAX };

const _: () = assert!(MAX_DEPTH <= u128::BITS, "one bit of `open` an open array or object");

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value.
    Value,
    /// A value, or the end of the array that has just begun.
    ValueOrEnd,
    /// A key.
    Key,
    /// A key, or the end of the object that has just begun.
    KeyOrEnd,
    /// The colon after a key.
    Colon,
    /// A comma or the end, after a value within an array or object.
    Next,
    /// The text of a string.
    Text(Role),
    /// What follows a backslash.
    Escape(Role),
    /// The digits of a `\u` escape: how many are owed, and the value of those that came.
    Hex(Role, u8, u16),
    /// The rest of the word, of which so many bytes came.
    Word(&'static [u8], u8),
    /// The rest of a number.
    Number(Number),
    /// White space after the value.
    Done,
}

/// What a string is to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A key: held, told whole.
    Key,
    /// A value, told part by part.
    Wanted,
    /// A value that the sink does not want: validated only.
    Skipped,
}

/// Why a walk over a chunk stopped; the place is in the walk's `at`.
enum Halt<E> {
    /// The byte there is wrong.
    Flaw(Flaw),
    /// The sink wanted no more.
    Sink(E),
}

impl Scanner {
    /// A scanner that has read nothing.
    pub const fn new() -> Self {
        Self {
            state: State::Value,
            depth: 0,
            open: 0,
            offset: 0,
            ended: None,
            surrogate: 0,
            utf8: Utf8::new(),
            held: [0; HELD],
            held_len: 0,
            long_key: false,
        }
    }

    /// Forgets everything, for the next text.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Reads the next chunk, which may be empty, and tells `sink` what it completes.
    pub fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), Fault<S::Error>> {
        if let Some(ended) = self.ended {
            return Err(Fault::Malformed(ended));
        }
        let mut at = 0;
        let walked = self.walk(bytes, &mut at, sink);
        self.offset += at as u64;
        walked.map_err(|halt| self.end(halt))
    }

    /// Says that no more bytes come: tells a number that only now is known to be whole, and refuses an unfinished text.
    pub fn finish<S: Sink>(&mut self, sink: &mut S) -> Result<(), Fault<S::Error>> {
        if let Some(ended) = self.ended {
            return Err(Fault::Malformed(ended));
        }
        let finished = match self.state {
            State::Done => Ok(()),
            State::Number(number) if self.depth == 0 && number.may_end(None) => self.number_ends(&[], sink),
            _ => Err(Halt::Flaw(Flaw::UnexpectedEnd)),
        };
        finished.map_err(|halt| self.end(halt))
    }

    /// How many arrays and objects are open.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// How many bytes were consumed; after an error, the offending byte's place.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the value has ended. A number on its own ends only with the white space after it or with
    /// [`Scanner::finish`].
    pub fn is_complete(&self) -> bool {
        self.ended.is_none() && self.state == State::Done
    }

    /// Remembers that the scan is over, and says why.
    fn end<E>(&mut self, halt: Halt<E>) -> Fault<E> {
        let (flaw, sink) = match halt {
            Halt::Flaw(flaw) => (flaw, None),
            Halt::Sink(error) => (Flaw::Ended, Some(error)),
        };
        let malformed = Malformed { flaw, offset: self.offset };
        self.ended = Some(malformed);
        sink.map_or(Fault::Malformed(malformed), Fault::Sink)
    }

    /// Reads all of `bytes`. Every turn either consumes a byte or leaves a state that consumes none.
    fn walk<S: Sink>(&mut self, bytes: &[u8], at: &mut usize, sink: &mut S) -> Result<(), Halt<S::Error>> {
        while let Some(&byte) = bytes.get(*at) {
            match self.state {
                State::Text(role) => self.text(role, bytes, at, sink)?,
                State::Escape(role) => self.escape(role, byte, at, sink)?,
                State::Hex(role, owed, unit) => self.hex(role, owed, unit, bytes, at, sink)?,
                State::Number(number) => self.number(number, bytes, at, sink)?,
                State::Word(word, read) => self.word(word, read, byte, at, sink)?,
                _ if IS_SPACE[usize::from(byte)] => *at += 1,
                State::Value | State::ValueOrEnd => self.value(byte, at, sink)?,
                State::Key | State::KeyOrEnd => self.key(byte, at, sink)?,
                State::Next => self.next(byte, at, sink)?,
                State::Colon if byte == b':' => {
                    self.state = State::Value;
                    *at += 1;
                }
                State::Colon => return Err(Halt::Flaw(Flaw::ExpectedColon)),
                State::Done => return Err(Halt::Flaw(Flaw::TrailingBytes)),
            }
        }
        Ok(())
    }

    /// A value begins, or the empty array ends.
    #[inline]
    fn value<S: Sink>(&mut self, byte: u8, at: &mut usize, sink: &mut S) -> Result<(), Halt<S::Error>> {
        match byte {
            b'"' => {
                sink.begin_string(self.offset + *at as u64).map_err(Halt::Sink)?;
                self.state = State::Text(if sink.wants_string() { Role::Wanted } else { Role::Skipped });
            }
            b'{' => {
                self.nest(true)?;
                sink.begin_object().map_err(Halt::Sink)?;
                self.state = State::KeyOrEnd;
            }
            b'[' => {
                self.nest(false)?;
                sink.begin_array().map_err(Halt::Sink)?;
                self.state = State::ValueOrEnd;
            }
            // The number's own state reads its first byte too.
            b'-' | b'0'..=b'9' => {
                self.held_len = 0;
                self.state = State::Number(Number::Start);
                return Ok(());
            }
            b't' => self.state = State::Word(b"true", 1),
            b'f' => self.state = State::Word(b"false", 1),
            b'n' => self.state = State::Word(b"null", 1),
            b']' if self.state == State::ValueOrEnd => return self.close(at, sink),
            b']' if self.depth > 0 && !self.in_object() => return Err(Halt::Flaw(Flaw::TrailingComma)),
            0xEF if self.offset + *at as u64 == 0 => return Err(Halt::Flaw(Flaw::ByteOrderMark)),
            _ => return Err(Halt::Flaw(Flaw::ExpectedValue)),
        }
        *at += 1;
        Ok(())
    }

    /// A key begins, or the empty object ends.
    #[inline]
    fn key<S: Sink>(&mut self, byte: u8, at: &mut usize, sink: &mut S) -> Result<(), Halt<S::Error>> {
        match byte {
            b'"' => {
                self.held_len = 0;
                self.long_key = false;
                self.state = State::Text(Role::Key);
                *at += 1;
                Ok(())
            }
            b'}' if self.state == State::KeyOrEnd => self.close(at, sink),
            b'}' => Err(Halt::Flaw(Flaw::TrailingComma)),
            _ => Err(Halt::Flaw(Flaw::ExpectedKey)),
        }
    }

    /// What follows a value within an array or object.
    #[inline]
    fn next<S: Sink>(&mut self, byte: u8, at: &mut usize, sink: &mut S) -> Result<(), Halt<S::Error>> {
        match (byte, self.in_object()) {
            (b',', in_object) => {
                self.state = if in_object { State::Key } else { State::Value };
                *at += 1;
                Ok(())
            }
            (b'}', true) | (b']', false) => self.close(at, sink),
            _ => Err(Halt::Flaw(Flaw::ExpectedCommaOrEnd)),
        }
    }

    /// Opens an array or object.
    fn nest<E>(&mut self, object: bool) -> Result<(), Halt<E>> {
        if self.depth == MAX_DEPTH {
            return Err(Halt::Flaw(Flaw::TooDeep));
        }
        self.depth += 1;
        self.open = (self.open << 1) | u128::from(object);
        Ok(())
    }

    /// Closes the innermost array or object.
    fn close<S: Sink>(&mut self, at: &mut usize, sink: &mut S) -> Result<(), Halt<S::Error>> {
        let object = self.in_object();
        self.depth -= 1;
        self.open >>= 1;
        self.value_ends();
        *at += 1;
        if object { sink.end_object() } else { sink.end_array() }.map_err(Halt::Sink)
    }

    /// Whether the innermost of what is open is an object.
    fn in_object(&self) -> bool {
        self.open & 1 == 1
    }

    /// A value has ended.
    fn value_ends(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::Next };
    }

    /// One more byte of `true`, `false` or `null`.
    fn word<S: Sink>(
        &mut self,
        word: &'static [u8],
        read: u8,
        byte: u8,
        at: &mut usize,
        sink: &mut S,
    ) -> Result<(), Halt<S::Error>> {
        if word.get(usize::from(read)) != Some(&byte) {
            return Err(Halt::Flaw(Flaw::UnknownWord));
        }
        *at += 1;
        self.state = State::Word(word, read + 1);
        if usize::from(read) + 1 == word.len() {
            self.value_ends();
            sink.scalar(word).map_err(Halt::Sink)?;
        }
        Ok(())
    }

    /// Reads on in a number, to its end or the chunk's.
    fn number<S: Sink>(
        &mut self,
        mut number: Number,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut S,
    ) -> Result<(), Halt<S::Error>> {
        let rest = bytes.get(*at..).unwrap_or_default();
        for (read, &byte) in rest.iter().enumerate() {
            if let Some(next) = number.step(byte) {
                number = next;
                continue;
            }
            *at += read;
            if !number.may_end(Some(byte)) {
                return Err(Halt::Flaw(Flaw::BadNumber));
            }
            return self.number_ends(rest.get(..read).unwrap_or_default(), sink);
        }
        *at = bytes.len();
        self.state = State::Number(number);
        self.hold_number(rest);
        Ok(())
    }

    /// Tells a number whose last bytes, those of this chunk, are `last`.
    fn number_ends<S: Sink>(&mut self, last: &[u8], sink: &mut S) -> Result<(), Halt<S::Error>> {
        self.value_ends();
        let literal = if self.held_len == 0 {
            last.get(..SCALAR_MAX).unwrap_or(last)
        } else {
            self.hold_number(last);
            self.held.get(..self.held_len).unwrap_or_default()
        };
        sink.scalar(literal).map_err(Halt::Sink)
    }

    /// Keeps as much of a number as is ever told.
    fn hold_number(&mut self, part: &[u8]) {
        let room = self.held.get_mut(self.held_len..SCALAR_MAX).unwrap_or_default();
        let kept = part.len().min(room.len());
        room[..kept].copy_from_slice(&part[..kept]);
        self.held_len += kept;
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// The four bytes that JSON calls white space.
const IS_SPACE: [bool; 256] = {
    let mut table = [false; 256];
    table[b' ' as usize] = true;
    table[b'\t' as usize] = true;
    table[b'\n' as usize] = true;
    table[b'\r' as usize] = true;
    table
};
