//! Messages between cores, and from helper threads to a core.
//!
//! A mailbox holds a bounded number of messages and belongs to one reactor, whose bell is rung only
//! by the message that finds the mailbox empty: whoever comes later is found by the same look.

use std::collections::VecDeque;

use usbip_fast_native::Doorbell;

#[cfg(all(loom, test))]
use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(all(loom, test)))]
use std::sync::{Arc, Mutex, MutexGuard};

/// Makes a mailbox for at most `capacity` messages that have not been fetched yet. `bell` is that
/// of the receiver's reactor.
#[must_use]
pub fn channel<T>(capacity: usize, bell: Doorbell) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox holds at least one message");
    let state = State { queue: VecDeque::with_capacity(capacity), open: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), capacity, bell });
    let receiver =
        Receiver { shared: Arc::clone(&shared), fetched: VecDeque::with_capacity(capacity) };
    (Sender(shared), receiver)
}

/// The end for posting; any number of threads may hold one.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The end for fetching, on the reactor's own thread.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Taken out of the shared queue in one go, so that posting seldom waits for fetching.
    fetched: VecDeque<T>,
}

/// Why a message was not taken, and the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// There is no room; there will be when the receiver has looked.
    Full(T),
    /// The receiver is gone, for good.
    Gone(T),
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    bell: Doorbell,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    /// The receiver is still there.
    open: bool,
}

impl<T> Sender<T> {
    /// Posts a message and sees to it that the receiver's reactor wakes up. Never waits for room.
    ///
    /// # Errors
    ///
    /// Gives the message back when the mailbox is full or its receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), Refused<T>> {
        let mut state = self.0.lock();
        if !state.open {
            return Err(Refused::Gone(message));
        }
        if state.queue.len() == self.0.capacity {
            return Err(Refused::Full(message));
        }
        let first = state.queue.is_empty();
        state.queue.push_back(message);
        drop(state);
        if first {
            self.0.bell.ring();
        }
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Receiver<T> {
    /// The oldest message. After a ring call it until it returns `None`: while something is left
    /// here, the bell may stay silent.
    pub fn try_receive(&mut self) -> Option<T> {
        if self.fetched.is_empty() {
            std::mem::swap(&mut self.fetched, &mut self.shared.lock().queue);
        }
        self.fetched.pop_front()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.open = false;
        let undelivered = std::mem::take(&mut state.queue);
        // A message may hold a sender of this very mailbox: it is dropped outside the lock.
        drop(state);
        drop(undelivered);
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use usbip_fast_native::doorbell::Ring;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Ring for Counter {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted(capacity: usize) -> (Sender<u32>, Receiver<u32>, impl Fn() -> u32) {
        let counter = Arc::new(Counter::default());
        let bell = Doorbell::new(Arc::clone(&counter) as Arc<dyn Ring>);
        let (sender, receiver) = channel(capacity, bell);
        (sender, receiver, move || counter.0.load(Ordering::Relaxed))
    }

    #[test]
    fn only_the_message_that_finds_it_empty_rings() {
        let (sender, mut receiver, rings) = counted(10);
        for message in 0..3 {
            sender.try_send(message).expect("room");
        }
        assert_eq!(rings(), 1);
        assert_eq!(receiver.try_receive(), Some(0));
        sender.clone().try_send(3).expect("room");
        assert_eq!(rings(), 2, "the receiver had taken all there was");
        assert_eq!([1, 2, 3].map(Some), [(); 3].map(|()| receiver.try_receive()));
        assert_eq!(receiver.try_receive(), None);
    }

    #[test]
    fn a_full_or_abandoned_mailbox_gives_the_message_back() {
        let (sender, mut receiver, rings) = counted(2);
        let sent = [1, 2, 3].map(|message| sender.try_send(message));
        assert_eq!(sent, [Ok(()), Ok(()), Err(Refused::Full(3))]);
        assert_eq!(receiver.try_receive(), Some(1));
        assert_eq!(sender.try_send(4), Ok(()));
        drop(receiver);
        assert_eq!(sender.try_send(5), Err(Refused::Gone(5)));
        assert_eq!(rings(), 2);
    }

    #[test]
    fn messages_may_own_the_way_back() {
        struct Message(#[expect(dead_code, reason = "owned, not read")] Sender<Message>);
        let bell = Doorbell::new(Arc::new(Counter::default()) as Arc<dyn Ring>);
        let (sender, receiver) = channel(1, bell);
        assert!(sender.try_send(Message(sender.clone())).is_ok());
        drop(receiver);
    }
}

/// Every order of the steps of two senders and a reactor that sleeps until it is rung. A lost
/// wake-up would be a reactor that sleeps for ever, which loom reports.
#[cfg(all(loom, test))]
mod loom_models {
    use std::sync::Arc as Bells;

    use loom::sync::Notify;
    use usbip_fast_native::doorbell::Ring;

    use super::*;

    /// What a reactor's bell is to its thread, whatever it is made of.
    struct Bell(Notify);

    impl Ring for Bell {
        fn ring(&self) {
            self.0.notify();
        }
    }

    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let bell = Bells::new(Bell(Notify::new()));
            let doorbell = Doorbell::new(Bells::clone(&bell) as Bells<dyn Ring>);
            let (sender, mut receiver) = channel(4, doorbell);
            let threads = [1, 2].map(|message| {
                let sender = sender.clone();
                loom::thread::spawn(move || sender.try_send(message).expect("room"))
            });
            let mut sum = 0;
            while sum < 3 {
                bell.0.wait();
                while let Some(message) = receiver.try_receive() {
                    sum += message;
                }
            }
            assert_eq!(sum, 3);
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
    }
}
