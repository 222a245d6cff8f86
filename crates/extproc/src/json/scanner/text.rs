//! The inside of strings: plain text, escapes, surrogates, and the end.

use super::super::span::plain_end;
use super::super::{Flaw, KEY_MAX, Key, Sink};
use super::{Halt, Role, Scanner, State};

/// U+FFFD, told in a lone surrogate's place.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

impl Scanner {
    /// Reads on in a string, to its end, to an escape that needs a state of its own, or to the chunk's end.
    pub(super) fn text<S: Sink>(
        &mut self,
        role: Role,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut S,
    ) -> Result<(), Halt<S::Error>> {
        if self.surrogate != 0 && bytes.get(*at) != Some(&b'\\') {
            self.drop_surrogate(role, sink)?;
        }
        let mut from = *at;
        loop {
            let advanced = self.utf8.advance(bytes, *at);
            *at = advanced.map_or_else(|wrong| wrong, |at| plain_end(bytes, at));
            let span = bytes.get(from..*at).unwrap_or_default();
            if advanced.is_err() {
                // What stands before a flaw is told first, so that it is told however the text was cut.
                self.part(role, span, sink)?;
                return Err(Halt::Flaw(Flaw::InvalidUtf8));
            }
            match bytes.get(*at) {
                None => return self.part(role, span, sink),
                Some(b'"') => {
                    *at += 1;
                    return self.text_ends(role, span, self.offset + *at as u64, sink);
                }
                Some(b'\\') => {
                    self.part(role, span, sink)?;
                    *at += 1;
                    let simple = bytes.get(*at).map_or(0, |&byte| UNESCAPED[usize::from(byte)]);
                    if simple == 0 || self.surrogate != 0 {
                        self.state = State::Escape(role);
                        return Ok(());
                    }
                    self.part(role, &[simple], sink)?;
                    *at += 1;
                    from = *at;
                }
                Some(0x80..) => {}
                Some(_) => {
                    self.part(role, span, sink)?;
                    return Err(Halt::Flaw(Flaw::ControlCharacter));
                }
            }
        }
    }

    /// The byte after a backslash.
    pub(super) fn escape<S: Sink>(
        &mut self,
        role: Role,
        byte: u8,
        at: &mut usize,
        sink: &mut S,
    ) -> Result<(), Halt<S::Error>> {
        let simple = UNESCAPED[usize::from(byte)];
        if byte == b'u' {
            self.state = State::Hex(role, 4, 0);
        } else if simple != 0 {
            self.drop_surrogate(role, sink)?;
            self.part(role, &[simple], sink)?;
            self.state = State::Text(role);
        } else {
            return Err(Halt::Flaw(Flaw::BadEscape));
        }
        *at += 1;
        Ok(())
    }

    /// The four digits of a `\u` escape, as far as they lie in this chunk.
    pub(super) fn hex<S: Sink>(
        &mut self,
        role: Role,
        mut owed: u8,
        mut unit: u16,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut S,
    ) -> Result<(), Halt<S::Error>> {
        while owed > 0 {
            let Some(&byte) = bytes.get(*at) else {
                self.state = State::Hex(role, owed, unit);
                return Ok(());
            };
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return Err(Halt::Flaw(Flaw::BadEscape)),
            };
            unit = (unit << 4) | u16::from(digit);
            owed -= 1;
            *at += 1;
        }
        self.state = State::Text(role);
        if role == Role::Skipped { Ok(()) } else { self.code_unit(role, unit, sink) }
    }

    /// One UTF-16 code unit, out of a `\u` escape.
    fn code_unit<S: Sink>(&mut self, role: Role, unit: u16, sink: &mut S) -> Result<(), Halt<S::Error>> {
        let low = (0xDC00..0xE000).contains(&unit);
        let character = if low && self.surrogate != 0 {
            let high = u32::from(self.surrogate - 0xD800);
            self.surrogate = 0;
            char::from_u32(0x1_0000 + (high << 10) + u32::from(unit - 0xDC00))
        } else {
            self.drop_surrogate(role, sink)?;
            if (0xD800..0xDC00).contains(&unit) {
                self.surrogate = unit;
                return Ok(());
            }
            char::from_u32(u32::from(unit))
        };
        let mut buffer = [0; 4];
        // What is no character here is a low surrogate without its high one.
        let part = character.map_or(REPLACEMENT, |character| character.encode_utf8(&mut buffer).as_bytes());
        self.part(role, part, sink)
    }

    /// Tells a high surrogate whose low one does not follow.
    fn drop_surrogate<S: Sink>(&mut self, role: Role, sink: &mut S) -> Result<(), Halt<S::Error>> {
        if self.surrogate == 0 {
            return Ok(());
        }
        self.surrogate = 0;
        self.part(role, REPLACEMENT, sink)
    }

    /// Text of the string: told, held as part of a key, or left alone.
    #[inline]
    fn part<S: Sink>(&mut self, role: Role, part: &[u8], sink: &mut S) -> Result<(), Halt<S::Error>> {
        match role {
            Role::Wanted if !part.is_empty() => sink.string_part(part).map_err(Halt::Sink)?,
            Role::Key => self.hold_key(part),
            Role::Wanted | Role::Skipped => {}
        }
        Ok(())
    }

    /// The closing quote, ahead of `end`, after `last`, the text that is not told or held yet. A key that came whole and
    /// without escapes is told out of the chunk.
    #[inline]
    fn text_ends<S: Sink>(&mut self, role: Role, last: &[u8], end: u64, sink: &mut S) -> Result<(), Halt<S::Error>> {
        if role != Role::Key {
            self.part(role, last, sink)?;
            self.value_ends();
            return sink.end_string(end).map_err(Halt::Sink);
        }
        self.state = State::Colon;
        let name = if self.held_len == 0 && last.len() <= KEY_MAX {
            last
        } else {
            self.hold_key(last);
            self.held.get(..self.held_len).unwrap_or_default()
        };
        sink.key(if self.long_key { Key::Long } else { Key::Name(name) }).map_err(Halt::Sink)
    }

    /// Keeps part of a key, unless the key has become too long to matter.
    fn hold_key(&mut self, part: &[u8]) {
        match self.held.get_mut(self.held_len..KEY_MAX).and_then(|room| room.get_mut(..part.len())) {
            Some(room) => {
                room.copy_from_slice(part);
                self.held_len += part.len();
            }
            None => self.long_key = true,
        }
    }
}

/// What each byte stands for after a backslash; 0 for those that stand for nothing, and for `u`.
const UNESCAPED: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 0x08;
    table[b'f' as usize] = 0x0C;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};
