//! Problems of a configuration: where, what, and what was probably meant.

use std::fmt;

/// The most problems that one check reports: a hostile file must not make a report bigger than itself.
const MAX_PROBLEMS: usize = 500;

/// The way from a configuration's root to one of its nodes, shown as `scheduling.profile.scorers[1].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into a mapping, by key.
    Member(String),
    /// Into a list, by position.
    Item(usize),
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The node that is wrong; where a required one is missing, the mapping that should hold it.
    pub path: FieldPath,
    /// What is wrong and what would be right, without a full stop.
    pub message: String,
    /// What was probably meant, where something known is close.
    pub suggestion: Option<String>,
}

/// Collects the problems of one configuration, up to a bound.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl FieldPath {
    /// The path of the member `key` of this node.
    pub fn member(&self, key: impl Into<String>) -> Self {
        let mut path = self.clone();
        path.push(Step::Member(key.into()));
        path
    }

    /// The path of the item at position `at` of this node.
    pub fn item(&self, at: usize) -> Self {
        let mut path = self.clone();
        path.push(Step::Item(at));
        path
    }

    /// The path of what `text` names below this node, as in `matchExpressions[0].values`; empty text is this node.
    pub fn join(&self, text: &str) -> Self {
        let mut path = self.clone();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let (key, items) = part.split_once('[').unwrap_or((part, ""));
            if !key.is_empty() {
                path.push(Step::Member(key.into()));
            }
            let positions = items.split('[').filter_map(|item| item.trim_end_matches(']').parse().ok());
            positions.for_each(|at| path.push(Step::Item(at)));
        }
        path
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this node is `other` or lies below it.
    pub fn is_under(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    pub(super) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Member(key) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) => {
                    write!(f, "{}{key}", if at == 0 { "" } else { "." })?;
                }
                Step::Member(key) => write!(f, "[{:?}]", shortened(key))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.0.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean \"{suggestion}\"?"),
            None => Ok(()),
        }
    }
}

impl Problems {
    /// Reports a problem.
    pub fn add(&mut self, path: FieldPath, message: impl Into<String>) {
        self.push(Problem { path, message: message.into(), suggestion: None });
    }

    /// Reports that `given` is none of the `known` names; `message` says so. The report names the closest one, or all.
    pub fn add_unknown<'a>(
        &mut self,
        path: FieldPath,
        message: impl Into<String>,
        given: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let suggestion = closest(given, &known).map(str::to_owned);
        let mut message = message.into();
        if suggestion.is_none() {
            match known.is_empty() {
                true => message.push_str(" (none is known here)"),
                false => message.push_str(&format!(" (known: {})", known.join(", "))),
            }
        }
        self.push(Problem { path, message, suggestion });
    }

    /// Reports a problem.
    pub fn push(&mut self, problem: Problem) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(problem);
        }
    }

    /// Whether `path` or anything below it has a problem.
    pub fn any_under(&self, path: &FieldPath) -> bool {
        self.0.iter().any(|problem| problem.path.is_under(path))
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that was reported, in the order of the report.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// The known name that `given` was probably meant to be: the same but for case and punctuation, or but for a few
/// letters, or its beginning.
pub fn closest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let plain = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).take(LONGEST).map(|c| c.to_ascii_lowercase()).collect()
    };
    let given = plain(given);
    if given.is_empty() {
        return None;
    }
    let distance = |name: &str| match name {
        name if name == given => 0,
        name if given.len() >= 2 && name.starts_with(&given) => 1,
        name => strsim::damerau_levenshtein(name, &given),
    };
    let best = known.iter().map(|name| (distance(&plain(name)), *name)).min()?;
    (best.0 <= 1.max(given.len() / 3)).then_some(best.1)
}

/// Text from a file as messages show it: on one line, and not all of it.
pub fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
