//! The structural check: one walk over a configuration beside its schema, which reports everything that does not fit.

use serde_json::{Map, Value};

use super::UnknownFields;
use super::problem::{FieldPath, Problem, Problems, Step, shortened};
use super::units::{TEXT_KINDS, TextKind};

/// Checks `value`, which stands at `path`, against a structural schema.
///
/// What does not fit is reported and taken out: a member disappears, an item becomes null so that the positions of its
/// neighbours stay, and with a required member its mapping goes too. What is left can always be read as the type that
/// the schema was made from, so that the checks which follow see all the rest. Null members count as absent.
pub fn check(
    value: &mut Value,
    schema: &Value,
    path: &FieldPath,
    unknown: &mut UnknownFields,
    problems: &mut Problems,
) {
    let mut walk = Walk { path: path.clone(), unknown, problems };
    if !walk.node(value, schema) {
        *value = Value::Null;
    }
}

struct Walk<'a> {
    path: FieldPath,
    unknown: &'a mut UnknownFields,
    problems: &'a mut Problems,
}

impl Walk<'_> {
    /// Whether what is left of `value` is of use.
    fn node(&mut self, value: &mut Value, schema: &Value) -> bool {
        let Some(expected) = schema.get("type").and_then(Value::as_str) else {
            return schema.get("x-kubernetes-int-or-string").is_none() || self.int_or_string(value, schema);
        };
        match (expected, &mut *value) {
            ("object", Value::Object(members)) => self.object(members, schema),
            ("array", Value::Array(items)) => self.array(items, schema),
            ("string", Value::String(text)) => self.text(text, schema),
            ("number", Value::Number(_)) => self.number(value, schema),
            ("integer", Value::Number(number)) if !number.is_f64() => self.number(value, schema),
            ("boolean", Value::Bool(_)) => true,
            _ => self.mismatch(value, schema),
        }
    }

    fn object(&mut self, members: &mut Map<String, Value>, schema: &Value) -> bool {
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties");
        let mut usable = self.at_most(members.len(), "maxProperties", "members", schema);
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let required = required.as_str().unwrap_or_default();
            if members.get(required).is_none_or(Value::is_null) {
                self.report(format!("`{required}` is missing"));
                usable = false;
            }
        }
        let mut lost = Vec::new();
        members.retain(|key, member| {
            let below = properties.and_then(|properties| properties.get(key));
            self.path.push(Step::Member(key.clone()));
            let kept = match (below, additional) {
                (Some(_), _) if member.is_null() => false,
                (Some(below), _) => self.node(member, below),
                (None, Some(Value::Bool(false))) => {
                    self.unknown_field(key, properties);
                    false
                }
                (None, Some(below @ Value::Object(_))) => self.node(member, below),
                (None, _) => true,
            };
            self.path.pop();
            if !kept {
                lost.push(key.clone());
            }
            kept
        });
        let required = |key: &String| schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == key));
        usable && !lost.iter().any(required)
    }

    fn array(&mut self, items: &mut [Value], schema: &Value) -> bool {
        let usable = self.at_most(items.len(), "maxItems", "items", schema);
        let below = schema.get("items").unwrap_or(&Value::Null);
        for (at, item) in items.iter_mut().enumerate() {
            self.path.push(Step::Item(at));
            if !self.node(item, below) {
                *item = Value::Null;
            }
            self.path.pop();
        }
        usable
    }

    fn text(&mut self, text: &str, schema: &Value) -> bool {
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
            if !allowed.contains(&text) {
                let kind = schema.get("title").and_then(Value::as_str).unwrap_or("value");
                let message = format!("unknown {kind} {:?}", shortened(text));
                self.problems.add_unknown(self.path.clone(), message, text, allowed);
                return false;
            }
        }
        if let Some(kind) = text_kind(schema)
            && !(kind.is)(text)
        {
            self.report(format!("expected {}, found {:?}", kind.expected, shortened(text)));
            return false;
        }
        if text.is_empty() && schema.get("minLength").and_then(Value::as_u64).is_some_and(|least| least > 0) {
            self.report("expected text, found none".into());
            return false;
        }
        self.at_most(text.chars().count(), "maxLength", "characters", schema)
    }

    fn number(&mut self, value: &Value, schema: &Value) -> bool {
        let number = value.as_f64().unwrap_or(f64::NAN);
        let bound = |name: &str, otherwise| schema.get(name).and_then(Value::as_f64).unwrap_or(otherwise);
        let (min, max) = (bound("minimum", f64::NEG_INFINITY), bound("maximum", f64::INFINITY));
        if (min..=max).contains(&number) {
            return true;
        }
        self.report(match (min.is_finite(), max.is_finite()) {
            (true, true) => format!("{value} is outside of {min} to {max}"),
            (true, false) => format!("{value} is less than {min}"),
            _ => format!("{value} is more than {max}"),
        });
        false
    }

    fn int_or_string(&mut self, value: &Value, schema: &Value) -> bool {
        match value {
            Value::String(text) => self.text(text, schema),
            Value::Number(number) if number.is_u64() => self.number(value, schema),
            _ => self.mismatch(value, schema),
        }
    }

    fn mismatch(&mut self, value: &Value, schema: &Value) -> bool {
        let expected = match (text_kind(schema), schema.get("type").and_then(Value::as_str)) {
            (Some(kind), _) => kind.expected,
            (None, Some("object")) => "a mapping",
            (None, Some("array")) => "a list",
            (None, Some("string")) => "text",
            (None, Some("integer")) => "a whole number",
            (None, Some("number")) => "a number",
            (None, Some("boolean")) => "true or false",
            _ => "a whole number or text",
        };
        let quoting = matches!((expected, value), ("text", Value::Bool(_) | Value::Number(_)));
        self.report(format!(
            "expected {expected}, found {}{}",
            described(value),
            if quoting { " (put it in quotes)" } else { "" }
        ));
        false
    }

    fn unknown_field(&mut self, key: &str, properties: Option<&Map<String, Value>>) {
        let mut found = Problems::default();
        let known = properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
        found.add_unknown(self.path.clone(), "unknown field", key, known);
        found.into_vec().into_iter().for_each(|problem| match &mut *self.unknown {
            UnknownFields::Refuse => self.problems.push(problem),
            UnknownFields::Tolerate(ignored) => ignored.push(problem),
        });
    }

    fn at_most(&mut self, len: usize, keyword: &str, what: &str, schema: &Value) -> bool {
        let most = schema.get(keyword).and_then(Value::as_u64).unwrap_or(u64::MAX);
        let fits = len as u64 <= most;
        if !fits {
            self.report(format!("{len} {what} are more than the {most} allowed"));
        }
        fits
    }

    fn report(&mut self, message: String) {
        self.problems.push(Problem { path: self.path.clone(), message, suggestion: None });
    }
}

/// The kind of text that a schema's pattern asks for.
fn text_kind(schema: &Value) -> Option<&'static TextKind> {
    let pattern = schema.get("pattern")?.as_str()?;
    TEXT_KINDS.iter().find(|kind| kind.pattern == pattern)
}

/// A value as messages name it.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("{:?}", shortened(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}
