//! Server-sent events, line by line, out of chunks cut anywhere.
//!
//! Only `data:` lines and the blank lines between events matter; other fields and comments are skipped. Lines end with
//! LF, CRLF or CR. Nothing is buffered: data is passed on as it lies in the chunk.
//!
//! Data is read as JSON, so two things are simpler than the standard says and come to the same: the space that may
//! follow the colon is passed on, and the line feed between two lines of data stands before the first one too.

use memchr::memchr2;

/// The field that is read.
const DATA: &[u8] = b"data";

/// What UTF-8 streams may begin with and mean nothing by.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What the next bytes of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// More of the open event's data.
    Data(&'a [u8]),
    /// A blank line: the event is over, if there was one.
    EndOfEvent,
}

/// Splits a stream. Holds what must be remembered between two chunks.
#[derive(Debug)]
pub(super) struct Lines {
    /// Where in a line the next byte stands.
    place: Place,
    /// Whether the last byte was a CR, so that a LF would belong to it.
    after_cr: bool,
}

/// Where in a line the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the byte order mark that may stand first, after so many bytes of it.
    Mark(u8),
    /// In the field's name, after so many bytes that all agree with [`DATA`].
    Name(u8),
    /// In data.
    Data,
    /// In a line that is of no interest.
    Skip,
}

impl Lines {
    /// At a stream's begin.
    pub(super) const fn new() -> Self {
        Self { place: Place::Mark(0), after_cr: false }
    }

    /// The next step within `rest`, which is shortened by what was read; none when all of it was.
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Step<'a>> {
        while let Some((&byte, tail)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                *rest = tail;
                continue;
            }
            match self.place {
                Place::Mark(read) => match BYTE_ORDER_MARK.get(usize::from(read)) {
                    Some(&expected) if expected == byte => {
                        self.place = Place::Mark(read + 1);
                        *rest = tail;
                    }
                    // Read again as a name: a whole mark or none is no part of it, half a mark is a name unknown.
                    expected => {
                        self.place = if read == 0 || expected.is_none() { Place::Name(0) } else { Place::Skip };
                    }
                },
                Place::Name(read) => {
                    *rest = tail;
                    if let Some(step) = self.name(read, byte) {
                        return Some(step);
                    }
                }
                Place::Data | Place::Skip => {
                    let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    let (line, after) = rest.split_at(end);
                    let wanted = self.place == Place::Data && !line.is_empty();
                    *rest = after;
                    if let Some((&ending, after)) = after.split_first() {
                        self.end_line(ending);
                        *rest = after;
                    }
                    if wanted {
                        return Some(Step::Data(line));
                    }
                }
            }
        }
        None
    }

    /// A byte of a line's name, `read` bytes of which agree with [`DATA`].
    fn name<'a>(&mut self, read: u8, byte: u8) -> Option<Step<'a>> {
        match byte {
            b'\n' | b'\r' => {
                self.end_line(byte);
                // A name alone, be it `data`, brings nothing; no name at all ends the event.
                if read == 0 {
                    return Some(Step::EndOfEvent);
                }
            }
            b':' if usize::from(read) == DATA.len() => {
                self.place = Place::Data;
                return Some(Step::Data(b"\n"));
            }
            _ if DATA.get(usize::from(read)) == Some(&byte) => self.place = Place::Name(read + 1),
            _ => self.place = Place::Skip,
        }
        None
    }

    /// A line ends with `ending`.
    fn end_line(&mut self, ending: u8) {
        self.place = Place::Name(0);
        self.after_cr = ending == b'\r';
    }
}
