//! The last events of a run, for a failure's report, and a digest of all.

use std::collections::VecDeque;
use std::fmt;

/// Events that are kept.
const KEPT: usize = 40;

/// What happened.
#[derive(Debug)]
pub struct Trace {
    last: VecDeque<String>,
    digest: u64,
}

impl Default for Trace {
    fn default() -> Self {
        // The offset basis of FNV-1a.
        Self { last: VecDeque::new(), digest: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Trace {
    /// Notes an event.
    pub fn note(&mut self, event: impl FnOnce() -> String) {
        let event = event();
        for byte in event.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    /// A number made of all events so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last.iter().try_for_each(|event| writeln!(f, "  {event}"))
    }
}
