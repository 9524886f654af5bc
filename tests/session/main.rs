//! Scenario tests of the sessions: a scripted client, a scripted device, a memory that can
//! refuse, and a clock that only the test moves. Named after behaviour, with the number of the
//! invariant where there is one.

mod bad_input;
mod endpoints;
mod gone;
mod importer;
mod isochronous;
mod lanes;
mod one_answer;
mod order;
mod overload;
mod pair;
mod stream;
