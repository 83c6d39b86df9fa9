//! Signals as something that can be polled.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

/// Signals as readable streams.
pub(crate) struct Events {
    pub(crate) child: UnixStream,
    pub(crate) stop: UnixStream,
}

impl Events {
    pub(crate) fn listen() -> io::Result<Self> {
        let register = |signals: &[i32]| -> io::Result<UnixStream> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            Ok(read)
        };
        Ok(Self {
            child: register(&[SIGCHLD])?,
            stop: register(&[SIGTERM, SIGINT, SIGHUP])?,
        })
    }

    /// Looks for children that ended. What was heard of them is forgotten before, never after: one
    /// that ends behind the look is then still heard of, and the next wait does not sleep over it.
    pub(crate) fn look_for_ended<T>(&self, look: impl FnOnce() -> T) -> T {
        drain(&self.child);
        look()
    }
}

/// Empties it. `true` when a signal had arrived.
pub(crate) fn drain(mut stream: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while matches!(stream.read(&mut bytes), Ok(1..)) {
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_end_behind_the_look_is_still_heard_of() {
        let (child, mut ends) = UnixStream::pair().unwrap();
        let (stop, _) = UnixStream::pair().unwrap();
        child.set_nonblocking(true).unwrap();
        let events = Events { child, stop };
        ends.write_all(b"!").unwrap();
        events.look_for_ended(|| ends.write_all(b"!").unwrap());
        assert!(drain(&events.child), "the second end");
        ends.write_all(b"!").unwrap();
        events.look_for_ended(|| ());
        assert!(!drain(&events.child), "the wait would return for nothing");
    }
}
