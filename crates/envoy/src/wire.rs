//! Protobuf as it lies on the wire: messages are read and changed a field at a time, and what nobody touches stays as it
//! came, byte for byte.
//!
//! Resources that others made are changed in this way alone. Decoded into types and encoded again they would lose every
//! field that is newer than the types.

const WIRE_VARINT: u32 = 0;
const WIRE_FIXED64: u32 = 1;
const WIRE_BYTES: u32 = 2;
const WIRE_FIXED32: u32 = 5;

/// What is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is not there as a whole.
    #[error("a message ends in the middle of a field")]
    Truncated,
    /// A field says what no field can say.
    #[error("a message holds a field of number {number} and wire type {wire_type}, which is none")]
    Malformed {
        /// Its number.
        number: u64,
        /// Its wire type.
        wire_type: u32,
    },
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub value: FieldValue<'a>,
    /// All of its bytes, the tag among them.
    raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// The text, bytes or message that it holds; nothing where it holds a number.
    pub fn bytes(&self) -> &'a [u8] {
        match self.value {
            FieldValue::Bytes(bytes) => bytes,
            FieldValue::Varint(_) | FieldValue::Fixed => &[],
        }
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// An integer, a boolean or an enum.
    Varint(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number of fixed size.
    Fixed,
}

/// What becomes of a field.
#[derive(Debug)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// It goes.
    Drop,
    /// It holds these bytes instead.
    Set(Vec<u8>),
    /// These fields come before it.
    Before(Vec<u8>),
}

/// A message, checked to consist of fields. What its fields hold is not.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    fields: Vec<Field<'a>>,
}

impl<'a> Message<'a> {
    /// Reads a message.
    pub fn read(mut rest: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (field, after) = read_field(rest)?;
            fields.push(field);
            rest = after;
        }
        Ok(Self { fields })
    }

    /// Its fields, in their order.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// Whether there is a field of that number.
    pub fn has(&self, number: u32) -> bool {
        self.fields.iter().any(|field| field.number == number)
    }

    /// What the fields of that number hold, each a text, bytes or a message.
    pub fn all(&self, number: u32) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.fields.iter().filter(move |field| field.number == number).filter_map(|field| match field.value {
            FieldValue::Bytes(bytes) => Some(bytes),
            FieldValue::Varint(_) | FieldValue::Fixed => None,
        })
    }

    /// What the field of that number holds; the last one counts, as everywhere in protobuf.
    pub fn bytes(&self, number: u32) -> Option<&'a [u8]> {
        self.all(number).last()
    }

    /// The text in the field of that number; empty where there is none, or what there is is no text.
    pub fn text(&self, number: u32) -> &'a str {
        self.bytes(number).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The integer in the field of that number; zero where there is none.
    pub fn integer(&self, number: u32) -> u64 {
        let value = |field: &Field<'a>| match field.value {
            FieldValue::Varint(value) if field.number == number => Some(value),
            _ => None,
        };
        self.fields.iter().rev().find_map(value).unwrap_or_default()
    }

    /// The message in the field of that number; an empty one where there is none.
    pub fn message(&self, number: u32) -> Result<Message<'a>, WireError> {
        Message::read(self.bytes(number).unwrap_or_default())
    }

    /// The message with its fields changed, and `added` behind them.
    pub fn changed(&self, mut change: impl FnMut(&Field<'a>) -> Change, added: &[u8]) -> Vec<u8> {
        let mut changed = Vec::new();
        for field in &self.fields {
            match change(field) {
                Change::Keep => changed.extend_from_slice(field.raw),
                Change::Drop => {}
                Change::Set(bytes) => put_bytes(&mut changed, field.number, &bytes),
                Change::Before(fields) => {
                    changed.extend_from_slice(&fields);
                    changed.extend_from_slice(field.raw);
                }
            }
        }
        changed.extend_from_slice(added);
        changed
    }

    /// The message without the fields of these numbers, and with `added` behind the others.
    pub fn replaced(&self, numbers: &[u32], added: &[u8]) -> Vec<u8> {
        self.changed(|field| if numbers.contains(&field.number) { Change::Drop } else { Change::Keep }, added)
    }
}

