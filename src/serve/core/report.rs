//! Figures of a core, and on core 0 the admin socket that asks for them.

use std::time::Duration;

use usbip_fast_native::reactor::ReactorCounters;
use usbip_fast_native::{Completion, Reactor, process};

use super::{Connection, Core, Message};
use crate::serve::admin::state;
use crate::serve::door::Door;
use crate::serve::session::Io;
use crate::session::exporter::Counters;
use crate::telemetry::meter::micros;
use crate::telemetry::report::{CoreReport, ServerReport, SessionReport};

/// The sum over the sessions of a core that are over.
#[derive(Debug, Default)]
pub(super) struct Past {
    sessions: u64,
    urbs: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Past {
    /// A session is over.
    pub fn add(&mut self, counters: &Counters) {
        self.sessions += 1;
        self.urbs += counters.urbs;
        self.bytes_in += counters.bytes_in;
        self.bytes_out += counters.bytes_out;
    }
}

impl Core {
    /// A completion of the admin socket.
    pub(super) fn handle_admin(
        &mut self,
        completion: Completion,
        reactor: &mut dyn Reactor,
        now: Duration,
    ) {
        let door = self.door.as_mut().expect("only core 0 has tokens of the admin socket");
        let admin = door.admin.as_mut().expect("a token has an owner");
        admin.handle(completion, &mut Io { reactor, arena: &self.arena, now });
    }

    /// Answers core 0, or on core 0 whoever has asked at the admin socket.
    pub(super) fn settle_reports(&mut self, reactor: &mut dyn Reactor, now: Duration) {
        if let Some(round) = self.report_wanted.take() {
            let (report, sessions) = self.report(reactor, now);
            self.tell(0, Message::Reported { round, report: Box::new(report), sessions });
        }
        let Some(admin) = self.door.as_mut().and_then(|door| door.admin.as_mut()) else { return };
        admin.settle(&mut Io { reactor, arena: &self.arena, now });
        self.answer_questions(reactor, now);
        let Some(admin) = self.door.as_mut().and_then(|door| door.admin.as_mut()) else { return };
        if let Some(round) = admin.begin_round(self.outbox.cores(), now) {
            for core in 1..self.outbox.cores() {
                self.tell(core, Message::Report { round });
            }
            let (report, sessions) = self.report(reactor, now);
            self.handle_report(round, report, sessions);
        }
        let door = self.door.as_mut().expect("checked above");
        if door.admin.as_ref().is_some_and(|admin| admin.is_round_over(now)) {
            let server = ServerReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                process_id: process::id(),
                uptime_us: micros(now.saturating_sub(self.started.unwrap_or(now))),
                listen: door.addresses(),
                cores: self.outbox.cores(),
                devices: door.exports.all().count(),
            };
            let admin = door.admin.as_mut().expect("checked above");
            admin.finish_round(server, &mut Io { reactor, arena: &self.arena, now });
        }
    }

    /// Core 0: what it can answer alone.
    fn answer_questions(&mut self, reactor: &mut dyn Reactor, now: Duration) {
        let Some(Door { admin: Some(admin), inventory, exports, .. }) = &mut self.door else {
            return;
        };
        while let Some((key, question)) = admin.take_question() {
            let line = state::answer(question, inventory, exports, now);
            admin.answer(key, line, &mut Io { reactor, arena: &self.arena, now });
        }
    }

    /// Core 0: a core has answered.
    pub(super) fn handle_report(
        &mut self,
        round: u64,
        report: CoreReport,
        sessions: Vec<SessionReport>,
    ) {
        if let Some(admin) = &mut self.door_mut().admin {
            admin.handle_report(round, report, sessions);
        }
    }

    fn report(&self, reactor: &dyn Reactor, now: Duration) -> (CoreReport, Vec<SessionReport>) {
        let ReactorCounters { system_calls, operations, turns, .. } = reactor.counters();
        let mut report = CoreReport {
            core: self.index,
            sessions: self.sessions.len(),
            sessions_ended: self.past.sessions,
            urbs: self.past.urbs,
            bytes_in: self.past.bytes_in,
            bytes_out: self.past.bytes_out,
            turns,
            system_calls,
            operations,
            arena_bytes: self.arena.chunk_bytes(),
            arena_blocks: self.arena.lent_blocks(),
        };
        let mut sessions = Vec::with_capacity(self.sessions.len());
        for &key in &self.sessions {
            let Some(Connection::Session(session)) = self.connections.get(key) else {
                unreachable!("the list of sessions names sessions")
            };
            let counters = session.counters();
            report.urbs += counters.urbs;
            report.bytes_in += counters.bytes_in;
            report.bytes_out += counters.bytes_out;
            sessions.push(session.report(self.index, now));
        }
        (report, sessions)
    }
}
