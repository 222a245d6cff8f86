//! Progress on stderr: a bar for people, a line every few seconds for logs.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pointsman_sim::Progress;

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far a load is.
#[derive(Debug)]
pub(super) struct Display {
    is_terminal: bool,
    bar: Option<ProgressBar>,
    label: String,
    duration: Duration,
    /// When the next plain line is due, from the load's start.
    next_line: Duration,
    /// Time and answer tokens at the last look, for a rate of now rather than of all time.
    last: (Duration, u64),
    tokens_per_second: f64,
}

impl Display {
    /// A display for this process's stderr.
    pub(super) fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            bar: None,
            label: String::new(),
            duration: Duration::ZERO,
            next_line: Duration::ZERO,
            last: (Duration::ZERO, 0),
            tokens_per_second: 0.0,
        }
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// A load begins.
    pub(super) fn begin(&mut self, label: &str, duration: Duration) {
        self.label = label.to_owned();
        self.duration = duration;
        self.next_line = LINE_INTERVAL;
        self.last = (Duration::ZERO, 0);
        self.tokens_per_second = 0.0;
        self.bar = self.is_terminal.then(|| {
            let bar = ProgressBar::new(duration.as_secs());
            if let Ok(style) = ProgressStyle::with_template("{prefix:14} {bar:24} {pos:>3}/{len} s  {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(self.label.clone());
            bar.set_message("starting cold");
            bar
        });
    }

    /// A load has come so far.
    pub(super) fn show(&mut self, at: Duration, progress: &Progress) {
        let due = at >= self.next_line;
        if !due && self.bar.is_none() {
            return;
        }
        self.measure(at, progress);
        if let Some(bar) = &self.bar {
            bar.set_position(at.min(self.duration).as_secs());
            bar.set_message(self.figures(progress));
        } else {
            self.next_line = at + LINE_INTERVAL;
            eprintln!("{}", self.line(at, progress));
        }
    }

    /// A load is over.
    pub(super) fn end(&mut self, at: Duration, progress: &Progress) {
        self.last = (Duration::ZERO, 0);
        self.measure(at, progress);
        if let Some(bar) = self.bar.take() {
            bar.set_position(self.duration.as_secs());
            bar.finish_with_message(self.figures(progress));
        } else {
            eprintln!("{}", self.line(at, progress));
        }
    }

    fn measure(&mut self, at: Duration, progress: &Progress) {
        let (then, before) = self.last;
        let tokens = progress.tokens.load(Ordering::Relaxed);
        let seconds = at.saturating_sub(then).as_secs_f64();
        // A rate over less than a second would jump about.
        if seconds >= 1.0 {
            self.tokens_per_second = tokens.saturating_sub(before) as f64 / seconds;
            self.last = (at, tokens);
        }
    }

    fn line(&self, at: Duration, progress: &Progress) -> String {
        let (at, of) = (at.min(self.duration).as_secs(), self.duration.as_secs());
        format!("{:14} {at:>3}/{of} s  {}", self.label, self.figures(progress))
    }

    fn figures(&self, progress: &Progress) -> String {
        let (done, failed) = (progress.succeeded.load(Ordering::Relaxed), progress.failed.load(Ordering::Relaxed));
        format!("{done} requests done, {failed} failed, {:.0} tokens/s", self.tokens_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_strategy_time_requests_failures_and_the_rate_of_late() {
        let mut display = Display { is_terminal: false, ..Display::new() };
        let progress = Progress::default();
        display.begin("least request", Duration::from_secs(40));
        progress.tokens.store(1_000, Ordering::Relaxed);
        display.measure(Duration::from_secs(5), &progress);
        progress.tokens.store(4_000, Ordering::Relaxed);
        progress.succeeded.store(31, Ordering::Relaxed);
        progress.failed.store(2, Ordering::Relaxed);
        display.measure(Duration::from_secs(10), &progress);
        let line = display.line(Duration::from_secs(10), &progress);
        assert_eq!(line, "least request   10/40 s  31 requests done, 2 failed, 600 tokens/s");
    }
}
