//! The server's end of one control connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::announce::{Announcement, Frame};
use super::frame::{self, Header, Kind, PAYLOAD_BYTES, VERSION};
use super::message::{LeaseRequest, LeaseResponse};
use super::{Dialect, capability};

/// From the accept to the end of HELLO.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that says nothing for this long is gone; it sends a PING every ten seconds.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that does not take a frame for this long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// After four bytes of HELLO a client that has no more to say waits for the answer, and is one of
/// [`Dialect::Plain`] therefore (control-channel.md §3.5). Far below its own deadline of 5 s.
pub const DIALECT_TIMEOUT: Duration = Duration::from_millis(250);

/// Most frames that wait for a client. States beyond that are made one, where the dialect allows.
pub const QUEUE_FRAMES: usize = 16;

/// What the owner of the connection has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client has said hello: call [`Publisher::subscribe`] with the state as it is now.
    Subscribe,
    /// It wants a lease: call [`Publisher::respond`].
    LeaseRequest(LeaseRequest),
    /// It sent something that is no lease request where one should be; call
    /// [`Publisher::respond`] with `bad_request`.
    BadLeaseRequest,
}

/// Why a control connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The first frame.
    #[error("malformed HELLO on the control channel")]
    Hello,
    /// A client that lacks what every client has.
    #[error("the control client lacks required capabilities (it has {0:#x})")]
    Capabilities(u32),
    /// A frame that no client sends.
    #[error("unexpected frame of type {0} on the control channel")]
    UnexpectedFrame(u8),
    /// No complete HELLO in time.
    #[error("no HELLO on the control channel within 10 seconds")]
    HandshakeTimeout,
    /// Silence.
    #[error("nothing heard on the control channel for 30 seconds")]
    ReadTimeout,
    /// It does not take what is sent.
    #[error("the control client does not read")]
    WriteTimeout,
    /// It asks faster than it reads.
    #[error("too many answers wait for the control client")]
    Overflow,
    /// More devices than its dialect can be told of.
    #[error("the state of all devices does not fit into a frame of this dialect")]
    Oversized,
}

/// One control connection, from the preface on (which the handshake has read). Bytes and the time
/// go in; events and frames come out. After an error the connection is to be closed.
#[derive(Debug)]
pub struct Publisher {
    stage: Stage,
    /// Which form to use with a client that is not of [`Dialect::Lease`].
    plain: Dialect,
    input: Vec<u8>,
    answers: VecDeque<Frame>,
    states: VecDeque<Frame>,
    /// The states that waited were too many: the next is the complete one as it is then.
    wants_snapshot: bool,
    /// A frame is being written since then.
    writing: Option<Duration>,
    last_heard: Duration,
    event: Option<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Since then; the first four bytes have come then.
    Hello {
        since: Duration,
        begun: Option<Duration>,
    },
    Subscribed {
        dialect: Dialect,
        capabilities: u32,
    },
}

impl Publisher {
    /// A connection whose preface has come; `since` is when it was accepted.
    #[must_use]
    pub fn new(plain: Dialect, since: Duration) -> Self {
        Self {
            stage: Stage::Hello { since, begun: None },
            plain,
            input: Vec::new(),
            answers: VecDeque::new(),
            states: VecDeque::new(),
            wants_snapshot: false,
            writing: None,
            last_heard: since,
            event: None,
        }
    }

    /// What its client speaks, once that is known.
    #[must_use]
    pub const fn dialect(&self) -> Option<Dialect> {
        match self.stage {
            Stage::Hello { .. } => None,
            Stage::Subscribed { dialect, .. } => Some(dialect),
        }
    }