/// Writes a field that holds a text, bytes or a message.
pub fn put_bytes(into: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(into, u64::from(number) << 3 | u64::from(WIRE_BYTES));
    put_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// Writes a field that holds an integer, a boolean or an enum.
pub fn put_integer(into: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(into, u64::from(number) << 3 | u64::from(WIRE_VARINT));
    put_varint(into, value);
}

/// Writes a field that holds a `double`.
pub fn put_double(into: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(into, u64::from(number) << 3 | u64::from(WIRE_FIXED64));
    into.extend_from_slice(&value.to_le_bytes());
}

/// An `Any`.
pub fn any(kind: &str, message: &[u8]) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 1, format!("type.googleapis.com/{kind}").as_bytes());
    put_bytes(&mut any, 2, message);
    any
}

/// What an `Any` is of, and its message.
pub fn read_any(any: &[u8]) -> Result<(&str, &[u8]), WireError> {
    let any = Message::read(any)?;
    let url = any.text(1);
    Ok((url.rsplit('/').next().unwrap_or_default(), any.bytes(2).unwrap_or_default()))
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value as u8) | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn read_field(bytes: &[u8]) -> Result<(Field<'_>, &[u8]), WireError> {
    let (tag, rest) = read_varint(bytes)?;
    let wire_type = (tag & 7) as u32;
    let number = tag >> 3;
    let malformed = WireError::Malformed { number, wire_type };
    let number = u32::try_from(number).ok().filter(|number| (1..1 << 29).contains(number)).ok_or(malformed)?;
    let (value, rest) = match wire_type {
        WIRE_VARINT => {
            let (value, rest) = read_varint(rest)?;
            (FieldValue::Varint(value), rest)
        }
        WIRE_FIXED64 => (FieldValue::Fixed, rest.get(8..).ok_or(WireError::Truncated)?),
        WIRE_FIXED32 => (FieldValue::Fixed, rest.get(4..).ok_or(WireError::Truncated)?),
        WIRE_BYTES => {
            let (length, rest) = read_varint(rest)?;
            let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
            let (value, rest) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
            (FieldValue::Bytes(value), rest)
        }
        _ => return Err(malformed),
    };
    let raw = &bytes[..bytes.len() - rest.len()];
    Ok((Field { number, value, raw }, rest))
}

fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[at + 1..]));
        }
    }
    Err(WireError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with one field of each wire type, the unknown 99 among them.
    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, b"name");
        put_integer(&mut bytes, 2, u64::MAX);
        put_double(&mut bytes, 3, 0.5);
        bytes.extend_from_slice(&[(4 << 3) | 5, 1, 2, 3, 4]);
        put_bytes(&mut bytes, 99, b"of a version to come");
        put_bytes(&mut bytes, 1, b"last");
        bytes
    }

    #[test]
    fn fields_are_read_as_protobuf_says() {
        let bytes = sample();
        let message = Message::read(&bytes).unwrap();
        assert_eq!(message.fields().iter().map(|field| field.number).collect::<Vec<_>>(), [1, 2, 3, 4, 99, 1]);
        assert_eq!((message.text(1), message.integer(2), message.text(7)), ("last", u64::MAX, ""));
        assert_eq!(message.all(1).collect::<Vec<_>>(), [b"name", b"last"]);
        assert!(message.has(4) && !message.has(5));
    }

    #[test]
    fn what_is_not_changed_stays_byte_for_byte() {
        let bytes = sample();
        let message = Message::read(&bytes).unwrap();
        assert_eq!(message.changed(|_| Change::Keep, &[]), bytes);
        let mut added = Vec::new();
        put_integer(&mut added, 5, 1);
        let changed = message.replaced(&[1], &added);
        let changed = Message::read(&changed).unwrap();
        assert_eq!(changed.fields().iter().map(|field| field.number).collect::<Vec<_>>(), [2, 3, 4, 99, 5]);
        assert_eq!(changed.bytes(99), Some(&b"of a version to come"[..]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let table: [(&[u8], _); 7] = [
            (&[0x80], WireError::Truncated),
            (&[0x08], WireError::Truncated),
            (&[0x0a, 5, 1], WireError::Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], WireError::Truncated),
            (&[0x09, 1, 2], WireError::Truncated),
            (&[0x00, 1], WireError::Malformed { number: 0, wire_type: 0 }),
            (&[0x0b], WireError::Malformed { number: 1, wire_type: 3 }),
        ];
        for (bytes, error) in table {
            assert_eq!(Message::read(bytes).unwrap_err(), error, "{bytes:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_message_is_read_or_refused() {
        let bytes = sample();
        for end in 0..bytes.len() {
            let _ = Message::read(&bytes[..end]);
        }
    }
}
