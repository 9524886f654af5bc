//! The loop of one core, and which kernel interface it runs on.

pub mod mailbox;
pub mod outbox;
pub mod select;
pub mod simulated;
pub mod turn;
