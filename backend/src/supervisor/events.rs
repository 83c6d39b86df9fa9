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
