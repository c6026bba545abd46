//! The bar of a long walk, on standard error when that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::app::Progress;

/// A walk that takes no longer needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that shows itself when it is worth it.
pub(super) struct Bar {
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            bar: None,
        }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        if self.begun.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            // draws nothing where it is no terminal
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let form = "{bar:30} {pos} of {len} organizations, {msg}, {elapsed}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(progress.orgs as u64);
        bar.set_position(progress.ended as u64);
        bar.set_message(format!("{} pages", progress.pages));
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
