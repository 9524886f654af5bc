//! The part of a doorbell that decides whether the kernel must hear of a ring.

#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicBool, Ordering};

/// Rung and not yet answered, or silent. A ring of a rung bell says nothing new and costs no call.
#[derive(Debug)]
pub(crate) struct Chime(AtomicBool);

impl Chime {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Rings; true when the caller must wake the reactor through the kernel.
    ///
    /// Acquire and release: what was posted before a ring that is swallowed here is seen by the
    /// reactor after it has answered the ring before.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Answers. The reactor calls it after the kernel has woken it and *before* the mailboxes are
    /// looked into, so that what is posted later rings anew.
    pub(crate) fn answer(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

/// Every order of the steps of two posting threads and a reactor. The kernel's part is modelled as
/// what it is: a wake-up that is remembered until it is taken.
#[cfg(all(loom, test))]
mod loom_models {
    use loom::sync::atomic::AtomicU32;
    use loom::sync::{Arc, Notify};

    use super::*;

    #[test]
    fn no_post_stays_unseen() {
        loom::model(|| {
            let chime = Arc::new(Chime::new());
            let kernel = Arc::new(Notify::new());
            let posts = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let threads = [0, 1].map(|index| {
                let (chime, kernel) = (Arc::clone(&chime), Arc::clone(&kernel));
                let posts = Arc::clone(&posts);
                loom::thread::spawn(move || {
                    posts[index].store(1, Ordering::Relaxed);
                    if chime.ring() {
                        kernel.notify();
                    }
                })
            });
            // Asleep for ever with a post unseen is what loom would report.
            while posts.iter().map(|post| post.load(Ordering::Relaxed)).sum::<u32>() < 2 {
                kernel.wait();
                chime.answer();
            }
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
    }
}
