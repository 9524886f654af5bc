//! TEMPORARY stand-in until the tested mailbox lands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use usbip_fast_native::Doorbell;

struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    bell: Doorbell,
}

/// Sender.
pub struct Sender<T>(Arc<Shared<T>>);
/// Receiver.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Channel.
pub fn channel<T>(capacity: usize, bell: Doorbell) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { queue: Mutex::new(VecDeque::new()), capacity, bell });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Send.
    pub fn try_send(&self, value: T) -> Result<(), T> {
        let mut queue = self.0.queue.lock().expect("no panic");
        if queue.len() == self.0.capacity {
            return Err(value);
        }
        queue.push_back(value);
        drop(queue);
        self.0.bell.ring();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Receive.
    pub fn try_receive(&self) -> Option<T> {
        self.0.queue.lock().expect("no panic").pop_front()
    }
}
