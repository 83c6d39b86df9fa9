//! What the gateway costs at the edge, beside a bare pingora proxy of the same profile and layout, and beside
//! `HAProxy` where it is installed, in interleaved rounds of one run. Prints figures; never fails for being slow.
//!
//! `cargo bench -p orket-tests --bench edge [-- SECONDS] [WORD]` after a release build of `orket-gateway` and its
//! example `bare`; `make bench` does both. With a word, only the loads that have it in their name. CPU per request is the CPU time of the proxy's process divided by
//! requests. Quote the ratios: absolute figures move with the machine.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail loudly"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "fedcba9876543210fedcba9876543210";
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 3;

/// A proxy under measurement; ended when dropped.
struct Proxy {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// CPU time spent so far, user and system (proc(5), `stat` fields 14 and 15).
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Answers every request with a tiny JSON document, on threads of this process.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || serve(socket.unwrap()));
        }
    });
    address
}

fn serve(mut socket: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"api\":\"v1\"}   ";
    socket.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            match socket.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .map_or(0, |v| v.trim().parse().unwrap());
        let mut have = bytes.len() - (end + 4);
        while have < length {
            match socket.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => have += n,
            }
        }
        bytes.clear();
        if socket.write_all(ANSWER).is_err() {
            return;
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --release -p orket-gateway --bins --examples",
        path.display()
    );
    path
}

/// Where access records go: written like any other, unless `ORKET_BENCH_ACCESS` says otherwise (`off`), which shows
/// what they cost.
fn access_log() -> String {
    std::env::var("ORKET_BENCH_ACCESS").unwrap_or_else(|_| "/dev/null".to_owned())
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{address} does not answer");
        std::thread::yield_now();
    }
}

