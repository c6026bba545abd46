//! The progress bar of a long poll, on standard error if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::app::PollProgress;

/// Time after which the bar appears.
const SHOW_AFTER: Duration = Duration::from_secs(1);

/// A progress bar that appears after [`SHOW_AFTER`].
pub(super) struct ProgressReporter {
    started_at: Instant,
    bar: Option<ProgressBar>,
}

impl ProgressReporter {
    pub(super) fn new() -> Self {
        Self {
            started_at: Instant::now(),
            bar: None,
        }
    }

    pub(super) fn update(&mut self, progress: PollProgress) {
        if self.started_at.elapsed() < SHOW_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            // The bar draws only if standard error is a terminal.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{bar:30} {pos} of {len} organizations, {msg}, {elapsed}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(progress.orgs as u64);
        bar.set_position(progress.completed as u64);
        bar.set_message(format!("{} pages", progress.pages));
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
