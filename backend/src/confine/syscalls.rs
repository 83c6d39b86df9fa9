//! Which system calls a command may make: all but those that lead out, by a list of what is
//! refused.
//!
//! What is refused fails with "operation not permitted", so that a program that only tries goes on;
//! `clone3`, whose flags no filter can read, is "not implemented", and libraries use `clone`. A call
//! of another architecture ends the process.

use std::{collections::BTreeMap, io};

use nix::libc;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::{Network, Plan};

/// Refused whatever the arguments are.
const REFUSED: &[libc::c_long] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // What is mounted, and new namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Wide doors into the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The kernel itself, and the machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    // Files without their path, and watching all of them.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// The same, where only this architecture has it.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// Newer than the list of the C library: `include/uapi/asm-generic/unistd.h` of Linux 6.15.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// Set in the number of a call of the x32 ABI, which shares our architecture's name.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;
/// The calls that x32 has numbers of its own for.
#[cfg(target_arch = "x86_64")]
const X32_OWN: std::ops::RangeInclusive<libc::c_long> = 512..=547;

/// Every flag of `clone` that makes a namespace. (That of time namespaces it takes for a signal.)
const NEW_NAMESPACE: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// An old name of raw sockets: socket(2).
const SOCK_PACKET: libc::c_int = 10;
/// The bits of a socket's type that say what it is.
const SOCKET_TYPE: u64 = 0xf;
/// `ioctl`s that put words into the mouth of a terminal.
const TERMINAL: [u64; 2] = [0x5412, 0x541c];
/// `personality` with this only asks.
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

/// Calls that change another process, and which argument names it: 0 is oneself. Landlock does not
/// judge them; where others of our user are in sight, threads cannot be named either.
const ON_OTHERS: [(libc::c_long, u8); 4] = [
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
];
/// The same, where the argument before says what kind of thing is named: 0, or 1 for `ioprio_set`, is
/// a process.
const ON_KINDS: [(libc::c_long, u64); 2] = [(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("seccomp: {error}"))
}

/// From now on it holds for us and everything we start. Needs no new privileges.
pub(super) fn hold(plan: &Plan) -> io::Result<()> {
    for (rules, errno) in [
        (refused(plan)?, libc::EPERM),
        (
            both_abis(BTreeMap::from([(libc::SYS_clone3, Vec::new())])),
            libc::ENOSYS,
        ),
    ] {
        let errno = u32::try_from(errno).map_err(other)?;
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(errno),
            std::env::consts::ARCH.try_into().map_err(other)?,
        )
        .map_err(other)?;
        let program: seccompiler::BpfProgram = filter.try_into().map_err(other)?;
        apply_filter(&program).map_err(other)?;
    }
    Ok(())
}

fn refused(plan: &Plan) -> io::Result<Rules> {
    let mut rules: Rules = REFUSED
        .iter()
        .chain(REFUSED_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    let mut namespaces = Vec::new();
    for flag in NEW_NAMESPACE {
        let flag = u64::try_from(flag).map_err(other)?;
        namespaces.push(rule(&[(0, Op::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    rules.insert(
        libc::SYS_personality,
        vec![rule(&[(0, Op::Ne, PERSONALITY_QUERY), (0, Op::Ne, 0)])?],
    );
    let mut terminal = Vec::new();
    for request in TERMINAL {
        terminal.push(rule(&[(1, Op::Eq, request)])?);
    }
    rules.insert(libc::SYS_ioctl, terminal);
    rules.insert(libc::SYS_prlimit64, vec![rule(&[(0, Op::Ne, 0)])?]);
    if plan.namespaces.is_none() {
        for (call, argument) in ON_OTHERS {
            rules.insert(call, vec![rule(&[(argument, Op::Ne, 0)])?]);
        }
        for (call, process) in ON_KINDS {
            let others = vec![rule(&[(0, Op::Ne, process)])?, rule(&[(1, Op::Ne, 0)])?];
            rules.insert(call, others);
        }
    }
    rules.insert(libc::SYS_socket, sockets(plan)?);
    let unix = number(libc::AF_UNIX)?;
    rules.insert(libc::SYS_socketpair, vec![rule(&[(0, Op::Ne, unix)])?]);
    Ok(both_abis(rules))
}

/// Which sockets are refused: all families but the usual four, raw ones, every netlink but that of
/// routes.
fn sockets(plan: &Plan) -> io::Result<Vec<SeccompRule>> {
    let netlink = number(libc::AF_NETLINK)?;
    let mut allowed = vec![netlink];
    if plan.unix_sockets() {
        allowed.push(number(libc::AF_UNIX)?);
    }
    if plan.network == Network::Host || plan.namespaces.is_some() {
        allowed.extend([number(libc::AF_INET)?, number(libc::AF_INET6)?]);
    }
    let family: Vec<_> = allowed.iter().map(|family| (0, Op::Ne, *family)).collect();
    let raw = [libc::SOCK_RAW, SOCK_PACKET];
    let mut refused = vec![
        rule(&family)?,
        rule(&[
            (0, Op::Eq, netlink),
            (2, Op::Ne, number(libc::NETLINK_ROUTE)?),
        ])?,
    ];
    for kind in raw {
        refused.push(rule(&[
            (0, Op::Ne, netlink),
            (1, Op::MaskedEq(SOCKET_TYPE), number(kind)?),
        ])?);
    }
    Ok(refused)
}

fn number(constant: libc::c_int) -> io::Result<u64> {
    u64::try_from(constant).map_err(other)
}

/// One that matches when all of its conditions do.
fn rule(conditions: &[(u8, Op, u64)]) -> io::Result<SeccompRule> {
    let conditions = conditions
        .iter()
        .map(|(argument, op, value)| {
            SeccompCondition::new(*argument, Length::Dword, op.clone(), *value)
        })
        .collect::<Result<_, _>>()
        .map_err(other)?;
    SeccompRule::new(conditions).map_err(other)
}

/// The same rules for every number under which the kernel may take a call.
#[cfg(target_arch = "x86_64")]
fn both_abis(rules: Rules) -> Rules {
    let mut both = rules.clone();
    both.extend(rules.into_iter().map(|(call, rules)| (call | X32, rules)));
    both.extend(X32_OWN.map(|call| (call | X32, Vec::new())));
    both
}

#[cfg(not(target_arch = "x86_64"))]
fn both_abis(rules: Rules) -> Rules {
    rules
}
