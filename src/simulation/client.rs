//! The simulated client: valid PDUs of every kind, strange ones that must be answered, and in some
//! runs, as its last act, one that must end the session.

use std::collections::{BTreeMap, BTreeSet};

use crate::device::gadget::zero::{READ_BUFFER, WRITE_BUFFER};
use crate::limits;
use crate::session::exporter::SessionEnd;
use crate::simulation::descriptors::{BULK, DEVICE_ID, Shape};
use crate::simulation::oracle::Seen;
use crate::simulation::pattern::LONGEST;
use crate::simulation::plan::{self, Pdu, Plan};
use crate::simulation::random::Random;
use crate::usb::endpoint::EndpointMap;
use crate::usb::setup::{Setup, StandardRequest, request};
use crate::usb::transfer::{Direction, TransferType};
use crate::wire::urb::{HEADER_BYTES, Malformed};

/// What kind of client it is.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// URBs that it keeps out at most.
    pub depth: usize,
    /// Of its PDUs, how many percent are CMD_UNLINKs.
    pub unlinks: u32,
    /// Of its CMD_SUBMITs, how many percent must be refused.
    pub invalid: u32,
    /// Longest buffer, in bytes.
    pub longest: u32,
    /// Its last act, if it is hostile.
    pub hostile: Option<Hostility>,
}

/// How a client breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostility {
    /// A command that does not exist.
    Command,
    /// A direction that does not exist.
    Direction,
    /// A seqnum that is in use.
    Duplicate,
    /// An endpoint number above 15.
    Endpoint,
    /// A negative length, or more than 16 MiB.
    Length,
    /// A packet count that no isochronous URB has.
    PacketCount,
    /// A CMD_SUBMIT for another device.
    SubmitElsewhere,
    /// The stream ends within a PDU.
    Truncated,
    /// A CMD_UNLINK for another device.
    UnlinkElsewhere,
}

/// All of them.
pub const HOSTILITIES: [Hostility; 9] = [
    Hostility::Command,
    Hostility::Direction,
    Hostility::Duplicate,
    Hostility::Endpoint,
    Hostility::Length,
    Hostility::PacketCount,
    Hostility::SubmitElsewhere,
    Hostility::Truncated,
    Hostility::UnlinkElsewhere,
];

/// A session keeps so many CMD_UNLINKs, and a few more, for URBs that have not come.
const MOST_EARLY: u32 = 60;

/// The client.
#[derive(Debug)]
pub struct Client {
    character: Character,
    random: Random,
    shape: Shape,
    endpoints: EndpointMap,
    next_seqnum: u32,
    /// URBs without an answer that it has read.
    open: BTreeMap<u32, Open>,
    /// CMD_UNLINKs without one.
    unlinking: BTreeSet<u32>,
    /// Names of URBs that were answered, to be unlinked too late.
    past: Vec<u32>,
    /// A URB that its CMD_UNLINK has overtaken, as Linux sends them; the next to be submitted.
    overtaken: Option<Plan>,
    /// CMD_UNLINKs sent for such URBs since the last CMD_SUBMIT.
    early: u32,
    /// A request that changes endpoints, and its name.
    reconfiguring: Option<(u32, StandardRequest)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    endpoint: u8,
    unlinked: bool,
}

impl Client {
    /// A client of a device of this shape, whose first URB is called `first_seqnum`.
    #[must_use]
    pub fn new(character: Character, first_seqnum: u32, shape: Shape, random: Random) -> Self {
        Self {
            character,
            random,
            endpoints: shape.endpoint_map(),
            shape,
            next_seqnum: first_seqnum,
            open: BTreeMap::new(),
            unlinking: BTreeSet::new(),
            past: Vec::new(),
            overtaken: None,
            early: 0,
            reconfiguring: None,
        }
    }

    /// Whether it waits for no URB.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// The next PDU, if it has room for one.
    pub fn act(&mut self) -> Option<Pdu> {
        if self.random.chance(self.character.unlinks) && self.unlinking.len() < 200 {
            return Some(self.unlink());
        }
        if self.open.len() >= self.character.depth {
            return None;
        }
        let unlinked = self.overtaken.is_some();
        self.early = 0;
        let plan = self.overtaken.take().unwrap_or_else(|| match self.random.below(20) {
            0 => self.reconfigure().unwrap_or_else(|| self.control()),
            1..=3 => self.control(),
            _ => self.data(),
        });
        self.open.insert(plan.seqnum, Open { endpoint: plan.endpoint, unlinked });
        Some(Pdu::Submit(Box::new(plan)))
    }

    /// Reads an answer.
    pub fn read(&mut self, seen: Seen) {
        match seen {
            Seen::Answer(seqnum, status) => {
                self.open.remove(&seqnum);
                self.past.push(seqnum);
                let Some((name, change)) = self.reconfiguring.take() else { return };
                match change {
                    _ if name != seqnum => self.reconfiguring = Some((name, change)),
                    StandardRequest::SetConfiguration(value) if status == 0 => {
                        self.endpoints.set_configuration(value);
                    }
                    StandardRequest::SetInterface { interface, alternate } if status == 0 => {
                        self.endpoints.set_interface(interface, alternate);
                    }
                    _ => {}
                }
            }
            Seen::Unlinked(seqnum, target, status) => {
                self.unlinking.remove(&seqnum);
                if status != 0 {
                    self.open.remove(&target);
                    if self.reconfiguring.is_some_and(|(name, _)| name == target) {
                        self.reconfiguring = None;
                    }
                }
            }
        }
    }

