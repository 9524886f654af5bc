//! The session's books, checked: for the simulator and the fuzzer.

use super::Exporter;
use crate::session::flow::Reply;
use crate::session::urbs::UrbState;

impl<B> Exporter<B> {
    /// Checks that the tables agree: what is charged is the sum over the URBs, and each URB stands
    /// in exactly the queues that its state says. Takes time for every URB; the data path does not
    /// call it.
    ///
    /// # Errors
    ///
    /// The first disagreement, for people.
    pub fn audit(&self) -> Result<(), String> {
        let (mut urbs, mut charged, mut periodic, mut waiting) = (0, 0, 0, 0);
        let mut ordered = self.order.count();
        let mut queued = self.lanes.replies().filter(|r| matches!(r, Reply::Submit(_))).count();
        for slot in self.urbs.slots() {
            let urb = self.urbs.get(slot).ok_or("a slot in use is empty")?;
            urbs += 1;
            charged += urb.charged_bytes;
            periodic += usize::from(super::is_periodic(urb.submission.kind));
            waiting += usize::from(matches!(urb.state, UrbState::Waiting(_)));
            if self.urbs.find(urb.seqnum) != Some(slot) {
                return Err(format!("seqnum {} does not lead to its slot {slot}", urb.seqnum));
            }
            let done = matches!(urb.state, UrbState::Done(_));
            match self.order.contains(urb.submission.endpoint, urb.submission.direction, slot) {
                true => ordered -= 1,
                false if done => queued -= 1,
                false => return Err(format!("slot {slot} is {} in no queue", urb.state.name())),
            }
        }
        let sums = [
            ("URBs", self.urbs.len(), urbs),
            ("bytes charged", self.charged_bytes, charged),
            ("periodic URBs", self.periodic_urbs, periodic),
            ("URBs that wait for the device", self.submissions.len(), waiting),
            ("places in the endpoints' order without URB", ordered, 0),
            ("queued answers without URB", queued, 0),
        ];
        match sums.iter().find(|(_, book, sum)| book != sum) {
            Some((what, book, sum)) => Err(format!("{what}: {book} in the books, found {sum}")),
            None => self.audit_unlinks(),
        }
    }

    fn audit_unlinks(&self) -> Result<(), String> {
        let wanted = |slot: &u32| self.urbs.get(*slot).is_some_and(|urb| urb.unlink.is_some());
        let stray = self.further_unlinks.iter().find(|(slot, _)| !wanted(slot));
        if let Some((slot, seqnum)) = stray {
            return Err(format!("CMD_UNLINK {seqnum} waits for slot {slot}, which nobody ends"));
        }
        match self.cancels.iter().find(|slot| !wanted(slot)) {
            Some(slot) => Err(format!("slot {slot} is to be cancelled, which nobody wants")),
            None => Ok(()),
        }
    }
}
