//! The serving side of a connection, with the network to it, as a run drives it.

use std::time::Duration;

use crate::session::exporter::SessionEnd;
use crate::simulation::oracle::{Broken, Oracle, Seen};
use crate::simulation::random::Random;

/// A session with its device, its driver and its network.
pub trait Side {
    /// The client sends.
    fn client_sends(&mut self, bytes: &[u8]);

    /// Whether the client may send more; it may go over the limit by one PDU.
    fn client_has_room(&self) -> bool;

    /// The client closes its side, behind what it has sent.
    fn client_closes(&mut self);

    /// The client reads up to `limit` bytes; returns how many.
    ///
    /// # Errors
    ///
    /// They are not the bytes that the session sent.
    fn client_reads(&mut self, limit: usize) -> Result<usize, Broken>;

    /// The session is to end for this reason of ours.
    fn stop(&mut self, reason: SessionEnd);

    /// Some of what may be done is done. The answers given are appended to `given`, each with its
    /// size.
    ///
    /// # Errors
    ///
    /// The rule that the session broke.
    fn turn(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        given: &mut Vec<(usize, Seen)>,
    ) -> Result<(), Broken>;

    /// Why the session is over, if it is.
    fn end(&self) -> Option<&SessionEnd>;

    /// Whether it may have ended for a reason that is neither the client's nor the device's.
    fn was_stopped(&self) -> bool;

    /// Winding down: nothing is slow any more.
    fn hasten(&mut self);

    /// Nothing happens for a while, but what is due by then.
    fn wait(&mut self, time: Duration);

    /// Whether nothing is under way on either side.
    fn is_quiet(&self) -> bool;

    /// Takes everything apart and counts what is left.
    ///
    /// # Errors
    ///
    /// What is lost.
    fn dismantle(self: Box<Self>, random: &mut Random) -> Result<(), Broken>;
}
