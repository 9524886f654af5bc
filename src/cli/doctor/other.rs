//! What can be said of a system that is not Linux.

use super::Finding;

pub(super) fn findings() -> Vec<Finding> {
    vec![Finding::warn("attach", "importing devices is only supported on Linux", "")]
}
