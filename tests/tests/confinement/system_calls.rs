//! System calls that lead out, made raw.

use super::{OFF, WAYS, backend, is_root, run, skip};

/// Name, number on `x86_64` (`arch/x86/entry/syscalls/syscall_64.tbl` of Linux), arguments that do no
/// harm.
const CALLS: [(&str, u32, &str); 27] = [
    ("ptrace", 101, "16, 0, 0, 0"),
    ("process_vm_readv", 310, "-1, 0, 0, 0, 0, 0"),
    ("process_vm_writev", 311, "-1, 0, 0, 0, 0, 0"),
    ("kcmp", 312, "-1, -1, 0, 0, 0"),
    ("pidfd_getfd", 438, "-1, 0, 0"),
    ("mount", 165, "0, 0, 0, 0, 0"),
    ("umount2", 166, "0, 0"),
    ("pivot_root", 155, "0, 0"),
    ("chroot", 161, "0"),
    ("open_tree", 428, "-1, 0, 0"),
    ("fsopen", 430, "0, 0"),
    ("setns", 308, "-1, 0"),
    ("unshare", 272, "0"),
    ("bpf", 321, "-1, 0, 0"),
    ("perf_event_open", 298, "0, 0, -1, -1, 0"),
    ("io_uring_setup", 425, "0, 0"),
    ("userfaultfd", 323, "-1"),
    ("keyctl", 250, "-1, 0, 0, 0, 0"),
    ("add_key", 248, "0, 0, 0, 0, 0"),
    ("kexec_load", 246, "0, 0, 0, -1"),
    ("finit_module", 313, "-1, 0, 0"),
    ("open_by_handle_at", 304, "-1, 0, 0"),
    ("personality", 135, "0x40000"),
    ("swapon", 167, "0, 0"),
    ("limits of another", 302, "1, 7, 0, 0"),
    ("packet socket", 41, "17, 3, 0"),
    ("audit netlink socket", 41, "16, 3, 9"),
];
/// The answer to what is refused.
const EPERM: &str = "1";

fn script() -> String {
    use std::fmt::Write as _;
    let mut code = String::new();
    for (name, number, arguments) in CALLS {
        // The number of the error, or `ok`.
        let _ = write!(
            code,
            "$! = 0; $r = syscall({number}, {arguments}); \
             print \"{name}=\", ($r == -1 ? $!+0 : \"ok\"), \"\\n\"; "
        );
    }
    // CLONE_NEWUSER and SIGCHLD; a child that came to be leaves at once.
    code.push_str(
        "$! = 0; $r = syscall(56, 0x10000011, 0, 0, 0, 0); if ($r == 0) { syscall(231, 0) } \
         print \"clone=\", ($r == -1 ? $!+0 : \"ok\"), \"\\n\"; \
         $! = 0; $r = syscall(435, 0, 0); print \"clone3=\", $!+0, \"\\n\"; \
         $! = 0; $r = syscall(41, 2, 3, 1); print \"raw socket=\", ($r == -1 ? $!+0 : \"ok\"), \"\\n\"; \
         $! = 0; $r = syscall(141, 0, 1, 0); print \"niceness of another=\", ($r == -1 ? $!+0 : \"ok\"), \"\\n\"; \
         $! = 0; $r = syscall(0x40000065, 16, 0, 0, 0); print \"x32 ptrace=\", $!+0, \"\\n\"; ",
    );
    format!("perl -e '{code}'")
}

fn answer(said: &str, name: &str) -> String {
    let start = format!("{name}=");
    let line = said.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("nothing of {name}: {said}"))
        .to_owned()
}

#[tokio::test]
async fn what_leads_out_is_refused() {
    if !cfg!(target_arch = "x86_64") {
        return skip("the numbers are those of x86_64");
    }
    for (way, confinement) in WAYS {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        let (run, said) = run(&backend, &script()).await;
        assert_eq!(run["state"], "succeeded", "{way}: {run} {said}");
        let names = CALLS.iter().map(|(name, ..)| *name);
        for name in names.chain(["clone", "raw socket", "x32 ptrace"]) {
            assert_eq!(answer(&said, name), EPERM, "{way}: {name}");
        }
        assert_eq!(answer(&said, "clone3"), "38", "{way}: not implemented");
        if way == "confined" {
            assert_eq!(answer(&said, "niceness of another"), EPERM);
        }
    }
}

#[tokio::test]
async fn the_same_calls_reach_the_kernel_where_nothing_confines() {
    if !cfg!(target_arch = "x86_64") || !is_root() {
        return skip("it needs x86_64, and root, whom the kernel refuses nothing");
    }
    let backend = backend(OFF).await.unwrap();
    let (_, said) = run(&backend, &script()).await;
    let refused: Vec<_> = CALLS
        .iter()
        .map(|(name, ..)| *name)
        .chain(["clone", "raw socket"])
        .filter(|name| answer(&said, name) == EPERM)
        .collect();
    // Machines differ in what they take from root, too; most must get through.
    assert!(refused.len() <= 4, "{refused:?}");
}
