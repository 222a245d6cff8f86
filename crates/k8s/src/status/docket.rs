//! Which objects are to be looked at, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::calls::{CallError, Failure, Jitter};
use crate::verdict::{Subject, Verdict, Verdicts};

/// How soon an object is looked at again when it changed between read and write, or its verdict did meanwhile.
const AGAIN: Duration = Duration::from_millis(250);
/// The pauses while the API server is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The pauses while it refuses; nothing but a person's deed ends that.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// How often an object whose verdict does not change is looked at, in case somebody else wrote on it.
const RECHECK: Duration = Duration::from_secs(600);

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its status was written.
    Written,
    /// It said what was wanted.
    Unchanged,
    /// It is gone, or another one than was judged.
    Moot,
}

/// All subjects with a verdict, and when each is looked at next.
#[derive(Debug)]
pub(super) struct Docket {
    entries: BTreeMap<Subject, Entry>,
    /// The moments in `entries`, in order.
    due: BTreeSet<(Instant, Subject)>,
    jitter: Jitter,
}

#[derive(Debug)]
struct Entry {
    verdict: Arc<Verdict>,
    /// When it is looked at next; `None` while it is.
    at: Option<Instant>,
    /// How often in a row it could not be written.
    failures: u32,
}

impl Default for Docket {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), due: BTreeSet::new(), jitter: Jitter::new() }
    }
}

impl Docket {
    /// Takes over what is wanted: objects that are new or judged anew are due now, others stay as they are.
    pub(super) fn take(&mut self, verdicts: &Verdicts, now: Instant) {
        let due = &mut self.due;
        self.entries.retain(|subject, entry| {
            let stays = verdicts.contains_key(subject);
            if let (false, Some(at)) = (stays, entry.at) {
                due.remove(&(at, subject.clone()));
            }
            stays
        });
        for (subject, verdict) in verdicts {
            let known = self.entries.get_mut(subject);
            match known {
                Some(entry) if Arc::ptr_eq(&entry.verdict, verdict) || entry.verdict == *verdict => {}
                Some(entry) => {
                    entry.verdict = Arc::clone(verdict);
                    entry.failures = 0;
                    // One that is being written is looked at again when that is done.
                    if let Some(at) = entry.at {
                        self.due.remove(&(at, subject.clone()));
                        self.schedule(subject, now);
                    }
                }
                None => {
                    let entry = Entry { verdict: Arc::clone(verdict), at: None, failures: 0 };
                    self.entries.insert(subject.clone(), entry);
                    self.schedule(subject, now);
                }
            }
        }
    }

    /// When the next object is due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next object that is due; it is the caller's until [`Self::settled`].
    pub(super) fn next_due(&mut self, now: Instant) -> Option<(Subject, Arc<Verdict>)> {
        self.due_at().filter(|at| *at <= now)?;
        let (_, subject) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&subject)?;
        entry.at = None;
        Some((subject, Arc::clone(&entry.verdict)))
    }

    /// Takes note of what became of an object under the verdict that it was looked at with.
    pub(super) fn settled(
        &mut self,
        subject: &Subject,
        verdict: &Arc<Verdict>,
        outcome: Result<Outcome, CallError>,
        now: Instant,
    ) {
        // One that was dropped meanwhile is nobody's any more; one that came back is due by itself.
        let Some(entry) = self.entries.get_mut(subject).filter(|entry| entry.at.is_none()) else { return };
        let was_judged_anew = entry.verdict != *verdict;
        let pause = match outcome {
            Ok(_) => {
                entry.failures = 0;
                if was_judged_anew { AGAIN } else { self.jitter.around(RECHECK) }
            }
            Err(error) => {
                entry.failures += 1;
                let pauses = match error.kind() {
                    Failure::Conflict => (AGAIN, AWAY.1),
                    Failure::Away | Failure::Absent => AWAY,
                    Failure::Refused => REFUSED,
                };
                if entry.failures == 1 && error.kind() != Failure::Conflict {
                    tracing::warn!(%error, %subject, "a status could not be written; trying on");
                }
                let pause = self.jitter.backoff(pauses.0, pauses.1, entry.failures).max(error.retry_after());
                if was_judged_anew { AGAIN } else { pause }
            }
        };
        self.schedule(subject, now + pause);
    }

    fn schedule(&mut self, subject: &Subject, at: Instant) {
        if let Some(entry) = self.entries.get_mut(subject) {
            entry.at = Some(at);
            self.due.insert((at, subject.clone()));
        }
    }
}
