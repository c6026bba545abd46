//! A mutex without poisoning.

use std::sync::{MutexGuard, PoisonError};

/// A mutex that ignores poisoning. Every value is valid after each statement, so a panic cannot leave it inconsistent.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
