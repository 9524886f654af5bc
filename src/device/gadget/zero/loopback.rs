//! Packets from the OUT endpoint on their way to the IN endpoint.

use std::collections::VecDeque;

use super::super::function::{Answer, Then};

/// Bytes that are held before the OUT endpoint answers NAK.
const CAPACITY_BYTES: usize = 64 * 1024;

/// Packets, also empty ones, that are held before the OUT endpoint answers NAK.
const CAPACITY_PACKETS: usize = 1024;

/// A queue of packets.
#[derive(Debug, Default)]
pub(super) struct Loopback {
    bytes: VecDeque<u8>,
    lengths: VecDeque<u16>,
}

impl Loopback {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// Takes as many packets of `data` as there is room for.
    pub(super) fn write(&mut self, data: &[u8], max_packet_size: u16) -> Answer {
        let mut taken = 0;
        let mut packets = data.chunks(usize::from(max_packet_size));
        let mut next = Some(packets.next().unwrap_or_default());
        while let Some(packet) = next {
            let fits = self.bytes.len() + packet.len() <= CAPACITY_BYTES;
            if !fits || self.lengths.len() == CAPACITY_PACKETS {
                return Answer { bytes: taken, then: Then::Wait };
            }
            self.bytes.extend(packet);
            self.lengths.push_back(u16::try_from(packet.len()).expect("at most a packet"));
            taken += packet.len();
            next = packets.next();
        }
        Answer::all(taken)
    }

    /// Gives packets until `data` is full or a short one ends the transfer.
    pub(super) fn read(&mut self, data: &mut [u8], max_packet_size: u16) -> Answer {
        let mut given = 0;
        loop {
            if given == data.len() && given > 0 {
                return Answer::all(given);
            }
            let Some(&length) = self.lengths.front() else {
                return Answer { bytes: given, then: Then::Wait };
            };
            let end = given + usize::from(length);
            if end > data.len() {
                self.drop_packet();
                return Answer { bytes: given, then: Then::Overflow };
            }
            for (to, from) in data[given..end].iter_mut().zip(self.bytes.drain(..end - given)) {
                *to = from;
            }
            self.lengths.pop_front();
            given = end;
            if length < max_packet_size {
                return Answer { bytes: given, then: Then::Short };
            }
        }
    }

    /// A packet that did not fit is lost to the host, as on a bus.
    fn drop_packet(&mut self) {
        let length = self.lengths.pop_front().map_or(0, usize::from);
        self.bytes.drain(..length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_bounds() {
        let mut loopback = Loopback::default();
        assert_eq!(loopback.write(&[7; 150], 64), Answer::all(150));
        assert_eq!(loopback.write(&[], 64), Answer::all(0));
        let mut data = [0; 256];
        assert_eq!(loopback.read(&mut data, 64), Answer { bytes: 150, then: Then::Short });
        assert_eq!(data[..151], [[7; 150].as_slice(), &[0]].concat());
        assert_eq!(loopback.read(&mut data, 64), Answer::nothing(Then::Short));
        assert_eq!(loopback.read(&mut data, 64), Answer::nothing(Then::Wait));
    }

    #[test]
    fn a_full_queue_takes_whole_packets_only() {
        let mut loopback = Loopback::default();
        let large = vec![1; CAPACITY_BYTES - 100];
        assert_eq!(loopback.write(&large, 512).then, Then::Continue);
        assert_eq!(loopback.write(&[2; 128], 64), Answer { bytes: 64, then: Then::Wait });
    }

    #[test]
    fn a_packet_larger_than_the_room_overflows() {
        let mut loopback = Loopback::default();
        loopback.write(&[1; 64], 64);
        assert_eq!(loopback.read(&mut [0; 63], 64), Answer::nothing(Then::Overflow));
        assert_eq!(loopback.read(&mut [0; 64], 64), Answer::nothing(Then::Wait));
    }
}
