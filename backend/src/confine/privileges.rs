//! Becoming another user and giving up what is left of power.

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    io::Errno,
    process::DumpableBehavior,
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::User;

/// The number of the last capability there could be.
const LAST: u32 = 63;

/// Takes every capability out of reach of what is executed from now on. Needs `CAP_SETPCAP` where
/// there is anything to take, so it comes before the user changes.
pub(super) fn bound() -> io::Result<()> {
    for number in 0..=LAST {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // An ordinary user may not, and does not have to: with no new privileges nothing
                // that it executes gains any.
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => return Ok(()),
                Err(errno) => return Err(errno.into()),
            },
            Ok(false) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Becomes the user, with its one group and no others.
pub(super) fn become_user(user: User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("the way back to root is open"));
    }
    Ok(())
}

/// Drops what this process itself can do, and what it could gain.
pub(super) fn drop_all() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Keeps others of our user from reading or tracing this process, until it becomes another program.
pub(crate) fn hide() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
