//! A byte scanner for the Prometheus text exposition format, and for OpenMetrics text, which servers answer with too.
//!
//! A model server's `/metrics` is hundreds of lines of which a handful matter, so a line costs the search for its end
//! and for the end of its name; only lines whose name is wanted are read further. Nothing is allocated for a line
//! that arrives whole.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

/// The longest line that is read, in bytes: room for a LoRA list of a thousand long names. Longer ones are malformed.
pub const MAX_LINE: usize = 128 << 10;

/// Who wants samples, and of which metrics.
pub trait Sink {
    /// Whether samples of the metric `name` are wanted. Asked once a line, so it should be quick.
    fn wants(&self, name: &[u8]) -> bool;

    /// Takes a sample of a wanted metric.
    fn sample(&mut self, sample: Sample<'_>);
}

/// One sample line.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The metric's name, as written: bytes, since nobody checked that it is a name.
    pub name: &'a [u8],
    /// Its labels, in the order of the line.
    pub labels: Labels<'a>,
    /// Its value; may be NaN or infinite.
    pub value: f64,
    /// When it was taken, if the line says: milliseconds in Prometheus text, seconds in OpenMetrics.
    pub timestamp: Option<f64>,
}

/// The labels of one sample, an iterator. Their syntax was checked before the sample was handed out.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// What follows the opening brace, with the closing one.
    text: &'a [u8],
}

/// One label of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its value as written between the quotes.
    raw: &'a [u8],
    escaped: bool,
}

/// Reads an exposition piece by piece.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The beginning of a line whose end has not arrived; at most [`MAX_LINE`].
    carry: Vec<u8>,
    /// Whether the rest of the line at hand is passed over, because it grew too long.
    skipping: bool,
    malformed: u64,
}

impl Scanner {
    /// Reads the next piece. Lines may be split between pieces anywhere.
    pub fn push(&mut self, piece: &[u8], sink: &mut impl Sink) {
        let mut rest = piece;
        if self.skipping || !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', rest) else { return self.keep(rest) };
            self.keep(&rest[..end]);
            self.finish(sink);
            rest = &rest[end + 1..];
        }
        while let Some(end) = memchr(b'\n', rest) {
            self.read_line(&rest[..end], sink);
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            self.keep(rest);
        }
    }

    /// Reads the last line, which may lack its newline. The scanner is then ready for another exposition.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        if !std::mem::take(&mut self.skipping) {
            let mut line = std::mem::take(&mut self.carry);
            self.read_line(&line, sink);
            line.clear();
            self.carry = line;
        }
    }

    /// Lines that were passed over because they could not be read: of wanted metrics, without a value, or too long.
    /// Lines of metrics that nobody wants are not looked at.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn keep(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.carry.len() + part.len() > MAX_LINE {
            self.carry.clear();
            self.skipping = true;
            self.malformed += 1;
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    fn read_line(&mut self, line: &[u8], sink: &mut impl Sink) {
        if line.len() > MAX_LINE {
            self.malformed += 1;
            return;
        }
        let line = skip_blanks(line);
        if matches!(line.first(), None | Some(b'#' | b'\r')) {
            return;
        }
        let Some(end) = memchr3(b'{', b' ', b'\t', line) else {
            self.malformed += 1;
            return;
        };
        let (name, rest) = line.split_at(end);
        if !sink.wants(name) {
            return;
        }
        match read_sample(name, rest) {
            Some(sample) => sink.sample(sample),
            None => self.malformed += 1,
        }
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = Label<'a>;

    fn next(&mut self) -> Option<Label<'a>> {
        match read_label(self.text)? {
            Step::Label(label, rest) => {
                self.text = rest;
                Some(label)
            }
            Step::End(_) => None,
        }
    }
}

impl<'a> Labels<'a> {
    /// The first label of this name.
    pub fn get(mut self, name: &[u8]) -> Option<Label<'a>> {
        self.find(|label| label.name == name)
    }
}

impl<'a> Label<'a> {
    /// Its value as written, escapes and all.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Its value, a copy only where something was escaped. A backslash before anything but `\`, `"` and `n` stands for
    /// itself.
    pub fn value(&self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut value = Vec::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = memchr(b'\\', rest) {
            value.extend_from_slice(&rest[..at]);
            let (plain, taken): (&[u8], usize) = match rest.get(at + 1) {
                Some(b'n') => (b"\n", 2),
                Some(b'"') => (b"\"", 2),
                Some(b'\\') => (b"\\", 2),
                _ => (b"\\", 1),
            };
            value.extend_from_slice(plain);
            rest = &rest[at + taken..];
        }
        value.extend_from_slice(rest);
        Cow::Owned(value)
    }
}

/// What stands next between braces.
enum Step<'a> {
    /// A label, and what follows it.
    Label(Label<'a>, &'a [u8]),
    /// The closing brace, and what follows it.
    End(&'a [u8]),
}

/// Reads `{labels} value timestamp`, labels and timestamp optional; what an exemplar adds is passed over.
fn read_sample<'a>(name: &'a [u8], rest: &'a [u8]) -> Option<Sample<'a>> {
    if name.is_empty() {
        return None;
    }
    let rest = skip_blanks(rest);
    let (labels, rest) = match rest.strip_prefix(b"{") {
        None => (Labels { text: b"}" }, rest),
        Some(text) => {
            let mut left = text;
            loop {
                match read_label(left)? {
                    Step::Label(_, rest) => left = rest,
                    Step::End(rest) => break (Labels { text }, rest),
                }
            }
        }
    };
    let (value, rest) = read_number(rest)?;
    let rest = skip_blanks(rest);
    let (timestamp, rest) = match rest.first() {
        None | Some(b'#' | b'\r') => (None, rest),
        Some(_) => read_number(rest).map(|(timestamp, rest)| (Some(timestamp), skip_blanks(rest)))?,
    };
    let ended = rest.is_empty() || rest == b"\r" || rest.starts_with(b"#");
    ended.then_some(Sample { name, labels, value, timestamp })
}

/// Reads `name="value"` with the comma behind it, or the closing brace.
fn read_label(text: &[u8]) -> Option<Step<'_>> {
    let text = skip_blanks(text);
    if let Some(rest) = text.strip_prefix(b"}") {
        return Some(Step::End(rest));
    }
    let (name, rest) = text.split_at(memchr(b'=', text)?);
    let name = name.trim_ascii_end();
    if name.is_empty() || name.iter().any(|byte| matches!(byte, b'"' | b'{' | b'}' | b',' | b' ' | b'\t')) {
        return None;
    }
    let quoted = skip_blanks(&rest[1..]).strip_prefix(b"\"")?;
    let (mut end, mut escaped) = (memchr2(b'"', b'\\', quoted)?, false);
    while quoted[end] == b'\\' {
        escaped = true;
        let next = end + 2;
        end = next + memchr2(b'"', b'\\', quoted.get(next..)?)?;
    }
    let rest = skip_blanks(&quoted[end + 1..]);
    let rest = match rest.first()? {
        b',' => &rest[1..],
        b'}' => rest,
        _ => return None,
    };
    Some(Step::Label(Label { name, raw: &quoted[..end], escaped }, rest))
}

fn read_number(text: &[u8]) -> Option<(f64, &[u8])> {
    let text = skip_blanks(text);
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    &text[start..]
}

#[cfg(test)]
mod tests;
