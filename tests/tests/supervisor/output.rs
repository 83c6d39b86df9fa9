//! Output arrives whole, in order, as it was written.

use std::time::Duration;

use orket_backend::executor::{Outcome, Stream};

use super::Bench;

#[tokio::test]
async fn both_streams_are_told_apart_and_numbered_without_gaps() {
    let bench = Bench::new();
    let script = "i=0; while [ $i -lt 200 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let report = bench.run(bench.script("a.1", script)).await;
    let expected = |name: &str| {
        let lines: Vec<_> = (0..200)
            .map(|i| {
                format!(
                    "{name} {i}
"
                )
            })
            .collect();
        lines.concat()
    };
    assert_eq!(report.bytes(Stream::Stdout), expected("out").into_bytes());
    assert_eq!(report.bytes(Stream::Stderr), expected("err").into_bytes());
    for (record, seq) in report.records.iter().zip(1..) {
        assert_eq!(record.seq, seq);
    }
    assert!(report.records.is_sorted_by_key(|record| record.time));
}

#[tokio::test]
async fn bytes_that_are_not_text_survive() {
    let bench = Bench::new();
    let every: Vec<u8> = (0..=255).chain([0xff, 0xfe, 0xc3, 0x28]).collect();
    std::fs::write(bench.path().join("bytes"), &every).unwrap();
    let report = bench.run(bench.command("a.1", &["cat", "bytes"])).await;
    assert_eq!(report.bytes(Stream::Stdout), every);
}

#[tokio::test]
async fn a_flood_is_cut_at_the_cap_and_the_rest_counted() {
    let bench = Bench::new();
    let mut launch = bench.script("a.1", "head -c 50000000 /dev/zero; echo done >&2");
    launch.output_cap = 1_000_000;
    let report = bench.run(launch).await;
    assert_eq!(
        report.exit.outcome,
        Outcome::Exited { code: 0 },
        "the command itself is not disturbed"
    );
    let kept = report.bytes(Stream::Stdout).len() + report.bytes(Stream::Stderr).len();
    assert_eq!(kept, 1_000_000);
    assert_eq!(report.exit.dropped_bytes, 49_000_005);
    let remarks = report
        .records
        .iter()
        .filter(|record| record.stream == Stream::System)
        .count();
    assert_eq!(remarks, 1);
}

#[tokio::test]
async fn a_flood_beyond_the_cap_slows_the_command() {
    let bench = Bench::new();
    let mut launch = bench.command("a.1", &["yes"]);
    launch.output_cap = 100_000;
    launch.timeout = Some(Duration::from_secs(5));
    let report = bench.run(launch).await;
    assert_eq!(report.exit.outcome, Outcome::TimedOut);
    // 16 MiB at once and 8 MiB in a second; a pipe alone takes gigabytes.
    let dropped = report.exit.dropped_bytes;
    assert!(dropped > 1 << 20, "{dropped} bytes dropped");
    assert!(dropped < 200 << 20, "{dropped} bytes dropped");
}

#[tokio::test]
async fn a_flood_of_small_writes_is_no_flood_of_records() {
    let bench = Bench::new();
    // One system call for each byte.
    let script = "timeout 4 dd if=/dev/zero bs=1 2>/dev/null; echo over";
    let mut launch = bench.script("a.1", script);
    launch.output_cap = 1 << 30;
    let report = bench.run(launch).await;
    assert_eq!(report.exit.outcome, Outcome::Exited { code: 0 });
    assert!(report.bytes(Stream::Stdout).len() > 5_000);
    // 256 at once and 128 in a second.
    let records = report.records.len();
    assert!(records < 5_000, "{records} records");
}

#[tokio::test]
async fn what_is_left_in_the_pipes_at_the_end_is_kept() {
    let bench = Bench::new();
    // More writes than are read at once, and the end is there before they are read.
    let script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done";
    let text = bench.run(bench.script("a.1", script)).await.text();
    assert_eq!(text.lines().count(), 3_000);
    assert_eq!(text.lines().last(), Some("2999"));
}

#[tokio::test]
async fn a_reader_that_stops_reading_misses_nothing_later() {
    let bench = Bench::new();
    let attempt = bench
        .start(bench.script("a.1", "head -c 20000000 /dev/zero | tr '\\0' x"))
        .await;
    // Nobody reads until the command is over.
    orket_tests::eventually("the supervisor is gone", orket_tests::DEADLINE, || async {
        !attempt.identity.is_alive()
    })
    .await;
    let report = super::report(attempt).await;
    assert_eq!(
        report.bytes(Stream::Stdout).len(),
        16 * 1024 * 1024,
        "all up to the cap"
    );
}

#[tokio::test]
async fn the_environment_is_clean_and_nothing_is_inherited() {
    let bench = Bench::new();
    let mut launch = bench.script(
        "a.1",
        "env | sort; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; pwd",
    );
    launch.env.insert("GREETING".into(), "hello world".into());
    launch.env.insert("HOME".into(), "/elsewhere".into());
    let text = bench.run(launch).await.text();
    let folder = bench.path().canonicalize().unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.pop(), folder.to_str());
    assert_eq!(lines.pop(), Some("/dev/null"));
    // The three standard ones, and the one that lists them.
    assert_eq!(lines.pop(), Some("4"));
    let names: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    // PWD is the shell's own doing.
    assert_eq!(
        names,
        [
            "GREETING",
            "HOME",
            "LANG",
            "ORKET_ATTEMPT",
            "PATH",
            "PWD",
            "TMPDIR"
        ]
    );
    assert!(lines.contains(&"GREETING=hello world") && lines.contains(&"HOME=/elsewhere"));
}

#[tokio::test]
async fn a_writer_into_a_closed_pipe_ends_as_it_would_anywhere() {
    let bench = Bench::new();
    let report = bench
        .run(bench.script("a.1", "(yes; echo $? >&2) | head -1; sleep 0.1; trap"))
        .await;
    assert_eq!(report.text(), "y\n");
    assert_eq!(
        report.bytes(Stream::Stderr),
        b"141\n",
        "SIGPIPE, not an error message"
    );
}

#[tokio::test]
async fn nothing_privileged_can_be_gained() {
    let bench = Bench::new();
    let report = bench
        .run(bench.script("a.1", "grep NoNewPrivs /proc/self/status; ulimit -c"))
        .await;
    assert_eq!(
        report.text().split_whitespace().collect::<Vec<_>>(),
        ["NoNewPrivs:", "1", "0"]
    );
}
