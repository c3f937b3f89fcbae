//! Progress bars on standard error; nothing where that is no terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars of one run.
#[derive(Debug, Default)]
pub(crate) struct Progress(MultiProgress);

impl Progress {
    /// A bar of `steps` steps.
    pub(crate) fn bar(&self, title: &'static str, steps: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:14} [{bar:30}] {pos}/{len} {elapsed_precise} left {eta} {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
        let bar = self
            .0
            .add(ProgressBar::new(steps).with_style(style).with_prefix(title));
        bar.enable_steady_tick(Duration::from_secs(1));
        bar
    }
}
