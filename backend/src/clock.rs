//! The clock that nobody sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time since the machine's boot, sleep included; `None` where the kernel does not tell. It is the
/// kernel's own, in a container as outside.
pub fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .map(Duration::from)
}
