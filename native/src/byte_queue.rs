//! A bounded queue of bytes between a reactor, which never waits, and a thread, which does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Both ends of the queue; cloning shares it. Its memory is taken once.
#[derive(Clone, Debug)]
pub struct ByteQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    is_closed: bool,
}

impl ByteQueue {
    /// An empty queue for so many bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let state = State { bytes: VecDeque::with_capacity(capacity), is_closed: false };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new(), capacity }))
    }

    /// How many bytes there are. Only the reading end makes it less, only the writing end more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.capacity - self.len()
    }

    /// Puts in what there is room for, from the front of `bytes`, and says how much that was.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let count = bytes.len().min(self.0.capacity - state.bytes.len());
        state.bytes.extend(&bytes[..count]);
        self.0.changed.notify_all();
        count
    }

    /// Takes out what there is, up to the length of `bytes`, and says how much that was.
    pub fn read(&self, bytes: &mut [u8]) -> usize {
        let mut state = self.lock();
        let count = take(&mut state.bytes, bytes);
        self.0.changed.notify_all();
        count
    }

    /// Drops what is in it.
    pub fn clear(&self) {
        self.lock().bytes.clear();
        self.0.changed.notify_all();
    }

    /// Wakes both ends for ever: threads that wait here end.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.0.changed.notify_all();
    }

    /// Waits until all of `bytes` are in. `false` when the queue was closed.
    #[must_use]
    pub fn wait_write(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let full = |state: &mut State| !state.is_closed && state.bytes.len() == self.0.capacity;
            let state = self.0.changed.wait_while(self.lock(), full);
            if state.unwrap_or_else(PoisonError::into_inner).is_closed {
                return false;
            }
            rest = &rest[self.write(rest)..];
        }
        true
    }

    /// Waits until there is something, and takes it. 0 when the queue was closed and is empty.
    #[must_use]
    pub fn wait_read(&self, bytes: &mut [u8]) -> usize {
        let empty = |state: &mut State| !state.is_closed && state.bytes.is_empty();
        let state = self.0.changed.wait_while(self.lock(), empty);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let count = take(&mut state.bytes, bytes);
        self.0.changed.notify_all();
        count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves bytes from the front of the queue.
fn take(queue: &mut VecDeque<u8>, bytes: &mut [u8]) -> usize {
    let count = bytes.len().min(queue.len());
    let (front, back) = queue.as_slices();
    let first = count.min(front.len());
    bytes[..first].copy_from_slice(&front[..first]);
    bytes[first..count].copy_from_slice(&back[..count - first]);
    queue.drain(..count);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_no_more_than_fit_go_in() {
        let queue = ByteQueue::new(8);
        assert_eq!(queue.write(b"abcdef"), 6);
        let mut bytes = [0; 4];
        assert_eq!(queue.read(&mut bytes), 4);
        assert_eq!(queue.write(b"ghijklmnop"), 6);
        assert_eq!((queue.len(), queue.room()), (8, 0));
        let mut bytes = [0; 16];
        assert_eq!(queue.read(&mut bytes), 8);
        assert_eq!(&bytes[..8], b"efghijkl");
    }

    #[test]
    fn a_thread_waits_for_either_end() {
        let queue = ByteQueue::new(3);
        let other = queue.clone();
        let writer = std::thread::spawn(move || other.wait_write(&[7; 1000]));
        let mut sum = 0;
        while sum < 1000 {
            let mut bytes = [0; 5];
            let count = queue.wait_read(&mut bytes);
            assert!(count > 0 && bytes[..count].iter().all(|&byte| byte == 7));
            sum += count;
        }
        assert!(writer.join().expect("no panic"));
        queue.close();
        assert_eq!(queue.wait_read(&mut [0; 5]), 0);
        assert!(!queue.wait_write(b"x"));
    }
}