    fn name(&mut self) -> u32 {
        let seqnum = self.next_seqnum;
        self.next_seqnum = seqnum.wrapping_add(1);
        seqnum
    }

    fn unlink(&mut self) -> Pdu {
        if self.overtaken.is_none() && self.early < MOST_EARLY && self.random.chance(10) {
            let plan = if self.random.chance(30) { self.control() } else { self.data() };
            self.overtaken = Some(plan);
        }
        let seqnum = self.name();
        self.unlinking.insert(seqnum);
        let open = self.random.index(self.open.len().max(1));
        let target = match self.random.below(10) {
            2.. if self.overtaken.is_some() && self.early < MOST_EARLY => {
                self.early += 1;
                let target = self.overtaken.as_ref().map_or(seqnum, |plan| plan.seqnum);
                // It may also never come.
                self.overtaken.take_if(|_| self.random.chance(5));
                target
            }
            0 if !self.past.is_empty() => self.random.pick(&self.past),
            1 => seqnum.wrapping_add(0x4000_0000),
            _ => match self.open.iter_mut().nth(open) {
                Some((&target, urb)) => {
                    urb.unlinked = true;
                    target
                }
                None => seqnum.wrapping_add(0x4000_0000),
            },
        };
        Pdu::Unlink { seqnum, target }
    }

    fn plan(&mut self, endpoint: u8, direction: Direction, length: u32) -> Plan {
        Plan {
            seqnum: self.name(),
            endpoint,
            direction,
            kind: self.endpoints.kind(endpoint, direction),
            length,
            // Means nothing but where packets follow.
            number_of_packets: self.random.pick(&[0, 0, -1, 7, -77, 1025]),
            packets: Vec::new(),
            setup: [0; 8],
            invalid: false,
        }
    }

    fn control(&mut self) -> Plan {
        let direction = self.direction();
        let length = self.random.pick(&[0, 1, 18, 64, 255, 4000, 5000]);
        let mut plan = self.plan(0, direction, u32::from(length));
        let mut setup = Setup {
            request_type: if direction == Direction::In { 0xc0 } else { 0x40 },
            request: if direction == Direction::In { READ_BUFFER } else { WRITE_BUFFER },
            value: 0,
            index: 0,
            length,
        };
        if length == 0 && direction == Direction::Out && self.random.chance(50) {
            let request = request::CLEAR_FEATURE;
            let side = if self.direction() == Direction::In { 0x80 } else { 0 };
            let index = u16::from(self.random.pick(self.shape.endpoints)) | side;
            setup = Setup { request_type: 2, request, value: 0, index, length };
        }
        if self.random.chance(self.character.invalid) {
            plan.invalid = true;
            setup.length += 1;
        }
        plan.setup = setup.to_bytes();
        plan
    }

    /// SET_INTERFACE or SET_CONFIGURATION, if none of the endpoints concerned is in use.
    fn reconfigure(&mut self) -> Option<Plan> {
        let whole = self.random.chance(20);
        let changing = self.shape.changing;
        let concerned =
            |urb: &Open| urb.endpoint != 0 && (whole || changing.contains(&urb.endpoint));
        if self.reconfiguring.is_some() || self.open.values().any(concerned) {
            return None;
        }
        let setup = if whole {
            let value = self.random.pick(self.shape.configurations);
            let request = request::SET_CONFIGURATION;
            Setup { request_type: 0, request, value, index: 0, length: 0 }
        } else {
            let value = self.random.pick(&[0, 1, 2]);
            let request = request::SET_INTERFACE;
            let index = self.shape.interface;
            Setup { request_type: 1, request, value, index, length: 0 }
        };
        let mut plan = self.plan(0, Direction::Out, 0);
        plan.setup = setup.to_bytes();
        self.reconfiguring = Some((plan.seqnum, setup.classify()));
        Some(plan)
    }

    fn data(&mut self) -> Plan {
        let direction = self.direction();
        let endpoint = self.endpoint();
        let length = self.length();
        let mut plan = self.plan(endpoint, direction, length);
        if plan.kind == Some(TransferType::Isochronous) {
            self.lay_out(&mut plan);
        }
        plan
    }

    /// An endpoint that is not about to change its type.
    fn endpoint(&mut self) -> u8 {
        let endpoint = self.random.pick(self.shape.endpoints);
        let settled = match self.reconfiguring {
            None => endpoint != 9 || self.random.chance(self.character.invalid),
            Some((_, StandardRequest::SetConfiguration(_))) => return 0x0f,
            Some(_) => !self.shape.changing.contains(&endpoint) && endpoint != 9,
        };
        if settled { endpoint } else { BULK }
    }

