//! What becomes of a URB that the peer wants ended (design: exactly one of two forms).
//!
//! If bytes moved or the URB won the race: RET_SUBMIT with its data, then RET_UNLINK(0). Else
//! RET_UNLINK(-ECONNRESET) alone. Nothing for that seqnum after its RET_UNLINK.

use std::collections::VecDeque;
use std::time::Duration;

use crate::usb::errno::{ECONNRESET, ENOENT};

/// The form of the answer to a CMD_UNLINK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlinkForm {
    /// RET_SUBMIT with what there is, then RET_UNLINK(0): the peer's driver keeps the data.
    DataThenZero,
    /// RET_UNLINK(-ECONNRESET) and nothing else.
    Alone,
}

impl UnlinkForm {
    /// Judges how a URB ended that had been asked to end. `-ENOENT` counts as stopped because
    /// that is how Linux calls a URB killed synchronously.
    #[must_use]
    pub const fn judge(status: i32, actual_length: u32) -> Self {
        let stopped = status == -ECONNRESET || status == -ENOENT;
        if stopped && actual_length == 0 { Self::Alone } else { Self::DataThenZero }
    }
}

/// CMD_UNLINKs that have overtaken the CMD_SUBMIT they are about.
///
/// Linux's vhci_hcd does that: its sending thread takes the submissions that are queued, then the
/// unlinks; a URB that a driver submits and unlinks between the two goes out in the wrong order
/// (seen on 6.1 with usbtest cases 11 and 12). An answer of 0, "was done already", would make it
/// give the URB back and then break the connection over the RET_SUBMIT of a URB it no longer knows.
/// So the unlink is held until its submission comes, which is then stopped at once; or until it is
/// clear that it does not come, because a younger one has come or [`HOLD_TIMEOUT`] is over.
///
/// Only an unlink of a URB newer than all that have come is held; sequence numbers count up.
#[derive(Debug, Default)]
pub struct EarlyUnlinks {
    newest: Option<u32>,
    /// Oldest first.
    held: VecDeque<Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// The URB to unlink.
    target: u32,
    /// The CMD_UNLINK itself.
    seqnum: u32,
    /// When it is answered at the latest.
    until: Duration,
}

/// How long an unlink waits for its submission. The two leave the client in one run of its sending
/// thread, so that this is long even for a network that drops packets.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

impl EarlyUnlinks {
    /// Whether an unlink of the unknown `target` is held for now. If not it is to be answered.
    pub fn hold(&mut self, target: u32, seqnum: u32, now: Duration) -> bool {
        let is_early = self.newest.is_none_or(|newest| is_after(target, newest));
        // The unlink itself is younger than its target: a peer that numbers otherwise is not held.
        let counts_up = is_after(seqnum, target);
        if !is_early || !counts_up || self.held.len() == HELD_UNLINKS {
            return false;
        }
        self.held.push_back(Held { target, seqnum, until: now + HOLD_TIMEOUT });
        true
    }

    /// When [`expire`](Self::expire) has something, if nothing comes.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.held.front().map(|held| held.until)
    }

    /// An unlink whose submission has not come in time; it counts as unknown. Call until `None`.
    pub fn expire(&mut self, now: Duration) -> Option<u32> {
        self.held.pop_front_if(|held| held.until <= now).map(|held| held.seqnum)
    }

    /// Notes that the submission `seqnum` has come; returns, one by one, unlinks whose target is
    /// older and so will not come any more. Call until `None`.
    pub fn pass(&mut self, seqnum: u32) -> Option<u32> {
        if self.newest.is_none_or(|newest| is_after(seqnum, newest)) {
            self.newest = Some(seqnum);
        }
        let at = self.held.iter().position(|held| is_after(seqnum, held.target))?;
        self.held.remove(at).map(|held| held.seqnum)
    }

    /// The unlink that waits for the submission `seqnum`, if any.
    pub fn take(&mut self, seqnum: u32) -> Option<u32> {
        let at = self.held.iter().position(|held| held.target == seqnum)?;
        self.held.remove(at).map(|held| held.seqnum)
    }
}

/// Most unlinks held; more are answered as unknown.
const HELD_UNLINKS: usize = 64;

/// Whether `a` comes after `b` in a sequence that wraps around.
const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    #[test]
    fn an_unlink_that_overtook_its_submission_waits_for_it() {
        let mut early = EarlyUnlinks::default();
        assert_eq!(early.pass(10), None);
        assert!(early.hold(12, 13, NOW), "12 has not come yet");
        assert!(!early.hold(9, 14, NOW), "9 is older than 10: answered already");
        assert!(!early.hold(10, 15, NOW));
        assert_eq!(early.pass(11), None, "an older one of another endpoint");
        assert_eq!(early.take(11), None);
        assert_eq!(early.pass(12), None);
        assert_eq!(early.take(12), Some(13));
        assert_eq!(early.take(12), None);
    }

    #[test]
    fn an_unlink_whose_submission_never_comes_is_let_go() {
        let mut early = EarlyUnlinks::default();
        assert!(early.hold(u32::MAX, 3, NOW), "before the first submission, across the wrap");
        assert_eq!(early.pass(5), Some(3));
        assert_eq!(early.pass(5), None);
        assert!(!early.hold(7, 6, NOW), "a peer that does not count up");
        for target in 0..100 {
            assert_eq!(early.hold(10 + target, 1000, NOW), target < 64);
        }
    }

    #[test]
    fn an_unlink_is_not_held_for_ever() {
        let mut early = EarlyUnlinks::default();
        let later = NOW + Duration::from_millis(300);
        assert_eq!(early.deadline(), None);
        assert!(early.hold(10, 11, NOW));
        assert!(early.hold(12, 13, later));
        assert_eq!(early.deadline(), Some(NOW + HOLD_TIMEOUT));
        assert_eq!(early.expire(NOW + HOLD_TIMEOUT - Duration::from_nanos(1)), None);
        assert_eq!(early.expire(NOW + HOLD_TIMEOUT), Some(11));
        assert_eq!(early.expire(NOW + HOLD_TIMEOUT), None, "the second has come later");
        assert_eq!(early.take(12), Some(13));
        assert_eq!(early.deadline(), None);
    }

    #[test]
    fn form_depends_on_bytes_and_on_who_won() {
        assert_eq!(UnlinkForm::judge(-104, 0), UnlinkForm::Alone);
        assert_eq!(UnlinkForm::judge(-2, 0), UnlinkForm::Alone);
        assert_eq!(UnlinkForm::judge(-104, 1), UnlinkForm::DataThenZero);
        assert_eq!(UnlinkForm::judge(0, 0), UnlinkForm::DataThenZero, "finished empty, but won");
        assert_eq!(UnlinkForm::judge(-32, 0), UnlinkForm::DataThenZero, "a stall is a result");
    }
}
