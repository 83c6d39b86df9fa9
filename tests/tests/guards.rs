//! What no feature tests: that the parts stay apart, that the docs are true, that nothing is stood
//! in for.

mod admission;
mod api;
mod crash_points;
mod dependencies;
mod docs;
mod environment;
mod policies;
mod sources;
mod stand_ins;