    fn direction(&mut self) -> Direction {
        if self.random.chance(50) { Direction::In } else { Direction::Out }
    }

    fn length(&mut self) -> u32 {
        let most = self.character.longest;
        match self.random.below(20) {
            0 => 0,
            1..=12 => self.random.between(1, 600.min(most)),
            13..=18 => self.random.between(1, 6000.min(most)),
            _ => self.random.between(1, most),
        }
    }

    /// Packets with gaps, or against the rules of B21.
    fn lay_out(&mut self, plan: &mut Plan) {
        let most = self.random.pick(&[0, 1, 3, 8, 8, 32, 1024]);
        let mut at = 0;
        for packet in 0..most {
            let rest = plan.length - at;
            let gap = if packet > 0 && self.random.chance(30) { self.random.below(9) } else { 0 };
            let length = self.random.below(plan.length / most + 2);
            if gap + length > rest {
                break;
            }
            plan.packets.push((at + gap, length));
            at += gap + length;
        }
        plan.number_of_packets = match plan.packets.len() {
            0 => self.random.pick(&[0, -1]),
            count => i32::try_from(count).expect("at most 1024"),
        };
        if self.random.chance(self.character.invalid)
            && let Some(last) = plan.packets.last_mut()
        {
            plan.invalid = true;
            match self.random.below(3) {
                0 => last.1 = plan.length - last.0 + 1,
                1 => last.0 = u32::MAX - 1,
                _ => plan.packets[0].0 = plan.length.max(1),
            }
        }
    }

    /// The last act of a hostile client: the PDU, and how many of its bytes are sent.
    pub fn strike(&mut self) -> Option<(Pdu, usize)> {
        let hostility = self.character.hostile?;
        let mut submit = self.plan(BULK, Direction::In, 64);
        let mut bytes = submit.header().to_vec();
        let end: SessionEnd = match hostility {
            Hostility::Truncated => return Some(self.cut_short()),
            Hostility::Duplicate if self.reconfiguring.is_some() => return None,
            Hostility::Duplicate => {
                let usable = self.open.iter().find(|(_, urb)| !urb.unlinked);
                submit.seqnum = *usable?.0;
                return Some((Pdu::Submit(Box::new(submit)), HEADER_BYTES));
            }
            Hostility::Command => {
                let command = self.random.pick(&[0, 3, 4, 5, 0x0100_0001, u32::MAX]);
                put(&mut bytes, 0, command);
                Malformed::Command(command).into()
            }
            Hostility::Direction => {
                put(&mut bytes, 12, 2);
                Malformed::Direction(2).into()
            }
            Hostility::Endpoint => {
                let endpoint = self.random.pick(&[16, 0x81, u32::MAX]);
                put(&mut bytes, 16, endpoint);
                Malformed::Endpoint(endpoint).into()
            }
            Hostility::Length => {
                let length = self.random.pick(&[limits::TRANSFER_BYTES + 1, u32::MAX, 1 << 31]);
                put(&mut bytes, 24, length);
                Malformed::Length(length as i32).into()
            }
            Hostility::PacketCount => {
                if self.endpoints.kind(self.shape.isochronous, Direction::In).is_none()
                    || self.reconfiguring.is_some()
                {
                    return None;
                }
                let count = self.random.pick(&[1025, -2, i32::MAX, i32::MIN]);
                put(&mut bytes, 16, self.shape.isochronous.into());
                put(&mut bytes, 32, count as u32);
                Malformed::PacketCount(count).into()
            }
            Hostility::SubmitElsewhere => {
                put(&mut bytes, 8, DEVICE_ID + 1);
                SessionEnd::WrongDeviceId { got: DEVICE_ID + 1, expected: DEVICE_ID }
            }
            Hostility::UnlinkElsewhere => {
                bytes = plan::unlink(submit.seqnum, 0, submit.seqnum).to_vec();
                SessionEnd::WrongDeviceId { got: 0, expected: DEVICE_ID }
            }
        };
        Some((Pdu::Hostile { bytes, end }, HEADER_BYTES))
    }

    /// An ordinary PDU that does not come in full.
    fn cut_short(&mut self) -> (Pdu, usize) {
        let plan = self.data();
        let bytes = self.random.between(1, u32::try_from(plan.wire_bytes()).expect("short") - 1);
        (Pdu::Submit(Box::new(plan)), bytes as usize)
    }
}

impl Character {
    /// A client as the dice fall.
    pub fn draw(random: &mut Random) -> Self {
        let greedy = random.chance(4);
        let longest = random.pick(&[600, 6000, 6000, 20_000, 20_000, LONGEST as u32]);
        Self {
            depth: match greedy {
                true => random.pick(&[1100, 2200, 2200]),
                false => random.pick(&[1, 4, 16, 64, 64, 200]),
            },
            unlinks: random.pick(&[0, 5, 20, 40]),
            invalid: random.pick(&[0, 3, 20]),
            longest: if greedy { 64 } else { longest },
            hostile: random.chance(40).then(|| random.pick(&HOSTILITIES)),
        }
    }

    /// Whether it may ask for more than a session takes.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.depth > limits::SESSION_URBS
    }
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
}
