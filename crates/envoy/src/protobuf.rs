//! From the JSON in which the parts of an Envoy's configuration are made to the protobuf in which an Envoy is told them.
//!
//! The schema is that of `proto/`, by descriptors: it knows the fields that we use and no others, and a test holds it
//! against `envoy-types`. One value gives the same bytes in every process.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value};

use crate::wire::{any, put_bytes, put_double, put_integer};

/// The descriptors of `proto/`, as far as this crate uses it.
const DESCRIPTORS: &[u8] = include_bytes!("gen/envoy.binpb");
/// The member of an `Any` in JSON that says what it is of.
const ANY_TYPE: &str = "@type";

/// A value that the schema does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {problem}")]
pub struct EncodeError {
    /// The message.
    kind: String,
    /// What is wrong in it.
    problem: String,
}

/// Every message and every enum, by its full name.
#[derive(Default)]
struct Schema {
    messages: HashMap<String, HashMap<String, FieldSchema>>,
    enums: HashMap<String, HashMap<String, i32>>,
}

struct FieldSchema {
    number: u32,
    is_repeated: bool,
    kind: Kind,
}

/// What one value of a field is.
enum Kind {
    Bool,
    Integer,
    Double,
    Text,
    /// An enum, by its full name.
    Enum(String),
    /// A message, by its full name.
    Message(String),
    /// Not used in anything that is made here.
    Other,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // What was generated and committed is read by a test.
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut schema = Schema::default();
    for file in &set.file {
        for message in &file.message_type {
            schema.add_message(file.package(), message);
        }
        for of_file in &file.enum_type {
            schema.add_enum(file.package(), of_file);
        }
    }
    schema
});

/// A message of the type `kind`.
pub fn encode(kind: &str, value: &Value) -> Result<Vec<u8>, EncodeError> {
    let wrong = |problem: String| EncodeError { kind: kind.to_owned(), problem };
    let mut message = Vec::new();
    match (kind, value) {
        ("google.protobuf.Duration", Value::String(text)) => {
            let (seconds, nanos) = duration(text).ok_or_else(|| wrong(format!("{text:?} is no duration")))?;
            put_integer(&mut message, 1, seconds);
            put_integer(&mut message, 2, nanos);
        }
        ("google.protobuf.UInt32Value" | "google.protobuf.BoolValue", value) => {
            let field = SCHEMA.field(kind, "value").ok_or_else(|| wrong("it has no value".to_owned()))?;
            field.put(&mut message, value).map_err(wrong)?;
        }
        ("google.protobuf.Any", Value::Object(members)) => {
            let url = members.get(ANY_TYPE).and_then(Value::as_str).unwrap_or_default();
            let inner = url.rsplit('/').next().unwrap_or_default();
            let mut members = members.clone();
            members.remove(ANY_TYPE);
            message = any(inner, &encode(inner, &Value::Object(members))?);
        }
        (kind, Value::Object(members)) => {
            if !SCHEMA.messages.contains_key(kind) {
                return Err(wrong("there is no such message in proto/".to_owned()));
            }
            for (name, value) in members {
                let field = SCHEMA.field(kind, name).ok_or_else(|| wrong(format!("there is no field {name}")))?;
                field.put(&mut message, value).map_err(|problem| wrong(format!("{name}: {problem}")))?;
            }
        }
        _ => return Err(wrong("it is no object".to_owned())),
    }
    Ok(message)
}

impl Schema {
    fn field(&self, kind: &str, name: &str) -> Option<&FieldSchema> {
        self.messages.get(kind)?.get(name)
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for nested in &message.enum_type {
            self.add_enum(&name, nested);
        }
        let fields = message.field.iter().map(|field| (field.name().to_owned(), FieldSchema::of(field)));
        self.messages.insert(name, fields.collect());
    }

    fn add_enum(&mut self, scope: &str, of_scope: &EnumDescriptorProto) {
        let values = of_scope.value.iter().map(|value| (value.name().to_owned(), value.number()));
        self.enums.insert(format!("{scope}.{}", of_scope.name()), values.collect());
    }
}

impl FieldSchema {
    fn of(field: &FieldDescriptorProto) -> Self {
        let type_name = field.type_name().trim_start_matches('.').to_owned();
        let kind = match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 => Kind::Integer,
            Type::Double => Kind::Double,
            Type::String => Kind::Text,
            Type::Enum => Kind::Enum(type_name),
            Type::Message => Kind::Message(type_name),
            _ => Kind::Other,
        };
        // A negative number is none, and finds no taker.
        let number = u32::try_from(field.number()).unwrap_or_default();
        Self { number, is_repeated: field.label() == Label::Repeated, kind }
    }

    fn put(&self, into: &mut Vec<u8>, value: &Value) -> Result<(), String> {
        match (self.is_repeated, value) {
            (false, value) => self.put_one(into, value),
            (true, Value::Array(values)) => values.iter().try_for_each(|value| self.put_one(into, value)),
            (true, Value::Object(entries)) => entries.iter().try_for_each(|(key, value)| {
                let entry =
                    Map::from_iter([("key".to_owned(), key.as_str().into()), ("value".to_owned(), value.clone())]);
                self.put_one(into, &Value::Object(entry))
            }),
            _ => Err("it is no list".to_owned()),
        }
    }

    fn put_one(&self, into: &mut Vec<u8>, value: &Value) -> Result<(), String> {
        match (&self.kind, value) {
            (Kind::Bool, Value::Bool(value)) => put_integer(into, self.number, u64::from(*value)),
            (Kind::Text, Value::String(text)) => put_bytes(into, self.number, text.as_bytes()),
            (Kind::Integer, Value::Number(number)) => {
                put_integer(
                    into,
                    self.number,
                    number.as_u64().ok_or_else(|| format!("{number} is no natural number"))?,
                );
            }
            (Kind::Double, Value::Number(number)) => {
                put_double(into, self.number, number.as_f64().unwrap_or_default());
            }
            (Kind::Enum(kind), Value::String(name)) => {
                let value = SCHEMA.enums.get(kind).and_then(|values| values.get(name));
                let value = value.and_then(|value| u64::try_from(*value).ok());
                put_integer(into, self.number, value.ok_or_else(|| format!("{kind} has no {name}"))?);
            }
            (Kind::Message(kind), value) => {
                put_bytes(into, self.number, &encode(kind, value).map_err(|error| error.to_string())?);
            }
            _ => return Err(format!("{value} is of another type")),
        }
        Ok(())
    }
}

/// Seconds and nanoseconds of a duration in protobuf's JSON form.
fn duration(text: &str) -> Option<(u64, u64)> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some((whole.parse().ok()?, nanos)).filter(|_| fraction.len() <= 9)
}

#[cfg(test)]
mod tests;
