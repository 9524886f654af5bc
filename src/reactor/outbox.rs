//! Messages of one core to the others, in order, whatever state their mailboxes are in.

use std::collections::VecDeque;

use super::mailbox::{Refused, Sender};

/// What a core has to say to the others. A full mailbox keeps only its own mail waiting, and mail
/// for a core that is gone comes back.
#[derive(Debug)]
pub struct Outbox<T> {
    senders: Vec<Sender<T>>,
    /// By core: what its mailbox had no room for, oldest first.
    waiting: Vec<VecDeque<T>>,
    lost: VecDeque<(usize, T)>,
    sent: u64,
}

impl<T> Outbox<T> {
    /// An empty one for these mailboxes, by core.
    #[must_use]
    pub fn new(senders: Vec<Sender<T>>) -> Self {
        let waiting = senders.iter().map(|_| VecDeque::new()).collect();
        Self { senders, waiting, lost: VecDeque::new(), sent: 0 }
    }

    /// How many cores there are, the own one included.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.senders.len()
    }

    /// Messages that mailboxes have taken.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends a message behind all others to the same core. If that core is behind, the message
    /// waits for [`retry`](Self::retry).
    pub fn post(&mut self, core: usize, message: T) {
        self.waiting[core].push_back(message);
        self.send_to(core);
    }

    /// Tries again what waits. Call now and then while [`is_waiting`](Self::is_waiting): nobody
    /// says when a mailbox has room again.
    pub fn retry(&mut self) {
        for core in 0..self.senders.len() {
            self.send_to(core);
        }
    }

    /// Whether a message waits for room.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    /// The next message that cannot arrive, and the core that is gone. Call until `None`.
    pub fn take_lost(&mut self) -> Option<(usize, T)> {
        self.lost.pop_front()
    }

    fn send_to(&mut self, core: usize) {
        while let Some(message) = self.waiting[core].pop_front() {
            match self.senders[core].try_send(message) {
                Ok(()) => self.sent += 1,
                Err(Refused::Gone(message)) => self.lost.push_back((core, message)),
                Err(Refused::Full(message)) => return self.waiting[core].push_front(message),
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use usbip_fast_native::Doorbell;
    use usbip_fast_native::doorbell::Ring;

    use super::*;
    use crate::reactor::mailbox::{Receiver, channel};

    struct Silent;

    impl Ring for Silent {
        fn ring(&self) {}
    }

    fn outbox(capacities: [usize; 3]) -> (Outbox<u32>, [Receiver<u32>; 3]) {
        let mailboxes =
            capacities.map(|capacity| channel(capacity, Doorbell::new(Arc::new(Silent))));
        let senders = mailboxes.iter().map(|(sender, _)| sender.clone()).collect();
        (Outbox::new(senders), mailboxes.map(|(_, receiver)| receiver))
    }

    fn read(receiver: &mut Receiver<u32>) -> Vec<u32> {
        std::iter::from_fn(|| receiver.try_receive()).collect()
    }

    #[test]
    fn a_full_mailbox_delays_its_own_mail_only_and_keeps_its_order() {
        let (mut outbox, [_, mut behind, mut other]) = outbox([1, 2, 2]);
        for message in 1..=5 {
            outbox.post(1, message);
        }
        outbox.post(2, 6);
        assert_eq!((read(&mut other), outbox.sent()), (vec![6], 3));
        assert_eq!(read(&mut behind), [1, 2]);
        outbox.post(1, 7);
        assert_eq!(read(&mut behind), [3, 4], "what came first goes first");
        assert!(outbox.is_waiting());
        outbox.retry();
        assert!(!outbox.is_waiting());
        assert_eq!(read(&mut behind), [5, 7]);
        assert_eq!((outbox.take_lost(), outbox.sent(), outbox.cores()), (None, 7, 3));
    }

    #[test]
    fn mail_for_a_core_that_is_gone_comes_back_and_keeps_nothing_waiting() {
        let (mut outbox, [_, gone, mut other]) = outbox([1, 1, 1]);
        outbox.post(1, 1);
        outbox.post(1, 2);
        drop(gone);
        outbox.post(2, 3);
        outbox.retry();
        assert_eq!(outbox.take_lost(), Some((1, 2)));
        outbox.post(1, 4);
        assert_eq!((outbox.take_lost(), outbox.take_lost()), (Some((1, 4)), None));
        assert!(!outbox.is_waiting());
        assert_eq!(read(&mut other), [3]);
    }
}
