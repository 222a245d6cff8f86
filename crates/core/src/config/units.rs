//! How a configuration writes durations, sizes and names of series: each a pattern, which the schema carries, and a
//! parser.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};

/// A Gateway API duration (GEP-2257), such as `500ms` or `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayDuration(pub Duration);

/// A Kubernetes quantity of bytes, such as `64Mi`, `500M`, `1.5Gi` or a plain integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub u64);

/// A kind of text that a schema asks for by its pattern, and that is checked by a parser.
pub(super) struct TextKind {
    /// The pattern, as the schema carries it.
    pub(super) pattern: &'static str,
    /// What to tell who wrote something else.
    pub(super) expected: &'static str,
    /// Whether a text is of this kind.
    pub(super) is: fn(&str) -> bool,
}

/// Every pattern that our schemas use. A pattern of somebody else's schema is left to their plugin.
pub(super) const TEXT_KINDS: &[TextKind] = &[
    TextKind {
        pattern: DURATION_PATTERN,
        expected: "a duration with a unit, such as 500ms, 10s or 1h30m",
        is: |text| parse_duration(text).is_some(),
    },
    TextKind {
        pattern: QUANTITY_PATTERN,
        expected: "a size such as 64Mi, 1Gi, 500M or a whole number of bytes",
        is: |text| parse_quantity(text).is_some(),
    },
    TextKind {
        pattern: SERIES_PATTERN,
        expected: "a metric's name, optionally with labels, as in name{label=value}",
        is: is_series,
    },
    TextKind {
        pattern: LABEL_PATTERN,
        expected: "a metric label's name (letters, digits and _)",
        is: |text| is_identifier(text, b"_"),
    },
    TextKind { pattern: NAME_PATTERN, expected: "a name of lower-case letters, digits and -", is: is_name },
    TextKind { pattern: HEADER_PATTERN, expected: "a header's name, such as x-beta", is: is_header },
];

/// The pattern of [`GatewayDuration`].
pub const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// The pattern of [`Quantity`] when it is text.
pub const QUANTITY_PATTERN: &str = "^[0-9]{1,15}(\\.[0-9]{1,6})?(k|M|G|T|Ki|Mi|Gi|Ti)?$";
/// The pattern of a series: a metric's name, optionally with labels that must match.
pub const SERIES_PATTERN: &str = "^[a-zA-Z_:][a-zA-Z0-9_:]*(\\{[^{}]*\\})?$";
/// The pattern of a metric label's name.
pub const LABEL_PATTERN: &str = "^[a-zA-Z_][a-zA-Z0-9_]*$";
/// The pattern of names that we give: those of engines and the like.
pub const NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The pattern of a header's name.
pub const HEADER_PATTERN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";

/// Reads a Gateway API duration.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (count, tail) = rest.split_at(digits);
        let count: u64 = count.parse().ok()?;
        let unit = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit);
        total += match unit {
            "h" => Duration::from_secs(count * 3600),
            "m" => Duration::from_secs(count * 60),
            "s" => Duration::from_secs(count),
            "ms" => Duration::from_millis(count),
            _ => return None,
        };
        rest = tail;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

/// Reads a Kubernetes quantity of bytes; a fraction of a byte rounds up, as Kubernetes does.
pub fn parse_quantity(text: &str) -> Option<u64> {
    let number = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = text.split_at(number);
    let unit: u128 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    if !(1..=15).contains(&whole.len()) || fraction.is_some_and(|part| !(1..=6).contains(&part.len())) {
        return None;
    }
    let fraction = fraction.unwrap_or("0");
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let bytes = whole.parse::<u128>().ok()? * unit + (fraction.parse::<u128>().ok()? * unit).div_ceil(scale);
    u64::try_from(bytes).ok()
}

/// Whether `text` names a series: `name`, or `name{label=value,...}` with or without quotes around the values.
fn is_series(text: &str) -> bool {
    match text.split_once('{') {
        None => is_identifier(text, b"_:"),
        Some((name, labels)) => is_identifier(name, b"_:") && labels.strip_suffix('}').is_some_and(are_labels),
    }
}

fn are_labels(text: &str) -> bool {
    let mut names = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (name, after) = (name.trim(), after.trim_start());
        let value = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"'),
            None => Some(after.split_at(after.find(',').unwrap_or(after.len()))),
        };
        let Some((value, after)) = value else { return false };
        if !is_identifier(name, b"_") || names.contains(&name) || value.contains(['{', '}', '"', '\\']) {
            return false;
        }
        names.push(name);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) if !next.trim().is_empty() => rest = next,
            Some(_) => return false,
            None => break,
        }
    }
    rest.is_empty()
}

fn is_identifier(text: &str, also: &[u8]) -> bool {
    !text.is_empty()
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte))
}

impl<'de> Deserialize<'de> for GatewayDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let refused = || D::Error::invalid_value(Unexpected::Str(&text), &TEXT_KINDS[0].expected);
        parse_duration(&text).map(Self).ok_or_else(refused)
    }
}

impl JsonSchema for GatewayDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32})
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => {
                let refused = || D::Error::invalid_value(Unexpected::Str(&text), &TEXT_KINDS[1].expected);
                parse_quantity(&text).map(Self).ok_or_else(refused)
            }
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "minimum": 0,
            "maxLength": 32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_the_gateway_api_says() {
        for (text, millis) in [
            ("0s", 0),
            ("50ms", 50),
            ("1h30m", 5_400_000),
            ("1m", 60_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999s", 99_999_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "100000s", "1s1s1s1s1s", "1d", "1 s", "1us", "1S", "1s ", "٣s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_as_kubernetes_quantities() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("64Mi", 64 << 20),
            ("1Gi", 1 << 30),
            ("500M", 500_000_000),
            ("2k", 2000),
            ("1.5Ki", 1536),
            ("0.1", 1),
        ] {
            assert_eq!(parse_quantity(text), Some(bytes), "{text}");
        }
        for text in ["", "Mi", "-1", "1MB", "1mi", "1e3", "1.", ".5", "1.2.3", "1 Gi", "999999999999999Ti", "1K"] {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
    }

    #[test]
    fn series_are_names_with_optional_labels() {
        for text in [
            "vllm:num_requests_waiting",
            "a{b=c}",
            "a{b=\"c d\",e=f}",
            "a{b=\"c,d=e\"}",
            "a{ b = c , d=e}",
            "a{}",
            "_x",
        ] {
            assert!(is_series(text), "{text}");
        }
        for text in [
            "",
            "9a",
            "a b",
            "a{",
            "a{b}",
            "a{b=c}}",
            "a{b=\"c}",
            "a{b=\"c\"d}",
            "a{b=c,b=d}",
            "a{b=c,}",
            "a{b=c,d}",
            "a{b=c d=e\\}",
            "a-b",
            "{a=b}",
            "a{b=c}d",
        ] {
            assert!(!is_series(text), "{text}");
        }
    }
}