    /// Whether it gets states and leases.
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        matches!(self.stage, Stage::Subscribed { dialect: Dialect::Lease, capabilities }
            if capability::is_extended(capabilities))
    }

    /// Whether the client may end the connection here: it has said hello, and no part of a frame.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        matches!(self.stage, Stage::Subscribed { .. }) && self.input.is_empty()
    }

    /// How many bytes it may be given next. Never 0, so that reading goes on.
    #[must_use]
    pub fn room(&self) -> usize {
        (Dialect::Lease.header_bytes() + PAYLOAD_BYTES).saturating_sub(self.input.len()).max(1)
    }

    /// Takes what was read. Call [`poll_event`](Self::poll_event) until it has nothing more.
    pub fn handle_received(&mut self, bytes: &[u8], now: Duration) {
        self.last_heard = now;
        self.input.extend_from_slice(bytes);
        if let Stage::Hello { begun, .. } = &mut self.stage
            && self.input.len() >= Dialect::Plain.header_bytes()
        {
            begun.get_or_insert(now);
        }
    }

    /// The next thing to do. Until it is done ([`subscribe`](Self::subscribe),
    /// [`respond`](Self::respond)) there is no other.
    ///
    /// # Errors
    ///
    /// The connection is to be closed.
    pub fn poll_event(&mut self, now: Duration) -> Result<Option<Event>, ChannelError> {
        while self.event.is_none() && self.read_frame(now)? {}
        Ok(self.event.take())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let read = match self.stage {
            Stage::Hello { since, begun: Some(begun) } if self.input.len() == 4 => {
                (begun + DIALECT_TIMEOUT).min(since + HANDSHAKE_TIMEOUT)
            }
            Stage::Hello { since, .. } => since + HANDSHAKE_TIMEOUT,
            Stage::Subscribed { .. } => self.last_heard + READ_TIMEOUT,
        };
        self.writing.map_or(read, |since| read.min(since + WRITE_TIMEOUT))
    }

    /// Time has passed. Call [`poll_event`](Self::poll_event) afterwards.
    ///
    /// # Errors
    ///
    /// The connection is to be closed.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), ChannelError> {
        if self.writing.is_some_and(|since| now >= since + WRITE_TIMEOUT) {
            return Err(ChannelError::WriteTimeout);
        }
        match self.stage {
            Stage::Hello { since, .. } if now >= since + HANDSHAKE_TIMEOUT => {
                Err(ChannelError::HandshakeTimeout)
            }
            Stage::Subscribed { .. } if now >= self.last_heard + READ_TIMEOUT => {
                Err(ChannelError::ReadTimeout)
            }
            _ => Ok(()),
        }
    }

    /// Answers HELLO with the state as it is now; later ones come by
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// The connection is to be closed.
    pub fn subscribe(&mut self, state: &Announcement) -> Result<(), ChannelError> {
        let Stage::Subscribed { dialect, capabilities } = self.stage else {
            unreachable!("only a client that has said hello is subscribed")
        };
        let ack = frame::encode(dialect, Kind::Ack, capabilities, state.sequence(), &[]);
        self.answers.push_back(ack.expect("without a payload").into());
        if dialect != Dialect::Lease || self.is_extended() {
            self.states.push_back(state.snapshot(dialect).ok_or(ChannelError::Oversized)?);
        }
        Ok(())
    }

    /// Another state. A client that is behind gets the complete one later, where its dialect allows
    /// it.
    ///
    /// # Errors
    ///
    /// The connection is to be closed.
    pub fn publish(&mut self, state: &Announcement) -> Result<(), ChannelError> {
        let Stage::Subscribed { dialect, .. } = self.stage else { return Ok(()) };
        match dialect {
            // Each says everything: only the last is of use.
            Dialect::Plain | Dialect::PlainText => {
                self.states.clear();
                self.states.push_back(state.snapshot(dialect).ok_or(ChannelError::Oversized)?);
            }
            Dialect::Lease if self.is_extended() => {
                if self.wants_snapshot || self.states.len() >= QUEUE_FRAMES {
                    self.states.clear();
                    self.wants_snapshot = true;
                } else {
                    self.states.push_back(state.delta());
                }
            }
            // A number that is left out means an error to it.
            Dialect::Lease if self.states.len() >= QUEUE_FRAMES => {
                return Err(ChannelError::Overflow);
            }
            Dialect::Lease => self.states.push_back(state.changed()),
        }
        Ok(())
    }

    /// Answers a lease request.
    ///
    /// # Errors
    ///
    /// The connection is to be closed.
    pub fn respond(&mut self, response: &LeaseResponse) -> Result<(), ChannelError> {
        let payload = serde_json::to_vec(response).expect("numbers and texts can be written");
        let frame = frame::encode(Dialect::Lease, Kind::LeaseResponse, 0, 0, &payload);
        self.answer(frame.expect("as short as the request").into())
    }

    /// The next frame to be written, `state` being the present one. Call
    /// [`handle_written`](Self::handle_written) when it is out.
    pub fn poll_transmit(&mut self, state: &Announcement, now: Duration) -> Option<Frame> {
        // ACK goes before the first state, and a state never waits for long.
        let next = self.answers.pop_front().or_else(|| self.states.pop_front()).or_else(|| {
            let wants = std::mem::take(&mut self.wants_snapshot);
            wants.then(|| state.snapshot(Dialect::Lease)).flatten()
        })?;
        self.writing = Some(now);
        Some(next)
    }

    /// Whether there is something to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.wants_snapshot || !self.answers.is_empty() || !self.states.is_empty()
    }

    /// A frame is out.
    pub fn handle_written(&mut self) {
        self.writing = None;
    }

    /// Reads one frame, if it is complete.
    fn read_frame(&mut self, now: Duration) -> Result<bool, ChannelError> {
        match self.stage {
            Stage::Hello { begun, .. } => self.read_hello(begun, now),
            Stage::Subscribed { dialect, .. } => self.read_request(dialect),
        }
    }

    fn read_hello(&mut self, begun: Option<Duration>, now: Duration) -> Result<bool, ChannelError> {
        let hello = [1, VERSION, 0, 0];
        let common = self.input.len().min(4);
        if self.input[..common] != hello[..common] {
            return Err(ChannelError::Hello);
        }
        let dialect = match self.input.get(4) {
            // No frame of the other dialects begins with 0.
            Some(0) => Dialect::Lease,
            Some(_) => self.plain,
            None if common < 4 => return Ok(false),
            None if begun.is_some_and(|begun| now >= begun + DIALECT_TIMEOUT) => self.plain,
            None => return Ok(false),
        };
        let Some(header) = Header::parse(&self.input, dialect) else { return Ok(false) };
        let offered = header.capabilities;
        if dialect == Dialect::Lease && offered & capability::REQUIRED != capability::REQUIRED {
            return Err(ChannelError::Capabilities(offered));
        }
        self.input.drain(..dialect.header_bytes());
        self.stage = Stage::Subscribed { dialect, capabilities: offered & capability::ALL };
        self.event = Some(Event::Subscribe);
        Ok(true)
    }

    fn read_request(&mut self, dialect: Dialect) -> Result<bool, ChannelError> {
        let Some(header) = Header::parse(&self.input, dialect) else { return Ok(false) };
        let unexpected = ChannelError::UnexpectedFrame(self.input[0]);
        // Judged before the payload has come: nobody can make us wait for 64 KiB of nothing.
        let is_lease_request = match header.kind {
            Some(Kind::Ping) => false,
            Some(Kind::LeaseRequest) if self.is_extended() => true,
            _ => return Err(unexpected),
        };
        let end = dialect.header_bytes() + usize::from(header.payload_bytes);
        let Some(payload) = self.input.get(dialect.header_bytes()..end) else { return Ok(false) };
        if is_lease_request {
            let request = serde_json::from_slice(payload).ok();
            self.event = Some(request.map_or(Event::BadLeaseRequest, Event::LeaseRequest));
        }
        self.input.drain(..end);
        if !is_lease_request {
            let pong = frame::encode(dialect, Kind::Pong, 0, 0, &[]);
            self.answer(pong.expect("without a payload").into())?;
        }
        Ok(true)
    }

    fn answer(&mut self, frame: Frame) -> Result<(), ChannelError> {
        if self.answers.len() >= QUEUE_FRAMES {
            return Err(ChannelError::Overflow);
        }
        self.answers.push_back(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::announce::Change;
    use super::super::message::{DeviceInfo, Snapshot, tests::gadget};
    use super::*;

    const LEASE_HELLO: [u8; 16] = [1, 1, 0, 0, 0, 0, 0, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0];
    const PLAIN_HELLO: [u8; 4] = [1, 1, 0, 0];
    const NOW: Duration = Duration::from_secs(100);

    fn state(sequence: u64) -> Announcement {
        let devices = vec![DeviceInfo { devnum: 2, ..gadget() }];
        let change = Change { updated: devices.clone(), ..Change::default() };
        Announcement::new(sequence, devices, Some(change))
    }

    fn subscribed(hello: &[u8]) -> Publisher {
        let mut publisher = Publisher::new(Dialect::Plain, NOW);
        publisher.handle_received(hello, NOW);
        assert_eq!(publisher.poll_event(NOW + DIALECT_TIMEOUT), Ok(Some(Event::Subscribe)));
        publisher.subscribe(&state(7)).expect("small");
        publisher
    }

    fn written(publisher: &mut Publisher, state: &Announcement) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = publisher.poll_transmit(state, NOW) {
            publisher.handle_written();
            frames.push(frame);
        }
        frames
    }

    fn kinds(publisher: &mut Publisher, state: &Announcement) -> Vec<(Kind, u64)> {
        let dialect = publisher.dialect().expect("known");
        let read = |frame: &Frame| {
            let header = Header::parse(frame, dialect).expect("a header");
            (header.kind.expect("known"), header.sequence)
        };
        written(publisher, state).iter().map(read).collect()
    }

    #[test]
    fn a_lease_client_gets_ack_then_snapshot_then_deltas() {
        let mut publisher = subscribed(&LEASE_HELLO);
        publisher.publish(&state(8)).expect("room");
        let said = kinds(&mut publisher, &state(8));
        assert_eq!(said, [(Kind::Ack, 7), (Kind::Snapshot, 7), (Kind::Delta, 8)]);
        assert!(publisher.is_extended());
    }

    #[test]
    fn a_plain_client_is_known_by_its_silence() {
        let mut publisher = Publisher::new(Dialect::Plain, NOW);
        publisher.handle_received(&PLAIN_HELLO, NOW);
        assert_eq!(publisher.poll_event(NOW), Ok(None));
        assert_eq!(publisher.deadline(), NOW + DIALECT_TIMEOUT);
        publisher.handle_timeout(NOW + DIALECT_TIMEOUT).expect("no error");
        assert_eq!(publisher.poll_event(NOW + DIALECT_TIMEOUT), Ok(Some(Event::Subscribe)));
        publisher.subscribe(&state(7)).expect("small");
        let frames = written(&mut publisher, &state(7));
        assert_eq!(&frames[0][..], [2, 1, 0, 0]);
        assert_eq!(&frames[1][..2], [5, 1]);
        let snapshot: Snapshot = serde_json::from_slice(&frames[1][4..]).expect("a snapshot");
        assert_eq!(snapshot.devices.len(), 1);
    }

    #[test]
    fn an_impatient_plain_client_is_known_by_its_ping() {
        let mut publisher = subscribed(&[1, 1, 0, 0, 3, 1, 0, 0]);
        assert_eq!(publisher.poll_event(NOW), Ok(None));
        let said: Vec<_> = kinds(&mut publisher, &state(7)).into_iter().map(|it| it.0).collect();
        assert_eq!(said, [Kind::Ack, Kind::Pong, Kind::Snapshot]);
    }

    #[test]
    fn hello_may_come_byte_by_byte() {
        let mut publisher = Publisher::new(Dialect::Plain, NOW);
        for byte in &LEASE_HELLO[..15] {
            publisher.handle_received(&[*byte], NOW);
            assert_eq!(publisher.poll_event(NOW), Ok(None));
        }
        publisher.handle_received(&LEASE_HELLO[15..], NOW);
        assert_eq!(publisher.poll_event(NOW), Ok(Some(Event::Subscribe)));
        assert_eq!(publisher.dialect(), Some(Dialect::Lease));
    }

    #[test]
    fn a_client_with_less_gets_word_of_changes_only() {
        let mut hello = LEASE_HELLO;
        hello[7] = 0x0f;
        let mut publisher = subscribed(&hello);
        publisher.publish(&state(8)).expect("room");
        assert_eq!(kinds(&mut publisher, &state(8)), [(Kind::Ack, 7), (Kind::Changed, 8)]);
        let request =
            frame::encode(Dialect::Lease, Kind::LeaseRequest, 0, 0, b"{}").expect("small");
        publisher.handle_received(&request, NOW);
        assert_eq!(publisher.poll_event(NOW), Err(ChannelError::UnexpectedFrame(8)));
    }

    #[test]
    fn wrong_hellos_are_refused() {
        for (at, value) in [(0, 2), (1, 2), (2, 1), (3, 1)] {
            let mut hello = LEASE_HELLO;
            hello[at] = value;
            let mut publisher = Publisher::new(Dialect::Plain, NOW);
            publisher.handle_received(&hello, NOW);
            assert_eq!(publisher.poll_event(NOW), Err(ChannelError::Hello), "byte {at}");
        }
        let mut hello = LEASE_HELLO;
        hello[7] = 1;
        let mut publisher = Publisher::new(Dialect::Plain, NOW);
        publisher.handle_received(&hello, NOW);
        assert_eq!(publisher.poll_event(NOW), Err(ChannelError::Capabilities(1)));
    }

    #[test]
    fn b8_deadlines_of_handshake_reading_and_writing() {
        let silent = Publisher::new(Dialect::Plain, NOW);
        assert_eq!(silent.deadline(), NOW + HANDSHAKE_TIMEOUT);
        let mut cut = Publisher::new(Dialect::Plain, NOW);
        cut.handle_received(&LEASE_HELLO[..9], NOW);
        assert_eq!(cut.poll_event(NOW + DIALECT_TIMEOUT), Ok(None));
        let late = NOW + HANDSHAKE_TIMEOUT;
        assert_eq!(cut.handle_timeout(late), Err(ChannelError::HandshakeTimeout));
        let mut publisher = subscribed(&PLAIN_HELLO);
        assert_eq!(publisher.deadline(), NOW + READ_TIMEOUT);
        let late = NOW + READ_TIMEOUT;
        assert_eq!(publisher.handle_timeout(late), Err(ChannelError::ReadTimeout));
        assert!(publisher.poll_transmit(&state(7), NOW).is_some());
        assert_eq!(publisher.deadline(), NOW + WRITE_TIMEOUT);
        let late = NOW + WRITE_TIMEOUT;
        assert_eq!(publisher.handle_timeout(late), Err(ChannelError::WriteTimeout));
    }

    #[test]
    fn w15_a_client_that_is_behind_gets_one_complete_state() {
        let mut publisher = subscribed(&LEASE_HELLO);
        for sequence in 8..40 {
            publisher.publish(&state(sequence)).expect("states become one");
        }
        let said = kinds(&mut publisher, &state(39));
        assert_eq!(said, [(Kind::Ack, 7), (Kind::Snapshot, 39)]);
        publisher.publish(&state(40)).expect("room");
        assert_eq!(kinds(&mut publisher, &state(40)), [(Kind::Delta, 40)]);

        let mut publisher = subscribed(&PLAIN_HELLO);
        for sequence in 8..40 {
            publisher.publish(&state(sequence)).expect("states become one");
        }
        let said: Vec<_> = kinds(&mut publisher, &state(39)).into_iter().map(|it| it.0).collect();
        assert_eq!(said, [Kind::Ack, Kind::Snapshot]);
    }

    #[test]
    fn w15_a_client_that_cannot_be_helped_is_closed() {
        let mut hello = LEASE_HELLO;
        hello[7] = 3;
        let mut publisher = subscribed(&hello);
        let ended = (8..40).find_map(|sequence| publisher.publish(&state(sequence)).err());
        assert_eq!(ended, Some(ChannelError::Overflow));
    }

    #[test]
    fn lease_requests_are_passed_on_one_by_one() {
        let mut publisher = subscribed(&LEASE_HELLO);
        let request = |payload: &[u8]| {
            frame::encode(Dialect::Lease, Kind::LeaseRequest, 0, 0, payload).expect("small")
        };
        let mut bytes = request(br#"{"busid":"1-1","client_nonce":7}"#);
        bytes.extend(request(b"{"));
        bytes.extend(request(br#"{"busid":"1-2","client_nonce":8}"#));
        publisher.handle_received(&bytes, NOW);
        let asked = |busid: &str, client_nonce| {
            Ok(Some(Event::LeaseRequest(LeaseRequest { busid: busid.into(), client_nonce })))
        };
        assert_eq!(publisher.poll_event(NOW), asked("1-1", 7));
        assert_eq!(publisher.poll_event(NOW), Ok(Some(Event::BadLeaseRequest)));
        assert_eq!(publisher.poll_event(NOW), asked("1-2", 8));
        assert_eq!(publisher.poll_event(NOW), Ok(None));
        let response = LeaseResponse { busid: "1-1".into(), ..LeaseResponse::default() };
        for _ in 0..QUEUE_FRAMES - 1 {
            publisher.respond(&response).expect("room");
        }
        assert_eq!(publisher.respond(&response), Err(ChannelError::Overflow));
    }

    #[test]
    fn other_frames_end_the_connection() {
        for (hello, numbers) in [
            (&LEASE_HELLO[..], &[0, 1, 2, 3, 5, 6, 7, 9, 10][..]),
            (&PLAIN_HELLO[..], &[1, 2, 4, 5, 6]),
        ] {
            for &number in numbers {
                let mut publisher = subscribed(hello);
                let mut header = vec![0_u8; 16];
                header[0] = number;
                publisher.handle_received(&header, NOW);
                let ended = publisher.poll_event(NOW);
                assert_eq!(ended, Err(ChannelError::UnexpectedFrame(number)));
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_told_ends_the_connection() {
        let many = (0..500).map(|n| DeviceInfo { busid: format!("1-{n}"), ..gadget() }).collect();
        let many = Announcement::new(8, many, None);
        let mut publisher = subscribed(&PLAIN_HELLO);
        assert_eq!(publisher.publish(&many), Err(ChannelError::Oversized));
        let mut publisher = subscribed(&LEASE_HELLO);
        assert_eq!(publisher.publish(&many), Ok(()), "it asks for the list instead");
        let said = kinds(&mut publisher, &many);
        assert_eq!(said, [(Kind::Ack, 7), (Kind::Snapshot, 7), (Kind::Changed, 8)]);
    }
}
