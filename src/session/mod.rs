//! Placeholder replaced by the first part of this module.