fn gateway(dir: &Path, upstream: SocketAddr, threads: usize) -> Proxy {
    let address = free_port();
    let admin = free_port();
    std::fs::write(dir.join("key"), KEY).unwrap();
    std::fs::write(dir.join("secret"), SECRET).unwrap();
    let policy = format!(
        r#"version = 1
[listen]
http = "{address}"
admin = "{admin}"
threads = {threads}
[limits]
failures_per_address = "1000000000/s"
[upstreams.backend]
address = "{upstream}"
[secrets]
key = [{{ file = "{dir}/key" }}]
gitea = [{{ file = "{dir}/secret" }}]
[[keys]]
id = "bench"
secret = "key"
scopes = ["*"]
[[rate_limits]]
id = "per-key"
by = "key"
rate = "1000000000/s"
[[rate_limits]]
id = "per-source"
by = "source"
rate = "1000000000/s"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET"]
auth = {{ kind = "api_key" }}
rate_limits = ["per-key"]
upstream = "backend"
[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
rate_limits = ["per-source"]
body_limit = "2MiB"
upstream = "backend"
"#,
        dir = dir.display()
    );
    let file = dir.join("gateway.toml");
    std::fs::write(&file, policy).unwrap();
    let child = Command::new(program("orket-gateway"))
        .args(["serve", "--config"])
        .arg(&file)
        .env("ORKET_LOG", "error")
        .env("ORKET_LOG_ACCESS", access_log())
        .env("ORKET_LOG_AUDIT", "/dev/null")
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    wait_for(address);
    Proxy {
        name: "orket-gateway",
        child,
        address,
    }
}

fn bare(upstream: SocketAddr, threads: usize) -> Proxy {
    let address = free_port();
    let child = Command::new(program("examples/bare"))
        .args([
            address.to_string(),
            upstream.to_string(),
            KEY.to_owned(),
            threads.to_string(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(address);
    Proxy {
        name: "bare pingora",
        child,
        address,
    }
}

/// `HAProxy` with the same key, signature and limits, where it is installed.
fn haproxy(dir: &Path, upstream: SocketAddr, threads: usize) -> Option<Proxy> {
    let address = free_port();
    let secret = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let settings = format!(
        "global
  nbthread {threads}
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend edge
  bind {address}
  option http-buffer-request
  stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
  acl hook path /webhook/gitea
  http-request track-sc0 req.hdr(x-api-key) if !hook
  http-request track-sc0 path if hook
  http-request return status 403 content-type text/plain string no if !hook !{{ req.hdr(x-api-key) -m str {KEY} }}
  http-request set-var(txn.mac) req.hdr(x-gitea-signature) if hook
  http-request return status 401 content-type text/plain string no if hook !{{ req.body,hmac(sha256,{secret}),hex,lower,strcmp(txn.mac) eq 0 }}
  http-request return status 429 content-type text/plain string no if {{ sc_http_req_rate(0) gt 1000000000 }}
  http-request del-header x-api-key
  http-request set-header x-forwarded-for %[src]
  default_backend inside
backend inside
  server upstream {upstream}
"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, settings).unwrap();
    let child = Command::new("haproxy")
        .args(["-db", "-q", "-f"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    wait_for(address);
    Some(Proxy {
        name: "HAProxy",
        child,
        address,
    })
}

/// What one client sends, again and again.
#[derive(Clone, Copy)]
enum Load {
    Allowed,
    Refused,
    Webhook(usize),
}

impl Load {
    const fn status(self) -> &'static [u8] {
        match self {
            Self::Refused => b"HTTP/1.1 403",
            Self::Allowed | Self::Webhook(_) => b"HTTP/1.1 200",
        }
    }

    /// Whether the proxy can judge it: `HAProxy` signs only what fits into its buffer.
    fn is_for(self, proxy: &Proxy) -> bool {
        !matches!(self, Self::Webhook(size) if proxy.name == "HAProxy" && size > 8 * 1024)
    }

    /// The bytes of one request. Webhook bodies differ, so that replay memory is not what is measured.
    fn request(self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Allowed => out.extend_from_slice(
                format!("GET /v1/version HTTP/1.1\r\nhost: bench\r\nx-api-key: {KEY}\r\naccept: */*\r\nuser-agent: bench\r\n\r\n").as_bytes(),
            ),
            Self::Refused => out.extend_from_slice(
                b"GET /v1/version HTTP/1.1\r\nhost: bench\r\nx-api-key: wrong\r\naccept: */*\r\nuser-agent: bench\r\n\r\n",
            ),
            Self::Webhook(size) => {
                let mut body = vec![b'x'; size];
                body[..20].copy_from_slice(format!("{number:020}").as_bytes());
                let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
                mac.update(&body);
                let signature = hex::encode(mac.finalize().into_bytes());
                out.extend_from_slice(
                    format!("POST /webhook/gitea HTTP/1.1\r\nhost: bench\r\nx-gitea-signature: {signature}\r\nx-gitea-event: push\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n").as_bytes(),
                );
                out.extend_from_slice(&body);
            }
        }
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn client(proxy: SocketAddr, load: Load, expected: &'static [u8], stop: &AtomicBool) -> Vec<u32> {
    let mut socket = TcpStream::connect(proxy).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut request = Vec::new();
    let mut answer = vec![0; 8192];
    let mut micros = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        load.request(NUMBER.fetch_add(1, Ordering::Relaxed), &mut request);
        let begun = Instant::now();
        socket.write_all(&request).unwrap();
        let mut have = 0;
        loop {
            let n = socket.read(&mut answer[have..]).unwrap();
            assert!(
                n > 0,
                "the proxy closed the connection: {}",
                String::from_utf8_lossy(&answer[..have])
            );
            have += n;
            if complete(&answer[..have]) {
                break;
            }
        }
        assert!(
            answer.starts_with(expected),
            "{}",
            String::from_utf8_lossy(&answer[..have])
        );
        micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    micros
}

fn complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length:"))
        .map_or(0, |v| v.trim().parse().unwrap());
    answer.len() >= end + 4 + length
}

/// One round: CPU per request in microseconds, requests a second, p50 and p99 in microseconds.
fn round(proxy: &Proxy, load: Load, length: Duration) -> [f64; 4] {
    let stop = Arc::new(AtomicBool::new(false));
    let before = proxy.cpu();
    let begun = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (stop, address, expected) = (stop.clone(), proxy.address, load.status());
            std::thread::spawn(move || client(address, load, expected, &stop))
        })
        .collect();
    std::thread::sleep(length);
    stop.store(true, Ordering::Relaxed);
    let mut micros: Vec<u32> = clients
        .into_iter()
        .flat_map(|c| c.join().expect("a client failed"))
        .collect();
    let (cpu, wall) = (proxy.cpu().saturating_sub(before), begun.elapsed());
    micros.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let count = micros.len() as f64;
    let at = |share: usize| {
        micros
            .get(micros.len() * share / 100)
            .copied()
            .map_or(f64::NAN, f64::from)
    };
    [
        cpu.as_secs_f64() * 1e6 / count,
        count / wall.as_secs_f64(),
        at(50),
        at(99),
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let seconds: f64 = std::env::args()
        .skip(1)
        .find_map(|a| a.parse().ok())
        .unwrap_or(3.0);
    let word = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with('-') && a.parse::<f64>().is_err())
        .unwrap_or_default();
    let length = Duration::from_secs_f64(seconds);
    let dir = tempfile::tempdir().unwrap();
    println!(
        "machine: {} cores; {CONNECTIONS} connections over loopback; client and upstream share the cores; {ROUNDS} rounds of {seconds} s each, interleaved; medians",
        std::thread::available_parallelism().unwrap()
    );
    println!(
        "{:<10} {:<24} {:<14} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "threads", "load", "proxy", "CPU us/rq", "rq/s", "p50 us", "p99 us", "RSS KiB", "ratio"
    );
    println!("ratio: CPU per request of the gateway by that of this proxy, pair by pair");
    for threads in [1, 2] {
        let upstream = upstream();
        let mut proxies = vec![
            gateway(dir.path(), upstream, threads),
            bare(upstream, threads),
        ];
        match haproxy(dir.path(), upstream, threads) {
            Some(proxy) => proxies.push(proxy),
            None => println!("HAProxy is not installed: measured without it"),
        }
        for (name, load) in [
            ("allowed GET", Load::Allowed),
            ("refused 403", Load::Refused),
            ("webhook 1 KiB", Load::Webhook(1024)),
            ("webhook 8 KiB", Load::Webhook(8 * 1024)),
            ("webhook 1 MiB", Load::Webhook(1024 * 1024)),
        ] {
            if !name.contains(&word) {
                continue;
            }
            let proxies: Vec<&Proxy> = proxies.iter().filter(|p| load.is_for(p)).collect();
            let mut seen = vec![Vec::new(); proxies.len()];
            for _ in 0..ROUNDS {
                for (proxy, seen) in proxies.iter().zip(&mut seen) {
                    seen.push(round(proxy, load, length));
                }
            }
            for (proxy, rounds) in proxies.iter().zip(&seen) {
                let column = |i: usize| median(rounds.iter().map(|s: &[f64; 4]| s[i]).collect());
                let pairs = seen[0].iter().zip(rounds);
                println!(
                    "{threads:<10} {name:<24} {:<14} {:>9.1} {:>9.0} {:>9.0} {:>9.0} {:>9} {:>9.2}",
                    proxy.name,
                    column(0),
                    column(1),
                    column(2),
                    column(3),
                    proxy.resident_kib(),
                    median(
                        pairs
                            .map(|(gateway, other)| gateway[0] / other[0])
                            .collect()
                    )
                );
            }
        }
    }
    let mac = {
        let body = vec![b'x'; 1024 * 1024];
        let begun = Instant::now();
        for _ in 0..50 {
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(&body);
            std::hint::black_box(mac.finalize());
        }
        begun.elapsed().as_secs_f64() / 50.0
    };
    println!(
        "HMAC-SHA256 of 1 MiB on one core: {:.0} us; the gateway hashes a body twice: for its MAC, and for its idempotency key",
        mac * 1e6
    );
}
