//! The bell that ends a reactor's sleep from another thread.

use std::sync::Arc;

/// How a bell is rung: an eventfd on Linux, `EVFILT_USER` on macOS, a flag in the simulator.
pub trait Ring: Send + Sync {
    /// Makes the reactor's current or next turn return with [`rung`](crate::Turn::rung) set.
    /// Never blocks; ringing an already rung bell is free of harm.
    fn ring(&self);
}

/// A bell of one reactor. Any thread may hold and ring one; cloning shares it.
#[derive(Clone)]
pub struct Doorbell(Arc<dyn Ring>);

impl Doorbell {
    /// Wraps a reactor's own way to be woken.
    #[must_use]
    pub fn new(ring: Arc<dyn Ring>) -> Self {
        Self(ring)
    }

    /// Ends the reactor's sleep, or keeps its next turn from sleeping.
    pub fn ring(&self) {
        self.0.ring();
    }
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doorbell")
    }
}
