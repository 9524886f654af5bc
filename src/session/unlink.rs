//! What becomes of a URB that the peer wants ended (design: exactly one of two forms).
//!
//! If bytes moved or the URB won the race: RET_SUBMIT with its data, then RET_UNLINK(0). Else
//! RET_UNLINK(-ECONNRESET) alone. Nothing for that seqnum after its RET_UNLINK.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_depends_on_bytes_and_on_who_won() {
        assert_eq!(UnlinkForm::judge(-104, 0), UnlinkForm::Alone);
        assert_eq!(UnlinkForm::judge(-2, 0), UnlinkForm::Alone);
        assert_eq!(UnlinkForm::judge(-104, 1), UnlinkForm::DataThenZero);
        assert_eq!(UnlinkForm::judge(0, 0), UnlinkForm::DataThenZero, "finished empty, but won");
        assert_eq!(UnlinkForm::judge(-32, 0), UnlinkForm::DataThenZero, "a stall is a result");
    }
}
