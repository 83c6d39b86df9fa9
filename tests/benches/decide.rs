//! What one decision costs, without a network: a head judged by a policy of 1 000 routes and 10 000 keys, a key
//! looked up, a budget spent, a body's MAC. Prints figures beside their aims; never fails for being slow.
//!
//! `cargo bench -p orket-tests --bench decide [-- MILLISECONDS]`: so long each is repeated; `make bench` does it, too.
//! Each figure is of batches: their median and 99th percentile, in time for one operation.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail loudly"
)]

use std::{
    fmt::Write as _,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use orket_gateway::{
    connection::framing::Framing,
    hearing::{Hearing, ShadowDenial},
    limit::{Limiter, Rate},
    pipeline::{self, Snapshot},
    policy::{Origin, load},
    rehearsal,
    request_head::{Arrival, RequestHead},
    secret::Secret,
};
use orket_tests::gitea::sha256;
use pingora_http::RequestHeader;

/// How many operations one clock reading covers, where one is too short for a clock.
const BATCH: usize = 256;

fn main() {
    let millis = std::env::args().find_map(|a| a.parse().ok());
    let span = Duration::from_millis(millis.unwrap_or(1000));
    println!("one decision, one thread, no network; each measured for {span:?}\n");
    decisions(span);
    limiters(span);
    macs(span);
}

/// A head judged from its parsed form to the permit.
fn decisions(span: Duration) {
    for (routes, keys) in [(10, 10), (10, 10_000), (1_000, 10), (1_000, 10_000)] {
        let snapshot = snapshot(routes, keys);
        let heads: Vec<_> = (0..64)
            .map(|n| head(n * routes / 64, &key(n * keys / 64)))
            .collect();
        let mut turn = 0;
        let mut nobody: Vec<ShadowDenial> = Vec::new();
        let decide = Measured::of(span, BATCH, || {
            turn = (turn + 1) % heads.len();
            let head = RequestHead::judge(&heads[turn], arrival()).unwrap();
            let mut hearing = Hearing {
                snapshot: &snapshot,
                request_id: "bench",
                now: Timestamp::UNIX_EPOCH,
                witness: &mut nobody,
            };
            let verdict = pipeline::judge_head(&mut hearing, &head);
            assert!(black_box(verdict).is_ok());
        });
        let aim = if keys == 10_000 && routes == 1_000 {
            "aim: median under 1 µs"
        } else {
            ""
        };
        decide.print(
            &format!("decide: {routes} routes, {keys} keys, two budgets"),
            aim,
        );
    }
    for keys in [10, 10_000] {
        let snapshot = snapshot(1, keys);
        let ring = &snapshot.policy.keys;
        let presented: Vec<_> = (0..64).map(|n| key(n * keys / 64)).collect();
        let mut turn = 0;
        let mut look_up = |what: &str, known: bool| {
            let measured = Measured::of(span, BATCH, || {
                turn = (turn + 1) % presented.len();
                let text = presented[turn].as_bytes();
                let text = if known { text } else { &text[1..] };
                let found = ring.find(Some(text), Timestamp::UNIX_EPOCH);
                assert_eq!(black_box(found).is_ok(), known);
            });
            measured.print(
                &format!("key look-up: {keys} keys, {what}"),
                "aim: the same for any number of keys",
            );
        };
        look_up("known", true);
        look_up("unknown", false);
    }
}

/// One unit of one budget.
fn limiters(span: Duration) {
    let many = NonZeroU32::MAX;
    let rate = Rate {
        count: many,
        period: Duration::from_secs(1),
        burst: many,
    };
    for (what, owners) in [("one owner", 1u32), ("100 000 owners", 100_000)] {
        let limiter = Limiter::new("bench", rate, 200_000).unwrap();
        let mut turn = 0u32;
        let spend = Measured::of(span, BATCH, || {
            turn = (turn + 7_919) % owners;
            assert!(
                black_box(
                    limiter
                        .spend(&IpAddr::V4(Ipv4Addr::from_bits(turn)))
                        .is_ok()
                ),
                "the budget is out of reach"
            );
        });
        spend.print(&format!("limiter: {what}"), "");
    }
}

/// The MAC of a body, beside what `openssl speed` gives for SHA-256 over the same size.
fn macs(span: Duration) {
    let secret = Secret::new(vec![b'k'; 64]);
    for size in [1024, 8 * 1024, 1024 * 1024] {
        let body = vec![0x5a; size];
        let mac = Measured::of(span, (BATCH * 1024 / size).max(1), || {
            assert!(!black_box(
                secret.verifies_sha256(&[black_box(body.as_slice())], &[[0; 32]])
            ));
        });
        let aim = match openssl(size) {
            Some(theirs) => format!(
                "openssl's SHA-256 alone: {theirs:?}, ratio {:.2}; aim: at most 1.15",
                mac.median.as_secs_f64() / theirs.as_secs_f64()
            ),
            None => {
                "aim: at most 1.15 × openssl's SHA-256 (there is no `openssl` here to ask)".into()
            }
        };
        mac.print(&format!("MAC: {} KiB", size / 1024), &aim);
    }
}

/// Time for one operation.
struct Measured {
    median: Duration,
    p99: Duration,
}

impl Measured {
    fn of(span: Duration, batch: usize, mut operation: impl FnMut()) -> Self {
        let batch_count = u32::try_from(batch).expect("a small batch");
        let mut run = || {
            let begun = Instant::now();
            for _ in 0..batch {
                operation();
            }
            begun.elapsed() / batch_count
        };
        let begun = Instant::now();
        while begun.elapsed() < span / 5 {
            run();
        }
        let begun = Instant::now();
        let mut times = vec![run()];
        while begun.elapsed() < span {
            times.push(run());
        }
        times.sort_unstable();
        Self {
            median: times[times.len() / 2],
            p99: times[(times.len() - 1) * 99 / 100],
        }
    }

    fn print(&self, what: &str, aim: &str) {
        println!(
            "{what:<46} median {:>10}  p99 {:>10}  {aim}",
            format!("{:?}", self.median),
            format!("{:?}", self.p99)
        );
    }
}

/// What `openssl speed` takes for SHA-256 over so many bytes; `None` where it is not installed.
fn openssl(size: usize) -> Option<Duration> {
    let bytes = size.to_string();
    let output = Command::new("openssl")
        .args([
            "speed", "-mr", "-seconds", "1", "-bytes", &bytes, "-evp", "sha256",
        ])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    // Machine-readable: `+F:…:sha256:<bytes a second>`.
    let rate: f64 = text
        .lines()
        .find(|l| l.starts_with("+F:"))?
        .rsplit(':')
        .next()?
        .parse()
        .ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a size is far below 2^52")]
    let seconds = size as f64 / rate;
    Some(Duration::from_secs_f64(seconds))
}

/// A policy with so many routes, each spending from two budgets, and so many keys, each with one scope that covers
/// all routes.
fn snapshot(routes: usize, keys: usize) -> Snapshot {
    let mut text = String::from(
        r#"version = 1
[posture]
environment = "local"
[upstreams.backend]
address = "127.0.0.1:9"
[[rate_limits]]
id = "per-key"
by = "key"
rate = "4000000000/s"
[[rate_limits]]
id = "per-route"
by = "route"
rate = "4000000000/s"
[[scopes]]
id = "all"
allow = ["GET /api/*"]
"#,
    );
    text.push_str("[secrets]\n");
    for n in 0..keys {
        let digest = sha256(key(n).as_bytes());
        writeln!(text, "k{n} = [{{ digest = \"sha256:{digest}\" }}]").unwrap();
    }
    for n in 0..keys {
        writeln!(
            text,
            "[[keys]]\nid = \"k{n}\"\nsecret = \"k{n}\"\nscopes = [\"all\"]"
        )
        .unwrap();
    }
    for n in 0..routes {
        writeln!(
            text,
            "[[routes]]\nid = \"r{n}\"\npath = \"/api/{n}/*\"\nmethods = [\"GET\"]"
        )
        .unwrap();
        writeln!(text, "auth = {{ kind = \"api_key\" }}\nrate_limits = [\"per-key\", \"per-route\"]\nupstream = \"backend\"").unwrap();
    }
    let loaded = load::load(&text, "bench.toml", Origin::BuiltIn, &|_| None)
        .unwrap_or_else(|problems| panic_with(&problems.to_string()));
    rehearsal::ready(loaded, None)
        .unwrap_or_else(|problems| panic_with(&problems.to_string()))
        .snapshot
}

#[expect(clippy::panic, reason = "a benchmark may fail loudly")]
fn panic_with(problems: &str) -> ! {
    panic!("the policy of the benchmark does not load:\n{problems}")
}

fn key(n: usize) -> String {
    format!("key-{n:05}-0123456789abcdefghijklmnopqrstuvwxyz")
}

fn head(route: usize, key: &str) -> RequestHeader {
    let path = format!("/api/{route}/runs?after=10");
    let mut head = RequestHeader::build("GET", path.as_bytes(), Some(6)).unwrap();
    for (name, value) in [
        ("host", "orket.example"),
        ("user-agent", "bench/1.0"),
        ("accept", "application/json"),
        ("x-api-key", key),
    ] {
        head.insert_header(name, value).unwrap();
    }
    head
}

fn arrival() -> Arrival {
    Arrival {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        loopback: true,
        framing: Framing::None,
    }
}
