//! Which series of an exposition is meant: a metric name, and labels that must match.

use thiserror::Error;

use crate::exposition::Sample;

/// The longest description of a series that is read.
pub const MAX_SERIES_LENGTH: usize = 1024;

/// Why a description of a series cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SeriesError {
    /// Nothing is written.
    #[error("is empty: a metric name is needed, such as vllm:num_requests_waiting")]
    Empty,
    /// Too much is written.
    #[error("is longer than {MAX_SERIES_LENGTH} bytes")]
    TooLong,
    /// The part before the labels is no metric name.
    #[error("{0:?} is no metric name: letters, digits, `_` and `:`, not beginning with a digit")]
    Name(String),
    /// The closing brace is missing, or is not the end.
    #[error("labels must end with `}}`, and nothing may follow it")]
    Braces,
    /// A label that is not `name=value`.
    #[error("{0:?} is no label: write name=value or name=\"value\"")]
    Label(String),
    /// One label is named twice.
    #[error("the label {0:?} is named twice")]
    Repeated(String),
}

/// Selects samples by metric name and labels. Labels that are not named may have any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    /// The metric's name.
    pub(crate) name: Box<str>,
    /// Names and values that must be there.
    labels: Pairs,
}

/// Label names and values.
type Pairs = Box<[(Box<str>, Box<str>)]>;

/// Whether `spec` describes a series: `name` or `name{label=value,...}`, values quoted or not.
pub fn check_series(spec: &str) -> Result<(), SeriesError> {
    Selector::parse(spec).map(drop)
}

impl Selector {
    /// Reads `name` or `name{label=value,...}`.
    pub(crate) fn parse(spec: &str) -> Result<Self, SeriesError> {
        let spec = spec.trim();
        if spec.is_empty() {
            return Err(SeriesError::Empty);
        }
        if spec.len() > MAX_SERIES_LENGTH {
            return Err(SeriesError::TooLong);
        }
        let (name, labels) = match spec.split_once('{') {
            None => (spec, ""),
            Some((name, rest)) => (name.trim_end(), rest.strip_suffix('}').ok_or(SeriesError::Braces)?),
        };
        if !is_name(name, true) {
            return Err(SeriesError::Name(name.into()));
        }
        Ok(Self { name: name.into(), labels: parse_labels(labels)? })
    }

    /// Whether `sample` belongs to the series.
    pub(crate) fn matches(&self, sample: &Sample<'_>) -> bool {
        let has = |(name, value): &(Box<str>, Box<str>)| {
            sample.labels.get(name.as_bytes()).is_some_and(|label| *label.value() == *value.as_bytes())
        };
        sample.name == self.name.as_bytes() && self.labels.iter().all(has)
    }
}

fn parse_labels(text: &str) -> Result<Pairs, SeriesError> {
    let mut pairs: Vec<(Box<str>, Box<str>)> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let bad = || SeriesError::Label(rest.into());
        let (name, after) = rest.split_once('=').ok_or_else(bad)?;
        let (name, after) = (name.trim(), after.trim_start());
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(bad)?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        let (value, after) = (if after.starts_with(',') { value.trim_end() } else { value }, after.trim_start());
        let next = if after.is_empty() { after } else { after.strip_prefix(',').ok_or_else(bad)?.trim_start() };
        if !is_name(name, false) || value.contains(['{', '}', '"', '\\']) {
            return Err(bad());
        }
        if pairs.iter().any(|(other, _)| **other == *name) {
            return Err(SeriesError::Repeated(name.into()));
        }
        pairs.push((name.into(), value.into()));
        rest = next;
    }
    Ok(pairs.into())
}

fn is_name(name: &str, colons: bool) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
    !name.is_empty() && name.bytes().all(is_part) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_labels_quoted_or_not() {
        type Named = &'static [(&'static str, &'static str)];
        let cases: &[(&str, &str, Named)] = &[
            ("vllm:x", "vllm:x", &[]),
            (" x{} ", "x", &[]),
            ("x{a=b}", "x", &[("a", "b")]),
            ("x {a=\"b\", c = d }", "x", &[("a", "b"), ("c", "d")]),
            ("x{a=\"b,c=d\"}", "x", &[("a", "b,c=d")]),
            ("x{a=,b=\"\"}", "x", &[("a", ""), ("b", "")]),
            ("x{a=b,}", "x", &[("a", "b")]),
        ];
        for (spec, name, labels) in cases {
            let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            assert_eq!(Selector::parse(spec), Ok(Selector { name: (*name).into(), labels }), "{spec:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_series() {
        let cases = [
            ("  ", SeriesError::Empty),
            (&*"x".repeat(MAX_SERIES_LENGTH + 1), SeriesError::TooLong),
            ("9x", SeriesError::Name("9x".into())),
            ("x y", SeriesError::Name("x y".into())),
            ("{a=b}", SeriesError::Name(String::new())),
            ("x{a=b", SeriesError::Braces),
            ("x{a=b} 1", SeriesError::Braces),
            ("x{a}", SeriesError::Label("a".into())),
            ("x{a:b=c}", SeriesError::Label("a:b=c".into())),
            ("x{a=\"b}", SeriesError::Label("a=\"b".into())),
            ("x{a=\"b\"c}", SeriesError::Label("a=\"b\"c".into())),
            ("x{a=b}{c=d}", SeriesError::Label("a=b}{c=d".into())),
            ("x{a=b,a=c}", SeriesError::Repeated("a".into())),
        ];
        for (spec, error) in cases {
            assert_eq!(check_series(spec), Err(error), "{spec:?}");
        }
    }
}
