//! What the program tells about itself while it runs.

pub mod histogram;
pub mod log;
pub mod meter;
pub mod report;
