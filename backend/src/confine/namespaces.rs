//! Namespaces of a command: that of processes is made by its supervisor, the others by the first
//! process in it.

use std::{fs, io};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    net::{AddressFamily, SendFlags, SocketType, send, socket},
    thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities},
};

use super::{Namespaces, Network};

/// The next child of this process is the first one of a namespace of its own. Only for a process
/// with one thread.
pub(crate) fn enter(namespaces: Namespaces) -> io::Result<()> {
    let failed = |what: &'static str| move |error| explain(what, &io::Error::from(error));
    match namespaces {
        Namespaces::Privileged => unshare(CloneFlags::CLONE_NEWPID).map_err(failed("pid")),
        Namespaces::Unprivileged => {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
                .map_err(failed("user and pid"))?;
            let (uid, gid) = (uid.as_raw(), gid.as_raw());
            let write = |file: &str, text: &str| {
                fs::write(format!("/proc/self/{file}"), text)
                    .map_err(|error| explain(file.to_owned(), &error))
            };
            // Nobody but ourselves exists in there, root neither.
            write("setgroups", "deny")?;
            write("uid_map", &format!("{uid} {uid} 1"))?;
            write("gid_map", &format!("{gid} {gid} 1"))?;
            keep_capabilities().map_err(|error| explain("capabilities", &error))
        }
    }
}

/// Whoever is not root loses its power over a new namespace with the next program it executes, unless
/// that is inherited. The command inherits none: it is dropped before.
fn keep_capabilities() -> io::Result<()> {
    let mut own = capabilities(None)?;
    own.inheritable = own.permitted;
    set_capabilities(None, own)?;
    for needed in [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::NET_ADMIN,
        CapabilitySet::SETPCAP,
    ] {
        configure_capability_in_ambient_set(needed, true)?;
    }
    Ok(())
}

/// What is mounted, the channels between processes, and the network where none was asked for.
pub(crate) fn enter_rest(network: Network) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(|error| explain("mount, ipc, uts or net", &io::Error::from(error)))?;
    match network {
        Network::Host => Ok(()),
        Network::None => raise_loopback().map_err(|error| explain("loopback", &error)),
    }
}

fn explain(what: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("namespaces ({what}): {error}"))
}

/// Sets the new network's own loopback up: rtnetlink(7), one `RTM_NEWLINK` for interface 1.
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const LOOPBACK: u32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    // nlmsghdr: length, type, flags, sequence, port
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    // ifinfomsg: family and padding, type; index, flags, which of them change
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let route = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&route, &message, SendFlags::empty())?;
    Ok(())
}
