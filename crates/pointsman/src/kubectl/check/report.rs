//! What a check found.

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};

use crate::kubectl::table::{count, printable};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// As it should be.
    Ok,
    /// It may be well, or cannot be told from here.
    Warn,
    /// Wrong.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    pub(super) text: String,
    /// What to do about it; absent where all is well, or the text says it.
    pub(super) mend: Option<String>,
}

/// All findings, by section.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    sections: Vec<(String, Vec<Finding>)>,
}

impl Mark {
    fn symbol(self) -> char {
        match self {
            Self::Ok => '√',
            Self::Warn => '‼',
            Self::Fail => '×',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warning",
            Self::Fail => "failure",
        }
    }
}

impl Finding {
    pub(super) fn ok(text: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, text: text.into(), mend: None }
    }

    pub(super) fn warn(text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { mark: Mark::Warn, text: text.into(), mend: Some(mend.into()) }
    }

    pub(super) fn fail(text: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { mark: Mark::Fail, text: text.into(), mend: Some(mend.into()) }
    }
}

impl Report {
    /// What is found from here on belongs to this section. One without findings is not shown.
    pub(super) fn section(&mut self, name: &str) {
        self.sections.push((name.to_owned(), Vec::new()));
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.sections.is_empty() {
            self.section("");
        }
        if let Some((_, findings)) = self.sections.last_mut() {
            findings.push(finding);
        }
    }

    pub(super) fn ok(&mut self, text: impl Into<String>) {
        self.add(Finding::ok(text));
    }

    pub(super) fn warn(&mut self, text: impl Into<String>, mend: impl Into<String>) {
        self.add(Finding::warn(text, mend));
    }

    pub(super) fn fail(&mut self, text: impl Into<String>, mend: impl Into<String>) {
        self.add(Finding::fail(text, mend));
    }

    /// What was read. What could not be read is no fault of the installation: a warning.
    pub(super) fn known<T>(&mut self, read: Result<T>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                self.warn(format!("cannot be told: {error:#}"), "try again as somebody who may read it");
                None
            }
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.count(Mark::Fail) > 0
    }

    fn count(&self, mark: Mark) -> usize {
        self.sections.iter().flat_map(|(_, findings)| findings).filter(|finding| finding.mark == mark).count()
    }

    /// For machines.
    pub(super) fn to_json(&self) -> Value {
        let findings = self.sections.iter().flat_map(|(section, findings)| {
            findings.iter().map(move |finding| {
                let Finding { mark, text, mend } = finding;
                json!({"section": section, "status": mark.word(), "text": text, "mend": mend})
            })
        });
        json!({"ok": !self.has_failed(), "findings": findings.collect::<Vec<_>>()})
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, findings) in self.sections.iter().filter(|(_, findings)| !findings.is_empty()) {
            writeln!(f, "{}", printable(section))?;
            for Finding { mark, text, mend } in findings {
                writeln!(f, "  {} {}", mark.symbol(), printable(text))?;
                if let Some(mend) = mend {
                    writeln!(f, "      → {}", printable(mend))?;
                }
            }
            writeln!(f)?;
        }
        let (failures, warnings) = (self.count(Mark::Fail), self.count(Mark::Warn));
        let worst = match (failures, warnings) {
            (0, 0) => "all is well".to_owned(),
            (0, _) => count(warnings, "warning"),
            (_, 0) => count(failures, "failure"),
            _ => format!("{}, {}", count(failures, "failure"), count(warnings, "warning")),
        };
        writeln!(f, "{worst}; {} ok", self.count(Mark::Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_under_their_section_with_a_mark_and_a_mend() {
        let mut report = Report::default();
        report.section("cluster");
        report.ok("the API server answers: v1.34.2");
        report.section("empty");
        report.section("pool prod/chat");
        report.warn("1 of 3 pods is not ready: gpu-b", "`kubectl describe pod gpu-b` tells why");
        report.fail("no Service\u{1b}[2J picker", "create it");
        assert_eq!(report.known(Err::<(), _>(anyhow::anyhow!("listing pods: forbidden"))), None);
        let expected = "\
cluster
  √ the API server answers: v1.34.2

pool prod/chat
  ‼ 1 of 3 pods is not ready: gpu-b
      → `kubectl describe pod gpu-b` tells why
  × no Service\u{fffd}[2J picker
      → create it
  ‼ cannot be told: listing pods: forbidden
      → try again as somebody who may read it

1 failure, 2 warnings; 1 ok
";
        assert_eq!(report.to_string(), expected);
        assert!(report.has_failed());
        let json = report.to_json();
        assert_eq!((&json["ok"], &json["findings"][2]["status"]), (&false.into(), &"failure".into()));
        assert_eq!(json["findings"][2]["mend"], "create it");
    }

    #[test]
    fn without_failures_all_is_well() {
        let mut report = Report::default();
        report.ok("fine");
        assert!(!report.has_failed());
        assert!(report.to_string().ends_with("all is well; 1 ok\n"), "{report}");
    }
}
