//! The bell of whichever session uses a device at present.

use std::sync::{Arc, Mutex, PoisonError};

use crate::doorbell::Doorbell;

/// What a thread that outlives sessions rings: the bell last put into it, if there was one. Cloning
/// shares it.
#[derive(Clone, Debug, Default)]
pub struct BellSlot(Arc<Mutex<Option<Doorbell>>>);

impl BellSlot {
    /// From now on this bell is rung. A session's core calls it before it waits for anything.
    pub fn set(&self, bell: &Doorbell) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell.clone());
    }

    /// Rings; silent before the first session.
    pub fn ring(&self) {
        // Ringing never blocks, so the lock is short.
        if let Some(bell) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bell.ring();
        }
    }
}
